//! A damaged claim: the kind of damage, and the volume that it belongs to.

use std::fmt;

use super::identity::Identity;
use super::state::Claim;

/// A claim that cannot be used as it is. Its volume still exists, so its name must not be given to another
/// volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// The kind of damage.
    pub damage: Damage,
    /// The claims in the copies of the record, without duplicates, the one that counts first. Empty if
    /// neither can be read.
    pub claims: Vec<Claim>,
    /// The volumes in its partition tables.
    pub named: Vec<Identity>,
    /// The volume of each copy of the record, in their order on the disk.
    pub(super) copies: [Option<Identity>; 2],
    /// The size of partition 2 in a table that does not match the claim, in bytes.
    pub partition: Option<u64>,
    /// The disk's sector size now, in bytes.
    pub sector_size: u32,
}

/// The kind of damage to a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// The two copies of the record contradict each other.
    Copies,
    /// The disk has Quarry's partitions, and neither copy of the record can be read.
    NoRecord,
    /// The first sector is a boot sector or a DOS partition table.
    BootSector,
    /// One partition table is the claim's, and another is not.
    Tables,
    /// No partition table matches the claim. The one that is there is damaged, or has Quarry's partitions.
    Remnants,
    /// No partition table can be read.
    NoTable,
    /// The protective MBR is gone.
    NoBootSector,
    /// The disk is too small for the volume.
    TooSmall,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Copies => "the two copies of its record belong to different claims",
            Self::NoRecord => "its partition table is intact, but neither copy of its record can be read",
            Self::BootSector => "a boot sector or a DOS partition table has overwritten it",
            Self::Tables => "another program has changed its partition tables",
            Self::Remnants => "the remnants of its partition tables do not match the claim",
            Self::NoTable => "neither of its partition tables can be read",
            Self::NoBootSector => "its protective MBR is missing, and the claim has not been released",
            Self::TooSmall => "the disk is smaller than when it was claimed, so its volume does not fit",
        })
    }
}

impl Damaged {
    /// The volumes that may be on the disk, without duplicates. Empty: it may be any volume.
    #[must_use]
    pub fn identities(&self) -> Vec<Identity> {
        let known = self.claims.iter().map(|claim| claim.identity).chain(self.named.iter().copied());
        let mut identities: Vec<Identity> = match (self.damage, self.claim()) {
            // The other copy came from somewhere else.
            (Damage::Copies, Some(claim)) => vec![claim.identity],
            _ => known.collect(),
        };
        identities.sort_unstable_by_key(|identity| identity.disk);
        identities.dedup();
        identities
    }

    /// The claim that the disk had, if that can be determined.
    #[must_use]
    pub fn claim(&self) -> Option<&Claim> {
        match self.claims.as_slice() {
            [claim] => Some(claim),
            // An intact table shows which copy is foreign.
            claims => claims.iter().find(|claim| self.named.contains(&claim.identity)),
        }
    }
}
