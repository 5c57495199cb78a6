//! Finds out what a device contains. Any doubt counts as "not blank".

use std::fs::File;
use std::io;
use std::path::Path;

use quarry_block::AlignedBuffer;
use quarry_exec::Command;
use quarry_volume::Filesystem;

use crate::thread::blocking;
use crate::{Error, kinds, signature_places};

/// The contents of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// No signature: the device was readable, and either all bytes are zero where signatures can be, or no prober of
    /// libblkid found anything.
    Blank,
    /// A filesystem that Quarry can make.
    Filesystem {
        /// Its type.
        kind: Filesystem,
        /// Its UUID, in lower case.
        uuid: String,
        /// Its label.
        label: Option<String>,
        /// Its mkfs did not finish. Only a filesystem whose mkfs writes the signature first shows this (xfs).
        /// The others write it last (seen by killing mkfs before each of its writes).
        in_progress: bool,
    },
    /// Anything else.
    Other {
        /// A description, such as "an LVM physical volume".
        what: String,
    },
    /// More than one signature, so the contents are ambiguous.
    Ambivalent {
        /// A description of what is known.
        what: String,
    },
}

impl Probe {
    /// A description that fits after "contains".
    #[must_use]
    pub fn description(&self) -> String {
        match self {
            Self::Blank => "nothing".to_owned(),
            Self::Filesystem { kind, uuid, in_progress: false, .. } => {
                format!("{} filesystem with UUID {uuid}", kind.with_article())
            }
            Self::Filesystem { kind, uuid, .. } => format!("an unfinished {kind} filesystem with UUID {uuid}"),
            Self::Other { what } | Self::Ambivalent { what } => what.clone(),
        }
    }
}

/// Finds out what a device contains: a filesystem, a partition table, or a member of LVM, md and the like.
///
/// # Errors
/// The device cannot be opened or read, or blkid cannot be run or fails. Then the contents are unknown, and
/// nothing may be written.
pub async fn probe(device: &Path) -> Result<Probe, Error> {
    // blkid also reports "nothing found" for a device that it cannot read, so read the device first.
    let unfinished = match blocking(device, read_ends).await? {
        // A new logical volume, whose signatures were wiped: blkid would find nothing.
        Ends::Zero => return Ok(Probe::Blank),
        Ends::Other(unfinished) => unfinished,
    };
    // -p reads the device itself: no cache, no udev database.
    let output = Command::query("blkid")
        .args(["-p", "-o", "export"])
        .arg(device)
        .on(device.display().to_string())
        .run()
        .await
        .map_err(|source| Error::Command { attempted: "probe", device: device.to_owned(), source })?;
    let found = match output.code {
        0 => parse_export(&output.stdout),
        2 => Probe::Blank,
        8 => Probe::Ambivalent { what: "signatures of more than one thing (blkid calls it ambivalent)".to_owned() },
        _ => {
            let failed = |source| Error::Command { attempted: "probe", device: device.to_owned(), source };
            output.require_success().map_err(failed)?;
            Probe::Other { what: "something that blkid failed on".to_owned() }
        }
    };
    Ok(match (found, unfinished) {
        (Probe::Filesystem { kind, uuid, label, .. }, Some((unfinished, _))) if kind == unfinished => {
            Probe::Filesystem { kind, uuid, label, in_progress: true }
        }
        // This libblkid does not recognize an unfinished filesystem.
        (Probe::Blank, Some((kind, uuid))) => Probe::Filesystem { kind, uuid, label: None, in_progress: true },
        (found, _) => found,
    })
}

/// How much of each end must be readable for a device to count as blank.
const MUST_READ: usize = 1 << 20;

/// What is at the ends of a device, and at the other places of signatures.
#[derive(Debug, PartialEq, Eq)]
enum Ends {
    /// All bytes are zero where a signature can be.
    Zero,
    /// Something else. With the type and UUID of a filesystem whose superblock says that mkfs has not finished.
    Other(Option<(Filesystem, String)>),
}

/// Reads both ends of the device, where signatures are, and if they are zero, all other places of signatures. It reads
/// past the page cache: that is faster for what is not read again.
fn read_ends(device: &Path) -> Result<Ends, Error> {
    let read = |file: &File| match quarry_block::size(file)? {
        0 => Ok(None),
        size => ends_of(file, size).map(Some),
    };
    let ends = quarry_block::read_direct(device, read).map_err(|source| Error::io("read", device, source))?;
    ends.ok_or_else(|| Error::NoSize { device: device.to_owned() })
}

fn ends_of(file: &File, size: u64) -> io::Result<Ends> {
    let length = usize::try_from(size).unwrap_or(usize::MAX).min(MUST_READ);
    let mut buffer = AlignedBuffer::new(length);
    let end = size - length as u64;
    let zero = is_zero(buffer.read(file, end, length)?);
    let start = buffer.read(file, 0, length)?;
    if !zero || !is_zero(start) {
        return Ok(Ends::Other(unfinished(start)));
    }
    for place in signature_places(size) {
        // The rest of what was read above.
        let mut offset = place.start.max(length as u64);
        let place_end = if place.end == size { end } else { place.end };
        while offset < place_end {
            let length = usize::try_from(place_end - offset).unwrap_or(usize::MAX).min(length);
            if !is_zero(buffer.read(file, offset, length)?) {
                return Ok(Ends::Other(None));
            }
            offset += length as u64;
        }
    }
    Ok(Ends::Zero)
}

fn is_zero(bytes: &[u8]) -> bool {
    // The comparison of slices is much faster than a loop over bytes.
    const ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|chunk| ZEROS.get(..chunk.len()) == Some(chunk))
}

fn unfinished(start: &[u8]) -> Option<(Filesystem, String)> {
    Filesystem::ALL.into_iter().find_map(|kind| {
        let of = kinds::of(kind);
        let superblock = (of.superblock)(start.get(usize::try_from(of.superblock_at).ok()?..)?)?;
        superblock.in_progress.then_some((kind, superblock.uuid))
    })
}

/// Reads blkid's `KEY=value` lines.
fn parse_export(stdout: &[u8]) -> Probe {
    let text = String::from_utf8_lossy(stdout);
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    match (value("TYPE"), value("PTTYPE")) {
        (Some(kind), Some(table)) => Probe::Ambivalent {
            what: format!("both {} and {}", signature(kind, value("USAGE")), partition_table(table)),
        },
        (None, Some(table)) => Probe::Other { what: partition_table(table) },
        (Some(kind), None) => match (kind.parse(), value("UUID")) {
            (Ok(kind), Some(uuid)) => Probe::Filesystem {
                kind,
                uuid: uuid.to_lowercase(),
                label: value("LABEL").map(str::to_owned),
                in_progress: false,
            },
            _ => Probe::Other { what: signature(kind, value("USAGE")) },
        },
        // Facts about the device itself (its name, its partition) are not about its contents.
        (None, None) if text.lines().all(describes_the_device) => Probe::Blank,
        (None, None) => Probe::Other { what: "something that blkid knows but cannot name".to_owned() },
    }
}

fn describes_the_device(line: &str) -> bool {
    line.is_empty() || ["DEVNAME=", "PART_ENTRY_"].iter().any(|prefix| line.starts_with(prefix))
}

fn partition_table(kind: &str) -> String {
    match kind {
        "gpt" => "a GPT partition table".to_owned(),
        "dos" => "a DOS partition table".to_owned(),
        "PMBR" => "a protective MBR".to_owned(),
        other => format!("a partition table of type {other:?}"),
    }
}

fn signature(kind: &str, usage: Option<&str>) -> String {
    match (kind, usage) {
        ("LVM2_member" | "LVM1_member", _) => "an LVM physical volume".to_owned(),
        ("linux_raid_member", _) => "a member of an md array".to_owned(),
        ("crypto_LUKS", _) => "a LUKS container".to_owned(),
        ("zfs_member", _) => "a member of a ZFS pool".to_owned(),
        ("swap", _) => "swap space".to_owned(),
        (kind, Some("filesystem")) => format!("a filesystem of type {kind:?}"),
        (kind, Some("raid")) => format!("a member of an array of type {kind:?}"),
        (kind, _) => format!("a signature of type {kind:?}"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn a_filesystem_that_quarry_makes_is_recognized() {
        let text = b"DEVNAME=/dev/loop0\nLABEL=a b\nUUID=0D17B9C6-2D5C-4E7C-8A70-2CBE3BD95DD8\nVERSION=1.0\nBLOCK_SIZE=4096\nUSAGE=filesystem\nTYPE=ext4\n";
        assert_eq!(
            parse_export(text),
            Probe::Filesystem {
                kind: Filesystem::Ext4,
                uuid: "0d17b9c6-2d5c-4e7c-8a70-2cbe3bd95dd8".into(),
                label: Some("a b".into()),
                in_progress: false
            }
        );
    }

    #[test]
    fn nothing_else_is_taken_for_such_a_filesystem_or_for_blank() {
        for (text, words) in [
            ("DEVNAME=/dev/x\nUUID=abc\nUSAGE=raid\nTYPE=LVM2_member\n", "an LVM physical volume"),
            ("DEVNAME=/dev/x\nPTUUID=abc\nPTTYPE=gpt\n", "a GPT partition table"),
            ("UUID=abc\nUSAGE=filesystem\nTYPE=ntfs\n", "a filesystem of type \"ntfs\""),
            ("USAGE=crypto\nTYPE=crypto_LUKS\n", "a LUKS container"),
            ("USAGE=filesystem\nTYPE=ext4\n", "a filesystem of type \"ext4\""),
            ("UUID=abc\n", "something that blkid knows but cannot name"),
        ] {
            assert_eq!(parse_export(text.as_bytes()), Probe::Other { what: words.to_owned() }, "{text:?}");
        }
        let both = parse_export(b"TYPE=ext4\nUSAGE=filesystem\nUUID=a\nPTTYPE=dos\n");
        assert!(matches!(both, Probe::Ambivalent { .. }), "{both:?}");
    }

    #[test]
    fn a_device_with_only_facts_about_itself_is_blank() {
        assert_eq!(parse_export(b"DEVNAME=/dev/sda1\nPART_ENTRY_SCHEME=gpt\nPART_ENTRY_SIZE=5\n"), Probe::Blank);
    }

    #[test]
    fn a_byte_at_any_place_of_a_signature_makes_a_device_not_zero() {
        let ends = |size: u64, at: Option<u64>| {
            let file = tempfile::tempfile().unwrap();
            file.set_len(size).unwrap();
            if let Some(at) = at {
                file.write_all_at(&[1], at).unwrap();
            }
            ends_of(&file, size).unwrap()
        };
        let size = (64 << 20) + (32 << 10);
        assert_eq!(ends(size, None), Ends::Zero);
        for at in [
            0,
            1,
            510,
            1 << 20,
            (4 << 20) - 1,
            (4 << 20) + 6,
            64 << 20,
            size - 1,
            size - (4 << 20),
            size - (1 << 20) - 1,
        ] {
            assert_eq!(ends(size, Some(at)), Ends::Other(None), "at {at}");
        }
        assert_eq!(ends(size, Some(10 << 20)), Ends::Zero, "no signature can be there");
        // A device that is smaller than what is read of each end.
        assert_eq!(ends(100_000, None), Ends::Zero);
        assert_eq!(ends(100_000, Some(99_999)), Ends::Other(None));
    }

    #[test]
    fn an_unfinished_xfs_is_recognized_by_its_superblock() {
        let mut start = kinds::tests::sample(Filesystem::Xfs, [0x11; 16]);
        assert_eq!(unfinished(&start), None);
        start[126] = 1;
        let uuid = "11111111-1111-1111-1111-111111111111".to_owned();
        assert_eq!(unfinished(&start), Some((Filesystem::Xfs, uuid)));
        start[0] = b'x';
        assert_eq!(unfinished(&start), None);
        assert_eq!(unfinished(b"XFSB"), None);
    }
}
