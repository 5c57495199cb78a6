//! Reads what a physical volume stores about its volume group: the label, and in each metadata area a header and a
//! text.
//!
//! lvm writes all of it with O_DIRECT (its block cache opens devices so, and keeps no page cache in between), so the
//! bytes on the disk are the truth, and pages that another program has read into the kernel's page cache may be older.
//! Therefore the reads are direct, too: [`quarry_block::read_direct`]. Only where a device rejects that, it drops the
//! cached pages first. A direct read sees either the old or the new contents of a sector, and the header is one
//! sector, so it is never torn. The text may be: a commit may overwrite it while it is read. Its checksum shows that,
//! and the caller compares [`Disk::fingerprint`] once more when all disks were read.
//!
//! The device is opened for reading, so that closing it sends no event to udev, and closed before the functions
//! return: an open device would block the removal of a disk or a `vgchange`.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use quarry_block::{read_aligned, read_direct};

use super::checksum::checksum;
use super::reason::{DiskProblem, NeedsReport};
use super::text;
use crate::PvUuid;
use crate::header::{BEGINNING, fingerprint};
use crate::label::{AREA_HEADER, AREA_MAGIC, label_sector, metadata_areas, number_u32, number_u64, pv_uuid, read_at};

const SECTOR: usize = 512;
/// The area of the label that its checksum covers begins here.
const LABEL_CHECKED: usize = 20;
/// The checksum of an area's header covers the rest of its sector.
const HEADER_CHECKED: usize = 4;
/// Where the positions of the committed and the precommitted text are in an area's header.
const COMMITTED: usize = 40;
const PRECOMMITTED: usize = 64;
/// The flag of an area that lvm does not use (`pvchange --metadataignore`).
const IGNORED: u32 = 1;
/// Where pvcreate puts the metadata area.
const FIRST_AREA: u64 = 4096;
/// lvm writes at most two areas per disk.
const MOST_AREAS: usize = 2;

/// What a physical volume stores about its volume group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The device that was read.
    pub device: PathBuf,
    /// The physical volume.
    pub uuid: PvUuid,
    /// The metadata areas that are in use. Empty if the disk has none, or lvm ignores them.
    pub areas: Vec<Area>,
    /// [`crate::metadata_fingerprint`] of the disk before the texts were read.
    pub fingerprint: [u8; 32],
}

/// A metadata area.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Area {
    /// Its size in bytes, with its header.
    pub size: u64,
    /// The committed text, whose checksum is right. `None` if the area is empty, as on a disk that is not in a volume
    /// group.
    pub text: Option<Vec<u8>>,
    /// Whether the header has the position of another text, too, which will be committed next.
    pub precommitted: bool,
}

/// Reads a physical volume. Blocks as long as the disk does not answer.
///
/// # Errors
/// The disk cannot be read, or something in it is not as lvm writes it.
pub fn read_disk(device: &Path) -> Result<Disk, NeedsReport> {
    let unreadable = |error| NeedsReport::Unreadable { device: device.to_owned(), error };
    let read = read_direct(device, |file| {
        let fingerprint = fingerprint(file)?;
        Ok(read_parts(file)?.map(|(uuid, areas)| (uuid, areas, fingerprint)))
    });
    match read.map_err(unreadable)? {
        Ok((uuid, areas, fingerprint)) => Ok(Disk { device: device.to_owned(), uuid, areas, fingerprint }),
        Err(problem) => Err(NeedsReport::Disk { device: device.to_owned(), problem }),
    }
}

type Parts = Result<(PvUuid, Vec<Area>), DiskProblem>;

fn read_parts(file: &File) -> io::Result<Parts> {
    let beginning = read_aligned(file, 0, BEGINNING)?;
    let uuid = match check_label(&beginning) {
        Ok(uuid) => uuid,
        Err(problem) => return Ok(Err(problem)),
    };
    let mut areas = Vec::new();
    for (start, size) in metadata_areas(&beginning) {
        match read_area(file, start, size)? {
            Ok(area) => areas.extend(area),
            Err(problem) => return Ok(Err(problem)),
        }
    }
    Ok(Ok((uuid, areas)))
}

/// Whether the beginning of a device is as pvcreate leaves it: the label and the header of an empty metadata area, and
/// zeros where most other signatures are. Blocks as long as the disk does not answer.
///
/// # Errors
/// The device cannot be read.
pub fn has_only_label(device: &Path) -> io::Result<bool> {
    read_direct(device, |file| Ok(is_only_label(&read_aligned(file, 0, BEGINNING)?)))
}

fn is_only_label(beginning: &[u8]) -> bool {
    let is_zero = |sector: &[u8]| sector.iter().all(|byte| *byte == 0);
    // pvcreate zeroes the first four sectors, and writes its label into one of them.
    let mut others = beginning.chunks(SECTOR).take(4).filter(|sector| !sector.starts_with(b"LABELONE"));
    if check_label(beginning).is_err() || !others.all(is_zero) {
        return false;
    }
    let [(start @ FIRST_AREA, size)] = metadata_areas(beginning)[..] else { return false };
    let header = usize::try_from(start).ok().and_then(|start| beginning.get(start..)?.get(..SECTOR));
    let is_empty =
        |header| check_header(header, start, size).is_ok_and(|area| area.is_none_or(|text| text.offset == 0));
    // A power cut may have kept the label, and not the header.
    header.is_some_and(|header| is_zero(header) || is_empty(header))
}

/// Checks the label at the beginning of a disk, and returns the UUID in it.
fn check_label(beginning: &[u8]) -> Result<PvUuid, DiskProblem> {
    let labels = beginning.chunks(SECTOR).take(4).filter(|sector| sector.starts_with(b"LABELONE")).count();
    let sector = label_sector(beginning).filter(|_| labels == 1).ok_or(DiskProblem::Label)?;
    let checked = sector.get(LABEL_CHECKED..).unwrap_or_default();
    if number_u32(sector, 16) != Some(checksum(checked)) {
        return Err(DiskProblem::LabelChecksum);
    }
    let number = beginning.chunks(SECTOR).position(|sector| sector.starts_with(b"LABELONE"));
    let own_number = number_u64(sector, 8).and_then(|number| usize::try_from(number).ok());
    let known = sector.get(24..32) == Some(b"LVM2 001") && own_number == number;
    let areas = metadata_areas(beginning).len();
    match pv_uuid(sector) {
        Some(uuid) if known && areas <= MOST_AREAS => Ok(uuid),
        _ => Err(DiskProblem::LabelContents),
    }
}

/// The position of a text in its area.
struct Place {
    offset: u64,
    length: u64,
    checksum: u32,
    flags: u32,
}

impl Place {
    fn read(header: &[u8], at: usize) -> Option<Self> {
        Some(Self {
            offset: number_u64(header, at)?,
            length: number_u64(header, at + 8)?,
            checksum: number_u32(header, at + 16)?,
            flags: number_u32(header, at + 20)?,
        })
    }
}

/// Reads a metadata area. `None` if lvm ignores it.
fn read_area(file: &File, start: u64, size: u64) -> io::Result<Result<Option<Area>, DiskProblem>> {
    let header = match read_at(file, start, SECTOR) {
        // The label says that the area is after the end of the disk.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Err(DiskProblem::AreaHeader)),
        header => header?,
    };
    let place = match check_header(&header, start, size) {
        Ok(Some(place)) => place,
        Ok(None) => return Ok(Ok(None)),
        Err(problem) => return Ok(Err(problem)),
    };
    let precommitted = number_u64(&header, PRECOMMITTED).is_none_or(|offset| offset != 0);
    if place.offset == 0 {
        return Ok(Ok(Some(Area { size, text: None, precommitted })));
    }
    Ok(match read_text(file, start, size, &place)? {
        Ok(text) => Ok(Some(Area { size, text: Some(text), precommitted })),
        Err(problem) => Err(problem),
    })
}

/// Checks the header of an area. Returns the position of the committed text; `None` if lvm ignores the area.
fn check_header(header: &[u8], start: u64, size: u64) -> Result<Option<Place>, DiskProblem> {
    if number_u32(header, 0) != Some(checksum(header.get(HEADER_CHECKED..).unwrap_or_default())) {
        return Err(DiskProblem::AreaChecksum);
    }
    let known = header.get(4..20) == Some(AREA_MAGIC)
        && number_u32(header, 20) == Some(1)
        && (number_u64(header, 24), number_u64(header, 32)) == (Some(start), Some(size));
    let place = Place::read(header, COMMITTED).filter(|_| known).ok_or(DiskProblem::AreaHeader)?;
    match place.flags {
        0 => Ok(Some(place)),
        IGNORED => Ok(None),
        _ => Err(DiskProblem::AreaHeader),
    }
}

/// Reads a text, which may begin at the end of the ring buffer and continue at its beginning, after the header.
fn read_text(file: &File, start: u64, size: u64, place: &Place) -> io::Result<Result<Vec<u8>, DiskProblem>> {
    let ring = size.saturating_sub(AREA_HEADER);
    let inside = place.offset >= AREA_HEADER && place.offset < size && place.length > 0 && place.length <= ring;
    let length = usize::try_from(place.length).ok().filter(|length| inside && *length <= text::LARGEST);
    let Some(length) = length else { return Ok(Err(DiskProblem::TextPlace)) };
    let to_end = usize::try_from(size - place.offset).unwrap_or(length).min(length);
    let read = |offset: u64, length: usize| match length {
        0 => Ok(Vec::new()),
        _ => read_at(file, start.saturating_add(offset), length),
    };
    let mut text = read(place.offset, to_end)?;
    text.extend(read(AREA_HEADER, length - to_end)?);
    match checksum(&text) == place.checksum {
        true => Ok(Ok(text)),
        false => Ok(Err(DiskProblem::TextChecksum)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::label::testing;

    /// The beginning of a disk after pvcreate.
    fn created() -> Vec<u8> {
        let mut disk = testing::disk(&testing::label());
        disk.truncate(BEGINNING);
        let area = 4096;
        disk[area + 4..area + 20].copy_from_slice(AREA_MAGIC);
        disk[area + 20..area + 24].copy_from_slice(&1_u32.to_le_bytes());
        disk[area + 24..area + 32].copy_from_slice(&4096_u64.to_le_bytes());
        disk[area + 32..area + 40].copy_from_slice(&1_044_480_u64.to_le_bytes());
        sum(&mut disk);
        disk
    }

    /// Corrects both checksums.
    fn sum(disk: &mut [u8]) {
        for (sector, field, checked) in [(512, 16, LABEL_CHECKED), (4096, 0, HEADER_CHECKED)] {
            let sum = checksum(&disk[sector + checked..sector + SECTOR]);
            disk[sector + field..sector + field + 4].copy_from_slice(&sum.to_le_bytes());
        }
    }

    #[test]
    fn a_label_with_anything_beside_it_is_not_the_only_contents() {
        assert!(is_only_label(&created()));
        let changed = |change: &dyn Fn(&mut [u8])| {
            let mut disk = created();
            change(&mut disk);
            is_only_label(&disk)
        };
        assert!(changed(&|disk| disk[4096..4608].fill(0)), "a power cut kept the label only");
        // What the disk had before it became a physical volume, where no signature is.
        assert!(changed(&|disk| disk[5000..8192].fill(7)));
        // mdadm leaves the label.
        assert!(!changed(&|disk| disk[4096..4100].copy_from_slice(&0xa92b_4efc_u32.to_le_bytes())), "an array");
        assert!(!changed(&|disk| disk[510..512].copy_from_slice(&[0x55, 0xaa])), "a partition table");
        assert!(!changed(&|disk| disk[1080..1082].copy_from_slice(&[0x53, 0xef])), "ext4");
        assert!(!changed(&|disk| disk[600] ^= 1), "a damaged label");
        let with_text = |disk: &mut [u8]| {
            disk[4096 + COMMITTED] = 1;
            sum(disk);
        };
        assert!(!changed(&with_text), "the metadata of a volume group");
    }
}
