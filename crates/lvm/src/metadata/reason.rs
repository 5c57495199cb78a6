//! Why a volume group cannot be read from its disks, so that lvm's report is needed.

use std::io;
use std::path::PathBuf;

use super::text::SyntaxError;
use crate::PvUuid;

/// Why lvm's report is needed.
#[derive(Debug, thiserror::Error)]
pub enum NeedsReport {
    /// A disk cannot be read.
    #[error("cannot read {}: {error}", device.display())]
    Unreadable {
        /// The disk.
        device: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// Kernel and metadata cannot be compared, because the devices in the kernel cannot be listed.
    #[error("cannot list the devices of the volume group in the kernel: {0}")]
    Kernel(#[source] io::Error),
    /// A command of lvm is changing the volume group. A report waits for it.
    #[error("a command of lvm is changing the volume group")]
    Locked,
    /// lvm's lock of the volume group cannot be tested.
    #[error("cannot test lvm's lock of the volume group: {0}")]
    Lock(#[source] io::Error),
    /// The label or the header of a metadata area is not as expected.
    #[error("{}: {problem}", device.display())]
    Disk {
        /// The disk.
        device: PathBuf,
        /// What is wrong with it.
        problem: DiskProblem,
    },
    /// No disk has a copy of the metadata that is in use.
    #[error("no disk has metadata")]
    NoMetadata,
    /// The copies of the metadata are not the same: a commit has not reached all disks, or one of them was away.
    #[error("the metadata on {} differs from that on {}", one.display(), other.display())]
    CopiesDiffer {
        /// A disk.
        one: PathBuf,
        /// Another disk, or the same one if its two copies differ.
        other: PathBuf,
    },
    /// A commit is in progress, or was interrupted: new metadata is written, but not valid yet.
    #[error("{}: a commit is in progress, or was interrupted", .0.display())]
    Precommitted(PathBuf),
    /// The metadata changed while it was read.
    #[error("{}: the metadata changed while it was read", .0.display())]
    Changed(PathBuf),
    /// A physical volume of the volume group is lost or written off.
    #[error("physical volume {0} is missing")]
    Missing(PvUuid),
    /// Two disks have the same physical volume.
    #[error("physical volume {0} is on several devices")]
    Duplicate(PvUuid),
    /// A disk is not a part of the volume group.
    #[error("{} is not a part of the volume group", .0.display())]
    Foreign(PathBuf),
    /// The text is not LVM's syntax.
    #[error("the metadata cannot be parsed: {0}")]
    Syntax(#[from] SyntaxError),
    /// The metadata has something that this reader does not know, or does not evaluate as lvm does.
    #[error("unknown {kind} `{name}` in {place}")]
    Unknown {
        /// What it is.
        kind: Unknown,
        /// The flag, key or type.
        name: String,
        /// The section with it.
        place: String,
    },
    /// The metadata contradicts itself, or lacks something.
    #[error("{place}: {problem}")]
    Inconsistent {
        /// The section with the contradiction.
        place: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// The volume group is not the one of the last report, or has another state that only lvm may judge.
    #[error("{0} differs from the last report")]
    Other(&'static str),
}

/// What a name that the reader does not know is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// A key or section.
    Key,
    /// A flag.
    Flag,
    /// A segment type, perhaps with flags.
    SegmentType,
    /// A lock manager, with which other hosts use the volume group.
    LockType,
}

impl std::fmt::Display for Unknown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Key => "key",
            Self::Flag => "flag",
            Self::SegmentType => "segment type",
            Self::LockType => "lock type",
        })
    }
}

/// What is unexpected about a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DiskProblem {
    /// It has no label of LVM, or several.
    #[error("it has no single label of LVM")]
    Label,
    /// The checksum of the label is wrong.
    #[error("the checksum of its label is wrong")]
    LabelChecksum,
    /// The label has another version, or wrong contents.
    #[error("its label has unexpected contents")]
    LabelContents,
    /// The header of a metadata area is not one.
    #[error("the header of a metadata area has unexpected contents")]
    AreaHeader,
    /// The checksum of the header of a metadata area is wrong.
    #[error("the checksum of a metadata area's header is wrong")]
    AreaChecksum,
    /// The text is not inside its metadata area, or is too long.
    #[error("the text of a metadata area has an unexpected position or length")]
    TextPlace,
    /// The checksum of the text is wrong: a commit is in progress, or was interrupted.
    #[error("the checksum of the metadata is wrong")]
    TextChecksum,
}

impl NeedsReport {
    /// A word for this reason, for metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "unreadable",
            Self::Kernel(_) => "kernel",
            Self::Locked => "locked",
            Self::Lock(_) => "lock",
            Self::Disk { .. } => "disk",
            Self::NoMetadata => "no-metadata",
            Self::CopiesDiffer { .. } => "copies-differ",
            Self::Precommitted(_) => "precommitted",
            Self::Changed(_) => "changed",
            Self::Missing(_) => "missing",
            Self::Duplicate(_) => "duplicate",
            Self::Foreign(_) => "foreign",
            Self::Syntax(_) => "syntax",
            Self::Unknown { .. } => "unknown",
            Self::Inconsistent { .. } => "inconsistent",
            Self::Other(_) => "other",
        }
    }
}
