//! The volume of a claim is extended after its disk became larger. The power is cut at every instant, and the process
//! is killed before every write and flush.

use super::damage::forge;
use super::*;

/// The record of a volume that is being extended, and the one that it has afterwards.
const BEFORE: &[u8] = b"quarry1/s=ready/n=x/e=1.0";
const AFTER: &[u8] = b"quarry1/s=ready/n=x";

/// The size of a disk before and after it became larger: from the smallest; so little that the two backup tables
/// overlap; from an unaligned size; and over the limit of an MBR.
fn sizes() -> [(u64, u64); 5] {
    [
        (4 * MIB, 9 * MIB),
        (11 * MIB - 4096, 11 * MIB),
        (10 * MIB + 5 * 4096, 11 * MIB),
        (16 * MIB, 24 * MIB + 3 * 4096),
        (1 << 40, (3 << 40) + 4096),
    ]
}

/// A disk with a claim in use, which then became larger. At its new end, there is another disk's backup table, as each
/// sector size has it.
fn enlarged(from: u64, to: u64, sector_size: u32, before: Before) -> Double {
    let disk = Double::new(from, sector_size, before);
    let new = claim(&disk, NAME, NEW).unwrap();
    set_record(&disk, &new, BEFORE).unwrap();
    let disk = disk.copy();
    disk.attach(to, sector_size);
    disk.flush().unwrap();
    stranger(&disk, sector_size);
    disk.copy()
}

/// Writes the end of a stranger's disk to the end of this one.
fn stranger(disk: &Double, sector_size: u32) {
    let other = Double::new(disk.size(), sector_size, Before::Zeros);
    claim(&other, OTHER, NEW).unwrap();
    let sector = u64::from(sector_size);
    let (header, entries) = (disk.size() - sector, disk.size() - sector - 16384);
    forge(&other, header, entries, |header, entries| {
        header[56..72].fill(0x77);
        entries[..16].fill(0x66);
        entries[128..256].fill(0);
    });
    disk.poke(entries, &other.peek(entries, 16384 + sector_size as usize));
    disk.poke(disk.size() - if sector_size == 512 { 4096 } else { 512 }, b"EFI PART");
}

fn claim_on(disk: &Double) -> Result<Claim, String> {
    match read(disk).map_err(|error| error.to_string())? {
        ClaimState::Claimed(claim) if claim.identity == Identity::of(NAME) => Ok(claim),
        other => Err(other.describe()),
    }
}

/// What the pool does, starting from any state.
fn extend_disk(disk: &Double) -> Result<Claim, String> {
    let text = |error: Error| error.to_string();
    let claim = complete_extension(disk, &claim_on(disk)?).map_err(text)?;
    if claim.length == claim.capacity {
        // The slots of a complete extension may still differ.
        return set_record(disk, &claim, &claim.record).map_err(text);
    }
    let claim = prepare_extension(disk, &claim).map_err(text)?;
    if (claim.length, claim.record.as_slice()) == (claim.capacity, BEFORE) {
        return Err("it was extended before it was clean".to_owned());
    }
    extend(disk, &claim, AFTER).map_err(text)
}

/// The old volume with the old record, or the new one with the new record.
fn old_or_new(disk: &Double, old: u64) -> Result<bool, String> {
    let claim = claim_on(disk)?;
    let harmless = [Degraded::Record, Degraded::BackupTable, Degraded::Extending];
    if claim.degraded.iter().any(|what| !harmless.contains(what)) {
        return Err(format!("degraded: {:?}", claim.degraded));
    }
    match (claim.length, claim.record.as_slice()) {
        (length, BEFORE) if length == old => Ok(false),
        (length, AFTER) if length == capacity(disk.size()) => Ok(true),
        (length, record) => Err(format!("{length} bytes with {}", String::from_utf8_lossy(record))),
    }
}

/// The disk has the tables of a claim that was made with its size, and nothing is degraded. No other table of the claim
/// is left.
fn is_complete(disk: &Double) -> Result<(), String> {
    tables_left(disk)?.map_or(Ok(()), |at| Err(format!("a table is left at {at}")))
}

/// The same, but a table may be left somewhere. Returns where.
fn tables_left(disk: &Double) -> Result<Option<u64>, String> {
    let claim = claim_on(disk)?;
    if !claim.degraded.is_empty() || claim.length != capacity(disk.size()) || claim.extended_from.is_some() {
        return Err(format!("not complete: {claim:?}"));
    }
    let fresh = Double::new(disk.size(), disk.sector_size(), Before::Zeros);
    super::claim(&fresh, NAME, NEW).unwrap();
    let sector = disk.sector_size() as usize;
    let end = disk.size() - 16384 - sector as u64;
    for (at, length) in [(0, 16384 + 2 * sector), (end, 16384 + sector)] {
        if disk.peek(at, length) != fresh.peek(at, length) {
            return Err(format!("other bytes than those of a new claim from {at} on"));
        }
    }
    let guid = claim.identity.disk.0.to_bytes_le();
    let is_own = |piece: &super::double::Piece| piece.starts_with(b"EFI PART") && piece[56..72] == guid;
    let tables = disk.written().into_iter().filter(|(_, piece)| is_own(piece)).map(|(number, _)| number * 512);
    Ok(tables.into_iter().find(|at| *at != u64::from(disk.sector_size()) && *at < end))
}

/// Cuts an extension at every instant, completes every interrupted one, and cuts some of those again. Returns the
/// number of disks that were checked.
fn sweep(disk: &Double) -> Result<usize, String> {
    let old = claim_on(disk)?.length;
    extend_disk(disk)?;
    is_complete(disk)?;
    let (mut count, mut seen) = (0, [0; 2]);
    let cuts = disk.cuts();
    let stride = cuts.len() / 4 + 1;
    for (index, cut) in cuts.iter().enumerate() {
        count += 1;
        seen[usize::from(old_or_new(cut, old)?)] += 1;
        let resumed = cut.copy();
        extend_disk(&resumed)?;
        is_complete(&resumed)?;
        if index % stride != 0 {
            continue;
        }
        for again in resumed.cuts() {
            count += 1;
            old_or_new(&again, old)?;
            extend_disk(&again)?;
            is_complete(&again)?;
        }
        // The interrupted extension is never repeated: the volume is deleted, in one go or two.
        let released = cut.copy();
        release(&released, &claim_on(cut)?).map_err(|error| error.to_string())?;
        is_released(&released)?;
        for again in released.cuts().into_iter().step_by(5) {
            count += 1;
            match read(&again).map_err(|error| error.to_string())? {
                ClaimState::Claimed(claim) => {
                    old_or_new(&again, old).and_then(|_| release(&again, &claim).map_err(|error| error.to_string()))?
                }
                ClaimState::Releasing(claim) => release(&again, &claim).map_err(|error| error.to_string())?,
                _ => {}
            }
            is_released(&again)?;
        }
    }
    if seen.contains(&0) { Err(format!("the sweep missed a state: {seen:?}")) } else { Ok(count) }
}

/// Nothing of the claim is left. The stranger's table may be.
fn is_released(disk: &Double) -> Result<(), String> {
    match read(disk).map_err(|error| error.to_string())? {
        ClaimState::Nothing => Ok(()),
        ClaimState::Foreign { what, over: None } if !what.contains("overwritten") => Ok(()),
        other => Err(format!("after its release: {}", other.describe())),
    }
}

#[test]
fn an_extension_survives_a_power_cut_at_every_instant() {
    for sector_size in [512, 4096] {
        for (from, to) in sizes() {
            let count = sweep(&enlarged(from, to, sector_size, Before::Zeros)).unwrap();
            assert!(count > 50, "only {count} disks were checked");
        }
        sweep(&enlarged(16 * MIB, 18 * MIB, sector_size, Before::Noise(5))).unwrap();
    }
}

/// The process is killed, the disk becomes larger once more or keeps its size, and another process extends the volume.
/// In between, the power is cut.
#[test]
fn an_interrupted_extension_can_be_repeated_with_another_size() {
    for sector_size in [512, 4096] {
        for (from, to) in [(16 * MIB, 20 * MIB), (11 * MIB - 4096, 11 * MIB)] {
            for more in [0, 4096, 7 * MIB] {
                for operations in 0.. {
                    let disk = enlarged(from, to, sector_size, Before::Zeros);
                    disk.kill_after(Some(operations));
                    let killed = extend_disk(&disk).is_err();
                    disk.kill_after(None);
                    for cut in disk.cuts().into_iter().chain([disk.copy()]).step_by(13) {
                        cut.attach(to + more, sector_size);
                        let extended = extend_disk(&cut).unwrap();
                        assert_eq!(extended.length, capacity(to + more), "killed before operation {operations}");
                        // A process that was killed after it moved the backup table, and before the primary one,
                        // leaves it among the bytes that join the volume. The pool zeroes them in a raw volume; in a
                        // filesystem it does no harm.
                        let cleaned = capacity(from) + 2 * MIB..capacity(to + more) + 2 * MIB;
                        if capacity(to + more) > capacity(to) || more == 0 {
                            let left = tables_left(&cut).unwrap();
                            assert!(left.is_none_or(|at| cleaned.contains(&at)), "a table is left at {left:?}");
                        }
                    }
                    if !killed {
                        assert!(operations > 20);
                        break;
                    }
                }
            }
        }
    }
}

/// Proves that the sweep can fail.
#[test]
fn the_sweep_detects_missing_flushes() {
    for sector_size in [512, 4096] {
        let _gone = quarry_fault::disable("claim-flush");
        sweep(&enlarged(16 * MIB, 24 * MIB, sector_size, Before::Zeros)).unwrap_err();
    }
}

#[test]
fn the_volume_and_its_new_bytes_are_not_touched() {
    for sector_size in [512, 4096] {
        let disk = enlarged(16 * MIB, 24 * MIB, sector_size, Before::Noise(9));
        let (old, new) = ((2 * MIB, 15 * MIB), (16 * MIB, 23 * MIB));
        let bytes = |(from, to): (u64, u64)| disk.peek(from, (to - from) as usize);
        let before = [bytes(old), bytes(new)];
        extend_disk(&disk).unwrap();
        assert!(before == [bytes(old), bytes(new)]);
        // After the volume, nothing of a former owner is left.
        let after = disk.peek(23 * MIB, MIB as usize - 16384 - sector_size as usize);
        assert!(after.iter().all(|byte| *byte == 0));
    }
}

#[test]
fn what_came_with_the_enlarged_disk_does_no_harm() {
    for sector_size in [512, 4096] {
        let disk = enlarged(16 * MIB, 24 * MIB, sector_size, Before::Zeros);
        let claim = claim_on(&disk).unwrap();
        assert_eq!((claim.length, claim.capacity, claim.degraded), (13 * MIB, 21 * MIB, vec![]));
        // The end of another claim, and something that looks like a table.
        let other = Double::new(24 * MIB, sector_size, Before::Zeros);
        super::claim(&other, OTHER, NEW).unwrap();
        disk.poke(24 * MIB - 20480, &other.peek(24 * MIB - 20480, 20480));
        assert!(claim_on(&disk).unwrap().degraded.is_empty());
        disk.poke(24 * MIB - u64::from(sector_size) + 60, b"#");
        assert!(claim_on(&disk).unwrap().degraded.is_empty());
        // The same within the disk that was claimed is damage, and so it is without a table of the claim.
        let forged = disk.copy();
        stranger_at_the_old_end(&forged, sector_size);
        assert!(matches!(read(&forged).unwrap(), ClaimState::Damaged(damaged) if damaged.damage == Damage::Tables));
        disk.poke(u64::from(sector_size), &[0; 512]);
        disk.poke(16 * MIB - u64::from(sector_size), &[0; 512]);
        assert!(!matches!(read(&disk).unwrap(), ClaimState::Claimed(_) | ClaimState::Nothing));
    }
}

fn stranger_at_the_old_end(disk: &Double, sector_size: u32) {
    let sector = u64::from(sector_size);
    forge(disk, 16 * MIB - sector, 16 * MIB - sector - 16384, |header, entries| {
        header[56..72].fill(0x77);
        entries[..16].fill(0x66);
        entries[128..256].fill(0);
    });
}

fn refuses(disk: &Double, claim: &Claim, words: &str) {
    for extend in [prepare_extension, |disk: &Double, claim: &Claim| super::extend(disk, claim, AFTER)] {
        let operations = disk.operations.get();
        let error = extend(disk, claim).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert_eq!(disk.operations.get(), operations, "it wrote or flushed before it failed");
    }
}

#[test]
fn only_an_intact_claim_on_a_larger_disk_is_extended() {
    for sector_size in [512, 4096] {
        let make = || enlarged(16 * MIB, 24 * MIB, sector_size, Before::Zeros);
        let (disk, seen) = (make(), claim_on(&make()).unwrap());
        disk.attach(17 * MIB - 4096, sector_size);
        refuses(&disk, &seen, "no room for a larger volume");
        disk.attach(16 * MIB, sector_size);
        refuses(&disk, &seen, "no room for a larger volume");
        disk.attach(15 * MIB, sector_size);
        refuses(&disk, &seen, "no room for a larger volume");
        disk.attach(14 * MIB, sector_size);
        refuses(&disk, &seen, "smaller than when it was claimed");
        disk.attach(24 * MIB, if sector_size == 512 { 4096 } else { 512 });
        refuses(&disk, &seen, "attach it as before");
        // Only the bytes up to the size that it had are clean.
        disk.attach(25 * MIB, sector_size);
        let operations = disk.operations.get();
        let error = extend(&disk, &seen, AFTER).unwrap_err().to_string();
        assert!(error.contains("its size has changed") && disk.operations.get() == operations, "{error}");
        let disk = make();
        disk.poke(u64::from(sector_size) + 20, b"#");
        refuses(&disk, &seen, "at the start of the disk is damaged");
        let disk = make();
        let changed = set_record(&disk, &seen, READY).unwrap();
        refuses(&disk, &seen, "holds a claim");
        begin_release(&disk, &changed).unwrap();
        refuses(&disk, &changed, "being released");
        let disk = make();
        let long = vec![b'x'; MAX_RECORD + 1];
        assert!(matches!(extend(&disk, &seen, &long), Err(Error::RecordTooLong { .. })));
        // A damaged backup table is replaced.
        disk.poke(16 * MIB - u64::from(sector_size) + 20, b"#");
        extend_disk(&disk).unwrap();
        is_complete(&disk).unwrap();
    }
}

/// Two slots with different sizes are one claim only while it is being extended.
#[test]
fn slots_of_two_sizes_are_damage_unless_one_extends_the_other() {
    for sector_size in [512, 4096] {
        let small = enlarged(16 * MIB, 24 * MIB, sector_size, Before::Zeros);
        let extended = small.copy();
        extend_disk(&extended).unwrap();
        for slot in [MIB, MIB + MIB / 2] {
            let mixed = small.copy();
            mixed.poke(slot, &extended.peek(slot, 4096));
            assert!(matches!(read(&mixed).unwrap(), ClaimState::Damaged(damaged) if damaged.damage == Damage::Copies));
        }
    }
}

/// Another program shrinks the partition, or enlarges it: only the size before an extension is accepted.
#[test]
fn tables_of_other_sizes_are_damage_during_an_extension() {
    for sector_size in [512, 4096] {
        let disk = enlarged(16 * MIB, 24 * MIB, sector_size, Before::Zeros);
        extend_disk(&disk).unwrap();
        let cuts = disk.cuts();
        let is_extending = |cut: &&Double| claim_on(cut).unwrap().degraded == [Degraded::Extending];
        let cut = cuts.iter().find(is_extending).unwrap();
        let sector = u64::from(sector_size);
        forge(cut, sector, 2 * sector, |_, entries| entries[168] ^= 1);
        assert!(matches!(read(cut).unwrap(), ClaimState::Damaged(damaged) if damaged.damage == Damage::Tables));
    }
}
