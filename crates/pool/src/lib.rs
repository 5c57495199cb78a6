//! Pools: where volumes are carved from.
//!
//! A [`Pool`] is a storage behind one trait; [`LvmPool`] is a volume group, [`DiskPool`] gives out whole disks,
//! [`SimulatedPool`] is a pretence in memory. The [`Record`] lies with each volume and is
//! all the state there is: what is on the disks survives whatever happens to the processes above them.

mod config;
mod disk;
mod lvm;
mod open;
mod pool;
mod record;
mod simulated;
mod threads;
mod udev;
mod uevent;

pub use config::{ConfigError, DiskConfig, LvmConfig, PoolConfig, PoolKind, load, parse};
pub use disk::{DiskList, DiskPool, DiskReport, Owner, VOLUME_PARTITION, Wiping, is_of_disks, list_disks};
pub use lvm::{Active, LvmPool, active};
pub use open::open;
pub use pool::{Device, Health, Pool, PoolVolume, Reading, Recorded, Volumes};
pub use record::{MAX_RECORD, Record, State, Tag, VERSION};
pub use simulated::{Failure, Operation, SimulatedDevice, SimulatedPool};
pub use threads::SilentDisk;
pub use uevent::{Heard, Uevents};
