//! The partition tables: GUID Partition Table of UEFI 2.10, chapter 5.

use uuid::Uuid;

use super::bytes::{array, guid_at, u32_at, u64_at};
use super::geometry::{ENTRIES_LENGTH, Geometry, Lba};
use super::identity::{DiskGuid, Identity, METADATA_TYPE, PartitionGuid, VOLUME_TYPE};

const SIGNATURE: &[u8; 8] = b"EFI PART";
const REVISION: u32 = 0x0001_0000;
const HEADER_LENGTH: usize = 92;
const ENTRY_LENGTH: usize = 128;
/// The offset of the disk's GUID in a header.
const DISK_AT: usize = 56;
/// The limit for the length of the entries, in bytes. Real tables are never longer.
const MOST_ENTRIES: u64 = 1 << 20;
/// The last two bytes of DOS partition tables and boot sectors.
const BOOT_SIGNATURE: [u8; 2] = [0x55, 0xaa];
const BOOT_SIGNATURE_AT: usize = 510;
/// The partition type in a protective MBR.
const PROTECTIVE: u8 = 0xee;

/// A used partition entry, reduced to the fields that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Partition {
    pub(super) kind: Uuid,
    pub(super) unique: PartitionGuid,
    pub(super) first: Lba,
    pub(super) last: Lba,
}

/// The two partitions of a claim, in order.
pub(super) fn partitions(geometry: Geometry, identity: &Identity) -> [Partition; 2] {
    let partition = |kind, unique, (first, last)| Partition { kind, unique, first, last };
    [
        partition(METADATA_TYPE, identity.metadata, geometry.metadata_sectors()),
        partition(VOLUME_TYPE, identity.volume, geometry.volume_sectors()),
    ]
}

/// The array of partition entries of a claim.
pub(super) fn entries(geometry: Geometry, identity: &Identity) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(ENTRIES_LENGTH as usize);
    for (partition, name) in partitions(geometry, identity).into_iter().zip(["quarry-metadata", "quarry-volume"]) {
        let end = bytes.len() + ENTRY_LENGTH;
        bytes.extend_from_slice(&partition.kind.to_bytes_le());
        bytes.extend_from_slice(&partition.unique.0.to_bytes_le());
        bytes.extend_from_slice(&partition.first.0.to_le_bytes());
        bytes.extend_from_slice(&partition.last.0.to_le_bytes());
        // No attributes.
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend(name.encode_utf16().flat_map(u16::to_le_bytes));
        bytes.resize(end, 0);
    }
    bytes.resize(ENTRIES_LENGTH as usize, 0);
    bytes
}

/// One of the two tables of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TableCopy {
    /// The one at the start.
    Primary,
    /// The one at the end.
    Backup,
}

/// The sector of the header, and the first sector of the entries, of a claim's table.
pub(super) fn positions(geometry: Geometry, copy: TableCopy) -> (Lba, Lba) {
    match copy {
        TableCopy::Primary => (Lba(1), Lba(2)),
        TableCopy::Backup => (geometry.last(), geometry.backup_entries()),
    }
}

/// The header of a claim's table with these entries: one sector.
pub(super) fn header(geometry: Geometry, identity: &Identity, copy: TableCopy, entries: &[u8]) -> Vec<u8> {
    let (here, entries_at) = positions(geometry, copy);
    let other = match copy {
        TableCopy::Primary => geometry.last(),
        TableCopy::Backup => Lba(1),
    };
    let (first_usable, last_usable) = geometry.usable_sectors();
    let entries_checksum = crc32fast::hash(entries);
    let with_checksum = |checksum: u32| {
        let mut bytes = Vec::with_capacity(geometry.sector_size().as_usize());
        bytes.extend_from_slice(SIGNATURE);
        bytes.extend_from_slice(&REVISION.to_le_bytes());
        bytes.extend_from_slice(&(HEADER_LENGTH as u32).to_le_bytes());
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        for sector in [here, other, first_usable, last_usable] {
            bytes.extend_from_slice(&sector.0.to_le_bytes());
        }
        bytes.extend_from_slice(&identity.disk.0.to_bytes_le());
        bytes.extend_from_slice(&entries_at.0.to_le_bytes());
        bytes.extend_from_slice(&((ENTRIES_LENGTH / ENTRY_LENGTH as u64) as u32).to_le_bytes());
        bytes.extend_from_slice(&(ENTRY_LENGTH as u32).to_le_bytes());
        bytes.extend_from_slice(&entries_checksum.to_le_bytes());
        bytes
    };
    let mut bytes = with_checksum(crc32fast::hash(&with_checksum(0)));
    bytes.resize(geometry.sector_size().as_usize(), 0);
    bytes
}

/// The protective MBR of a claim: one sector. A disk is claimed if it is there.
pub(super) fn protective_mbr(geometry: Geometry) -> Vec<u8> {
    let mut bytes = vec![0; 446];
    // Not bootable; cylinder, head and sector of the first sector after this one; the type; the highest
    // address that fits.
    bytes.extend_from_slice(&[0, 0, 2, 0, PROTECTIVE, 0xff, 0xff, 0xff]);
    bytes.extend_from_slice(&1_u32.to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(geometry.last().0).unwrap_or(u32::MAX).to_le_bytes());
    bytes.resize(BOOT_SIGNATURE_AT, 0);
    bytes.extend_from_slice(&BOOT_SIGNATURE);
    bytes.resize(geometry.sector_size().as_usize(), 0);
    bytes
}

/// The kind of sector 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FirstSector {
    /// It does not end like a boot sector.
    Blank,
    /// The protective MBR of a GPT, Quarry's or foreign.
    Protective,
    /// A boot sector, a DOS partition table, or a hybrid of a GPT and DOS partitions.
    Other,
}

impl FirstSector {
    /// Reads the first 512 bytes of a disk.
    pub(super) fn parse(sector: &[u8]) -> Self {
        if array(sector, BOOT_SIGNATURE_AT) != Some(BOOT_SIGNATURE) {
            return Self::Blank;
        }
        let partition = |number: usize| {
            let at = 446 + 16 * number;
            Some((sector.get(at + 4).copied()?, u32_at(sector, at + 8)?))
        };
        let used: Vec<_> = (0..4).filter_map(partition).filter(|(kind, _)| *kind != 0).collect();
        if used == [(PROTECTIVE, 1)] { Self::Protective } else { Self::Other }
    }
}

/// A valid header, Quarry's or foreign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    disk: DiskGuid,
    /// Where the header says that the other copy is.
    alternate: Lba,
    /// The first sector of its entries.
    pub(super) entries_at: Lba,
    /// The length of its entries in bytes.
    pub(super) entries_length: u64,
    entry_length: u64,
    entries_checksum: u32,
}

/// The result of reading a place where a header may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// No `EFI PART`.
    Absent,
    /// `EFI PART`, but the rest is invalid.
    Broken,
    /// A valid header; its entries are not checked yet.
    Whole(Header),
}

impl Header {
    /// Reads the sector that is at `here`.
    pub(super) fn parse(sector: &[u8], here: Lba) -> Head {
        if array(sector, 0) != Some(*SIGNATURE) {
            return Head::Absent;
        }
        Self::fields(sector, here).map_or(Head::Broken, Head::Whole)
    }

    fn fields(sector: &[u8], here: Lba) -> Option<Self> {
        let length = usize::try_from(u32_at(sector, 12)?).ok().filter(|length| *length >= HEADER_LENGTH)?;
        let mut bytes = sector.get(..length)?.to_vec();
        bytes.get_mut(16..20)?.fill(0);
        let entry_length = u32_at(sector, 84)?;
        let count = u32_at(sector, 80)?;
        let entries_length = u64::from(count) * u64::from(entry_length);
        let sound = u32_at(sector, 16)? == crc32fast::hash(&bytes)
            && lba_at(sector, 24)? == here
            && entry_length as usize >= ENTRY_LENGTH
            && (1..=MOST_ENTRIES).contains(&entries_length);
        sound.then_some(Self {
            disk: DiskGuid(guid_at(sector, DISK_AT)?),
            alternate: lba_at(sector, 32)?,
            entries_at: lba_at(sector, 72)?,
            entries_length,
            entry_length: u64::from(entry_length),
            entries_checksum: u32_at(sector, 88)?,
        })
    }
}

/// The disk GUID in a header, which need not be valid.
pub(super) fn disk_guid(sector: &[u8]) -> Option<DiskGuid> {
    (array(sector, 0)? == *SIGNATURE).then(|| guid_at(sector, DISK_AT).map(DiskGuid))?
}

/// The sector number at `at`.
fn lba_at(bytes: &[u8], at: usize) -> Option<Lba> {
    u64_at(bytes, at).map(Lba)
}

/// Whether an array of entries begins with the entries of that claim.
pub(super) fn has_entries_of(sector: &[u8], identity: &Identity) -> bool {
    let unique = |number: usize| guid_at(sector, number * ENTRY_LENGTH + 16).map(PartitionGuid);
    unique(0) == Some(identity.metadata) && unique(1) == Some(identity.volume)
}

/// A valid table that has a Quarry partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct QuarryTable {
    pub(super) disk: DiskGuid,
    pub(super) alternate: Lba,
    /// All used partitions, in the order of their entries.
    pub(super) partitions: Vec<Partition>,
}

impl Header {
    /// Reads the entries that belong to this header. Returns the table if any partition has one of Quarry's
    /// types, `Some(None)` if none has, and `None` if the entries do not match the header's checksum.
    pub(super) fn with_entries(&self, entries: &[u8]) -> Option<Option<QuarryTable>> {
        if crc32fast::hash(entries) != self.entries_checksum {
            return None;
        }
        let partition = |entry: &[u8]| {
            Some(Partition {
                kind: guid_at(entry, 0)?,
                unique: PartitionGuid(guid_at(entry, 16)?),
                first: lba_at(entry, 32)?,
                last: lba_at(entry, 40)?,
            })
        };
        let length = usize::try_from(self.entry_length).ok()?;
        let partitions: Vec<_> =
            entries.chunks_exact(length).filter_map(partition).filter(|partition| !partition.kind.is_nil()).collect();
        let has_quarry_partition =
            partitions.iter().any(|partition| [METADATA_TYPE, VOLUME_TYPE].contains(&partition.kind));
        Some(has_quarry_partition.then_some(QuarryTable { disk: self.disk, alternate: self.alternate, partitions }))
    }
}
