//! Makes, changes and releases claims.
//!
//! Every function here first reads the disk, and refuses contents that do not fit. Then it flushes: the
//! contents may come from a killed Quarry process, and be in memory but not on the disk yet. Without that
//! flush, a power cut could lose them and keep the writes that depend on them. The order of the writes and
//! flushes is the one in docs/disk-format.md.

use super::contents::{DiskContents, HeaderLocation, fetch};
use super::geometry::{Geometry, Lba, METADATA_LENGTH, METADATA_OFFSET, SLOT_OFFSETS, SectorSize};
use super::gpt::{self, FirstSector, TableCopy};
use super::identity::Identity;
use super::interpret::read;
use super::slot::{MAX_RECORD, Mark, Parsed, SLOT_LENGTH, Slot};
use super::state::{Claim, ClaimState};
use super::{Error, Sectors};

/// Claims a disk for the volume with that name. `record` must say that the volume was never used. Blocks
/// until the claim is on the disk.
///
/// The caller holds the disk ([`quarry_filesystem::exclusive`]) and has probed it blank while holding it. The
/// volume's own bytes are not touched: data of former owners stays there.
///
/// # Errors
/// [`Error::Unexpected`] unless [`read`] returns [`ClaimState::Nothing`]; [`Error::Unfit`] for disks that are
/// too small or have other sectors; I/O errors.
pub fn claim(disk: &impl Sectors, name: &str, record: &[u8]) -> Result<Claim, Error> {
    let attempted = "claim";
    check_length(disk, record)?;
    let sector_size = SectorSize::new(disk.sector_size());
    let geometry = sector_size.and_then(|size| Geometry::new(size, size.sectors_in(disk.size()))).ok_or_else(|| {
        Error::Unfit { device: disk.path().to_owned(), size: disk.size(), sector_size: disk.sector_size() }
    })?;
    match read(disk)? {
        ClaimState::Nothing => {}
        found => return Err(unexpected(disk, attempted, &found)),
    }
    let identity = Identity::of(name);
    let slot = Slot {
        mark: Mark::Claiming,
        sequence: 1,
        geometry,
        extended_from: None,
        disk: identity.disk,
        record: record.to_vec(),
    };
    flush_before(disk)?;

    // The whole partition, so that a probe of it finds no remnants of a former owner.
    let mut metadata = Vec::with_capacity(METADATA_LENGTH as usize);
    for offset in SLOT_OFFSETS {
        metadata.resize((offset - METADATA_OFFSET) as usize, 0);
        metadata.extend_from_slice(&slot.encode());
    }
    metadata.resize(METADATA_LENGTH as usize, 0);
    write_at(disk, "record", METADATA_OFFSET, &metadata)?;
    flush(disk, "record")?;
    write_tables(disk, geometry, &identity)?;
    verify_claimed(disk, attempted, &slot)
}

/// Finishes a half-made claim. `seen` is the one that [`read`] returned. Blocks until the claim is on the
/// disk.
///
/// The caller holds the disk and has probed it blank while holding it (to a probe, a half-made claim is
/// blank): the missing parts overwrite whatever is there.
///
/// # Errors
/// [`Error::Unexpected`] if the half-made claim is no longer there; [`Error::Resized`]; I/O errors.
pub fn resume(disk: &impl Sectors, seen: &Claim) -> Result<Claim, Error> {
    let attempted = "finish the claim on";
    let found = match read(disk)? {
        ClaimState::HalfClaimed(found) if found.slot() == seen.slot() => found,
        found => return Err(unexpected(disk, attempted, &found)),
    };
    let geometry = found.geometry;
    if Geometry::new(geometry.sector_size(), geometry.sector_size().sectors_in(disk.size())) != Some(geometry) {
        return Err(Error::Resized { device: disk.path().to_owned(), then: geometry.size(), now: disk.size() });
    }
    flush_before(disk)?;
    write_slots(disk, &found.slot())?;
    clear_metadata(disk)?;
    write_tables(disk, geometry, &found.identity)?;
    verify_claimed(disk, attempted, &found.slot())
}

/// Writes zeros over the metadata partition, except the slots. Of the first write of a claim, a power cut may have left
/// the slots alone, and then a probe of the partition would find remnants of a former owner.
fn clear_metadata(disk: &impl Sectors) -> Result<(), Error> {
    let what = "zeros beside the record";
    let ends = [SLOT_OFFSETS[1], METADATA_OFFSET + METADATA_LENGTH];
    for (slot, end) in SLOT_OFFSETS.into_iter().zip(ends) {
        let start = slot + SLOT_LENGTH as u64;
        write_at(disk, what, start, &vec![0; (end - start) as usize])?;
    }
    flush(disk, what)
}

/// Replaces the record of a claim, whether it is held or being released. `seen` is the claim that [`read`]
/// returned, so that no concurrent change is lost. Returns when both copies of the new record are on the
/// disk; a power cut before that leaves the old or the new one. With an unchanged record, it repairs a copy
/// that is older or damaged.
///
/// # Errors
/// [`Error::Unexpected`] if the disk no longer holds that claim with that record; [`Error::RecordTooLong`];
/// I/O errors: then the disk may hold either record.
pub fn set_record(disk: &impl Sectors, seen: &Claim, record: &[u8]) -> Result<Claim, Error> {
    let attempted = "change the record on";
    check_length(disk, record)?;
    let (found, mark) = match read(disk)? {
        ClaimState::Claimed(found) if found.slot() == seen.slot() => (found, Mark::Held),
        ClaimState::Releasing(found) if found.slot() == seen.slot() => (found, Mark::Releasing),
        found => return Err(unexpected(disk, attempted, &found)),
    };
    flush_before(disk)?;
    let slot = if found.record == record {
        found.slot()
    } else {
        Slot { record: record.to_vec(), ..next_slot(disk, &found, mark)? }
    };
    write_slots(disk, &slot)?;
    verify_claimed(disk, attempted, &slot)
}

/// Only marks the claim as being released: from then on there is no volume, and its bytes may be wiped.
/// `seen` is the claim that [`read`] returned, intact or being released. Returns when the mark would survive
/// a power cut.
///
/// # Errors
/// [`Error::Unexpected`] if the disk no longer holds that claim; I/O errors: then the mark may be there or
/// not.
pub fn begin_release(disk: &impl Sectors, seen: &Claim) -> Result<Claim, Error> {
    let attempted = "begin to release the claim on";
    let found = match read(disk)? {
        ClaimState::Claimed(found) | ClaimState::Releasing(found) if found.slot() == seen.slot() => found,
        found => return Err(unexpected(disk, attempted, &found)),
    };
    flush_before(disk)?;
    let slot = match found.mark {
        Mark::Releasing => found.slot(),
        Mark::Claiming | Mark::Held => next_slot(disk, &found, Mark::Releasing)?,
    };
    // Both slots need the mark, because both are erased together in the end. One that is not a slot any more
    // is not touched.
    let held = |there: &Parsed| matches!(there, Parsed::Whole(there) if there.mark != Mark::Releasing);
    if DiskContents::read(disk)?.slots.iter().any(held) && !quarry_fault::disabled("claim-release-mark") {
        write_slots(disk, &slot)?;
        return verify_claimed(disk, attempted, &slot);
    }
    Ok(found)
}

/// Releases the claim of a disk, or resumes the release. `seen` is the claim that [`read`] returned, intact
/// or being released. Afterwards, a probe finds nothing of Quarry's on the disk. Blocks until that has
/// reached the disk itself.
///
/// The caller has wiped the volume according to the pool's policy, and has removed the disk's partitions from
/// the kernel.
///
/// Only the claim's own bytes are erased: what another program has overwritten stays, and the next probe
/// finds it.
///
/// # Errors
/// [`Error::Unexpected`] if the disk no longer holds that claim; I/O errors: then the release has to be
/// repeated.
pub fn release(disk: &impl Sectors, seen: &Claim) -> Result<(), Error> {
    let attempted = "release the claim on";
    // The mark comes first. Otherwise a claim without its MBR would count as damaged.
    let found = begin_release(disk, seen)?;
    let seen = DiskContents::read(disk)?;
    if seen.first == FirstSector::Protective {
        let blank = vec![0; found.geometry.sector_size().as_usize()];
        write_at(disk, "protective MBR away", 0, &blank)?;
        flush(disk, "protective MBR away")?;
    }
    erase(disk, attempted, &found, &seen)
}

/// Clears a half-made claim. `seen` is the one that [`read`] returned. Blocks until that has reached the disk
/// itself. Only the claim's own bytes are erased.
///
/// # Errors
/// [`Error::Unexpected`] if the half-made claim is no longer there; I/O errors: then the call has to be
/// repeated.
pub fn clear(disk: &impl Sectors, seen: &Claim) -> Result<(), Error> {
    let attempted = "clear the half-made claim on";
    let found = match read(disk)? {
        ClaimState::HalfClaimed(found) if found.slot() == seen.slot() => found,
        found => return Err(unexpected(disk, attempted, &found)),
    };
    flush_before(disk)?;
    erase(disk, attempted, &found, &DiskContents::read(disk)?)
}

/// Writes both tables, then the protective MBR.
pub(super) fn write_tables(disk: &impl Sectors, geometry: Geometry, identity: &Identity) -> Result<(), Error> {
    let entries = gpt::entries(geometry, identity);
    let header = |copy| gpt::header(geometry, identity, copy, &entries);
    let what = "backup table";
    let (header_at, entries_at) = gpt::positions(geometry, TableCopy::Backup);
    write_at(disk, what, geometry.offset(entries_at), &entries)?;
    write_at(disk, what, geometry.offset(header_at), &header(TableCopy::Backup))?;
    flush(disk, what)?;
    // The primary header is directly before its entries. Both are one write: the kernel reads the tables again when a
    // program that wrote to the disk has ended, and finds no partitions if this table does not fit together.
    let what = "primary table";
    let (header_at, _) = gpt::positions(geometry, TableCopy::Primary);
    write_at(disk, what, geometry.offset(header_at), &[&header(TableCopy::Primary)[..], &entries].concat())?;
    flush(disk, what)?;
    write_at(disk, "protective MBR", 0, &gpt::protective_mbr(geometry))?;
    flush(disk, "protective MBR")
}

/// Makes both slots equal: first the one that does not count now, so that the other one counts until it is
/// written; then the other one, so that losing a slot later does not bring an old record back.
pub(super) fn write_slots(disk: &impl Sectors, slot: &Slot) -> Result<(), Error> {
    let seen = DiskContents::read(disk)?.slots;
    let sequence = |parsed: &Parsed| match parsed {
        Parsed::Whole(slot) => slot.sequence,
        _ => 0,
    };
    let [first, second] = [&seen[0], &seen[1]];
    let mut order = [(SLOT_OFFSETS[0], first), (SLOT_OFFSETS[1], second)];
    if sequence(first) > sequence(second) {
        order.reverse();
    }
    for (offset, there) in order {
        if !matches!(there, Parsed::Whole(there) if there == slot) {
            write_at(disk, "record", offset, &slot.encode())?;
            flush(disk, "record")?;
        }
    }
    Ok(())
}

/// Erases the headers and entries of both tables, the one at the start first; then the slots.
fn erase(disk: &impl Sectors, attempted: &'static str, claim: &Claim, seen: &DiskContents) -> Result<(), Error> {
    let sector_size = claim.geometry.sector_size();
    let places = || seen.tables.iter().map(|(place, _)| *place).filter(|place| place.sector_size == sector_size);
    for place in places().filter(|place| place.sector == Lba(1)) {
        erase_table(disk, claim, place, Some(Lba(2)))?;
    }
    flush(disk, "primary table away")?;
    for place in places().filter(|place| place.sector != Lba(1)) {
        let entries_at = place.sector.0.checked_sub(claim.geometry.entries_sectors());
        erase_table(disk, claim, place, entries_at.map(Lba))?;
    }
    flush(disk, "backup table away")?;
    for (offset, slot) in SLOT_OFFSETS.into_iter().zip(&seen.slots) {
        if *slot != Parsed::Absent {
            write_at(disk, "record away", offset, &[0; SLOT_LENGTH])?;
        }
    }
    flush(disk, "record away")?;
    match read_from_disk(disk)? {
        ClaimState::Nothing | ClaimState::Foreign { .. } => Ok(()),
        found => Err(Error::Unverified { attempted, device: disk.path().to_owned(), found: found.describe() }),
    }
}

/// Zeroes a header that has the claim's disk GUID, and the sector of entries with the GUIDs of its
/// partitions: all entries after those are zeros anyway.
pub(super) fn erase_table(
    disk: &impl Sectors,
    claim: &Claim,
    place: HeaderLocation,
    entries_at: Option<Lba>,
) -> Result<(), Error> {
    let sector_size = place.sector_size;
    let blank = vec![0; sector_size.as_usize()];
    if let Some(offset) = place.offset()
        && let Some(sector) = fetch(disk, offset, sector_size.bytes())?
        && gpt::disk_guid(&sector) == Some(claim.identity.disk)
    {
        write_at(disk, "table away", offset, &blank)?;
    }
    if let Some(offset) = entries_at.and_then(|sector| sector_size.offset(sector))
        && let Some(sector) = fetch(disk, offset, sector_size.bytes())?
        && gpt::has_entries_of(&sector, &claim.identity)
    {
        write_at(disk, "table away", offset, &blank)?;
    }
    Ok(())
}

/// The slot that follows the claim's current one.
pub(super) fn next_slot(disk: &impl Sectors, claim: &Claim, mark: Mark) -> Result<Slot, Error> {
    let sequence = claim.sequence.checked_add(1).ok_or_else(|| Error::Unexpected {
        attempted: "change the record on",
        device: disk.path().to_owned(),
        found: "a record whose sequence number has reached its limit".to_owned(),
    })?;
    Ok(Slot { mark, sequence, ..claim.slot() })
}

pub(super) fn check_length(disk: &impl Sectors, record: &[u8]) -> Result<(), Error> {
    if record.len() > MAX_RECORD {
        return Err(Error::RecordTooLong { device: disk.path().to_owned(), length: record.len(), most: MAX_RECORD });
    }
    Ok(())
}

pub(super) fn unexpected(disk: &impl Sectors, attempted: &'static str, found: &ClaimState) -> Error {
    Error::Unexpected { attempted, device: disk.path().to_owned(), found: found.describe() }
}

/// Checks that the disk holds what was written and flushed: nothing else writes to the disk, and the disk keeps what it
/// is given.
pub(super) fn verify_claimed(disk: &impl Sectors, attempted: &'static str, slot: &Slot) -> Result<Claim, Error> {
    match read_from_disk(disk)? {
        ClaimState::Claimed(claim) | ClaimState::Releasing(claim) if claim.slot() == *slot => Ok(claim),
        found => Err(Error::Unverified { attempted, device: disk.path().to_owned(), found: found.describe() }),
    }
}

/// Reads the disk itself: the page cache has what was written, whether the disk keeps it or not.
fn read_from_disk(disk: &impl Sectors) -> Result<ClaimState, Error> {
    disk.drop_cache().map_err(|source| Error::io("drop the cached pages of", disk.path(), source))?;
    read(disk)
}

/// One write, with the points at which a test may kill the process.
pub(super) fn write_at(disk: &impl Sectors, what: &'static str, offset: u64, bytes: &[u8]) -> Result<(), Error> {
    quarry_fault::point(|| format!("claim:write {what}:before"));
    let written = disk.write_all_at(bytes, offset);
    quarry_fault::point(|| format!("claim:write {what}:after"));
    written.map_err(|source| Error::io("write to", disk.path(), source))
}

/// One flush, with the same kind of points.
pub(super) fn flush(disk: &impl Sectors, what: &'static str) -> Result<(), Error> {
    if quarry_fault::disabled("claim-flush") {
        return Ok(());
    }
    flush_now(disk, what)
}

/// The flush before the first write.
pub(super) fn flush_before(disk: &impl Sectors) -> Result<(), Error> {
    if quarry_fault::disabled("claim-flush-before") {
        return Ok(());
    }
    flush_now(disk, "what is there")
}

fn flush_now(disk: &impl Sectors, what: &'static str) -> Result<(), Error> {
    quarry_fault::point(|| format!("claim:flush {what}:before"));
    let flushed = disk.flush();
    quarry_fault::point(|| format!("claim:flush {what}:after"));
    flushed.map_err(|source| Error::io("flush", disk.path(), source))
}
