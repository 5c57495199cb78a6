//! The copies that are running on this host, in memory: for the metrics, for the reported state, and to protect their
//! sources.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use quarry_pool::PoolVolume;
use quarry_volume::{ContentSource, CopyProgress, Error, Gib, Reason, Result, Volume};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::copy::{Meter, Rate};
use crate::tasks::Handle;

/// How many copies transfer bytes at the same time. Each has threads and buffers of its own, and more of them would only
/// compete for the disks.
const AT_ONCE: usize = 2;

/// The copies that are running. Cheap to clone; all clones are the same list.
#[derive(Clone)]
pub(crate) struct Copies {
    inner: Arc<Mutex<Inner>>,
    /// Those that may transfer bytes now.
    turns: Arc<Semaphore>,
}

impl Default for Copies {
    fn default() -> Self {
        Self { inner: Arc::default(), turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

#[derive(Default)]
struct Inner {
    /// By the name of the volume that is being filled.
    running: BTreeMap<String, Copy>,
    /// The bytes that finished and interrupted copies of this process have copied.
    copied: u64,
    /// The limits of speed, by the name of the pool.
    rates: BTreeMap<String, Rate>,
}

/// A running copy.
#[derive(Clone, Debug)]
pub(crate) struct Copy {
    /// What is copied.
    pub(crate) source: ContentSource,
    /// The pool of the volume that is being filled.
    pub(crate) pool: String,
    /// The size of that volume in bytes.
    size: u64,
    /// Whether the source must not be used while it is copied: it is a volume whose pool cannot take snapshots.
    offline: bool,
    /// How much an earlier call copied.
    start: Gib,
    /// How far it is. Empty until the source and the volume are open.
    meter: Meter,
}

/// A copy in the list, until this is dropped.
pub(crate) struct Running {
    copies: Copies,
    volume: String,
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

    /// Adds the copy from `source` into that volume of that pool to the list.
    pub(crate) fn begin(&self, volume: &PoolVolume, pool: &str, source: &ContentSource) -> Running {
        let (source, pool, size, name) = (source.clone(), pool.to_owned(), volume.size, volume.name.clone());
        let copy = Copy { source, pool, size, offline: false, start: Gib::NONE, meter: Meter::default() };
        self.inner.lock().running.insert(name.clone(), copy);
        Running { copies: self.clone(), volume: name }
    }

    /// The running copies, by the name of the volume that is being filled.
    pub(crate) fn list(&self) -> BTreeMap<String, Copy> {
        self.inner.lock().running.clone()
    }

    /// Shows how far the running copies into these volumes of that pool are.
    pub(crate) fn show(&self, pool: &str, volumes: &mut [Volume]) {
        let inner = self.inner.lock();
        for volume in volumes.iter_mut().filter(|_| !inner.running.is_empty()) {
            let copy = inner.running.get(&volume.id.volume).filter(|copy| copy.pool == pool);
            let measured = copy.map(|copy| copy.meter.measured()).filter(|measured| measured.total > 0);
            if let (Some(measured), Some(progress)) = (measured, &mut volume.copying) {
                *progress = CopyProgress { copied: measured.done, total: volume.size };
            }
        }
    }

    /// Whether copies fill any volume of that pool now.
    pub(crate) fn fill_pool(&self, pool: &str) -> bool {
        self.inner.lock().running.values().any(|copy| copy.pool == pool)
    }

    /// How many bytes this process has copied.
    pub(crate) fn copied(&self) -> u64 {
        let inner = self.inner.lock();
        inner.running.values().map(Copy::copied).fold(inner.copied, u64::saturating_add)
    }

    /// A volume that is being filled from this source now.
    pub(crate) fn of(&self, source: &ContentSource) -> Option<String> {
        let inner = self.inner.lock();
        inner.running.iter().find(|(_, copy)| copy.source == *source).map(|(volume, _)| volume.clone())
    }

    /// The same, if this source must not be used until that is done.
    pub(crate) fn offline_of(&self, source: &ContentSource) -> Option<String> {
        let inner = self.inner.lock();
        let mut offline = inner.running.iter().filter(|(_, copy)| copy.offline && copy.source == *source);
        offline.next().map(|(volume, _)| volume.clone())
    }
}

impl Running {
    /// Waits until this copy may transfer bytes: as long as the result lives. The first to ask is the first to get it.
    ///
    /// # Errors
    /// `UnderWay` if the task was asked to stop.
    pub(crate) async fn wait_for_turn(&self, handle: &Handle) -> Result<OwnedSemaphorePermit> {
        if let Ok(turn) = Arc::clone(&self.copies.turns).try_acquire_owned() {
            return Ok(turn);
        }
        handle.progress(format!("waits for {AT_ONCE} other copies"));
        let turn = tokio::select! {
            turn = Arc::clone(&self.copies.turns).acquire_owned() => turn.ok(),
            () = handle.cancel.cancelled() => None,
        };
        handle.progress(String::new());
        turn.ok_or_else(|| {
            Error::new(Reason::UnderWay, "it was stopped while it waited for other copies; a retry continues it")
        })
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
        if let Some(copy) = self.copies.inner.lock().running.get_mut(&self.volume) {
            change(copy);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut inner = self.copies.inner.lock();
        let copied = inner.running.remove(&self.volume).map_or(0, |copy| copy.copied());
        inner.copied = inner.copied.saturating_add(copied);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use quarry_pool::{Pool as _, SimulatedPool};
    use quarry_volume::{VolumeId, VolumeSpec};

    use super::*;

    const MIB: u64 = 1 << 20;

    #[tokio::test]
    async fn the_progress_is_the_share_of_the_volume_that_is_filled() {
        let pool = SimulatedPool::new("p", 4 * MIB, vec![100], Duration::ZERO);
        let volume = pool.create(&VolumeSpec::block("v", 40 * MIB).in_pool("p")).await.unwrap();
        let source: ContentSource = "s1:aaaaaaaaaa:n:s".parse().unwrap();
        let copies = Copies::default();
        let running = copies.begin(&volume, "p", &source);
        let shown = || {
            let id: VolumeId = "v1:aaaaaaaaaa:n:v".parse().unwrap();
            let recorded = CopyProgress { copied: 0, total: 40 * MIB };
            let mut volumes = [Volume { size: 40 * MIB, copying: Some(recorded), ..Volume::new(id) }];
            copies.show("p", &mut volumes);
            volumes[0].copying
        };
        let progress = |copied: u64| Some(CopyProgress { copied, total: 40 * MIB });
        assert_eq!(copies.of(&source).as_deref(), Some("v"));
        assert_eq!((shown(), copies.list()["v"].left()), (progress(0), 40 * MIB), "it has not begun");
        let meter = running.meter(Gib::NONE);
        // The source is smaller.
        meter.begin(0, 10 * MIB);
        meter.reach(4 * MIB);
        assert_eq!((shown(), copies.list()["v"].left()), (progress(4 * MIB), 6 * MIB));
        assert_eq!(copies.copied(), 4 * MIB);
        drop(running);
        assert_eq!((shown(), copies.of(&source), copies.copied()), (progress(0), None, 4 * MIB));
    }
}
