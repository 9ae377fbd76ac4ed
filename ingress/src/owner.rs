//! route, within a service: what one replica holds is asked for at that replica, whichever ingress is asked.
//!
//! A call that waits for its client lives in the sidecar that parked it; its `requestState` names that replica. Only
//! replicas that are configured, and that have said their id themselves, are ever gone to.

use std::sync::Arc;

use outrigger_mcp::bridge::owner;
use outrigger_mcp::envelope::{Message, Param};
use outrigger_proxy::failure::Failure;

use crate::services::{Replica, Service};

/// The replica that a retry must go to; `None` when any will do.
///
/// # Errors
/// As [`holder`].
pub(crate) fn of_retry(service: &Service, message: &Message) -> Result<Option<Arc<Replica>>, Failure> {
    if !message.method.may_ask() {
        return Ok(None);
    }
    match message.text(Param::RequestState) {
        Some(state) => holder(service, &state),
        None => Ok(None),
    }
}

/// The replica that a task is at; `None` when its name does not say, which its sidecar then refuses.
///
/// # Errors
/// As [`holder`].
pub(crate) fn of_task(service: &Service, handle: &str) -> Result<Option<Arc<Replica>>, Failure> {
    match owner::split(handle) {
        Some((replica, _)) => found(service, replica),
        None => Ok(None),
    }
}

/// The replica that holds what a handle stands for. `None` when the handle is not one of a sidecar: a modern server's
/// handles are its own business, whatever they look like, and it is nobody's fault that an older server has none.
///
/// # Errors
/// [`Failure::Interaction`] when that replica is gone; [`Failure::Unavailable`] while it may be one that has not told its
/// id yet. Neither sends anything.
pub(crate) fn holder(service: &Service, handle: &str) -> Result<Option<Arc<Replica>>, Failure> {
    if !service.stateful() {
        return Ok(None);
    }
    match owner::split(handle) {
        Some((replica, _)) => found(service, replica),
        None => Ok(None),
    }
}

fn found(service: &Service, replica: &str) -> Result<Option<Arc<Replica>>, Failure> {
    match service.replica(replica) {
        Some(found) => Ok(Some(found)),
        None if service.replicas().iter().all(|replica| replica.health().document.is_some()) => Err(gone()),
        None => Err(Failure::Unavailable {
            service: service.name.to_string(),
            reason: "the replica that may hold this interaction has not answered yet".into(),
        }),
    }
}

/// The answer when the replica is no more, or cannot be reached: what it held is not begun anew elsewhere.
pub(crate) fn gone() -> Failure {
    Failure::Interaction("the replica that holds this interaction is gone; it was not run again: call anew")
}
