//! The superblock of one filesystem, at its own place: whether a volume carries the filesystem that was made for it.
//!
//! [`crate::probe`] asks what a device may be taken for, and any signature counts: that is right for a device that is
//! about to be formatted. It is wrong for a volume in use. Many signatures (of arrays, of other filesystems, of partition
//! tables) lie where users' files lie, some of them two bytes long, and what a user writes into a file must not make the
//! volume unmountable. So here one place is read, and nothing else on the device counts.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use quarry_volume::Filesystem;

use crate::thread::blocking;
use crate::{Error, kinds};

/// What a superblock says of its filesystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Its UUID, in lower case.
    pub uuid: String,
    /// Its mkfs never came to its end; only xfs says so.
    pub in_progress: bool,
}

/// How much of a superblock is read: all that is looked at lies within.
pub(crate) const LENGTH: usize = 512;

/// The superblock of that filesystem on the device. `None`: the device was read, and has none there.
///
/// # Errors
/// The device cannot be opened or read.
pub async fn superblock(kind: Filesystem, device: &Path) -> Result<Option<Superblock>, Error> {
    blocking(device, move |device| read(kind, device)).await
}

fn read(kind: Filesystem, device: &Path) -> Result<Option<Superblock>, Error> {
    let file = File::open(device).map_err(|source| Error::io("open", device, source))?;
    let mut bytes = [0; LENGTH];
    let of = kinds::of(kind);
    match file.read_exact_at(&mut bytes, of.superblock_at) {
        Ok(()) => Ok((of.superblock)(&bytes)),
        // The device ends before: no superblock can be there.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(source) => Err(Error::io("read the superblock of", device, source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::tests::sample;

    #[tokio::test]
    async fn a_device_that_ends_before_has_none_and_one_that_is_missing_is_an_error() {
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
