//! How long a node has been absent from every source that would know it.
//!
//! "Gone for good" requires an uninterrupted absence. Every source that sees the node (its Node object or a
//! plugin pod on it, in a list, a watch or a single read) calls `Absences::seen`, which ends the absence. A
//! new list ends all absences, because a node may have appeared and disappeared unseen before it.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The absences that were queried; shared by the watches of pods and nodes. In memory only: a restarted
/// controller starts waiting again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Absences(Arc<Mutex<HashMap<String, Instant>>>);

impl Absences {
    /// The node, or a pod on it, was seen.
    pub(crate) fn seen(&self, node: &str) {
        self.0.lock().remove(node);
    }

    /// Changes may have been missed.
    pub(crate) fn reset(&self) {
        self.0.lock().clear();
    }

    /// Since when the node has been absent: from now on, if nothing is known.
    pub(crate) fn since(&self, node: &str) -> Instant {
        *self.0.lock().entry(node.to_owned()).or_insert_with(Instant::now)
    }

    /// Whether it has been absent without interruption since that instant.
    pub(crate) fn lasts_since(&self, node: &str, since: Instant) -> bool {
        self.0.lock().get(node) == Some(&since)
    }
}
