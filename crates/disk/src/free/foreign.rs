//! Formats that libblkid 2.38 does not know, or whose damaged superblocks it ignores.
//!
//! To libblkid, a disk with one of them is empty, and a claim would overwrite it.

use super::remnants::BLOCK;

/// Where a magic is.
enum Place {
    /// At this offset, in one of the first two blocks of 4096 bytes.
    Start(usize),
    /// At the beginning of the last sector, whether that has 512 or 4096 bytes.
    LastSector,
}

const BCACHEFS: &str = "a bcachefs filesystem";
const BCACHEFS_MAGIC: &[u8] = b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef";
/// The magic of bcache, which the first versions of bcachefs used as well. libblkid recognizes only bcache by it.
const BCACHE_MAGIC: &[u8] = b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81";
/// The superblock of bcachefs has its magic after a checksum and the version.
const BCACHEFS_SUPERBLOCK: usize = 4096 + 24;
/// It lists its copies in the sector before the first one.
const BCACHEFS_LAYOUT: usize = 4096 - 512;

/// The formats: what each one is, phrased to follow "holds", and its magic.
const FORMATS: &[(&str, Place, &[u8])] = &[
    (BCACHEFS, Place::Start(BCACHEFS_SUPERBLOCK), BCACHEFS_MAGIC),
    (BCACHEFS, Place::Start(BCACHEFS_SUPERBLOCK), BCACHE_MAGIC),
    (BCACHEFS, Place::Start(BCACHEFS_LAYOUT), BCACHEFS_MAGIC),
    (BCACHEFS, Place::Start(BCACHEFS_LAYOUT), BCACHE_MAGIC),
    // Pools of Mayastor, and disks of the second data engine of Longhorn.
    ("an SPDK blobstore", Place::Start(0), b"SPDKBLOB"),
    // libblkid knows it, but not if the checksum of its first block is wrong: then it is used from a later one.
    ("an APFS container", Place::Start(32), b"NXSB"),
    ("a HAMMER2 filesystem", Place::Start(0), &0x4841_4d32_0517_2011_u64.to_le_bytes()),
    ("a HAMMER filesystem", Place::Start(0), &0xc841_4d4d_c552_3031_u64.to_le_bytes()),
    // What device-mapper keeps without LVM.
    ("the metadata of a thin pool", Place::Start(32), &27_022_010_u64.to_le_bytes()),
    ("the metadata of a dm-cache", Place::Start(32), &0o6_142_003_u64.to_le_bytes()),
    ("a dm-writecache", Place::Start(0), &0x2348_9321_u32.to_le_bytes()),
    // geli (encryption), gmirror, gstripe and the like: each has its name after this.
    ("a provider of GEOM (FreeBSD)", Place::LastSector, b"GEOM::"),
];

/// The formats whose magic is in these bytes, which begin at the offset `block`. `sectors`: the offsets of the sectors in
/// the block that may be the last or the second one of the disk.
pub(super) fn find(block: u64, bytes: &[u8], sectors: &[u64]) -> Vec<&'static str> {
    let is_at = |offset: u64, magic: &[u8]| {
        let within = offset.checked_sub(block).and_then(|within| usize::try_from(within).ok());
        within.and_then(|within| bytes.get(within..)).is_some_and(|rest| rest.starts_with(magic))
    };
    let is_there = |place: &Place, magic: &[u8]| match place {
        Place::Start(at) => block <= BLOCK && is_at(*at as u64, magic),
        Place::LastSector => sectors.iter().any(|sector| is_at(*sector, magic)),
    };
    FORMATS.iter().filter(|(_, place, magic)| is_there(place, magic)).map(|(what, ..)| *what).collect()
}
