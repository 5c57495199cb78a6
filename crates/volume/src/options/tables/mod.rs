//! The allow-lists: every mkfs flag and mount option that a StorageClass may set, per filesystem.
//!
//! Omitted on purpose are options that name another device or a path on the host, force something, set the
//! UUID, are positional, leave part of the volume unused, create a filesystem that loses fsynced data (no
//! journal, no barriers), may stop the whole host (`errors=panic`), or hide damage (`norecovery`,
//! `degraded`). Options on no list are rejected.

mod btrfs;
mod ext4;
mod xfs;

use super::value::Value;
use crate::Filesystem;

/// A flag of mkfs.
pub(crate) struct Flag {
    /// As it is typed: `-b`, `--csum`.
    pub(crate) name: &'static str,
    /// Its value.
    pub(crate) takes: Takes,
}

/// The value of a flag.
pub(crate) enum Takes {
    /// One value, or none for [`Value::Nothing`].
    One(Value),
    /// A comma-separated list of `key` or `key=value`.
    Keys(&'static [(&'static str, Value)]),
    /// A comma-separated list of features, each with an optional `^`, which turns it off.
    Features(&'static [&'static str]),
}

use Value::{MaybeOneOf, Nothing, OneOf};

const SWITCH: Value = OneOf(&["0", "1"]);
const MAYBE_SWITCH: Value = MaybeOneOf(&["0", "1"]);
/// Must not be turned off, but may be stated explicitly.
const ON: Value = OneOf(&["1"]);

/// The allow-lists of one filesystem.
pub(crate) struct Table {
    /// The flags of mkfs.
    pub(crate) mkfs: &'static [Flag],
    /// The mount options, in addition to [`MOUNT_ANY`].
    pub(crate) mount: &'static [(&'static str, Value)],
    /// Options that must be rejected.
    #[cfg(test)]
    pub(crate) refused: Refused,
}

/// Options of one filesystem that reach beyond the volume, force something or lose data, and misspelt ones.
#[cfg(test)]
pub(crate) struct Refused {
    pub(crate) mkfs: &'static [&'static str],
    pub(crate) mount: &'static [&'static str],
}

/// The allow-lists of that filesystem.
pub(crate) fn of(kind: Filesystem) -> &'static Table {
    match kind {
        Filesystem::Ext4 => &ext4::TABLE,
        Filesystem::Xfs => &xfs::TABLE,
        Filesystem::Btrfs => &btrfs::TABLE,
    }
}

/// Mount options for every filesystem.
pub(crate) const MOUNT_ANY: &[(&str, Value)] = &[
    ("defaults", Nothing),
    ("ro", Nothing),
    ("rw", Nothing),
    ("noatime", Nothing),
    ("atime", Nothing),
    ("nodiratime", Nothing),
    ("diratime", Nothing),
    ("relatime", Nothing),
    ("norelatime", Nothing),
    ("strictatime", Nothing),
    ("nostrictatime", Nothing),
    ("lazytime", Nothing),
    ("nolazytime", Nothing),
    ("nodev", Nothing),
    ("dev", Nothing),
    ("nosuid", Nothing),
    ("suid", Nothing),
    ("noexec", Nothing),
    ("exec", Nothing),
    ("sync", Nothing),
    ("async", Nothing),
    ("dirsync", Nothing),
    ("iversion", Nothing),
    ("noiversion", Nothing),
    // Kubelet passes it if the CSIDriver has seLinuxMount.
    ("context", Value::Context),
];
