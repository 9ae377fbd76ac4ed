//! Who may do what, and how often: principals, rules, decisions, limits. Pure: no io, injected clock.
