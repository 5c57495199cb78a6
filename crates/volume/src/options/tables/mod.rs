//! The allow-lists: every mkfs flag and mount option that a StorageClass may set, per filesystem.
//!
//! Left out on purpose is whatever names another device or a path on the host, forces, sets the UUID, is positional,
//! leaves part of the volume unused, makes a filesystem that loses what was fsynced (no journal, no barriers), may stop
//! the whole host (`errors=panic`), or hides damage (`norecovery`, `degraded`). What is in no list is refused.

mod btrfs;
mod ext4;
mod xfs;

use super::value::Value;
use crate::Filesystem;

/// A flag of mkfs.
pub(crate) struct Flag {
    /// As it is written: `-b`, `--csum`.
    pub(crate) name: &'static str,
    /// What goes with it.
    pub(crate) takes: Takes,
}

/// What goes with a flag.
pub(crate) enum Takes {
    /// One value, or for [`Value::Nothing`] none.
    One(Value),
    /// A comma-separated list of `key` or `key=value`.
    Keys(&'static [(&'static str, Value)]),
    /// A comma-separated list of features, each perhaps after a `^`, which turns it off.
    Features(&'static [&'static str]),
}

use Value::{MaybeOneOf, Nothing, OneOf};

const SWITCH: Value = OneOf(&["0", "1"]);
const MAYBE_SWITCH: Value = MaybeOneOf(&["0", "1"]);
/// What must not be turned off, but may be spelled out.
const ON: Value = OneOf(&["1"]);

/// The mkfs flags that a StorageClass may use.
pub(crate) fn mkfs(kind: Filesystem) -> &'static [Flag] {
    match kind {
        Filesystem::Ext4 => ext4::FLAGS,
        Filesystem::Xfs => xfs::FLAGS,
        Filesystem::Btrfs => btrfs::FLAGS,
    }
}

/// Mount options of every filesystem.
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
    // Kubelet passes it where the CSIDriver says seLinuxMount.
    ("context", Value::Context),
];

/// The mount options of one filesystem, beside [`MOUNT_ANY`].
pub(crate) fn mount(kind: Filesystem) -> &'static [(&'static str, Value)] {
    match kind {
        Filesystem::Ext4 => ext4::MOUNT,
        Filesystem::Xfs => xfs::MOUNT,
        Filesystem::Btrfs => btrfs::MOUNT,
    }
}
