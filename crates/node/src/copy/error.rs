//! Why a copy failed.

use std::fmt;
use std::io;
use std::path::PathBuf;

use quarry_volume::Reason;

use crate::errors;

/// Why a copy failed. Nothing outside the target was changed.
#[derive(Debug)]
pub(crate) enum Error {
    /// The source cannot be read there. A snapshot that is full (its space for changes is used up) fails with EIO.
    Read {
        /// The source.
        device: PathBuf,
        /// Where, in bytes.
        offset: u64,
        /// Why.
        source: io::Error,
    },
    /// The target cannot be written there.
    Write {
        /// The target.
        device: PathBuf,
        /// Where, in bytes.
        offset: u64,
        /// Why.
        source: io::Error,
    },
    /// The target cannot be zeroed there.
    Zero(quarry_filesystem::Error),
    /// The target cannot be flushed.
    Flush {
        /// The target.
        device: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A device cannot be opened. The target is perhaps in use.
    Open(quarry_filesystem::Error),
    /// The source is smaller or larger than expected.
    SourceSize {
        /// The expected size in bytes.
        expected: u64,
        /// Its size in bytes.
        found: u64,
    },
    /// The target is smaller than the source.
    TargetTooSmall {
        /// The size of the source in bytes.
        source: u64,
        /// The size of the target in bytes.
        target: u64,
    },
    /// The target has larger logical sectors than the source. A filesystem that was made for small ones cannot be used
    /// there: the kernel mounts no xfs on sectors larger than those it was made for.
    SectorSize {
        /// The size of the source's sectors in bytes.
        source: u32,
        /// The size of the target's sectors in bytes.
        target: u32,
    },
    /// What was read cannot be copied.
    Edit(quarry_filesystem::Error),
    /// The progress cannot be stored.
    Store(quarry_volume::Error),
    /// A thread could not be started, or panicked.
    Thread(quarry_volume::Error),
    /// The task was asked to stop.
    Stopped {
        /// The call that continues the copy.
        retry: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { device, offset, source } => write!(
                f,
                "cannot read the source of the copy, {device:?}, at byte {offset}: {source}; see the kernel log for \
                 errors of the device, and whether a snapshot ran out of space"
            ),
            Self::Write { device, offset, source } => {
                let remedy = remedy(source);
                write!(f, "cannot write to the new volume, {device:?}, at byte {offset}: {source}; {remedy}")
            }
            Self::Flush { device, source } => {
                let remedy = remedy(source);
                write!(f, "cannot flush the new volume, {device:?}: {source}; {remedy}")
            }
            Self::Zero(error) | Self::Open(error) | Self::Edit(error) => error.fmt(f),
            Self::SourceSize { expected, found } => write!(
                f,
                "cannot copy: the source has {found} bytes, and {expected} are expected; it was changed since the copy \
                 was requested"
            ),
            Self::TargetTooSmall { source, target } => {
                write!(f, "cannot copy {source} bytes to a device of {target} bytes; request a larger volume")
            }
            Self::SectorSize { source, target } => write!(
                f,
                "cannot copy: the source is on disks with logical sectors of {source} bytes, and the new volume on disks \
                 with {target}, where its contents could not be used; use a pool whose disks have sectors of {source} \
                 bytes"
            ),
            Self::Store(error) | Self::Thread(error) => error.fmt(f),
            Self::Stopped { retry } => write!(f, "the copy was stopped; a retry of {retry} continues it"),
        }
    }
}

/// What to do about a failed write to the target.
fn remedy(error: &io::Error) -> &'static str {
    if errors::is_out_of_space(error) { errors::FULL } else { "see the kernel log for errors of the device" }
}

impl std::error::Error for Error {}

impl From<Error> for quarry_volume::Error {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        // The disk may be back at a retry.
        let failure = |path: PathBuf, source| {
            errors::filesystem(quarry_filesystem::Error::Io { attempted: "copy", path, source }).reason
        };
        let reason = match error {
            Error::Read { device, source, .. } => failure(device, source),
            // Like a new volume that cannot be zeroed: the same sectors would fail again.
            Error::Write { source, .. } | Error::Flush { source, .. } => match errors::is_out_of_space(&source) {
                true => Reason::NoSpace,
                false => Reason::Host,
            },
            Error::Zero(error) => return errors::zeroing(error),
            Error::Open(error) | Error::Edit(error) => return errors::filesystem(error),
            Error::SourceSize { .. } => Reason::Precondition,
            Error::TargetTooSmall { .. } => Reason::SizeOutOfRange,
            Error::SectorSize { .. } => Reason::InvalidRequest,
            Error::Store(error) | Error::Thread(error) => return error,
            Error::Stopped { .. } => Reason::UnderWay,
        };
        Self::new(reason, message)
    }
}
