//! The trait behind which every kind of pool stands.

use std::path::PathBuf;

use quarry_volume::{Capacity, Layout, Result, StorageId, VolumeSpec};

use crate::Record;

/// A volume as its pool finds it on the storage.
#[derive(Clone, Debug)]
pub struct PoolVolume {
    /// Its name on the storage, unique in the pool.
    pub name: String,
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

/// A pool as an operator sees it. Sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolStatus {
    /// Its name.
    pub name: String,
    /// The sum of its storage.
    pub size: u64,
    /// What can be carved as linear volumes.
    pub free: u64,
    /// The largest linear volume.
    pub largest: u64,
    /// The size of its metadata area, and what is left of it; 0 where there is none.
    pub metadata_size: u64,
    /// What is left of the metadata area.
    pub metadata_free: u64,
    /// How many volumes of ours it holds.
    pub volumes: u64,
    /// Why it takes no new volumes, or cannot be read at all; empty if all is well.
    pub problems: Vec<String>,
}

/// Storage that volumes are carved from.
///
/// An implementation serialises its own changes. It never decides from memory what the storage itself can decide: memory
/// only saves questions.
#[async_trait::async_trait]
pub trait Pool: Send + Sync {
    /// The name that a StorageClass gives.
    fn name(&self) -> &str;

    /// Figures and problems; never fails: what cannot be read is a problem to be shown.
    async fn status(&self) -> PoolStatus;

    /// All volumes that carry our mark, completely read.
    ///
    /// # Errors
    /// `Unavailable` if the storage cannot be read: an incomplete list is no answer.
    async fn volumes(&self) -> Result<Vec<PoolVolume>>;

    /// The identity of the storage, once it has been read.
    ///
    /// # Errors
    /// `Unavailable` as for [`Pool::volumes`].
    async fn storage(&self) -> Result<StorageId>;

    /// What the pool can still give for `layout`.
    ///
    /// # Errors
    /// `Unavailable` as for [`Pool::volumes`].
    async fn capacity(&self, layout: &Layout) -> Result<Capacity>;

    /// The size that a volume of this spec would get, in bytes.
    ///
    /// # Errors
    /// `SizeOutOfRange` where the storage's units do not fit the range.
    async fn size_of(&self, spec: &VolumeSpec) -> Result<u64>;

    /// Carves the volume, with its record in state `new`, and returns when it would survive a power cut.
    ///
    /// # Errors
    /// `NoSpace` if it does not fit here; `Exists` if the name is taken by what is not ours.
    async fn carve(&self, spec: &VolumeSpec) -> Result<PoolVolume>;

    /// Makes the volume's device appear, and returns it. Running it twice changes nothing.
    ///
    /// # Errors
    /// `Precondition` if the storage under it is lost.
    async fn activate(&self, volume: &PoolVolume) -> Result<PathBuf>;

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
}

impl PoolVolume {
    /// The record, where this code may change the volume.
    ///
    /// # Errors
    /// `Precondition` for a record of a newer Quarry, or one that cannot be read.
    pub fn record(&self) -> Result<&Record> {
        match &self.record {
            Recorded::Here(record) => Ok(record),
            Recorded::Newer(version) => Err(quarry_volume::Error::precondition(format!(
                "volume {} was written by a newer Quarry (record version {version}, this one knows {}): it can be \
                 unpublished and unstaged, nothing else; upgrade Quarry on this node",
                self.name,
                crate::record::VERSION
            ))),
            Recorded::Broken(why) => Err(quarry_volume::Error::precondition(format!(
                "the record of volume {} cannot be read ({why}); nothing is changed: repair its tag by hand, see \
                 docs/record-format.md",
                self.name
            ))),
        }
    }
}
