//! The trait that every kind of pool implements.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Instant;

use quarry_volume::{CowSize, Error, Gib, Layout, PoolState, Reason, Result, SizeRange, StorageId, VolumeSpec};
use uuid::Uuid;

use crate::{
    DiskSpace, PoolSnapshot, PoolVolume, Record, SimulatedDevice, SnapshotRecord, Uevents, UnresponsiveDisk, Wiping,
};

/// Everything that a pool reports, read at one instant.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Capacity and problems. What cannot be read is reported as a problem, and adds no capacity.
    pub state: PoolState,
    /// Identifies the volumes of this reading while the pool lives: two readings with the same mark have the
    /// same volumes.
    pub mark: u64,
    /// The volumes.
    pub volumes: Volumes,
    /// The snapshots, in every reading: also if the volumes are the same. Empty if the storage cannot be read.
    pub snapshots: Vec<PoolSnapshot>,
}

/// The volumes of a [`Reading`].
#[derive(Clone, Debug)]
pub enum Volumes {
    /// The storage cannot be read completely, so no volume is reported.
    Unreadable,
    /// The same volumes as in the reading whose mark the caller passed.
    Same,
    /// All volumes that have Quarry's mark.
    All(Vec<PoolVolume>),
}

/// What a volume is created with: see [`Pool::create_with_contents`].
#[derive(Clone, Copy, Debug)]
pub struct Contents<'a> {
    /// Where it is.
    pub of: ContentsOf<'a>,
    /// The filesystem in the spec, if it contains it.
    pub filesystem: Option<CopiedFilesystem>,
}

/// What becomes of the UUID of a filesystem in [`Contents`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopiedFilesystem {
    /// It gets the one that is derived from the volume's own UUID.
    GetsNewUuid,
    /// It is encrypted, and keeps this one.
    Keeps(Uuid),
}

/// The source of [`Contents`].
#[derive(Clone, Copy, Debug)]
pub enum ContentsOf<'a> {
    /// A snapshot.
    Snapshot(&'a PoolSnapshot),
    /// A volume, which may be in use.
    Volume(&'a PoolVolume),
}

/// How to reach the bytes of an active volume.
#[derive(Clone, Debug)]
pub enum Device {
    /// The kernel's node of its block device.
    Node(PathBuf),
    /// There is no device: the pool is simulated.
    Simulated(SimulatedDevice),
    /// Bytes of a disk that is in use. Only of new space.
    Space(DiskSpace),
}

/// New space for a volume, which is reserved on its storage, but not part of the volume yet: see
/// [`Pool::reserve_expansion`].
#[derive(Clone, Debug)]
pub struct Expansion {
    /// The size that the volume will have, in bytes.
    pub size: u64,
    /// The new space as a device of its own, to be cleaned. `None`: it contains only zeros.
    pub device: Option<NewSpace>,
}

/// The device with the new space of an [`Expansion`].
#[derive(Clone, Debug)]
pub struct NewSpace {
    /// How to reach it.
    pub device: Device,
    /// Its size in bytes. A volume with several copies has more new space than new bytes.
    pub size: u64,
    /// Where on it a signature of a previous owner would be found at an end of the expanded volume.
    pub signature_places: Vec<Range<u64>>,
    /// How much of it was zeroed and flushed, as far as [`Pool::set_expansion_zeroed`] stored it.
    pub zeroed: Gib,
}

/// Storage that volumes are created from.
///
/// An implementation serializes its own changes. It never decides from memory what the storage itself can
/// decide: memory only saves reads.
///
/// No other crate decides anything by the kind of a pool. What differs between kinds is a method here, a part
/// of [`PoolState`], or, if it must work without the pool, a function over all kinds ([`crate::device_in_kernel`],
/// [`crate::could_be_volume`], [`crate::tools`]).
///
/// # Capabilities
///
/// The methods without a default are what every kind does. What only some kinds can do is a capability, which a
/// kind has only if it says so. To add one:
///
/// 1. Add a method with a default that fails with a clear error: the pool, what it cannot do, and what to do
///    about it. If it only concerns which volumes can be created, [`Pool::supports`] is that method: let
///    `supports_plain` reject it.
/// 2. Add a field to [`PoolCapabilities`](quarry_volume::PoolCapabilities) that is false by default, and its
///    field on the wire. [`Pool::read`] reports it, also while the storage cannot be read. The controller
///    chooses nodes by it and knows nothing else about a pool. (Which layouts are possible follows from the
///    reported [`Space`](quarry_volume::Space) alone.)
/// 3. Test for each kind that the two agree.
#[async_trait::async_trait]
pub trait Pool: Send + Sync {
    /// The name that a StorageClass refers to.
    fn name(&self) -> &str;

    /// Reads everything, at one instant; never fails. `known` is the mark of a reading that the caller has:
    /// if the volumes have not changed, they are not returned again.
    async fn read(&self, known: Option<u64>) -> Reading;

    /// Events of devices under this pool, as a hint to read again.
    fn uevents(&self) -> &Uevents;

    /// Whether a change by this process is running that has not taken too long yet. Reading now might wait
    /// for it, and have to be repeated right after it.
    fn changing(&self) -> bool;

    /// Capacity and problems; never fails: what cannot be read is reported as a problem.
    async fn status(&self) -> PoolState {
        self.read(None).await.state
    }

    /// All volumes that have Quarry's mark, read completely.
    ///
    /// # Errors
    /// `Unavailable` if the storage cannot be read: an incomplete list would be wrong.
    async fn volumes(&self) -> Result<Vec<PoolVolume>>;

    /// The volume with that name on the storage. `None`: the storage was read completely, and does not have
    /// it.
    ///
    /// # Errors
    /// `Unavailable` as for [`Pool::volumes`].
    async fn volume(&self, name: &str) -> Result<Option<PoolVolume>>;

    /// Where the volume with that name is, if it exists outside this pool's storage. Call this before you
    /// report that it does not exist.
    ///
    /// # Errors
    /// `Unavailable` if that cannot be determined.
    async fn find_elsewhere(&self, _name: &str) -> Result<Option<String>> {
        Ok(None)
    }

    /// The volume that was requested under that name, according to its record. One whose record cannot be
    /// used counts as well: it exists.
    ///
    /// # Errors
    /// `Unavailable` as for [`Pool::volumes`].
    async fn find_requested(&self, name: &str) -> Result<Option<PoolVolume>> {
        Ok(self.volumes().await?.into_iter().find(|volume| volume.is_requested_as(name)))
    }

    /// The identity of the storage, once it has been read.
    ///
    /// # Errors
    /// `Unavailable` as for [`Pool::volumes`].
    async fn storage(&self) -> Result<StorageId>;

    /// The identity of the storage when it was last read, without reading it again; `None` before the first
    /// read.
    fn last_storage(&self) -> Option<StorageId> {
        None
    }

    /// The disks below the pool that have been unresponsive for some seconds. Reads nothing, so it works
    /// while every other call to the pool waits for such a disk.
    fn unresponsive_disks(&self) -> Vec<UnresponsiveDisk> {
        Vec::new()
    }

    /// Rejects a spec that this pool can never fulfil, however much space it has. Reads nothing.
    ///
    /// # Errors
    /// `NoSpace`, because a pool of this name on another node may fulfil it. The default rejects everything
    /// that is a capability.
    fn supports(&self, spec: &VolumeSpec) -> Result<()> {
        supports_plain(self.name(), spec)
    }

    /// The size that a volume of this spec, which the pool supports, would get, in bytes.
    ///
    /// # Errors
    /// `SizeOutOfRange` if no size that the storage can provide is within the range, and no other pool can
    /// help. `NoSpace` if the size depends on what is free (whole disks), and nothing that is free fits.
    /// `Unavailable` as for [`Pool::volumes`].
    async fn size_of(&self, spec: &VolumeSpec) -> Result<u64>;

    /// Creates the volume with its record in state `new`, and returns when it would survive a power cut.
    ///
    /// # Errors
    /// As for [`Pool::supports`]. `NoSpace` if it does not fit; `Exists` if the name is used by something that
    /// is not Quarry's. If the volume was created, or may have been, the error is not final
    /// ([`Error::not_final`]).
    async fn create(&self, spec: &VolumeSpec) -> Result<PoolVolume>;

    /// Creates the volume as [`Pool::create`] does, but with the contents of a volume or snapshot of this pool, without
    /// copying them. Its record says that it is being filled and that everything is copied: a filesystem still needs a
    /// UUID of its own. `None`: the pool cannot do that, and nothing was created. So does the default.
    ///
    /// # Errors
    /// As for [`Pool::create`]; `Unavailable` if the source was removed in the meantime.
    async fn create_with_contents(&self, _spec: &VolumeSpec, _contents: &Contents<'_>) -> Result<Option<PoolVolume>> {
        Ok(None)
    }

    /// Makes the volume's device appear, and returns it. Idempotent.
    ///
    /// # Errors
    /// `Precondition` if the storage under it is lost.
    async fn activate(&self, volume: &PoolVolume) -> Result<Device>;

    /// Whether an active volume that is being filled contains nothing from that byte on, and so reads as zeros there. In a
    /// thin pool, what an interrupted copy has written there is discarded first. Nothing else may use the volume. The
    /// default knows nothing about it.
    async fn is_empty_from(&self, _volume: &PoolVolume, _start: u64) -> bool {
        false
    }

    /// Whether the volume with that name on that storage may be an active volume of this pool. Asked before
    /// the volume is looked up to be deactivated, because that may wait for a hanging disk. Reads only memory
    /// and the kernel's tables. The default belongs to that of [`Pool::deactivate`].
    fn may_be_active(&self, _storage: &StorageId, _name: &str) -> bool {
        false
    }

    /// Releases the device of a volume that was unstaged, if it is unused and was not activated again after
    /// `unused_since`: removes it, or closes it. Called only if [`Pool::may_be_active`]. The default does
    /// nothing, for pools whose volumes need not be deactivated.
    ///
    /// # Errors
    /// The storage under it cannot be read or changed now; the volume stays active, which is harmless.
    async fn deactivate(&self, _volume: &PoolVolume, _unused_since: Instant) -> Result<()> {
        Ok(())
    }

    /// The device of the volume, if it is active; reads only memory and the kernel's tables.
    ///
    /// # Errors
    /// `Host` if the kernel's tables cannot be read.
    fn device(&self, volume: &PoolVolume) -> Result<Option<PathBuf>>;

    /// Replaces the volume's record in one step, and returns when that would survive a power cut. After a cut
    /// during it, the volume has either record.
    ///
    /// # Errors
    /// `Precondition` if the record on the storage is not the one in `volume`.
    async fn set_record(&self, volume: &PoolVolume, record: &Record) -> Result<()>;

    /// Reserves the space that the volume needs to have a size in this range. Old bytes of previous owners may be
    /// on it, so the caller cleans it before [`Pool::expand`] adds it to the volume. `None`: the volume has such a
    /// size; then nothing stays reserved.
    ///
    /// Idempotent. Space that an earlier call reserved for the same size is returned again. Space for another size
    /// is released first.
    ///
    /// # Errors
    /// `SizeOutOfRange` if no size in the range is possible: with the largest size that is. The default, for pools
    /// without this capability, rejects every larger size with it. `Precondition` only for what is possible while
    /// the volume is not in use or has snapshots: external-resizer does not retry while a pod uses the volume.
    /// `UnderWay` while lvm moves or converts the volume, or it is being cloned.
    async fn reserve_expansion(&self, volume: &PoolVolume, size: &SizeRange) -> Result<Option<Expansion>> {
        let pool = self.name();
        if !volume.needs_expansion(size)? {
            return Ok(None);
        }
        Err(Error::new(
            Reason::SizeOutOfRange,
            format!("volumes of pool {pool} cannot be expanded; {} bytes is the largest size", volume.size),
        ))
    }

    /// Stores how much of the new space is zeroed and flushed, so that a later call continues there.
    ///
    /// # Errors
    /// `Unavailable` if the space is no longer reserved.
    async fn set_expansion_zeroed(&self, _volume: &PoolVolume, _zeroed: Gib) -> Result<()> {
        Ok(())
    }

    /// Adds the reserved, clean space to the volume, and returns the volume when that would survive a power cut.
    /// If the volume is active, its device has the new size. Idempotent.
    ///
    /// # Errors
    /// As [`Pool::reserve_expansion`]; `Unavailable` if the space is no longer reserved: reserve and clean it
    /// again.
    async fn expand(&self, volume: &PoolVolume, _expansion: &Expansion) -> Result<PoolVolume> {
        Err(Error::host(format!("pool {} has reserved no space for volume {}", self.name(), volume.name)))
    }

    /// All snapshots that have Quarry's mark, read completely; also those that only serve to clone a volume. The
    /// default, for pools without this capability, has none.
    ///
    /// # Errors
    /// `Unavailable` as for [`Pool::volumes`].
    async fn snapshots(&self) -> Result<Vec<PoolSnapshot>> {
        Ok(Vec::new())
    }

    /// The snapshot with that name on the storage. `None`: the storage was read completely, and does not have it.
    ///
    /// # Errors
    /// `Unavailable` as for [`Pool::volumes`].
    async fn snapshot(&self, name: &str) -> Result<Option<PoolSnapshot>> {
        Ok(self.snapshots().await?.into_iter().find(|snapshot| snapshot.name == name))
    }

    /// Takes a snapshot of the volume, with that record in state `new`, and then makes the record `ready`, with
    /// the current time. Returns when both would survive a power cut. The volume may be in use: the snapshot has
    /// its contents at one instant, as after a power cut. `cow_size`: the space for blocks that are overwritten
    /// later.
    ///
    /// A snapshot that was left `new` by an earlier, interrupted call may not have the contents of one instant:
    /// the caller removes it first.
    ///
    /// # Errors
    /// `NoSpace` if it does not fit (`RESOURCE_EXHAUSTED`); `Exists` if a snapshot of that name exists, or something
    /// else has the name that it needs; `Precondition` if the volume's storage is lost; `UnderWay` while the volume is
    /// being filled, moved or converted. If it was taken, or may have been, the error is not final. The default, for
    /// pools without this capability, is `Unsupported`.
    async fn take_snapshot(
        &self,
        _volume: &PoolVolume,
        _record: &SnapshotRecord,
        _cow_size: CowSize,
    ) -> Result<PoolSnapshot> {
        Err(Error::new(Reason::Unsupported, format!("pool {} does not support snapshots", self.name())))
    }

    /// Creates the space for a full copy of the snapshot `from`, which serves it, with that record in state `new`, and
    /// returns when it would survive a power cut. Old bytes of previous owners may be on it. If `from` is lost before the
    /// record is `ready`, the copy is [`SnapshotHealth::Invalid`].
    ///
    /// # Errors
    /// As for [`Pool::take_snapshot`]. If it was created, or may have been, the error is not final.
    async fn create_copy(&self, _record: &SnapshotRecord, _from: &PoolSnapshot) -> Result<PoolSnapshot> {
        Err(Error::new(Reason::Unsupported, format!("pool {} does not support snapshots", self.name())))
    }

    /// Replaces the record of a snapshot in one step, and returns when that would survive a power cut.
    ///
    /// # Errors
    /// `Precondition` if the record on the storage is not the one in `snapshot`.
    async fn set_snapshot_record(&self, snapshot: &PoolSnapshot, _record: &SnapshotRecord) -> Result<()> {
        Err(Error::host(format!("pool {} has no snapshot {}", self.name(), snapshot.name)))
    }

    /// Makes the snapshot's device appear, and returns it. That of a copy-on-write snapshot is read-only. Idempotent.
    ///
    /// # Errors
    /// `Precondition` if the snapshot is not [`SnapshotHealth::Whole`].
    async fn activate_snapshot(&self, snapshot: &PoolSnapshot) -> Result<Device> {
        Err(Error::host(format!("pool {} has no snapshot {}", self.name(), snapshot.name)))
    }

    /// Checks that [`Pool::remove_snapshot`] would remove a full copy now, and makes its device appear, also if its
    /// contents can never be complete: for what is written to it first, and cannot be undone. Idempotent.
    ///
    /// # Errors
    /// As [`Pool::remove_snapshot`].
    async fn activate_for_removal(&self, snapshot: &PoolSnapshot) -> Result<Device> {
        self.activate_snapshot(snapshot).await
    }

    /// Releases the device of a full copy or of a thin snapshot, if it is unused and was not activated again after
    /// `unused_since`. A full copy never stays active, because its filesystem has the UUID of its source. Does nothing
    /// for other snapshots.
    ///
    /// # Errors
    /// The storage cannot be read or changed now; it stays active.
    async fn deactivate_snapshot(&self, _snapshot: &PoolSnapshot, _unused_since: Instant) -> Result<()> {
        Ok(())
    }

    /// Removes the snapshot, and returns when that would survive a power cut. Its source stays, and may be in use.
    ///
    /// # Errors
    /// `InUse` while it is open.
    async fn remove_snapshot(&self, snapshot: &PoolSnapshot) -> Result<()> {
        Err(Error::host(format!("pool {} has no snapshot {}", self.name(), snapshot.name)))
    }

    /// Checks that [`Pool::remove`] would remove the volume now: for what has to be done first and cannot be undone.
    /// Like that, it first removes the volume's snapshots whose creation was interrupted.
    /// Nothing of Quarry has its device open.
    ///
    /// # Errors
    /// As [`Pool::remove`].
    async fn check_removable(&self, _volume: &PoolVolume) -> Result<()> {
        Ok(())
    }

    /// Removes the volume, and returns when that would survive a power cut. Its space may not be free yet: see
    /// [`Pool::wiping`].
    ///
    /// # Errors
    /// `InUse` while it is open. `Precondition` while it has snapshots: they cannot exist without it. The message
    /// names them. `UnderWay` while it only has snapshots that serve clones. Snapshots whose creation was interrupted
    /// are removed with it.
    async fn remove(&self, volume: &PoolVolume) -> Result<()>;

    /// What is still being wiped of deleted volumes, by disk name; that space is not free yet.
    fn wiping(&self) -> Vec<(String, Wiping)> {
        Vec::new()
    }
}

/// Rejects a spec that needs a capability: what [`Pool::supports`] does by default in the pool with that name.
pub(crate) fn supports_plain(pool: &str, spec: &VolumeSpec) -> Result<()> {
    match (spec.class.layout, spec.class.wipe) {
        (Layout::Linear, None) => Ok(()),
        (Layout::Linear, Some(wipe)) => {
            Err(unsupported(format!("pool {pool} does not support \"wipe: {wipe}\": remove it from the StorageClass")))
        }
        (layout, _) => Err(unsupported(format!(
            "pool {pool} does not support layout {layout}: remove the layout from the StorageClass"
        ))),
    }
}

/// The error of [`Pool::supports`].
pub(crate) fn unsupported(message: String) -> Error {
    Error::new(Reason::NoSpace, message)
}

impl Device {
    /// The node of the block device, for callers that need a real one.
    ///
    /// # Errors
    /// `Precondition` for a simulated volume.
    pub fn node(self) -> Result<PathBuf> {
        match self {
            Self::Node(path) => Ok(path),
            Self::Simulated(_) => {
                Err(Error::precondition("its pool is simulated, so it has no device and cannot be staged or published"))
            }
            Self::Space(_) => Err(Error::host("new space for a volume has no device; please report it")),
        }
    }
}

#[cfg(test)]
mod tests {
    use quarry_volume::Wipe;

    use super::*;

    #[test]
    fn a_kind_without_capabilities_supports_only_plain_volumes() {
        let plain = VolumeSpec::block("a", 1);
        supports_plain("p", &plain).unwrap();
        let mut wiped = plain.clone();
        wiped.class.wipe = Some(Wipe::None);
        for (spec, parameter) in [(plain.with_layout(Layout::Raid1 { mirrors: 1 }), "layout"), (wiped, "wipe")] {
            let error = supports_plain("p", &spec).unwrap_err();
            assert_eq!(error.reason, Reason::NoSpace, "another node may support it: {error}");
            assert!(error.message.starts_with("pool p ") && error.message.contains(parameter), "{error}");
        }
    }
}
