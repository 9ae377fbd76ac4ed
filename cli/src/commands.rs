//! The commands that answer at once.

pub(crate) mod audit;
pub(crate) mod ca;
mod ca_token;
pub(crate) mod docs;
pub(crate) mod egress;
pub(crate) mod new;
pub(crate) mod policy;
pub(crate) mod token;
pub(crate) mod validate;
