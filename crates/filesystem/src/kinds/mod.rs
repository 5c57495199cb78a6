//! What Quarry knows of each filesystem: one module each, and one row of [`of`].

mod btrfs;
mod ext4;
mod xfs;

use std::path::Path;
use std::pin::Pin;

use quarry_volume::{Filesystem, MakeOptions};
use uuid::Uuid;

use crate::condition::Trouble;
use crate::features::Feature;
use crate::{Error, Mounted, Superblock};

/// What differs between filesystems.
pub(crate) struct Kind {
    /// The program that makes it.
    pub(crate) mkfs: &'static str,
    /// Every program of it that a node runs.
    pub(crate) tools: &'static [&'static str],
    /// The package that holds them, as Debian and its kin call it.
    pub(crate) package: &'static str,
    /// The size in bytes below which no volume with it is made.
    pub(crate) minimum_size: u64,
    /// What some mkfs turns on that an older kernel does not mount.
    pub(crate) features: &'static [Feature],
    /// Gives mkfs the UUID, and keeps it from discarding the device. Returns what comes before the options.
    pub(crate) prepare: fn(uuid: &str, options: &mut MakeOptions) -> Vec<String>,
    /// Where its superblock is, in bytes from the device's start.
    pub(crate) superblock_at: u64,
    /// Reads the first [`crate::superblock::LENGTH`] bytes of a superblock. `None`: it is not one of this filesystem.
    pub(crate) superblock: fn(&[u8]) -> Option<Superblock>,
    /// See [`crate::check_before_adoption`].
    pub(crate) check_before_adoption: for<'a> fn(&'a Path) -> Checked<'a>,
    /// Looks for trouble that neither mountinfo nor reading shows. `sysfs` is the kernel's folder of this filesystem.
    pub(crate) hidden_trouble: fn(&Mounted<'_>, sysfs: &Path) -> Option<Trouble>,
}

/// A check under way.
pub(crate) type Checked<'a> = Pin<Box<dyn Future<Output = Result<(), Error>> + Send + 'a>>;

/// What is known of that filesystem.
pub(crate) fn of(kind: Filesystem) -> &'static Kind {
    match kind {
        Filesystem::Ext4 => &ext4::KIND,
        Filesystem::Xfs => &xfs::KIND,
        Filesystem::Btrfs => &btrfs::KIND,
    }
}

/// Every program that a node runs for its filesystems, with the package that holds it.
pub fn tools() -> impl Iterator<Item = (&'static str, &'static str)> {
    Filesystem::ALL.into_iter().map(of).flat_map(|kind| kind.tools.iter().map(|tool| (*tool, kind.package)))
}

/// For filesystems whose superblock is written last, after a flush: what carries it is whole.
fn is_whole(_: &Path) -> Checked<'_> {
    Box::pin(std::future::ready(Ok(())))
}

/// For filesystems that show all their trouble.
fn shows_all(_: &Mounted<'_>, _: &Path) -> Option<Trouble> {
    None
}

fn uuid_at(bytes: &[u8], at: usize) -> Option<String> {
    Some(Uuid::from_slice(bytes.get(at..at + 16)?).ok()?.to_string())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The start of a superblock of that filesystem.
    pub(crate) fn sample(kind: Filesystem, uuid: [u8; 16]) -> Vec<u8> {
        match kind {
            Filesystem::Ext4 => ext4::tests::sample(uuid),
            Filesystem::Xfs => xfs::tests::sample(uuid),
            Filesystem::Btrfs => btrfs::tests::sample(uuid),
        }
    }

    #[test]
    fn each_is_known_by_its_own_superblock_alone() {
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
    fn what_is_cut_off_is_no_superblock() {
        for kind in Filesystem::ALL {
            for length in [0, 3, 40, 0x47] {
                assert_eq!((of(kind).superblock)(&sample(kind, [0x11; 16])[..length]), None, "{kind}, {length} bytes");
            }
        }
    }
}
