//! Decides which volumes may be deactivated: those that were not activated again after they were unstaged.
//!
//! An unstaged volume is deactivated later, under the pool lock. By then, it may be staged again, and that
//! stage may already have its device. So every activation is recorded, and activation and deactivation
//! exclude each other.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The activations by the volume's UUID, and the running deactivation.
#[derive(Default)]
pub(super) struct Idle {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// When the volume was last activated.
    activated: HashMap<String, Instant>,
    /// The volume that is being deactivated: one at a time, under the pool lock.
    deactivating: Option<String>,
}

/// A running deactivation, until it is dropped.
#[must_use]
pub(super) struct Deactivation<'a> {
    idle: &'a Idle,
}

impl Idle {
    /// Records that the volume must be active from now on. Returns whether it is being deactivated now: then
    /// its device is about to disappear, and it must be activated again under the pool lock.
    pub(super) fn mark_activated(&self, uuid: &str) -> bool {
        let mut state = self.lock();
        state.activated.insert(uuid.to_owned(), Instant::now());
        state.deactivating.as_deref() == Some(uuid)
    }

    /// Starts deactivating the volume, unless it was activated after `since`.
    pub(super) fn begin(&self, uuid: &str, since: Instant) -> Option<Deactivation<'_>> {
        let mut state = self.lock();
        if state.activated.get(uuid).is_some_and(|activated| *activated > since) {
            return None;
        }
        state.activated.remove(uuid);
        state.deactivating = Some(uuid.to_owned());
        Some(Deactivation { idle: self })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Deactivation<'_> {
    fn drop(&mut self) {
        self.idle.lock().deactivating = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_that_was_activated_since_stays_active() {
        let idle = Idle::default();
        let unstaged = Instant::now();
        assert!(!idle.mark_activated("a"));
        assert!(idle.begin("a", unstaged).is_none());
        assert!(idle.begin("b", unstaged).is_some(), "another volume");
        assert!(idle.begin("a", Instant::now()).is_some(), "unstaged after it was activated");
    }

    #[test]
    fn an_activation_detects_a_running_deactivation() {
        let idle = Idle::default();
        let deactivating = idle.begin("a", Instant::now()).unwrap();
        assert!(!idle.mark_activated("b"));
        assert!(idle.mark_activated("a"));
        drop(deactivating);
        assert!(!idle.mark_activated("a"));
    }
}
