//! XFS.

use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::time::Duration;

use quarry_exec::{Command, Output};
use quarry_volume::{Filesystem, MakeOptions};

use super::{
    Kind, Superblock, feature, grow_by, native_u32_at, native_u64_at, no_hidden_trouble, no_limit_of_growth,
    unexpected, uuid_at,
};
use crate::coverage::open;
use crate::{Coverage, Error};

#[allow(unsafe_code, missing_docs)]
mod ioctl {
    use super::{GEOMETRY, NewSize};

    // XFS_IOC_FSGEOMETRY_V1: every kernel knows this version.
    nix::ioctl_read!(geometry, b'X', 100, [u8; GEOMETRY]);
    // XFS_IOC_FSGROWFSDATA.
    nix::ioctl_write_ptr!(grow, b'X', 110, NewSize);
}

/// A new size for the kernel (`struct xfs_growfs_data`).
#[repr(C)]
pub(super) struct NewSize {
    /// The number of blocks.
    blocks: u64,
    /// The share of the space that inodes may use, in percent.
    inodes_percent: u32,
}

/// The size of the geometry that the kernel returns, in bytes (`struct xfs_fsop_geom_v1`).
const GEOMETRY: usize = 112;

pub(super) const KIND: Kind = Kind {
    mkfs: "mkfs.xfs",
    tools: &["mkfs.xfs", "xfs_repair", "xfs_db"],
    package: "xfsprogs",
    // The minimum of mkfs.xfs. Measured on a loop device with xfsprogs 6.1.0.
    minimum_size: 300 << 20,
    features: &[
        feature((4, 16), (4, 9), "-m", "reflink=0"),
        feature((4, 16), (4, 9), "-m", "rmapbt=0"),
        feature((5, 10), (5, 10), "-m", "bigtime=0"),
        feature((5, 10), (5, 10), "-m", "inobtcount=0"),
        feature((5, 19), (5, 19), "-i", "nrext64=0"),
        feature((6, 10), (6, 10), "-i", "exchange=0"),
        feature((6, 10), (6, 10), "-n", "parent=0"),
    ],
    prepare,
    superblock_at: 0,
    superblock,
    check_before_adoption: |device| Box::pin(check_with_repair(device)),
    grow,
    limit_of_growth: no_limit_of_growth,
    coverage,
    new_uuid: crate::new_uuid::XFS,
    hidden_trouble: no_hidden_trouble,
    #[cfg(test)]
    expected: tests::EXPECTED,
};

/// How long the check may take. A new filesystem is read in seconds, unless its disk is slow. One that contains files
/// is checked, too, if an operator restored old metadata.
const CHECK_DEADLINE: Duration = Duration::from_secs(300);

fn prepare(uuid: &str, options: &mut MakeOptions) -> Vec<String> {
    options.add_default("-m", &format!("uuid={uuid}"));
    options.add_switch("-K");
    Vec::new()
}

fn superblock(bytes: &[u8]) -> Option<Superblock> {
    (bytes.get(..4)? == b"XFSB").then_some(())?;
    Some(Superblock { uuid: uuid_at(bytes, 32)?, in_progress: *bytes.get(126)? != 0 })
}

/// mkfs.xfs clears the "in progress" mark *before* its only flush (xfsprogs 6.1.0), so the whole filesystem
/// is checked.
async fn check_with_repair(device: &Path) -> Result<(), Error> {
    let output = Command::query("xfs_repair")
        .arg("-n")
        .arg(device)
        .deadline(CHECK_DEADLINE)
        .on(device.display().to_string())
        .run()
        .await;
    judge(device, output)
}

fn judge(device: &Path, output: Result<Output, quarry_exec::Error>) -> Result<(), Error> {
    let attempted = "check whether mkfs.xfs has finished on";
    let failed = |source| Error::Command { attempted, device: device.to_owned(), source };
    // If the deadline has passed, nothing is known: the filesystem may be large, or its disk slow.
    let output = output.map_err(failed)?;
    let damaged = || Error::Damaged { kind: Filesystem::Xfs, device: device.to_owned() };
    match output.code {
        0 => Ok(()),
        // The log contains changes: it was mounted, so its mkfs had finished. With -n, xfs_repair cannot
        // check more, because it does not replay the log.
        1 if output.stderr.contains("valuable metadata changes in a log") => Ok(()),
        1 if output.stderr.contains("contains a mounted") => {
            Err(Error::Busy { attempted: "check", device: device.to_owned() })
        }
        1 => Err(damaged()),
        _ => Err(output.require_success().map_or_else(failed, |_| damaged())),
    }
}

fn coverage(_: &Path, mounted: &Path, size: u64) -> Result<Coverage, Error> {
    covers(&geometry(mounted)?, size).ok_or_else(|| unexpected(READ_GEOMETRY, mounted))
}

const READ_GEOMETRY: &str = "read the geometry of the xfs at";

#[allow(unsafe_code)]
fn geometry(mounted: &Path) -> Result<[u8; GEOMETRY], Error> {
    let mut geometry = [0; GEOMETRY];
    // SAFETY: the kernel writes a geometry of exactly this size, and the descriptor is open during the call.
    unsafe { ioctl::geometry(open(mounted)?.as_raw_fd(), &raw mut geometry) }
        .map_err(|errno| Error::io(READ_GEOMETRY, mounted, errno))?;
    Ok(geometry)
}

#[allow(unsafe_code)]
fn grow(_: &Path, mounted: &Path, possible: u64) -> Result<(), Error> {
    let geometry = geometry(mounted)?;
    let new_size = new_size(&geometry, possible).ok_or_else(|| unexpected(READ_GEOMETRY, mounted))?;
    // SAFETY: the kernel reads the request, and the descriptor is open during the call.
    grow_by("grow the xfs filesystem that is mounted at", mounted, |directory| unsafe {
        ioctl::grow(directory, &raw const new_size)
    })
}

/// The share of inodes stays what it is.
fn new_size(geometry: &[u8], size: u64) -> Option<NewSize> {
    let blocks = size.checked_div(u64::from(native_u32_at(geometry, 0)?))?;
    Some(NewSize { blocks, inodes_percent: native_u32_at(geometry, 28)? })
}

/// Reads a geometry. An allocation group of less than 64 blocks is not added (the kernel's XFS_MIN_AG_BLOCKS).
fn covers(geometry: &[u8], device: u64) -> Option<Coverage> {
    const MINIMUM_GROUP: u64 = 64;
    let (block, group) = (u64::from(native_u32_at(geometry, 0)?), u64::from(native_u32_at(geometry, 8)?));
    let (groups, blocks) = (native_u32_at(geometry, 12)?, native_u64_at(geometry, 32)?);
    let possible = device.checked_div(block)?;
    let last = possible.checked_rem(group)?;
    let possible = if last < MINIMUM_GROUP { possible - last } else { possible };
    let bytes = |blocks: u64| blocks.saturating_mul(block);
    Some(Coverage { groups, ..Coverage::new(device, bytes(blocks), bytes(possible), None) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::SUPERBLOCK_LENGTH as LENGTH;
    use crate::kinds::tests::Expected;

    pub(super) const EXPECTED: Expected = Expected {
        superblock: sample,
        arguments: &[("", "-q -m uuid=UUID -K"), ("-K -m reflink=0", "-q -K -m reflink=0,uuid=UUID")],
    };

    fn sample(uuid: [u8; 16]) -> Vec<u8> {
        let mut bytes = vec![0; LENGTH];
        bytes[..4].copy_from_slice(b"XFSB");
        bytes[32..48].copy_from_slice(&uuid);
        bytes
    }

    #[test]
    fn an_xfs_is_compared_with_its_device() {
        // Of 300 MiB, made with xfsprogs 6.1.0; recorded on Linux 6.18.
        let geometry = include_bytes!("samples/xfs.geometry");
        let on = |device: u64| covers(geometry, device).unwrap();
        let size = 300 << 20;
        assert_eq!(on(size), Coverage { groups: 4, ..Coverage::new(size, size, size, None) });
        // Less than a block, and a group that is too small.
        for more in [512, 4096, 63 * 4096 + 512] {
            assert!(on(size + more).is_complete(), "{more} bytes more");
        }
        assert_eq!(on(size + 64 * 4096).possible, size + 64 * 4096);
        assert_eq!(on(375 << 20).possible, 375 << 20, "a whole group more");
        assert_eq!(on((375 << 20) + 4096).possible, 375 << 20);
        assert!(on(size - 4096).is_complete(), "smaller than the filesystem");
        assert_eq!(covers(&geometry[..39], size), None);
        assert_eq!(covers(&[0; GEOMETRY], size), None);
    }

    /// After a boot, a disk may be slow, and its mkfs may have been interrupted by a power cut.
    #[test]
    fn an_xfs_that_could_not_be_checked_does_not_count_as_complete() {
        let (command, deadline) = ("xfs_repair -n /dev/sdx".to_owned(), CHECK_DEADLINE);
        let error = judge(Path::new("/dev/sdx"), Err(quarry_exec::Error::Deadline { command, deadline })).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("cannot check whether mkfs.xfs has finished on \"/dev/sdx\""), "{text}");
        assert!(text.contains("did not finish within 300s"), "{text}");
    }

    #[test]
    fn an_unfinished_xfs_is_recognized() {
        let mut bytes = sample([0x11; 16]);
        bytes[126] = 1;
        assert!(superblock(&bytes).unwrap().in_progress);
    }
}
