//! Runs checks that can hang forever on a disk: at most one per volume at a time.
//!
//! statfs(2) on a filesystem whose disk hangs does not return, and its thread cannot be stopped. kubelet
//! requests the statistics of every volume once a minute. So an unresponsive volume has only one waiting
//! thread, however many calls arrive, and every other caller gets an error that says how long the volume has
//! not answered.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use quarry_filesystem::on_own_thread;
use quarry_volume::{Error, Reason, Result};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::errors;

/// How long a check may take before its caller gets an error: a sleeping disk has to spin up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The checks in progress on one node.
#[derive(Clone, Default)]
pub(crate) struct Checks {
    running: Arc<Mutex<HashMap<String, Check>>>,
}

struct Check {
    since: Instant,
    /// Closed when the check has ended.
    ended: watch::Receiver<()>,
}

/// Removes a check's entry when its thread ends, even by a panic.
struct Registered {
    checks: Checks,
    volume: String,
    _ended: watch::Sender<()>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.checks.lock().remove(&self.volume);
    }
}

impl Checks {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Check>> {
        self.running.lock()
    }

    /// Waits until no other check of the volume is running, runs `check` on its own thread, and waits for its
    /// result.
    ///
    /// # Errors
    /// `Unavailable` if this check or the one before it has not returned for [`PATIENCE`]. Otherwise the
    /// error of `check`.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        volume: &str,
        check: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.within(PATIENCE, volume, check).await
    }

    async fn within<T: Send + 'static>(
        &self,
        patience: Duration,
        volume: &str,
        check: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let registered = loop {
            let (since, mut ended) = match self.begin(volume) {
                Ok(registered) => break registered,
                Err(earlier) => earlier,
            };
            // The sender never sends; `changed` returns when it is dropped with the check.
            if timeout_at(since + patience, ended.changed()).await.is_err() {
                return Err(no_answer(since.elapsed()));
            }
        };
        let began = Instant::now();
        let work = on_own_thread(move || {
            let _registered = registered;
            check()
        });
        match timeout_at(began + patience, work).await {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => Err(errors::no_answer_of_thread(&error)),
            Err(_) => Err(no_answer(began.elapsed())),
        }
    }

    /// Registers a check of the volume. If another one is running, returns its start and its end signal.
    fn begin(&self, volume: &str) -> Result<Registered, (Instant, watch::Receiver<()>)> {
        let mut checks = self.lock();
        if let Some(earlier) = checks.get(volume) {
            return Err((earlier.since, earlier.ended.clone()));
        }
        let (sender, ended) = watch::channel(());
        checks.insert(volume.to_owned(), Check { since: Instant::now(), ended });
        Ok(Registered { checks: self.clone(), volume: volume.to_owned(), _ended: sender })
    }
}

fn no_answer(time: Duration) -> Error {
    Error::new(
        Reason::Unavailable,
        format!(
            "it has not answered for {} s: does its disk hang? See the kernel log; calls succeed again when the disk \
             responds",
            time.as_secs()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const SHORT: Duration = Duration::from_millis(30);

    #[tokio::test]
    async fn an_unresponsive_volume_has_one_thread_for_any_number_of_calls() {
        let checks = Checks::default();
        let (go, gate) = mpsc::channel::<()>();
        let stuck = checks.within(SHORT, "v", move || Ok(gate.recv().is_ok())).await.unwrap_err();
        assert_eq!(stuck.reason, Reason::Unavailable);
        for _ in 0..100 {
            let error = checks.within(SHORT, "v", || -> Result<()> { panic!("a second check") }).await.unwrap_err();
            assert_eq!(error.reason, Reason::Unavailable);
            assert!(error.message.contains("has not answered for"), "{error}");
        }
        assert_eq!(checks.lock().len(), 1);
        assert_eq!(checks.run("other", || Ok(7)).await.unwrap(), 7);
        go.send(()).unwrap();
        // Calls succeed again as soon as the first check has returned.
        assert_eq!(checks.run("v", || Ok(8)).await.unwrap(), 8);
        assert!(checks.lock().is_empty());
    }

    #[tokio::test]
    async fn concurrent_callers_all_get_an_answer() {
        let checks = Checks::default();
        let check = |number: u64| {
            let checks = checks.clone();
            tokio::spawn(async move {
                let work = move || {
                    std::thread::sleep(Duration::from_millis(1));
                    Ok(number)
                };
                checks.run("v", work).await
            })
        };
        let all: Vec<_> = (0..50).map(check).collect();
        for (number, answer) in all.into_iter().enumerate() {
            assert_eq!(answer.await.unwrap().unwrap(), number as u64);
        }
    }

    #[tokio::test]
    async fn a_check_stays_registered_after_its_caller_gives_up() {
        let checks = Checks::default();
        let (go, gate) = mpsc::channel::<()>();
        let check = checks.run("v", move || Ok(gate.recv().is_ok()));
        assert!(tokio::time::timeout(SHORT, check).await.is_err());
        assert_eq!(checks.lock().len(), 1);
        drop(go);
        assert!(checks.run("v", || Ok(())).await.is_ok());
    }
}
