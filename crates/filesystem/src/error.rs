//! Errors of filesystem operations, with messages for operators.

use std::path::{Path, PathBuf};

use quarry_volume::{Filesystem, OptionError};

use crate::Obstacle;

/// Why a device could not be probed, wiped or formatted, or why its filesystem could not grow.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The device is in use: it is mounted, or an mkfs or a wipe runs on it, perhaps one that outlived the
    /// Quarry process that started it.
    #[error(
        "cannot {attempted} {device:?}: it is in use: mounted, held by another program, or a mkfs or wipe still \
         runs on it; a retry succeeds once that has ended"
    )]
    Busy {
        /// What was attempted.
        attempted: &'static str,
        /// The device.
        device: PathBuf,
    },
    /// The device is not blank, so it is not formatted.
    #[error(
        "cannot make a filesystem on {device:?}: it is not blank, it contains {found}; nothing was changed: find out \
         whose data this is"
    )]
    NotBlank {
        /// The device.
        device: PathBuf,
        /// What it contains.
        found: String,
    },
    /// mkfs reported success, but its filesystem is not there.
    #[error("mkfs.{kind} on {device:?} reported success, but the device now contains {found}")]
    Unverified {
        /// The requested filesystem.
        kind: Filesystem,
        /// The device.
        device: PathBuf,
        /// The contents.
        found: String,
    },
    /// A filesystem with the right UUID is incomplete.
    #[error(
        "the {kind} filesystem on {device:?} is incomplete: a power failure probably interrupted its creation; nothing \
         was changed: if no pod ever used this volume, delete its PersistentVolumeClaim and create it again"
    )]
    Damaged {
        /// The filesystem.
        kind: Filesystem,
        /// The device.
        device: PathBuf,
    },
    /// mkfs failed.
    #[error(
        "cannot make {} filesystem on {device:?}: {source}; check whether the mkfsOptions fit the volume",
        .kind.with_article()
    )]
    Mkfs {
        /// The requested filesystem.
        kind: Filesystem,
        /// The device.
        device: PathBuf,
        /// The error of the command.
        source: quarry_exec::Error,
    },
    /// Something prevents the filesystem from growing. Nothing was changed.
    #[error("cannot grow the {kind} filesystem on {device:?}: {obstacle}")]
    CannotGrow {
        /// The filesystem.
        kind: Filesystem,
        /// The device.
        device: PathBuf,
        /// What prevents it.
        obstacle: Obstacle,
    },
    /// The kernel reported success, but the filesystem is still too small.
    #[error(
        "the {kind} filesystem on {device:?} was grown, but it has {filesystem} bytes, and {possible} are possible; see \
         the kernel log"
    )]
    StillSmaller {
        /// The filesystem.
        kind: Filesystem,
        /// The device.
        device: PathBuf,
        /// Its size in bytes.
        filesystem: u64,
        /// The size in bytes that it should have.
        possible: u64,
    },
    /// What was copied to a device is not a filesystem that can get a new UUID.
    #[error("cannot give the copied {kind} filesystem on {device:?} a UUID of its own: {why}")]
    NotCopied {
        /// The expected filesystem.
        kind: Filesystem,
        /// The device.
        device: PathBuf,
        /// Why it cannot.
        why: &'static str,
    },
    /// A filesystem cannot be copied, because its copy cannot get a new UUID.
    #[error("cannot copy the {kind} filesystem: its copy cannot get a UUID of its own, because {why}")]
    Uncopyable {
        /// The expected filesystem.
        kind: Filesystem,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The tool reported success, but the filesystem does not have the UUID.
    #[error(
        "the {kind} filesystem on {device:?} was given a UUID of its own, but it has {found}; a journal that was not \
         replayed prevents the change"
    )]
    UuidUnchanged {
        /// The filesystem.
        kind: Filesystem,
        /// The device.
        device: PathBuf,
        /// What was found.
        found: String,
    },
    /// A tool could not be run, or failed.
    #[error("cannot {attempted} {device:?}: {source}")]
    Command {
        /// What was attempted.
        attempted: &'static str,
        /// The device.
        device: PathBuf,
        /// The error of the command.
        source: quarry_exec::Error,
    },
    /// A system call failed.
    #[error("cannot {attempted} {path:?}: {source}; see the kernel log for errors of the device")]
    Io {
        /// What was attempted.
        attempted: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A range that does not consist of whole sectors.
    #[error("cannot zero {len} bytes from {offset}: both must be multiples of 512")]
    Unaligned {
        /// From where, in bytes.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
    /// The device is empty.
    #[error("{device:?} has a size of 0 bytes: it is not ready, or its medium is gone")]
    NoSize {
        /// The device.
        device: PathBuf,
    },
    /// The options are not allowed.
    #[error(transparent)]
    Options(#[from] OptionError),
}

impl Error {
    /// A failed system call.
    pub(crate) fn io(attempted: &'static str, path: &Path, source: impl Into<std::io::Error>) -> Self {
        Self::Io { attempted, path: path.to_owned(), source: source.into() }
    }
}
