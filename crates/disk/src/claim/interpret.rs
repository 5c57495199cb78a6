//! Interprets what was read from a disk: docs/disk-format.md, "How a reader interprets it".

use std::cmp::Reverse;

use super::contents::{DiskContents, HeaderLocation, Table};
use super::damage::{Damage, Damaged};
use super::geometry::Lba;
use super::gpt::{self, FirstSector, Partition};
use super::identity::{Identity, VOLUME_TYPE};
use super::slot::{Mark, Parsed, Slot};
use super::state::{Claim, ClaimState, Degraded};
use super::{Error, Sectors};

/// Reads a disk, and returns its claim state. Does not write; blocks.
///
/// # Errors
/// A place that must be checked cannot be read. Then the state is unknown, and the disk is neither free nor
/// usable.
pub fn read(disk: &impl Sectors) -> Result<ClaimState, Error> {
    DiskContents::read(disk)?.interpret()
}

/// How a partition table relates to the claim in the slots.
enum Relation {
    /// The table is missing.
    Absent,
    /// It is the claim's table, intact. While its volume is being extended, with the new or the old size.
    Good,
    /// It has the claim's disk GUID, but is damaged.
    Partial,
    /// It is a foreign table.
    Foreign,
    /// It has `EFI PART`, but its owner is unknown.
    Unknown,
    /// A table with Quarry partitions that are not the claim's, are not where it put them, or are not the
    /// only ones.
    Altered,
}

impl DiskContents {
    pub(super) fn interpret(self) -> Result<ClaimState, Error> {
        let newer = |slot: &Parsed| match slot {
            Parsed::Newer(version) => Some(*version),
            _ => None,
        };
        if let Some(version) = self.slots.iter().filter_map(newer).max() {
            return Ok(ClaimState::Newer { version, named: self.named() });
        }
        match &self.slots {
            [Parsed::Whole(one), Parsed::Whole(other)] => {
                let (slot, older) = if one.sequence >= other.sequence { (one, other) } else { (other, one) };
                if !slot.follows(older) || (slot.sequence == older.sequence && slot != older) {
                    return Ok(self.damaged(Damage::Copies));
                }
                let (slot, copies_agree) = (slot.clone(), slot == older);
                self.with_slot(slot, copies_agree)
            }
            [Parsed::Whole(slot), _] | [_, Parsed::Whole(slot)] => {
                let slot = slot.clone();
                self.with_slot(slot, false)
            }
            _ => self.without_slot(),
        }
    }

    /// Without a slot there is no claim, but there may be remnants of one.
    fn without_slot(mut self) -> Result<ClaimState, Error> {
        let mut foreign = false;
        let mut broken = false;
        let mut has_quarry_table = false;
        for (_, table) in &self.tables {
            match table {
                Table::Absent | Table::Unreadable(_) => {}
                Table::Broken { .. } => broken = true,
                Table::Foreign => foreign = true,
                Table::Quarry(_) => has_quarry_table = true,
            }
        }
        let foreign_state = |what| ClaimState::Foreign { what, over: None };
        let found = if has_quarry_table {
            self.damaged(Damage::NoRecord)
        } else if foreign {
            foreign_state("a GPT partition table")
        } else if broken {
            foreign_state("remnants of a GPT partition table")
        } else {
            match self.first {
                FirstSector::Blank => ClaimState::Nothing,
                FirstSector::Protective => foreign_state("the protective MBR of a GPT partition table"),
                FirstSector::Other => foreign_state("a boot sector or a DOS partition table"),
            }
        };
        self.take_unreadable().map_or(Ok(found), Err)
    }

    /// Removes the tables that cannot be read, and returns the first one's error.
    fn take_unreadable(&mut self) -> Option<Error> {
        let mut first = None;
        for (place, table) in std::mem::take(&mut self.tables) {
            match table {
                Table::Unreadable(error) => first = first.or(Some(error)),
                table => self.tables.push((place, table)),
            }
        }
        first
    }

    /// The volumes in Quarry's partition tables, without duplicates. A table whose disk and partitions belong
    /// to different volumes names no volume.
    fn named(&self) -> Vec<Identity> {
        let mut named = Vec::new();
        for (_, table) in &self.tables {
            let Table::Quarry(table) = table else { continue };
            let identity = Identity::from_disk(table.disk);
            let is_whole =
                table.partitions.iter().any(|part| [identity.metadata, identity.volume].contains(&part.unique));
            if is_whole && !named.contains(&identity) {
                named.push(identity);
            }
        }
        named
    }

    /// A damaged claim, with everything that is still known about it.
    fn damaged(&self, damage: Damage) -> ClaimState {
        let mut slots: Vec<Slot> = self.slots.iter().filter_map(whole).cloned().collect();
        slots.sort_by_key(|slot| Reverse(slot.sequence));
        if damage != Damage::Copies {
            slots.truncate(1);
        }
        let claims: Vec<Claim> = slots.into_iter().map(|slot| Claim::of(slot, Vec::new(), self.size)).collect();
        let mut partition = None;
        for (place, table) in &self.tables {
            let Table::Quarry(table) = table else { continue };
            let volume = table.partitions.iter().find(|part| part.kind == VOLUME_TYPE);
            let sectors = |volume: &Partition| volume.last.0.checked_sub(volume.first.0)?.checked_add(1);
            let bytes = volume.and_then(sectors).and_then(|sectors| sectors.checked_mul(place.sector_size.bytes()));
            let is_other = |bytes: &u64| claims.iter().all(|claim| claim.length != *bytes);
            partition = partition.max(bytes.filter(is_other));
        }
        let [first, second] = &self.slots;
        let copies = [first, second].map(|slot| whole(slot).map(|slot| Identity::from_disk(slot.disk)));
        let sector_size = self.sector_size;
        ClaimState::Damaged(Damaged { damage, claims, named: self.named(), copies, partition, sector_size })
    }

    /// `copies_agree`: both copies of the record agree.
    fn with_slot(mut self, slot: Slot, copies_agree: bool) -> Result<ClaimState, Error> {
        let geometry = slot.geometry;
        let mut primary = false;
        let mut backup = false;
        let (mut foreign, mut unknown, mut altered) = (false, false, false);
        let mut others_within = false;
        // The rest of a release is writing zeros where the claim was.
        let is_erased = slot.mark == Mark::Releasing && matches!(self.first, FirstSector::Blank);
        let unreadable = self.take_unreadable();
        for (place, table) in &self.tables {
            let relation = relation(*place, table, &slot);
            // What is beyond the end that the disk had came with the enlarged disk, and never was the claim's.
            let within = place.offset().is_some_and(|offset| offset < geometry.size());
            others_within |= within && matches!(relation, Relation::Foreign | Relation::Altered);
            match relation {
                Relation::Good if place.sector == Lba(1) => primary = true,
                Relation::Good => backup = true,
                Relation::Absent | Relation::Partial => {}
                _ if is_erased && !within => {}
                Relation::Foreign => foreign = true,
                Relation::Unknown => unknown = true,
                Relation::Altered => altered = true,
            }
        }
        let good = primary || backup;
        let claimed_elsewhere = geometry.sector_size().as_u32() != self.sector_size;
        let mut degraded = Vec::new();
        // An extension writes both tables again.
        let extending = slot.extended_from.is_some();
        degraded.extend((good && !primary && !extending).then_some(Degraded::PrimaryTable));
        degraded.extend((good && !backup && !extending).then_some(Degraded::BackupTable));
        degraded.extend((!copies_agree).then_some(Degraded::Record));
        degraded.extend(extending.then_some(Degraded::Extending));
        let shrunk = geometry.sectors() > geometry.sector_size().sectors_in(self.size);
        degraded.extend(shrunk.then_some(Degraded::Shrunk { then: geometry.size(), now: self.size }));
        let too_small = geometry.volume_offset() + geometry.volume_length() > self.size;

        let mark = slot.mark;
        // A release that cannot be finished has no volume any more.
        let in_use = mark == Mark::Held && self.slots.iter().all(|slot| whole(slot).is_some());
        let claim = Claim::of(slot, degraded, self.size);
        let shown = |found: fn(Claim) -> ClaimState, claim: Claim| {
            if claimed_elsewhere { ClaimState::OtherSectorSize { claim, now: self.sector_size } } else { found(claim) }
        };
        Ok(match (self.first, unreadable) {
            (FirstSector::Other, _) => self.damaged(Damage::BootSector),
            (FirstSector::Protective, _) if good => {
                if others_within {
                    self.damaged(Damage::Tables)
                } else if too_small {
                    self.damaged(Damage::TooSmall)
                } else if mark == Mark::Releasing {
                    shown(ClaimState::Releasing, claim)
                } else {
                    shown(ClaimState::Claimed, claim)
                }
            }
            _ if foreign => ClaimState::Foreign {
                what: "a GPT partition table that has overwritten a Quarry claim",
                over: in_use.then_some(claim),
            },
            _ if altered || unknown => self.damaged(Damage::Remnants),
            // Doubt: the table that would decide it cannot be read.
            (_, Some(error)) => return Err(error),
            (FirstSector::Protective, None) => self.damaged(Damage::NoTable),
            (FirstSector::Blank, None) => match mark {
                Mark::Claiming => shown(ClaimState::HalfClaimed, claim),
                Mark::Releasing => shown(ClaimState::Releasing, claim),
                // A half-made claim looks the same on the disk, except for the mark. This one was in use.
                Mark::Held => self.damaged(Damage::NoBootSector),
            },
        })
    }
}

fn whole(slot: &Parsed) -> Option<&Slot> {
    match slot {
        Parsed::Whole(slot) => Some(slot),
        _ => None,
    }
}

fn relation(place: HeaderLocation, table: &Table, slot: &Slot) -> Relation {
    match table {
        Table::Absent | Table::Unreadable(_) => Relation::Absent,
        Table::Broken { disk: Some(named) } if *named == slot.disk => Relation::Partial,
        Table::Broken { .. } => Relation::Unknown,
        Table::Foreign => Relation::Foreign,
        Table::Quarry(table) => {
            let same_claim = place.sector_size == slot.geometry.sector_size() && table.disk == slot.disk;
            let is_of =
                |geometry| same_claim && table.partitions == gpt::partitions(geometry, &Identity::from_disk(slot.disk));
            if is_of(slot.geometry) || slot.extended_from().is_some_and(is_of) {
                Relation::Good
            } else {
                Relation::Altered
            }
        }
    }
}
