//! Probes, makes, measures and grows filesystems, and gives copies of them UUIDs of their own.
//!
//! This crate must never format a device that contains data. So [`make`] formats only a device that [`probe`]
//! reports as blank while Quarry holds it exclusively; mkfs is never forced; any doubt (an unreadable sector, two
//! signatures) counts as "not blank"; and options from a StorageClass have passed the allow-list of
//! [`quarry_volume::MakeOptions`].
//!
//! One gap is left. Every mkfs holds the device exclusively itself, so Quarry releases it just before it starts
//! mkfs. Another Quarry is kept away by a lock that mkfs inherits, but another program of root's may write to the
//! device between the two. mkfs.xfs and mkfs.btrfs refuse to overwrite what they recognize; mkfs.ext4 overwrites
//! it. (At a terminal, mkfs.ext4 would look first, but before it holds the device: that would not close the gap.)

mod adopt;
mod condition;
mod coverage;
mod device;
mod error;
mod features;
mod grow;
mod kinds;
mod make;
mod measure;
mod new_uuid;
mod probe;
mod superblock;
mod thread;
mod trim;
mod trouble;
mod zero;

pub use adopt::check_before_adoption;
pub use condition::check_mounted;
pub use coverage::{Coverage, Obstacle};
pub use device::{Exclusive, Locked, device_size, exclusive, exclusive_range, lock};
pub use error::Error;
pub use grow::{coverage, grow, limit_of_growth};
pub use kinds::{Superblock, tools};
pub use make::{filesystem_uuid, make};
pub use measure::{Usage, minimum_size, usage};
pub use new_uuid::{UuidStep, edit_copied, set_uuid, uuid_step};
pub use probe::{Probe, probe};
pub use superblock::superblock;
pub use thread::on_own_thread;
pub use trim::{Trimmed, trim};
pub use trouble::{Mounted, Trouble, try_write};
pub use zero::{signature_places, wipe_signatures, zero_range};
