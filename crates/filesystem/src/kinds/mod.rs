//! What Quarry knows about each filesystem: one module and one row of [`of`] per filesystem.

mod btrfs;
mod ext4;
mod xfs;

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::pin::Pin;

use quarry_volume::{Filesystem, MakeOptions};
use uuid::Uuid;

use crate::coverage::open;
use crate::new_uuid::NewUuid;
use crate::trouble::{Mounted, Trouble};
use crate::{Coverage, Error};

/// What differs between filesystems.
pub(crate) struct Kind {
    /// The program that makes the filesystem.
    pub(crate) mkfs: &'static str,
    /// All of its programs that a node runs.
    pub(crate) tools: &'static [&'static str],
    /// The package that contains them, on Debian and similar distributions.
    pub(crate) package: &'static str,
    /// The minimum size in bytes of a volume with this filesystem.
    pub(crate) minimum_size: u64,
    /// Features that some version of mkfs turns on and that an older kernel cannot mount.
    pub(crate) features: &'static [Feature],
    /// Sets the UUID and turns off discarding. Returns the arguments that come before the options.
    pub(crate) prepare: fn(uuid: &str, options: &mut MakeOptions) -> Vec<String>,
    /// The offset of its superblock, in bytes from the device's start.
    pub(crate) superblock_at: u64,
    /// Reads the first [`SUPERBLOCK_LENGTH`] bytes of a superblock. `None`: it is not one of this filesystem.
    pub(crate) superblock: fn(&[u8]) -> Option<Superblock>,
    /// See [`crate::check_before_adoption`].
    pub(crate) check_before_adoption: for<'a> fn(&'a Path) -> Checked<'a>,
    /// Measures the filesystem that is mounted at a path from a device with that size: see [`crate::coverage`].
    pub(crate) coverage: fn(device: &Path, mounted: &Path, size: u64) -> Result<Coverage, Error>,
    /// Grows the filesystem that is mounted at a path from a device to that many bytes, which [`Coverage::possible`]
    /// says are possible. Blocks until the kernel has done it.
    pub(crate) grow: fn(device: &Path, mounted: &Path, possible: u64) -> Result<(), Error>,
    /// See [`crate::limit_of_growth`].
    pub(crate) limit_of_growth: fn(&MakeOptions) -> Option<&'static str>,
    /// Checks for trouble that neither mountinfo nor a read shows. `sysfs` is the directory of this
    /// filesystem type in sysfs.
    pub(crate) hidden_trouble: fn(&Mounted<'_>, sysfs: &Path) -> Option<Trouble>,
    /// How a copy gets a UUID of its own.
    pub(crate) new_uuid: NewUuid,
    /// What the tests expect.
    #[cfg(test)]
    pub(crate) expected: tests::Expected,
}

/// A version as major and minor.
pub(crate) type Version = (u32, u32);

/// A feature that some version of mkfs turns on by default.
///
/// From the release notes of Linux, e2fsprogs, xfsprogs and btrfs-progs. A distribution's kernel may support
/// a feature earlier; the filesystem is made without it anyway, which costs little.
pub(crate) struct Feature {
    /// The first kernel that mounts it for writing, and, if known, no longer calls it experimental.
    pub(crate) kernel: Version,
    /// The first release of the tools that knows the option. Before that, the option is an error, and mkfs
    /// does not turn the feature on.
    pub(crate) tools: Version,
    /// The option that turns it off, and its argument.
    pub(crate) flag: &'static str,
    pub(crate) off: &'static str,
}

const fn feature(kernel: Version, tools: Version, flag: &'static str, off: &'static str) -> Feature {
    Feature { kernel, tools, flag, off }
}

/// The contents of a superblock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Its UUID, in lower case.
    pub uuid: String,
    /// Its mkfs did not finish; only xfs shows this.
    pub in_progress: bool,
}

/// How much of a superblock is read, in bytes; contains every field that is used.
pub(crate) const SUPERBLOCK_LENGTH: usize = 512;

/// The future of a check.
pub(crate) type Checked<'a> = Pin<Box<dyn Future<Output = Result<(), Error>> + Send + 'a>>;

/// The description of that filesystem.
pub(crate) fn of(kind: Filesystem) -> &'static Kind {
    match kind {
        Filesystem::Ext4 => &ext4::KIND,
        Filesystem::Xfs => &xfs::KIND,
        Filesystem::Btrfs => &btrfs::KIND,
    }
}

/// The number in little-endian bytes at that offset.
fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The number at that offset of what an ioctl returned, in the byte order of this machine.
fn native_u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn native_u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Grows a filesystem by an ioctl on the directory where it is mounted.
fn grow_by(
    attempted: &'static str,
    mounted: &Path,
    ioctl: impl FnOnce(RawFd) -> nix::Result<i32>,
) -> Result<(), Error> {
    let failed = |source| Error::io(attempted, mounted, source);
    match ioctl(open(mounted)?.as_raw_fd()) {
        Ok(0) => Ok(()),
        Ok(code) => Err(failed(io::Error::other(format!("the kernel returned {code}")))),
        Err(errno) => Err(failed(errno.into())),
    }
}

/// What the kernel returned is not as documented.
fn unexpected(attempted: &'static str, path: &Path) -> Error {
    Error::io(attempted, path, io::Error::new(io::ErrorKind::InvalidData, "the kernel returned impossible values"))
}

/// Every program that a node runs for its filesystems, with the package that contains it.
pub fn tools() -> impl Iterator<Item = (&'static str, &'static str)> {
    Filesystem::ALL.into_iter().map(of).flat_map(|kind| kind.tools.iter().map(|tool| (*tool, kind.package)))
}

/// For filesystems whose superblock is written last, after a flush: if it is there, the filesystem is
/// complete.
fn always_complete(_: &Path) -> Checked<'_> {
    Box::pin(std::future::ready(Ok(())))
}

/// For filesystems that no permitted option keeps from growing.
fn no_limit_of_growth(_: &MakeOptions) -> Option<&'static str> {
    None
}

/// For filesystems that have no hidden trouble.
fn no_hidden_trouble(_: &Mounted<'_>, _: &Path) -> Option<Trouble> {
    None
}

fn uuid_at(bytes: &[u8], at: usize) -> Option<String> {
    Some(Uuid::from_slice(bytes.get(at..at + 16)?).ok()?.to_string())
}

/// The first bytes of the place where a filesystem of that kind has its superblock. If one is mounted, and the kernel
/// keeps its superblock in the page cache of the device (ext4), these are the kernel's. `None`: the device is too
/// short.
pub(crate) fn read_bytes(kind: Filesystem, device: &Path) -> Result<Option<[u8; SUPERBLOCK_LENGTH]>, Error> {
    let file = File::open(device).map_err(|source| Error::io("open", device, source))?;
    let mut bytes = [0; SUPERBLOCK_LENGTH];
    match file.read_exact_at(&mut bytes, of(kind).superblock_at) {
        Ok(()) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(source) => Err(Error::io("read the superblock of", device, source)),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What the tests expect of a filesystem.
    pub(crate) struct Expected {
        /// The start of its superblock, with that UUID.
        pub(crate) superblock: fn([u8; 16]) -> Vec<u8>,
        /// mkfsOptions, and the arguments of mkfs that they lead to, where `UUID` stands for the UUID.
        pub(crate) arguments: &'static [(&'static str, &'static str)],
    }

    /// The start of a superblock of that filesystem.
    pub(crate) fn sample(kind: Filesystem, uuid: [u8; 16]) -> Vec<u8> {
        (of(kind).expected.superblock)(uuid)
    }

    #[test]
    fn each_is_recognized_only_by_its_own_superblock() {
        for made in Filesystem::ALL {
            for asked in Filesystem::ALL {
                let found = (of(asked).superblock)(&sample(made, [0x11; 16]));
                let uuid = "11111111-1111-1111-1111-111111111111".to_owned();
                let wanted = (made == asked).then_some(Superblock { uuid, in_progress: false });
                assert_eq!(found, wanted, "{made} asked for {asked}");
            }
        }
    }

    #[test]
    fn each_is_documented() {
        let documented = include_str!("../../../../docs/storageclass.md");
        for kind in Filesystem::ALL {
            let Kind { minimum_size, package, .. } = of(kind);
            let row = format!("| `{kind}` | {} MiB | {package} |", minimum_size >> 20);
            assert!(documented.contains(&row), "docs/storageclass.md has no row {row:?}");
        }
    }

    #[test]
    fn a_truncated_superblock_is_not_recognized() {
        for kind in Filesystem::ALL {
            for length in [0, 3, 40, 0x47] {
                assert_eq!((of(kind).superblock)(&sample(kind, [0x11; 16])[..length]), None, "{kind}, {length} bytes");
            }
        }
    }
}
