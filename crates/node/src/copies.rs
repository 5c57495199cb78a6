//! The copies that are running on this host, in memory: for the metrics, for the reported state, and to keep their
//! sources.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use quarry_volume::{ContentSource, CopyProgress, Gib, Volume};

use crate::copy::{Meter, Rate};

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
    /// How much an earlier call copied.
    pub(crate) start: Gib,
    /// How far it is.
    pub(crate) meter: Meter,
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

    /// Adds the copy into that volume to the list.
    pub(crate) fn begin(&self, volume: &str, copy: Copy) -> Running {
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
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut inner = self.copies.inner.lock();
        let copied = inner.running.remove(&self.volume).map_or(0, |copy| copy.copied());
        inner.copied = inner.copied.saturating_add(copied);
    }
}
