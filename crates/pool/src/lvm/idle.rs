//! Which volumes may be deactivated: those that nothing has asked to activate since they were unstaged.
//!
//! A volume that is unstaged is deactivated later, when the volume group's turn comes. By then it may be staged again, and
//! that stage may already have its device. So every activation is noted, and the two exclude each other.

use std::collections::HashMap;
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};

/// Activations by the volume's UUID, and the deactivation that is under way.
#[derive(Default)]
pub(super) struct Idle {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// When the volume was last to be activated.
    activated: HashMap<String, Instant>,
    /// The volume that is being deactivated now: one at a time, within the volume group's turn.
    going: Option<String>,
}

/// A deactivation that is under way, as long as this lives.
#[must_use]
pub(super) struct Going<'a> {
    idle: &'a Idle,
}

impl Idle {
    /// Notes that the volume is to be active from now on. Returns whether it is being deactivated just now: then its device
    /// is about to go, and only what is done in the volume group's next turn counts.
    pub(super) fn wanted(&self, uuid: &str) -> bool {
        let mut state = self.lock();
        state.activated.insert(uuid.to_owned(), Instant::now());
        state.going.as_deref() == Some(uuid)
    }

    /// Begins to deactivate the volume, unless it was to be activated after `since`.
    pub(super) fn begin(&self, uuid: &str, since: Instant) -> Option<Going<'_>> {
        let mut state = self.lock();
        if state.activated.get(uuid).is_some_and(|activated| *activated > since) {
            return None;
        }
        state.activated.remove(uuid);
        state.going = Some(uuid.to_owned());
        Some(Going { idle: self })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl Drop for Going<'_> {
    fn drop(&mut self) {
        self.idle.lock().going = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_activated_since_stays_active() {
        let idle = Idle::default();
        let unstaged = Instant::now();
        assert!(!idle.wanted("a"));
        assert!(idle.begin("a", unstaged).is_none());
        assert!(idle.begin("b", unstaged).is_some(), "another volume");
        assert!(idle.begin("a", Instant::now()).is_some(), "unstaged after it was activated");
    }

    #[test]
    fn an_activation_learns_that_the_device_is_going() {
        let idle = Idle::default();
        let going = idle.begin("a", Instant::now()).unwrap();
        assert!(!idle.wanted("b"));
        assert!(idle.wanted("a"));
        drop(going);
        assert!(!idle.wanted("a"));
    }
}
