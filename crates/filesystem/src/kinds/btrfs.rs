//! Btrfs.

use quarry_volume::MakeOptions;

use super::{Kind, is_whole, shows_all, uuid_at};
use crate::Superblock;
use crate::features::feature;

pub(super) const KIND: Kind = Kind {
    mkfs: "mkfs.btrfs",
    tools: &["mkfs.btrfs"],
    package: "btrfs-progs",
    // mkfs.btrfs refuses less than 109 MiB (114,294,784 bytes), of which next to nothing is left for files. Measured on a loop
    // device with btrfs-progs 6.2.
    minimum_size: 128 << 20,
    // What it turned on before this (no-holes, free-space-tree) every kernel knows that Kubernetes runs on.
    features: &[feature((6, 1), (6, 3), "-O", "^block-group-tree")],
    prepare,
    superblock_at: 64 << 10,
    superblock,
    // As ext4's.
    check_before_adoption: is_whole,
    hidden_trouble: shows_all,
};

/// Told a UUID, mkfs.btrfs first looks at every block device of the host for one that has it already: a disk that hangs
/// anywhere on the host holds it up.
fn prepare(uuid: &str, options: &mut MakeOptions) -> Vec<String> {
    options.add_switch("-K");
    vec!["-U".to_owned(), uuid.to_owned()]
}

fn superblock(bytes: &[u8]) -> Option<Superblock> {
    (bytes.get(0x40..0x48)? == b"_BHRfS_M").then_some(())?;
    Some(Superblock { uuid: uuid_at(bytes, 0x20)?, in_progress: false })
}

#[cfg(test)]
pub(super) mod tests {
    use crate::superblock::LENGTH;

    pub(in crate::kinds) fn sample(uuid: [u8; 16]) -> Vec<u8> {
        let mut bytes = vec![0; LENGTH];
        bytes[0x20..0x30].copy_from_slice(&uuid);
        bytes[0x40..0x48].copy_from_slice(b"_BHRfS_M");
        bytes
    }
}
