//! What a look at a disk finds.

use std::fmt;

use super::damage::Damaged;
use super::geometry::Geometry;
use super::identity::Identity;
use super::slot::{Mark, Slot};

/// What lies on a disk, as far as claims and partition tables go. Nothing here says that a disk is blank to a probe for
/// filesystems and the like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimState {
    /// No claim, no partition table and no boot sector.
    Nothing,
    /// A claim: the disk is a volume's.
    Claimed(Claim),
    /// A claim whose making was cut off before it counted, or whose protective MBR was lost before its record was ever
    /// changed: nobody has used it. It may be resumed or cleared.
    HalfClaimed(Claim),
    /// A claim whose release was begun and not finished. It may be released, nothing else.
    Releasing(Claim),
    /// A claim that was made when the disk had another sector size: it hangs behind another adapter now. It cannot be
    /// used there.
    OtherSectorSize {
        /// What the claim says.
        claim: Claim,
        /// The sector size that the disk has now, in bytes.
        now: u32,
    },
    /// A claim that cannot be trusted. It is shown, and never changed.
    Damaged(Damaged),
    /// A claim of a later version. It is shown, and never changed.
    Newer {
        /// The version of its slots.
        version: u32,
        /// The volumes that its partition tables name. None: it may be any.
        named: Vec<Identity>,
    },
    /// A partition table or boot sector of somebody else's.
    Foreign {
        /// What it is, in words.
        what: &'static str,
        /// The claim in use that it was written over, if both copies of the record are still there: then the volume's
        /// bytes may be, too.
        over: Option<Claim>,
    },
}

impl ClaimState {
    /// The volumes that lie on the disk, whole or not, with what their claims say, where that can be read. Volumes
    /// that were never handed out, or were deleted, are left out.
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

    /// What it is, in words that go on after "holds".
    #[must_use]
    pub fn words(&self) -> String {
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

/// A claim as it lies on a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its GUIDs.
    pub identity: Identity,
    /// The volume's record, as it was written.
    pub record: Vec<u8>,
    /// Grows with every change of the record.
    pub sequence: u64,
    /// The logical sector size for which the partition tables were made, in bytes.
    pub sector_size: u32,
    /// Where the volume begins, in bytes from the start of the disk.
    pub offset: u64,
    /// How long the volume is, in bytes.
    pub length: u64,
    /// What is not as it should be and does no harm so far. Nothing of it is mended unasked.
    pub degraded: Vec<Degraded>,
    pub(super) mark: Mark,
    pub(super) geometry: Geometry,
}

impl Claim {
    /// Whether its volume was deleted, and it is being taken away.
    #[must_use]
    pub fn is_releasing(&self) -> bool {
        self.mark == Mark::Releasing
    }

    pub(super) fn of(slot: Slot, degraded: Vec<Degraded>) -> Self {
        let geometry = slot.geometry;
        Self {
            identity: Identity::from_disk(slot.disk),
            record: slot.record,
            sequence: slot.sequence,
            sector_size: geometry.sector_size() as u32,
            offset: geometry.volume_offset(),
            length: geometry.volume_length(),
            degraded,
            mark: slot.mark,
            geometry,
        }
    }

    /// The slot that says this.
    pub(super) fn slot(&self) -> Slot {
        Slot {
            mark: self.mark,
            sequence: self.sequence,
            geometry: self.geometry,
            disk: self.identity.disk,
            record: self.record.clone(),
        }
    }
}

/// What is not as it should be about a claim that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Degraded {
    /// The partition table at the start is damaged or unreadable; the kernel uses the other one, or none.
    PrimaryTable,
    /// The partition table at the end is damaged, unreadable or gone.
    BackupTable,
    /// The two copies of the record differ, or one is damaged: the next change of the record mends it.
    Record,
    /// The disk's size has changed since it was claimed. The volume is whole.
    Resized {
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
            Self::Resized { then, now } => {
                write!(f, "the disk had {then} bytes when it was claimed and has {now} now")
            }
        }
    }
}
