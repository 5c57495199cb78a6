//! A pool in memory, for tests of what stands above pools.
//!
//! It gives out extents of simulated disks by the same arithmetic as a volume group, and keeps the same records as text.
//! All clones are the same storage, so a clone that is handed to the next host is what a restart would find. Operations
//! take a simulated time (tokio's, which tests may pause), take effect in the middle of it, and can be made to fail or
//! hang.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use quarry_volume::{Space, VolumeSpec};
use tokio::sync::watch;

use self::disks::Disks;
use crate::{Record, Tag, Uevents};

mod device;
mod disks;
mod operations;

pub use self::device::SimulatedDevice;

/// What a simulated pool does for its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Any look at the storage.
    Read,
    /// Carving a volume.
    Carve,
    /// Changing a record.
    SetRecord,
    /// Removing a volume.
    Remove,
    /// Making a device appear.
    Activate,
    /// Wiping or zeroing a part of a device.
    Write,
}

/// When an operation that is made to fail does so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nothing was done.
    Before,
    /// It was done, and only its answer is lost.
    After,
}

/// A pool in memory. All clones are the same.
#[derive(Clone)]
pub struct SimulatedPool {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    /// What the storage calls itself.
    uuid: String,
    extent: u64,
    uevents: Uevents,
    disks: Mutex<Disks>,
    plan: Mutex<Plan>,
    /// One change at a time, as under a volume group's lock.
    changing: tokio::sync::Mutex<()>,
    /// False while everything hangs.
    awake: watch::Sender<bool>,
}

/// How operations are to behave.
struct Plan {
    delay: Duration,
    delays: HashMap<Operation, Duration>,
    failures: Vec<(Operation, Failure)>,
    unreadable: Option<String>,
    /// How often each operation was begun.
    begun: HashMap<Operation, u64>,
}

impl SimulatedPool {
    /// A pool of that name with units of `extent` bytes on disks of so many extents each. Every operation but a read takes
    /// `delay`.
    #[must_use]
    pub fn new(name: impl Into<String>, extent: u64, disks: Vec<u64>, delay: Duration) -> Self {
        let name = name.into();
        let plan =
            Plan { delay, delays: HashMap::new(), failures: Vec::new(), unreadable: None, begun: HashMap::new() };
        Self {
            inner: Arc::new(Inner {
                uuid: format!("simulated-{name}"),
                name,
                extent: extent.max(1),
                uevents: Uevents::default(),
                disks: Mutex::new(Disks::new(disks)),
                plan: Mutex::new(plan),
                changing: tokio::sync::Mutex::default(),
                awake: watch::Sender::new(true),
            }),
        }
    }

    /// The same pool on a storage that calls itself `uuid`: otherwise pools of one name have the same identity. Only for a
    /// pool that has no clone yet.
    #[must_use]
    pub fn with_uuid(mut self, uuid: impl Into<String>) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            inner.uuid = uuid.into();
        }
        self
    }

    /// How long operations of that kind take from now on.
    pub fn set_delay(&self, operation: Operation, delay: Duration) {
        self.inner.plan().delays.insert(operation, delay);
    }

    /// Makes the next operation of that kind fail; several wait in line.
    pub fn fail_next(&self, operation: Operation, failure: Failure) {
        self.inner.plan().failures.push((operation, failure));
    }

    /// Lets every operation hang before it does anything, or ends that.
    pub fn hang(&self, hang: bool) {
        self.inner.awake.send_replace(!hang);
    }

    /// Makes reads fail with that reason, or ends that.
    pub fn set_unreadable(&self, why: Option<&str>) {
        self.inner.plan().unreadable = why.map(str::to_owned);
    }

    /// Makes a uevent be heard, as of a device that changed.
    pub fn uevent(&self) {
        self.inner.uevents.count(false);
    }

    /// Takes extents of a disk for somebody else, past Quarry. Returns how many were free to be taken.
    pub fn take_by_hand(&self, disk: usize, extents: u64) -> u64 {
        self.inner.disks().take(disk, extents)
    }

    /// Removes a volume past Quarry, by its name on the storage. Returns whether it was there.
    pub fn remove_by_hand(&self, volume: &str) -> bool {
        self.inner.disks().remove(volume).is_some()
    }

    /// Fills the pool with volumes as this spec says, named `NAME-0` and so on. Returns how many were made.
    pub fn fill(&self, spec: &VolumeSpec, count: usize) -> usize {
        let name = |number: usize| format!("{}-{number}", spec.name);
        let specs = (0..count).map(|number| VolumeSpec { name: name(number), ..spec.clone() });
        specs.map_while(|spec| self.inner.carve(&spec).ok()).count()
    }

    /// The names that volumes were asked for under, sorted by their names on the storage.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let disks = self.inner.disks();
        let named = disks.volumes().filter_map(|(_, slot)| match Record::parse(&slot.record) {
            Tag::Record(record) => Some(record.name.clone()),
            _ => None,
        });
        named.collect()
    }

    /// How often operations of that kind were begun.
    #[must_use]
    pub fn begun(&self, operation: Operation) -> u64 {
        self.inner.plan().begun.get(&operation).copied().unwrap_or_default()
    }

    /// How much of a volume is known to be zeros, in bytes, and whether its signatures were wiped.
    #[must_use]
    pub fn bytes_of(&self, volume: &str) -> Option<(u64, bool)> {
        self.inner.disks().get(volume).map(|slot| (slot.zeroed, slot.wiped))
    }

    /// The free extents of each disk.
    #[must_use]
    pub fn free(&self) -> Vec<u64> {
        self.inner.disks().free().to_vec()
    }
}

impl Inner {
    fn disks(&self) -> MutexGuard<'_, Disks> {
        self.disks.lock()
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock()
    }

    fn space(&self, disks: &Disks) -> Space {
        Space { extent: self.extent, free: disks.sorted(), reserve: 0, closed: None, whole: false }
    }
}
