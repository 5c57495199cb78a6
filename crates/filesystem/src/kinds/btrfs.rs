//! Btrfs.

use quarry_volume::MakeOptions;

use super::{Kind, Superblock, always_complete, feature, no_hidden_trouble, uuid_at};

pub(super) const KIND: Kind = Kind {
    mkfs: "mkfs.btrfs",
    tools: &["mkfs.btrfs"],
    package: "btrfs-progs",
    // mkfs.btrfs requires 109 MiB (114,294,784 bytes), which leaves almost no space for files. Measured on a
    // loop device with btrfs-progs 6.2.
    minimum_size: 128 << 20,
    // Every kernel that Kubernetes runs on supports the features that were turned on earlier (no-holes,
    // free-space-tree).
    features: &[feature((6, 1), (6, 3), "-O", "^block-group-tree")],
    prepare,
    superblock_at: 64 << 10,
    superblock,
    // The same as for ext4.
    check_before_adoption: always_complete,
    hidden_trouble: no_hidden_trouble,
    #[cfg(test)]
    expected: tests::EXPECTED,
};

/// With a given UUID, mkfs.btrfs first checks every block device of the host for the same UUID, so any
/// hanging disk on the host blocks it.
fn prepare(uuid: &str, options: &mut MakeOptions) -> Vec<String> {
    options.add_switch("-K");
    vec!["-U".to_owned(), uuid.to_owned()]
}

fn superblock(bytes: &[u8]) -> Option<Superblock> {
    (bytes.get(0x40..0x48)? == b"_BHRfS_M").then_some(())?;
    Some(Superblock { uuid: uuid_at(bytes, 0x20)?, in_progress: false })
}

#[cfg(test)]
mod tests {
    use crate::kinds::SUPERBLOCK_LENGTH as LENGTH;
    use crate::kinds::tests::Expected;

    pub(super) const EXPECTED: Expected =
        Expected { superblock: sample, arguments: &[("--csum=xxhash", "-q -U UUID --csum xxhash -K")] };

    fn sample(uuid: [u8; 16]) -> Vec<u8> {
        let mut bytes = vec![0; LENGTH];
        bytes[0x20..0x30].copy_from_slice(&uuid);
        bytes[0x40..0x48].copy_from_slice(b"_BHRfS_M");
        bytes
    }
}
