//! Reads the superblock of one filesystem at its fixed offset, to check that a volume contains the filesystem
//! that was made for it.
//!
//! [`crate::probe`] looks for any signature on the device, which is right before formatting. It is wrong for
//! a volume in use: many signatures (of arrays, other filesystems, partition tables) are at offsets where
//! users' files are, some of them only two bytes long, and what a user writes into a file must not make the
//! volume unmountable. So this module reads only one offset and ignores everything else on the device.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use quarry_volume::Filesystem;

use crate::kinds::{self, SUPERBLOCK_LENGTH};
use crate::thread::blocking;
use crate::{Error, Superblock};

/// The superblock of that filesystem on the device. `None`: the device was read and has no such superblock.
///
/// # Errors
/// The device cannot be opened or read.
pub async fn superblock(kind: Filesystem, device: &Path) -> Result<Option<Superblock>, Error> {
    blocking(device, move |device| read(kind, device)).await
}

fn read(kind: Filesystem, device: &Path) -> Result<Option<Superblock>, Error> {
    Ok(read_bytes(kind, device)?.and_then(|bytes| (kinds::of(kind).superblock)(&bytes)))
}

/// The first bytes of the place where a filesystem of that kind has its superblock. If one is mounted, and the kernel
/// keeps its superblock in the page cache of the device (ext4), these are the kernel's. `None`: the device is too
/// short.
pub(crate) fn read_bytes(kind: Filesystem, device: &Path) -> Result<Option<[u8; SUPERBLOCK_LENGTH]>, Error> {
    let file = File::open(device).map_err(|source| Error::io("open", device, source))?;
    let mut bytes = [0; SUPERBLOCK_LENGTH];
    match file.read_exact_at(&mut bytes, kinds::of(kind).superblock_at) {
        Ok(()) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(source) => Err(Error::io("read the superblock of", device, source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::tests::sample;

    #[tokio::test]
    async fn a_short_device_has_no_superblock_and_a_missing_one_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for length in [0, 1024, (64 << 10) + 511] {
            file.as_file().set_len(length).unwrap();
            assert_eq!(superblock(Filesystem::Btrfs, file.path()).await.unwrap(), None);
        }
        file.as_file().set_len(1 << 20).unwrap();
        for kind in Filesystem::ALL {
            assert_eq!(superblock(kind, file.path()).await.unwrap(), None);
            file.as_file().write_all_at(&sample(kind, [0x11; 16]), kinds::of(kind).superblock_at).unwrap();
            assert_eq!(
                superblock(kind, file.path()).await.unwrap().unwrap().uuid,
                "11111111-1111-1111-1111-111111111111"
            );
        }
        assert!(matches!(superblock(Filesystem::Xfs, Path::new("/no/such")).await, Err(Error::Io { .. })));
    }
}
