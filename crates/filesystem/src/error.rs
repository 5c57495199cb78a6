//! What can go wrong with a filesystem, in words for the operator.

use std::path::{Path, PathBuf};

use quarry_volume::{Filesystem, OptionError};

/// Why a device could not be probed, wiped or formatted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody has the device: it is mounted, or a mkfs or a wipe runs on it, perhaps one that outlived its Quarry.
    #[error(
        "cannot {attempted} {device:?}: it is in use: mounted, held by another program, or a mkfs or wipe still runs on \
         it; a retry succeeds once that has ended"
    )]
    Busy {
        /// What was to be done.
        attempted: &'static str,
        /// The device.
        device: PathBuf,
    },
    /// The device holds something, so it is not formatted.
    #[error(
        "cannot make a filesystem on {device:?}: it is not blank, it holds {found}; it was left as it is: look whose data \
         this is"
    )]
    NotBlank {
        /// The device.
        device: PathBuf,
        /// What it holds.
        found: String,
    },
    /// mkfs ran, and what it should have made is not there.
    #[error("mkfs.{kind} on {device:?} reported success, but the device now holds {found}")]
    Unverified {
        /// The filesystem asked for.
        kind: Filesystem,
        /// The device.
        device: PathBuf,
        /// What is there.
        found: String,
    },
    /// A filesystem with the right UUID lacks parts of itself.
    #[error(
        "the {kind} filesystem on {device:?} is incomplete: its creation seems to have been cut off by a power failure; it \
         was left as it is: if no pod ever used this volume, delete its claim and make it anew"
    )]
    Damaged {
        /// What it is.
        kind: Filesystem,
        /// The device.
        device: PathBuf,
    },
    /// mkfs refused or failed.
    #[error(
        "cannot make an {kind} filesystem on {device:?}: {source}; were mkfsOptions given that do not fit the volume?"
    )]
    Mkfs {
        /// The filesystem asked for.
        kind: Filesystem,
        /// The device.
        device: PathBuf,
        /// The command and what it said.
        source: quarry_exec::Error,
    },
    /// A tool could not be run, or failed in a way of its own.
    #[error("cannot {attempted} {device:?}: {source}")]
    Command {
        /// What was to be done.
        attempted: &'static str,
        /// The device.
        device: PathBuf,
        /// The command and what it said.
        source: quarry_exec::Error,
    },
    /// A system call failed.
    #[error("cannot {attempted} {path:?}: {source}; see the kernel log for trouble with the device")]
    Io {
        /// What was to be done.
        attempted: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A range that is not made of whole sectors.
    #[error("cannot zero {len} bytes from {offset}: both have to be multiples of 512")]
    Unaligned {
        /// From where, in bytes.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
    /// The device has no bytes.
    #[error("{device:?} has a size of 0 bytes: it is not ready, or its medium is gone")]
    NoSize {
        /// The device.
        device: PathBuf,
    },
    /// The options cannot be used.
    #[error(transparent)]
    Options(#[from] OptionError),
}

impl Error {
    /// A failed system call.
    pub(crate) fn io(attempted: &'static str, path: &Path, source: impl Into<std::io::Error>) -> Self {
        Self::Io { attempted, path: path.to_owned(), source: source.into() }
    }
}
