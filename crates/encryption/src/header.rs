//! Reads what is at the place of a LUKS2 header: docs/on-disk-format-luks2.pdf of cryptsetup.
//!
//! A header has two copies, and each consists of a binary part and a JSON area, with a checksum over both. A copy is
//! written in three steps: the binary part without its checksum, the JSON area, and the binary part with its checksum.
//! luksFormat first writes a header without key slots. So an interrupted luksFormat leaves a header that no key opens,
//! and its UUID shows whose it is.

use std::fs::File;
use std::io;
use std::path::Path;

use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::{Error, METADATA_SIZE};

/// The first bytes of the first and of the second copy.
const MAGIC: [&[u8; 6]; 2] = [b"LUKS\xba\xbe", b"SKUL\xba\xbe"];
/// The size of the binary part.
const BINARY: usize = 4096;
/// The place of the checksum in it.
const CHECKSUM: std::ops::Range<usize> = 448..512;

/// What is at the place of a LUKS2 header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Header {
    /// Neither copy of a header begins there.
    None,
    /// A header that no key opens: its checksums are wrong, or it has no key slots. An interrupted luksFormat leaves it,
    /// and so does luksErase.
    Unfinished {
        /// Its UUID.
        uuid: Uuid,
    },
    /// A complete header with key slots.
    Complete {
        /// Its UUID.
        uuid: Uuid,
    },
    /// A header that cannot be read, or one of LUKS1.
    Other,
}

impl Header {
    /// A description that fits after "contains".
    #[must_use]
    pub fn description(&self) -> String {
        match self {
            Self::None => "no LUKS2 header".to_owned(),
            Self::Unfinished { uuid } => format!("a LUKS2 header with UUID {uuid} that no key opens"),
            Self::Complete { uuid } => format!("a LUKS2 header with UUID {uuid}"),
            Self::Other => "a LUKS header that is damaged or not of version 2".to_owned(),
        }
    }
}

/// The part of the JSON area that matters here.
#[derive(Deserialize)]
struct Json {
    keyslots: serde_json::Map<String, serde_json::Value>,
}

/// What is at one place of a copy.
enum Copy {
    None,
    /// It begins like a copy. The UUID, if it is readable.
    Damaged(Option<Uuid>),
    Valid {
        sequence: u64,
        uuid: Uuid,
        has_key_slots: bool,
    },
}

/// Reads the header of a device, from the device itself and not from the page cache. Blocks.
///
/// # Errors
/// The device cannot be opened or read. Then its contents are unknown.
pub fn read(device: &Path) -> Result<Header, Error> {
    quarry_block::read_direct(device, read_from).map_err(|source| Error::io("read the LUKS2 header of", device, source))
}

fn read_from(file: &File) -> io::Result<Header> {
    Ok(combine([copy(file, 0, MAGIC[0])?, copy(file, METADATA_SIZE, MAGIC[1])?]))
}

/// What the copies say together: the newest valid one counts, as for cryptsetup.
fn combine(copies: [Copy; 2]) -> Header {
    let (mut newest, mut damaged): (Option<(u64, Uuid, bool)>, _) = (None, None);
    for copy in copies {
        match copy {
            Copy::None => {}
            Copy::Damaged(uuid) => damaged = damaged.or(Some(uuid)),
            Copy::Valid { sequence, .. } if newest.as_ref().is_some_and(|(known, ..)| *known >= sequence) => {}
            Copy::Valid { sequence, uuid, has_key_slots } => newest = Some((sequence, uuid, has_key_slots)),
        }
    }
    match (newest, damaged) {
        (Some((_, uuid, true)), _) => Header::Complete { uuid },
        (Some((_, uuid, false)), _) | (None, Some(Some(uuid))) => Header::Unfinished { uuid },
        (None, Some(None)) => Header::Other,
        (None, None) => Header::None,
    }
}

fn copy(file: &File, offset: u64, magic: &[u8]) -> io::Result<Copy> {
    let binary = match quarry_block::read_aligned(file, offset, BINARY) {
        Ok(binary) => binary,
        // The device ends before it.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Copy::None),
        Err(error) => return Err(error),
    };
    if !binary.starts_with(magic) {
        return Ok(Copy::None);
    }
    if binary.get(6..8) != Some(&[0, 2]) {
        return Ok(Copy::Damaged(None));
    }
    let uuid = text(&binary, 168, 40).and_then(|text| Uuid::try_parse(text).ok());
    let size = number(&binary, 8).filter(|size| *size == METADATA_SIZE);
    let (Some(uuid), Some(size)) = (uuid, size) else { return Ok(Copy::Damaged(uuid)) };
    if text(&binary, 72, 32) != Some("sha256") || number(&binary, 256) != Some(offset) {
        return Ok(Copy::Damaged(Some(uuid)));
    }
    let length = usize::try_from(size).unwrap_or(usize::MAX);
    let all = quarry_block::read_aligned(file, offset, length)?;
    Ok(parse(&all, uuid))
}

/// One copy with its JSON area, whose UUID is that.
fn parse(all: &[u8], uuid: Uuid) -> Copy {
    let damaged = Copy::Damaged(Some(uuid));
    let (Some(stored), Some(json), Some(sequence)) =
        (all.get(CHECKSUM.start..CHECKSUM.start + 32), all.get(BINARY..), number(all, 16))
    else {
        return damaged;
    };
    let mut hash = Sha256::new();
    hash.update(all.get(..CHECKSUM.start).unwrap_or_default());
    hash.update([0; CHECKSUM.end - CHECKSUM.start]);
    hash.update(all.get(CHECKSUM.end..).unwrap_or_default());
    if hash.finalize().as_slice() != stored {
        return damaged;
    }
    let json = json.split(|byte| *byte == 0).next().unwrap_or_default();
    match serde_json::from_slice::<Json>(json) {
        Ok(json) => Copy::Valid { sequence, uuid, has_key_slots: !json.keyslots.is_empty() },
        Err(_) => damaged,
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// The text before the first NUL.
fn text(bytes: &[u8], at: usize, length: usize) -> Option<&str> {
    std::str::from_utf8(bytes.get(at..at + length)?.split(|byte| *byte == 0).next()?).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    const UUID: Uuid = uuid::uuid!("11111111-2222-3333-4444-555555555555");
    const SLOTS: &str = r#"{"keyslots":{"0":{"type":"luks2"}},"tokens":{}}"#;
    const NO_SLOTS: &str = r#"{"keyslots":{},"tokens":{}}"#;

    /// A copy of a header, as cryptsetup writes it.
    fn copy_at(second: bool, sequence: u64, json: &str) -> Vec<u8> {
        let (size, offset) = (METADATA_SIZE, if second { METADATA_SIZE } else { 0 });
        let mut all = vec![0; size as usize];
        all[..6].copy_from_slice(MAGIC[usize::from(second)]);
        all[7] = 2;
        all[8..16].copy_from_slice(&size.to_be_bytes());
        all[16..24].copy_from_slice(&sequence.to_be_bytes());
        all[72..78].copy_from_slice(b"sha256");
        all[168..204].copy_from_slice(UUID.to_string().as_bytes());
        all[256..264].copy_from_slice(&offset.to_be_bytes());
        all[BINARY..BINARY + json.len()].copy_from_slice(json.as_bytes());
        let hash = Sha256::digest(&all);
        all[CHECKSUM.start..CHECKSUM.start + 32].copy_from_slice(&hash);
        all
    }

    fn found(first: &[u8], second: &[u8]) -> Header {
        let file = tempfile::tempfile().unwrap();
        file.set_len(20 << 20).unwrap();
        file.write_all_at(first, 0).unwrap();
        file.write_all_at(second, METADATA_SIZE).unwrap();
        read_from(&file).unwrap()
    }

    #[test]
    fn a_complete_header_is_found_by_either_copy() {
        let (first, second) = (copy_at(false, 3, SLOTS), copy_at(true, 3, SLOTS));
        let complete = Header::Complete { uuid: UUID };
        assert_eq!(found(&first, &second), complete);
        assert_eq!(found(&first, &[]), complete);
        assert_eq!(found(&[], &second), complete);
        let mut damaged = first.clone();
        damaged[BINARY + 3] ^= 1;
        assert_eq!(found(&damaged, &second), complete);
    }

    #[test]
    fn what_luks_format_leaves_when_it_is_killed_is_unfinished() {
        let unfinished = Header::Unfinished { uuid: UUID };
        let (first, second) = (copy_at(false, 3, SLOTS), copy_at(true, 3, SLOTS));
        let mut begun = first.clone();
        begun[CHECKSUM].fill(0);
        assert_eq!(found(&begun, &[]), unfinished, "the binary part without its checksum");
        assert_eq!(found(&begun[..BINARY], &[]), unfinished);
        assert_eq!(found(&copy_at(false, 1, NO_SLOTS), &[]), unfinished);
        assert_eq!(found(&copy_at(false, 1, NO_SLOTS), &copy_at(true, 1, NO_SLOTS)), unfinished);
        // Its key slots were erased: the newer copy counts.
        assert_eq!(found(&copy_at(false, 4, NO_SLOTS), &second), unfinished);
        assert_eq!(found(&copy_at(false, 1, NO_SLOTS), &second), Header::Complete { uuid: UUID });
        assert_eq!(found(&[], &[]), Header::None);
    }

    #[test]
    fn another_header_is_not_taken_for_one_of_quarry() {
        let mut luks1 = vec![0; 4096];
        luks1[..6].copy_from_slice(MAGIC[0]);
        luks1[7] = 1;
        assert_eq!(found(&luks1, &[]), Header::Other);
        let mut no_uuid = copy_at(false, 3, SLOTS);
        no_uuid[168] = b'x';
        assert_eq!(found(&no_uuid, &[]), Header::Other);
        // A copy at a place where it does not belong.
        assert_eq!(found(&copy_at(true, 3, SLOTS), &[]), Header::None);
    }

    #[test]
    fn a_device_that_is_too_small_has_no_header() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8192).unwrap();
        assert_eq!(read_from(&file).unwrap(), Header::None);
    }
}
