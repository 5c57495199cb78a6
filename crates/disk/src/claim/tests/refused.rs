//! The writers reject unsuitable disks without a single write, and erase only their own bytes.

use super::damage::{backup, repartition};
use super::*;

fn refuses<T: std::fmt::Debug>(disk: &Double, act: impl FnOnce(&Double) -> Result<T, Error>) -> Error {
    let operations = disk.operations.get();
    let error = act(disk).unwrap_err();
    assert_eq!(disk.operations.get(), operations, "it wrote or flushed before it failed: {error}");
    error
}

fn refuses_all(disk: &Double, claim: &Claim) {
    refuses(disk, |disk| super::claim(disk, NAME, NEW));
    refuses(disk, |disk| set_record(disk, claim, READY));
    refuses(disk, |disk| release(disk, claim));
    refuses(disk, |disk| clear(disk, claim));
    refuses(disk, |disk| resume(disk, claim));
}

#[test]
fn nothing_is_written_if_the_contents_do_not_fit() {
    for sector_size in [512, 4096] {
        // The MBR is lost; another program's table; the record is lost; another claim; another sector size.
        let happened: [&dyn Fn(&Double); 5] = [
            &|disk| disk.poke(0, &[0; 512]),
            &|disk| repartition(disk, sector_size),
            &|disk| [MIB, MIB + MIB / 2].into_iter().for_each(|slot| disk.poke(slot + 9, b"#")),
            &|disk| {
                let claim = |disk: &Double| match read(disk).unwrap() {
                    ClaimState::Claimed(claim) => claim,
                    other => panic!("{other:?}"),
                };
                release(disk, &claim(disk)).unwrap();
                super::claim(disk, OTHER, NEW).unwrap();
            },
            &|disk| disk.attach(16 * MIB, if sector_size == 512 { 4096 } else { 512 }),
        ];
        for happens in happened {
            let (disk, claim) = ready(sector_size);
            happens(&disk);
            refuses_all(&disk, &claim);
        }
    }
}

#[test]
fn a_disk_is_claimed_once_and_only_if_it_is_suitable() {
    let (disk, claim) = claimed(512);
    let error = refuses(&disk, |disk| super::claim(disk, OTHER, NEW));
    assert!(matches!(&error, Error::Unexpected { .. }), "{error}");
    assert!(error.to_string().contains(&claim.identity.disk.to_string()), "{error}");
    for (size, sector_size) in [(4 * MIB - 512, 512), (0, 512), (64 * MIB, 520), (64 * MIB, 0), (64 * MIB, 65536)] {
        let disk = Double::new(size, sector_size, Before::Zeros);
        let error = refuses(&disk, |disk| super::claim(disk, NAME, NEW));
        assert!(matches!(error, Error::Unfit { .. }), "{error}");
        assert_eq!(read(&disk).unwrap(), ClaimState::Nothing);
    }
    let disk = Double::new(16 * MIB, 512, Before::Zeros);
    let long = vec![b'x'; MAX_RECORD + 1];
    assert!(matches!(refuses(&disk, |disk| super::claim(disk, NAME, &long)), Error::RecordTooLong { .. }));
}

#[test]
fn a_concurrent_change_is_not_overwritten() {
    let (disk, new) = claimed(512);
    let ready = set_record(&disk, &new, READY).unwrap();
    assert_eq!((new.sequence, ready.sequence), (1, 2));
    // A caller with the old state can neither change nor release the claim.
    refuses(&disk, |disk| set_record(disk, &new, NEW));
    refuses(&disk, |disk| release(disk, &new));
    release(&disk, &ready).unwrap();
    assert_eq!(read(&disk).unwrap(), ClaimState::Nothing);
}

#[test]
fn a_half_made_claim_on_a_resized_disk_can_only_be_cleared() {
    for sector_size in [512, 4096] {
        let (disk, _) = claimed(sector_size);
        disk.poke(0, &[0; 512]);
        disk.attach(20 * MIB, sector_size);
        let ClaimState::HalfClaimed(half) = read(&disk).unwrap() else { panic!("no half") };
        assert!(matches!(refuses(&disk, |disk| resume(disk, &half)), Error::Resized { .. }));
        clear(&disk, &half).unwrap();
        assert!(disk.written().values().all(|piece| piece.iter().all(|byte| *byte == 0)));
    }
}

/// Another program made a filesystem over a half-made claim, or over a claim that is being released. Its data
/// stays.
#[test]
fn only_the_claims_own_bytes_are_erased() {
    for sector_size in [512_u32, 4096] {
        let sector = u64::from(sector_size);
        for released in [false, true] {
            let (disk, claim) = if released { ready(sector_size) } else { claimed(sector_size) };
            let theirs = [(sector, [0xe4; 512]), (2 * sector, [0xe5; 512]), (MIB + MIB / 2, [0xe6; 512])];
            if released {
                disk.kill_after(Some(7));
                release(&disk, &claim).unwrap_err();
                disk.kill_after(None);
                disk.flush().unwrap();
            }
            theirs.iter().for_each(|(at, bytes)| disk.poke(*at, bytes));
            disk.poke(0, &[0xe3; 510]);
            if !released {
                disk.poke(510, &[0; 2]);
            }
            let sector_0 = disk.peek(0, 512);
            match read(&disk).unwrap() {
                ClaimState::HalfClaimed(half) => clear(&disk, &half).unwrap(),
                ClaimState::Releasing(rest) => release(&disk, &rest).unwrap(),
                other => panic!("{other:?}"),
            }
            for (at, bytes) in &theirs {
                assert_eq!(disk.peek(*at, 512), bytes, "at {at}");
            }
            assert_eq!(disk.peek(0, 512), sector_0);
            // Quarry's own bytes are gone.
            assert!(disk.peek(backup(sector_size).0, sector_size as usize).iter().all(|byte| *byte == 0));
            assert!(disk.peek(MIB, 4096).iter().all(|byte| *byte == 0));
        }
    }
}

#[test]
fn a_degraded_claim_is_released_completely() {
    for sector_size in [512, 4096] {
        let sector = u64::from(sector_size);
        let (header, entries) = backup(sector_size);
        for damage in [sector + 20, 2 * sector + 64, header + 20, entries + 64, MIB + 100, MIB + MIB / 2 + 100] {
            let (disk, _) = ready(sector_size);
            disk.poke(damage, b"#");
            let ClaimState::Claimed(claim) = read(&disk).unwrap() else { panic!("not claimed") };
            assert!(!claim.degraded.is_empty());
            release(&disk, &claim).unwrap();
            assert!(disk.written().values().all(|piece| piece.iter().all(|byte| *byte == 0)), "damage at {damage}");
        }
    }
}

/// Its flushes succeed, and the page cache has what was written.
#[test]
fn a_disk_that_loses_what_it_is_given_holds_no_claim_afterwards() {
    let disk = Double::new(16 * MIB, 512, Before::Zeros);
    disk.loses.set(true);
    let error = claim(&disk, NAME, NEW).unwrap_err();
    assert!(matches!(error, Error::Unverified { .. }), "{error}");
    let (disk, claim) = claimed(512);
    disk.loses.set(true);
    for error in [set_record(&disk, &claim, READY).unwrap_err(), release(&disk, &claim).unwrap_err()] {
        assert!(matches!(error, Error::Unverified { .. }), "{error}");
    }
}
