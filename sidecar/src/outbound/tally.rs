//! What went out for one call, kept for the call's own records.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outrigger_telemetry::{EgressOfCall, RefusedEgress};

/// Refusals that are told in full; of further ones only the number.
const TOLD: usize = 8;

/// The count of one call.
#[derive(Debug, Default)]
pub(super) struct Tally(Mutex<EgressOfCall>);

impl Tally {
    /// Something went out.
    pub(super) fn allowed(&self, shared: bool) {
        let mut told = self.lock();
        told.allowed = told.allowed.saturating_add(1);
        told.shared |= shared;
    }

    /// Something did not.
    pub(super) fn refused(&self, refused: RefusedEgress, shared: bool) {
        let mut told = self.lock();
        told.denied = told.denied.saturating_add(1);
        told.shared |= shared;
        if told.refused.len() < TOLD {
            told.refused.push(refused);
        }
    }

    /// What to say of it; nothing where nothing was dialled.
    pub(super) fn told(&self) -> Option<Box<EgressOfCall>> {
        let told = self.lock();
        (told.allowed > 0 || told.denied > 0).then(|| Box::new(told.clone()))
    }

    /// Every use is a few additions, so a panic elsewhere leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, EgressOfCall> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Those of the calls behind one connection.
pub(super) type Tallies = Vec<Arc<Tally>>;
