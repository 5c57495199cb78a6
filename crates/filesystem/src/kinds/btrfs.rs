//! Btrfs.

use std::os::fd::AsRawFd as _;
use std::path::Path;

use quarry_volume::{Filesystem, MakeOptions};

use super::{
    Kind, Superblock, always_complete, feature, grow_by, native_u32_at, native_u64_at, no_hidden_trouble,
    no_limit_of_growth, read_bytes, unexpected, uuid_at,
};
use crate::coverage::open;
use crate::{Coverage, Error, Obstacle};

#[allow(unsafe_code, missing_docs)]
mod ioctl {
    use super::{DEVICE_INFO, FILESYSTEM_INFO, Resize};

    // BTRFS_IOC_FS_INFO and BTRFS_IOC_DEV_INFO.
    nix::ioctl_read!(filesystem_info, 0x94, 31, [u8; FILESYSTEM_INFO]);
    nix::ioctl_readwrite!(device_info, 0x94, 30, [u8; DEVICE_INFO]);
    // BTRFS_IOC_RESIZE.
    nix::ioctl_write_ptr!(resize, 0x94, 3, Resize);
}

/// A request for a new size (`struct btrfs_ioctl_vol_args`).
#[repr(C)]
pub(super) struct Resize {
    unused: i64,
    /// The device and its new size as text that ends with a zero: `1:max`.
    text: [u8; 4088],
}

/// The sizes of what the kernel returns, in bytes (`struct btrfs_ioctl_fs_info_args` and
/// `btrfs_ioctl_dev_info_args`).
const FILESYSTEM_INFO: usize = 1024;
const DEVICE_INFO: usize = 4096;

/// Where a superblock contains the ID of its device.
const DEVICE_ID_AT: usize = 0xc9;

/// The smallest size that the kernel accepts when it changes the size of a device, in bytes.
const MINIMUM_RESIZED: u64 = 256 << 20;

pub(super) const KIND: Kind = Kind {
    mkfs: "mkfs.btrfs",
    tools: &["mkfs.btrfs"],
    package: "btrfs-progs",
    // mkfs.btrfs requires 109 MiB (114,294,784 bytes), which leaves almost no space for files. Measured on a
    // loop device with btrfs-progs 6.2.
    minimum_size: 128 << 20,
    // Every kernel that Kubernetes runs on supports the features that were turned on earlier (no-holes,
    // free-space-tree).
    features: &[feature((6, 1), (6, 3), "-O", "^block-group-tree")],
    prepare,
    superblock_at: 64 << 10,
    superblock,
    // The same as for ext4.
    check_before_adoption: always_complete,
    coverage,
    grow,
    limit_of_growth: no_limit_of_growth,
    new_uuid: crate::new_uuid::BTRFS,
    hidden_trouble: no_hidden_trouble,
    #[cfg(test)]
    expected: tests::EXPECTED,
};

/// With a given UUID, mkfs.btrfs first checks every block device of the host for the same UUID, so any
/// hanging disk on the host blocks it.
fn prepare(uuid: &str, options: &mut MakeOptions) -> Vec<String> {
    options.add_switch("-K");
    vec!["-U".to_owned(), uuid.to_owned()]
}

fn superblock(bytes: &[u8]) -> Option<Superblock> {
    (bytes.get(0x40..0x48)? == b"_BHRfS_M").then_some(())?;
    Some(Superblock { uuid: uuid_at(bytes, 0x20)?, in_progress: false })
}

/// The ID of the device in its filesystem. Its superblock contains it, and it never changes.
fn device_id(device: &Path) -> Result<u64, Error> {
    let superblock = read_bytes(Filesystem::Btrfs, device)?;
    let id = superblock.as_ref().and_then(|bytes| bytes.get(DEVICE_ID_AT..)?.first_chunk());
    id.map(|id| u64::from_le_bytes(*id)).ok_or_else(|| unexpected("read the superblock of the btrfs on", device))
}

#[allow(unsafe_code)]
fn grow(device: &Path, mounted: &Path, _: u64) -> Result<(), Error> {
    let mut request = Resize { unused: 0, text: [0; 4088] };
    let text = format!("{}:max", device_id(device)?);
    request.text.iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from);
    // SAFETY: the kernel reads the request, and the descriptor is open during the call.
    grow_by("grow the btrfs filesystem that is mounted at", mounted, |directory| unsafe {
        ioctl::resize(directory, &raw const request)
    })
}

#[allow(unsafe_code)]
fn coverage(path: &Path, mounted: &Path, size: u64) -> Result<Coverage, Error> {
    const ATTEMPTED: &str = "read the size of the btrfs at";
    let failed = |errno: nix::Error| Error::io(ATTEMPTED, mounted, errno);
    let impossible = || unexpected(ATTEMPTED, mounted);
    let directory = open(mounted)?;
    let mut filesystem = [0; FILESYSTEM_INFO];
    // SAFETY: the kernel writes exactly this many bytes, and the descriptor is open during the call.
    unsafe { ioctl::filesystem_info(directory.as_raw_fd(), &raw mut filesystem) }.map_err(failed)?;
    let mut device = [0; DEVICE_INFO];
    let id = device_id(path)?.to_ne_bytes();
    device.iter_mut().zip(id).for_each(|(to, from)| *to = from);
    // SAFETY: the kernel reads and writes exactly this many bytes, and the descriptor is open during the call.
    unsafe { ioctl::device_info(directory.as_raw_fd(), &raw mut device) }.map_err(failed)?;
    let uuid = uuid_at(&filesystem, 16).ok_or_else(impossible)?;
    // Kernels before 5.10 do not have it.
    let operation = std::fs::read_to_string(format!("/sys/fs/btrfs/{uuid}/exclusive_operation")).unwrap_or_default();
    covers(&filesystem, &device, operation.trim(), size).ok_or_else(impossible)
}

/// Reads the answers of the kernel. `operation`: the exclusive operation that is running. If no such operation
/// runs, it is `none` or empty.
fn covers(filesystem: &[u8], device: &[u8], operation: &str, size: u64) -> Option<Coverage> {
    let (devices, sector) = (native_u64_at(filesystem, 8)?, u64::from(native_u32_at(filesystem, 36)?));
    let possible = size - size.checked_rem(sector)?;
    let obstacle = match (devices, operation) {
        (2.., _) => Some(Obstacle::Devices(devices)),
        _ if possible < MINIMUM_RESIZED => Some(Obstacle::BelowMinimum { minimum: MINIMUM_RESIZED }),
        (_, "" | "none") => None,
        (_, operation) => Some(Obstacle::Operation(operation.to_owned())),
    };
    Some(Coverage::new(size, native_u64_at(device, 32)?, possible, obstacle))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::SUPERBLOCK_LENGTH as LENGTH;
    use crate::kinds::tests::Expected;

    pub(super) const EXPECTED: Expected =
        Expected { superblock: sample, arguments: &[("--csum=xxhash", "-q -U UUID --csum xxhash -K")] };

    fn sample(uuid: [u8; 16]) -> Vec<u8> {
        let mut bytes = vec![0; LENGTH];
        bytes[0x20..0x30].copy_from_slice(&uuid);
        bytes[0x40..0x48].copy_from_slice(b"_BHRfS_M");
        bytes
    }

    #[test]
    fn a_btrfs_is_compared_with_its_device() {
        // Of 300 MiB, made with btrfs-progs 6.2; recorded on Linux 6.18.
        let (filesystem, device) = (include_bytes!("samples/btrfs.fs-info"), include_bytes!("samples/btrfs.dev-info"));
        let on = |operation: &str, size: u64| covers(filesystem, device, operation, size).unwrap();
        let size = 300 << 20;
        assert_eq!(on("none", size), Coverage::new(size, size, size, None));
        assert!(on("balance", size + 512).is_complete(), "less than a sector");
        assert_eq!(on("balance", size + 512).obstacle, None, "nothing has to grow");
        let larger = size + 4096;
        for none in ["", "none"] {
            assert_eq!(on(none, larger), Coverage::new(larger, size, larger, None));
        }
        assert_eq!(on("balance paused", larger).obstacle, Some(Obstacle::Operation("balance paused".to_owned())));

        let mut several = *filesystem;
        several[8] = 3;
        assert_eq!(covers(&several, device, "balance", larger).unwrap().obstacle, Some(Obstacle::Devices(3)));
        let mut small = *device;
        small[32..40].copy_from_slice(&(128_u64 << 20).to_ne_bytes());
        let on = |size: u64| covers(filesystem, &small, "none", size).unwrap().obstacle;
        assert_eq!(on(255 << 20), Some(Obstacle::BelowMinimum { minimum: 256 << 20 }));
        assert_eq!(on(256 << 20), None);
        assert_eq!(on(128 << 20), None, "nothing has to grow");
        assert_eq!(covers(&filesystem[..30], device, "", size), None);
    }
}
