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
use uuid::Uuid;

use crate::Error;
use crate::thread::blocking;

/// What a superblock says of its filesystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Its UUID, in lower case.
    pub uuid: String,
    /// Its mkfs never came to its end; only xfs says so.
    pub in_progress: bool,
}

/// Where the superblock of a filesystem lies, in bytes from the device's start.
fn place(kind: Filesystem) -> u64 {
    match kind {
        Filesystem::Ext4 => 1024,
        Filesystem::Xfs => 0,
        Filesystem::Btrfs => 64 << 10,
    }
}

/// How much of a superblock is read: all that is looked at lies within.
const LENGTH: usize = 512;

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
    match file.read_exact_at(&mut bytes, place(kind)) {
        Ok(()) => Ok(understand(kind, &bytes)),
        // The device ends before: no superblock can be there.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(source) => Err(Error::io("read the superblock of", device, source)),
    }
}

fn understand(kind: Filesystem, bytes: &[u8]) -> Option<Superblock> {
    match kind {
        Filesystem::Ext4 => {
            let magic = bytes.get(0x38..0x3a)? == [0x53, 0xef];
            (magic && is_ext4(bytes)?).then_some(())?;
            Some(Superblock { uuid: uuid_at(bytes, 0x68)?, in_progress: false })
        }
        Filesystem::Xfs => {
            (bytes.get(..4)? == b"XFSB").then_some(())?;
            Some(Superblock { uuid: uuid_at(bytes, 32)?, in_progress: *bytes.get(126)? != 0 })
        }
        Filesystem::Btrfs => {
            (bytes.get(0x40..0x48)? == b"_BHRfS_M").then_some(())?;
            Some(Superblock { uuid: uuid_at(bytes, 0x20)?, in_progress: false })
        }
    }
}

/// Whether it is ext4, of the three filesystems that share a superblock: only ext4 has features that ext3 does not know.
/// An external journal is not one of these three.
fn is_ext4(bytes: &[u8]) -> Option<bool> {
    const INCOMPAT_OF_EXT3: u32 = 0x02 | 0x04 | 0x10;
    const RO_COMPAT_OF_EXT3: u32 = 0x01 | 0x02 | 0x04;
    const JOURNAL_DEVICE: u32 = 0x08;
    let word = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let (incompat, ro_compat) = (word(0x60)?, word(0x64)?);
    Some(incompat & JOURNAL_DEVICE == 0 && (incompat & !INCOMPAT_OF_EXT3 != 0 || ro_compat & !RO_COMPAT_OF_EXT3 != 0))
}

fn uuid_at(bytes: &[u8], at: usize) -> Option<String> {
    Some(Uuid::from_slice(bytes.get(at..at + 16)?).ok()?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: [u8; 16] = [0x11; 16];
    const TEXT: &str = "11111111-1111-1111-1111-111111111111";

    fn ext(incompat: u32, ro_compat: u32) -> Vec<u8> {
        let mut bytes = vec![0; LENGTH];
        bytes[0x38..0x3a].copy_from_slice(&[0x53, 0xef]);
        bytes[0x60..0x64].copy_from_slice(&incompat.to_le_bytes());
        bytes[0x64..0x68].copy_from_slice(&ro_compat.to_le_bytes());
        bytes[0x68..0x78].copy_from_slice(&UUID);
        bytes
    }

    fn sample(kind: Filesystem) -> Vec<u8> {
        let mut bytes = vec![0; LENGTH];
        match kind {
            Filesystem::Ext4 => return ext(0x2c2, 0x46b),
            Filesystem::Xfs => {
                bytes[..4].copy_from_slice(b"XFSB");
                bytes[32..48].copy_from_slice(&UUID);
            }
            Filesystem::Btrfs => {
                bytes[0x20..0x30].copy_from_slice(&UUID);
                bytes[0x40..0x48].copy_from_slice(b"_BHRfS_M");
            }
        }
        bytes
    }

    #[test]
    fn each_filesystem_is_known_by_its_own_superblock_alone() {
        for made in Filesystem::ALL {
            for asked in Filesystem::ALL {
                let found = understand(asked, &sample(made));
                let wanted = (made == asked).then(|| Superblock { uuid: TEXT.to_owned(), in_progress: false });
                assert_eq!(found, wanted, "{made} asked for {asked}");
            }
        }
    }

    #[test]
    fn ext2_ext3_and_an_external_journal_are_not_ext4() {
        assert_eq!(understand(Filesystem::Ext4, &ext(0x02, 0x03)), None, "ext2 and ext3");
        assert_eq!(understand(Filesystem::Ext4, &ext(0x06, 0x07)), None, "ext3 whose journal is to be replayed");
        assert_eq!(understand(Filesystem::Ext4, &ext(0x48, 0x400)), None, "a journal device");
        assert!(understand(Filesystem::Ext4, &ext(0x42, 0x03)).is_some(), "extents");
        assert!(understand(Filesystem::Ext4, &ext(0x02, 0x403)).is_some(), "metadata checksums");
    }

    #[test]
    fn an_unfinished_xfs_says_so() {
        let mut bytes = sample(Filesystem::Xfs);
        bytes[126] = 1;
        assert!(understand(Filesystem::Xfs, &bytes).unwrap().in_progress);
    }

    #[test]
    fn what_is_cut_off_is_no_superblock() {
        for kind in Filesystem::ALL {
            for length in [0, 3, 40, 0x47] {
                assert_eq!(understand(kind, &sample(kind)[..length]), None, "{kind}, {length} bytes");
            }
        }
    }

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
            file.as_file().write_all_at(&sample(kind), place(kind)).unwrap();
            assert_eq!(superblock(kind, file.path()).await.unwrap().unwrap().uuid, TEXT);
        }
        assert!(matches!(superblock(Filesystem::Xfs, Path::new("/no/such")).await, Err(Error::Io { .. })));
    }
}
