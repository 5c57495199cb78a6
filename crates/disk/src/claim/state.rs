//! The claim state of a disk.

use std::fmt;
use std::num::NonZeroU64;

use super::damage::Damaged;
use super::geometry::{Geometry, capacity};
use super::identity::Identity;
use super::slot::{Mark, Slot};

/// What a disk holds in terms of claims and partition tables. Does not say that a disk is blank to a probe
/// for filesystems and the like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimState {
    /// No claim, no partition table and no boot sector.
    Nothing,
    /// A claim: the disk belongs to a volume.
    Claimed(Claim),
    /// A claim that was interrupted before it counted, or whose protective MBR was lost before its record was
    /// ever changed: it was never used. It can be finished or cleared.
    HalfClaimed(Claim),
    /// A claim whose release was started but not finished. It can only be released.
    Releasing(Claim),
    /// A claim that was made when the disk had another sector size: it is attached through another adapter
    /// now, and cannot be used there.
    OtherSectorSize {
        /// What the claim says.
        claim: Claim,
        /// The sector size that the disk has now, in bytes.
        now: u32,
    },
    /// A damaged claim. It is reported, and never changed.
    Damaged(Damaged),
    /// A claim of a later version. It is reported, and never changed.
    Newer {
        /// The version of its slots.
        version: u32,
        /// The volumes in its partition tables. Empty: it may be any volume.
        named: Vec<Identity>,
    },
    /// A foreign partition table or boot sector.
    Foreign {
        /// A description of it.
        what: &'static str,
        /// The claim in use that it has overwritten, if both copies of the record are intact: then the
        /// volume's bytes may be intact, too.
        over: Option<Claim>,
    },
}

impl ClaimState {
    /// The volumes on the disk, intact or not, with their claims, if those can be read. Without volumes that
    /// were never handed out, or were deleted.
    #[must_use]
    pub fn volumes(&self) -> Vec<(Identity, Option<&Claim>)> {
        match self {
            Self::Nothing | Self::HalfClaimed(_) | Self::Releasing(_) | Self::Foreign { over: None, .. } => Vec::new(),
            Self::OtherSectorSize { claim, .. } if claim.is_releasing() => Vec::new(),
            Self::Claimed(claim) | Self::OtherSectorSize { claim, .. } | Self::Foreign { over: Some(claim), .. } => {
                vec![(claim.identity, Some(claim))]
            }
            Self::Newer { named, .. } => named.iter().map(|identity| (*identity, None)).collect(),
            Self::Damaged(damaged) => {
                let claim = |identity| damaged.claims.iter().find(|claim| claim.identity == identity);
                let all = damaged.identities().into_iter().map(|identity| (identity, claim(identity)));
                all.filter(|(_, claim)| claim.is_none_or(|claim| !claim.is_releasing())).collect()
            }
        }
    }

    /// A description, phrased to follow "holds".
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Nothing => "no claim".to_owned(),
            Self::Claimed(claim) => format!("a claim with the GUID {}", claim.identity.disk),
            Self::HalfClaimed(claim) => format!("a half-made claim with the GUID {}", claim.identity.disk),
            Self::Releasing(claim) => format!("a claim with the GUID {} that is being released", claim.identity.disk),
            Self::OtherSectorSize { claim, now } => format!(
                "a claim that was made with sectors of {} bytes, but the disk now has sectors of {now} bytes: attach \
                 it as before",
                claim.sector_size
            ),
            Self::Damaged(damaged) => format!("a damaged claim: {}", damaged.damage),
            Self::Newer { version, .. } => format!("a claim written by a newer Quarry (version {version})"),
            Self::Foreign { what, .. } => (*what).to_owned(),
        }
    }
}

/// The claim on a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The GUIDs.
    pub identity: Identity,
    /// The volume's record, as it was written.
    pub record: Vec<u8>,
    /// Incremented with every change of the record.
    pub sequence: u64,
    /// The logical sector size for which the partition tables were made, in bytes.
    pub sector_size: u32,
    /// The offset of the volume, in bytes from the start of the disk.
    pub offset: u64,
    /// The length of the volume in bytes.
    pub length: u64,
    /// The length that the volume could have on the disk as it is now, in bytes: more if the disk became larger
    /// since.
    pub capacity: u64,
    /// Deviations that are harmless so far. They are repaired only on request.
    pub degraded: Vec<Degraded>,
    pub(super) mark: Mark,
    pub(super) geometry: Geometry,
    pub(super) extended_from: Option<NonZeroU64>,
}

impl Claim {
    /// Whether its volume was deleted, and the claim is being released.
    #[must_use]
    pub fn is_releasing(&self) -> bool {
        self.mark == Mark::Releasing
    }

    /// `size`: the size of the disk now, in bytes.
    pub(super) fn of(slot: Slot, degraded: Vec<Degraded>, size: u64) -> Self {
        let geometry = slot.geometry;
        Self {
            identity: Identity::from_disk(slot.disk),
            record: slot.record,
            sequence: slot.sequence,
            sector_size: geometry.sector_size().as_u32(),
            offset: geometry.volume_offset(),
            length: geometry.volume_length(),
            capacity: capacity(size),
            degraded,
            mark: slot.mark,
            geometry,
            extended_from: slot.extended_from,
        }
    }

    /// The slot with these contents.
    pub(super) fn slot(&self) -> Slot {
        Slot {
            mark: self.mark,
            sequence: self.sequence,
            geometry: self.geometry,
            extended_from: self.extended_from,
            disk: self.identity.disk,
            record: self.record.clone(),
        }
    }
}

/// A deviation of a claim that can still be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Degraded {
    /// The partition table at the start is damaged or unreadable; the kernel uses the other one, or none.
    PrimaryTable,
    /// The partition table at the end is damaged, unreadable or gone.
    BackupTable,
    /// The two copies of the record differ, or one is damaged: the next change of the record repairs it.
    Record,
    /// The volume has its new size, but its extension is not complete, so a partition table may still have the old
    /// size: [`super::complete_extension`].
    Extending,
    /// The disk became smaller since it was claimed. The volume is intact.
    Shrunk {
        /// The disk's size when it was claimed, in bytes.
        then: u64,
        /// Its size now, in bytes.
        now: u64,
    },
}

impl fmt::Display for Degraded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PrimaryTable => f.write_str("the partition table at the start of the disk is damaged"),
            Self::BackupTable => f.write_str("the partition table at the end of the disk is damaged or missing"),
            Self::Record => f.write_str("only one of the two copies of the record is up to date"),
            Self::Extending => f.write_str("the extension of its volume is not complete"),
            Self::Shrunk { then, now } => {
                write!(f, "the disk had {then} bytes when it was claimed and has {now} now")
            }
        }
    }
}
