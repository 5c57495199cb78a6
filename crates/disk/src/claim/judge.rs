//! What it means, what was read from a disk: docs/disk-format.md, "What a reader makes of it".

use uuid::Uuid;

use super::found::{Claim, Degraded, Found};
use super::geometry::Geometry;
use super::gpt::{self, FirstSector};
use super::identity::Identity;
use super::look::{Place, Seen, Table};
use super::slot::{Mark, Parsed, Slot};
use super::{Error, Sectors};

/// Looks at a disk, and says what lies there. Reads only; blocks.
///
/// # Errors
/// What matters cannot be read. Then nobody knows, and the disk is neither free nor usable.
pub fn read(disk: &impl Sectors) -> Result<Found, Error> {
    Seen::at(disk)?.judge()
}

/// How a table stands to the claim that the slots tell of.
enum Standing {
    /// It is not there.
    Absent,
    /// The claim's, whole.
    Good,
    /// It names the claim's disk GUID, and is not sound.
    Partial,
    /// Somebody else's.
    Foreign,
    /// `EFI PART`, and nobody can say whose.
    Unknown,
    /// One with partitions of ours that are not the claim's, or not where it put them, or not alone.
    Altered,
}

impl Seen {
    pub(super) fn judge(self) -> Result<Found, Error> {
        let newer = |slot: &Parsed| match slot {
            Parsed::Newer(version) => Some(*version),
            _ => None,
        };
        if let Some(version) = self.slots.iter().filter_map(newer).max() {
            return Ok(Found::Newer { version });
        }
        match &self.slots {
            [Parsed::Whole(one), Parsed::Whole(other)] => {
                let same_claim = one.disk == other.disk && one.geometry == other.geometry;
                if !same_claim || (one.sequence == other.sequence && one != other) {
                    return Ok(damaged("the two copies of its record are of different claims"));
                }
                let slot = if one.sequence >= other.sequence { one } else { other }.clone();
                let even = one == other;
                self.with_slot(slot, even)
            }
            [Parsed::Whole(slot), _] | [_, Parsed::Whole(slot)] => {
                let slot = slot.clone();
                self.with_slot(slot, false)
            }
            _ => self.without_slot(),
        }
    }

    /// Without a slot there is no claim; but there may be the ruins of one.
    fn without_slot(self) -> Result<Found, Error> {
        let mut foreign = false;
        let mut broken = false;
        let mut ours = false;
        for (_, table) in self.tables {
            match table {
                Table::Absent => {}
                Table::Broken { .. } => broken = true,
                Table::Foreign => foreign = true,
                Table::Ours(_) => ours = true,
                Table::Unreadable(error) => return Err(error),
            }
        }
        Ok(if ours {
            damaged("its partition table is there, and neither copy of its record can be read")
        } else if foreign {
            Found::Foreign { what: "a GPT partition table" }
        } else if broken {
            Found::Foreign { what: "the remains of a GPT partition table" }
        } else {
            match self.first {
                FirstSector::Blank => Found::Nothing,
                FirstSector::Protective => Found::Foreign { what: "the protective MBR of a GPT partition table" },
                FirstSector::Other => Found::Foreign { what: "a boot sector or a DOS partition table" },
            }
        })
    }

    /// `even`: both copies of the record say this.
    fn with_slot(self, slot: Slot, even: bool) -> Result<Found, Error> {
        let geometry = slot.geometry;
        let mut primary = false;
        let mut backup = false;
        let (mut foreign, mut unknown, mut altered) = (false, false, false);
        let mut unreadable = None;
        for (place, table) in self.tables {
            if let Table::Unreadable(error) = table {
                unreadable = Some(error);
                continue;
            }
            match standing(place, &table, geometry, slot.disk) {
                Standing::Good if place.sector == 1 => primary = true,
                Standing::Good => backup = true,
                Standing::Absent | Standing::Partial => {}
                Standing::Foreign => foreign = true,
                Standing::Unknown => unknown = true,
                Standing::Altered => altered = true,
            }
        }
        let good = primary || backup;
        let claimed_elsewhere = geometry.sector_size() != self.sector_size;
        let mut degraded = Vec::new();
        degraded.extend((good && !primary).then_some(Degraded::PrimaryTable));
        degraded.extend((good && !backup).then_some(Degraded::BackupTable));
        degraded.extend((!even).then_some(Degraded::Record));
        let resized = geometry.sectors() != self.size / geometry.sector_size();
        degraded.extend(resized.then_some(Degraded::Resized { then: geometry.size(), now: self.size }));
        let too_small = geometry.volume_offset() + geometry.volume_length() > self.size;

        let mark = slot.mark;
        let claim = Claim::of(slot, degraded);
        let shown = |found: fn(Claim) -> Found, claim: Claim| {
            if claimed_elsewhere {
                Found::OtherSectorSize { claim, now: self.sector_size as u32 }
            } else {
                found(claim)
            }
        };
        Ok(match (self.first, unreadable) {
            (FirstSector::Other, _) => damaged("a boot sector or a DOS partition table was written over it"),
            (FirstSector::Protective, _) if good => {
                if foreign || altered {
                    damaged("another program has changed its partition tables")
                } else if too_small {
                    damaged("the disk is smaller than when it was claimed, and its volume does not fit")
                } else if mark == Mark::Releasing {
                    shown(Found::Releasing, claim)
                } else {
                    shown(Found::Claimed, claim)
                }
            }
            _ if foreign => Found::Foreign { what: "a GPT partition table, written over a claim of Quarry's" },
            _ if altered || unknown => damaged("what is left of its partition tables is not what the claim put there"),
            // Doubt: the table that would settle it does not come off the disk.
            (_, Some(error)) => return Err(error),
            (FirstSector::Protective, None) => damaged("neither of its partition tables can be read"),
            (FirstSector::Blank, None) => match mark {
                Mark::Claiming => shown(Found::HalfClaimed, claim),
                Mark::Releasing => shown(Found::Releasing, claim),
                // Half a claim looks just so on the disk, but for the mark. This one had a user.
                Mark::Held => damaged("its protective MBR is gone, and nobody has released it"),
            },
        })
    }
}

fn standing(place: Place, table: &Table, geometry: Geometry, disk: Uuid) -> Standing {
    match table {
        Table::Absent | Table::Unreadable(_) => Standing::Absent,
        Table::Broken { disk: Some(named) } if *named == disk => Standing::Partial,
        Table::Broken { .. } => Standing::Unknown,
        Table::Foreign => Standing::Foreign,
        Table::Ours(ours) => {
            let expected = gpt::partitions(geometry, &Identity::from_disk(disk));
            let same = place.sector_size == geometry.sector_size()
                && ours.disk == disk
                && ours.partitions.as_slice() == expected.as_slice();
            if same { Standing::Good } else { Standing::Altered }
        }
    }
}

fn damaged(why: &str) -> Found {
    Found::Damaged { why: why.to_owned() }
}
