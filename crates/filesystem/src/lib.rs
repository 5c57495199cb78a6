//! Filesystems: probe, make, options, measure.
//!
//! What must never happen here is formatting something that holds data. So [`make`] formats only what [`probe`] calls
//! blank while nobody else can write to the device, mkfs is never forced, doubt of any kind (an unreadable sector, two
//! signatures at once) counts as "not blank", and what comes from a StorageClass passes an allow-list.

mod adopt;
mod device;
mod error;
mod features;
mod make;
mod make_options;
mod measure;
mod mount_options;
mod options;
mod probe;
mod tables;
mod zero;

pub use adopt::check_before_adoption;
pub use device::{Exclusive, device_size, exclusive};
pub use error::Error;
pub use make::{filesystem_uuid, make};
pub use make_options::MakeOptions;
pub use measure::{Usage, minimum_size, usage};
pub use mount_options::MountOptions;
pub use options::OptionError;
pub use probe::{Probe, probe};
pub use zero::{wipe_signatures, zero_range};
