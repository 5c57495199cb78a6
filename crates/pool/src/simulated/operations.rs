//! The operations of a simulated pool, and their duration.

use std::path::PathBuf;
use std::time::Duration;

use quarry_volume::{
    CowSize, Error, Gib, Layout, PoolCapabilities, PoolState, Reason, Result, SizeRange, Space, StorageId, VolumeSpec,
    safe_name,
};

use super::disks::{Disks, Slot};
use super::{Failure, Inner, Operation, SimulatedDevice, SimulatedPool, expansion, snapshot};
use crate::key::VolumeKey;
use crate::pool::{Device, Expansion, Reading, Volumes, supports_plain};
use crate::{Health, Pool, PoolSnapshot, PoolVolume, Record, Recorded, SnapshotRecord, Tag, Uevents};

impl Inner {
    /// Runs `work` in the middle of the time that the operation takes.
    pub(super) async fn run<T>(&self, operation: Operation, work: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        // The sender lives as long as `self`, so this cannot fail.
        let _ = self.awake.subscribe().wait_for(|awake| *awake).await;
        let (delay, failure, unreadable) = {
            let mut plan = self.plan();
            *plan.begun.entry(operation).or_default() += 1;
            let usual = if operation == Operation::Read { Duration::ZERO } else { plan.delay };
            let delay = plan.delays.get(&operation).copied().unwrap_or(usual);
            let next = plan.failures.iter().position(|(planned, _)| *planned == operation);
            let failure = next.map(|index| plan.failures.remove(index).1);
            (delay, failure, plan.unreadable.clone().filter(|_| operation == Operation::Read))
        };
        let failed = || Error::host(format!("pool {}: {operation:?} fails as configured", self.name));
        sleep(delay / 2).await;
        if let Some(why) = unreadable {
            return Err(Error::unavailable(format!("pool {}: {why}", self.name)));
        }
        if failure == Some(Failure::Before) {
            return Err(failed());
        }
        let result = work(self)?;
        sleep(delay / 2).await;
        if failure == Some(Failure::After) { Err(failed().not_final()) } else { Ok(result) }
    }

    pub(super) fn create(&self, spec: &VolumeSpec) -> Result<PoolVolume> {
        let mut disks = self.disks();
        let name = safe_name(&spec.name);
        if let Some(slot) = disks.get(&name) {
            let Some(volume) = self.describe(&name, slot) else {
                return Err(Error::precondition(format!("pool {}: {name} is taken, and not a volume", self.name)));
            };
            volume.record()?;
            return Err(Error::new(Reason::Exists, format!("pool {}: {name} already exists", self.name)));
        }
        let space = self.space(&disks);
        let size = spec.size.choose(space.unit(&spec.class.layout))?;
        let largest = space.largest(&spec.class.layout);
        let extents = self.extent.whole_in(size);
        if extents > largest.extents {
            return Err(Error::new(
                Reason::NoSpace,
                format!(
                    "pool {} cannot hold {size} bytes ({}): the largest volume of this layout that it can create now \
                     has {} bytes",
                    self.name, spec.class.layout, largest.bytes
                ),
            ));
        }
        disks.create(&name, extents, &spec.class.layout, size, Record::new(spec, size).to_string());
        let made = disks.get(&name).and_then(|slot| self.describe(&name, slot));
        made.ok_or_else(|| Error::host("a simulated volume has vanished"))
    }

    /// The volume in a slot; `None` if what is in it is not a volume.
    pub(super) fn describe(&self, name: &str, slot: &Slot) -> Option<PoolVolume> {
        Some(PoolVolume {
            name: name.to_owned(),
            stored_as: name.to_owned(),
            storage: StorageId::of(&self.uuid),
            key: VolumeKey::Simulated { storage: self.uuid.clone(), number: slot.number },
            size: slot.size,
            record: match Record::parse(&slot.record) {
                Tag::Record(record) => Recorded::Here(record),
                Tag::Newer { version } => Recorded::Newer(version),
                Tag::Broken { why } => Recorded::Broken(why),
                Tag::Foreign => Recorded::Broken("it has no record".to_owned()),
                Tag::NotVolume(_) | Tag::Scratch(_) | Tag::Snapshot(_) | Tag::ThinPool(_) => return None,
            },
            health: Health::Whole,
        })
    }

    /// All volumes.
    fn describe_all(&self, disks: &Disks) -> Vec<PoolVolume> {
        disks.volumes().filter_map(|(name, slot)| self.describe(name, slot)).collect()
    }

    /// The current state of a volume, for a change.
    pub(super) fn current(&self, disks: &Disks, volume: &PoolVolume) -> Result<PoolVolume> {
        let current = disks.get(&volume.name).and_then(|slot| self.describe(&volume.name, slot));
        current.filter(|current| current.key == volume.key).ok_or_else(|| {
            Error::unavailable(format!("volume {} is no longer in pool {}: retry", volume.name, self.name))
        })
    }
}

/// Lets time pass, and other tasks run.
async fn sleep(time: Duration) {
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
            capabilities: PoolCapabilities { snapshots: true, ..PoolCapabilities::default() },
            ..PoolState::default()
        };
        let read = self.inner.run(Operation::Read, |inner| {
            let disks = inner.disks();
            let state = PoolState {
                storage: Some(StorageId::of(&inner.uuid)),
                size: inner.extent.bytes(disks.size()),
                space: inner.space(&disks),
                volumes: u64::try_from(inner.describe_all(&disks).len()).unwrap_or(u64::MAX),
                ..state.clone()
            };
            let volumes =
                if known == Some(disks.mark()) { Volumes::Same } else { Volumes::All(inner.describe_all(&disks)) };
            Ok(Reading { state, mark: disks.mark(), volumes, snapshots: inner.snapshots(&disks) })
        });
        read.await.unwrap_or_else(|error| {
            let space = Space { closed: Some(error.message.clone()), ..Space::default() };
            let state = PoolState { space, problems: vec![error.message], ..state.clone() };
            Reading { state, mark: 0, volumes: Volumes::Unreadable, snapshots: Vec::new() }
        })
    }

    fn uevents(&self) -> &Uevents {
        &self.inner.uevents
    }

    fn changing(&self) -> bool {
        // While it hangs, any change counts as one that takes too long.
        self.inner.changing.try_lock().is_err() && *self.inner.awake.borrow()
    }

    fn last_storage(&self) -> Option<StorageId> {
        Some(StorageId::of(&self.inner.uuid))
    }

    async fn volumes(&self) -> Result<Vec<PoolVolume>> {
        self.inner.run(Operation::Read, |inner| Ok(inner.describe_all(&inner.disks()))).await
    }

    async fn volume(&self, name: &str) -> Result<Option<PoolVolume>> {
        let one = |inner: &Inner| Ok(inner.disks().get(name).and_then(|slot| inner.describe(name, slot)));
        self.inner.run(Operation::Read, one).await
    }

    async fn find_requested(&self, name: &str) -> Result<Option<PoolVolume>> {
        let found = self.volume(&safe_name(name)).await?;
        Ok(found.filter(|volume| volume.is_requested_as(name)))
    }

    async fn storage(&self) -> Result<StorageId> {
        self.inner.run(Operation::Read, |inner| Ok(StorageId::of(&inner.uuid))).await
    }

    fn supports(&self, spec: &VolumeSpec) -> Result<()> {
        // It supports all layouts.
        supports_plain(&self.inner.name, &spec.clone().with_layout(Layout::Linear))
    }

    async fn size_of(&self, spec: &VolumeSpec) -> Result<u64> {
        let size = |inner: &Inner| spec.size.choose(inner.space(&inner.disks()).unit(&spec.class.layout));
        self.inner.run(Operation::Read, size).await
    }

    async fn create(&self, spec: &VolumeSpec) -> Result<PoolVolume> {
        self.supports(spec)?;
        let _lock = self.inner.changing.lock().await;
        self.inner.run(Operation::Create, |inner| inner.create(spec)).await
    }

    async fn activate(&self, volume: &PoolVolume) -> Result<Device> {
        let active = |inner: &Inner| inner.current(&inner.disks(), volume).map(drop);
        self.inner.run(Operation::Activate, active).await?;
        Ok(Device::Simulated(SimulatedDevice::new(&self.inner, &volume.name)))
    }

    fn device(&self, _volume: &PoolVolume) -> Result<Option<PathBuf>> {
        Ok(None)
    }

    async fn set_record(&self, volume: &PoolVolume, record: &Record) -> Result<()> {
        let _lock = self.inner.changing.lock().await;
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

    async fn reserve_expansion(&self, volume: &PoolVolume, size: &SizeRange) -> Result<Option<Expansion>> {
        let _lock = self.inner.changing.lock().await;
        self.inner.run(Operation::Expand, |_| expansion::reserve(&self.inner, volume, size)).await
    }

    async fn set_expansion_zeroed(&self, volume: &PoolVolume, zeroed: Gib) -> Result<()> {
        let _lock = self.inner.changing.lock().await;
        self.inner.run(Operation::SetRecord, |inner| inner.set_expansion_zeroed(volume, zeroed)).await
    }

    async fn expand(&self, volume: &PoolVolume, expansion: &Expansion) -> Result<PoolVolume> {
        let _lock = self.inner.changing.lock().await;
        self.inner.run(Operation::Expand, |inner| inner.expand(volume, expansion)).await
    }

    async fn snapshots(&self) -> Result<Vec<PoolSnapshot>> {
        self.inner.run(Operation::Read, |inner| Ok(inner.snapshots(&inner.disks()))).await
    }

    async fn take_snapshot(
        &self,
        volume: &PoolVolume,
        record: &SnapshotRecord,
        cow_size: CowSize,
    ) -> Result<PoolSnapshot> {
        let _lock = self.inner.changing.lock().await;
        let name = record.id_name();
        let take = |inner: &Inner| inner.take_snapshot(volume, record, cow_size);
        self.inner.run(Operation::TakeSnapshot, take).await?;
        let ready = self.inner.run(Operation::SetRecord, |inner| inner.set_snapshot_ready(&name)).await;
        ready.map_err(Error::not_final)
    }

    async fn create_copy(&self, record: &SnapshotRecord, from: &PoolSnapshot) -> Result<PoolSnapshot> {
        let _lock = self.inner.changing.lock().await;
        self.inner.run(Operation::CreateCopy, |inner| inner.create_copy(record, from)).await
    }

    async fn set_snapshot_record(&self, snapshot: &PoolSnapshot, record: &SnapshotRecord) -> Result<()> {
        let _lock = self.inner.changing.lock().await;
        self.inner.run(Operation::SetRecord, |inner| inner.set_snapshot_record(snapshot, record)).await
    }

    async fn activate_snapshot(&self, snapshot: &PoolSnapshot) -> Result<Device> {
        let active = |inner: &Inner| inner.usable_snapshot(&inner.disks(), snapshot);
        self.inner.run(Operation::Activate, active).await?;
        Ok(Device::Simulated(SimulatedDevice::new(&self.inner, &snapshot::stored_as(&snapshot.name))))
    }

    async fn remove_snapshot(&self, snapshot: &PoolSnapshot) -> Result<()> {
        let _lock = self.inner.changing.lock().await;
        self.inner.run(Operation::RemoveSnapshot, |inner| inner.remove_snapshot(snapshot)).await
    }

    async fn check_removable(&self, volume: &PoolVolume) -> Result<()> {
        let _lock = self.inner.changing.lock().await;
        let check = |inner: &Inner| {
            let mut disks = inner.disks();
            inner.current(&disks, volume)?.record()?;
            inner.remove_interrupted_snapshots(&mut disks, volume, |_| true);
            snapshot::check_none(&inner.name, &volume.name, &inner.snapshots_of(&disks, volume), "removed")
        };
        self.inner.run(Operation::Read, check).await
    }

    async fn remove(&self, volume: &PoolVolume) -> Result<()> {
        let _lock = self.inner.changing.lock().await;
        let remove = |inner: &Inner| {
            let mut disks = inner.disks();
            inner.current(&disks, volume)?.record()?;
            inner.remove_interrupted_snapshots(&mut disks, volume, |_| true);
            snapshot::check_none(&inner.name, &volume.name, &inner.snapshots_of(&disks, volume), "removed")?;
            disks.remove(&expansion::scratch_of(&volume.name));
            disks.remove(&volume.name);
            Ok(())
        };
        self.inner.run(Operation::Remove, remove).await
    }
}
