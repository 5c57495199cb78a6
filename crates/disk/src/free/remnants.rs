//! What libblkid does not detect: remnants of a partition table, and formats that it does not know.
//!
//! libblkid detects a GPT by its protective MBR. A GPT whose first sector was overwritten (`dd … count=1`)
//! still has its headers, and all its partitions can be restored from them: such a disk is not empty.

use std::io;
use std::os::unix::fs::FileExt;

use super::foreign;

/// The magic of every GPT header.
const HEADER: &[u8; 8] = b"EFI PART";
/// The largest sector, and the alignment of direct reads.
pub(super) const BLOCK: u64 = 4096;
/// The smallest sector.
const SECTOR: u64 = 512;

/// What was found on a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remnants {
    /// The offsets of GPT headers, in bytes.
    pub headers: Vec<u64>,
    /// The kind of boot sector, by the last two bytes of the first sector.
    pub boot: Option<BootSector>,
    /// The formats that libblkid does not know, each phrased to follow "holds".
    pub foreign: Vec<&'static str>,
}

/// A first sector that ends in 0x55 0xAA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootSector {
    /// It is the protective MBR of a GPT: one of its four entries has the type 0xEE.
    Protective,
    /// Anything else: an MBR, or the beginning of a FAT or an NTFS.
    Other,
}

/// Why a disk could not be read. Such a disk is unusable.
#[derive(Debug, thiserror::Error)]
#[error("reading its {part} sectors failed: {source}; see the kernel log")]
pub struct ReadError {
    part: &'static str,
    source: io::Error,
}

impl Remnants {
    /// A description, phrased to follow "it". `None`: there are no remnants.
    #[must_use]
    pub fn describe(&self) -> Option<String> {
        let boot = self.boot.map(|boot| match boot {
            BootSector::Protective => "has a protective MBR".to_owned(),
            BootSector::Other => "has a boot signature in its first sector".to_owned(),
        });
        let headers = (!self.headers.is_empty()).then(|| {
            let places: Vec<String> = self.headers.iter().map(u64::to_string).collect();
            format!("has remnants of a GPT (EFI PART at byte {})", places.join(", "))
        });
        let foreign = self.foreign.iter().map(|what| format!("holds {what}"));
        let parts: Vec<String> = boot.into_iter().chain(headers).chain(foreign).collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

/// Searches for `EFI PART` in the second and in the last sector, both for sectors of 512 and of 4096 bytes (a
/// new adapter may report another sector size), for a boot signature, and for the magics of formats that libblkid does
/// not know: they are in the same blocks. `size` is the disk's size in bytes. Reads whole aligned blocks of 4096 bytes, so that direct reads work too.
///
/// # Errors
/// One of the sectors cannot be read.
pub fn find_remnants(disk: &impl FileExt, size: u64) -> Result<Remnants, ReadError> {
    let mut remnants = Remnants::default();
    for (block, places) in places(size) {
        let part = if block == 0 || places.contains(&BLOCK) { "first" } else { "last" };
        let bytes = read_block(disk, block, size).map_err(|source| ReadError { part, source })?;
        if block == 0 {
            remnants.boot = boot_sector(&bytes);
        }
        let is_header = |place: &u64| {
            let within = usize::try_from(place - block).ok();
            within.and_then(|within| bytes.get(within..)).is_some_and(|rest| rest.starts_with(HEADER))
        };
        remnants.headers.extend(places.iter().copied().filter(is_header));
        for what in foreign::find(block, &bytes, &places) {
            if !remnants.foreign.contains(&what) {
                remnants.foreign.push(what);
            }
        }
    }
    Ok(remnants)
}

/// The offsets where a header may be, by the block of 4096 bytes that contains them, in the order of the
/// disk.
fn places(size: u64) -> Vec<(u64, Vec<u64>)> {
    let last = |sector: u64| (size / sector).checked_sub(1).map(|index| index * sector);
    let mut places: Vec<u64> = [Some(SECTOR), Some(BLOCK), last(SECTOR), last(BLOCK)].into_iter().flatten().collect();
    // The first sector is never a header, but is always read.
    places.push(0);
    places.retain(|place| place + SECTOR <= size);
    places.sort_unstable();
    places.dedup();
    let mut blocks: Vec<(u64, Vec<u64>)> = Vec::new();
    for place in places {
        let block = place - place % BLOCK;
        match blocks.last_mut() {
            Some((last, places)) if *last == block => places.push(place),
            _ => blocks.push((block, vec![place])),
        }
    }
    for (_, places) in &mut blocks {
        places.retain(|place| *place != 0);
    }
    blocks
}

/// Reads the block, or what is left of it at the end of a disk.
fn read_block(disk: &impl FileExt, block: u64, size: u64) -> io::Result<Vec<u8>> {
    let length = usize::try_from((size - block).min(BLOCK)).map_err(io::Error::other)?;
    quarry_block::read_aligned(disk, block, length)
}

fn boot_sector(start: &[u8]) -> Option<BootSector> {
    const ENTRIES: std::ops::Range<usize> = 446..510;
    const TYPE: usize = 4;
    let marked = start.get(510..512)? == [0x55, 0xaa];
    let entries = start.get(ENTRIES)?.as_chunks::<16>().0;
    let protective = entries.iter().any(|entry| entry.get(TYPE) == Some(&0xee));
    marked.then_some(if protective { BootSector::Protective } else { BootSector::Other })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    /// A sparse file of that size with these contents.
    fn file(size: u64, parts: &[(u64, &[u8])]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        for (offset, bytes) in parts {
            file.write_all_at(bytes, *offset).unwrap();
        }
        file
    }

    const SIZE: u64 = 64 << 20;

    #[test]
    fn a_blank_disk_has_no_remnants() {
        let found = find_remnants(&file(SIZE, &[]), SIZE).unwrap();
        assert_eq!(found, Remnants::default());
        assert_eq!(found.describe(), None);
    }

    #[test]
    fn headers_are_found_at_all_four_places() {
        for place in [512, 4096, SIZE - 512, SIZE - 4096] {
            let found = find_remnants(&file(SIZE, &[(place, HEADER)]), SIZE).unwrap();
            assert_eq!(found.headers, [place]);
            assert!(found.describe().unwrap().contains(&format!("at byte {place}")));
        }
        let all = [512, 4096, SIZE - 4096, SIZE - 512];
        let parts: Vec<_> = all.iter().map(|place| (*place, HEADER.as_slice())).collect();
        assert_eq!(find_remnants(&file(SIZE, &parts), SIZE).unwrap().headers, all);
        // Anywhere else, the bytes have no meaning.
        let elsewhere: Vec<_> = [0, 1024, 513, SIZE - 8, SIZE / 2].map(|place| (place, HEADER.as_slice())).into();
        assert_eq!(find_remnants(&file(SIZE, &elsewhere), SIZE).unwrap().headers, [0; 0]);
        assert_eq!(find_remnants(&file(SIZE, &[(512, b"EFI PARS")]), SIZE).unwrap().headers, [0; 0]);
    }

    #[test]
    fn formats_that_libblkid_does_not_know_are_found() {
        // As mkfs.bcachefs, SPDK and geli write them.
        let bcachefs: &[u8] = b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef";
        let parts: [(u64, &[u8], &str); 12] = [
            (4096 + 24, bcachefs, "holds a bcachefs filesystem"),
            (3584, bcachefs, "holds a bcachefs filesystem"),
            (0, b"SPDKBLOB", "holds an SPDK blobstore"),
            (32, b"NXSB", "holds an APFS container"),
            (0, b"\x11\x20\x17\x05\x32\x4d\x41\x48", "holds a HAMMER2 filesystem"),
            (0, b"\x31\x30\x52\xc5\x4d\x4d\x41\xc8", "holds a HAMMER filesystem"),
            (32, b"\xba\x52\x9c\x01\0\0\0\0", "holds the metadata of a thin pool"),
            (32, b"\x03\xc4\x18\0\0\0\0\0", "holds the metadata of a dm-cache"),
            (0, b"\x21\x93\x48\x23", "holds a dm-writecache"),
            (SIZE - 512, b"GEOM::ELI", "holds a provider of GEOM (FreeBSD)"),
            (SIZE - 4096, b"GEOM::MIRROR", "holds a provider of GEOM (FreeBSD)"),
            (SIZE - 512, b"GEOM::RAID3", "holds a provider of GEOM (FreeBSD)"),
        ];
        for (place, magic, text) in parts {
            let found = find_remnants(&file(SIZE, &[(place, magic)]), SIZE).unwrap();
            assert_eq!(found.describe().as_deref(), Some(text), "at {place}");
            let elsewhere = find_remnants(&file(SIZE, &[(place ^ 64, magic)]), SIZE).unwrap();
            assert_eq!(elsewhere, Remnants::default(), "at {place}");
        }
        // The superblock and its layout have the same magic.
        let both = find_remnants(&file(SIZE, &[(3584, bcachefs), (4096 + 24, bcachefs)]), SIZE).unwrap();
        assert_eq!(both.foreign, ["a bcachefs filesystem"]);
    }

    #[test]
    fn the_last_sector_of_4096_bytes_may_end_before_the_disk_does() {
        // A disk with sectors of 512 bytes behind an adapter with sectors of 4096 bytes.
        let size = SIZE + 3 * 512;
        for place in [SIZE - 4096, size - 512] {
            assert_eq!(find_remnants(&file(size, &[(place, HEADER)]), size).unwrap().headers, [place]);
        }
    }

    #[test]
    fn tiny_disks_do_not_panic() {
        for size in [0, 511, 512, 513, 1024, 4095, 4096, 4608, 8192] {
            assert_eq!(find_remnants(&file(size, &[]), size).unwrap(), Remnants::default(), "{size}");
        }
        assert_eq!(find_remnants(&file(1024, &[(512, HEADER)]), 1024).unwrap().headers, [512]);
    }

    #[test]
    fn boot_signatures_and_protective_mbrs_are_distinguished() {
        let boot = |parts: &[(u64, &[u8])]| find_remnants(&file(SIZE, parts), SIZE).unwrap().boot;
        let mark: (u64, &[u8]) = (510, &[0x55, 0xaa]);
        assert_eq!(boot(&[mark]), Some(BootSector::Other));
        for entry in 0..4 {
            let kind: (u64, &[u8]) = (446 + 16 * entry + 4, &[0xee]);
            assert_eq!(boot(&[mark, kind]), Some(BootSector::Protective));
            assert_eq!(boot(&[kind]), None);
        }
        assert_eq!(boot(&[mark, (446 + 3, &[0xee])]), Some(BootSector::Other));
        assert_eq!(boot(&[(510, &[0xaa, 0x55])]), None);
    }

    /// A disk with one unreadable block.
    struct Broken(u64);

    impl FileExt for Broken {
        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
            if offset == self.0 {
                return Err(io::Error::from_raw_os_error(nix::libc::EIO));
            }
            buffer.fill(0);
            Ok(buffer.len())
        }

        fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    #[test]
    fn a_read_error_at_any_place_is_reported() {
        for (place, part) in [(0, "first"), (4096, "first"), (SIZE - 4096, "last")] {
            let error = find_remnants(&Broken(place), SIZE).unwrap_err().to_string();
            assert!(error.contains(&format!("reading its {part} sectors failed")), "{error}");
        }
        assert!(find_remnants(&Broken(8192), SIZE).is_ok(), "no other place is read");
        let mut short = tempfile::tempfile().unwrap();
        short.write_all(&[0; 8192]).unwrap();
        assert!(find_remnants(&short, SIZE).is_err(), "a disk that is shorter than it says");
    }

    proptest! {
        #[test]
        fn every_place_is_within_the_disk(size in 0..(1_u64 << 40)) {
            for (block, places) in places(size) {
                prop_assert!(block % BLOCK == 0 && block < size);
                for place in places {
                    prop_assert!(place >= SECTOR && place >= block && place + 8 <= size);
                    // The whole header is in the block that is read for it.
                    prop_assert!(place + 8 <= (block + BLOCK).min(size));
                }
            }
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..9000)) {
            let file = file(0, &[(0, &bytes)]);
            prop_assert!(find_remnants(&file, bytes.len() as u64).is_ok());
        }
    }
}
