//! One slot of the metadata partition: the record, and the facts that are needed if both partition tables are
//! lost.
//!
//! The format is frozen by golden tests. Magic, version and checksum stay at the same offsets in all later
//! versions.

use std::num::NonZeroU64;

use super::bytes::{array, guid_at, u32_at, u64_at};
use super::geometry::{Geometry, SectorSize};
use super::identity::DiskGuid;

/// The length of a slot in bytes: whole physical sectors on every disk.
pub(super) const SLOT_LENGTH: usize = 4096;
/// The maximum length of a record in bytes.
pub const MAX_RECORD: usize = 2048;
/// The first bytes of every slot, whatever its version.
const MAGIC: &[u8; 8] = b"QUARRYDK";
/// The version that this code writes.
const VERSION: u32 = 1;
/// The offset of the record.
const RECORD_AT: usize = 64;
/// The offset of the checksum, which covers all bytes before it.
const CHECKSUM_AT: usize = SLOT_LENGTH - 4;

/// The phase of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// The record is still the one that the claim was made with, so the volume was never used.
    Claiming,
    /// The record was changed since, so the volume may contain a user's data.
    Held,
    /// The claim is being released.
    Releasing,
}

/// The contents of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) mark: Mark,
    /// The slot with the higher number counts.
    pub(super) sequence: u64,
    /// The size and the sector size of the disk when it was claimed, or when its volume was last extended.
    pub(super) geometry: Geometry,
    /// While the volume is being extended: the number of sectors before. The partition tables may still be those of
    /// that size.
    pub(super) extended_from: Option<NonZeroU64>,
    /// The disk's GUID. A slot with another GUID does not belong to this claim.
    pub(super) disk: DiskGuid,
    pub(super) record: Vec<u8>,
}

/// The result of reading the place of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// It does not have the magic of a slot.
    Absent,
    /// It begins like a slot but is invalid: half-written or damaged.
    Broken,
    /// A slot of a later version.
    Newer(u32),
    /// A valid slot of a version that this code supports.
    Whole(Slot),
}

impl Slot {
    /// The geometry before the extension that is not complete yet.
    pub(super) fn extended_from(&self) -> Option<Geometry> {
        let before = Geometry::new(self.geometry.sector_size(), self.extended_from?.get())?;
        (before.sectors() < self.geometry.sectors()).then_some(before)
    }

    /// Whether this slot, which has the higher sequence number, belongs to the same claim as the other one: it has
    /// the same size, or is the first one of an extension that began there.
    pub(super) fn follows(&self, other: &Self) -> bool {
        let extends =
            || self.extended_from() == Some(other.geometry) && self.sequence == other.sequence.saturating_add(1);
        self.disk == other.disk && (self.geometry == other.geometry || extends())
    }

    /// The slot's bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mark: u32 = match self.mark {
            Mark::Claiming => 1,
            Mark::Held => 2,
            Mark::Releasing => 3,
        };
        let mut bytes = Vec::with_capacity(SLOT_LENGTH);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&mark.to_le_bytes());
        bytes.extend_from_slice(&self.sequence.to_le_bytes());
        bytes.extend_from_slice(&self.geometry.sectors().to_le_bytes());
        bytes.extend_from_slice(&self.geometry.sector_size().as_u32().to_le_bytes());
        bytes.extend_from_slice(&(self.record.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&self.disk.0.to_bytes_le());
        bytes.extend_from_slice(&self.extended_from.map_or(0, NonZeroU64::get).to_le_bytes());
        bytes.resize(RECORD_AT, 0);
        bytes.extend_from_slice(&self.record);
        bytes.resize(CHECKSUM_AT, 0);
        let checksum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads a slot.
    pub(super) fn parse(bytes: &[u8]) -> Parsed {
        if array(bytes, 0) != Some(*MAGIC) {
            return Parsed::Absent;
        }
        let checksum = bytes.get(..CHECKSUM_AT).map(crc32fast::hash);
        if checksum.is_none() || checksum != u32_at(bytes, CHECKSUM_AT) {
            return Parsed::Broken;
        }
        match u32_at(bytes, 8) {
            Some(VERSION) => Self::fields(bytes).map_or(Parsed::Broken, Parsed::Whole),
            Some(version) if version > VERSION => Parsed::Newer(version),
            _ => Parsed::Broken,
        }
    }

    fn fields(bytes: &[u8]) -> Option<Self> {
        let mark = match u32_at(bytes, 12)? {
            1 => Mark::Claiming,
            2 => Mark::Held,
            3 => Mark::Releasing,
            _ => return None,
        };
        let sequence = u64_at(bytes, 16)?;
        let geometry = Geometry::new(SectorSize::new(u32_at(bytes, 32)?)?, u64_at(bytes, 24)?)?;
        let length = usize::try_from(u32_at(bytes, 36)?).ok().filter(|length| *length <= MAX_RECORD)?;
        let disk = DiskGuid(guid_at(bytes, 40)?);
        let extended_from = NonZeroU64::new(u64_at(bytes, 56)?);
        let record = bytes.get(RECORD_AT..RECORD_AT + length)?.to_vec();
        Some(Self { mark, sequence, geometry, extended_from, disk, record })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::uuid;

    use super::*;

    fn sample() -> Slot {
        Slot {
            mark: Mark::Held,
            sequence: 0x0102_0304_0506_0708,
            geometry: Geometry::new(SectorSize::LARGE, 0x0102_0304).unwrap(),
            extended_from: None,
            disk: DiskGuid(uuid!("00112233-4455-6677-8899-aabbccddeeff")),
            record: b"quarry1/s=ready".to_vec(),
        }
    }

    /// Golden: these bytes are on users' disks. They must never change.
    #[test]
    fn slots_are_frozen() {
        let bytes = sample().encode();
        assert_eq!(bytes.len(), 4096);
        assert_eq!(&bytes[..16], b"QUARRYDK\x01\0\0\0\x02\0\0\0");
        assert_eq!(bytes[16..24], [8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(bytes[24..40], [4, 3, 2, 1, 0, 0, 0, 0, 0, 0x10, 0, 0, 15, 0, 0, 0]);
        assert_eq!(
            bytes[40..56],
            [0x33, 0x22, 0x11, 0, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff]
        );
        assert_eq!(bytes[56..64], [0; 8]);
        assert_eq!(&bytes[64..79], b"quarry1/s=ready");
        assert!(bytes[79..4092].iter().all(|byte| *byte == 0));
        assert_eq!(bytes[4092..], GOLDEN_CHECKSUM.to_le_bytes());
        let extended = Slot { extended_from: NonZeroU64::new(0x0908_0706), ..sample() };
        assert_eq!(extended.encode()[56..64], [6, 7, 8, 9, 0, 0, 0, 0]);
        assert_eq!(Slot::parse(&extended.encode()), Parsed::Whole(extended));
        for (mark, code) in [(Mark::Claiming, 1), (Mark::Held, 2), (Mark::Releasing, 3)] {
            let slot = Slot { mark, ..sample() };
            assert_eq!(slot.encode()[12], code);
            assert_eq!(Slot::parse(&slot.encode()), Parsed::Whole(slot));
        }
    }

    const GOLDEN_CHECKSUM: u32 = 0x8df2_8b24;

    fn with_checksum(change: impl FnOnce(&mut Vec<u8>)) -> Parsed {
        let mut bytes = sample().encode();
        change(&mut bytes);
        let checksum = crc32fast::hash(&bytes[..4092]);
        bytes[4092..].copy_from_slice(&checksum.to_le_bytes());
        Slot::parse(&bytes)
    }

    #[test]
    fn newer_broken_and_absent_slots_are_distinguished() {
        assert_eq!(with_checksum(|bytes| bytes[8] = 2), Parsed::Newer(2));
        assert_eq!(with_checksum(|bytes| bytes[8] = 0), Parsed::Broken);
        assert_eq!(with_checksum(|bytes| bytes[12] = 4), Parsed::Broken);
        assert_eq!(with_checksum(|bytes| bytes[36..38].copy_from_slice(&2049_u16.to_le_bytes())), Parsed::Broken);
        assert_eq!(with_checksum(|bytes| bytes[33] = 4), Parsed::Broken);
        assert_eq!(with_checksum(|bytes| bytes[0] = b'q'), Parsed::Absent);
        assert_eq!(Slot::parse(&[]), Parsed::Absent);
        assert_eq!(Slot::parse(MAGIC), Parsed::Broken);
    }

    proptest! {
        #[test]
        fn records_round_trip_and_every_flipped_bit_is_detected(
            record in prop::collection::vec(any::<u8>(), 0..=MAX_RECORD), bit in 0_usize..4096 * 8,
        ) {
            let slot = Slot { record, ..sample() };
            let mut bytes = slot.encode();
            prop_assert_eq!(Slot::parse(&bytes), Parsed::Whole(slot));
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(matches!(Slot::parse(&bytes), Parsed::Absent | Parsed::Broken));
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..5000), magic in any::<bool>()) {
            if magic && bytes.len() >= 8 {
                bytes[..8].copy_from_slice(MAGIC);
            }
            prop_assert!(matches!(Slot::parse(&bytes), Parsed::Absent | Parsed::Broken));
        }
    }
}
