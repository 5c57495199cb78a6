//! The layout of a claimed disk: docs/disk-format.md, "The layout".
//!
//! Every offset is a fixed number of bytes from the start of the disk, or follows from its size; none depends
//! on how the disk is attached. So the record can be found if the partition tables are lost, and behind an
//! adapter that reports another sector size.

/// The alignment of everything that is aligned.
const MIB: u64 = 1 << 20;
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

/// The number of a sector, counted from the start of the disk. Its place in bytes depends on the sector size:
/// [`SectorSize::offset`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Lba(pub(super) u64);

/// A sector size that a claim can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SectorSize(u32);

impl SectorSize {
    /// 512 bytes.
    pub(super) const SMALL: Self = Self(512);
    /// 4096 bytes.
    pub(super) const LARGE: Self = Self(4096);
    pub(super) const ALL: [Self; 2] = [Self::SMALL, Self::LARGE];

    /// `None` if no claim can have sectors of that many bytes.
    pub(super) fn new(bytes: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|size| size.0 == bytes)
    }

    /// The size in bytes.
    pub(super) fn bytes(self) -> u64 {
        u64::from(self.0)
    }

    /// The size in bytes, as the kernel and the slots have it.
    pub(super) fn as_u32(self) -> u32 {
        self.0
    }

    /// The size in bytes, as the length of a buffer.
    pub(super) fn as_usize(self) -> usize {
        self.0 as usize
    }

    /// The offset of a sector in bytes. `None` if no disk is that large.
    pub(super) fn offset(self, sector: Lba) -> Option<u64> {
        sector.0.checked_mul(self.bytes())
    }

    /// The number of whole sectors in that many bytes.
    pub(super) fn sectors_in(self, bytes: u64) -> u64 {
        bytes / self.bytes()
    }
}

/// The size of a disk, in the sectors in which it was claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    sector_size: SectorSize,
    sectors: u64,
}

impl Geometry {
    /// `None` if such a disk cannot be claimed.
    pub(super) fn new(sector_size: SectorSize, sectors: u64) -> Option<Self> {
        let size = sectors.checked_mul(sector_size.bytes())?;
        (capacity(size) > 0).then_some(Self { sector_size, sectors })
    }

    /// The sector size.
    pub(super) fn sector_size(self) -> SectorSize {
        self.sector_size
    }

    /// The number of sectors.
    pub(super) fn sectors(self) -> u64 {
        self.sectors
    }

    /// The size of the whole disk in bytes.
    pub(super) fn size(self) -> u64 {
        self.sectors * self.sector_size.bytes()
    }

    /// The offset of a sector of this disk in bytes.
    pub(super) fn offset(self, sector: Lba) -> u64 {
        sector.0 * self.sector_size.bytes()
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
        self.sector_size.sectors_in(ENTRIES_LENGTH)
    }

    /// The disk's last sector, which holds the backup header.
    pub(super) fn last(self) -> Lba {
        Lba(self.sectors - 1)
    }

    /// The first sector of the backup's entries.
    pub(super) fn backup_entries(self) -> Lba {
        Lba(self.last().0 - self.entries_sectors())
    }

    /// The first and the last sector between the two tables.
    pub(super) fn usable_sectors(self) -> (Lba, Lba) {
        (Lba(2 + self.entries_sectors()), Lba(self.backup_entries().0 - 1))
    }

    /// The first and the last sector of the metadata partition.
    pub(super) fn metadata_sectors(self) -> (Lba, Lba) {
        self.range(METADATA_OFFSET, METADATA_LENGTH)
    }

    /// The first and the last sector of the volume's partition.
    pub(super) fn volume_sectors(self) -> (Lba, Lba) {
        self.range(VOLUME_OFFSET, self.volume_length())
    }

    /// The first and the last sector of these bytes.
    fn range(self, offset: u64, length: u64) -> (Lba, Lba) {
        let sectors = |bytes| self.sector_size.sectors_in(bytes);
        (Lba(sectors(offset)), Lba(sectors(offset + length) - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_frozen() {
        let small = Geometry::new(SectorSize::SMALL, (1 << 30) / 512).unwrap();
        assert_eq!(small.metadata_sectors(), (Lba(2048), Lba(4095)));
        assert_eq!(small.volume_sectors(), (Lba(4096), Lba(2_095_103)));
        assert_eq!((small.last(), small.entries_sectors()), (Lba(2_097_151), 32));
        let large = Geometry::new(SectorSize::LARGE, (1 << 30) / 4096).unwrap();
        assert_eq!(large.metadata_sectors(), (Lba(256), Lba(511)));
        assert_eq!(large.volume_sectors(), (Lba(512), Lba(261_887)));
        assert_eq!((large.last(), large.entries_sectors()), (Lba(262_143), 4));
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
        assert_eq!(Geometry::new(SectorSize::SMALL, (4 * MIB - 512) / 512), None);
        assert_eq!(SectorSize::new(520), None);
        assert_eq!(Geometry::new(SectorSize::LARGE, u64::MAX / 512), None);
    }

    proptest::proptest! {
        #[test]
        fn partitions_and_tables_do_not_overlap(size in MINIMUM..u64::MAX / 2, sector in 0_usize..2) {
            let sector_size = SectorSize::ALL[sector];
            let geometry = Geometry::new(sector_size, sector_size.sectors_in(size)).unwrap();
            let (Lba(first), Lba(last)) = geometry.volume_sectors();
            proptest::prop_assert_eq!((last - first + 1) * sector_size.bytes(), geometry.volume_length());
            proptest::prop_assert_eq!(capacity(size), geometry.volume_length());
            proptest::prop_assert_eq!(first, geometry.metadata_sectors().1.0 + 1);
            // The backup's entries begin after the volume; the primary's entries end before the metadata
            // partition.
            proptest::prop_assert!(Lba(last) <= geometry.usable_sectors().1);
            proptest::prop_assert!(Lba(last) < geometry.backup_entries());
            proptest::prop_assert!(geometry.usable_sectors().0 <= geometry.metadata_sectors().0);
            proptest::prop_assert!(geometry.size() - (last + 1) * sector_size.bytes() >= TAIL);
        }
    }
}
