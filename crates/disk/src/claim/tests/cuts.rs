//! The power is cut at every instant, and the process is killed before every write and flush. Each test
//! checks which states can result, and that the operation can be completed from each of them.

use super::double::Double;
use super::*;

/// The record of a volume that is being wiped, with its progress.
const WIPED: &[u8] = b"quarry1/s=ready/z=64";

/// The number of disks that were checked, or the unexpected state.
type Swept = Result<usize, String>;

/// The claim states that a cut may leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Nothing,
    Half,
    Claimed,
    Releasing,
}

/// The claim on the disk, which must have one of these names and one of these records. Otherwise, the
/// difference.
fn found(disk: &Double, names: &[&str], records: &[&[u8]]) -> Result<(Kind, Option<Claim>), String> {
    let (kind, claim) = match read(disk).map_err(|error| error.to_string())? {
        ClaimState::Nothing => return Ok((Kind::Nothing, None)),
        ClaimState::HalfClaimed(claim) => (Kind::Half, claim),
        ClaimState::Claimed(claim) => (Kind::Claimed, claim),
        ClaimState::Releasing(claim) => (Kind::Releasing, claim),
        other => return Err(other.describe()),
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

fn text(error: &Error) -> String {
    error.to_string()
}

/// What a pool does to claim the disk, starting from any state. Afterwards, nothing of a former owner is in the metadata
/// partition.
fn claim_disk(disk: &Double) -> Result<Claim, String> {
    let claimed = claim_from_any_state(disk)?;
    // Samples: all of it takes too long for so many disks.
    for piece in (0..2 * 1024).step_by(61).filter(|piece| piece % 1024 >= 8) {
        let at = MIB + piece * 512;
        if disk.peek(at, 512).iter().any(|byte| *byte != 0) {
            return Err(format!("a former owner's bytes at {at}"));
        }
    }
    Ok(claimed)
}

fn claim_from_any_state(disk: &Double) -> Result<Claim, String> {
    match require(disk, &[Kind::Nothing, Kind::Half, Kind::Claimed], &[NEW])? {
        (Kind::Half, Some(half)) => resume(disk, &half).map_err(|error| text(&error)),
        (_, Some(claim)) => Ok(claim),
        _ => claim(disk, NAME, NEW).map_err(|error| text(&error)),
    }
}

/// What a pool does to remove the claim, starting from any state.
fn release_disk(disk: &Double) -> Result<(), String> {
    let done = match found(disk, &[NAME], &[NEW, READY, WIPED])? {
        (Kind::Half, Some(claim)) => clear(disk, &claim),
        (_, Some(claim)) => release(disk, &claim),
        _ => Ok(()),
    };
    done.map_err(|error| text(&error))?;
    blank(disk)
}

/// Checks that no part of a partition table is left. On a disk that was all zeros, everything is zero again,
/// except for what a torn slot left.
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

/// Only one of this many cuts is cut again. On the smallest disk, which has few cuts, every one is.
fn stride(disk: &Double, cuts: &[Double]) -> usize {
    if disk.size() > 4 * MIB || cuts.len() > 64 { 19 } else { 1 }
}

/// Cuts a claim at every instant, resumes and clears every half-made claim, and cuts both of those again.
fn sweep_claim(disk: &Double) -> Swept {
    claim(disk, NAME, NEW).map_err(|error| text(&error))?;
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
        claim_disk(&resumed)?;
        if index % stride(disk, &cuts) != 0 {
            continue;
        }
        for again in resumed.cuts() {
            count += 1;
            require(&again, &[Kind::Nothing, Kind::Half, Kind::Claimed], &[NEW])?;
            claim_disk(&again)?;
            require(&again, &[Kind::Claimed], &[NEW])?;
        }
        if let (Kind::Half, Some(half)) = (kind, half) {
            let cleared = cut.copy();
            clear(&cleared, &half).map_err(|error| text(&error))?;
            blank(&cleared)?;
            for again in cleared.cuts() {
                count += 1;
                require(&again, &[Kind::Nothing, Kind::Half], &[NEW])?;
                release_disk(&again)?;
            }
            claim_other(&cleared)?;
        }
    }
    Ok(count)
}

/// Cuts a change of the record at every instant: the disk has the old or the new record. After the change it
/// has the new one, even if either copy is lost.
fn sweep_record(disk: &Double, old: &[u8], new: &[u8]) -> Swept {
    let claim = match read(disk).map_err(|error| text(&error))? {
        ClaimState::Claimed(claim) => claim,
        other => return Err(other.describe()),
    };
    set_record(disk, &claim, new).map_err(|error| text(&error))?;
    let mut count = 0;
    let cuts = disk.cuts();
    for (index, cut) in cuts.iter().enumerate() {
        count += 1;
        let (_, claim) = require(cut, &[Kind::Claimed], &[old, new])?;
        let claim = claim.ok_or("no claim")?;
        let changed = set_record(cut, &claim, new).map_err(|error| text(&error))?;
        if !changed.degraded.is_empty() {
            return Err(format!("not repaired: {:?}", changed.degraded));
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

/// Cuts a release at every instant, finishes every interrupted release, and cuts that again.
fn sweep_release(disk: &Double) -> Swept {
    let (_, seen) = require(disk, &[Kind::Claimed], &[NEW, READY])?;
    release(disk, &seen.ok_or("no claim")?).map_err(|error| text(&error))?;
    blank(disk)?;
    let mut count = 0;
    let mut releasing = 0;
    let cuts = disk.cuts();
    for (index, cut) in cuts.iter().enumerate() {
        count += 1;
        let (kind, _) = require(cut, &[Kind::Claimed, Kind::Releasing, Kind::Nothing], &[NEW, READY])?;
        releasing += usize::from(kind == Kind::Releasing);
        release_disk(cut)?;
        if index % stride(disk, &cuts) != 0 {
            continue;
        }
        for again in cut.cuts() {
            count += 1;
            require(&again, &[Kind::Claimed, Kind::Releasing, Kind::Nothing], &[NEW, READY])?;
            release_disk(&again)?;
        }
        claim_other(cut)?;
    }
    if releasing == 0 {
        return Err("the sweep missed the state".to_owned());
    }
    Ok(count)
}

/// Cuts a release that records the progress of its wipe, at every instant.
fn sweep_wipe(disk: &Double) -> Swept {
    let (_, seen) = require(disk, &[Kind::Claimed], &[READY])?;
    let begun = begin_release(disk, &seen.ok_or("no claim")?).map_err(|error| text(&error))?;
    require(disk, &[Kind::Releasing], &[READY])?;
    let noted = set_record(disk, &begun, WIPED).map_err(|error| text(&error))?;
    require(disk, &[Kind::Releasing], &[WIPED])?;
    release(disk, &noted).map_err(|error| text(&error))?;
    let (mut count, mut wiped) = (0, 0);
    for cut in disk.cuts() {
        count += 1;
        let (kind, claim) = require(&cut, &[Kind::Claimed, Kind::Releasing, Kind::Nothing], &[READY, WIPED])?;
        let is_wiped = claim.is_some_and(|claim| claim.record == WIPED);
        // A volume that is not marked as deleted must not look wiped.
        if is_wiped && kind == Kind::Claimed {
            return Err("a held claim with a wiped volume's record".to_owned());
        }
        wiped += usize::from(is_wiped);
        release_disk(&cut)?;
        claim_other(&cut)?;
    }
    if wiped == 0 {
        return Err("the sweep missed the state".to_owned());
    }
    Ok(count)
}

/// Kills the process at every write and flush of everything that a pool does. Then the operation is repeated
/// without a power cut in between, and the power is cut at every instant of the repetition.
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
    set_record(disk, &claim.ok_or("no claim")?, READY).map(drop).map_err(|error| text(&error))
}

fn claim_other(disk: &Double) -> Result<(), String> {
    claim(disk, OTHER, NEW).map(drop).map_err(|error| text(&error))
}

fn sweep_all_kills(sector_size: u32) -> Swept {
    let empty = || Double::new(16 * MIB, sector_size, Before::Zeros);
    let taken = || claimed(sector_size).0.copy();
    let used = || ready(sector_size).0.copy();
    let half = || {
        let disk = empty();
        disk.kill_after(Some(7));
        claim(&disk, NAME, NEW).unwrap_err();
        assert!(matches!(read(&disk), Ok(ClaimState::HalfClaimed(_))));
        disk.kill_after(None);
        disk.flush().unwrap();
        disk.copy()
    };
    let release_and_claim_other = |disk: &Double| release_disk(disk).and_then(|()| claim_other(disk));
    let both = [NAME, OTHER];
    let mut count = 0;
    count += sweep_kills(empty, |disk| claim_disk(disk).map(drop), |disk| claim_disk(disk).map(drop), &both)?;
    count += sweep_kills(empty, |disk| claim_disk(disk).map(drop), release_and_claim_other, &both)?;
    count += sweep_kills(taken, change, change, &both)?;
    count += sweep_kills(taken, change, release_and_claim_other, &both)?;
    count += sweep_kills(used, release_disk, release_and_claim_other, &both)?;
    count += sweep_kills(half, release_disk, release_and_claim_other, &both)?;
    Ok(count)
}

/// A sweep that checks fewer disks has missed some cuts.
fn minimum(disk: &Double) -> usize {
    if disk.size() == 4 * MIB { 100 } else { 20 }
}

#[test]
fn claiming_survives_a_power_cut_at_every_instant() {
    for disk in disks() {
        let count = sweep_claim(&disk).unwrap();
        assert!(count > minimum(&disk), "only {count} disks were checked");
    }
}

#[test]
fn record_changes_survive_a_power_cut_at_every_instant() {
    for disk in disks() {
        claim(&disk, NAME, NEW).unwrap();
        sweep_record(&disk.copy(), NEW, READY).unwrap();
        // A record that is longer than a sector, and back.
        let long = vec![b'x'; MAX_RECORD];
        let changed = disk.copy();
        sweep_record(&changed, NEW, &long).unwrap();
        sweep_record(&changed.copy(), &long, NEW).unwrap();
    }
}

#[test]
fn releasing_survives_a_power_cut_at_every_instant() {
    for disk in disks() {
        let new = claim(&disk, NAME, NEW).unwrap();
        assert!(sweep_release(&disk.copy()).unwrap() > minimum(&disk));
        set_record(&disk, &new, READY).unwrap();
        assert!(sweep_release(&disk.copy()).unwrap() > minimum(&disk));
    }
}

#[test]
fn wipe_progress_survives_a_power_cut_at_every_instant() {
    for disk in disks() {
        let claim = claim(&disk, NAME, NEW).unwrap();
        set_record(&disk, &claim, READY).unwrap();
        let count = sweep_wipe(&disk.copy()).unwrap();
        assert!(count > 20, "only {count} disks were checked");
    }
}

#[test]
fn a_released_disk_is_blank_again() {
    for disk in disks() {
        let claim = claim(&disk, NAME, NEW).unwrap();
        let noisy = disk.peek(8 * 512, 512).iter().any(|byte| *byte != 0);
        release(&disk, &claim).unwrap();
        blank(&disk).unwrap();
        assert!(noisy || all_zeros(&disk));
    }
}

#[test]
fn operations_recover_from_a_kill_at_every_write_and_flush() {
    for sector_size in [512, 4096] {
        let count = sweep_all_kills(sector_size).unwrap();
        assert!(count > 1000, "only {count} disks were checked");
    }
}

/// Proves that the sweeps can fail.
#[test]
fn the_sweeps_detect_a_disabled_safeguard() {
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
