//! Reads everything from a disk by which a claim or a partition table can be recognized.

use super::Error;
use super::geometry::{Geometry, Lba, SLOT_OFFSETS, SectorSize};
use super::gpt::{self, FirstSector, Head, Header, QuarryTable};
use super::identity::DiskGuid;
use super::sectors::Sectors;
use super::slot::{Parsed, SLOT_LENGTH};

/// A possible location of a header: sector `sector`, in sectors of that size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HeaderLocation {
    pub(super) sector_size: SectorSize,
    pub(super) sector: Lba,
}

impl HeaderLocation {
    /// The offset in bytes from the start of the disk.
    pub(super) fn offset(self) -> Option<u64> {
        self.sector_size.offset(self.sector)
    }
}

/// The table at such a location.
#[derive(Debug)]
pub(super) enum Table {
    /// No `EFI PART`.
    Absent,
    /// `EFI PART`, but the header or the entries are invalid.
    Broken {
        /// The disk GUID that it names.
        disk: Option<DiskGuid>,
    },
    /// It cannot be read.
    Unreadable(Error),
    /// A valid table without a Quarry partition.
    Foreign,
    /// A valid table with a Quarry partition.
    Quarry(QuarryTable),
}

/// All that was read from a disk.
#[derive(Debug)]
pub(super) struct DiskContents {
    /// The disk's size in bytes.
    pub(super) size: u64,
    /// The disk's sector size in bytes. It may be one that a claim cannot have.
    pub(super) sector_size: u32,
    pub(super) slots: [Parsed; 2],
    pub(super) first: FirstSector,
    pub(super) tables: Vec<(HeaderLocation, Table)>,
}

impl DiskContents {
    /// Reads a disk.
    ///
    /// # Errors
    /// A slot or sector 0 cannot be read. An unreadable slot may be the newer one, so the other slot is not
    /// enough.
    pub(super) fn read(disk: &impl Sectors) -> Result<Self, Error> {
        let slots = [slot(disk, SLOT_OFFSETS[0])?, slot(disk, SLOT_OFFSETS[1])?];
        let first = fetch(disk, 0, 512)?.map_or(FirstSector::Blank, |sector| FirstSector::parse(&sector));
        let mut tables = Vec::new();
        let mut visit = |place: HeaderLocation| {
            if place.sector > Lba(0) && tables.iter().all(|(seen, _)| *seen != place) {
                let table = table(disk, place);
                let alternate = match &table {
                    Table::Quarry(quarry) => Some(HeaderLocation { sector: quarry.alternate, ..place }),
                    _ => None,
                };
                tables.push((place, table));
                return alternate;
            }
            None
        };
        // The locations of a table on a disk of this size, for both sector sizes; where the claim put its
        // backup, in case the disk had another size then; and where another program may have moved the backup
        // since.
        let mut places: Vec<HeaderLocation> = SectorSize::ALL
            .into_iter()
            .flat_map(|sector_size| {
                let last = sector_size.sectors_in(disk.size()).saturating_sub(1);
                [Lba(1), Lba(last)].map(|sector| HeaderLocation { sector_size, sector })
            })
            .collect();
        places.extend(slots.iter().filter_map(geometry_of).map(backup_place));
        let alternates: Vec<HeaderLocation> = places.into_iter().filter_map(&mut visit).collect();
        for place in alternates {
            visit(place);
        }
        Ok(Self { size: disk.size(), sector_size: disk.sector_size(), slots, first, tables })
    }
}

fn geometry_of(slot: &Parsed) -> Option<Geometry> {
    match slot {
        Parsed::Whole(slot) => Some(slot.geometry),
        _ => None,
    }
}

fn backup_place(geometry: Geometry) -> HeaderLocation {
    HeaderLocation { sector_size: geometry.sector_size(), sector: geometry.last() }
}

fn slot(disk: &impl Sectors, offset: u64) -> Result<Parsed, Error> {
    Ok(fetch(disk, offset, SLOT_LENGTH as u64)?.map_or(Parsed::Absent, |bytes| super::slot::Slot::parse(&bytes)))
}

fn table(disk: &impl Sectors, place: HeaderLocation) -> Table {
    table_or_error(disk, place).unwrap_or_else(Table::Unreadable)
}

fn table_or_error(disk: &impl Sectors, place: HeaderLocation) -> Result<Table, Error> {
    let Some(offset) = place.offset() else { return Ok(Table::Absent) };
    let Some(sector) = fetch(disk, offset, place.sector_size.bytes())? else { return Ok(Table::Absent) };
    let broken = Table::Broken { disk: gpt::disk_guid(&sector) };
    let header = match Header::parse(&sector, place.sector) {
        Head::Absent => return Ok(Table::Absent),
        Head::Broken => return Ok(broken),
        Head::Whole(header) => header,
    };
    let Some(entries_offset) = place.sector_size.offset(header.entries_at) else { return Ok(broken) };
    let Some(entries) = fetch(disk, entries_offset, header.entries_length)? else { return Ok(broken) };
    Ok(match header.with_entries(&entries) {
        None => broken,
        Some(None) => Table::Foreign,
        Some(Some(quarry)) => Table::Quarry(quarry),
    })
}

/// Reads some bytes. `None` beyond the end of the disk.
pub(super) fn fetch(disk: &impl Sectors, offset: u64, length: u64) -> Result<Option<Vec<u8>>, Error> {
    if offset.checked_add(length).is_none_or(|end| end > disk.size()) {
        return Ok(None);
    }
    let mut buffer = vec![0; length as usize];
    disk.read_exact_at(&mut buffer, offset).map_err(|source| Error::io("read", disk.path(), source))?;
    Ok(Some(buffer))
}
