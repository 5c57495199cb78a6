//! The copies that are running on this host, in memory: for the metrics, for the reported state, and to protect their
//! sources.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use quarry_volume::{ContentSource, CopyProgress, Gib, Volume};

use crate::copy::Meter;

/// The copies that are running. Cheap to clone; all clones are the same list.
#[derive(Clone, Default)]
pub(crate) struct Copies {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    /// By the name of the volume that is being filled.
    running: BTreeMap<String, Copy>,
    /// The bytes that finished and interrupted copies of this process have copied.
    copied: u64,
}

/// A running copy.
#[derive(Clone, Debug)]
pub(crate) struct Copy {
    /// What is copied.
    pub(crate) source: ContentSource,
    /// The pool of the volume that is being filled.
    pub(crate) pool: String,
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

    /// How many bytes are left.
    pub(crate) fn left(&self) -> u64 {
        let measured = self.meter.measured();
        measured.total.saturating_sub(measured.done)
    }
}

impl Copies {
    /// Adds the copy from `source` into that volume of that pool to the list.
    pub(crate) fn begin(&self, volume: &str, pool: &str, source: &ContentSource) -> Running {
        let (source, pool) = (source.clone(), pool.to_owned());
        let copy = Copy { source, pool, offline: false, start: Gib::NONE, meter: Meter::default() };
        self.inner.lock().running.insert(volume.to_owned(), copy);
        Running { copies: self.clone(), volume: volume.to_owned() }
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
                *progress = CopyProgress { copied: measured.done, total: measured.total };
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
