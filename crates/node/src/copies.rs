//! The copies that are running on this host, in memory: for the metrics, for the reported state, and to keep their
//! sources.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use quarry_volume::{ContentSource, CopyProgress, Volume};

/// The copies that are running. Cheap to clone; all clones are the same list.
#[derive(Clone, Default)]
pub(crate) struct Copies {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    /// By the name of the volume that is being filled.
    running: BTreeMap<String, Copy>,
    /// The bytes that this process has copied.
    copied: u64,
}

/// A running copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Copy {
    /// What is copied.
    pub(crate) source: ContentSource,
    /// The pool of the volume that is being filled.
    pub(crate) pool: String,
    /// How many bytes are copied, from the beginning.
    pub(crate) done: u64,
    /// How many bytes there are to copy, or to zero after them.
    pub(crate) total: u64,
}

/// A copy in the list, until this is dropped.
pub(crate) struct Running {
    copies: Copies,
    volume: String,
}

impl Copies {
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
            if let (Some(copy), Some(progress)) = (copy, &mut volume.copying) {
                *progress = CopyProgress { copied: copy.done, total: copy.total };
            }
        }
    }

    /// Whether a copy into a volume of that pool is running.
    pub(crate) fn into_pool(&self, pool: &str) -> bool {
        self.inner.lock().running.values().any(|copy| copy.pool == pool)
    }

    /// How many bytes this process has copied.
    pub(crate) fn copied(&self) -> u64 {
        self.inner.lock().copied
    }

    /// A volume that is being filled from this source now.
    pub(crate) fn of(&self, source: &ContentSource) -> Option<String> {
        let inner = self.inner.lock();
        inner.running.iter().find(|(_, copy)| copy.source == *source).map(|(volume, _)| volume.clone())
    }
}

impl Running {
    /// So many bytes are copied now.
    pub(crate) fn at(&self, done: u64) {
        let mut inner = self.copies.inner.lock();
        let Some(copy) = inner.running.get_mut(&self.volume) else { return };
        let more = done.saturating_sub(copy.done);
        copy.done = done;
        inner.copied = inner.copied.saturating_add(more);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.copies.inner.lock().running.remove(&self.volume);
    }
}
