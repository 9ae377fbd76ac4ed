//! The starters that `outrigger new` copies out, embedded in the binary.
