//! A pool on the machine: a simulated pool whose volumes have devices.

use std::future::pending;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use quarry_mount::Device as Number;
use quarry_pool::{
    Contents, ContentsOf, Device, Expansion, Failure, NewSpace, Operation, Pool, PoolSnapshot, PoolVolume, Reading,
    Record, Recorded, SimulatedPool, SnapshotHealth, SnapshotKind, SnapshotRecord, State, Uevents, UnresponsiveDisk,
    Volumes,
};
use quarry_volume::{CowSize, Error, Gib, Reason, Result, SizeRange, SnapshotMethod, StorageId, VolumeSpec};

use super::machine::{Bytes, Content, Disk, MAPPER, Process, State as Machine, node, snapshot_node, space_node};

/// The pool as one process uses it.
pub(super) struct MachinePool {
    pub(super) simulated: SimulatedPool,
    pub(super) process: Process,
    /// Whether its volumes can have snapshots.
    pub(super) snapshots: bool,
    /// See [`Pool::create_with_contents`].
    pub(super) shares: bool,
}

impl MachinePool {
    /// Waits forever if the process is dead.
    async fn alive(&self) {
        if !self.process.is_alive() {
            pending::<()>().await;
        }
    }

    /// The simulated pool knows only the size that the volume was created with.
    fn set_size(&self, volume: &mut PoolVolume) {
        volume.size = self.process.state().volume_size(&volume.name, volume.size);
    }

    /// Gives the device of an active volume the size of the volume.
    async fn refresh(&self, volume: &PoolVolume) {
        let stale = self.process.try_read(|machine| machine.is_stale(&volume.name));
        if stale.unwrap_or_default() {
            self.effect("refresh", |machine| machine.refresh(&volume.name)).await;
        }
    }

    /// Releases the space that is reserved for the volume.
    async fn release(&self, volume: &PoolVolume) -> Result<()> {
        let name = &volume.name;
        if self.process.try_read(|machine| machine.reserved.contains_key(name)).unwrap_or_default() {
            let release = |machine: &mut Machine| match machine.is_space_open(name) {
                true => Err(in_use(volume)),
                false => {
                    machine.release(name);
                    Ok(())
                }
            };
            self.effect("release", release).await?;
        }
        Ok(())
    }

    /// Removes the snapshots of a volume whose creation was interrupted.
    async fn remove_interrupted_snapshots(&self, volume: &PoolVolume) -> Result<()> {
        for snapshot in self.simulated.snapshots().await? {
            if is_attached(&snapshot.record, volume) && matches!(snapshot.health, SnapshotHealth::Incomplete(_)) {
                self.remove_snapshot(&snapshot).await?;
            }
        }
        Ok(())
    }

    /// An effect: a dead process never returns from it.
    async fn effect<T>(&self, what: &str, work: impl FnOnce(&mut Machine) -> T) -> T {
        self.process.pause().await;
        match self.process.try_effect(what, work) {
            Some(result) => result,
            None => pending().await,
        }
    }
}

/// The unit in which the pool allocates, in bytes.
const EXTENT: u64 = 4 << 20;

fn in_use(volume: &PoolVolume) -> Error {
    Error::new(Reason::InUse, format!("volume {} is open", volume.name))
}

/// Whether the snapshot needs the volume.
fn is_attached(record: &SnapshotRecord, volume: &PoolVolume) -> bool {
    record.source.volume == volume.name && record.method() == SnapshotMethod::Cow
}

/// What is wrong with a volume that was filled and becomes `ready`.
fn copy_problem(disk: &Disk, record: &Record) -> Option<String> {
    let uuid = record.filesystem_uuid.map(|uuid| uuid.to_string());
    let complete = match (&disk.bytes.content, uuid) {
        (Content::Filesystem { uuid: found, .. }, Some(uuid)) => *found == uuid && !disk.bytes.is_dirty,
        (content, None) => *content != Content::PartialCopy,
        (_, Some(_)) => false,
    };
    (!complete).then(|| format!("a copy became ready that is not complete: {:?}", disk.bytes))
}

#[async_trait::async_trait]
impl Pool for MachinePool {
    fn name(&self) -> &str {
        self.simulated.name()
    }

    async fn read(&self, known: Option<u64>) -> Reading {
        self.alive().await;
        let mut reading = self.simulated.read(known).await;
        reading.state.capabilities.snapshots = self.snapshots;
        if let Volumes::All(volumes) = &mut reading.volumes {
            volumes.iter_mut().for_each(|volume| self.set_size(volume));
        }
        reading
    }

    fn uevents(&self) -> &Uevents {
        self.simulated.uevents()
    }

    fn changing(&self) -> bool {
        self.simulated.changing() || self.process.try_read(|machine| machine.changing).unwrap_or_default()
    }

    async fn volumes(&self) -> Result<Vec<PoolVolume>> {
        self.alive().await;
        let mut volumes = self.simulated.volumes().await?;
        volumes.iter_mut().for_each(|volume| self.set_size(volume));
        Ok(volumes)
    }

    async fn volume(&self, name: &str) -> Result<Option<PoolVolume>> {
        self.alive().await;
        let mut volume = self.simulated.volume(name).await?;
        volume.iter_mut().for_each(|volume| self.set_size(volume));
        Ok(volume)
    }

    async fn storage(&self) -> Result<StorageId> {
        self.simulated.storage().await
    }

    fn last_storage(&self) -> Option<StorageId> {
        self.simulated.last_storage()
    }

    fn unresponsive_disks(&self) -> Vec<UnresponsiveDisk> {
        let hangs = self.process.try_read(|machine| machine.disk_hangs).unwrap_or_default();
        let disk = UnresponsiveDisk { disk: "sda".to_owned(), request: "read", age: Duration::from_secs(9) };
        hangs.then_some(disk).into_iter().collect()
    }

    fn supports(&self, spec: &VolumeSpec) -> Result<()> {
        self.simulated.supports(spec)
    }

    async fn size_of(&self, spec: &VolumeSpec) -> Result<u64> {
        self.simulated.size_of(spec).await
    }

    async fn create(&self, spec: &VolumeSpec) -> Result<PoolVolume> {
        self.effect("create", |_| ()).await;
        let volume = self.simulated.create(spec).await?;
        let mut machine = self.process.state();
        let number = Number { major: MAPPER, minor: machine.next() };
        machine.disks.insert(node(&volume.name), Disk::new(number, volume.size, Bytes::remnants(volume.size)));
        Ok(volume)
    }

    async fn create_with_contents(&self, spec: &VolumeSpec, contents: &Contents<'_>) -> Result<Option<PoolVolume>> {
        if !self.shares {
            return Ok(None);
        }
        let source = match contents.of {
            ContentsOf::Volume(volume) => node(&volume.name),
            ContentsOf::Snapshot(snapshot) => snapshot_node(&snapshot.name),
        };
        let bytes =
            self.effect("create with contents", |machine| machine.disks.get(&source).map(|disk| disk.bytes.clone()));
        let gone = || Error::unavailable("the source was removed in the meantime: retry");
        let mut bytes = bytes.await.ok_or_else(gone)?;
        let mut volume = self.simulated.create(spec).await?;
        bytes.copied = volume.size;
        let record = volume.record()?.zeroed(Gib::needed_for(volume.size));
        self.simulated.set_record(&volume, &record).await?;
        volume.record = Recorded::Here(Box::new(record));
        let mut machine = self.process.state();
        let number = Number { major: MAPPER, minor: machine.next() };
        machine.disks.insert(node(&volume.name), Disk::new(number, volume.size, bytes));
        Ok(Some(volume))
    }

    async fn activate(&self, volume: &PoolVolume) -> Result<Device> {
        let node = node(&volume.name);
        let active = self.process.try_read(|machine| machine.disks.get(&node).is_some_and(|disk| disk.active));
        match active {
            None => pending().await,
            Some(true) => {}
            Some(false) => {
                self.effect("activate", |machine| {
                    if let Some(disk) = machine.disks.get_mut(&node) {
                        disk.active = true;
                    }
                })
                .await;
            }
        }
        self.refresh(volume).await;
        Ok(Device::Node(node))
    }

    fn may_be_active(&self, storage: &StorageId, name: &str) -> bool {
        let own = self.last_storage().as_ref() == Some(storage);
        let asked = self.process.try_read(|machine| match machine.sysfs_names_volumes {
            // As for LVM.
            true => machine.disks.get(&node(name)).is_some_and(|disk| disk.active),
            // As for whole disks.
            false => true,
        });
        own && asked.unwrap_or_default()
    }

    async fn deactivate(&self, volume: &PoolVolume, _unused_since: Instant) -> Result<()> {
        // As for LVM.
        let snapshots = self.simulated.snapshots().await?;
        let has_snapshots = snapshots.iter().any(|snapshot| is_attached(&snapshot.record, volume));
        let is_ready = volume.record().is_ok_and(|record| record.state == State::Ready);
        if has_snapshots || !is_ready {
            return Ok(());
        }
        self.effect("deactivate", |machine| {
            let node = node(&volume.name);
            let open = machine.disks.get(&node).is_some_and(|disk| machine.is_open(disk));
            match machine.disks.get_mut(&node) {
                Some(_) if open => Err(in_use(volume)),
                Some(disk) => {
                    disk.active = false;
                    Ok(())
                }
                None => Ok(()),
            }
        })
        .await
    }

    fn device(&self, volume: &PoolVolume) -> Result<Option<PathBuf>> {
        let node = node(&volume.name);
        let active = self.process.try_read(|machine| machine.disks.get(&node).is_some_and(|disk| disk.active));
        Ok(active.unwrap_or_default().then_some(node))
    }

    async fn set_record(&self, volume: &PoolVolume, record: &Record) -> Result<()> {
        self.effect("set record", |machine| {
            let disk = machine.disks.get(&node(&volume.name));
            let unflushed = disk.is_some_and(|disk| disk.bytes != disk.durable);
            if disk.is_some_and(Disk::has_mkfs) {
                machine.violation("the record was changed while an mkfs writes to the volume");
            }
            if unflushed {
                machine.violation("the record was changed before the volume was flushed");
            }
        })
        .await;
        self.simulated.set_record(volume, record).await?;
        let mut machine = self.process.state();
        let Some(disk) = machine.disks.get_mut(&node(&volume.name)) else { return Ok(()) };
        disk.ready = record.state == State::Ready;
        if disk.ready && record.source.is_some() && !volume.record().is_ok_and(|before| !before.filling) {
            let problem = copy_problem(disk, record);
            machine.violations.extend(problem);
        }
        Ok(())
    }

    async fn snapshots(&self) -> Result<Vec<PoolSnapshot>> {
        self.alive().await;
        self.simulated.snapshots().await
    }

    async fn take_snapshot(&self, volume: &PoolVolume, record: &SnapshotRecord, size: CowSize) -> Result<PoolSnapshot> {
        if !self.snapshots {
            return Err(Error::new(Reason::Unsupported, "this pool has no snapshots"));
        }
        let name = record.id_name();
        self.activate(volume).await?;
        self.effect("take snapshot", |machine| machine.begin_snapshot(&name, &volume.name)).await;
        // Its record stays `new`.
        self.simulated.fail_next(Operation::SetRecord, Failure::Before);
        let begun = self.simulated.take_snapshot(volume, record, size).await;
        let Some(begun) = self.simulated.snapshot(&name).await? else {
            self.simulated.forget_failures();
            self.process.state().disks.remove(&snapshot_node(&name));
            return begun;
        };
        self.effect("set snapshot ready", |machine| machine.complete_snapshot(&name, &volume.name)).await;
        self.simulated.remove_snapshot(&begun).await?;
        let taken = self.simulated.take_snapshot(volume, record, size).await;
        if taken.is_err() {
            // On LVM, the lock of the pool prevents what has changed meanwhile.
            self.process.state().disks.remove(&snapshot_node(&name));
        }
        taken
    }

    async fn create_copy(&self, record: &SnapshotRecord, from: &PoolSnapshot) -> Result<PoolSnapshot> {
        self.effect("create copy", |_| ()).await;
        let copy = self.simulated.create_copy(record, from).await?;
        let mut machine = self.process.state();
        let number = Number { major: MAPPER, minor: machine.next() };
        let mut disk = Disk::new(number, copy.size, Bytes::remnants(copy.size));
        // As for LVM: lvcreate activates it.
        disk.active = true;
        machine.disks.insert(snapshot_node(&copy.name), disk);
        Ok(copy)
    }

    async fn set_snapshot_record(&self, snapshot: &PoolSnapshot, record: &SnapshotRecord) -> Result<()> {
        self.effect("set snapshot record", |machine| {
            let serving = machine.disks.get(&snapshot_node(&record.of_kind(SnapshotKind::ForCopy).id_name()));
            let (from, copy) = (serving.cloned(), machine.disks.get_mut(&snapshot_node(&snapshot.name)));
            let Some(copy) = copy else { return machine.violation("the record of a snapshot that does not exist") };
            copy.ready = record.state == State::Ready;
            let is_flushed = copy.bytes == copy.durable;
            let same = |from: &Disk| Bytes { copied: copy.bytes.copied, ..from.bytes.clone() } == copy.bytes;
            let is_complete = record.empty || from.as_ref().is_some_and(same);
            if !is_flushed {
                machine.violation("the record of a copy was changed before the copy was flushed");
            }
            if record.state == State::Ready && !is_complete {
                machine.violation("a snapshot became ready that is not copied completely");
            }
        })
        .await;
        self.simulated.set_snapshot_record(snapshot, record).await
    }

    async fn deactivate_snapshot(&self, snapshot: &PoolSnapshot, _unused_since: Instant) -> Result<()> {
        if snapshot.record.method() == SnapshotMethod::Cow {
            return Ok(());
        }
        let node = snapshot_node(&snapshot.name);
        if !self.process.try_read(|machine| machine.disks.get(&node).is_some_and(|disk| disk.active)).unwrap_or(true) {
            return Ok(());
        }
        self.effect("deactivate snapshot", |machine| {
            let is_open = machine.disks.get(&node).is_some_and(|disk| machine.is_open(disk));
            if let Some(disk) = machine.disks.get_mut(&node).filter(|_| !is_open) {
                disk.active = false;
            }
        })
        .await;
        Ok(())
    }

    async fn activate_snapshot(&self, snapshot: &PoolSnapshot) -> Result<Device> {
        let mut nodes = vec![snapshot_node(&snapshot.name)];
        if snapshot.record.method() == SnapshotMethod::Cow {
            nodes.push(node(&snapshot.record.source.volume));
        }
        self.effect("activate snapshot", |machine| {
            for node in &nodes {
                if let Some(disk) = machine.disks.get_mut(node) {
                    disk.active = true;
                }
            }
        })
        .await;
        self.simulated.activate_snapshot(snapshot).await?;
        Ok(Device::Node(snapshot_node(&snapshot.name)))
    }

    async fn remove_snapshot(&self, snapshot: &PoolSnapshot) -> Result<()> {
        self.effect("remove snapshot", |machine| {
            let node = snapshot_node(&snapshot.name);
            if machine.disks.get(&node).is_some_and(|disk| machine.is_open(disk)) {
                return Err(Error::new(Reason::InUse, format!("snapshot {} is open", snapshot.name)));
            }
            machine.disks.remove(&node);
            Ok(())
        })
        .await?;
        self.simulated.remove_snapshot(snapshot).await
    }

    async fn reserve_expansion(&self, volume: &PoolVolume, size: &SizeRange) -> Result<Option<Expansion>> {
        self.alive().await;
        let name = &volume.name;
        let mut current = volume.clone();
        self.set_size(&mut current);
        if !current.needs_expansion(size)? {
            self.release(volume).await?;
            self.refresh(volume).await;
            return Ok(None);
        }
        let size = size.required.next_multiple_of(EXTENT);
        let found = self.process.state().reserved.get(name).copied();
        if found.is_none_or(|found| found.size != size) {
            self.release(volume).await?;
            self.effect("reserve", |machine| machine.reserve(name, current.size, size)).await;
        }
        let node = space_node(name);
        let mut machine = self.process.state();
        let zeroed = machine.reserved.get(name).map(|reserved| reserved.zeroed).unwrap_or_default();
        let Some(disk) = machine.disks.get_mut(&node) else { panic!("no reserved space") };
        // After a power cut.
        disk.active = true;
        let signature_places = vec![0..EXTENT, disk.size - EXTENT..disk.size];
        let space = NewSpace { device: Device::Node(node), size: disk.size, signature_places, zeroed };
        Ok(Some(Expansion { size, device: Some(space) }))
    }

    async fn set_expansion_zeroed(&self, volume: &PoolVolume, zeroed: Gib) -> Result<()> {
        self.effect("set expansion zeroed", |machine| {
            let durable = machine.disks.get(&space_node(&volume.name)).map_or(0, |disk| disk.durable.zeroed);
            if durable < zeroed.bytes() {
                machine.violation("the progress was stored before it was flushed");
            }
            let reserved = machine.reserved.get_mut(&volume.name);
            let gone = || Error::unavailable("the space is no longer reserved");
            reserved.map(|reserved| reserved.zeroed = zeroed).ok_or_else(gone)
        })
        .await
    }

    async fn expand(&self, volume: &PoolVolume, expansion: &Expansion) -> Result<PoolVolume> {
        let (name, shows_bytes) = (&volume.name, volume.record()?.access.shows_bytes());
        self.effect("expand", |machine| {
            if machine.reserved.get(name).is_none_or(|reserved| reserved.size != expansion.size) {
                return Err(Error::unavailable("the space is no longer reserved"));
            }
            if machine.is_space_open(name) {
                return Err(in_use(volume));
            }
            machine.join(name, shows_bytes);
            Ok(())
        })
        .await?;
        // The simulated storage has changed.
        if let Some(record) = self.simulated.record_of(name) {
            self.simulated.set_record_by_hand(name, &record);
        }
        self.refresh(volume).await;
        let mut expanded = volume.clone();
        expanded.size = expansion.size;
        Ok(expanded)
    }

    async fn check_removable(&self, volume: &PoolVolume) -> Result<()> {
        self.remove_interrupted_snapshots(volume).await?;
        self.alive().await;
        self.simulated.check_removable(volume).await
    }

    async fn remove(&self, volume: &PoolVolume) -> Result<()> {
        self.remove_interrupted_snapshots(volume).await?;
        let snapshots = self.simulated.snapshots().await?;
        if snapshots.iter().any(|snapshot| is_attached(&snapshot.record, volume)) {
            // It rejects this.
            return self.simulated.remove(volume).await;
        }
        self.release(volume).await?;
        self.effect("remove", |machine| {
            let node = node(&volume.name);
            if machine.disks.get(&node).is_some_and(|disk| machine.is_open(disk)) {
                return Err(in_use(volume));
            }
            machine.disks.remove(&node);
            machine.forget(&volume.name);
            Ok(())
        })
        .await?;
        self.simulated.remove(volume).await
    }
}
