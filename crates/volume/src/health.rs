//! Problems of volumes and snapshots, for programs.

/// The kind of a volume's problem.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// No known problem.
    #[default]
    Healthy,
    /// The volume is usable, but not all of its copies are.
    Degraded,
    /// Part of it is on a disk that is missing or too small.
    DiskMissing,
    /// Its creation was interrupted.
    Unfinished,
    /// Its record cannot be read, or a newer Quarry wrote it.
    RecordUnreadable,
    /// Its filesystem has failed.
    FilesystemFailed,
    /// Its storage cannot be read now.
    StorageUnreadable,
    /// Another problem, from a node that does not report the kind.
    Other,
}

/// The kind of a snapshot's problem.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SnapshotCondition {
    /// No known problem.
    #[default]
    Healthy,
    /// It was not taken completely. The same request takes it again.
    Unfinished,
    /// A disk that it needs is missing or cannot be read now.
    DiskMissing,
    /// Its contents are lost for good: the space for overwritten blocks became full.
    Invalid,
    /// Its record cannot be read, or a newer Quarry wrote it.
    RecordUnreadable,
    /// Another problem, from a node that is newer than this kind.
    Other,
}
