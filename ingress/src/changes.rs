//! What a caller who listens is told: changes of visible lists, and of resources.

use std::sync::Arc;

use crate::core::{Caller, Change, Route, Wanted};
use crate::gateway::Gateway;

/// The changes that concern one caller. Dropping it ends every listening on its behalf.
#[derive(Debug)]
pub struct Changes {
    resources: Vec<String>,
}

impl Changes {
    pub(crate) fn new(_gateway: &Arc<Gateway>, _caller: &Caller, _route: &Route, wanted: Wanted) -> Self {
        Self { resources: wanted.resources }
    }

    /// The URIs that are listened to: those of [`Wanted::resources`] that exist and that the caller may read.
    pub fn resources(&self) -> &[String] {
        &self.resources
    }

    /// Listens to these resources from now on, and no others.
    pub fn set_resources(&mut self, resources: Vec<String>) {
        self.resources = resources;
    }

    /// The next change; `None` when we drain. Cancelling the future loses nothing.
    pub async fn next(&mut self) -> Option<Change> {
        std::future::pending().await
    }
}
