//! The errors of tasks that ended after their callers had given up.
//!
//! Work that takes hours would otherwise fail and begin again forever, and no caller would ever see why.

use std::collections::HashMap;
use std::time::Duration;

use quarry_volume::Error;
use tokio::time::Instant;

/// How long an error is kept for the next caller. The sidecars repeat their calls at least every five minutes.
const KEPT: Duration = Duration::from_secs(15 * 60);

/// The last error of each volume that no caller has seen.
#[derive(Default)]
pub(super) struct Failures {
    by_volume: HashMap<String, Failure>,
}

struct Failure {
    what: &'static str,
    error: Error,
    at: Instant,
}

impl Failures {
    /// Keeps the error of a task of that kind for the next caller.
    pub(super) fn keep(&mut self, volume: &str, what: &'static str, error: Error) {
        self.by_volume.retain(|_, failure| failure.at.elapsed() < KEPT);
        self.by_volume.insert(volume.to_owned(), Failure { what, error, at: Instant::now() });
    }

    /// Forgets the error of the last task.
    pub(super) fn forget(&mut self, volume: &str) {
        self.by_volume.remove(volume);
    }

    /// The error that an earlier task of that kind left, once. The error of another kind is forgotten, because a task of
    /// that kind would find another state now.
    pub(super) fn take(&mut self, volume: &str, what: &str) -> Option<Error> {
        let failure = self.by_volume.remove(volume)?;
        (failure.what == what && failure.at.elapsed() < KEPT).then_some(failure.error)
    }
}
