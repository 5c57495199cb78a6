//! The on-disk structures of a physical volume: the label at its beginning, and the header of its metadata
//! area.
//!
//! They are read without lvm, to determine which devices lvm may open: lvm reads the same bytes again, with their
//! checksums, before it does anything. [`crate::metadata`] checks them itself.

use std::fs::File;
use std::io;

use quarry_block::{ALIGNMENT, read_aligned};

use crate::header::BEGINNING;
use crate::{PvUuid, VgUuid};

/// The magic number in the header of a metadata area.
pub(crate) const AREA_MAGIC: &[u8; 16] = b"\x20LVM2\x20x[5A%r0N*>";
/// The header of a metadata area takes one sector; the ring buffer of metadata texts begins after it.
pub(crate) const AREA_HEADER: u64 = 512;
/// The name and the UUID of a volume group are at the beginning of its metadata: 127 and 38 bytes, plus some
/// syntax.
const FIRST_WORDS: usize = 512;

/// The label of a physical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// The UUID of the physical volume.
    pub uuid: PvUuid,
    /// The volume group in its metadata. `None` for a physical volume without metadata.
    pub group: Option<GroupId>,
    /// Whether it belongs to a volume group, whose metadata may be on other disks only.
    pub used: bool,
}

/// The name and the UUID of a volume group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupId {
    /// The name.
    pub name: String,
    /// The UUID.
    pub uuid: VgUuid,
}

/// Reads the label of a device, if it has one.
///
/// # Errors
/// The device cannot be read.
pub(crate) fn read_label(file: &File) -> io::Result<Option<Label>> {
    let beginning = match read_aligned(file, 0, BEGINNING) {
        // Too small for a physical volume.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    };
    let Some(sector) = label_sector(&beginning) else { return Ok(None) };
    let Some(uuid) = pv_uuid(sector) else { return Ok(None) };
    let mut group = None;
    for (start, size) in metadata_areas(&beginning) {
        if group.is_none() {
            group = match read_group(file, start, size) {
                // The area ends after the end of the device.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
                read => read?,
            };
        }
    }
    let used = group.is_some() || is_used(sector);
    Ok(Some(Label { uuid, group, used }))
}

/// The sector with the label: one of the first four.
pub(crate) fn label_sector(beginning: &[u8]) -> Option<&[u8]> {
    beginning.chunks(512).take(4).find(|sector| sector.starts_with(b"LABELONE"))
}

/// The offset of the label's contents.
fn contents(sector: &[u8]) -> Option<usize> {
    usize::try_from(number_u32(sector, 20)?).ok()
}

/// The UUID of the physical volume in a label.
pub(crate) fn pv_uuid(sector: &[u8]) -> Option<PvUuid> {
    let start = contents(sector)?;
    str::from_utf8(sector.get(start..start.checked_add(32)?)?).ok()?.parse().ok()
}

/// Offset and length of the metadata areas of a physical volume, in bytes, according to its label. Empty
/// without a label.
///
/// The label is `LABELONE`, with the offset of its contents at 20. The contents are: a UUID of 32 bytes, the
/// size, then a list of data areas and a list of metadata areas. Each list has pairs of offset and length,
/// and ends with a pair of zeros. All numbers are little-endian.
pub(crate) fn metadata_areas(beginning: &[u8]) -> Vec<(u64, u64)> {
    let Some(label) = label_sector(beginning) else { return Vec::new() };
    let areas = contents(label).and_then(|offset| label.get(offset.checked_add(40)?..));
    let pairs = areas.unwrap_or_default().as_chunks::<16>().0.iter().map(|pair| {
        let field = |at: usize| number_u64(pair, at).unwrap_or(0);
        (field(0), field(8))
    });
    pairs.skip_while(|(offset, _)| *offset != 0).skip(1).take_while(|(offset, _)| *offset != 0).collect()
}

/// Whether the flag is set that the physical volume belongs to a volume group. It is in an extension after the two lists of
/// areas: a version, then flags, of 4 bytes each. Without the extension, which lvm before 2.02 did not write, it is not
/// known, so it counts as used.
fn is_used(sector: &[u8]) -> bool {
    const IN_VOLUME_GROUP: u32 = 1;
    let Some(lists) = contents(sector).and_then(|offset| offset.checked_add(40)) else { return true };
    let mut at = lists;
    for _list in 0..2 {
        while number_u64(sector, at).is_some_and(|offset| offset != 0) {
            at = at.saturating_add(16);
        }
        at = at.saturating_add(16);
    }
    match (number_u32(sector, at), number_u32(sector, at.saturating_add(4))) {
        (Some(version), Some(flags)) if version > 0 => flags & IN_VOLUME_GROUP != 0,
        _ => true,
    }
}

/// The volume group in the metadata area at `start`. `None` if the area is empty, unused or invalid.
fn read_group(file: &File, start: u64, size: u64) -> io::Result<Option<GroupId>> {
    let header = read_at(file, start, 512)?;
    let Some(offset) = text_offset(&header, size) else { return Ok(None) };
    // The text may begin at the end of the ring buffer and continue at its beginning.
    let to_end = usize::try_from(size.saturating_sub(offset)).unwrap_or(FIRST_WORDS).min(FIRST_WORDS);
    let mut text = read_at(file, start.saturating_add(offset), to_end)?;
    if to_end < FIRST_WORDS {
        text.extend(read_at(file, start.saturating_add(AREA_HEADER), FIRST_WORDS - to_end)?);
    }
    Ok(first_words(&text))
}

/// The offset of the newest metadata within its area, according to the area's header.
fn text_offset(header: &[u8], size: u64) -> Option<u64> {
    /// The flag of an area that lvm does not use.
    const UNUSED: u32 = 1;
    let magic = header.get(4..20)?;
    let (offset, length, flags) = (number_u64(header, 40)?, number_u64(header, 48)?, number_u32(header, 60)?);
    let usable = magic == AREA_MAGIC && offset >= AREA_HEADER && offset < size && length > 0 && flags & UNUSED == 0;
    usable.then_some(offset)
}

/// Parses the name and the UUID at the beginning of a volume group's metadata: `NAME {`, then `id = "UUID"`.
fn first_words(text: &[u8]) -> Option<GroupId> {
    let text = String::from_utf8_lossy(text);
    let (name, rest) = text.split_once('{')?;
    let (key, rest) = rest.split_once('=')?;
    let uuid = rest.trim_start().strip_prefix('"')?.split_once('"')?.0;
    let name = name.trim();
    let uuid = uuid.parse().ok()?;
    (key.trim() == "id" && !name.is_empty()).then(|| GroupId { name: name.to_owned(), uuid })
}

/// Reads any range, with an aligned read around it.
pub(crate) fn read_at(file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let skip = usize::try_from(offset % ALIGNMENT as u64).unwrap_or(0);
    let whole = (skip + length).next_multiple_of(ALIGNMENT);
    let mut bytes = read_aligned(file, offset - skip as u64, whole)?;
    bytes.drain(..skip);
    bytes.truncate(length);
    Ok(bytes)
}

pub(crate) fn number_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_le_bytes)
}

pub(crate) fn number_u64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at.checked_add(8)?)?.try_into().ok().map(u64::from_le_bytes)
}

#[cfg(test)]
pub(crate) mod testing {
    /// The label of a real physical volume (lvm 2.03.16), shortened: one data area, one metadata area.
    pub(crate) fn label() -> Vec<u8> {
        let mut sector = b"LABELONE".to_vec();
        sector.extend(1_u64.to_le_bytes()); // The number of its sector.
        sector.extend(0x2bd1_09ef_u32.to_le_bytes()); // Its checksum.
        sector.extend(32_u32.to_le_bytes());
        sector.extend(b"LVM2 001");
        sector.extend(b"iCdcNVXnn6CTAqVGGiyevS3Z0iAd7ElT");
        for number in [1_u64 << 30, 1 << 20, 0, 0, 0, 4096, 1_044_480, 0, 0] {
            sector.extend(number.to_le_bytes());
        }
        // The version of the extension, and its flags: it belongs to a volume group.
        sector.extend([2_u32, 1].map(u32::to_le_bytes).concat());
        sector
    }

    /// A disk of 2 MiB with that label.
    pub(crate) fn disk(label: &[u8]) -> Vec<u8> {
        let mut disk = vec![0; 2 << 20];
        disk[512..512 + label.len()].copy_from_slice(label);
        disk
    }

    /// Writes metadata into the area at 4096, with the text at `offset` of the ring buffer.
    pub(crate) fn write_group(disk: &mut [u8], name: &str, uuid: &str, offset: usize) {
        let text = format!("{name} {{\nid = \"{uuid}\"\nseqno = 7\nformat = \"lvm2\"\nstatus = [\"RESIZEABLE\"]\n}}\n");
        let text = format!("{text}{}", "# \n".repeat(300));
        let (start, size) = (4096, 1_044_480);
        let header = &mut disk[start..start + 512];
        header[4..20].copy_from_slice(super::AREA_MAGIC);
        header[40..48].copy_from_slice(&(offset as u64).to_le_bytes());
        header[48..56].copy_from_slice(&(text.len() as u64).to_le_bytes());
        for (index, byte) in text.bytes().enumerate() {
            let at = offset + index;
            let at = if at < size { at } else { at - size + 512 };
            disk[start + at] = byte;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{disk, label, write_group};
    use super::*;

    const GROUP: &str = "Zr3Ot2-MsTU-yPvW-5Ttd-gaYN-WeYT-vP8EJt";

    fn read(disk: &[u8]) -> Option<Label> {
        let file = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(file.path(), disk).expect("write");
        read_label(&File::open(file.path()).expect("open")).expect("read")
    }

    #[test]
    fn finds_the_metadata_areas() {
        assert_eq!(metadata_areas(&disk(&label())[..BEGINNING]), [(4096, 1_044_480)]);
        let mut elsewhere = label();
        elsewhere[32 + 72..32 + 80].copy_from_slice(&65536_u64.to_le_bytes());
        assert_eq!(metadata_areas(&disk(&elsewhere)[..BEGINNING]), [(65536, 1_044_480)]);
        let mut wild = label();
        wild[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
        for nothing in [&disk(&wild)[..BEGINNING], &[0; 8192], b"LABELONE", &[0xff; 8192]] {
            assert!(metadata_areas(nothing).is_empty());
        }
    }

    #[test]
    fn the_group_is_found_wherever_its_metadata_begins() {
        // At the beginning of the ring buffer, in its middle, and across its end at every word.
        for offset in [512, 5120, 1_044_480 - 512, 1_044_480 - 20, 1_044_480 - 1] {
            let mut disk = disk(&label());
            write_group(&mut disk, "vg-0", GROUP, offset);
            let label = read(&disk).expect("a label");
            assert_eq!(label.uuid.to_string(), "iCdcNV-Xnn6-CTAq-VGGi-yevS-3Z0i-Ad7ElT");
            let group = label.group.unwrap_or_else(|| panic!("no group at {offset}"));
            assert_eq!((group.name.as_str(), &*group.uuid.to_string()), ("vg-0", GROUP), "at {offset}");
        }
    }

    #[test]
    fn the_flag_of_a_used_physical_volume_is_read() {
        assert!(read(&disk(&label())).expect("a label").used);
        // The flags are the last four bytes.
        let mut unused = label();
        let flags = unused.len() - 4;
        unused[flags] = 0;
        assert!(!read(&disk(&unused)).expect("a label").used);
        write_group_and_read(&unused);
        // Without the extension, it is not known.
        let mut old = label();
        old[flags - 4] = 0;
        assert!(read(&disk(&old)).expect("a label").used);
    }

    /// Metadata of a volume group shows the use as well.
    fn write_group_and_read(label: &[u8]) {
        let mut disk = disk(label);
        write_group(&mut disk, "vg0", GROUP, 512);
        assert!(read(&disk).expect("a label").used);
    }

    #[test]
    fn orphans_and_unlabeled_devices_are_distinguished() {
        assert_eq!(read(&vec![0; 2 << 20]), None);
        assert_eq!(read(&[0; 100]), None, "too small");
        // An orphan physical volume has a header without a text.
        let orphan = read(&disk(&label())).expect("a label");
        assert_eq!(orphan.group, None);
        let mut unused = disk(&label());
        write_group(&mut unused, "vg0", GROUP, 512);
        unused[4096 + 60] = 1;
        assert_eq!(read(&unused).expect("a label").group, None, "an area that is not used");
        let mut wild = disk(&label());
        write_group(&mut wild, "vg0", GROUP, 512);
        wild[4096 + 40..4096 + 48].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(read(&wild).expect("a label").group, None, "a text outside of its area");
    }
}
