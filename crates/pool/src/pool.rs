//! The trait behind which every kind of pool stands.

use std::path::PathBuf;
use std::time::Instant;

use quarry_volume::{Error, PoolState, Result, StorageId, VolumeSpec};

use crate::{Record, SilentDisk, SimulatedDevice, Uevents, Wiping};

/// A volume as its pool finds it on the storage.
#[derive(Clone, Debug)]
pub struct PoolVolume {
    /// Its name in its identifier, unique in the pool: made from the name in its record, where that can be read.
    pub name: String,
    /// What the storage calls it now: another name than its own after somebody renamed it.
    pub stored_as: String,
    /// The identity of the storage it lies on.
    pub storage: StorageId,
    /// What the storage calls itself (the volume group's UUID).
    pub group: String,
    /// An identity that no other volume ever has (the logical volume's UUID): the filesystem's UUID derives from it.
    pub uuid: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its record, or why there is none that this code can use.
    pub record: Recorded,
    /// What is wrong with the storage under it, in words; `None` if nothing is.
    pub health: Health,
}

/// The record of a volume of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// Readable.
    Here(Box<Record>),
    /// Written by a newer Quarry, of this record version.
    Newer(u32),
    /// Ours by its mark, but not readable.
    Broken(String),
    /// Several things on the storage carry it: which of them is the volume is not known. Their names.
    Ambiguous(Vec<String>),
}

/// The state of the storage under a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// All there.
    Whole,
    /// A disk is lost, and the layout bears it.
    Degraded(String),
    /// A disk is lost, and bytes with it.
    Lost(String),
    /// Its creation was interrupted before its layout was complete; only a `new` volume can be.
    Incomplete(String),
}

/// All that a pool says of itself, seen at one instant.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Figures and problems. What cannot be read is a problem to be shown, and gives no space.
    pub state: PoolState,
    /// Stands for the volumes of this reading, as long as the pool lives: two readings with the same mark have the same.
    pub mark: u64,
    /// The volumes.
    pub volumes: Volumes,
}

/// The volumes of a [`Reading`].
#[derive(Clone, Debug)]
pub enum Volumes {
    /// The storage cannot be read completely: nothing is said of any volume.
    Unreadable,
    /// The ones of the reading with the mark that the caller gave.
    Same,
    /// All volumes that carry our mark.
    All(Vec<PoolVolume>),
}

/// What stands for the bytes of a volume that is active.
#[derive(Clone, Debug)]
pub enum Device {
    /// The kernel's node of its block device.
    Node(PathBuf),
    /// There is no device: the pool is a simulated one.
    Simulated(SimulatedDevice),
}

/// Storage that volumes are carved from.
///
/// An implementation serialises its own changes. It never decides from memory what the storage itself can decide: memory
/// only saves questions.
#[async_trait::async_trait]
pub trait Pool: Send + Sync {
    /// The name that a StorageClass gives.
    fn name(&self) -> &str;

    /// Looks at everything, at one instant; never fails. `known` is the mark of a reading that the caller has: where its
    /// volumes are still the same, they are not told again.
    async fn read(&self, known: Option<u64>) -> Reading;

    /// What is heard of devices under this pool, as a hint to read again.
    fn uevents(&self) -> &Uevents;

    /// Whether a change of ours is under way that has not taken too long yet. To read now might mean to wait for it, and to
    /// read once more right after it.
    fn changing(&self) -> bool;

    /// Figures and problems; never fails: what cannot be read is a problem to be shown.
    async fn status(&self) -> PoolState {
        self.read(None).await.state
    }

    /// All volumes that carry our mark, completely read.
    ///
    /// # Errors
    /// `Unavailable` if the storage cannot be read: an incomplete list is no answer.
    async fn volumes(&self) -> Result<Vec<PoolVolume>>;

    /// The volume of that name on the storage. `None`: the storage was read completely, and it is not there.
    ///
    /// # Errors
    /// `Unavailable` as for [`Pool::volumes`].
    async fn volume(&self, name: &str) -> Result<Option<PoolVolume>>;

    /// Where the volume of that name is, in words, if it exists without being in this pool's storage. To be asked before
    /// a call answers that it does not exist.
    ///
    /// # Errors
    /// `Unavailable` if that cannot be told.
    async fn elsewhere(&self, _name: &str) -> Result<Option<String>> {
        Ok(None)
    }

    /// The volume that was asked for under that name, as its record says.
    ///
    /// # Errors
    /// `Unavailable` as for [`Pool::volumes`].
    async fn asked(&self, name: &str) -> Result<Option<PoolVolume>> {
        Ok(self.volumes().await?.into_iter().find(|volume| volume.record().is_ok_and(|record| record.name == name)))
    }

    /// The identity of the storage, once it has been read.
    ///
    /// # Errors
    /// `Unavailable` as for [`Pool::volumes`].
    async fn storage(&self) -> Result<StorageId>;

    /// The identity of the storage when it was read last, without a look at it; `None` before that.
    fn last_storage(&self) -> Option<StorageId> {
        None
    }

    /// The disks below the pool that have not answered for some seconds. Asks nobody, so that it can be told while every
    /// question to the pool waits for such a disk.
    fn silent_disks(&self) -> Vec<SilentDisk> {
        Vec::new()
    }

    /// The size that a volume of this spec would get, in bytes.
    ///
    /// # Errors
    /// `SizeOutOfRange` where the storage's units do not fit the range.
    async fn size_of(&self, spec: &VolumeSpec) -> Result<u64>;

    /// Carves the volume, with its record in state `new`, and returns when it would survive a power cut.
    ///
    /// # Errors
    /// `NoSpace` if it does not fit here; `Exists` if the name is taken by what is not ours. Where the volume was made, or may
    /// have been, the error is not final ([`Error::not_final`]).
    async fn carve(&self, spec: &VolumeSpec) -> Result<PoolVolume>;

    /// Makes the volume's device appear, and returns it. Running it twice changes nothing.
    ///
    /// # Errors
    /// `Precondition` if the storage under it is lost.
    async fn activate(&self, volume: &PoolVolume) -> Result<Device>;

    /// Makes the device of a volume disappear that was unstaged, if nothing uses it, and nothing asked to activate it after
    /// `unused_since`. Pools whose volumes have no device of their own do nothing.
    ///
    /// # Errors
    /// The storage under it cannot be asked or changed now; the volume stays active, which harms nobody.
    async fn deactivate(&self, _volume: &PoolVolume, _unused_since: Instant) -> Result<()> {
        Ok(())
    }

    /// The device of the volume, if it is active; asks nobody but the kernel.
    ///
    /// # Errors
    /// `Host` if the kernel's word cannot be read.
    fn device(&self, volume: &PoolVolume) -> Result<Option<PathBuf>>;

    /// Replaces the volume's record by one metadata commit, and returns when it would survive a power cut.
    ///
    /// # Errors
    /// `Precondition` if the record on the storage is not the one in `volume`.
    async fn set_record(&self, volume: &PoolVolume, record: &Record) -> Result<()>;

    /// Gives the volume's space back, and returns when that would survive a power cut.
    ///
    /// # Errors
    /// `InUse` while something holds it open.
    async fn remove(&self, volume: &PoolVolume) -> Result<()>;

    /// What is still being wiped of deleted volumes, by the names of the disks; their space is not free yet.
    fn wiping(&self) -> Vec<(String, Wiping)> {
        Vec::new()
    }
}

impl Health {
    /// What is wrong, in words.
    #[must_use]
    pub fn problem(&self) -> Option<&str> {
        match self {
            Self::Whole => None,
            Self::Degraded(why) | Self::Lost(why) | Self::Incomplete(why) => Some(why),
        }
    }
}

impl Device {
    /// The node of the block device, for whom it takes a real one.
    ///
    /// # Errors
    /// `Precondition` for a simulated volume.
    pub fn node(self) -> Result<PathBuf> {
        match self {
            Self::Node(path) => Ok(path),
            Self::Simulated(_) => {
                Err(Error::precondition("its pool is simulated, so it has no device and cannot be staged or published"))
            }
        }
    }
}

impl PoolVolume {
    /// What is to be told of its name: that the storage has it under another one.
    #[must_use]
    pub fn renamed(&self) -> Option<String> {
        (self.stored_as != self.name).then(|| {
            format!(
                "volume {} was renamed by hand to {}: it works as before, but is not deleted under this name; rename \
                 it back",
                self.name, self.stored_as
            )
        })
    }

    /// The record, where this code may change the volume.
    ///
    /// # Errors
    /// `Precondition` for a record of a newer Quarry, or one that cannot be read; `Unavailable` where several carry it.
    pub fn record(&self) -> Result<&Record> {
        match &self.record {
            Recorded::Here(record) => Ok(record),
            Recorded::Newer(version) => Err(Error::precondition(format!(
                "volume {} was written by a newer Quarry (record version {version}, this one knows {}): it can only \
                 be unpublished and unstaged; upgrade Quarry on this node",
                self.name,
                crate::record::VERSION
            ))),
            Recorded::Broken(why) => Err(Error::precondition(format!(
                "the record of volume {} is invalid ({why}), so the volume is not changed: repair its tag by hand, \
                 see docs/record-format.md",
                self.name
            ))),
            Recorded::Ambiguous(names) => Err(Error::unavailable(format!(
                "{} all have the record of volume {}, so the volume is ambiguous and cannot be used; remove the copy, \
                 or remove the record's tag from it (`lvs -o +lv_tags` shows it, `lvchange --deltag` removes it)",
                quarry_volume::some_of(names),
                self.name
            ))),
        }
    }
}
