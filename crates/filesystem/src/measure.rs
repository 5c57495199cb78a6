//! Measures how full a filesystem is, and defines how small one may be.

use std::path::Path;

use quarry_volume::Filesystem;

use crate::{Error, kinds};

/// The usage of a mounted filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The filesystem's size in bytes, without its own structures.
    pub total: u64,
    /// Bytes that an unprivileged user can still write.
    pub available: u64,
    /// Bytes in use; with `available` and the blocks reserved for root it makes up `total`.
    pub used: u64,
    /// The number of inodes; 0 if the filesystem has no fixed number (btrfs).
    pub inodes: u64,
    /// Inodes that are free.
    pub inodes_free: u64,
    /// Inodes in use.
    pub inodes_used: u64,
}

/// Measures the filesystem that contains `path`. Blocks if the device hangs.
///
/// # Errors
/// The path is missing, or the filesystem no longer answers.
pub fn usage(path: &Path) -> Result<Usage, Error> {
    let stat = nix::sys::statvfs::statvfs(path).map_err(|errno| Error::io("measure the filesystem at", path, errno))?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.fragment_size());
    Ok(Usage {
        total: bytes(stat.blocks()),
        available: bytes(stat.blocks_available()),
        used: bytes(stat.blocks().saturating_sub(stat.blocks_free())),
        inodes: stat.files(),
        inodes_free: stat.files_free(),
        inodes_used: stat.files().saturating_sub(stat.files_free()),
    })
}

/// The minimum size in bytes of a volume with that filesystem.
#[must_use]
pub fn minimum_size(kind: Filesystem) -> u64 {
    kinds::of(kind).minimum_size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filesystem_is_measured() {
        let usage = usage(&std::env::temp_dir()).unwrap();
        assert!(usage.total > 0 && usage.available <= usage.total && usage.used <= usage.total);
        assert_eq!(usage.inodes, usage.inodes_free + usage.inodes_used);
        assert!(super::usage(Path::new("/no/such/path")).is_err());
    }
}
