//! Writes zeros: to whole volumes, and over signatures of previous owners.

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use crate::Error;

#[allow(unsafe_code, missing_docs)]
mod ioctl {
    nix::ioctl_write_ptr_bad!(blkzeroout, nix::request_code_none!(0x12, 127), [u64; 2]);
}

/// How much is zeroed at the end of a device. Every signature or label that blkid, lvm, mdadm or zfs look for
/// is within this distance of an end, except the second header of LUKS2 and the copies of a btrfs superblock.
const EDGE: u64 = 4 << 20;
/// How much is zeroed at the start. The second header of LUKS2 can begin at 4 MiB.
const START: u64 = EDGE + (64 << 10);
/// The offsets of the copies of a btrfs superblock. The first superblock is within [`EDGE`].
const BTRFS_MIRRORS: [u64; 2] = [64 << 20, 256 << 30];
/// How much is zeroed there.
const BTRFS_MIRROR_LEN: u64 = 64 << 10;

/// Zeroes these bytes. Offset and length must be multiples of 512. The device does it itself if it can. Not
/// flushed: the caller syncs at the end.
///
/// # Errors
/// [`Error::Unaligned`], or an error of the device.
pub fn zero_range(device: &File, bytes: Range<u64>) -> Result<(), Error> {
    let (offset, len) = (bytes.start, bytes.end.saturating_sub(bytes.start));
    if !offset.is_multiple_of(512) || !len.is_multiple_of(512) {
        return Err(Error::Unaligned { offset, len });
    }
    if len == 0 {
        return Ok(());
    }
    quarry_fault::point(|| "device:zero:before".to_owned());
    let result = zero_out(device, offset, len);
    quarry_fault::point(|| "device:zero:after".to_owned());
    result.map_err(|errno| Error::io("write zeros to", &path_of(device), errno))
}

#[allow(unsafe_code)]
fn zero_out(device: &File, offset: u64, len: u64) -> nix::Result<()> {
    // SAFETY: BLKZEROOUT reads two u64, offset and length, which live until the call returns; the descriptor is open.
    unsafe { ioctl::blkzeroout(device.as_raw_fd(), &raw const *&[offset, len]) }.map(drop)
}

/// Zeroes everything that a probe could recognize: both ends of the device and the copies of a btrfs
/// superblock. Then flushes, and blocks until the zeros are on the disk. The device should be held by
/// [`crate::exclusive`].
///
/// # Errors
/// Errors of the device.
pub fn wipe_signatures(device: &File) -> Result<(), Error> {
    let size = quarry_block::size(device).map_err(|source| Error::io("read the size of", &path_of(device), source))?;
    for place in signature_places(size) {
        zero_range(device, place)?;
    }
    quarry_fault::point(|| "device:flush:before".to_owned());
    let flushed = quarry_block::flush(device);
    quarry_fault::point(|| "device:flush:after".to_owned());
    flushed.map_err(|source| Error::io("flush", &path_of(device), source))
}

/// The bytes of a device of that size where signatures can be. In whole sectors of 4096 bytes if the size
/// allows.
#[must_use]
pub fn signature_places(size: u64) -> Vec<Range<u64>> {
    if size <= 2 * EDGE {
        return vec![Range { start: 0, end: size }];
    }
    let tail = (size - EDGE) / 4096 * 4096;
    let mut places = vec![0..START, tail..size];
    places.extend(
        BTRFS_MIRRORS
            .into_iter()
            .filter(|&mirror| mirror < tail)
            .map(|mirror| mirror..size.min(mirror + BTRFS_MIRROR_LEN)),
    );
    places
}

/// The path of an open file, for messages.
fn path_of(file: &File) -> std::path::PathBuf {
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    std::fs::read_link(&link).unwrap_or_else(|_| Path::new(&link).to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_place_of_a_signature_is_covered(sectors in 1u64..(1 << 31)) {
            let size = sectors * 512;
            let places = signature_places(size);
            let covered = |at: u64| places.iter().any(|place| place.contains(&at));
            for place in &places {
                prop_assert!(!place.is_empty() && place.end <= size && place.start % 512 == 0 && place.end % 512 == 0);
            }
            for at in [0, 1 << 10, 4 << 10, 64 << 10, (1 << 20) + 17, (4 << 20) - 1, 4 << 20, (4 << 20) + 4095, 64 << 20, (64 << 20) + 4095, 256 << 30] {
                // Beyond the end of the device there is nothing to cover.
                prop_assert!(at >= size || covered(at) || (at > START && !BTRFS_MIRRORS.iter().any(|m| (*m..m + 4096).contains(&at))));
            }
            for back in [1, 512, 1024, 8 << 10, 64 << 10, 128 << 10, 512 << 10, 4 << 20] {
                prop_assert!(back > size || covered(size - back));
            }
        }
    }

    #[test]
    fn a_range_of_partial_sectors_is_rejected_before_anything_is_written() {
        let file = tempfile::tempfile().unwrap();
        for bytes in [1..513, 512..1023, 0..1] {
            assert!(matches!(zero_range(&file, bytes), Err(Error::Unaligned { .. })));
        }
        zero_range(&file, 0..0).unwrap();
        assert!(matches!(zero_range(&file, 0..512), Err(Error::Io { .. })), "a plain file is not a device");
    }
}
