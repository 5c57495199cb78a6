//! The options that a StorageClass may set for btrfs.

use super::Takes::{Features, One};
use super::{Flag, Table};
use crate::options::value::Value::{self, MaybeCompression, MaybeOneOf, Nothing, Number, OneOf};

pub(super) const TABLE: Table = Table {
    mkfs: MKFS,
    mount: MOUNT,
    #[cfg(test)]
    refused: tests::REFUSED,
};

const FEATURES: &[&str] =
    &["mixed-bg", "extref", "skinny-metadata", "no-holes", "free-space-tree", "block-group-tree", "quota"];

const MKFS: &[Flag] = &[
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

const MOUNT: &[(&str, Value)] = &[
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

#[cfg(test)]
mod tests {
    use crate::options::tables::Refused;

    pub(super) const REFUSED: Refused = Refused {
        mkfs: &[
            "-KM",
            "-r /etc",
            "--rootdir /etc",
            "--rootdir=/etc",
            "-b 1g",
            "--byte-count=1g",
            "-d raid0",
            "-d RAID1",
            "-m raid1",
            "--csum",
            "--csum=",
            "--csum md5",
            "--csumsha256",
            "--uuid=x",
            "--device-uuid x",
            "-O raid56",
            "-O zoned",
            "-O list-all",
            "-A 0",
            "--shrink",
            "--subvol x",
            "-Mf",
            "-R x",
        ],
        mount: &[
            "device=/dev/sda",
            "subvol=/x",
            "subvolid=5",
            "degraded",
            "rescue=all",
            "usebackuproot",
            "nobarrier",
            "clear_cache",
            "fatal_errors=panic",
            "skip_balance",
            "space_cache=v1",
            "compress=x",
            "compress=zstd:100",
            "compress=zstd:",
            "thread_pool",
        ],
    };
}
