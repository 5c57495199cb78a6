//! Discards the unused blocks of a mounted filesystem, as fstrim does.

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use nix::errno::Errno;

use crate::Error;

#[allow(unsafe_code, missing_docs)]
mod ioctl {
    /// What to discard: `struct fstrim_range` of linux/fs.h.
    #[repr(C)]
    pub(super) struct Range {
        pub(super) start: u64,
        /// The kernel replaces it with the number of discarded bytes.
        pub(super) length: u64,
        /// The smallest extent that is discarded. The kernel raises it to what the disk can discard.
        pub(super) minimum: u64,
    }

    // FITRIM of linux/fs.h.
    nix::ioctl_readwrite!(trim, b'X', 121, Range);
}

/// The result of [`trim`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trimmed {
    /// The number of discarded bytes.
    Bytes(u64),
    /// The filesystem ends before the range.
    PastEnd,
    /// The disk does not support discards.
    Unsupported,
}

/// Discards the unused blocks in a range of the bytes of a filesystem, which need not end before the end of the range.
/// `directory` is where it is mounted, and `mounted` its path, for messages. Addresses of btrfs are logical: they can be
/// larger than its device, and it leaves out free space in the middle of which the range begins. Blocks until it is done,
/// which takes seconds for some GiB.
///
/// # Errors
/// The kernel's error: the disk has failed, or the filesystem does not work any more.
pub fn trim(directory: &File, mounted: &Path, range: Range<u64>) -> Result<Trimmed, Error> {
    let length = range.end.saturating_sub(range.start);
    let mut request = ioctl::Range { start: range.start, length, minimum: 0 };
    // SAFETY: the kernel reads and writes one `fstrim_range`, which `request` is.
    #[allow(unsafe_code)]
    let result = unsafe { ioctl::trim(directory.as_raw_fd(), &raw mut request) };
    match result {
        Ok(_) => Ok(Trimmed::Bytes(request.length)),
        Err(Errno::EOPNOTSUPP) => Ok(Trimmed::Unsupported),
        // ext4 and xfs say so. The beginning is never beyond the end.
        Err(Errno::EINVAL) if range.start > 0 => Ok(Trimmed::PastEnd),
        Err(errno) => Err(Error::io("discard the unused blocks of the filesystem at", mounted, errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filesystem_that_cannot_discard_is_an_error_and_not_a_success() {
        let path = Path::new("/proc");
        let error = trim(&File::open(path).unwrap(), path, 0..1 << 30).unwrap_err();
        assert!(error.to_string().contains("discard the unused blocks of the filesystem at \"/proc\""), "{error}");
        assert_eq!(size_of::<ioctl::Range>(), 24, "the size is part of the number of the ioctl");
    }
}
