//! The space of a copy-on-write snapshot, and how much of it is used.
//!
//! The kernel divides it into chunks (dm-snap-persistent.c): one for its header, and then areas. Each area has one
//! chunk that describes exceptions (chunks of the source that were overwritten since), and the chunks that these need.
//! When an area is full, the kernel clears the description of the next one, so there is always one more description
//! than full areas.

use std::str::FromStr;

use quarry_volume::{CowSize, ExtentSize, Extents};

use crate::{LvUuid, VgUuid, device_uuid, dm};

/// The size of a chunk in bytes. Each first write to a chunk of the source copies all of it. With smaller chunks, the
/// table of exceptions in the kernel's memory becomes larger.
pub const CHUNK: u64 = 64 << 10;
/// The number of exceptions that one chunk describes: 16 bytes each.
const EXCEPTIONS: u64 = CHUNK / 16;
/// The fewest chunks that lvm accepts.
const FEWEST_CHUNKS: u64 = 3;

/// The extents for a snapshot of a volume with that size in bytes. At least the fewest that lvm accepts, and at most
/// what a snapshot that never becomes full needs: lvm makes a larger one smaller.
#[must_use]
pub fn cow_extents(extent: ExtentSize, source: u64, size: CowSize) -> Extents {
    let chunks = source.div_ceil(CHUNK);
    let fewest = FEWEST_CHUNKS * CHUNK;
    let most = chunks.saturating_add(chunks / EXCEPTIONS).saturating_add(2).saturating_mul(CHUNK).max(fewest);
    let bytes = match size {
        CowSize::Whole => most,
        CowSize::Percent(percent) => {
            u64::try_from(u128::from(source) * u128::from(percent) / 100).unwrap_or(u64::MAX).clamp(fewest, most)
        }
        CowSize::Bytes(bytes) => bytes.clamp(fewest, most),
    };
    extent.needed_for(bytes)
}

/// Whether a snapshot with that many extents can never become full.
#[must_use]
pub fn never_full(extent: ExtentSize, source: u64, extents: Extents) -> bool {
    extents >= cow_extents(extent, source, CowSize::Whole)
}

/// The kernel's status of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SnapshotStatus {
    /// It can be read. The part of its space that is used, in whole percent.
    Used(u8),
    /// It cannot be read any more: its space became full, or a disk failed.
    Invalid,
}

/// The kernel's status of the active snapshot with these UUIDs. `None` if it is not active, is not a snapshot, or the
/// kernel cannot be asked.
#[must_use]
pub fn snapshot_status(group: VgUuid, volume: LvUuid) -> Option<SnapshotStatus> {
    dm::status(&device_uuid(group, volume), "snapshot")?.parse().ok()
}

impl FromStr for SnapshotStatus {
    type Err = ();

    /// Parses what follows the word `snapshot` in the output of `dmsetup status`: sectors used, a slash, all sectors,
    /// and the sectors used for metadata; or why it cannot be read.
    fn from_str(line: &str) -> Result<Self, ()> {
        match line.trim() {
            "Invalid" | "Overflow" | "Merge failed" => return Ok(Self::Invalid),
            _ => {}
        }
        let (used, all) = line.split_ascii_whitespace().next().and_then(|word| word.split_once('/')).ok_or(())?;
        let (used, all) = used.parse::<u64>().ok().zip(all.parse::<u64>().ok()).ok_or(())?;
        let percent = u128::from(used) * 100 / u128::from(all.max(1));
        Ok(Self::Used(u8::try_from(percent).unwrap_or(100).min(100)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// How many chunks the kernel uses when `changed` chunks of the source were overwritten, written as the kernel
    /// does it: it skips the descriptions of areas while it hands out chunks one by one.
    fn used(changed: u64) -> u64 {
        let stride = EXCEPTIONS + 1;
        let mut next = 2;
        for _ in 0..changed {
            next += 1;
            if next % stride == 1 {
                next += 1;
            }
        }
        // The description of the area that the next exception would be in was cleared.
        next.max(2 + changed / EXCEPTIONS * stride)
    }

    #[test]
    fn the_whole_source_fits_exactly() {
        for chunks in [1, 2, EXCEPTIONS - 1, EXCEPTIONS, EXCEPTIONS + 1, 3 * EXCEPTIONS, 3 * EXCEPTIONS + 7] {
            let space = cow_extents(ExtentSize(CHUNK), chunks * CHUNK, CowSize::Whole).0;
            assert!(space >= used(chunks), "{chunks} chunks need {}, not {space}", used(chunks));
            assert!(space <= used(chunks) + 1, "{chunks} chunks need {}, not {space}", used(chunks));
        }
    }

    #[test]
    fn the_space_is_a_share_of_the_source_or_a_size() {
        let mib = |size| cow_extents(ExtentSize(4 << 20), 10 << 30, size).0 * 4;
        assert_eq!(mib(CowSize::Whole), 10244);
        assert_eq!(mib(CowSize::Percent(20)), 2048);
        assert_eq!(mib(CowSize::Percent(1)), 104);
        assert_eq!(mib(CowSize::Bytes(1 << 30)), 1024);
        assert_eq!(mib(CowSize::Bytes((1 << 30) + 1)), 1028);
        // Never less than lvm accepts, or more than it uses.
        assert_eq!(mib(CowSize::Bytes(0)), 4);
        assert_eq!(mib(CowSize::Bytes(u64::MAX)), 10244);
        assert_eq!(cow_extents(ExtentSize(CHUNK), 0, CowSize::Percent(1)), Extents(3));
        assert_eq!(cow_extents(ExtentSize(4096), 4096, CowSize::Percent(1)), Extents(48));
    }

    #[test]
    fn status_lines_of_real_kernels_are_parsed() {
        for (line, status) in [
            ("16/40960 16", SnapshotStatus::Used(0)),
            ("20480/40960 256", SnapshotStatus::Used(50)),
            ("40960/40960 256", SnapshotStatus::Used(100)),
            ("Invalid", SnapshotStatus::Invalid),
            ("Overflow", SnapshotStatus::Invalid),
            ("Merge failed", SnapshotStatus::Invalid),
        ] {
            assert_eq!(line.parse(), Ok(status), "{line}");
        }
        for line in ["", "Unknown", "/", "1/", "x/1 2"] {
            assert_eq!(line.parse::<SnapshotStatus>(), Err(()), "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn no_size_is_outside_the_limits(extent in 9_u32..33, source in 1_u64..1 << 62, percent in 1_u8..100, bytes in any::<u64>()) {
            let extent = ExtentSize(1 << extent);
            let whole = cow_extents(extent, source, CowSize::Whole);
            prop_assert!(extent.bytes(whole) >= source + 2 * CHUNK);
            prop_assert!(never_full(extent, source, whole) && !never_full(extent, source, whole.without(Extents(1))));
            for size in [CowSize::Percent(percent), CowSize::Bytes(bytes)] {
                let extents = cow_extents(extent, source, size);
                prop_assert!(extents <= whole && extent.bytes(extents) >= FEWEST_CHUNKS * CHUNK, "{size:?}: {extents}");
            }
            let share = extent.bytes(cow_extents(extent, source, CowSize::Percent(percent)));
            prop_assert!(u128::from(share) + 1 >= u128::from(source) * u128::from(percent) / 100);
        }
    }
}
