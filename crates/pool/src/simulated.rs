//! A pool in memory, for tests of what stands above pools.
//!
//! It gives out extents of simulated disks by the same arithmetic as a volume group, and keeps the same records as text.
//! All clones are the same storage, so a clone that is handed to the next host is what a restart would find. Operations
//! take a simulated time (tokio's, which tests may pause), take effect in the middle of it, and can be made to fail or
//! hang.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quarry_lvm::safe_name;
use quarry_volume::{Error, PoolState, Reason, Result, Space, StorageId, VolumeSpec};
use tokio::sync::watch;

use self::disks::{Disks, Slot};
use crate::pool::{Device, Reading, Volumes};
use crate::{Health, Pool, PoolVolume, Record, Recorded, Tag, Uevents};

mod disks;

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

/// The bytes of a volume in a simulated pool, as far as they are simulated: what was zeroed, and whether it was wiped.
#[derive(Clone)]
pub struct SimulatedDevice {
    inner: Arc<Inner>,
    volume: String,
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
}

impl SimulatedPool {
    /// A pool of that name with units of `extent` bytes on disks of so many extents each. Every operation but a read takes
    /// `delay`.
    #[must_use]
    pub fn new(name: impl Into<String>, extent: u64, disks: Vec<u64>, delay: Duration) -> Self {
        let name = name.into();
        let plan = Plan { delay, delays: HashMap::new(), failures: Vec::new(), unreadable: None };
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
        self.disks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn space(&self, disks: &Disks) -> Space {
        Space { extent: self.extent, free: disks.sorted(), reserve: 0, closed: None }
    }

    /// Does `work` in the middle of the time that the operation takes.
    async fn run<T>(&self, operation: Operation, work: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        // The sender lives as long as `self`: this cannot fail.
        let _ = self.awake.subscribe().wait_for(|awake| *awake).await;
        let (delay, failure, unreadable) = {
            let mut plan = self.plan();
            let usual = if operation == Operation::Read { Duration::ZERO } else { plan.delay };
            let delay = plan.delays.get(&operation).copied().unwrap_or(usual);
            let next = plan.failures.iter().position(|(planned, _)| *planned == operation);
            let failure = next.map(|index| plan.failures.remove(index).1);
            (delay, failure, plan.unreadable.clone().filter(|_| operation == Operation::Read))
        };
        let failed = || Error::host(format!("pool {}: {operation:?} was made to fail", self.name));
        pass(delay / 2).await;
        if let Some(why) = unreadable {
            return Err(Error::unavailable(format!("pool {}: {why}", self.name)));
        }
        if failure == Some(Failure::Before) {
            return Err(failed());
        }
        let result = work(self)?;
        pass(delay / 2).await;
        if failure == Some(Failure::After) { Err(failed()) } else { Ok(result) }
    }

    fn carve(&self, spec: &VolumeSpec) -> Result<PoolVolume> {
        let mut disks = self.disks();
        let name = safe_name(&spec.name);
        if let Some(slot) = disks.get(&name) {
            self.describe(&name, slot).record()?;
            return Err(Error::new(Reason::Exists, format!("pool {}: {name} exists already", self.name)));
        }
        let space = self.space(&disks);
        let size = spec.size.choose(space.unit(&spec.layout))?;
        let largest = space.largest(&spec.layout);
        let extents = size / self.extent;
        if extents > largest.extents {
            return Err(Error::new(
                Reason::NoSpace,
                format!(
                    "pool {} cannot hold {size} bytes ({}): the largest volume of this layout it can make now has {} bytes",
                    self.name, spec.layout, largest.bytes
                ),
            ));
        }
        disks.carve(&name, extents, &spec.layout, size, Record::new(spec, size).to_string());
        let slot = disks.get(&name).ok_or_else(|| Error::host("a simulated volume vanished"))?;
        Ok(self.describe(&name, slot))
    }

    fn describe(&self, name: &str, slot: &Slot) -> PoolVolume {
        PoolVolume {
            name: name.to_owned(),
            storage: StorageId::of(&self.uuid),
            group: self.uuid.clone(),
            uuid: format!("{}-{}", self.uuid, slot.number),
            size: slot.size,
            record: match Record::parse(&slot.record) {
                Tag::Record(record) => Recorded::Here(record),
                Tag::Newer { version } => Recorded::Newer(version),
                Tag::Broken { why } => Recorded::Broken(why),
                Tag::Foreign => Recorded::Broken("it carries no record".to_owned()),
            },
            health: Health::Whole,
        }
    }

    /// The volume as it is now, for a change of it.
    fn current(&self, disks: &Disks, volume: &PoolVolume) -> Result<PoolVolume> {
        let current = disks.get(&volume.name).map(|slot| self.describe(&volume.name, slot));
        current.filter(|current| current.uuid == volume.uuid).ok_or_else(|| {
            Error::unavailable(format!("volume {} is not in pool {} any more: retry", volume.name, self.name))
        })
    }
}

/// Lets time pass, and others run.
async fn pass(time: Duration) {
    if time.is_zero() {
        tokio::task::yield_now().await;
    } else {
        tokio::time::sleep(time).await;
    }
}

#[async_trait::async_trait]
impl Pool for SimulatedPool {
    fn name(&self) -> &str {
        &self.inner.name
    }

    async fn read(&self, known: Option<u64>) -> Reading {
        let state = PoolState {
            name: self.inner.name.clone(),
            kind: "simulated".to_owned(),
            on: self.inner.uuid.clone(),
            ..PoolState::default()
        };
        let read = self.inner.run(Operation::Read, |inner| {
            let disks = inner.disks();
            let state = PoolState {
                storage: Some(StorageId::of(&inner.uuid)),
                size: disks.size().saturating_mul(inner.extent),
                space: inner.space(&disks),
                volumes: u64::try_from(disks.volumes().count()).unwrap_or(u64::MAX),
                ..state.clone()
            };
            let volumes = if known == Some(disks.mark()) {
                Volumes::Same
            } else {
                Volumes::All(disks.volumes().map(|(name, slot)| inner.describe(name, slot)).collect())
            };
            Ok(Reading { state, mark: disks.mark(), volumes })
        });
        read.await.unwrap_or_else(|error| {
            let space = Space { closed: Some(error.message.clone()), ..Space::default() };
            let state = PoolState { space, problems: vec![error.message], ..state.clone() };
            Reading { state, mark: 0, volumes: Volumes::Unreadable }
        })
    }

    fn uevents(&self) -> &Uevents {
        &self.inner.uevents
    }

    async fn volumes(&self) -> Result<Vec<PoolVolume>> {
        let all = |inner: &Inner| {
            Ok(inner.disks().volumes().map(|(name, slot)| inner.describe(name, slot)).collect::<Vec<_>>())
        };
        self.inner.run(Operation::Read, all).await
    }

    async fn volume(&self, name: &str) -> Result<Option<PoolVolume>> {
        let one = |inner: &Inner| Ok(inner.disks().get(name).map(|slot| inner.describe(name, slot)));
        self.inner.run(Operation::Read, one).await
    }

    async fn asked(&self, name: &str) -> Result<Option<PoolVolume>> {
        let found = self.volume(&safe_name(name)).await?;
        Ok(found.filter(|volume| volume.record().is_ok_and(|record| record.name == name)))
    }

    async fn storage(&self) -> Result<StorageId> {
        self.inner.run(Operation::Read, |inner| Ok(StorageId::of(&inner.uuid))).await
    }

    async fn size_of(&self, spec: &VolumeSpec) -> Result<u64> {
        let size = |inner: &Inner| spec.size.choose(inner.space(&inner.disks()).unit(&spec.layout));
        self.inner.run(Operation::Read, size).await
    }

    async fn carve(&self, spec: &VolumeSpec) -> Result<PoolVolume> {
        let _turn = self.inner.changing.lock().await;
        self.inner.run(Operation::Carve, |inner| inner.carve(spec)).await
    }

    async fn activate(&self, volume: &PoolVolume) -> Result<Device> {
        let active = |inner: &Inner| inner.current(&inner.disks(), volume).map(drop);
        self.inner.run(Operation::Activate, active).await?;
        Ok(Device::Simulated(SimulatedDevice { inner: Arc::clone(&self.inner), volume: volume.name.clone() }))
    }

    fn device(&self, _volume: &PoolVolume) -> Result<Option<PathBuf>> {
        Ok(None)
    }

    async fn set_record(&self, volume: &PoolVolume, record: &Record) -> Result<()> {
        let _turn = self.inner.changing.lock().await;
        let change = |inner: &Inner| {
            let mut disks = inner.disks();
            if inner.current(&disks, volume)?.record()? != volume.record()? {
                return Err(Error::precondition(format!("the record of volume {} was changed; retry", volume.name)));
            }
            disks.set_record(&volume.name, record.to_string());
            Ok(())
        };
        self.inner.run(Operation::SetRecord, change).await
    }

    async fn remove(&self, volume: &PoolVolume) -> Result<()> {
        let _turn = self.inner.changing.lock().await;
        let remove = |inner: &Inner| {
            let mut disks = inner.disks();
            inner.current(&disks, volume)?.record()?;
            disks.remove(&volume.name);
            Ok(())
        };
        self.inner.run(Operation::Remove, remove).await
    }
}

impl SimulatedDevice {
    /// Notes that its signatures were wiped.
    ///
    /// # Errors
    /// As planned.
    pub async fn wipe(&self) -> Result<()> {
        self.write(|slot| slot.wiped = true).await
    }

    /// Notes that `length` bytes from `offset` were zeroed. Only what joins on to the zeros from the beginning counts.
    ///
    /// # Errors
    /// As planned.
    pub async fn zero(&self, offset: u64, length: u64) -> Result<()> {
        self.write(|slot| {
            if offset <= slot.zeroed {
                slot.zeroed = slot.zeroed.max(offset.saturating_add(length));
            }
        })
        .await
    }

    async fn write(&self, note: impl FnOnce(&mut Slot)) -> Result<()> {
        let write = |inner: &Inner| match inner.disks().get_mut(&self.volume) {
            Some(slot) => {
                note(slot);
                Ok(())
            }
            None => Err(Error::host(format!("the device of volume {} is gone", self.volume))),
        };
        self.inner.run(Operation::Write, write).await
    }
}

impl fmt::Debug for SimulatedDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SimulatedDevice").field(&self.volume).finish()
    }
}
