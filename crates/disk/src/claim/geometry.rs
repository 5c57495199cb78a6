//! The layout of a claimed disk: docs/disk-format.md, "The layout".
//!
//! Every offset is a fixed number of bytes from the start of the disk, or follows from its size; none depends
//! on how the disk is attached. So the record can be found if the partition tables are lost, and behind an
//! adapter that reports another sector size.

/// The alignment of everything that is aligned.
const MIB: u64 = 1 << 20;
/// The sector sizes that a claim can have.
pub(super) const SECTOR_SIZES: [u64; 2] = [512, 4096];
/// The offset of the metadata partition.
pub(super) const METADATA_OFFSET: u64 = MIB;
/// The length of the metadata partition.
pub(super) const METADATA_LENGTH: u64 = MIB;
/// The offsets of the two slots of the record, from the start of the disk.
pub(super) const SLOT_OFFSETS: [u64; 2] = [METADATA_OFFSET, METADATA_OFFSET + METADATA_LENGTH / 2];
/// The offset of the volume's partition.
const VOLUME_OFFSET: u64 = METADATA_OFFSET + METADATA_LENGTH;
/// The minimum space after the volume at the end of the disk: it contains the backup table, and keeps a
/// user's data away from where probes look for signatures at the end of a disk.
const TAIL: u64 = MIB;
/// The size of the smallest disk that can be claimed: its volume has 1 MiB.
const MINIMUM: u64 = VOLUME_OFFSET + TAIL + MIB;
/// The length of the array of partition entries, in bytes: 128 entries of 128 bytes.
pub(super) const ENTRIES_LENGTH: u64 = 128 * 128;

/// The size of the volume on a disk of that size: the size in whole MiB, less 3 MiB. 0 if the disk is too
/// small for a claim. The same for every sector size.
#[must_use]
pub fn capacity(disk_size: u64) -> u64 {
    if disk_size < MINIMUM { 0 } else { disk_size / MIB * MIB - VOLUME_OFFSET - TAIL }
}

/// The size of a disk, in the sectors in which it was claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    sector_size: u64,
    sectors: u64,
}

impl Geometry {
    /// `None` if such a disk cannot be claimed.
    pub(super) fn new(sector_size: u64, sectors: u64) -> Option<Self> {
        let size = sectors.checked_mul(sector_size)?;
        (SECTOR_SIZES.contains(&sector_size) && capacity(size) > 0).then_some(Self { sector_size, sectors })
    }

    /// The sector size in bytes.
    pub(super) fn sector_size(self) -> u64 {
        self.sector_size
    }

    /// The number of sectors.
    pub(super) fn sectors(self) -> u64 {
        self.sectors
    }

    /// The size of the whole disk in bytes.
    pub(super) fn size(self) -> u64 {
        self.sectors * self.sector_size
    }

    /// The offset of the volume in bytes.
    pub(super) fn volume_offset(self) -> u64 {
        VOLUME_OFFSET
    }

    /// The length of the volume in bytes.
    pub(super) fn volume_length(self) -> u64 {
        capacity(self.size())
    }

    /// The number of sectors that the array of partition entries takes.
    pub(super) fn entries_sectors(self) -> u64 {
        ENTRIES_LENGTH / self.sector_size
    }

    /// The number of the disk's last sector, which holds the backup header.
    pub(super) fn last(self) -> u64 {
        self.sectors - 1
    }

    /// The first and the last sector of the metadata partition.
    pub(super) fn metadata_sectors(self) -> (u64, u64) {
        self.range(METADATA_OFFSET, METADATA_LENGTH)
    }

    /// The first and the last sector of the volume's partition.
    pub(super) fn volume_sectors(self) -> (u64, u64) {
        self.range(VOLUME_OFFSET, self.volume_length())
    }

    fn range(self, offset: u64, length: u64) -> (u64, u64) {
        (offset / self.sector_size, (offset + length) / self.sector_size - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_frozen() {
        let small = Geometry::new(512, (1 << 30) / 512).unwrap();
        assert_eq!(small.metadata_sectors(), (2048, 4095));
        assert_eq!(small.volume_sectors(), (4096, 2_095_103));
        assert_eq!((small.last(), small.entries_sectors()), (2_097_151, 32));
        let large = Geometry::new(4096, (1 << 30) / 4096).unwrap();
        assert_eq!(large.metadata_sectors(), (256, 511));
        assert_eq!(large.volume_sectors(), (512, 261_887));
        assert_eq!((large.last(), large.entries_sectors()), (262_143, 4));
        assert_eq!(SLOT_OFFSETS, [1_048_576, 1_572_864]);
    }

    #[test]
    fn capacity_is_whole_mebibytes_less_the_overhead() {
        assert_eq!(capacity(0), 0);
        assert_eq!(capacity(4 * MIB - 1), 0);
        assert_eq!(capacity(4 * MIB), MIB);
        assert_eq!(capacity(5 * MIB - 1), MIB);
        // The size of disks that are sold as 1 TB.
        assert_eq!(capacity(1_000_204_886_016), 1_000_200_994_816);
        assert_eq!(Geometry::new(512, (4 * MIB - 512) / 512), None);
        assert_eq!(Geometry::new(520, 1 << 30), None);
        assert_eq!(Geometry::new(4096, u64::MAX / 512), None);
    }

    proptest::proptest! {
        #[test]
        fn partitions_and_tables_do_not_overlap(size in MINIMUM..u64::MAX / 2, sector in 0_usize..2) {
            let sector_size = SECTOR_SIZES[sector];
            let geometry = Geometry::new(sector_size, size / sector_size).unwrap();
            let (first, last) = geometry.volume_sectors();
            proptest::prop_assert_eq!((last - first + 1) * sector_size, geometry.volume_length());
            proptest::prop_assert_eq!(capacity(size), geometry.volume_length());
            proptest::prop_assert_eq!(first, geometry.metadata_sectors().1 + 1);
            // The backup's entries begin after the volume; the primary's entries end before the metadata
            // partition.
            proptest::prop_assert!(last < geometry.last() - geometry.entries_sectors());
            proptest::prop_assert!(2 + geometry.entries_sectors() <= geometry.metadata_sectors().0);
            proptest::prop_assert!(geometry.size() - (last + 1) * sector_size >= TAIL);
        }
    }
}
