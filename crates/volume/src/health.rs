//! Volume problems, for programs.

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
