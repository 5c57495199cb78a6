//! The errors of tasks that ended after their callers had given up.
//!
//! Work that takes hours would otherwise fail and begin again forever, and no caller would ever see why.

use std::collections::HashMap;
use std::mem::replace;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
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
    /// What the caller had requested.
    request: String,
    error: Error,
    at: Instant,
}

impl Failures {
    /// Keeps the error of a task of that kind for the next caller.
    fn keep(&mut self, volume: &str, what: &'static str, request: &str, error: Error) {
        self.by_volume.retain(|_, failure| failure.at.elapsed() < KEPT);
        let failure = Failure { what, request: request.to_owned(), error, at: Instant::now() };
        self.by_volume.insert(volume.to_owned(), failure);
    }

    /// Forgets the error of the last task.
    pub(super) fn forget(&mut self, volume: &str) {
        self.by_volume.remove(volume);
    }

    /// The error that an earlier task of that kind left for the same request, once. The error of another kind is forgotten,
    /// because a task of that kind would find another state now; and so is that of another request, such as a size that
    /// has been lowered since.
    pub(super) fn take(&mut self, volume: &str, what: &str, request: &str) -> Option<Error> {
        let failure = self.by_volume.remove(volume)?;
        let is_same = failure.what == what && failure.request == request;
        (is_same && failure.at.elapsed() < KEPT).then_some(failure.error)
    }
}

/// Sees to it that the error of a task gets lost in no case: either its caller gets it, or it is logged, and kept if a
/// later caller is to get it. The task and its caller each have a clone.
#[derive(Clone)]
pub(super) struct Outcome {
    state: Arc<Mutex<State>>,
    volume: String,
    what: &'static str,
    /// Where it is kept, and for which request.
    kept: Option<(Arc<Mutex<Failures>>, String)>,
}

enum State {
    /// The caller waits, and the task has not failed.
    Waiting,
    /// The task failed while the caller waited.
    Failed(Error),
    /// The caller does not wait any more.
    Left,
}

impl Outcome {
    pub(super) fn new(volume: &str, what: &'static str, kept: Option<(Arc<Mutex<Failures>>, String)>) -> Self {
        Self { state: Arc::new(Mutex::new(State::Waiting)), volume: volume.to_owned(), what, kept }
    }

    /// The task has failed, and ends now.
    pub(super) fn failed(&self, error: &Error) {
        let mut state = self.state.lock();
        match *state {
            State::Left => self.keep(error),
            State::Waiting | State::Failed(_) => *state = State::Failed(error.clone()),
        }
    }

    /// The caller waits until the result is dropped.
    pub(super) fn wait(&self) -> Waiting {
        Waiting { outcome: self.clone() }
    }

    fn keep(&self, error: &Error) {
        tracing::warn!(what = self.what, volume = self.volume, %error, "failed after its caller had given up");
        if let Some((failures, request)) = &self.kept {
            failures.lock().keep(&self.volume, self.what, request, error.clone());
        }
    }
}

/// A caller that waits for a task.
pub(super) struct Waiting {
    outcome: Outcome,
}

impl Waiting {
    /// The caller has got the result.
    pub(super) fn answered(self) {
        *self.outcome.state.lock() = State::Left;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.outcome.state.lock();
        if let State::Failed(error) = replace(&mut *state, State::Left) {
            self.outcome.keep(&error);
        }
    }
}
