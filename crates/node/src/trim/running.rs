//! Which filesystem is being trimmed, and which must not be.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use quarry_volume::{Error, Reason, Result, VolumeId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often a pool's volumes are trimmed if its configuration does not say.
const INTERVAL: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// How long an unmount of the filesystem waits for the end of a step, which normally takes seconds.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long an unmount waits that leaves the filesystem mounted elsewhere.
const BRIEFLY: Duration = Duration::from_secs(5);

/// The trims of one host. Cheap to clone; all clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Trims {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    /// By the name of the pool.
    intervals: BTreeMap<String, Duration>,
    running: Option<Running>,
    /// The names of the volumes that are being unmounted.
    held: Vec<String>,
    /// The volumes for which it was logged that their disk does not support discards.
    unsupported: BTreeSet<VolumeId>,
    discarded: u64,
    failures: u64,
}

struct Running {
    volume: String,
    cancel: CancellationToken,
    /// Closed when no step is running any more.
    ended: watch::Receiver<()>,
}

/// The trim of one volume. It has ended when this is dropped.
pub(super) struct Run {
    trims: Trims,
    /// Cancelled when no further step must begin.
    pub(super) cancel: CancellationToken,
    _ended: watch::Sender<()>,
}

impl Drop for Run {
    fn drop(&mut self) {
        self.trims.lock().running = None;
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

    /// Begins the trim of a volume. `None`: another trim is running, or the volume is being unmounted.
    pub(super) fn begin(&self, volume: &str) -> Option<Run> {
        let mut inner = self.lock();
        if inner.running.is_some() || inner.held.iter().any(|held| held == volume) {
            return None;
        }
        let (sender, ended) = watch::channel(());
        let cancel = CancellationToken::new();
        inner.running = Some(Running { volume: volume.to_owned(), cancel: cancel.clone(), ended });
        Some(Run { trims: self.clone(), cancel, _ended: sender })
    }

    /// Stops the trim of a volume after its current step, and waits for the end of that: it has the filesystem open. No
    /// other one begins until the returned value is dropped.
    ///
    /// # Errors
    /// `UnderWay` if the step does not end in time.
    pub(crate) async fn hold(&self, volume: &str) -> Result<Hold> {
        self.hold_within(PATIENCE, volume).await
    }

    /// As [`Trims::hold`], but goes on after some seconds if the step does not end.
    pub(crate) async fn hold_briefly(&self, volume: &str) -> Hold {
        let (hold, ended) = self.begin_hold(volume);
        // It may have the unmounted path open, although it prefers the staged one. Then the unmount says so.
        let _: bool = has_ended(BRIEFLY, ended).await;
        hold
    }

    async fn hold_within(&self, patience: Duration, volume: &str) -> Result<Hold> {
        let (hold, ended) = self.begin_hold(volume);
        if !has_ended(patience, ended).await {
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

    /// Stops the trim of a volume after its current step. The second value is closed when that has ended.
    fn begin_hold(&self, volume: &str) -> (Hold, Option<watch::Receiver<()>>) {
        let hold = Hold { trims: self.clone(), volume: volume.to_owned() };
        let ended = {
            let mut inner = self.lock();
            inner.held.push(volume.to_owned());
            let running = inner.running.as_ref().filter(|running| running.volume == volume);
            running.map(|running| {
                running.cancel.cancel();
                running.ended.clone()
            })
        };
        (hold, ended)
    }

    pub(super) fn add_discarded(&self, bytes: u64) {
        let mut inner = self.lock();
        inner.discarded = inner.discarded.saturating_add(bytes);
    }

    pub(super) fn add_failure(&self) {
        self.lock().failures += 1;
    }

    /// Remembers that the disk of a volume does not support discards. Returns whether this is new.
    pub(super) fn set_unsupported(&self, id: &VolumeId) -> bool {
        self.lock().unsupported.insert(id.clone())
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
    async fn one_trim_is_running_at_a_time_and_none_of_a_volume_that_is_being_unmounted() {
        let trims = Trims::default();
        let run = trims.begin("a").unwrap();
        assert!(trims.begin("b").is_none());
        let other = trims.hold("b").await.unwrap();
        assert!(!run.cancel.is_cancelled());
        drop(run);
        assert!(trims.begin("b").is_none());
        drop(other);
        assert!(trims.begin("b").is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn an_unpublish_goes_on_after_some_seconds() {
        let trims = Trims::default();
        let run = trims.begin("a").unwrap();
        let began = tokio::time::Instant::now();
        let hold = trims.hold_briefly("a").await;
        assert!(run.cancel.is_cancelled() && (BRIEFLY..2 * BRIEFLY).contains(&began.elapsed()));
        drop(run);
        assert!(trims.begin("a").is_none(), "no other one begins meanwhile");
        drop(hold);
        assert!(trims.begin("a").is_some());
    }

    #[tokio::test]
    async fn an_unmount_waits_for_the_current_step_but_not_forever() {
        let trims = Trims::default();
        let run = trims.begin("a").unwrap();
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
        assert!(trims.begin("a").is_some() && trims.lock().held.is_empty());
    }
}
