//! Since when a node has been absent from everything that would know it.
//!
//! "Gone for good" must have been true without a break. Whatever sees the node (its Node object or a plugin pod on it,
//! in a list, a watch or a single look) says so here, which ends the absence; a list that had to be made anew ends all of
//! them, because something may have come and gone unseen before it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::time::Instant;

use crate::guard::lock;

/// The absences that somebody asked about; shared by those who watch pods and nodes. Kept in memory only: a controller
/// that restarts begins to wait anew.
#[derive(Clone, Debug, Default)]
pub(crate) struct Absences(Arc<Mutex<HashMap<String, Instant>>>);

impl Absences {
    /// The node, or a pod on it, was seen.
    pub(crate) fn seen(&self, node: &str) {
        lock(&self.0).remove(node);
    }

    /// Changes may have been missed.
    pub(crate) fn begin_anew(&self) {
        lock(&self.0).clear();
    }

    /// Since when the node has been absent: from now on, if nothing is known.
    pub(crate) fn since(&self, node: &str) -> Instant {
        *lock(&self.0).entry(node.to_owned()).or_insert_with(Instant::now)
    }

    /// Whether it has been absent without a break since that instant.
    pub(crate) fn lasts_since(&self, node: &str, since: Instant) -> bool {
        lock(&self.0).get(node) == Some(&since)
    }
}
