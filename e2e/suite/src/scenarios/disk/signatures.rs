//! What makes a disk foreign: signatures, written by the tools that own them; if the guest lacks the tool,
//! their bytes at the documented offsets.

/// A signature.
pub struct Signature {
    /// What it is.
    pub what: &'static str,
    pub make: Make,
    /// What Quarry says of a disk that carries it.
    pub words: &'static [&'static str],
}

/// Bytes, and where on the disk they go.
type Pieces = Vec<(u64, Vec<u8>)>;

/// How a disk gets one.
pub enum Make {
    /// By a script, from the disk's path and the bytes in its sectors.
    Tool(fn(&str, u64) -> String),
    /// By these bytes at these places, from the disk's size and the bytes in its sectors.
    Bytes(fn(u64, u64) -> Pieces),
}

use Make::{Bytes, Tool};

/// All of them, for each size of sectors.
pub const ALL: &[Signature] = &[
    Signature {
        what: "ext4",
        make: Tool(|disk, _| format!("mkfs.ext4 -q -F -L data {disk}")),
        words: &["has an ext4 filesystem, label data"],
    },
    Signature { what: "xfs", make: Tool(xfs), words: &["has an xfs filesystem"] },
    Signature {
        what: "an xfs whose mkfs was interrupted",
        make: Tool(|disk, sector| {
            format!("{}; printf '\\1' | dd of={disk} bs=1 seek=126 conv=notrunc", xfs(disk, sector))
        }),
        words: &["has an unfinished xfs filesystem"],
    },
    Signature {
        what: "btrfs",
        make: Tool(|disk, _| format!("mkfs.btrfs -q -f --mixed {disk}")),
        words: &["has a btrfs filesystem"],
    },
    Signature { what: "FAT", make: Tool(|disk, _| format!("mkfs.vfat -I {disk}")), words: &["vfat"] },
    Signature {
        what: "an LVM physical volume",
        make: Tool(|disk, _| format!("pvcreate -qq -y {disk}")),
        words: &["holds an LVM physical volume"],
    },
    Signature {
        what: "LUKS",
        make: Tool(|disk, _| {
            format!(
                "printf secret | cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 {disk} -"
            )
        }),
        words: &["holds a LUKS container"],
    },
    Signature { what: "swap", make: Tool(|disk, _| format!("mkswap -q {disk}")), words: &["holds swap space"] },
    Signature {
        what: "ZFS",
        make: Bytes(|size, _| zfs(&[0, 1, 2, 3], size)),
        words: &["holds a member of a ZFS pool"],
    },
    Signature {
        what: "ZFS, only its labels at the end",
        make: Bytes(|size, _| zfs(&[2, 3], size)),
        words: &["holds a member of a ZFS pool"],
    },
    Signature { what: "bcache", make: Bytes(|_, _| vec![(4096, bcache())]), words: &["bcache"] },
    Signature {
        what: "md, superblock 1.2",
        make: Bytes(|_, _| vec![(4096, md_1(4096))]),
        words: &["holds a member of an md array"],
    },
    Signature {
        what: "md, superblock 1.1",
        make: Bytes(|_, _| vec![(0, md_1(0))]),
        words: &["holds a member of an md array"],
    },
    Signature {
        what: "md, superblock 1.0, at the end",
        make: Bytes(|size, _| vec![(size - 8192, md_1(size - 8192))]),
        words: &["holds a member of an md array"],
    },
    Signature {
        what: "md, superblock 0.90, at the end",
        make: Bytes(|size, _| vec![(size / 65536 * 65536 - 65536, md_0(size))]),
        words: &["holds a member of an md array"],
    },
    Signature {
        what: "Intel RAID, at the end",
        make: Bytes(|size, sector| vec![(size - 2 * sector, b"Intel Raid ISM Cfg Sig. 1.3.00\0".to_vec())]),
        words: &["isw_raid_member"],
    },
    Signature {
        what: "a GPT with a partition",
        make: Tool(|disk, _| format!("sgdisk -n 1:2048: {disk}")),
        words: &["has partitions", "GPT partition table"],
    },
    Signature {
        what: "a GPT without partitions",
        make: Tool(|disk, _| format!("sgdisk -o {disk}")),
        words: &["holds a GPT partition table"],
    },
    Signature {
        what: "an MBR with a partition",
        make: Bytes(|_, _| vec![(446, mbr(1))]),
        words: &["has partitions", "DOS partition table"],
    },
    Signature {
        what: "an MBR without partitions",
        make: Bytes(|_, _| vec![(440, vec![0x44; 4]), (446, mbr(0))]),
        words: &["DOS partition table"],
    },
    Signature {
        what: "a boot sector and nothing else",
        // An invalid entry, so that libblkid sees no table.
        make: Bytes(|_, _| vec![(446, vec![0x12]), (510, vec![0x55, 0xaa])]),
        words: &["has a boot signature in its first sector"],
    },
    Signature {
        what: "a GPT whose protective MBR is gone",
        make: Tool(|disk, sector| {
            format!("sgdisk -n 1:2048: {disk}; dd if=/dev/zero of={disk} bs={sector} count=1 conv=notrunc")
        }),
        words: &["remnants of a GPT (EFI PART at byte "],
    },
    Signature {
        what: "a GPT of which the backup is left",
        make: Tool(|disk, _| format!("sgdisk -n 1:2048: {disk}; dd if=/dev/zero of={disk} bs=1M count=1 conv=notrunc")),
        words: &["remnants of a GPT (EFI PART at byte "],
    },
    Signature {
        what: "EFI PART in sector 1, written through sectors of the other size",
        make: Bytes(|_, sector| vec![(other(sector), b"EFI PART".to_vec())]),
        words: &["remnants of a GPT (EFI PART at byte "],
    },
    Signature {
        what: "EFI PART in the last sector, written through sectors of the other size",
        make: Bytes(|size, sector| vec![(size - other(sector), b"EFI PART".to_vec())]),
        words: &["remnants of a GPT (EFI PART at byte "],
    },
];

fn other(sector: u64) -> u64 {
    if sector == 512 { 4096 } else { 512 }
}

/// The table of a DOS partition table, from byte 446 on, with this many partitions of 1 MiB in 512-byte
/// sectors.
fn mbr(partitions: usize) -> Vec<u8> {
    let mut table = vec![0; 66];
    for entry in table[..64].chunks_mut(16).take(partitions) {
        // Linux, from sector 2048, 2048 sectors.
        entry[4] = 0x83;
        put(entry, 8, 2048);
        put(entry, 12, 2048);
    }
    table[64..].copy_from_slice(&[0x55, 0xaa]);
    table
}

/// mkfs.xfs takes no disk as small as these: its superblock is another's.
fn xfs(disk: &str, sector: u64) -> String {
    format!(
        "truncate -s 310M /run/xfs; mkfs.xfs -q -f -s size={sector} /run/xfs; dd if=/run/xfs of={disk} bs=64k count=1 \
         conv=notrunc; rm /run/xfs"
    )
}

/// The labels of a ZFS member: each 256 KiB, two at either end; in their second halves uberblocks of 1 KiB.
fn zfs(labels: &[u64], size: u64) -> Pieces {
    const LABEL: u64 = 256 << 10;
    let mut uberblocks = vec![0; 128 << 10];
    for uberblock in uberblocks.chunks_mut(1024) {
        uberblock[..8].copy_from_slice(&0x00ba_b10c_u64.to_le_bytes());
        // The version.
        uberblock[8..16].copy_from_slice(&5000_u64.to_le_bytes());
    }
    let start = |label: u64| if label < 2 { label * LABEL } else { size / LABEL * LABEL - (4 - label) * LABEL };
    labels.iter().map(|label| (start(*label) + (128 << 10), uberblocks.clone())).collect()
}

/// The superblock of a backing device.
fn bcache() -> Vec<u8> {
    const MAGIC: [u8; 16] = *b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81";
    let mut block = vec![0; 208];
    // Its address in sectors of 512 bytes; the version of a backing device; its magic.
    block[8..16].copy_from_slice(&8_u64.to_le_bytes());
    block[16..24].copy_from_slice(&1_u64.to_le_bytes());
    block[24..40].copy_from_slice(&MAGIC);
    block[40..56].fill(0x11);
    let sum = bcache_sum(&block[8..]);
    block[..8].copy_from_slice(&sum.to_le_bytes());
    block
}

/// bcache's checksum: CRC-64 with the polynomial of ECMA-182, most significant bit first, initial and final
/// value all ones.
fn bcache_sum(bytes: &[u8]) -> u64 {
    let step = |sum: u64| if sum >> 63 == 1 { sum << 1 ^ 0x42f0_e1eb_a9ea_3693 } else { sum << 1 };
    !bytes.iter().fold(u64::MAX, |sum, byte| (0..8).fold(sum ^ u64::from(*byte) << 56, |sum, _| step(sum)))
}

/// A superblock of md, version 1, at this byte.
pub fn md_1(at: u64) -> Vec<u8> {
    let mut block = vec![0; 256 + 2 * 2];
    put(&mut block, 0, 0xa92b_4efc);
    put(&mut block, 4, 1);
    block[16..32].fill(0x22);
    block[32..36].copy_from_slice(b"name");
    // Level 1 of two disks, 8 MiB of each.
    put(&mut block, 72, 1);
    put(&mut block, 80, 16384);
    put(&mut block, 92, 2);
    put(&mut block, 136, 16384);
    block[144..152].copy_from_slice(&(at / 512).to_le_bytes());
    put(&mut block, 220, 2);
    let sum = folded(&block);
    put(&mut block, 216, sum);
    block
}

/// A superblock of md, version 0.90.
fn md_0(size: u64) -> Vec<u8> {
    let mut block = vec![0; 4096];
    put(&mut block, 0, 0xa92b_4efc);
    put(&mut block, 8, 90);
    put(&mut block, 20, 0x3333_3333);
    // Level 1, as many KiB as there are, two disks.
    put(&mut block, 28, 1);
    put(&mut block, 32, u32::try_from((size / 65536 * 65536 - 65536) / 1024).expect("a small disk"));
    put(&mut block, 36, 2);
    put(&mut block, 40, 2);
    for word in [52, 56, 60] {
        put(&mut block, word, 0x3333_3333);
    }
    let sum = folded(&block);
    put(&mut block, 152, sum);
    block
}

fn put(block: &mut [u8], at: usize, word: u32) {
    block[at..at + 4].copy_from_slice(&word.to_le_bytes());
}

/// md's checksum: the sum of all words, its carry added to it.
fn folded(block: &[u8]) -> u32 {
    let words = block.chunks_exact(4).map(|word| u64::from(u32::from_le_bytes([word[0], word[1], word[2], word[3]])));
    let sum: u64 = words.sum();
    let (low, carry) = (sum & 0xffff_ffff, sum >> 32);
    u32::try_from((low + carry) & 0xffff_ffff).expect("32 bits")
}
