//! Whatever bytes are at the places of a claim: the reader does not panic, a volume that it reports fits on
//! the disk, and a disk in use is not reported as free as long as one copy of its record is intact.
#![no_main]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use quarry_disk::claim::{ClaimState, Sectors, begin_release, claim, read, set_record};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 16 * MIB;
const PIECE: usize = 512;
/// The places that the reader reads, and their surroundings: docs/disk-format.md. The third and the fourth
/// are the two copies of the record.
const PLACES: [u64; 6] = [0, 4096, MIB, MIB + MIB / 2, SIZE - MIB, SIZE - (64 << 10)];

/// A disk in memory. Bytes that were never written are zero.
#[derive(Default)]
struct Memory {
    sector_size: u32,
    pieces: RefCell<BTreeMap<u64, [u8; PIECE]>>,
}

impl Sectors for Memory {
    fn path(&self) -> &Path {
        Path::new("/dev/memory")
    }

    fn size(&self) -> u64 {
        SIZE
    }

    fn sector_size(&self) -> u32 {
        self.sector_size
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        assert!(offset + buffer.len() as u64 <= SIZE, "read beyond the end");
        buffer.fill(0);
        let pieces = self.pieces.borrow();
        let end = offset + buffer.len() as u64;
        for (number, piece) in pieces.range(offset / PIECE as u64..end.div_ceil(PIECE as u64)) {
            let start = number * PIECE as u64;
            let (from, to) = (start.max(offset), (start + PIECE as u64).min(end));
            buffer[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&piece[(from - start) as usize..(to - start) as usize]);
        }
        Ok(())
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut pieces = self.pieces.borrow_mut();
        for (at, byte) in (offset..).zip(bytes) {
            pieces.entry(at / PIECE as u64).or_insert([0; PIECE])[at as usize % PIECE] = *byte;
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn drop_cache(&self) -> io::Result<()> {
        Ok(())
    }
}

fuzz_target!(|input: (bool, bool, Vec<(u8, u16, Vec<u8>)>)| {
    let (large, releasing, patches) = input;
    let disk = Memory { sector_size: if large { 4096 } else { 512 }, ..Memory::default() };
    let made = claim(&disk, "pvc-1", b"a record").expect("a blank disk can be claimed");
    let used = set_record(&disk, &made, b"another record").expect("a claim's record can be replaced");
    if releasing {
        begin_release(&disk, &used).expect("a claim can be released");
    }
    let mut overwritten = [false; PLACES.len()];
    for (place, offset, bytes) in patches {
        let place = usize::from(place) % PLACES.len();
        let at = PLACES[place] + u64::from(offset);
        let length = bytes.len().min((SIZE - at) as usize);
        disk.write_all_at(&bytes[..length], at).expect("it lies on the disk");
        overwritten[place] = true;
    }
    let Ok(found) = read(&disk) else { return };
    let _ = found.describe();
    // An overwritten copy may contain anything.
    let forged = overwritten[2] || overwritten[3];
    match found {
        ClaimState::HalfClaimed(claim) => assert!(forged || releasing, "{claim:?}"),
        ClaimState::Claimed(claim) | ClaimState::Releasing(claim) => {
            assert!(claim.offset.checked_add(claim.length).is_some_and(|end| end <= SIZE), "{claim:?}");
            assert!(forged || claim.record == b"another record" && claim.is_releasing() == releasing, "{claim:?}");
        }
        ClaimState::Nothing | ClaimState::Foreign { .. } => {
            assert!(overwritten[2] && overwritten[3], "a disk in use is {found:?}")
        }
        _ => {}
    }
});
