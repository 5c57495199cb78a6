//! Making a claim, changing its record, taking it away.
//!
//! Every function here begins by reading what lies on the disk, and refuses what does not fit. Then it flushes: what it
//! has read may be the work of a Quarry that was killed, in memory and not on the disk yet; building on that without a
//! flush would let a power cut lose the ground and keep what stands on it. The order of the writes, and the flushes
//! between them, are those of docs/disk-format.md.

use super::geometry::{Geometry, METADATA_LENGTH, METADATA_OFFSET, SLOT_OFFSETS};
use super::gpt::{self, FirstSector, Which};
use super::identity::Identity;
use super::judge::read;
use super::look::{DiskContents, HeaderLocation, fetch};
use super::slot::{MAX_RECORD, Mark, Parsed, SLOT_LENGTH, Slot};
use super::state::{Claim, ClaimState};
use super::{Error, Sectors};

/// Claims a disk for the volume with that name. `record` must say that nobody has used the volume yet. Blocks until the
/// claim is on the disk.
///
/// The caller holds the disk ([`quarry_filesystem::exclusive`]) and has probed it blank since it does so. The bytes of the
/// volume itself are not touched: what former owners left there is still there.
///
/// # Errors
/// [`Error::Unexpected`] unless [`read`] finds [`ClaimState::Nothing`]; [`Error::Unfit`] for disks that are too small or have
/// other sectors; the disk's.
pub fn claim(disk: &impl Sectors, name: &str, record: &[u8]) -> Result<Claim, Error> {
    let attempted = "claim";
    check_length(disk, record)?;
    let sector_size = u64::from(disk.sector_size());
    let geometry = Geometry::new(sector_size, disk.size().checked_div(sector_size).unwrap_or(0)).ok_or_else(|| {
        Error::Unfit { device: disk.path().to_owned(), size: disk.size(), sector_size: disk.sector_size() }
    })?;
    match read(disk)? {
        ClaimState::Nothing => {}
        found => return Err(unexpected(disk, attempted, &found)),
    }
    let identity = Identity::of(name);
    let slot = Slot { mark: Mark::Claiming, sequence: 1, geometry, disk: identity.disk, record: record.to_vec() };
    flush_before(disk)?;

    // The whole partition, so that a probe of it finds nothing that a former owner left there.
    let mut metadata = Vec::with_capacity(METADATA_LENGTH as usize);
    for offset in SLOT_OFFSETS {
        metadata.resize((offset - METADATA_OFFSET) as usize, 0);
        metadata.extend_from_slice(&slot.encode());
    }
    metadata.resize(METADATA_LENGTH as usize, 0);
    put(disk, "record", METADATA_OFFSET, &metadata)?;
    flush(disk, "record")?;
    write_tables(disk, geometry, &identity)?;
    verify_claimed(disk, attempted, &slot)
}

/// Finishes a claim whose making was cut off. `seen` is the half claim that [`read`] found. Blocks until the claim is on
/// the disk.
///
/// The caller holds the disk and has probed it blank since it does so (to a probe, half a claim is blank): where the half
/// has not been written yet, this writes over whatever is there.
///
/// # Errors
/// [`Error::Unexpected`] if the half claim is not there any more; [`Error::Resized`]; the disk's.
pub fn resume(disk: &impl Sectors, seen: &Claim) -> Result<Claim, Error> {
    let attempted = "finish the claim on";
    let found = match read(disk)? {
        ClaimState::HalfClaimed(found) if found.slot() == seen.slot() => found,
        found => return Err(unexpected(disk, attempted, &found)),
    };
    let geometry = found.geometry;
    if Geometry::new(geometry.sector_size(), disk.size() / geometry.sector_size()) != Some(geometry) {
        return Err(Error::Resized { device: disk.path().to_owned(), then: geometry.size(), now: disk.size() });
    }
    flush_before(disk)?;
    write_slots(disk, &found.slot())?;
    write_tables(disk, geometry, &found.identity)?;
    verify_claimed(disk, attempted, &found.slot())
}

/// Replaces the record of a claim, be it held or being released. `seen` is the claim that [`read`] found, so that no change
/// by anybody else is lost. Returns when the new record is on the disk, twice; a power cut before leaves the old one or the
/// new one. Given the record that is there already, it mends a copy that is older or damaged.
///
/// # Errors
/// [`Error::Unexpected`] if the disk does not hold that claim, with that record, any more; [`Error::RecordTooLong`]; the
/// disk's: then the disk may hold either record.
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
        Slot { record: record.to_vec(), ..next(disk, &found, mark)? }
    };
    write_slots(disk, &slot)?;
    verify_claimed(disk, attempted, &slot)
}

/// Says on the disk that its claim is being released, and no more: from now on there is no volume, and its bytes may be
/// wiped. `seen` is the claim that [`read`] found, whole or being released. Returns when that would survive a power cut.
///
/// # Errors
/// [`Error::Unexpected`] if the disk does not hold that claim any more; the disk's: then it may say so or not.
pub fn begin_release(disk: &impl Sectors, seen: &Claim) -> Result<Claim, Error> {
    let attempted = "begin to release the claim on";
    let found = match read(disk)? {
        ClaimState::Claimed(found) | ClaimState::Releasing(found) if found.slot() == seen.slot() => found,
        found => return Err(unexpected(disk, attempted, &found)),
    };
    flush_before(disk)?;
    let slot = match found.mark {
        Mark::Releasing => found.slot(),
        Mark::Claiming | Mark::Held => next(disk, &found, Mark::Releasing)?,
    };
    // Both slots have to say it, for both are erased at once in the end. One that is no slot any more is left alone.
    let held = |there: &Parsed| matches!(there, Parsed::Whole(there) if there.mark != Mark::Releasing);
    if DiskContents::at(disk)?.slots.iter().any(held) && !quarry_fault::disabled("claim-release-mark") {
        write_slots(disk, &slot)?;
        return verify_claimed(disk, attempted, &slot);
    }
    Ok(found)
}

/// Takes a claim off a disk, or goes on with that. `seen` is the claim that [`read`] found, whole or being released.
/// Afterwards nothing of ours is on the disk that a probe could find. Blocks until that is so on the disk itself.
///
/// The caller has wiped the volume by the pool's policy, and has made the kernel forget the disk's partitions.
///
/// Only what is the claim's is erased: what another program has written over it stays, and is found by the next probe.
///
/// # Errors
/// [`Error::Unexpected`] if the disk does not hold that claim any more; the disk's: then the release is to be repeated.
pub fn release(disk: &impl Sectors, seen: &Claim) -> Result<(), Error> {
    let attempted = "release the claim on";
    // First of all it is said that what follows is meant. Else a claim without its MBR would be damage.
    let found = begin_release(disk, seen)?;
    let seen = DiskContents::at(disk)?;
    if seen.first == FirstSector::Protective {
        let blank = vec![0; found.geometry.sector_size() as usize];
        put(disk, "protective MBR away", 0, &blank)?;
        flush(disk, "protective MBR away")?;
    }
    erase(disk, attempted, &found, &seen)
}

/// Takes half a claim off a disk. `seen` is the half claim that [`read`] found. Blocks until that is so on the disk
/// itself. Only what is the claim's is erased.
///
/// # Errors
/// [`Error::Unexpected`] if the half claim is not there any more; the disk's: then it is to be repeated.
pub fn clear(disk: &impl Sectors, seen: &Claim) -> Result<(), Error> {
    let attempted = "clear the half-made claim on";
    let found = match read(disk)? {
        ClaimState::HalfClaimed(found) if found.slot() == seen.slot() => found,
        found => return Err(unexpected(disk, attempted, &found)),
    };
    flush_before(disk)?;
    erase(disk, attempted, &found, &DiskContents::at(disk)?)
}

/// Both tables, then the protective MBR.
fn write_tables(disk: &impl Sectors, geometry: Geometry, identity: &Identity) -> Result<(), Error> {
    let entries = gpt::entries(geometry, identity);
    for (which, what) in [(Which::Backup, "backup table"), (Which::Primary, "primary table")] {
        let (header_at, entries_at) = gpt::places(geometry, which);
        put(disk, what, entries_at * geometry.sector_size(), &entries)?;
        put(disk, what, header_at * geometry.sector_size(), &gpt::header(geometry, identity, which))?;
        flush(disk, what)?;
    }
    put(disk, "protective MBR", 0, &gpt::protective_mbr(geometry))?;
    flush(disk, "protective MBR")
}

/// Brings both slots to say the same: first the one that does not count now, so that the other counts until it is
/// written; then that one too, so that a slot that is lost later on does not bring an old record back.
fn write_slots(disk: &impl Sectors, slot: &Slot) -> Result<(), Error> {
    let seen = DiskContents::at(disk)?.slots;
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
            put(disk, "record", offset, &slot.encode())?;
            flush(disk, "record")?;
        }
    }
    Ok(())
}

/// The tables' headers and entries, the one at the start first; then the slots.
fn erase(disk: &impl Sectors, attempted: &'static str, claim: &Claim, seen: &DiskContents) -> Result<(), Error> {
    let sector_size = claim.geometry.sector_size();
    let places = || seen.tables.iter().map(|(place, _)| *place).filter(|place| place.sector_size == sector_size);
    for place in places().filter(|place| place.sector == 1) {
        erase_table(disk, claim, place, Some(2))?;
    }
    flush(disk, "primary table away")?;
    for place in places().filter(|place| place.sector != 1) {
        erase_table(disk, claim, place, place.sector.checked_sub(claim.geometry.entries_sectors()))?;
    }
    flush(disk, "backup table away")?;
    for (offset, slot) in SLOT_OFFSETS.into_iter().zip(&seen.slots) {
        if *slot != Parsed::Absent {
            put(disk, "record away", offset, &[0; SLOT_LENGTH])?;
        }
    }
    flush(disk, "record away")?;
    match read(disk)? {
        ClaimState::Nothing | ClaimState::Foreign { .. } => Ok(()),
        found => Err(Error::Unverified { attempted, device: disk.path().to_owned(), found: found.words() }),
    }
}

/// Zeroes a header that names the claim's disk GUID, and the sector of entries that names its partitions: the entries
/// after that are zeros.
fn erase_table(
    disk: &impl Sectors,
    claim: &Claim,
    place: HeaderLocation,
    entries_at: Option<u64>,
) -> Result<(), Error> {
    let sector_size = place.sector_size;
    let blank = vec![0; sector_size as usize];
    if let Some(offset) = place.offset()
        && let Some(sector) = fetch(disk, offset, sector_size)?
        && gpt::disk_in(&sector) == Some(claim.identity.disk)
    {
        put(disk, "table away", offset, &blank)?;
    }
    if let Some(offset) = entries_at.and_then(|sector| sector.checked_mul(sector_size))
        && let Some(sector) = fetch(disk, offset, sector_size)?
        && gpt::entries_of(&sector, &claim.identity)
    {
        put(disk, "table away", offset, &blank)?;
    }
    Ok(())
}

/// The slot that follows the claim's.
fn next(disk: &impl Sectors, claim: &Claim, mark: Mark) -> Result<Slot, Error> {
    let sequence = claim.sequence.checked_add(1).ok_or_else(|| Error::Unexpected {
        attempted: "change the record on",
        device: disk.path().to_owned(),
        found: "a record whose sequence number has reached its limit".to_owned(),
    })?;
    Ok(Slot { mark, sequence, ..claim.slot() })
}

fn check_length(disk: &impl Sectors, record: &[u8]) -> Result<(), Error> {
    if record.len() > MAX_RECORD {
        return Err(Error::RecordTooLong { device: disk.path().to_owned(), length: record.len(), most: MAX_RECORD });
    }
    Ok(())
}

fn unexpected(disk: &impl Sectors, attempted: &'static str, found: &ClaimState) -> Error {
    Error::Unexpected { attempted, device: disk.path().to_owned(), found: found.words() }
}

/// What was written is what is found: nobody else writes to the disk, and the disk keeps what it is given.
fn verify_claimed(disk: &impl Sectors, attempted: &'static str, slot: &Slot) -> Result<Claim, Error> {
    match read(disk)? {
        ClaimState::Claimed(claim) | ClaimState::Releasing(claim) if claim.slot() == *slot => Ok(claim),
        found => Err(Error::Unverified { attempted, device: disk.path().to_owned(), found: found.words() }),
    }
}

/// One write, with the points at which a test may kill the process.
fn put(disk: &impl Sectors, what: &'static str, offset: u64, bytes: &[u8]) -> Result<(), Error> {
    quarry_fault::point(|| format!("claim:write {what}:before"));
    let written = disk.write_all_at(bytes, offset);
    quarry_fault::point(|| format!("claim:write {what}:after"));
    written.map_err(|source| Error::io("write to", disk.path(), source))
}

/// One flush, likewise.
fn flush(disk: &impl Sectors, what: &'static str) -> Result<(), Error> {
    if quarry_fault::disabled("claim-flush") {
        return Ok(());
    }
    flush_now(disk, what)
}

/// The flush before the first write.
fn flush_before(disk: &impl Sectors) -> Result<(), Error> {
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
