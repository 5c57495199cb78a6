//! Extends the volume of a claim after its disk became larger: docs/disk-format.md, "Extension".
//!
//! The slots are the commit point: the volume has its new size as soon as one of them says so, and the partition
//! tables follow. Until all is written, the slots have the old size, too, and a reader accepts tables with either.
//! Before that, only the backup table moves, which leaves the old claim valid.

use super::contents::{DiskContents, HeaderLocation, fetch};
use super::geometry::{Geometry, Lba, SectorSize};
use super::gpt::{self, TableCopy};
use super::interpret::read;
use super::slot::{Mark, Slot};
use super::state::{Claim, ClaimState, Degraded};
use super::write::{
    check_length, erase_table, flush, flush_before, next_slot, unexpected, verify_claimed, write_at, write_slots,
    write_tables,
};
use super::{Error, Sectors};

/// Prepares the extension of a claim's volume to the end of its disk: moves the backup table to the end of the disk,
/// and zeroes what will be between the volume and that table. So no part of the claim is left in the bytes that join
/// the volume: the `capacity` of the claim, less its `length`. The caller cleans them before it calls [`extend`].
///
/// `seen` is the claim that [`read`] returned. Completes an earlier extension first. Blocks until everything is on the
/// disk. Writes nothing that is there already. The volume may be in use.
///
/// A foreign partition table at the new end of the disk is overwritten. It came with the enlarged disk; the claim's own
/// table at the start shows that the disk is the claim's.
///
/// # Errors
/// [`Error::Unexpected`] if the disk no longer holds that claim, is not larger, or has no valid table at its start;
/// I/O errors.
pub fn prepare_extension(disk: &impl Sectors, seen: &Claim) -> Result<Claim, Error> {
    let claim = complete_extension(disk, seen)?;
    let target = target(disk, &claim)?;
    flush_before(disk)?;
    move_backup(disk, &claim, target)
}

/// Extends a claim's volume to its `capacity`, and replaces its record. The bytes up to there are clean. `seen` is
/// the claim that [`read`] returned after [`prepare_extension`]. Blocks until everything is on the disk; a power cut
/// before that leaves the volume with the old size and record, or with the new ones. Then [`complete_extension`] does
/// the rest.
///
/// The caller tells the kernel of the new size. The volume may be in use.
///
/// # Errors
/// As [`prepare_extension`], and [`Error::RecordTooLong`]. [`Error::Unexpected`] also if the disk has another size
/// than when the claim was read: which bytes are clean is only known for that size. After an I/O error, the volume
/// may have either size.
pub fn extend(disk: &impl Sectors, seen: &Claim, record: &[u8]) -> Result<Claim, Error> {
    check_length(disk, record)?;
    let claim = complete_extension(disk, seen)?;
    let geometry = target(disk, &claim)?;
    if geometry.volume_length() != seen.capacity {
        let found = format!(
            "a disk with room for a volume of {} bytes instead of {}: its size has changed",
            geometry.volume_length(),
            seen.capacity
        );
        return Err(Error::Unexpected { attempted: EXTEND, device: disk.path().to_owned(), found });
    }
    let claim = prepare_extension(disk, &claim)?;
    let before = std::num::NonZeroU64::new(claim.geometry.sectors());
    let slot = next_slot(disk, &claim, Mark::Held)?;
    let slot = Slot { geometry, extended_from: before, record: record.to_vec(), ..slot };
    write_slots(disk, &slot)?;
    let extended = verify_claimed(disk, EXTEND, &slot)?;
    complete_extension(disk, &extended)
}

/// Completes an extension that was interrupted after its commit. Does nothing if none was. `seen` is the claim that
/// [`read`] returned. Blocks until everything is on the disk.
///
/// # Errors
/// [`Error::Unexpected`] if the disk no longer holds that claim; I/O errors.
pub fn complete_extension(disk: &impl Sectors, seen: &Claim) -> Result<Claim, Error> {
    let found = match read(disk)? {
        ClaimState::Claimed(found) if found.slot() == seen.slot() => found,
        found => return Err(unexpected(disk, EXTEND, &found)),
    };
    if !found.degraded.contains(&Degraded::Extending) {
        return Ok(found);
    }
    flush_before(disk)?;
    // Before the tables: with them, the slot with the old size would not be valid.
    write_slots(disk, &found.slot())?;
    write_tables(disk, found.geometry, &found.identity)?;
    let slot = Slot { extended_from: None, ..next_slot(disk, &found, found.mark)? };
    write_slots(disk, &slot)?;
    verify_claimed(disk, EXTEND, &slot)
}

/// The operation in messages.
const EXTEND: &str = "extend the claim on";

/// The geometry that the claim can have on its disk.
fn target(disk: &impl Sectors, claim: &Claim) -> Result<Geometry, Error> {
    let sector_size = claim.geometry.sector_size();
    let now = Geometry::new(sector_size, sector_size.sectors_in(disk.size()));
    let why = match now {
        _ if claim.degraded.contains(&Degraded::PrimaryTable) => Degraded::PrimaryTable.to_string(),
        Some(now) if now.volume_length() > claim.geometry.volume_length() => return Ok(now),
        _ => "the disk has no room for a larger volume".to_owned(),
    };
    let found = format!("a claim that cannot be extended: {why}");
    Err(Error::Unexpected { attempted: EXTEND, device: disk.path().to_owned(), found })
}

/// Moves the backup table, which keeps its entries, to the end of the disk.
fn move_backup(disk: &impl Sectors, claim: &Claim, to: Geometry) -> Result<Claim, Error> {
    let entries = gpt::entries(claim.geometry, &claim.identity);
    let header = |copy| gpt::header(to, &claim.identity, copy, &entries);
    let offset = |sector| to.offset(sector);
    let (header_at, entries_at) = gpt::positions(to, TableCopy::Backup);
    let what = "moved backup table";
    let others = other_backups(disk, claim, header_at)?;
    write_difference(disk, what, offset(entries_at), &entries)?;
    write_difference(disk, what, offset(header_at), &header(TableCopy::Backup))?;
    flush(disk, what)?;
    // The primary table says where it is. With this, the disk may become larger once more.
    let what = "primary table";
    write_difference(disk, what, offset(gpt::positions(to, TableCopy::Primary).0), &header(TableCopy::Primary))?;
    flush(disk, what)?;
    // A former owner's signatures there would be found at the end of the disk.
    let what = "space after the volume";
    let end = to.volume_offset() + to.volume_length();
    write_difference(disk, what, end, &vec![0; (offset(entries_at) - end) as usize])?;
    for (place, entries_at) in others {
        erase_table(disk, claim, place, entries_at)?;
    }
    flush(disk, what)?;
    verify_claimed(disk, EXTEND, &claim.slot())
}

/// The places of backup tables at former ends of the disk, with those of their entries. One of them is found only
/// through the primary table, so they are looked for before it changes.
fn other_backups(disk: &impl Sectors, claim: &Claim, moved: Lba) -> Result<Vec<(HeaderLocation, Option<Lba>)>, Error> {
    let sector_size: SectorSize = claim.geometry.sector_size();
    let places = DiskContents::read(disk)?.tables.into_iter().map(|(place, _)| place);
    let others = places.filter(|place| place.sector_size == sector_size && ![Lba(1), moved].contains(&place.sector));
    Ok(others.map(|place| (place, place.sector.0.checked_sub(claim.geometry.entries_sectors()).map(Lba))).collect())
}

/// Writes these bytes, unless they are there.
fn write_difference(disk: &impl Sectors, what: &'static str, offset: u64, bytes: &[u8]) -> Result<(), Error> {
    match fetch(disk, offset, bytes.len() as u64)? {
        Some(there) if there == bytes => Ok(()),
        _ => write_at(disk, what, offset, bytes),
    }
}
