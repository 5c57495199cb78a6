//! The partition tables: GUID Partition Table of UEFI 2.10, chapter 5.

use uuid::Uuid;

use super::bytes::{array, guid_at, u32_at, u64_at};
use super::geometry::{ENTRIES_LENGTH, Geometry};
use super::identity::{Identity, METADATA_TYPE, VOLUME_TYPE};

const SIGNATURE: &[u8; 8] = b"EFI PART";
const REVISION: u32 = 0x0001_0000;
const HEADER_LENGTH: usize = 92;
const ENTRY_LENGTH: usize = 128;
/// Where the disk's GUID stands in a header.
const DISK_AT: usize = 56;
/// More entries than this, in bytes, are not read: nobody makes such tables.
const MOST_ENTRIES: u64 = 1 << 20;
/// What DOS partition tables and boot sectors end with.
const BOOT_SIGNATURE: [u8; 2] = [0x55, 0xaa];
const BOOT_SIGNATURE_AT: usize = 510;
/// The type of the partition of a protective MBR.
const PROTECTIVE: u8 = 0xee;

/// A used partition entry, as far as it matters here. Sectors are numbered from the start of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Partition {
    pub(super) kind: Uuid,
    pub(super) unique: Uuid,
    pub(super) first: u64,
    pub(super) last: u64,
}

/// The two partitions of a claim, in their order.
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
        bytes.extend_from_slice(&partition.unique.to_bytes_le());
        bytes.extend_from_slice(&partition.first.to_le_bytes());
        bytes.extend_from_slice(&partition.last.to_le_bytes());
        // No attributes.
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend(name.encode_utf16().flat_map(u16::to_le_bytes));
        bytes.resize(end, 0);
    }
    bytes.resize(ENTRIES_LENGTH as usize, 0);
    bytes
}

/// Which of the two tables of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// At the start.
    Primary,
    /// At the end.
    Backup,
}

/// Where the header of a table of a claim lies, and where its entries begin, in sectors.
pub(super) fn places(geometry: Geometry, which: Which) -> (u64, u64) {
    match which {
        Which::Primary => (1, 2),
        Which::Backup => (geometry.last(), geometry.last() - geometry.entries_sectors()),
    }
}

/// The header of a claim's table: one sector.
pub(super) fn header(geometry: Geometry, identity: &Identity, which: Which) -> Vec<u8> {
    let (here, entries_at) = places(geometry, which);
    let other = match which {
        Which::Primary => geometry.last(),
        Which::Backup => 1,
    };
    let first_usable = 2 + geometry.entries_sectors();
    let last_usable = geometry.last() - geometry.entries_sectors() - 1;
    let entries_checksum = crc32fast::hash(&entries(geometry, identity));
    let with_checksum = |checksum: u32| {
        let mut bytes = Vec::with_capacity(geometry.sector_size() as usize);
        bytes.extend_from_slice(SIGNATURE);
        bytes.extend_from_slice(&REVISION.to_le_bytes());
        bytes.extend_from_slice(&(HEADER_LENGTH as u32).to_le_bytes());
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        for sector in [here, other, first_usable, last_usable] {
            bytes.extend_from_slice(&sector.to_le_bytes());
        }
        bytes.extend_from_slice(&identity.disk.to_bytes_le());
        bytes.extend_from_slice(&entries_at.to_le_bytes());
        bytes.extend_from_slice(&((ENTRIES_LENGTH / ENTRY_LENGTH as u64) as u32).to_le_bytes());
        bytes.extend_from_slice(&(ENTRY_LENGTH as u32).to_le_bytes());
        bytes.extend_from_slice(&entries_checksum.to_le_bytes());
        bytes
    };
    let mut bytes = with_checksum(crc32fast::hash(&with_checksum(0)));
    bytes.resize(geometry.sector_size() as usize, 0);
    bytes
}

/// The protective MBR of a claim: one sector. Its being there is the claim.
pub(super) fn protective_mbr(geometry: Geometry) -> Vec<u8> {
    let mut bytes = vec![0; 446];
    // Not bootable; cylinder, head and sector of the first sector after this one; the type; the highest that can be said.
    bytes.extend_from_slice(&[0, 0, 2, 0, PROTECTIVE, 0xff, 0xff, 0xff]);
    bytes.extend_from_slice(&1_u32.to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(geometry.last()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.resize(BOOT_SIGNATURE_AT, 0);
    bytes.extend_from_slice(&BOOT_SIGNATURE);
    bytes.resize(geometry.sector_size() as usize, 0);
    bytes
}

/// What sector 0 is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FirstSector {
    /// It does not end like a boot sector.
    Blank,
    /// The protective MBR of a GPT, whosever.
    Protective,
    /// A boot sector, a DOS partition table, or a GPT's with DOS partitions beside it.
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

/// A header of anybody's, sound in itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    disk: Uuid,
    /// Where it says that the other copy lies.
    alternate: u64,
    /// Where its entries begin.
    pub(super) entries_at: u64,
    /// How many bytes of entries there are.
    pub(super) entries_length: u64,
    entry_length: u64,
    entries_checksum: u32,
}

/// What was found where a header may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// No `EFI PART`.
    Absent,
    /// `EFI PART`, and what follows cannot be right.
    Broken,
    /// A header whose entries are worth reading.
    Whole(Header),
}

impl Header {
    /// Reads the sector with the number `here`.
    pub(super) fn parse(sector: &[u8], here: u64) -> Head {
        if array(sector, 0) != Some(*SIGNATURE) {
            return Head::Absent;
        }
        Self::fields(sector, here).map_or(Head::Broken, Head::Whole)
    }

    fn fields(sector: &[u8], here: u64) -> Option<Self> {
        let length = usize::try_from(u32_at(sector, 12)?).ok().filter(|length| *length >= HEADER_LENGTH)?;
        let mut bytes = sector.get(..length)?.to_vec();
        bytes.get_mut(16..20)?.fill(0);
        let entry_length = u32_at(sector, 84)?;
        let count = u32_at(sector, 80)?;
        let entries_length = u64::from(count) * u64::from(entry_length);
        let sound = u32_at(sector, 16)? == crc32fast::hash(&bytes)
            && u64_at(sector, 24)? == here
            && entry_length as usize >= ENTRY_LENGTH
            && (1..=MOST_ENTRIES).contains(&entries_length);
        sound.then_some(Self {
            disk: guid_at(sector, DISK_AT)?,
            alternate: u64_at(sector, 32)?,
            entries_at: u64_at(sector, 72)?,
            entries_length,
            entry_length: u64::from(entry_length),
            entries_checksum: u32_at(sector, 88)?,
        })
    }
}

/// The disk GUID in what begins like a header, sound or not.
pub(super) fn disk_in(sector: &[u8]) -> Option<Uuid> {
    (array(sector, 0)? == *SIGNATURE).then(|| guid_at(sector, DISK_AT))?
}

/// Whether an array of entries begins with those of that claim.
pub(super) fn entries_of(sector: &[u8], identity: &Identity) -> bool {
    let unique = |number: usize| guid_at(sector, number * ENTRY_LENGTH + 16);
    unique(0) == Some(identity.metadata) && unique(1) == Some(identity.volume)
}

/// A whole table with partitions of ours in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ours {
    pub(super) disk: Uuid,
    pub(super) alternate: u64,
    /// All that are used, in the order of their entries.
    pub(super) partitions: Vec<Partition>,
}

impl Header {
    /// What the entries that belong to this header say: the table if any partition has a type of ours, `Some(None)` if
    /// none has, `None` if these are not the entries that it was made for.
    pub(super) fn with_entries(&self, entries: &[u8]) -> Option<Option<Ours>> {
        if crc32fast::hash(entries) != self.entries_checksum {
            return None;
        }
        let partition = |entry: &[u8]| {
            Some(Partition {
                kind: guid_at(entry, 0)?,
                unique: guid_at(entry, 16)?,
                first: u64_at(entry, 32)?,
                last: u64_at(entry, 40)?,
            })
        };
        let length = usize::try_from(self.entry_length).ok()?;
        let partitions: Vec<_> =
            entries.chunks_exact(length).filter_map(partition).filter(|partition| !partition.kind.is_nil()).collect();
        let ours = partitions.iter().any(|partition| [METADATA_TYPE, VOLUME_TYPE].contains(&partition.kind));
        Some(ours.then_some(Ours { disk: self.disk, alternate: self.alternate, partitions }))
    }
}
