//! Runs operations on volumes as tasks that outlive their callers, one at a time per volume.
//!
//! A gRPC handler is dropped as soon as its caller gives up. That must not abandon an `lvcreate` or `mkfs`
//! halfway, and the caller's retry must not start a second one. So every mutating call runs as a spawned task
//! keyed by the volume, and the caller only waits for it. A retry finds the task in progress (`UnderWay`), or
//! its result on the storage.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use quarry_volume::{Error, Reason, Result};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

/// The tasks of one node.
#[derive(Clone, Default)]
pub struct Tasks {
    inner: Arc<Mutex<HashMap<String, Entry>>>,
}

/// A running task.
struct Entry {
    /// The operation, for messages and metrics: `create`, `stage`.
    what: &'static str,
    since: Instant,
    /// Its progress, for messages; can be empty.
    progress: watch::Receiver<String>,
    /// Asks the task to stop at its next safe point.
    cancel: CancellationToken,
    /// Closed when the task has ended.
    ended: watch::Receiver<()>,
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

    /// Runs `work` on `volume` as its own task and waits for it, at most `wait`.
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
            let entry =
                Entry { what, since: Instant::now(), progress: progress.clone(), cancel: cancel.clone(), ended };
            tasks.insert(key.clone(), entry);
        }
        let registered = Registered { tasks: self.clone(), volume: key, _ended: ended_sender };
        let future = work(Handle { progress: Arc::new(progress_sender), cancel });
        let span = tracing::debug_span!("task", what, volume);
        let task = tokio::spawn(
            async move {
                // Held until the work has ended, even if the caller is gone.
                let _registered = registered;
                future.await
            }
            .instrument(span),
        );
        match tokio::time::timeout(wait, task).await {
            Ok(Ok(result)) => result,
            // It is not known how far the task came, so this error must not be final.
            Ok(Err(join)) => Err(Error::unavailable(format!(
                "{what} of volume {volume} ended unexpectedly ({join}); this is a bug in Quarry: please report it. \
                 A retry is safe: every operation starts by reading the current state"
            ))),
            Err(_elapsed) => {
                let text = progress.borrow().clone();
                Err(if text.is_empty() {
                    Error::new(
                        Reason::TimedOut,
                        format!(
                            "{what} of volume {volume} takes longer than {wait:.1?} and continues; retry to get \
                             its result"
                        ),
                    )
                } else {
                    Error::new(Reason::UnderWay, format!("{what} of volume {volume} continues: {text}; retry"))
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
        while let Some(ended) = self.ending(volume, before).filter(|_| !left().is_zero()) {
            wait_for_end(ended, left()).await;
        }
        self.run(volume, what, left(), work).await
    }

    /// The end signal of the task on `volume`, if it is of one of these kinds.
    fn ending(&self, volume: &str, kinds: &[&str]) -> Option<watch::Receiver<()>> {
        self.lock().get(volume).filter(|entry| kinds.contains(&entry.what)).map(|entry| entry.ended.clone())
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

fn in_progress(volume: &str, entry: &Entry) -> Error {
    let progress = entry.progress.borrow();
    let progress = if progress.is_empty() { String::new() } else { format!(", {}", *progress) };
    Error::new(
        Reason::UnderWay,
        format!(
            "{} of volume {volume} has been in progress for {:.1?}{progress}; retry when it is done",
            entry.what,
            entry.since.elapsed()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn a_second_operation_on_a_volume_is_rejected_until_the_first_has_ended() {
        let tasks = Tasks::default();
        let (go, gate) = tokio::sync::oneshot::channel::<()>();
        let first = {
            let tasks = tasks.clone();
            tokio::spawn(async move { tasks.run("v", "create", LONG, |_| async { Ok(gate.await.is_ok()) }).await })
        };
        while tasks.list().is_empty() {
            tokio::task::yield_now().await;
        }
        let second = tasks.run("v", "delete", LONG, |_| async { Ok(()) }).await.unwrap_err();
        assert_eq!(second.reason, Reason::UnderWay);
        assert!(tasks.run("other", "delete", LONG, |_| async { Ok(()) }).await.is_ok());
        go.send(()).unwrap();
        assert!(first.await.unwrap().unwrap());
        assert!(tasks.run("v", "delete", LONG, |_| async { Ok(()) }).await.is_ok());
    }

    #[tokio::test]
    async fn work_continues_when_its_caller_gives_up() {
        let tasks = Tasks::default();
        let done = Arc::new(AtomicUsize::new(0));
        let (go, gate) = tokio::sync::oneshot::channel::<()>();
        let work = {
            let done = done.clone();
            tasks.run("v", "create", LONG, |_| async move {
                let _ = gate.await;
                done.fetch_add(1, Ordering::SeqCst);
                Ok(())
            })
        };
        // The caller's future is dropped, as tonic does.
        assert!(tokio::time::timeout(Duration::from_millis(20), work).await.is_err());
        assert_eq!(tasks.list().len(), 1);
        go.send(()).unwrap();
        assert_eq!(tasks.drain(LONG).await, 0);
        assert_eq!(done.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_timed_out_wait_reports_the_progress() {
        let tasks = Tasks::default();
        let wait = Duration::from_millis(20);
        let silent = tasks.run("a", "create", wait, |_| std::future::pending::<Result<()>>()).await.unwrap_err();
        assert_eq!(silent.reason, Reason::TimedOut);
        let reporting = tasks
            .run("b", "create", wait, |handle| async move {
                handle.progress("zeroed 3 of 10 GiB".to_owned());
                std::future::pending::<Result<()>>().await
            })
            .await
            .unwrap_err();
        assert_eq!(reporting.reason, Reason::UnderWay);
        assert!(reporting.message.contains("3 of 10 GiB"));
    }

    #[tokio::test]
    async fn a_panic_frees_the_volume() {
        let tasks = Tasks::default();
        let error = tasks.run::<(), _>("v", "create", LONG, |_| async { panic!("bug") }).await.unwrap_err();
        assert_eq!(error.reason, Reason::Unavailable);
        assert!(tasks.list().is_empty());
    }

    #[tokio::test]
    async fn run_after_waits_only_for_the_named_kinds() {
        let tasks = Tasks::default();
        let short = Duration::from_millis(20);
        let (go, gate) = tokio::sync::oneshot::channel::<()>();
        let unstage = tasks.run("v", "unstage", short, |_| async { Ok(gate.await.is_ok()) });
        assert_eq!(unstage.await.unwrap_err().reason, Reason::TimedOut);
        let delete = |before: &'static [&'static str], wait: Duration| {
            let tasks = tasks.clone();
            tokio::spawn(async move { tasks.run_after("v", "delete", before, wait, |_| async { Ok(7) }).await })
        };
        let other = delete(&["publish"], LONG).await.unwrap().unwrap_err();
        assert_eq!(other.reason, Reason::UnderWay, "another kind is not waited for");
        let early = delete(&["unstage"], short).await.unwrap().unwrap_err();
        assert_eq!(early.reason, Reason::UnderWay, "the caller's wait is the limit");
        let waiting = delete(&["unstage"], LONG);
        tokio::time::sleep(short).await;
        assert!(!waiting.is_finished());
        go.send(()).unwrap();
        assert_eq!(waiting.await.unwrap().unwrap(), 7);
    }

    #[tokio::test]
    async fn stop_cancels_only_the_named_kind() {
        let tasks = Tasks::default();
        let wait = Duration::from_millis(10);
        let _ = tasks
            .run("v", "create", wait, |handle| async move {
                handle.cancel.cancelled().await;
                Err::<(), _>(Error::new(Reason::UnderWay, "stopped"))
            })
            .await;
        tasks.stop("v", "stage", wait).await;
        assert_eq!(tasks.list().len(), 1);
        tasks.stop("v", "create", LONG).await;
        assert!(tasks.list().is_empty());
    }
}
