//! Scenarios of legacy clients against a scripted mesh.
