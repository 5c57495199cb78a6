//! Errors of lvm commands.
//!
//! lvm exits with 5 for nearly everything, so failures are distinguished by the text on standard error;
//! `quarry_exec` sets the locale. Warnings are ignored: lvm writes them in successful commands as well.

use std::io;
use std::path::PathBuf;

use crate::report::ParseError;

/// Why an lvm command failed. `command` is the command line, `stderr` is lvm's message.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The fields are the same everywhere, and described above.
pub enum Error {
    /// Not enough free extents, physical volumes or metadata area.
    #[error("no space for `{command}`: {stderr}")]
    NoSpace { command: String, stderr: String },
    /// A logical volume with that name exists.
    #[error("`{command}` failed because the name is already in use: {stderr}")]
    AlreadyExists { command: String, stderr: String },
    /// The volume group or the logical volume does not exist.
    #[error("`{command}` did not find its target: {stderr}")]
    NotFound { command: String, stderr: String },
    /// The device is open or mounted.
    #[error("`{command}` was refused because the volume is in use: {stderr}; close or unmount it first")]
    InUse { command: String, stderr: String },
    /// lvm is moving, converting or merging the volume, and rejects other changes until that has finished.
    #[error(
        "`{command}` was refused because lvm is moving or converting the volume: {stderr}; wait until pvmove or \
         lvconvert has finished"
    )]
    Changing { command: String, stderr: String },
    /// Another command holds the lock, and the host's lvm.conf says not to wait, or the lock manager refused
    /// the lock.
    #[error("`{command}` did not get lvm's lock: {stderr}; check which lvm command holds it")]
    Locked { command: String, stderr: String },
    /// The volume group lacks a physical volume, or a given device does not belong to it.
    #[error(
        "`{command}` was refused because a physical volume is missing: {stderr}; bring the disk back, or see vgreduce \
         --removemissing"
    )]
    MissingPv { command: String, stderr: String },
    /// A physical volume is on several devices, and lvm does nothing with its volume group until that is
    /// resolved.
    #[error(
        "`{command}` was refused because a physical volume is on several devices: {stderr}; remove the copy, or see \
         vgimportclone"
    )]
    Duplicate { command: String, stderr: String },
    /// A disk rejected lvm's writes: it is read-only, or it fails.
    #[error("`{command}` could not write to a disk: {stderr}; see `dmesg` for the reason")]
    DiskWrite { command: String, stderr: String },
    /// The volume group must not be changed: it is exported, read-only, another host's, or guarded by a lock
    /// manager.
    #[error("`{command}` was refused: {stderr}")]
    Denied { command: String, stderr: String },
    /// A program is missing, or did not run to its end.
    #[error(transparent)]
    Exec(#[from] quarry_exec::Error),
    /// Any other failure of lvm.
    #[error("`{command}` failed with exit code {code}: {stderr}")]
    Other { command: String, code: i32, stderr: String },
    /// The report cannot be used.
    #[error("`{command}`: {source}{}{stderr}", if stderr.is_empty() { "" } else { "; " })]
    Report { command: String, source: ParseError, stderr: String },
    /// An argument that must not reach lvm, because lvm could misinterpret it.
    #[error("{0}")]
    Argument(String),
    /// Something on the host, outside lvm, could not be read.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Read { action: &'static str, path: PathBuf, source: io::Error },
}

/// The kind of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// See [`Error::NoSpace`].
    NoSpace,
    /// See [`Error::AlreadyExists`].
    AlreadyExists,
    /// See [`Error::NotFound`].
    NotFound,
    /// See [`Error::InUse`].
    InUse,
    /// See [`Error::Changing`].
    Changing,
    /// See [`Error::Locked`].
    Locked,
    /// See [`Error::MissingPv`].
    MissingPv,
    /// See [`Error::Duplicate`].
    Duplicate,
    /// See [`Error::DiskWrite`].
    DiskWrite,
    /// See [`Error::Denied`].
    Denied,
    /// Anything else.
    Other,
}

/// The phrases in lvm's messages that identify each kind, in the order in which they are tried. The first
/// match decides.
const PATTERNS: [(Kind, &[&str]); 11] = [
    (Kind::Changing, &["remove locked logical volume", "merging snapshot", "is merged to", "while pvmove"]),
    (Kind::Duplicate, &["with duplicate pv devices", "appear on duplicate devices", "with duplicates."]),
    (
        Kind::Locked,
        &[
            "can't get lock for",
            "lock failed",
            "failed to lock",
            "failed lock",
            "cannot be locked",
            "locking failed",
            "file-based locking initialisation failed",
        ],
    ),
    // Before the pattern for a physical volume that does not belong to a volume group.
    (Kind::InUse, &["without -ff", "is already in volume group"]),
    (
        Kind::MissingPv,
        &[
            "while pvs are missing",
            "with missing pvs",
            "missing pv",
            "missing physical volume",
            "refusing activation of partial",
            "is partial",
            "physical volume \"",
            "failed to find physical volume",
            "inconsistent without all pvs",
            "missing pvs",
        ],
    ),
    (Kind::AlreadyExists, &["already exists", "name already in use"]),
    (
        Kind::Denied,
        &[
            "is exported",
            "is read-only",
            "read only",
            "with system id",
            "shared vg",
            "lock type",
            "cannot access clustered",
            "volume_list",
            "for wiping and zeroing",
            "metadata_read_only",
        ],
    ),
    (Kind::InUse, &["in use", "is used by another device", "device or resource busy", "is open"]),
    (
        Kind::NoSpace,
        &[
            "insufficient free space",
            "insufficient suitable",
            "insufficient allocatable",
            "not enough",
            "no free extents",
            "no space",
            "unable to allocate extents",
            "space available",
            "volume too large",
            "maximum number of logical volumes",
            "number of stripes (",
            "too large for circular buffer",
            "too large for mda_size",
            "exceeds maximum metadata size",
            "out of space",
            "reached threshold",
        ],
    ),
    (Kind::DiskWrite, &["error writing device", "failed to write vg"]),
    (Kind::NotFound, &["not found", "failed to find logical volume", "failed to find"]),
];

/// The C library's message for a full filesystem, for example the one with lvm's locks.
const HOST_IS_FULL: &str = "no space left on device";

/// Determines the kind of failure from lvm's messages.
#[must_use]
pub fn classify(stderr: &str) -> Kind {
    let lines: Vec<String> =
        stderr.lines().map(|line| line.trim().to_lowercase()).filter(|line| !line.starts_with("warning")).collect();
    // The message for a full filesystem of the host is similar to the one for a full volume group.
    let contains =
        |line: &str, pattern: &str| line.contains(pattern) && !(pattern == "no space" && line.contains(HOST_IS_FULL));
    let matches = |patterns: &[&str]| lines.iter().any(|line| patterns.iter().any(|pattern| contains(line, pattern)));
    PATTERNS.iter().find(|(_, patterns)| matches(patterns)).map_or(Kind::Other, |(kind, _)| *kind)
}

/// Joins lvm's messages into one line, as needed in a log or an event.
pub(crate) fn one_line(stderr: &str) -> String {
    stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

/// Whether a command failed because lvm could not write the old metadata to its archive. lvm does that before
/// it changes anything.
pub(crate) fn could_not_archive(stderr: &str) -> bool {
    /// The beginning of lvm's name for an unfinished file of its archive: `.lvm_HOST_PID_NUMBER`.
    const UNFINISHED: &str = "/.lvm_";
    /// lvm creates the folder if it is missing.
    const NO_FOLDER: &str = ": mkdir failed: ";
    const PATTERNS: [&str; 7] = [
        "Cannot archive volume group metadata",
        "Couldn't create temporary archive name",
        "Couldn't create FILE object for archive",
        "Couldn't create new archive file",
        "Couldn't scan the archive directory",
        "Archive rename failed for",
        "Archive file name too long",
    ];
    let is_about_archive = |line: &str| {
        let line = line.trim_start();
        let about_a_file = line.starts_with('/') && (line.contains(UNFINISHED) || line.contains(NO_FOLDER));
        PATTERNS.iter().any(|pattern| line.starts_with(pattern)) || about_a_file
    };
    stderr.lines().any(is_about_archive)
}

impl Error {
    /// The error for a command that exited with a non-zero code.
    pub(crate) fn failed(output: quarry_exec::Output) -> Self {
        let quarry_exec::Output { command, code, stderr, .. } = output;
        let kind = classify(&stderr);
        let stderr = one_line(&stderr);
        match kind {
            Kind::NoSpace => Self::NoSpace { command, stderr },
            Kind::AlreadyExists => Self::AlreadyExists { command, stderr },
            Kind::NotFound => Self::NotFound { command, stderr },
            Kind::InUse => Self::InUse { command, stderr },
            Kind::Changing => Self::Changing { command, stderr },
            Kind::Locked => Self::Locked { command, stderr },
            Kind::MissingPv => Self::MissingPv { command, stderr },
            Kind::Duplicate => Self::Duplicate { command, stderr },
            Kind::DiskWrite => Self::DiskWrite { command, stderr },
            Kind::Denied => Self::Denied { command, stderr },
            Kind::Other => Self::Other { command, code, stderr },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archive_errors_are_distinguished() {
        for message in [
            "  /etc/lvm/archive/.lvm_node-1_2204_1107613312: write error failed: No space left on device",
            "  Cannot archive volume group metadata for vg0 to read-only filesystem.",
            "  Couldn't create temporary archive name.",
            "  /etc/lvm/archive: mkdir failed: Read-only file system",
            "  WARNING: something else\n  Couldn't create FILE object for archive.",
        ] {
            assert!(could_not_archive(message), "{message}");
            assert_ne!(classify(message), Kind::NoSpace, "{message}");
        }
        for message in [
            "  Logical Volume \"archive\" already exists in volume group \"vg0\"",
            "  Volume group \"archive\" has insufficient free space (745 extents): 10000 required.",
            "  Logical volume vg0/.lvm_x in use.",
            "",
        ] {
            assert!(!could_not_archive(message), "{message}");
        }
    }

    #[test]
    fn messages_are_joined_into_one_line() {
        assert_eq!(one_line("  one \n\n  two\n"), "one; two");
        let failed = |stderr: &str| Error::Report {
            command: "lvm fullreport".to_owned(),
            source: crate::parse(b"x").expect_err("no report"),
            stderr: one_line(stderr),
        };
        assert!(!failed("\n").to_string().ends_with("; "), "{}", failed(""));
        assert!(failed(" why \n").to_string().ends_with("; why"));
    }
}
