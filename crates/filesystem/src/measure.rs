//! How full a filesystem is, and how small one may be.

use std::path::Path;

use quarry_volume::Filesystem;

use crate::{Error, kinds};

/// What a mounted filesystem holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The filesystem's size in bytes, its own structures not counted.
    pub total: u64,
    /// Bytes that an ordinary user may still write.
    pub available: u64,
    /// Bytes in use; with `available` and the blocks reserved for root it makes up `total`.
    pub used: u64,
    /// Inodes in all; 0 where the filesystem has no fixed number of them (btrfs).
    pub inodes: u64,
    /// Inodes that are free.
    pub inodes_free: u64,
    /// Inodes in use.
    pub inodes_used: u64,
}

/// Measures the filesystem that `path` is on. Blocks where the device does.
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

/// The size in bytes below which no volume with that filesystem is made.
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
