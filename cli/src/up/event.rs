//! What those who watch over the parts tell the one who keeps the books.

use super::probe::Addresses;

/// Something happened to a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// Which part, by its place on the board; none for the mesh as a whole.
    pub(crate) part: Option<usize>,
    /// What.
    pub(crate) what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    /// It listens here.
    Bound(Addresses),
    /// It works.
    Ready,
    /// It runs and is not ready, for this reason.
    Waiting(String),
    /// Its process ended for this reason, and another one will be started.
    Ended(String),
    /// Its process ended for this reason, which a restart does not cure.
    GaveUp(String),
    /// Something that the operator should know, and that stops nothing.
    Trouble(String),
}
