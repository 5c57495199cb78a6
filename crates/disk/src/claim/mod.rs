//! The claim on a disk: docs/disk-format.md.
//!
//! A disk belongs to a volume if it has a claim: a partition table with Quarry's partition types, and the
//! volume's record between them. Sector 0 is the commit point: it is written last and erased first. An extension
//! of the volume is committed by the record instead: see [`extend`]. [`read`]
//! decides what a disk holds after a power cut at any instant, and how to continue; no other code interprets
//! the bytes.
//!
//! The pool that uses this module holds the disk exclusively while it writes, probes a disk before it claims
//! it, and wipes the volume's bytes: this module does not.

mod bytes;
mod contents;
mod damage;
mod error;
mod extend;
mod geometry;
mod gpt;
mod identity;
mod interpret;
mod repair;
mod sectors;
mod slot;
mod state;
#[cfg(test)]
mod tests;
mod write;

pub use damage::{Damage, Damaged};
pub use error::Error;
pub use extend::{complete_extension, extend, prepare_extension};
pub use geometry::capacity;
pub use identity::{DiskGuid, Identity, METADATA_TYPE, PartitionGuid, VOLUME_TYPE};
pub use interpret::read;
pub use repair::Repair;
pub use sectors::{BlockDevice, Sectors};
pub use slot::MAX_RECORD;
pub use state::{Claim, ClaimState, Degraded};
pub use write::{begin_release, claim, clear, release, resume, set_record};
