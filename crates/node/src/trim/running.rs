//! Which filesystems are being trimmed, and which must not be.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use quarry_volume::{Error, Reason, Result};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often a pool's volumes are trimmed if its configuration does not say.
const INTERVAL: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// How long an unmount of the filesystem waits for the end of a step, which normally takes seconds.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long an unmount waits that leaves the filesystem mounted elsewhere.
const BRIEFLY: Duration = Duration::from_secs(5);
/// How long no trim of a volume begins after an unmount has given up: kubelet retries within about two minutes.
const RETRY: Duration = Duration::from_secs(5 * 60);

/// The trims of one host. Cheap to clone; all clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Trims {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    /// By the name of the pool.
    intervals: BTreeMap<String, Duration>,
    /// By the name of the volume.
    running: BTreeMap<String, Running>,
    /// The names of the volumes that are being unmounted.
    held: Vec<String>,
    /// Until when no trim of a volume begins, because its unmount gave up and is retried.
    postponed: BTreeMap<String, Instant>,
    discarded: u64,
    failures: u64,
}

struct Running {
    pool: String,
    /// When the current step began.
    since: Instant,
    cancel: CancellationToken,
    /// Closed when no step is running any more.
    ended: watch::Receiver<()>,
}

/// A trim that is running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TrimStatus {
    pub(crate) pool: String,
    /// The name of the volume.
    pub(crate) volume: String,
    /// The age of the current step.
    pub(crate) age: Duration,
}

/// The trim of one volume. It has ended when this is dropped.
pub(super) struct Run {
    trims: Trims,
    volume: String,
    /// Cancelled when no further step must begin.
    pub(super) cancel: CancellationToken,
    _ended: watch::Sender<()>,
}

impl Run {
    /// Notes that the next step begins now.
    pub(super) fn begin_step(&self) {
        if let Some(running) = self.trims.lock().running.get_mut(&self.volume) {
            running.since = Instant::now();
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.trims.lock().running.remove(&self.volume);
    }
}

/// While it exists, no trim of a volume is running or begins.
pub(crate) struct Hold {
    trims: Trims,
    volume: String,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut inner = self.trims.lock();
        if let Some(index) = inner.held.iter().position(|held| *held == self.volume) {
            inner.held.swap_remove(index);
        }
    }
}

impl Trims {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    /// Sets how often the volumes of the pool with that name are trimmed.
    pub(crate) fn set_interval(&self, pool: &str, interval: Duration) {
        self.lock().intervals.insert(pool.to_owned(), interval);
    }

    /// How often the volumes of that pool are trimmed.
    pub(super) fn interval(&self, pool: &str) -> Duration {
        self.lock().intervals.get(pool).copied().unwrap_or(INTERVAL)
    }

    /// Begins the trim of a volume. `None`: it is being trimmed or unmounted, or its unmount is to be retried.
    pub(super) fn begin(&self, pool: &str, volume: &str) -> Option<Run> {
        let mut inner = self.lock();
        let now = Instant::now();
        inner.postponed.retain(|_, until| *until > now);
        if inner.running.contains_key(volume)
            || inner.postponed.contains_key(volume)
            || inner.held.iter().any(|held| held == volume)
        {
            return None;
        }
        let (sender, ended) = watch::channel(());
        let cancel = CancellationToken::new();
        let running = Running { pool: pool.to_owned(), since: now, cancel: cancel.clone(), ended };
        inner.running.insert(volume.to_owned(), running);
        Some(Run { trims: self.clone(), volume: volume.to_owned(), cancel, _ended: sender })
    }

    /// The trims that are running.
    pub(crate) fn list(&self) -> Vec<TrimStatus> {
        let status = |(volume, running): (&String, &Running)| TrimStatus {
            pool: running.pool.clone(),
            volume: volume.clone(),
            age: running.since.elapsed(),
        };
        self.lock().running.iter().map(status).collect()
    }

    /// Stops the trim of a volume after its current step.
    pub(crate) fn cancel(&self, volume: &str) {
        if let Some(running) = self.lock().running.get(volume) {
            running.cancel.cancel();
        }
    }

    /// Stops the trim of a volume after its current step, and waits for the end of that: it has the filesystem open. No
    /// other one begins until the returned value is dropped; after an error, none begins for some minutes, so that a retry
    /// finds no new step.
    ///
    /// # Errors
    /// `UnderWay` if the step does not end in time.
    pub(crate) async fn hold(&self, volume: &str) -> Result<Hold> {
        self.hold_within(PATIENCE, volume).await
    }

    /// As [`Trims::hold`], but goes on after some seconds if the step does not end.
    pub(crate) async fn hold_briefly(&self, volume: &str) -> Hold {
        // It may have the unmounted path open, although it prefers the staged one. Then the unmount says so.
        self.stop(BRIEFLY, volume).await.0
    }

    async fn hold_within(&self, patience: Duration, volume: &str) -> Result<Hold> {
        let (hold, ended) = self.stop(patience, volume).await;
        if !ended {
            return Err(Error::new(
                Reason::UnderWay,
                format!(
                    "its unused space is being discarded (discard: periodic), which did not stop within {} s, so its \
                     filesystem is in use: does its disk hang? See the kernel log; a retry succeeds when the disk responds",
                    patience.as_secs()
                ),
            ));
        }
        Ok(hold)
    }

    /// Stops the trim of a volume after its current step. The flag says whether that ended in time.
    async fn stop(&self, patience: Duration, volume: &str) -> (Hold, bool) {
        let hold = Hold { trims: self.clone(), volume: volume.to_owned() };
        let ended = {
            let mut inner = self.lock();
            inner.held.push(volume.to_owned());
            inner.running.get(volume).map(|running| {
                running.cancel.cancel();
                running.ended.clone()
            })
        };
        let ended = has_ended(patience, ended).await;
        if !ended {
            self.lock().postponed.insert(volume.to_owned(), Instant::now() + RETRY);
        }
        (hold, ended)
    }

    pub(super) fn add_discarded(&self, bytes: u64) {
        let mut inner = self.lock();
        inner.discarded = inner.discarded.saturating_add(bytes);
    }

    pub(super) fn add_failure(&self) {
        self.lock().failures += 1;
    }

    /// The bytes that were discarded since the start.
    pub(crate) fn discarded(&self) -> u64 {
        self.lock().discarded
    }

    /// The trims that failed since the start.
    pub(crate) fn failures(&self) -> u64 {
        self.lock().failures
    }
}

/// Waits until a step has ended, at most `patience`. Returns whether it has.
async fn has_ended(patience: Duration, ended: Option<watch::Receiver<()>>) -> bool {
    // The sender never sends; `changed` fails when it is dropped with the trim.
    match ended {
        Some(mut ended) => tokio::time::timeout(patience, ended.changed()).await.is_ok(),
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn a_volume_has_one_trim_at_a_time_and_none_while_it_is_being_unmounted() {
        let trims = Trims::default();
        let run = trims.begin("p", "a").unwrap();
        assert!(trims.begin("p", "a").is_none());
        let other = trims.hold("b").await.unwrap();
        assert!(!run.cancel.is_cancelled());
        assert!(trims.begin("q", "b").is_none());
        drop(other);
        assert!(trims.begin("q", "b").is_some(), "another volume");
    }

    #[tokio::test(start_paused = true)]
    async fn the_age_of_a_trim_is_that_of_its_current_step() {
        let trims = Trims::default();
        let run = trims.begin("p", "a").unwrap();
        tokio::time::advance(SHORT).await;
        run.begin_step();
        tokio::time::advance(2 * SHORT).await;
        let status = TrimStatus { pool: "p".to_owned(), volume: "a".to_owned(), age: 2 * SHORT };
        assert_eq!(trims.list(), [status]);
        drop(run);
        assert_eq!(trims.list(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unpublish_goes_on_after_some_seconds() {
        let trims = Trims::default();
        let run = trims.begin("p", "a").unwrap();
        let began = Instant::now();
        let hold = trims.hold_briefly("a").await;
        assert!(run.cancel.is_cancelled() && (BRIEFLY..2 * BRIEFLY).contains(&began.elapsed()));
        drop(run);
        assert!(trims.begin("p", "a").is_none(), "no other one begins meanwhile");
        drop(hold);
        assert!(trims.begin("p", "a").is_none(), "nor before it is retried, if it failed");
        tokio::time::advance(RETRY).await;
        assert!(trims.begin("p", "a").is_some() && trims.lock().postponed.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_unmount_waits_for_the_current_step_but_not_forever() {
        let trims = Trims::default();
        let run = trims.begin("p", "a").unwrap();
        let error = trims.hold_within(SHORT, "a").await.err().unwrap();
        assert_eq!(error.reason, Reason::UnderWay);
        assert!(run.cancel.is_cancelled());
        let waiting = tokio::spawn({
            let trims = trims.clone();
            async move { trims.hold("a").await.map(drop) }
        });
        tokio::time::sleep(SHORT).await;
        assert!(!waiting.is_finished());
        drop(run);
        waiting.await.unwrap().unwrap();
        assert!(trims.lock().held.is_empty());
    }

    /// kubelet retries an unstage that gave up. Until then, no other step begins for which the retry would have to wait.
    #[tokio::test(start_paused = true)]
    async fn no_trim_begins_between_an_unmount_that_gave_up_and_its_retry() {
        let trims = Trims::default();
        let run = trims.begin("p", "a").unwrap();
        assert!(trims.hold("a").await.is_err());
        drop(run);
        tokio::time::advance(Duration::from_secs(120)).await;
        assert!(trims.begin("p", "a").is_none());
        drop(trims.hold("a").await.unwrap());
        assert!(trims.begin("p", "b").is_some(), "another volume");
        // Without a retry, the volume is still in use.
        tokio::time::advance(RETRY).await;
        assert!(trims.begin("p", "a").is_some() && trims.lock().postponed.is_empty());
    }
}
