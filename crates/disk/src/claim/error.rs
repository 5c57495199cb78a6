//! The errors of claims.

use std::path::{Path, PathBuf};

/// Why a claim could not be read, made, changed or released.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk could not be read, written or flushed.
    #[error("cannot {attempted} {device:?}: {source}; see the kernel log for errors of the disk")]
    Io {
        /// The operation.
        attempted: &'static str,
        /// The disk.
        device: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The disk is unsuitable for a claim.
    #[error(
        "cannot claim {device:?} of {size} bytes in sectors of {sector_size}: a claim needs at least 4 MiB and \
         sectors of 512 or 4096 bytes; exclude the disk from the pool"
    )]
    Unfit {
        /// The disk.
        device: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// Its logical sector size in bytes.
        sector_size: u32,
    },
    /// The record does not fit into its slot.
    #[error(
        "cannot write a record of {length} bytes to {device:?}: the limit is {most} bytes; this is a bug in Quarry, \
         please report it"
    )]
    RecordTooLong {
        /// The disk.
        device: PathBuf,
        /// The length of the record.
        length: usize,
        /// The limit.
        most: usize,
    },
    /// The contents of the disk do not fit the operation.
    #[error(
        "cannot {attempted} {device:?}: the disk holds {found}; nothing was written: check the disk with `quarry \
         disks`, then retry"
    )]
    Unexpected {
        /// The operation.
        attempted: &'static str,
        /// The disk.
        device: PathBuf,
        /// What it holds.
        found: String,
    },
    /// The disk has another size than when it was claimed, so that a half-made claim cannot be finished.
    #[error(
        "cannot finish the half-made claim on {device:?}: the disk had {then} bytes when the claim was started, and \
         has {now} now; clear the claim, then claim the disk again"
    )]
    Resized {
        /// The disk.
        device: PathBuf,
        /// Its size then.
        then: u64,
        /// Its size now.
        now: u64,
    },
    /// All writes succeeded, but the disk now holds something else.
    #[error(
        "all writes to {attempted} {device:?} succeeded, but the disk now holds {found}; is the disk failing, or does \
         another program write to it?"
    )]
    Unverified {
        /// The operation.
        attempted: &'static str,
        /// The disk.
        device: PathBuf,
        /// What it holds.
        found: String,
    },
}

impl Error {
    /// An I/O error of the disk.
    pub(super) fn io(attempted: &'static str, device: &Path, source: std::io::Error) -> Self {
        Self::Io { attempted, device: device.to_owned(), source }
    }
}
