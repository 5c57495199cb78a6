//! Decides which volumes may be deactivated: those that were not activated again after they were unstaged.
//!
//! An unstaged volume is deactivated later, under the pool lock. By then, it may be staged again, and that
//! stage may already have its device. So every activation is recorded, and activation and deactivation
//! exclude each other.

use std::collections::HashMap;
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};
use quarry_lvm::LvUuid;

/// The activations, and the running deactivation.
#[derive(Default)]
pub(super) struct Idle {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// When the volume was last activated.
    activated: HashMap<LvUuid, Instant>,
    /// The volume that is being deactivated: one at a time, under the pool lock.
    deactivating: Option<LvUuid>,
}

/// A running deactivation, until it is dropped.
#[must_use]
pub(super) struct Deactivation<'a> {
    idle: &'a Idle,
}

impl Idle {
    /// Records that the volume must be active from now on. Returns whether it is being deactivated now: then
    /// its device is about to disappear, and it must be activated again under the pool lock.
    pub(super) fn mark_activated(&self, volume: LvUuid) -> bool {
        let mut state = self.lock();
        state.activated.insert(volume, Instant::now());
        state.deactivating == Some(volume)
    }

    /// Forgets a volume that was removed.
    pub(super) fn forget(&self, volume: LvUuid) {
        self.lock().activated.remove(&volume);
    }

    /// Starts deactivating the volume, unless it was activated after `since`.
    pub(super) fn begin(&self, volume: LvUuid, since: Instant) -> Option<Deactivation<'_>> {
        let mut state = self.lock();
        if state.activated.get(&volume).is_some_and(|activated| *activated > since) {
            return None;
        }
        state.activated.remove(&volume);
        state.deactivating = Some(volume);
        Some(Deactivation { idle: self })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl Drop for Deactivation<'_> {
    fn drop(&mut self) {
        self.idle.lock().deactivating = None;
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::uuid;
    use super::*;

    #[test]
    fn a_volume_that_was_activated_since_stays_active() {
        let idle = Idle::default();
        let unstaged = Instant::now();
        assert!(!idle.mark_activated(uuid("a")));
        assert!(idle.begin(uuid("a"), unstaged).is_none());
        assert!(idle.begin(uuid("b"), unstaged).is_some(), "another volume");
        assert!(idle.begin(uuid("a"), Instant::now()).is_some(), "unstaged after it was activated");
    }

    #[test]
    fn a_removed_volume_is_forgotten() {
        let idle = Idle::default();
        idle.mark_activated(uuid("a"));
        idle.mark_activated(uuid("b"));
        idle.forget(uuid("a"));
        assert_eq!(idle.lock().activated.keys().copied().collect::<Vec<_>>(), [uuid("b")]);
    }

    #[test]
    fn an_activation_detects_a_running_deactivation() {
        let idle = Idle::default();
        let deactivating = idle.begin(uuid("a"), Instant::now()).unwrap();
        assert!(!idle.mark_activated(uuid("b")));
        assert!(idle.mark_activated(uuid("a")));
        drop(deactivating);
        assert!(!idle.mark_activated(uuid("a")));
    }
}
