//! The power is cut at every instant, and the process killed before every write and flush: what is found then, and
//! where it ends.

use super::double::Double;
use super::*;

/// The record of a volume that is being wiped, with its progress.
const WIPED: &[u8] = b"quarry1/s=ready/z=64";

/// Counts the disks that were looked at; an `Err` says what was found that may not be.
type Swept = Result<usize, String>;

/// What a look may find.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Nothing,
    Half,
    Claimed,
    Releasing,
}

/// The claim that was found, if it is one of these names with one of these records; else what is wrong.
fn found(disk: &Double, names: &[&str], records: &[&[u8]]) -> Result<(Kind, Option<Claim>), String> {
    let (kind, claim) = match read(disk).map_err(|error| error.to_string())? {
        ClaimState::Nothing => return Ok((Kind::Nothing, None)),
        ClaimState::HalfClaimed(claim) => (Kind::Half, claim),
        ClaimState::Claimed(claim) => (Kind::Claimed, claim),
        ClaimState::Releasing(claim) => (Kind::Releasing, claim),
        other => return Err(other.words()),
    };
    if !names.iter().any(|name| Identity::of(name) == claim.identity) {
        return Err(format!("another claim: {}", claim.identity.disk));
    }
    if !records.contains(&claim.record.as_slice()) {
        return Err(format!("another record: {}", String::from_utf8_lossy(&claim.record)));
    }
    if (claim.offset, claim.length) != (2 * MIB, capacity(disk.size())) {
        return Err(format!("another volume: {} bytes from {}", claim.length, claim.offset));
    }
    Ok((kind, Some(claim)))
}

fn require(disk: &Double, allowed: &[Kind], records: &[&[u8]]) -> Result<(Kind, Option<Claim>), String> {
    let (kind, claim) = found(disk, &[NAME], records)?;
    if allowed.contains(&kind) { Ok((kind, claim)) } else { Err(format!("{kind:?}")) }
}

fn words(error: &Error) -> String {
    error.to_string()
}

/// What a pool does to get its claim, from whatever there is.
fn attain(disk: &Double) -> Result<Claim, String> {
    match require(disk, &[Kind::Nothing, Kind::Half, Kind::Claimed], &[NEW])? {
        (Kind::Half, Some(half)) => resume(disk, &half).map_err(|error| words(&error)),
        (_, Some(claim)) => Ok(claim),
        _ => claim(disk, NAME, NEW).map_err(|error| words(&error)),
    }
}

/// What a pool does to get rid of one, from whatever there is.
fn shed(disk: &Double) -> Result<(), String> {
    let done = match found(disk, &[NAME], &[NEW, READY, WIPED])? {
        (Kind::Half, Some(claim)) => clear(disk, &claim),
        (_, Some(claim)) => release(disk, &claim),
        _ => Ok(()),
    };
    done.map_err(|error| words(&error))?;
    blank(disk)
}

/// Nothing of a partition table is left; and on a disk that was zeros, nothing at all but what a torn slot left.
fn blank(disk: &Double) -> Result<(), String> {
    require(disk, &[Kind::Nothing], &[])?;
    for (number, piece) in disk.written() {
        if piece.starts_with(b"EFI PART") || (number == 0 && piece[510..] == [0x55, 0xaa]) {
            return Err(format!("signature left in piece {number}"));
        }
    }
    Ok(())
}

fn all_zeros(disk: &Double) -> bool {
    disk.written().values().all(|piece| piece.iter().all(|byte| *byte == 0))
}

/// Of how many cuts one is cut again: all on the smallest disk, where they are few.
fn stride(disk: &Double, cuts: &[Double]) -> usize {
    if disk.size() > 4 * MIB || cuts.len() > 64 { 19 } else { 1 }
}

/// The claim, cut at every instant; every half resumed and cleared, both cut again.
fn sweep_claim(disk: &Double) -> Swept {
    claim(disk, NAME, NEW).map_err(|error| words(&error))?;
    let mut count = 0;
    let cuts = disk.cuts();
    for (index, cut) in cuts.iter().enumerate() {
        count += 1;
        let (kind, half) = require(cut, &[Kind::Nothing, Kind::Half, Kind::Claimed], &[NEW])?;
        // Sector 0 is the commit point.
        if (kind == Kind::Claimed) != (cut.peek(0, 512)[510..] == [0x55, 0xaa]) {
            return Err("claimed without its commit point, or not claimed with it".to_owned());
        }
        let resumed = cut.copy();
        attain(&resumed)?;
        if index % stride(disk, &cuts) != 0 {
            continue;
        }
        for again in resumed.cuts() {
            count += 1;
            require(&again, &[Kind::Nothing, Kind::Half, Kind::Claimed], &[NEW])?;
            attain(&again)?;
            require(&again, &[Kind::Claimed], &[NEW])?;
        }
        if let (Kind::Half, Some(half)) = (kind, half) {
            let cleared = cut.copy();
            clear(&cleared, &half).map_err(|error| words(&error))?;
            blank(&cleared)?;
            for again in cleared.cuts() {
                count += 1;
                require(&again, &[Kind::Nothing, Kind::Half], &[NEW])?;
                shed(&again)?;
            }
            claim_other(&cleared)?;
        }
    }
    Ok(count)
}

/// A change of the record, cut at every instant: the old one or the new one, and after it the new one whichever copy is
/// lost.
fn sweep_record(disk: &Double, old: &[u8], new: &[u8]) -> Swept {
    let claim = match read(disk).map_err(|error| words(&error))? {
        ClaimState::Claimed(claim) => claim,
        other => return Err(other.words()),
    };
    set_record(disk, &claim, new).map_err(|error| words(&error))?;
    let mut count = 0;
    let cuts = disk.cuts();
    for (index, cut) in cuts.iter().enumerate() {
        count += 1;
        let (_, claim) = require(cut, &[Kind::Claimed], &[old, new])?;
        let claim = claim.ok_or("no claim")?;
        let changed = set_record(cut, &claim, new).map_err(|error| words(&error))?;
        if !changed.degraded.is_empty() {
            return Err(format!("not mended: {:?}", changed.degraded));
        }
        if index % stride(disk, &cuts) != 0 {
            continue;
        }
        for again in cut.cuts() {
            count += 1;
            require(&again, &[Kind::Claimed], &[old, new])?;
        }
        for lost in [MIB, MIB + MIB / 2] {
            let cut = cut.copy();
            cut.poke(lost + 100, &[0xff; 4]);
            let (_, claim) = require(&cut, &[Kind::Claimed], &[new])?;
            if claim.is_none_or(|claim| claim.degraded != [Degraded::Record]) {
                return Err("a lost copy is not shown".to_owned());
            }
        }
    }
    require(disk, &[Kind::Claimed], &[new])?;
    Ok(count)
}

/// A release, cut at every instant; every rest released again, cut again.
fn sweep_release(disk: &Double) -> Swept {
    let (_, seen) = require(disk, &[Kind::Claimed], &[NEW, READY])?;
    release(disk, &seen.ok_or("no claim")?).map_err(|error| words(&error))?;
    blank(disk)?;
    let mut count = 0;
    let mut releasing = 0;
    let cuts = disk.cuts();
    for (index, cut) in cuts.iter().enumerate() {
        count += 1;
        let (kind, _) = require(cut, &[Kind::Claimed, Kind::Releasing, Kind::Nothing], &[NEW, READY])?;
        releasing += usize::from(kind == Kind::Releasing);
        shed(cut)?;
        if index % stride(disk, &cuts) != 0 {
            continue;
        }
        for again in cut.cuts() {
            count += 1;
            require(&again, &[Kind::Claimed, Kind::Releasing, Kind::Nothing], &[NEW, READY])?;
            shed(&again)?;
        }
        claim_other(cut)?;
    }
    if releasing == 0 {
        return Err("the sweep saw nothing".to_owned());
    }
    Ok(count)
}

/// A release with the progress of its wiping noted, cut at every instant.
fn sweep_wipe(disk: &Double) -> Swept {
    let (_, seen) = require(disk, &[Kind::Claimed], &[READY])?;
    let begun = begin_release(disk, &seen.ok_or("no claim")?).map_err(|error| words(&error))?;
    require(disk, &[Kind::Releasing], &[READY])?;
    let noted = set_record(disk, &begun, WIPED).map_err(|error| words(&error))?;
    require(disk, &[Kind::Releasing], &[WIPED])?;
    release(disk, &noted).map_err(|error| words(&error))?;
    let (mut count, mut wiped) = (0, 0);
    for cut in disk.cuts() {
        count += 1;
        let (kind, claim) = require(&cut, &[Kind::Claimed, Kind::Releasing, Kind::Nothing], &[READY, WIPED])?;
        let is_wiped = claim.is_some_and(|claim| claim.record == WIPED);
        // A volume that looks as if nobody had deleted it must not look wiped.
        if is_wiped && kind == Kind::Claimed {
            return Err("a held claim with a wiped volume's record".to_owned());
        }
        wiped += usize::from(is_wiped);
        shed(&cut)?;
        claim_other(&cut)?;
    }
    if wiped == 0 {
        return Err("the sweep saw nothing".to_owned());
    }
    Ok(count)
}

/// Everything a pool does, with the process killed at every write and flush; then it is done again, without a power cut
/// between, and the power is cut at every instant of that.
fn sweep_kills(
    make: impl Fn() -> Double,
    act: impl Fn(&Double) -> Result<(), String>,
    then: impl Fn(&Double) -> Result<(), String>,
    names: &[&str],
) -> Swept {
    let mut count = 0;
    for operations in 0.. {
        let disk = make();
        disk.kill_after(Some(operations));
        let killed = act(&disk).is_err();
        disk.kill_after(None);
        found(&disk, names, &[NEW, READY])?;
        then(&disk)?;
        for cut in disk.cuts() {
            count += 1;
            found(&cut, names, &[NEW, READY])?;
        }
        if !killed {
            return Ok(count);
        }
    }
    Ok(count)
}

fn change(disk: &Double) -> Result<(), String> {
    let (_, claim) = require(disk, &[Kind::Claimed], &[NEW, READY])?;
    set_record(disk, &claim.ok_or("no claim")?, READY).map(drop).map_err(|error| words(&error))
}

fn claim_other(disk: &Double) -> Result<(), String> {
    claim(disk, OTHER, NEW).map(drop).map_err(|error| words(&error))
}

fn sweep_all_kills(sector_size: u32) -> Swept {
    let empty = || Double::new(16 * MIB, sector_size, Before::Zeros);
    let taken = || claimed(sector_size).0.copy();
    let used = || ready(sector_size).0.copy();
    let half = || {
        let disk = empty();
        disk.kill_after(Some(8));
        claim(&disk, NAME, NEW).unwrap_err();
        assert!(matches!(read(&disk), Ok(ClaimState::HalfClaimed(_))));
        disk.kill_after(None);
        disk.flush().unwrap();
        disk.copy()
    };
    let shed_for_another = |disk: &Double| shed(disk).and_then(|()| claim_other(disk));
    let both = [NAME, OTHER];
    let mut count = 0;
    count += sweep_kills(empty, |disk| attain(disk).map(drop), |disk| attain(disk).map(drop), &both)?;
    count += sweep_kills(empty, |disk| attain(disk).map(drop), shed_for_another, &both)?;
    count += sweep_kills(taken, change, change, &both)?;
    count += sweep_kills(taken, change, shed_for_another, &both)?;
    count += sweep_kills(used, shed, shed_for_another, &both)?;
    count += sweep_kills(half, shed, shed_for_another, &both)?;
    Ok(count)
}

/// A sweep that looks at less than this has not cut what it should.
fn least(disk: &Double) -> usize {
    if disk.size() == 4 * MIB { 100 } else { 20 }
}

#[test]
fn a_claim_is_cut_at_every_instant() {
    for disk in disks() {
        let count = sweep_claim(&disk).unwrap();
        assert!(count > least(&disk), "only {count} disks were looked at");
    }
}

#[test]
fn a_record_is_cut_at_every_instant() {
    for disk in disks() {
        claim(&disk, NAME, NEW).unwrap();
        sweep_record(&disk.copy(), NEW, READY).unwrap();
        // Longer than a sector, and back.
        let long = vec![b'x'; MAX_RECORD];
        let changed = disk.copy();
        sweep_record(&changed, NEW, &long).unwrap();
        sweep_record(&changed.copy(), &long, NEW).unwrap();
    }
}

#[test]
fn a_release_is_cut_at_every_instant() {
    for disk in disks() {
        let new = claim(&disk, NAME, NEW).unwrap();
        assert!(sweep_release(&disk.copy()).unwrap() > least(&disk));
        set_record(&disk, &new, READY).unwrap();
        assert!(sweep_release(&disk.copy()).unwrap() > least(&disk));
    }
}

#[test]
fn a_wipes_progress_is_cut_at_every_instant() {
    for disk in disks() {
        let claim = claim(&disk, NAME, NEW).unwrap();
        set_record(&disk, &claim, READY).unwrap();
        let count = sweep_wipe(&disk.copy()).unwrap();
        assert!(count > 20, "only {count} disks were looked at");
    }
}

#[test]
fn a_released_disk_is_as_it_was() {
    for disk in disks() {
        let claim = claim(&disk, NAME, NEW).unwrap();
        let noisy = disk.peek(8 * 512, 512).iter().any(|byte| *byte != 0);
        release(&disk, &claim).unwrap();
        blank(&disk).unwrap();
        assert!(noisy || all_zeros(&disk));
    }
}

#[test]
fn every_write_and_flush_is_killed_before_and_begun() {
    for sector_size in [512, 4096] {
        let count = sweep_all_kills(sector_size).unwrap();
        assert!(count > 1000, "only {count} disks were looked at");
    }
}

/// The sweeps find what they are there for.
#[test]
fn without_a_safeguard_the_sweeps_find_a_violation() {
    for sector_size in [512, 4096] {
        let safe = |name| quarry_fault::disable(name);
        {
            let _gone = safe("claim-flush");
            sweep_claim(&Double::new(16 * MIB, sector_size, Before::Zeros)).unwrap_err();
            sweep_record(&claimed(sector_size).0.copy(), NEW, READY).unwrap_err();
        }
        {
            let used = ready(sector_size).0.copy();
            let _gone = safe("claim-flush");
            sweep_release(&used).unwrap_err();
        }
        {
            let used = ready(sector_size).0.copy();
            let _gone = safe("claim-release-mark");
            sweep_release(&used).unwrap_err();
        }
        {
            let _gone = safe("claim-flush-before");
            sweep_all_kills(sector_size).unwrap_err();
        }
    }
}
