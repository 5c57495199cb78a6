//! A pool in memory, for tests of the code that uses pools.
//!
//! It allocates extents of simulated disks with the same arithmetic as a volume group, and keeps the same
//! records as text. All clones share the storage, so a clone that is passed to the next host behaves like a
//! restart. Operations take simulated time (tokio's, which tests may pause), take effect in the middle of it,
//! and can be made to fail or hang.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use quarry_volume::{ExtentSize, Extents, Space, VolumeSpec};
use tokio::sync::watch;

use self::disks::Disks;
use crate::{Record, SnapshotHealth, Tag, Uevents};

mod device;
mod disks;
mod expansion;
mod operations;
mod snapshot;

pub use self::device::SimulatedDevice;

/// The operations of a simulated pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Any read of the storage.
    Read,
    /// Creating a volume.
    Create,
    /// Changing a record.
    SetRecord,
    /// Removing a volume.
    Remove,
    /// Making a device appear.
    Activate,
    /// Wiping or zeroing a part of a device.
    Write,
    /// Reserving new space for a volume, or adding it.
    Expand,
    /// Taking a snapshot. Making its record `ready` is another operation: [`Self::SetRecord`].
    TakeSnapshot,
    /// Creating the space for a full copy.
    CreateCopy,
    /// Removing a snapshot.
    RemoveSnapshot,
}

/// When a failing operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Before it has done anything.
    Before,
    /// After it was done: only its answer is lost.
    After,
}

/// A pool in memory. All clones share the storage.
#[derive(Clone)]
pub struct SimulatedPool {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    /// The storage's own identifier.
    uuid: String,
    extent: ExtentSize,
    uevents: Uevents,
    disks: Mutex<Disks>,
    plan: Mutex<Plan>,
    /// One change at a time, as under a volume group's lock.
    changing: tokio::sync::Mutex<()>,
    /// False while everything hangs.
    awake: watch::Sender<bool>,
}

/// How operations behave.
struct Plan {
    delay: Duration,
    delays: HashMap<Operation, Duration>,
    failures: Vec<(Operation, Failure)>,
    unreadable: Option<String>,
    /// How often each operation was started.
    begun: HashMap<Operation, u64>,
}

impl SimulatedPool {
    /// A pool with that name, with units of `extent` bytes, on disks with that many extents each. Every
    /// operation except a read takes `delay`.
    #[must_use]
    pub fn new(name: impl Into<String>, extent: u64, disks: Vec<u64>, delay: Duration) -> Self {
        let name = name.into();
        let plan =
            Plan { delay, delays: HashMap::new(), failures: Vec::new(), unreadable: None, begun: HashMap::new() };
        Self {
            inner: Arc::new(Inner {
                uuid: format!("simulated-{name}"),
                name,
                extent: ExtentSize(extent.max(1)),
                uevents: Uevents::default(),
                disks: Mutex::new(Disks::new(&disks)),
                plan: Mutex::new(plan),
                changing: tokio::sync::Mutex::default(),
                awake: watch::Sender::new(true),
            }),
        }
    }

    /// The same pool on a storage with the identifier `uuid`: otherwise, pools with the same name have the
    /// same identity. Only for a pool without clones.
    #[must_use]
    pub fn with_uuid(mut self, uuid: impl Into<String>) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            inner.uuid = uuid.into();
        }
        self
    }

    /// Sets the time that operations of that kind take from now on.
    pub fn set_delay(&self, operation: Operation, delay: Duration) {
        self.inner.plan().delays.insert(operation, delay);
    }

    /// Makes the next operation of that kind fail. Several calls are queued.
    pub fn fail_next(&self, operation: Operation, failure: Failure) {
        self.inner.plan().failures.push((operation, failure));
    }

    /// Forgets the failures that are queued.
    pub fn forget_failures(&self) {
        self.inner.plan().failures.clear();
    }

    /// Makes every operation hang before it does anything, or ends that.
    pub fn hang(&self, hang: bool) {
        self.inner.awake.send_replace(!hang);
    }

    /// Makes reads fail with that reason, or ends that.
    pub fn set_unreadable(&self, why: Option<&str>) {
        self.inner.plan().unreadable = why.map(str::to_owned);
    }

    /// Simulates a uevent of a changed device.
    pub fn uevent(&self) {
        self.inner.uevents.count(false);
    }

    /// Takes extents of a disk outside Quarry. Returns how many were taken.
    pub fn take_by_hand(&self, disk: usize, extents: u64) -> u64 {
        self.inner.disks().take(disk, Extents(extents)).0
    }

    /// Removes a volume outside Quarry, by its name on the storage. Returns whether it existed.
    pub fn remove_by_hand(&self, volume: &str) -> bool {
        self.inner.disks().remove(volume).is_some()
    }

    /// Replaces the text of a volume's record outside Quarry. Returns whether the volume existed.
    pub fn set_record_by_hand(&self, volume: &str, record: &str) -> bool {
        let mut disks = self.inner.disks();
        disks.set_record(volume, record.to_owned());
        disks.get(volume).is_some()
    }

    /// Changes the contents of a volume outside Quarry. The number stands for what is written.
    pub fn write_by_hand(&self, volume: &str, contents: u64) {
        if let Some(slot) = self.inner.disks().get_mut(volume) {
            slot.contents = contents;
        }
    }

    /// What stands for the contents of a volume (0: nothing), and how many bytes of it were copied.
    #[must_use]
    pub fn contents_of(&self, volume: &str) -> Option<(u64, u64)> {
        self.inner.disks().get(volume).map(|slot| (slot.contents, slot.copied))
    }

    /// Damages a snapshot, by its name in the pool.
    pub fn set_snapshot_health(&self, snapshot: &str, health: SnapshotHealth) {
        self.inner.disks().set_damage(&snapshot::stored_as(snapshot), health);
    }

    /// The text of the record of a snapshot, by its name in the pool.
    #[must_use]
    pub fn record_of_snapshot(&self, snapshot: &str) -> Option<String> {
        self.record_of(&snapshot::stored_as(snapshot))
    }

    /// The text of a volume's record.
    #[must_use]
    pub fn record_of(&self, volume: &str) -> Option<String> {
        self.inner.disks().get(volume).map(|slot| slot.record.to_string())
    }

    /// Fills the pool with volumes of this spec, named `NAME-0` and so on. Returns how many were created.
    pub fn fill(&self, spec: &VolumeSpec, count: usize) -> usize {
        let name = |number: usize| format!("{}-{number}", spec.name);
        let specs = (0..count).map(|number| VolumeSpec { name: name(number), ..spec.clone() });
        specs.map_while(|spec| self.inner.create(&spec).ok()).count()
    }

    /// The requested names of the volumes, sorted by their names on the storage.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let disks = self.inner.disks();
        let named = disks.volumes().filter_map(|(_, slot)| match Record::parse(&slot.record) {
            Tag::Record(record) => Some(record.name.clone()),
            _ => None,
        });
        named.collect()
    }

    /// How often operations of that kind were started.
    #[must_use]
    pub fn begun(&self, operation: Operation) -> u64 {
        self.inner.plan().begun.get(&operation).copied().unwrap_or_default()
    }

    /// How much of a volume is zeroed, in bytes, and whether its signatures were wiped.
    #[must_use]
    pub fn bytes_of(&self, volume: &str) -> Option<(u64, bool)> {
        self.inner.disks().get(volume).map(|slot| (slot.zeroed, slot.wiped))
    }

    /// The free extents of each disk.
    #[must_use]
    pub fn free(&self) -> Vec<u64> {
        self.inner.disks().free().iter().map(|free| free.0).collect()
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
        Space { extent: self.extent, free: disks.sorted(), ..Space::default() }
    }
}
