//! The allow-lists: every mkfs flag and mount option that a StorageClass may set, per filesystem.
//!
//! Left out on purpose is whatever names another device or a path on the host, forces, sets the UUID, is positional,
//! leaves part of the volume unused, makes a filesystem that loses what was fsynced (no journal, no barriers), may stop
//! the whole host (`errors=panic`), or hides damage (`norecovery`, `degraded`). What is in no list is refused.

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

use Takes::{Features, Keys, One};
use Value::{MaybeCompression, MaybeNumber, MaybeOneOf, Nothing, Number, OneOf};

const SWITCH: Value = OneOf(&["0", "1"]);
const MAYBE_SWITCH: Value = MaybeOneOf(&["0", "1"]);
/// What must not be turned off, but may be spelled out.
const ON: Value = OneOf(&["1"]);

const EXT4_FLAGS: &[Flag] = &[
    Flag { name: "-b", takes: One(Number) },
    Flag { name: "-C", takes: One(Number) },
    Flag { name: "-g", takes: One(Number) },
    Flag { name: "-G", takes: One(Number) },
    Flag { name: "-i", takes: One(Number) },
    Flag { name: "-I", takes: One(Number) },
    Flag { name: "-m", takes: One(Number) },
    Flag { name: "-N", takes: One(Number) },
    Flag { name: "-L", takes: One(Value::Label(16)) },
    Flag { name: "-T", takes: One(OneOf(&["default", "small", "big", "huge", "news", "largefile", "largefile4"])) },
    Flag { name: "-J", takes: Keys(&[("size", Number), ("fast_commit_size", Number)]) },
    Flag {
        name: "-E",
        takes: Keys(&[
            ("stride", Number),
            ("stripe_width", Number),
            ("stripe-width", Number),
            ("lazy_itable_init", MAYBE_SWITCH),
            ("lazy_journal_init", MAYBE_SWITCH),
            ("packed_meta_blocks", MAYBE_SWITCH),
            ("num_backup_sb", OneOf(&["0", "1", "2"])),
            ("resize", Number),
            ("discard", Nothing),
            ("nodiscard", Nothing),
        ]),
    },
    Flag {
        // Without extents blkid may call it ext3, and without a journal it is not safe: neither can be chosen.
        name: "-O",
        takes: Features(&[
            "64bit",
            "bigalloc",
            "dir_index",
            "dir_nlink",
            "ea_inode",
            "encrypt",
            "extra_isize",
            "fast_commit",
            "flex_bg",
            "huge_file",
            "inline_data",
            "large_dir",
            "large_file",
            "meta_bg",
            "metadata_csum",
            "metadata_csum_seed",
            "orphan_file",
            "project",
            "quota",
            "resize_inode",
            "sparse_super",
            "sparse_super2",
            "uninit_bg",
            "verity",
        ]),
    },
];

const XFS_FLAGS: &[Flag] = &[
    Flag { name: "-K", takes: One(Nothing) },
    Flag { name: "-L", takes: One(Value::Label(12)) },
    Flag { name: "-b", takes: Keys(&[("size", Number)]) },
    Flag { name: "-s", takes: Keys(&[("size", Number)]) },
    Flag {
        name: "-d",
        takes: Keys(&[
            ("agcount", Number),
            ("agsize", Number),
            ("su", Number),
            ("sw", Number),
            ("sunit", Number),
            ("swidth", Number),
            ("noalign", Nothing),
            ("projinherit", Number),
            ("extszinherit", Number),
            ("cowextsize", Number),
            ("concurrency", Number),
        ]),
    },
    Flag {
        name: "-i",
        takes: Keys(&[
            ("size", Number),
            ("maxpct", Number),
            ("sparse", MAYBE_SWITCH),
            ("nrext64", MAYBE_SWITCH),
            ("exchange", MAYBE_SWITCH),
        ]),
    },
    Flag {
        name: "-l",
        takes: Keys(&[
            ("size", Number),
            ("internal", MaybeOneOf(&["1"])),
            ("su", Number),
            ("sunit", Number),
            ("agnum", Number),
            ("lazy-count", ON),
            ("concurrency", Number),
        ]),
    },
    Flag {
        name: "-m",
        takes: Keys(&[
            ("crc", ON),
            ("finobt", SWITCH),
            ("rmapbt", SWITCH),
            ("reflink", SWITCH),
            ("bigtime", SWITCH),
            ("inobtcount", SWITCH),
            ("autofsck", SWITCH),
        ]),
    },
    Flag { name: "-n", takes: Keys(&[("size", Number), ("ftype", ON), ("parent", MAYBE_SWITCH)]) },
];

const BTRFS_FEATURES: &[&str] =
    &["mixed-bg", "extref", "skinny-metadata", "no-holes", "free-space-tree", "block-group-tree", "quota"];

const BTRFS_FLAGS: &[Flag] = &[
    Flag { name: "-K", takes: One(Nothing) },
    Flag { name: "-M", takes: One(Nothing) },
    Flag { name: "-L", takes: One(Value::Label(255)) },
    Flag { name: "-n", takes: One(Number) },
    Flag { name: "-s", takes: One(Number) },
    Flag { name: "-d", takes: One(OneOf(&["single", "dup"])) },
    Flag { name: "-m", takes: One(OneOf(&["single", "dup"])) },
    Flag { name: "-O", takes: Features(BTRFS_FEATURES) },
    Flag { name: "-R", takes: Features(&["free-space-tree", "quota"]) },
    Flag { name: "--csum", takes: One(OneOf(&["crc32c", "xxhash", "sha256", "blake2"])) },
];

/// The mkfs flags that a StorageClass may use.
pub(crate) fn mkfs(kind: Filesystem) -> &'static [Flag] {
    match kind {
        Filesystem::Ext4 => EXT4_FLAGS,
        Filesystem::Xfs => XFS_FLAGS,
        Filesystem::Btrfs => BTRFS_FLAGS,
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

const EXT4_MOUNT: &[(&str, Value)] = &[
    ("data", OneOf(&["ordered", "journal", "writeback"])),
    ("barrier", MaybeOneOf(&["1"])),
    ("commit", Number),
    ("errors", OneOf(&["remount-ro", "continue"])),
    ("discard", Nothing),
    ("nodiscard", Nothing),
    ("delalloc", Nothing),
    ("nodelalloc", Nothing),
    ("auto_da_alloc", MAYBE_SWITCH),
    ("noauto_da_alloc", Nothing),
    ("user_xattr", Nothing),
    ("acl", Nothing),
    ("stripe", Number),
    ("inode_readahead_blks", Number),
    ("journal_checksum", Nothing),
    ("nojournal_checksum", Nothing),
    ("journal_ioprio", OneOf(&["0", "1", "2", "3", "4", "5", "6", "7"])),
    ("max_batch_time", Number),
    ("min_batch_time", Number),
    ("init_itable", MaybeNumber),
    ("noinit_itable", Nothing),
    ("dioread_lock", Nothing),
    ("dioread_nolock", Nothing),
    ("block_validity", Nothing),
    ("noblock_validity", Nothing),
    ("max_dir_size_kb", Number),
    ("usrquota", Nothing),
    ("grpquota", Nothing),
    ("prjquota", Nothing),
    ("quota", Nothing),
    ("noquota", Nothing),
    ("grpid", Nothing),
    ("bsdgroups", Nothing),
    ("nogrpid", Nothing),
    ("sysvgroups", Nothing),
];

const XFS_MOUNT: &[(&str, Value)] = &[
    ("allocsize", Number),
    ("discard", Nothing),
    ("nodiscard", Nothing),
    ("grpid", Nothing),
    ("bsdgroups", Nothing),
    ("nogrpid", Nothing),
    ("sysvgroups", Nothing),
    ("filestreams", Nothing),
    ("inode32", Nothing),
    ("inode64", Nothing),
    ("largeio", Nothing),
    ("nolargeio", Nothing),
    ("logbufs", Number),
    ("logbsize", Number),
    ("noalign", Nothing),
    ("sunit", Number),
    ("swidth", Number),
    ("swalloc", Nothing),
    ("wsync", Nothing),
    ("quota", Nothing),
    ("noquota", Nothing),
    ("uquota", Nothing),
    ("usrquota", Nothing),
    ("uqnoenforce", Nothing),
    ("gquota", Nothing),
    ("grpquota", Nothing),
    ("gqnoenforce", Nothing),
    ("pquota", Nothing),
    ("prjquota", Nothing),
    ("pqnoenforce", Nothing),
];

const BTRFS_MOUNT: &[(&str, Value)] = &[
    ("compress", MaybeCompression),
    ("compress-force", MaybeCompression),
    ("ssd", Nothing),
    ("nossd", Nothing),
    ("ssd_spread", Nothing),
    ("nossd_spread", Nothing),
    ("autodefrag", Nothing),
    ("noautodefrag", Nothing),
    ("space_cache", OneOf(&["v2"])),
    ("discard", MaybeOneOf(&["sync", "async"])),
    ("nodiscard", Nothing),
    ("commit", Number),
    ("max_inline", Number),
    ("metadata_ratio", Number),
    ("thread_pool", Number),
    ("datacow", Nothing),
    ("nodatacow", Nothing),
    ("datasum", Nothing),
    ("nodatasum", Nothing),
    ("treelog", Nothing),
    ("notreelog", Nothing),
    ("flushoncommit", Nothing),
    ("noflushoncommit", Nothing),
    ("barrier", Nothing),
    ("acl", Nothing),
    ("noacl", Nothing),
    ("user_subvol_rm_allowed", Nothing),
];

/// The mount options of one filesystem, beside [`MOUNT_ANY`].
pub(crate) fn mount(kind: Filesystem) -> &'static [(&'static str, Value)] {
    match kind {
        Filesystem::Ext4 => EXT4_MOUNT,
        Filesystem::Xfs => XFS_MOUNT,
        Filesystem::Btrfs => BTRFS_MOUNT,
    }
}
