//! The options that a StorageClass may set for btrfs.

use super::Flag;
use super::Takes::{Features, One};
use crate::options::value::Value::{self, MaybeCompression, MaybeOneOf, Nothing, Number, OneOf};

const FEATURES: &[&str] =
    &["mixed-bg", "extref", "skinny-metadata", "no-holes", "free-space-tree", "block-group-tree", "quota"];

pub(super) const FLAGS: &[Flag] = &[
    Flag { name: "-K", takes: One(Nothing) },
    Flag { name: "-M", takes: One(Nothing) },
    Flag { name: "-L", takes: One(Value::Label(255)) },
    Flag { name: "-n", takes: One(Number) },
    Flag { name: "-s", takes: One(Number) },
    Flag { name: "-d", takes: One(OneOf(&["single", "dup"])) },
    Flag { name: "-m", takes: One(OneOf(&["single", "dup"])) },
    Flag { name: "-O", takes: Features(FEATURES) },
    Flag { name: "-R", takes: Features(&["free-space-tree", "quota"]) },
    Flag { name: "--csum", takes: One(OneOf(&["crc32c", "xxhash", "sha256", "blake2"])) },
];

pub(super) const MOUNT: &[(&str, Value)] = &[
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
