//! Decides whether a disk is free, and gives the reasons if it is not.
//!
//! A disk is free only if every check agrees: the kernel's tables, libblkid, the four places where a GPT
//! header may have survived the loss of its protective MBR, the magics of formats that libblkid does not know,
//! and finally an exclusive open. A disk in doubt is not free.

mod exclusive_open;
mod foreign;
mod remnants;
#[cfg(test)]
mod tests;

use std::fmt;

use quarry_filesystem::Probe;
use quarry_volume::{printable, some_of};

pub use exclusive_open::{ExclusiveOpen, try_exclusive_open};
pub use remnants::{BootSector, ReadError, Remnants, find_remnants};

use crate::find::{Disk, How};

/// What was read from a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contents {
    /// It has a Quarry claim, intact or not. Its other contents do not matter.
    Claimed {
        /// A description: "volume pvc-1".
        what: String,
    },
    /// It has no Quarry claim.
    Other {
        /// What libblkid found.
        probe: Probe,
        /// Remnants of a partition table, and formats that libblkid does not know.
        remnants: Remnants,
    },
    /// A place that must be checked could not be read.
    Unreadable {
        /// What failed: "reading its last sectors failed: …".
        why: String,
    },
}

/// The state of a disk for Quarry. The reasons are phrased to follow "it": "has an ext4 filesystem, label
/// data".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// A volume can be created on it.
    Free,
    /// It has a Quarry claim.
    Claimed {
        /// A description: "volume pvc-1".
        what: String,
    },
    /// It is in use.
    InUse {
        /// By what; further reasons follow.
        why: String,
    },
    /// It cannot hold a volume.
    Unusable {
        /// The reasons.
        why: String,
    },
    /// It has contents.
    NotEmpty {
        /// The contents.
        why: String,
    },
    /// It was not read, so its state is unknown.
    Unknown {
        /// The reason.
        why: String,
    },
}

impl State {
    /// The state's name in tables and in a metric's label.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Claimed { .. } => "claimed",
            Self::InUse { .. } => "in-use",
            Self::Unusable { .. } => "unusable",
            Self::NotEmpty { .. } => "not-empty",
            Self::Unknown { .. } => "unknown",
        }
    }

    /// The reasons, or the contents; `None` for a free disk.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Free => None,
            Self::Claimed { what: why }
            | Self::InUse { why }
            | Self::Unusable { why }
            | Self::NotEmpty { why }
            | Self::Unknown { why } => Some(why),
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        self.reason().map_or(Ok(()), |why| write!(f, ": {why}"))
    }
}

/// Decides the state of a disk. `last` opens it exclusively ([`try_exclusive_open`]). It is called only if
/// all other checks say that the disk is free, because it blocks other users of the disk for a moment.
///
/// Returns all reasons, so that an operator does not find them one by one. The first kind of reason
/// determines the state.
pub fn classify(disk: &Disk, contents: &Contents, last: impl FnOnce() -> ExclusiveOpen) -> State {
    if let Contents::Claimed { what } = contents {
        return State::Claimed { what: what.clone() };
    }
    let in_use = in_use(disk);
    let mut unusable = unusable(disk);
    let mut not_empty = Vec::new();
    if !disk.partitions.is_empty() {
        not_empty.push(format!("has partitions {}", some_of(&disk.partitions)));
    }
    match contents {
        Contents::Claimed { .. } => {}
        // For a disk without a medium, this only repeats the reason.
        Contents::Unreadable { .. } if disk.size == 0 => {}
        Contents::Unreadable { why } => unusable.push(why.clone()),
        Contents::Other { probe, remnants } => not_empty.extend(describe_contents(probe, remnants)),
    }
    let all = [in_use.as_slice(), &unusable, &not_empty].concat().join("; ");
    if !in_use.is_empty() {
        return State::InUse { why: all };
    }
    if !unusable.is_empty() {
        return State::Unusable { why: all };
    }
    if !not_empty.is_empty() {
        return State::NotEmpty { why: all };
    }
    match last() {
        ExclusiveOpen::Possible => State::Free,
        ExclusiveOpen::Held => State::InUse { why: "is held by another program or the kernel".to_owned() },
        ExclusiveOpen::Unknown { why } => State::Unusable { why },
    }
}

/// The uses of a disk that the kernel's tables show.
fn in_use(disk: &Disk) -> Vec<String> {
    let mut reasons = Vec::new();
    let mut mounts = Vec::new();
    let mut users = disk.holders.clone();
    for one in &disk.uses {
        let part = if one.device == disk.name { String::new() } else { format!(" ({})", one.device) };
        match &one.how {
            How::Mounted { at } => mounts.push(format!("{}{part}", printable(&at.to_string_lossy()))),
            How::Published { at } => {
                reasons.push(format!("is a raw block volume at {}{part}", printable(&at.to_string_lossy())))
            }
            How::Swap => reasons.push(format!("is used as swap{part}")),
            How::Loop { name } => users.push(name.clone()),
            How::Btrfs => reasons.push(format!("is a member of a mounted btrfs{part}")),
        }
    }
    if !mounts.is_empty() {
        // A pod's mount of a part of a filesystem looks like any other mount; the shortest path is the most
        // useful one.
        mounts.sort_by_key(|mount| (mount.len(), mount.clone()));
        reasons.insert(0, format!("is mounted on {}", some_of(&mounts)));
    }
    if !users.is_empty() {
        reasons.insert(0, format!("is used by {}", some_of(&users)));
    }
    reasons
}

/// Why a disk cannot hold a volume, regardless of its contents.
fn unusable(disk: &Disk) -> Vec<String> {
    let mut reasons = Vec::new();
    match (disk.size, disk.removable) {
        (0, true) => reasons.push("has no medium".to_owned()),
        (0, false) => reasons.push("has a size of 0".to_owned()),
        _ => {}
    }
    if disk.read_only {
        reasons.push("is read-only".to_owned());
    }
    if disk.zoned {
        reasons.push("is zoned: its zones can only be written sequentially".to_owned());
    }
    if ![512, 4096].contains(&disk.logical_sector) {
        reasons.push(format!("has sectors of {} bytes, and Quarry needs 512 or 4096", disk.logical_sector));
    }
    if disk.multipath {
        reasons.push("is one of several paths to a multipath device".to_owned());
    }
    if !disk.same_as.is_empty() {
        reasons.push(format!(
            "has the same world-wide name as {}: one disk with two paths, or a clone",
            some_of(&disk.same_as)
        ));
    }
    reasons
}

/// The contents of a disk, if any.
fn describe_contents(probe: &Probe, remnants: &Remnants) -> Option<String> {
    match probe {
        Probe::Blank => remnants.describe(),
        Probe::Filesystem { kind, label, in_progress, .. } => {
            let kind = if *in_progress { format!("an unfinished {kind}") } else { kind.with_article().to_owned() };
            let label = label.as_ref().map(|label| format!(", label {}", printable(label))).unwrap_or_default();
            Some(format!("has {kind} filesystem{label}"))
        }
        Probe::Other { what } | Probe::Ambivalent { what } => Some(format!("holds {what}")),
    }
}
