//! ext4.

use std::path::Path;

use quarry_volume::{Filesystem, MakeOptions};

use super::{Kind, Superblock, always_complete, feature, grow_by, read_bytes, u16_at, u32_at, unexpected, uuid_at};
use crate::trouble::{Mounted, Trouble, try_write};
use crate::{Coverage, Error, Obstacle};

#[allow(unsafe_code, missing_docs)]
mod ioctl {
    // EXT4_IOC_RESIZE_FS, since Linux 3.3, with the new number of blocks.
    nix::ioctl_write_ptr!(resize, b'f', 16, u64);
}

pub(super) const KIND: Kind = Kind {
    mkfs: "mkfs.ext4",
    tools: &["mkfs.ext4", "tune2fs", "e2fsck"],
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
    coverage,
    grow,
    limit_of_growth,
    new_uuid: crate::new_uuid::EXT4,
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
    let (incompat, ro_compat) = (u32_at(bytes, 0x60)?, u32_at(bytes, 0x64)?);
    Some(incompat & JOURNAL_DEVICE == 0 && (incompat & !INCOMPAT_OF_EXT3 != 0 || ro_compat & !RO_COMPAT_OF_EXT3 != 0))
}

fn coverage(device: &Path, _: &Path, size: u64) -> Result<Coverage, Error> {
    const ATTEMPTED: &str = "read the size of the ext4 on";
    let superblock = read_bytes(Filesystem::Ext4, device)?;
    // Since Linux 3.7.
    let converts = Path::new("/sys/fs/ext4/features/meta_bg_resize").exists();
    superblock.and_then(|bytes| covers(&bytes, size, converts)).ok_or_else(|| unexpected(ATTEMPTED, device))
}

fn limit_of_growth(options: &MakeOptions) -> Option<&'static str> {
    if options.mentions("-O", "sparse_super2") && !options.turns_off("-O", "sparse_super2") {
        Some("with sparse_super2, the kernel does not grow it")
    } else if options.turns_off("-O", "64bit") {
        Some("with ^64bit, it cannot become larger than 16 TiB, or 4 TiB with blocks of 1 KiB")
    } else {
        None
    }
}

fn block_size(superblock: &[u8]) -> Option<u64> {
    let log = u32_at(superblock, 0x18)?;
    1024_u64.checked_shl(log).filter(|_| log <= 6)
}

#[allow(unsafe_code)]
fn grow(device: &Path, mounted: &Path, possible: u64) -> Result<(), Error> {
    let superblock = read_bytes(Filesystem::Ext4, device)?;
    let block = superblock.as_ref().and_then(|bytes| block_size(bytes));
    let block = block.ok_or_else(|| unexpected("read the block size of the ext4 on", device))?;
    let blocks = possible / block;
    // SAFETY: the kernel reads the number, and the descriptor is open during the call.
    grow_by("grow the ext4 filesystem that is mounted at", mounted, |directory| unsafe {
        ioctl::resize(directory, &raw const blocks)
    })
}

/// The size of the largest page of memory that any kernel has, in bytes. Like resize2fs, Quarry grows in whole pages.
const LARGEST_PAGE: u64 = 64 << 10;

/// Compares a superblock with the size of its device. `converts`: whether the kernel can store the descriptors of new
/// groups in the groups themselves, if no blocks are reserved for them.
fn covers(bytes: &[u8], device: u64, converts: bool) -> Option<Coverage> {
    const HAS_ERRORS: u16 = 0x02;
    const RESIZE_INODE: u32 = 0x10;
    const SPARSE_SUPER2: u32 = 0x200;
    const META_BG: u32 = 0x10;
    const WITH_64BIT: u32 = 0x80;
    const BIGALLOC: u32 = 0x200;

    superblock(bytes)?;
    let number = |at: usize| Some(u64::from(u32_at(bytes, at)?));
    let (compat, incompat, ro_compat) = (u32_at(bytes, 0x5c)?, u32_at(bytes, 0x60)?, u32_at(bytes, 0x64)?);
    let with_64bit = incompat & WITH_64BIT != 0;
    let (log_block, log_cluster) = (u32_at(bytes, 0x18)?, u32_at(bytes, 0x1c)?);
    let block = block_size(bytes)?;
    let cluster = match ro_compat & BIGALLOC {
        0 => 1,
        _ => 1_u64.checked_shl(log_cluster.checked_sub(log_block)?)?,
    };
    let (first, group) = (number(0x14)?, number(0x20)?);
    let blocks = number(4)? | if with_64bit { number(0x150)? << 32 } else { 0 };
    let descriptor = if with_64bit { u64::from(u16_at(bytes, 0xfe)?) } else { 32 };
    let descriptors = |blocks: u64| {
        let groups = blocks.saturating_sub(first).checked_next_multiple_of(group)?.checked_div(group)?;
        Some(groups.div_ceil(block.checked_div(descriptor)?.max(1)))
    };
    let reserved = u64::from(u16_at(bytes, 0xce)?);

    // Both the kernel and resize2fs leave out a last group that has no room for its own tables, with different
    // margins. This is at least as much as either of them requires of any group.
    let tables = (number(0x28)? * u64::from(u16_at(bytes, 0x58)?)).div_ceil(block);
    let unit = (LARGEST_PAGE / block).max(cluster).max(1);
    let possible = device / block;
    let possible = possible - possible % unit;
    let last = possible.saturating_sub(first).checked_rem(group)?;
    let needed = 3 + tables + descriptors(possible)? + reserved + cluster.max(50);
    let possible = if last <= needed { possible - last } else { possible };

    let bytes_of = |blocks: u64| blocks.saturating_mul(block);
    let most = u64::from(u32::MAX);
    let obstacle = if u16_at(bytes, 0x3a)? & HAS_ERRORS != 0 {
        Some(Obstacle::Errors)
    } else if compat & SPARSE_SUPER2 != 0 {
        Some(Obstacle::Feature("sparse_super2"))
    } else if !with_64bit && possible > most + 1 {
        Some(Obstacle::Without64Bit { largest: bytes_of(most) })
    } else if converts || incompat & META_BG != 0 {
        None
    } else if compat & RESIZE_INODE == 0 {
        Some(Obstacle::Descriptors { largest: bytes_of(blocks) })
    } else {
        let most = descriptors(blocks)? + reserved;
        let largest = (most * (block / descriptor)).saturating_mul(group);
        (descriptors(possible)? > most).then(|| Obstacle::Descriptors { largest: bytes_of(largest) })
    };
    // Without 64bit, resize2fs leaves out the last block of 2^32.
    let possible = if with_64bit { possible } else { possible.min(most) };
    Some(Coverage::new(device, bytes_of(blocks), bytes_of(possible), obstacle))
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

    const GIB: u64 = 1 << 30;

    /// Of 1 GiB, with 128 MiB in a group; made with e2fsprogs 1.47.0.
    fn recorded() -> [u8; LENGTH] {
        *include_bytes!("samples/ext4.superblock")
    }

    fn on(bytes: &[u8], device: u64) -> Coverage {
        covers(bytes, device, true).unwrap()
    }

    #[test]
    fn an_ext4_is_compared_with_its_device() {
        let bytes = recorded();
        assert_eq!(on(&bytes, GIB), Coverage::new(GIB, GIB, GIB, None));
        // Less than a block, and a last group that has no room for its tables.
        for more in [512, 4096, 1 << 20] {
            assert!(on(&bytes, GIB + more).is_complete(), "{more} bytes more");
        }
        for more in [8 << 20, 128 << 20, GIB, 64 << 40] {
            let size = GIB + more;
            assert_eq!(on(&bytes, size), Coverage::new(size, GIB, size, None), "{more} bytes more");
        }
        assert!(on(&bytes, GIB - 4096).is_complete(), "smaller than the filesystem");
        assert_eq!(on(&bytes, 2 * GIB + (60 << 10)).possible, 2 * GIB, "less than a page");
    }

    #[test]
    fn the_number_of_blocks_has_64_bits() {
        let mut bytes = recorded();
        // 16 TiB more.
        bytes[0x150] = 1;
        assert_eq!(on(&bytes, 32 << 40).filesystem, (16 << 40) + GIB);
        // Without the feature 64bit, the field does not count.
        bytes[0x60] &= !0x80;
        assert_eq!(on(&bytes, 32 << 40).filesystem, GIB);
    }

    #[test]
    fn what_keeps_an_ext4_from_growing_is_in_its_superblock() {
        let changed = |change: fn(&mut [u8])| {
            let mut bytes = recorded();
            change(&mut bytes);
            bytes
        };
        let obstacle = |change: fn(&mut [u8]), size: u64| on(&changed(change), size).obstacle;
        assert_eq!(obstacle(|bytes| bytes[0x3a] |= 2, 2 * GIB), Some(Obstacle::Errors));
        assert_eq!(obstacle(|bytes| bytes[0x3a] |= 2, GIB), None, "nothing has to grow");
        assert_eq!(obstacle(|bytes| bytes[0x5d] |= 2, 2 * GIB), Some(Obstacle::Feature("sparse_super2")));
        let without_64bit: fn(&mut [u8]) = |bytes| bytes[0x60] &= !0x80;
        let largest = (16 << 40) - 4096;
        assert_eq!(obstacle(without_64bit, (16 << 40) + (1 << 30)), Some(Obstacle::Without64Bit { largest }));
        let all = on(&changed(without_64bit), 16 << 40);
        assert_eq!((all.possible, all.obstacle), (largest, None));

        // An old kernel needs reserved blocks for the descriptors of new groups: 127 for 64 groups each.
        let obstacle = |change: fn(&mut [u8]), size: u64| covers(&changed(change), size, false).unwrap().obstacle;
        assert_eq!(obstacle(|_| {}, 1 << 40), None);
        assert_eq!(obstacle(|_| {}, (1 << 40) + GIB), Some(Obstacle::Descriptors { largest: 1 << 40 }));
        assert_eq!(obstacle(|bytes| bytes[0x5c] &= !0x10, 2 * GIB), Some(Obstacle::Descriptors { largest: GIB }));
        assert_eq!(obstacle(|bytes| bytes[0x60] |= 0x10, 2 << 40), None, "meta_bg");
    }

    #[test]
    fn options_that_limit_growth_are_recognized() {
        let limit = |text| limit_of_growth(&MakeOptions::parse(Filesystem::Ext4, text).unwrap());
        assert!(limit("-O quota,sparse_super2").unwrap().contains("does not grow"));
        assert!(limit("-O ^64bit").unwrap().contains("16 TiB"));
        for text in ["", "-O 64bit", "-O ^sparse_super2", "-O ^resize_inode", "-m 0"] {
            assert_eq!(limit(text), None, "{text}");
        }
    }

    #[test]
    fn a_damaged_superblock_is_not_compared() {
        // The block size, the magic number, the number of blocks in a group and the size of a descriptor.
        for (at, value) in [(0x18, 200), (0x38, 0), (0x20, 0), (0xfe, 0)] {
            let mut bytes = recorded();
            bytes[at..at + 4].fill(value);
            assert_eq!(covers(&bytes, GIB, true), None, "{at:x}");
        }
        assert_eq!(covers(&recorded()[..0x100], GIB, true), None);
    }
}
