//! The copies that are running on this host, in memory: for the metrics, for the reported state, and to keep their
//! sources.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use quarry_volume::{ContentSource, CopyProgress, Error, Gib, Snapshot, Volume};

use crate::copy::{Meter, Rate};

/// The copies that are running. Cheap to clone; all clones are the same list.
#[derive(Clone, Default)]
pub(crate) struct Copies {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    running: BTreeMap<CopyTarget, Copy>,
    /// The bytes that finished and interrupted copies of this process have copied.
    copied: u64,
    /// The limits of speed, by the name of the pool.
    rates: BTreeMap<String, Rate>,
    /// Why the last attempt to copy a snapshot failed, by the name of the snapshot.
    failures: BTreeMap<String, Failure>,
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
    /// How much an earlier call copied.
    pub(crate) start: Gib,
    /// How far it is.
    pub(crate) meter: Meter,
}

/// Why a snapshot could not be copied.
#[derive(Clone, Debug)]
struct Failure {
    error: Error,
    /// Whether a caller got this error.
    is_told: bool,
}

/// A copy in the list, until this is dropped.
pub(crate) struct Running {
    copies: Copies,
    target: CopyTarget,
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

    /// How many bytes are left.
    pub(crate) fn left(&self) -> u64 {
        let measured = self.meter.measured();
        measured.total.saturating_sub(measured.done)
    }

    /// How far it is, once it has begun.
    fn progress(&self) -> Option<CopyProgress> {
        let measured = self.meter.measured();
        (measured.total > 0).then_some(CopyProgress { copied: measured.done, total: measured.total })
    }
}

impl Inner {
    /// How far the running copy is that fills this in that pool.
    fn progress(&self, target: &CopyTarget, pool: &str) -> Option<CopyProgress> {
        self.running.get(target).filter(|copy| copy.pool == pool).and_then(Copy::progress)
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

    /// Adds a copy to the list.
    pub(crate) fn begin(&self, target: CopyTarget, copy: Copy) -> Running {
        self.inner.lock().running.insert(target.clone(), copy);
        Running { copies: self.clone(), target }
    }

    /// The running copies, by what is being filled.
    pub(crate) fn list(&self) -> BTreeMap<CopyTarget, Copy> {
        self.inner.lock().running.clone()
    }

    /// Shows how far the running copies into these volumes of that pool are.
    pub(crate) fn show(&self, pool: &str, volumes: &mut [Volume]) {
        let inner = self.inner.lock();
        for volume in volumes.iter_mut().filter(|volume| volume.copying.is_some()) {
            let progress = inner.progress(&CopyTarget::Volume(volume.id.volume.clone()), pool);
            volume.copying = progress.or(volume.copying);
        }
    }

    /// Shows how far the running copies into these snapshots of that pool are, and why others failed.
    pub(crate) fn show_snapshots(&self, pool: &str, snapshots: &mut [Snapshot]) {
        let inner = self.inner.lock();
        for snapshot in snapshots.iter_mut().filter(|snapshot| snapshot.copying.is_some()) {
            let name = &snapshot.id.snapshot;
            let progress = inner.progress(&CopyTarget::Snapshot(name.clone()), pool);
            snapshot.copying = progress.or(snapshot.copying);
            if let (None, Some(failure), true) = (progress, inner.failures.get(name), snapshot.problem.is_empty()) {
                snapshot.problem = format!("it is not copied completely, and a retry continues: {}", failure.error);
                snapshot.condition = quarry_volume::SnapshotCondition::Other;
            }
        }
    }

    /// Stores why a snapshot could not be copied; `None`: it was, or is not needed any more.
    pub(crate) fn set_failure(&self, snapshot: &str, error: Option<Error>) {
        let mut inner = self.inner.lock();
        match error {
            Some(error) => inner.failures.insert(snapshot.to_owned(), Failure { error, is_told: false }),
            None => inner.failures.remove(snapshot),
        };
    }

    /// Why a snapshot could not be copied, if no caller got that error yet.
    pub(crate) fn tell_failure(&self, snapshot: &str) -> Option<Error> {
        let mut inner = self.inner.lock();
        let failure = inner.failures.get_mut(snapshot).filter(|failure| !failure.is_told)?;
        failure.is_told = true;
        Some(failure.error.clone())
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

    /// What is being filled from this source now.
    pub(crate) fn of(&self, source: &ContentSource) -> Option<CopyTarget> {
        let inner = self.inner.lock();
        inner.running.iter().find(|(_, copy)| copy.source == *source).map(|(target, _)| target.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut inner = self.copies.inner.lock();
        let copied = inner.running.remove(&self.target).map_or(0, |copy| copy.copied());
        inner.copied = inner.copied.saturating_add(copied);
    }
}
