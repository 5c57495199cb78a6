//! Runs operations on volumes as tasks that outlive their callers, one at a time per volume.
//!
//! A gRPC handler is dropped as soon as its caller gives up. That must not abandon an `lvcreate` or `mkfs`
//! halfway, and the caller's retry must not start a second one. So every mutating call runs as a spawned task
//! keyed by the volume, and the caller only waits for it. A retry finds the task in progress (`UnderWay`), or
//! its result on the storage, or, if the work is long, the error of a task that failed meanwhile.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use quarry_volume::{Error, Reason, Result};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use self::failures::{Failures, Outcome};

mod failures;
#[cfg(test)]
mod tests;

/// The tasks of one node.
#[derive(Clone, Default)]
pub struct Tasks {
    inner: Arc<Mutex<HashMap<String, Entry>>>,
    /// Whether the process is ending: a task that begins nevertheless stops at its first safe point.
    ending: Arc<AtomicBool>,
    /// Lock this one after `inner`.
    failures: Arc<Mutex<Failures>>,
}

/// A running task.
struct Entry {
    /// The operation, for messages and metrics: `create`, `stage`.
    what: &'static str,
    kind: Kind,
    since: Instant,
    /// Its progress, for messages; can be empty.
    progress: watch::Receiver<String>,
    /// Asks the task to stop at its next safe point.
    cancel: CancellationToken,
    /// Closed when the task has ended.
    ended: watch::Receiver<()>,
}

/// Who wants a task's result.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Its caller.
    Call,
    /// Its caller, or a later one: see [`Tasks::run_long`].
    LongCall,
    /// No caller: see [`Tasks::run_in_background`].
    Background,
}

/// A running task's means to report progress and to notice cancellation.
#[derive(Clone)]
pub struct Handle {
    progress: Arc<watch::Sender<String>>,
    /// Cancelled when the task should stop at its next safe point.
    pub cancel: CancellationToken,
}

impl Handle {
    /// Sets the progress of the task; it is part of the error that asks a caller to retry.
    pub fn progress(&self, text: String) {
        self.progress.send_replace(text);
    }
}

/// A task as an operator sees it.
#[derive(Clone, Debug)]
pub struct TaskStatus {
    /// The volume.
    pub volume: String,
    /// The operation.
    pub what: &'static str,
    /// How long it has been running.
    pub age: Duration,
    /// Its progress; can be empty.
    pub progress: String,
}

/// Removes a task's entry when the task ends, even by a panic.
struct Registered {
    tasks: Tasks,
    volume: String,
    _ended: watch::Sender<()>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.tasks.lock().remove(&self.volume);
    }
}

impl Tasks {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.inner.lock()
    }

    /// Runs `work` on `volume` as its own task and waits for it, at most `wait`. If a task in the background is in
    /// progress on the volume, it waits for the end of that first, as part of the same `wait`.
    ///
    /// # Errors
    /// `UnderWay` if another operation on the volume is in progress, or if the wait timed out and the task
    /// reports progress; `TimedOut` if the wait timed out without progress. After a timeout the work
    /// continues. Otherwise the error of `work`.
    pub async fn run<T, F>(
        &self,
        volume: &str,
        what: &'static str,
        wait: Duration,
        work: impl FnOnce(Handle) -> F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        self.start(volume, what, Kind::Call, "", wait, work).await
    }

    /// Like [`Tasks::run`], for work that can take hours. If it fails when its caller has given up, the next caller of
    /// the same kind gets that error, once, and nothing is run: otherwise the work would begin again, and could fail
    /// again, and no caller would see why. A caller with another `request` does not: what it asks for may be possible.
    ///
    /// # Errors
    /// As [`Tasks::run`]; or the error of an earlier task.
    pub async fn run_long<T, F>(
        &self,
        volume: &str,
        what: &'static str,
        request: &str,
        wait: Duration,
        work: impl FnOnce(Handle) -> F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        self.start(volume, what, Kind::LongCall, request, wait, work).await
    }

    /// Like [`Tasks::run`], for work that Quarry does by itself, such as cleaning up. Callers know nothing of it, and wait
    /// for its end instead of getting an error. It never waits for other tasks, so that no two wait for each other.
    ///
    /// # Errors
    /// As [`Tasks::run`].
    pub(crate) async fn run_in_background<T, F>(
        &self,
        volume: &str,
        what: &'static str,
        wait: Duration,
        work: impl FnOnce(Handle) -> F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        self.start(volume, what, Kind::Background, "", wait, work).await
    }

    /// Forgets the error that [`Tasks::run_long`] keeps for the next caller: what it was about does not exist any more.
    pub(crate) fn forget_failure(&self, volume: &str) {
        self.failures.lock().forget(volume);
    }

    async fn start<T, F>(
        &self,
        volume: &str,
        what: &'static str,
        kind: Kind,
        request: &str,
        wait: Duration,
        work: impl FnOnce(Handle) -> F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let deadline = Instant::now() + wait;
        let left = || deadline.saturating_duration_since(Instant::now());
        if kind != Kind::Background {
            let background = |entry: &Entry| entry.kind == Kind::Background;
            while let Some(ended) = self.ending(volume, background).filter(|_| !left().is_zero()) {
                wait_for_end(ended, left()).await;
            }
        }
        let (progress_sender, progress) = watch::channel(String::new());
        let (ended_sender, ended) = watch::channel(());
        let cancel = CancellationToken::new();
        let mut key = volume.to_owned();
        {
            let mut tasks = self.lock();
            if quarry_fault::disabled("name-lock") {
                // Use a unique key, as if there were no lock.
                key = format!("{volume}#{}", tasks.len());
                while tasks.contains_key(&key) {
                    key.push('#');
                }
            }
            if let Some(entry) = tasks.get(&key) {
                return Err(in_progress(volume, entry));
            }
            // Work in the background changes nothing that the next caller would want to know.
            let earlier =
                (kind != Kind::Background).then(|| self.failures.lock().take(volume, what, request)).flatten();
            if let Some(error) = earlier {
                return Err(error.context("an earlier call failed, and a retry tries again"));
            }
            let entry =
                Entry { what, kind, since: Instant::now(), progress: progress.clone(), cancel: cancel.clone(), ended };
            tasks.insert(key.clone(), entry);
            if self.ending.load(Ordering::Relaxed) {
                cancel.cancel();
            }
        }
        let registered = Registered { tasks: self.clone(), volume: key, _ended: ended_sender };
        let future = work(Handle { progress: Arc::new(progress_sender), cancel });
        let span = tracing::debug_span!("task", what, volume);
        let kept = (kind == Kind::LongCall).then(|| (Arc::clone(&self.failures), request.to_owned()));
        let outcome = Outcome::new(volume, what, kept);
        let waiting = outcome.wait();
        let task = tokio::spawn(
            async move {
                // Held until the work has ended, even if the caller is gone.
                let _registered = registered;
                let result = future.await;
                if let Err(error) = &result
                    && error.reason != Reason::UnderWay
                {
                    outcome.failed(error);
                }
                result
            }
            .instrument(span),
        );
        match tokio::time::timeout(left(), task).await {
            Ok(Ok(result)) => {
                waiting.answered();
                result
            }
            // It is not known how far the task came, so this error must not be final.
            Ok(Err(join)) => Err(Error::unavailable(format!(
                "{what} of {} ended unexpectedly ({join}); this is a bug in Quarry: please report it. \
                 A retry is safe: every operation starts by reading the current state",
                named(volume)
            ))),
            Err(_elapsed) => {
                let text = progress.borrow().clone();
                Err(if text.is_empty() {
                    Error::new(
                        Reason::TimedOut,
                        format!(
                            "{what} of {} takes longer than {wait:.1?} and continues; retry to get its result",
                            named(volume)
                        ),
                    )
                } else {
                    Error::new(Reason::UnderWay, format!("{what} of {} continues: {text}; retry", named(volume)))
                })
            }
        }
    }

    /// Like [`Tasks::run`], but first waits for a running task on the volume if it is of one of the kinds
    /// `before`. Both waits together take at most `wait`.
    ///
    /// # Errors
    /// As [`Tasks::run`].
    pub async fn run_after<T, F>(
        &self,
        volume: &str,
        what: &'static str,
        before: &[&str],
        wait: Duration,
        work: impl FnOnce(Handle) -> F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let deadline = Instant::now() + wait;
        let left = || deadline.saturating_duration_since(Instant::now());
        while let Some(ended) = self.ending(volume, |entry| before.contains(&entry.what)).filter(|_| !left().is_zero())
        {
            wait_for_end(ended, left()).await;
        }
        self.run(volume, what, left(), work).await
    }

    /// The end signal of the task on `volume`, if it is one of those that are `wanted`.
    fn ending(&self, volume: &str, wanted: impl Fn(&Entry) -> bool) -> Option<watch::Receiver<()>> {
        self.lock().get(volume).filter(|entry| wanted(entry)).map(|entry| entry.ended.clone())
    }

    /// Fails while a task of one of these kinds is in progress on `volume`.
    ///
    /// # Errors
    /// `UnderWay`, with a description of the task.
    pub(crate) fn require_none(&self, volume: &str, kinds: &[&str]) -> Result<()> {
        match self.lock().get(volume).filter(|entry| kinds.contains(&entry.what)) {
            Some(entry) => Err(in_progress(volume, entry)),
            None => Ok(()),
        }
    }

    /// Whether a task is in progress on `volume`.
    pub(crate) fn is_running(&self, volume: &str) -> bool {
        self.lock().contains_key(volume)
    }

    /// Asks the task on `volume` to stop at its next safe point, if it is of kind `what`, and waits until it
    /// has ended, at most `wait`. A task of another kind continues.
    pub async fn stop(&self, volume: &str, what: &'static str, wait: Duration) {
        let ended = {
            let tasks = self.lock();
            let Some(entry) = tasks.get(volume).filter(|entry| entry.what == what) else { return };
            entry.cancel.cancel();
            entry.ended.clone()
        };
        wait_for_end(ended, wait).await;
    }

    /// Asks every task to stop at its next safe point and waits until all have ended, at most `wait`. Returns
    /// how many are still in progress.
    pub async fn drain(&self, wait: Duration) -> usize {
        let deadline = Instant::now() + wait;
        let ends: Vec<_> = {
            let tasks = self.lock();
            self.ending.store(true, Ordering::Relaxed);
            for entry in tasks.values() {
                entry.cancel.cancel();
            }
            tasks.values().map(|entry| entry.ended.clone()).collect()
        };
        for ended in ends {
            wait_for_end(ended, deadline.saturating_duration_since(Instant::now())).await;
        }
        self.lock().len()
    }

    /// The tasks in progress, the oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<TaskStatus> {
        let mut list: Vec<_> = self
            .lock()
            .iter()
            .map(|(volume, entry)| TaskStatus {
                volume: volume.clone(),
                what: entry.what,
                age: entry.since.elapsed(),
                progress: entry.progress.borrow().clone(),
            })
            .collect();
        list.sort_by_key(|task| std::cmp::Reverse(task.age));
        list
    }
}

async fn wait_for_end(mut ended: watch::Receiver<()>, wait: Duration) {
    // The sender never sends; `changed` fails when it is dropped with the task.
    let _ = tokio::time::timeout(wait, ended.changed()).await;
}

/// What a task works on, in messages. Only what is not a volume says what it is, after a space.
fn named(subject: &str) -> String {
    if subject.contains(' ') { subject.to_owned() } else { format!("volume {subject}") }
}

fn in_progress(volume: &str, entry: &Entry) -> Error {
    let progress = entry.progress.borrow();
    let progress = if progress.is_empty() { String::new() } else { format!(", {}", *progress) };
    Error::new(
        Reason::UnderWay,
        format!(
            "{} of {} has been in progress for {:.1?}{progress}; retry when it is done",
            entry.what,
            named(volume),
            entry.since.elapsed()
        ),
    )
}
