//! The copies that are running on this host, in memory: for the metrics, for the reported state, and to protect their
//! sources.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use quarry_volume::{
    ContentSource, CopyProgress, Error, Gib, Reason, Result, Snapshot, SnapshotCondition, StorageId, Volume,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::copy::{Meter, Rate};
use crate::tasks::Handle;

/// How many copies transfer bytes from one storage into one pool at the same time. Each has threads and buffers of its own,
/// and more of them would only compete for the disks. A copy on a disk that hangs keeps its turn, so copies between other
/// pools have turns of their own.
const AT_ONCE: usize = 2;

/// The copies that are running. Cheap to clone; all clones are the same list.
#[derive(Clone, Default)]
pub(crate) struct Copies {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    running: BTreeMap<CopyTarget, Copy>,
    /// The sources that are kept for what is being made of them now: see [`Copies::keep`].
    kept: Vec<(ContentSource, CopyTarget)>,
    /// Those that may transfer bytes now, by the storage of the source and the name of the pool that is copied to.
    turns: BTreeMap<(StorageId, String), Arc<Semaphore>>,
    /// The bytes that finished and interrupted copies of this process have copied.
    copied: u64,
    /// The limits of speed, by the name of the pool.
    rates: BTreeMap<String, Rate>,
    /// Why the last attempt to make a full copy failed, by the name of the snapshot. It is shown as its problem until a
    /// later attempt completes it; a caller gets the error from [`crate::Tasks::run_long`], once.
    failures: BTreeMap<String, Error>,
    /// The pools in which a task removes what no copy needs any more, and whether it is to look again.
    cleaned: BTreeMap<String, bool>,
}

/// What a copy fills, by its name in its pool.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum CopyTarget {
    /// A new volume.
    Volume(String),
    /// A snapshot that is a full copy.
    Snapshot(String),
}

/// A running copy.
#[derive(Clone, Debug)]
pub(crate) struct Copy {
    /// What is copied.
    pub(crate) source: ContentSource,
    /// The pool of what is being filled.
    pub(crate) pool: String,
    /// The size of that, in bytes.
    size: u64,
    /// Whether the source must not be used while it is copied: it is a volume whose pool cannot take snapshots.
    offline: bool,
    /// How much an earlier call copied.
    start: Gib,
    /// How far it is. Empty until the source and what is being filled are open.
    meter: Meter,
}

/// A copy in the list, until this is dropped.
pub(crate) struct Running {
    copies: Copies,
    target: CopyTarget,
}

/// A source that is not deleted, until this is dropped.
pub(crate) struct Kept {
    copies: Copies,
    source: ContentSource,
    target: CopyTarget,
}

/// The task that removes what no copy needs any more in a pool, until this is dropped. (If it panics, a later call begins
/// another one.)
pub(crate) struct CleanUp {
    copies: Copies,
    pool: String,
    has_ended: bool,
}

impl fmt::Display for CopyTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Volume(name) | Self::Snapshot(name)) = self;
        write!(f, "{} {name}", self.kind())
    }
}

impl CopyTarget {
    /// What it is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Volume(_) => "volume",
            Self::Snapshot(_) => "snapshot",
        }
    }
}

impl Copy {
    /// How many bytes this call has copied.
    fn copied(&self) -> u64 {
        self.meter.measured().done.saturating_sub(self.start.bytes())
    }

    /// How many bytes are left; before it begins, at most.
    pub(crate) fn left(&self) -> u64 {
        let measured = self.meter.measured();
        if measured.total == 0 { self.size } else { measured.total.saturating_sub(measured.done) }
    }
}

impl Inner {
    fn is_running(&self, target: &CopyTarget, pool: &str) -> bool {
        self.running.get(target).is_some_and(|copy| copy.pool == pool)
    }

    /// Shows how far the running copy is that fills this in that pool, with `size` bytes.
    fn show(&self, target: &CopyTarget, pool: &str, size: u64, shown: &mut Option<CopyProgress>) {
        let copy = self.running.get(target).filter(|copy| copy.pool == pool);
        let measured = copy.map(|copy| copy.meter.measured()).filter(|measured| measured.total > 0);
        if let (Some(measured), Some(progress)) = (measured, shown) {
            *progress = CopyProgress { copied: measured.done, total: size };
        }
    }
}

impl Copies {
    /// Limits the speed of all copies together that read from or write to that pool.
    pub(crate) fn limit(&self, pool: &str, bytes_per_second: u64) {
        self.inner.lock().rates.insert(pool.to_owned(), Rate::new(bytes_per_second));
    }

    /// The limits of a copy from one pool to another.
    pub(crate) fn rates(&self, from: &str, to: &str) -> Vec<Rate> {
        let inner = self.inner.lock();
        let limited = inner.rates.iter().filter(|(pool, _)| [from, to].contains(&pool.as_str()));
        limited.map(|(_, rate)| rate.clone()).collect()
    }

    /// Adds the copy from `source` into `target`, which has `size` bytes in that pool, to the list.
    pub(crate) fn begin(&self, target: CopyTarget, pool: &str, size: u64, source: &ContentSource) -> Running {
        let (source, pool) = (source.clone(), pool.to_owned());
        let copy = Copy { source, pool, size, offline: false, start: Gib::NONE, meter: Meter::default() };
        self.inner.lock().running.insert(target.clone(), copy);
        Running { copies: self.clone(), target }
    }

    /// Keeps the source from being deleted while a snapshot is taken of it, or a volume is created that shares its
    /// contents: until the storage has a record that names the source. Call it before the check that the source is not
    /// being deleted.
    pub(crate) fn keep(&self, source: &ContentSource, target: CopyTarget) -> Kept {
        self.inner.lock().kept.push((source.clone(), target.clone()));
        Kept { copies: self.clone(), source: source.clone(), target }
    }

    /// What is being made of this source now: see [`Copies::keep`].
    pub(crate) fn kept_for(&self, source: &ContentSource) -> Option<CopyTarget> {
        let inner = self.inner.lock();
        inner.kept.iter().find(|(kept, _)| kept == source).map(|(_, target)| target.clone())
    }

    /// The running copies, by what is being filled.
    pub(crate) fn list(&self) -> BTreeMap<CopyTarget, Copy> {
        self.inner.lock().running.clone()
    }

    /// Shows how far the running copies into these volumes of that pool are.
    pub(crate) fn show(&self, pool: &str, volumes: &mut [Volume]) {
        let inner = self.inner.lock();
        for volume in volumes.iter_mut().filter(|_| !inner.running.is_empty()) {
            let target = CopyTarget::Volume(volume.id.volume.clone());
            inner.show(&target, pool, volume.size, &mut volume.copying);
        }
    }

    /// Shows how far the running copies into these snapshots of that pool are, and why others failed.
    pub(crate) fn show_snapshots(&self, pool: &str, snapshots: &mut [Snapshot]) {
        let inner = self.inner.lock();
        for snapshot in snapshots.iter_mut().filter(|snapshot| snapshot.copying.is_some()) {
            let target = CopyTarget::Snapshot(snapshot.id.snapshot.clone());
            inner.show(&target, pool, snapshot.size, &mut snapshot.copying);
            if let Some(error) = inner.failures.get(&snapshot.id.snapshot).filter(|_| !inner.is_running(&target, pool))
            {
                snapshot.problem = format!("it is not copied completely, and a retry continues: {error}");
                snapshot.condition = SnapshotCondition::Other;
            }
        }
    }

    /// Stores why the last attempt to complete a snapshot failed; `None`: it is complete, or not needed any more.
    pub(crate) fn set_failure(&self, snapshot: &str, error: Option<Error>) {
        let mut inner = self.inner.lock();
        match error {
            Some(error) => inner.failures.insert(snapshot.to_owned(), error),
            None => inner.failures.remove(snapshot),
        };
    }

    /// For a task that removes what no copy needs any more in that pool. `None`: one is running, and will look again
    /// instead.
    pub(crate) fn begin_clean_up(&self, pool: &str) -> Option<CleanUp> {
        let mut inner = self.inner.lock();
        let is_running = inner.cleaned.contains_key(pool);
        inner.cleaned.insert(pool.to_owned(), is_running);
        (!is_running).then(|| CleanUp { copies: self.clone(), pool: pool.to_owned(), has_ended: false })
    }

    /// Whether copies fill anything in that pool now.
    pub(crate) fn fill_pool(&self, pool: &str) -> bool {
        self.inner.lock().running.values().any(|copy| copy.pool == pool)
    }

    /// How many bytes this process has copied.
    pub(crate) fn copied(&self) -> u64 {
        let inner = self.inner.lock();
        inner.running.values().map(Copy::copied).fold(inner.copied, u64::saturating_add)
    }

    /// What is being filled from this source now.
    pub(crate) fn of(&self, source: &ContentSource) -> Option<CopyTarget> {
        let inner = self.inner.lock();
        inner.running.iter().find(|(_, copy)| copy.source == *source).map(|(target, _)| target.clone())
    }

    /// The same, if this source must not be used until that is done.
    pub(crate) fn offline_of(&self, source: &ContentSource) -> Option<CopyTarget> {
        let inner = self.inner.lock();
        let mut offline = inner.running.iter().filter(|(_, copy)| copy.offline && copy.source == *source);
        offline.next().map(|(target, _)| target.clone())
    }
}

impl Running {
    /// Waits until this copy may transfer bytes: as long as the result lives. The first to ask is the first to get it.
    ///
    /// # Errors
    /// `UnderWay` if the task was asked to stop.
    pub(crate) async fn wait_for_turn(&self, handle: &Handle) -> Result<OwnedSemaphorePermit> {
        let turn = async {
            let turns = self.turns()?;
            if let Ok(turn) = Arc::clone(&turns).try_acquire_owned() {
                return Some(turn);
            }
            handle.progress(format!("waits for {AT_ONCE} other copies between the same pools"));
            turns.acquire_owned().await.ok()
        };
        let turn = tokio::select! {
            turn = turn => turn,
            () = handle.cancel.cancelled() => None,
        };
        handle.progress(String::new());
        turn.ok_or_else(|| {
            Error::new(Reason::UnderWay, "it was stopped while it waited for other copies; a retry continues it")
        })
    }

    /// The turns of copies between these pools. `None` if the copy is not in the list any more.
    fn turns(&self) -> Option<Arc<Semaphore>> {
        let mut inner = self.copies.inner.lock();
        let copy = inner.running.get(&self.target)?;
        let between = (copy.source.storage().clone(), copy.pool.clone());
        Some(Arc::clone(inner.turns.entry(between).or_insert_with(|| Arc::new(Semaphore::new(AT_ONCE)))))
    }

    /// From now on, the source must not be used until the copy ends.
    pub(crate) fn set_offline(&self) {
        self.change(|copy| copy.offline = true);
    }

    /// The meter of this copy, which begins after what an earlier call copied.
    pub(crate) fn meter(&self, start: Gib) -> Meter {
        let meter = Meter::default();
        self.change(|copy| (copy.start, copy.meter) = (start, meter.clone()));
        meter
    }

    fn change(&self, change: impl FnOnce(&mut Copy)) {
        if let Some(copy) = self.copies.inner.lock().running.get_mut(&self.target) {
            change(copy);
        }
    }
}

impl CleanUp {
    /// Whether the task, which has just removed everything, ends. Otherwise it is to look again.
    pub(crate) fn ends(&mut self) -> bool {
        let mut inner = self.copies.inner.lock();
        let again = inner.cleaned.remove(&self.pool).unwrap_or_default();
        if again {
            inner.cleaned.insert(self.pool.clone(), false);
        }
        self.has_ended = !again;
        self.has_ended
    }
}

impl Drop for CleanUp {
    fn drop(&mut self) {
        // Another one may have begun since it ended.
        if !self.has_ended {
            self.copies.inner.lock().cleaned.remove(&self.pool);
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut inner = self.copies.inner.lock();
        let own = |(source, target): &(ContentSource, CopyTarget)| *source == self.source && *target == self.target;
        if let Some(index) = inner.kept.iter().position(own) {
            inner.kept.swap_remove(index);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut inner = self.copies.inner.lock();
        let copied = inner.running.remove(&self.target).map_or(0, |copy| copy.copied());
        inner.copied = inner.copied.saturating_add(copied);
    }
}

#[cfg(test)]
mod tests {
    use quarry_volume::{SnapshotId, VolumeId};

    use super::*;

    const MIB: u64 = 1 << 20;

    fn progress(copied: u64) -> Option<CopyProgress> {
        Some(CopyProgress { copied, total: 40 * MIB })
    }

    #[test]
    fn the_progress_is_the_share_of_the_volume_that_is_filled() {
        let source: ContentSource = "s1:aaaaaaaaaa:n:s".parse().unwrap();
        let (copies, target) = (Copies::default(), CopyTarget::Volume("v".to_owned()));
        let running = copies.begin(target.clone(), "p", 40 * MIB, &source);
        let shown = || {
            let id: VolumeId = "v1:aaaaaaaaaa:n:v".parse().unwrap();
            let mut volumes = [Volume { size: 40 * MIB, copying: progress(0), ..Volume::new(id) }];
            copies.show("p", &mut volumes);
            volumes[0].copying
        };
        assert_eq!(copies.of(&source), Some(target.clone()));
        assert_eq!((shown(), copies.list()[&target].left()), (progress(0), 40 * MIB), "it has not begun");
        let meter = running.meter(Gib::NONE);
        // The source is smaller.
        meter.begin(0, 10 * MIB);
        meter.reach(4 * MIB);
        assert_eq!((shown(), copies.list()[&target].left()), (progress(4 * MIB), 6 * MIB));
        assert_eq!(copies.copied(), 4 * MIB);
        drop(running);
        assert_eq!((shown(), copies.of(&source), copies.copied()), (progress(0), None, 4 * MIB));
    }

    #[test]
    fn a_source_is_kept_until_the_last_call_ends() {
        let source: ContentSource = "v1:aaaaaaaaaa:n:v".parse().unwrap();
        let (copies, target) = (Copies::default(), CopyTarget::Snapshot("s".to_owned()));
        let kept = [copies.keep(&source, target.clone()), copies.keep(&source, target.clone())];
        for kept in kept {
            assert_eq!(copies.kept_for(&source), Some(target.clone()));
            assert_eq!(copies.kept_for(&"v1:aaaaaaaaaa:n:w".parse().unwrap()), None);
            drop(kept);
        }
        assert_eq!(copies.kept_for(&source), None);
    }

    #[test]
    fn a_pool_is_cleaned_by_one_task_and_by_another_one_if_that_panicked() {
        let copies = Copies::default();
        let mut first = copies.begin_clean_up("p").unwrap();
        assert!(copies.begin_clean_up("p").is_none());
        assert_eq!((first.ends(), first.ends()), (false, true), "it looks again");
        let second = copies.begin_clean_up("p").unwrap();
        drop(first);
        assert!(copies.begin_clean_up("p").is_none());
        drop(second);
        assert!(copies.begin_clean_up("p").is_some());
    }

    #[test]
    fn a_failure_is_shown_until_a_later_attempt_begins() {
        let source: ContentSource = "v1:aaaaaaaaaa:n:v".parse().unwrap();
        let copies = Copies::default();
        let shown = |pool| {
            let id: SnapshotId = "s1:aaaaaaaaaa:n:s".parse().unwrap();
            let source = "v1:aaaaaaaaaa:n:v".parse().unwrap();
            let mut snapshots = [Snapshot { size: 40 * MIB, copying: progress(MIB), ..Snapshot::new(id, source) }];
            copies.show_snapshots(pool, &mut snapshots);
            let [Snapshot { copying, problem, condition, .. }] = snapshots;
            assert_eq!(problem.is_empty(), condition == SnapshotCondition::Healthy);
            (copying, problem.contains("bad sector"))
        };
        copies.set_failure("s", Some(Error::host("bad sector")));
        assert_eq!(shown("p"), (progress(MIB), true));
        let running = copies.begin(CopyTarget::Snapshot("s".to_owned()), "p", 40 * MIB, &source);
        assert_eq!((shown("p"), shown("q")), ((progress(MIB), false), (progress(MIB), true)));
        running.meter(Gib::NONE).begin(2 * MIB, 40 * MIB);
        assert_eq!(shown("p"), (progress(2 * MIB), false));
        drop(running);
        copies.set_failure("s", None);
        assert_eq!(shown("p"), (progress(MIB), false));
    }
}
