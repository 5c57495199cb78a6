//! Pools: the storage that volumes are created from.
//!
//! A [`Pool`] is one storage. [`LvmPool`] is a volume group, [`DiskPool`] has whole disks, and
//! [`SimulatedPool`] is in memory, for tests. The [`Record`] is stored with each volume and is the only
//! state: it survives any crash of the processes that use it.

mod config;
mod disk;
mod key;
mod kinds;
mod lvm;
mod open;
mod pool;
mod record;
mod simulated;
mod snapshot;
mod threads;
mod udev;
mod uevent;
mod volume;
mod wiping;

pub use config::{
    ConfigError, CreateThinPool, DiskConfig, ExtendThinPool, LvmConfig, PoolConfig, PoolKind, ThinPoolConfig,
    ThinPoolSize, load, parse,
};
pub use disk::{DiskList, DiskPool, DiskReport, DiskSpace, Owner, list_disks};
pub use kinds::{could_be_volume, device_in_kernel, release_nested_on, tools};
pub use lvm::{LvmPool, volume_group_reads};
pub use open::open;
pub use pool::{Contents, ContentsOf, CopiedFilesystem, Device, Expansion, NewSpace, Pool, Reading, Volumes};
pub use quarry_lvm::frozen;
pub use record::{
    ExpansionProgress, MAX_RECORD, NotVolume, Record, ScratchRecord, SnapshotKind, SnapshotRecord, State, Tag,
    ThinPoolPart, ThinPoolRecord, VERSION,
};
pub use simulated::{Failure, Operation, SimulatedDevice, SimulatedPool};
pub use snapshot::{PoolSnapshot, SnapshotHealth};
pub use threads::UnresponsiveDisk;
pub use uevent::{EventCounts, Uevents};
pub use volume::{Health, PoolVolume, Recorded};
pub use wiping::Wiping;
