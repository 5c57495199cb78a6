//! Filesystems: probe, make, measure.
//!
//! What must never happen here is formatting something that holds data. So [`make`] formats only what [`probe`] calls
//! blank while nobody else can write to the device, mkfs is never forced, doubt of any kind (an unreadable sector, two
//! signatures at once) counts as "not blank", and what comes from a StorageClass has passed
//! the allow-list of [`quarry_volume::MakeOptions`].

mod adopt;
mod condition;
mod device;
mod error;
mod features;
mod kinds;
mod make;
mod measure;
mod probe;
mod superblock;
mod thread;
mod zero;

pub use adopt::check_before_adoption;
pub use condition::{Mounted, Trouble, signs, try_write};
pub use device::{Exclusive, device_size, exclusive};
pub use error::Error;
pub use kinds::tools;
pub use make::{filesystem_uuid, make};
pub use measure::{Usage, minimum_size, usage};
pub use probe::{Probe, probe};
pub use superblock::{Superblock, superblock};
pub use thread::on_own_thread;
pub use zero::{signature_places, wipe_signatures, zero_range};
