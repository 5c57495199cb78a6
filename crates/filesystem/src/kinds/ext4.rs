//! ext4.

use std::path::Path;

use quarry_volume::MakeOptions;

use super::{Kind, Superblock, always_complete, feature, uuid_at};
use crate::trouble::{Mounted, Trouble, try_write};

pub(super) const KIND: Kind = Kind {
    mkfs: "mkfs.ext4",
    tools: &["mkfs.ext4"],
    package: "e2fsprogs",
    // mkfs.ext4 accepts 128 KiB, but below 2 MiB the filesystem has no journal and is not safe against a
    // power cut. This size leaves space for the journal and files. Measured on a loop device with e2fsprogs
    // 1.47.0.
    minimum_size: 16 << 20,
    features: &[feature((4, 4), (1, 43), "-O", "^metadata_csum_seed"), feature((5, 15), (1, 47), "-O", "^orphan_file")],
    prepare,
    superblock_at: 1024,
    superblock,
    // mkfs writes the signature separately, with a flush before and after it (seen with strace, and by
    // killing mkfs before each write).
    check_before_adoption: always_complete,
    hidden_trouble,
    #[cfg(test)]
    expected: tests::EXPECTED,
};

/// lazy_itable_init keeps mke2fs's default: the kernel zeroes the inode tables after the first mount, and
/// until then group checksums prevent it from reading them. The journal is zeroed immediately (mke2fs's
/// default): otherwise, data of previous owners could be taken for transactions.
///
/// metadata_csum_seed keeps the seed of the checksums in the superblock. Without it, the seed is the UUID, and a
/// new UUID for a copy of the filesystem means that all its metadata is written again. mke2fs.conf of Debian 12
/// does not turn it on (e2fsprogs 1.47.0). It needs metadata_csum, so mkfs gets both, whatever the host's
/// mke2fs.conf says. e2fsprogs knows both since 1.43.
fn prepare(uuid: &str, options: &mut MakeOptions) -> Vec<String> {
    if !options.mentions("-E", "discard") {
        options.add_default("-E", "nodiscard");
    }
    if !options.turns_off("-O", "metadata_csum") && !options.turns_off("-O", "metadata_csum_seed") {
        options.add_default("-O", "metadata_csum");
        options.add_default("-O", "metadata_csum_seed");
    }
    vec!["-U".to_owned(), uuid.to_owned()]
}

fn superblock(bytes: &[u8]) -> Option<Superblock> {
    let magic = bytes.get(0x38..0x3a)? == [0x53, 0xef];
    (magic && is_ext4(bytes)?).then_some(())?;
    Some(Superblock { uuid: uuid_at(bytes, 0x68)?, in_progress: false })
}

/// Distinguishes ext4 from ext2 and ext3, which have the same superblock: only ext4 has features that ext3
/// does not know. An external journal device does not count as any of them.
fn is_ext4(bytes: &[u8]) -> Option<bool> {
    const INCOMPAT_OF_EXT3: u32 = 0x02 | 0x04 | 0x10;
    const RO_COMPAT_OF_EXT3: u32 = 0x01 | 0x02 | 0x04;
    const JOURNAL_DEVICE: u32 = 0x08;
    let word = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let (incompat, ro_compat) = (word(0x60)?, word(0x64)?);
    Some(incompat & JOURNAL_DEVICE == 0 && (incompat & !INCOMPAT_OF_EXT3 != 0 || ro_compat & !RO_COMPAT_OF_EXT3 != 0))
}

/// Some kernels (6.1, 6.12) do not show that an ext4 rejects writes, and syncing its root directory succeeds.
/// The error count stays after the error is fixed, so it only shows that a write should be tried.
fn hidden_trouble(mounted: &Mounted<'_>, sysfs: &Path) -> Option<Trouble> {
    let errors = sysfs.join(mounted.device?).join("errors_count");
    if std::fs::read_to_string(errors).is_ok_and(|count| count.trim() == "0") {
        return None;
    }
    try_write(mounted.path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::SUPERBLOCK_LENGTH as LENGTH;
    use crate::kinds::tests::Expected;

    pub(super) const EXPECTED: Expected = Expected {
        superblock: |uuid| ext(0x2c2, 0x46b, uuid),
        arguments: &[
            ("", "-q -U UUID -E nodiscard -O metadata_csum,metadata_csum_seed"),
            ("-E stride=16 -m0", "-q -U UUID -E stride=16,nodiscard -m 0 -O metadata_csum,metadata_csum_seed"),
            ("-E discard", "-q -U UUID -E discard -O metadata_csum,metadata_csum_seed"),
            ("-E nodiscard", "-q -U UUID -E nodiscard -O metadata_csum,metadata_csum_seed"),
        ],
    };

    fn ext(incompat: u32, ro_compat: u32, uuid: [u8; 16]) -> Vec<u8> {
        let mut bytes = vec![0; LENGTH];
        bytes[0x38..0x3a].copy_from_slice(&[0x53, 0xef]);
        bytes[0x60..0x64].copy_from_slice(&incompat.to_le_bytes());
        bytes[0x64..0x68].copy_from_slice(&ro_compat.to_le_bytes());
        bytes[0x68..0x78].copy_from_slice(&uuid);
        bytes
    }

    #[test]
    fn an_ext4_is_recognized_with_and_without_a_checksum_seed() {
        const METADATA_CSUM_SEED: u32 = 0x2000;
        for incompat in [0x2c2, 0x2c2 | METADATA_CSUM_SEED] {
            assert!(superblock(&ext(incompat, 0x46b, [0x11; 16])).is_some(), "{incompat:x}");
        }
    }

    #[test]
    fn ext2_ext3_and_an_external_journal_are_not_ext4() {
        let found = |incompat, ro_compat| superblock(&ext(incompat, ro_compat, [0x11; 16]));
        assert_eq!(found(0x02, 0x03), None, "ext2 and ext3");
        assert_eq!(found(0x06, 0x07), None, "ext3 with a journal to replay");
        assert_eq!(found(0x48, 0x400), None, "a journal device");
        assert!(found(0x42, 0x03).is_some(), "extents");
        assert!(found(0x02, 0x403).is_some(), "metadata checksums");
    }
}
