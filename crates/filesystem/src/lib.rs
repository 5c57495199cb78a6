//! Probes, makes, measures and grows filesystems.
//!
//! This crate must never format a device that contains data. So [`make`] formats only a device that [`probe`]
//! reports as blank while no other process can write to it; mkfs is never forced; any doubt (an unreadable
//! sector, two signatures) counts as "not blank"; and options from a StorageClass have passed the allow-list
//! of [`quarry_volume::MakeOptions`].

mod adopt;
mod condition;
mod device;
mod error;
mod features;
mod grow;
mod kinds;
mod make;
mod measure;
mod probe;
mod superblock;
mod thread;
mod trouble;
mod zero;

pub use adopt::check_before_adoption;
pub use condition::check_mounted;
pub use device::{Exclusive, device_size, exclusive};
pub use error::Error;
pub use grow::{Coverage, Obstacle, coverage, grow};
pub use kinds::{Superblock, tools};
pub use make::{filesystem_uuid, make};
pub use measure::{Usage, minimum_size, usage};
pub use probe::{Probe, probe};
pub use superblock::superblock;
pub use thread::on_own_thread;
pub use trouble::{Mounted, Trouble, try_write};
pub use zero::{signature_places, wipe_signatures, zero_range};
