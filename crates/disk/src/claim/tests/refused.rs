//! What the writers refuse, without a single write; and that they erase nothing but their own.

use super::damage::{backup, repartition};
use super::*;

fn refuses<T: std::fmt::Debug>(disk: &Double, act: impl FnOnce(&Double) -> Result<T, Error>) -> Error {
    let operations = disk.operations.get();
    let error = act(disk).unwrap_err();
    assert_eq!(disk.operations.get(), operations, "it wrote or flushed, and then said {error}");
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
fn nothing_is_written_where_nothing_fits() {
    for sector_size in [512, 4096] {
        // The MBR lost; another program's table; the record lost; another claim; another adapter.
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
fn a_claim_is_made_once_and_only_on_fit_disks() {
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
fn a_change_by_somebody_else_is_not_lost() {
    let (disk, new) = claimed(512);
    let ready = set_record(&disk, &new, READY).unwrap();
    assert_eq!((new.sequence, ready.sequence), (1, 2));
    // Who still has the old picture may neither change nor release.
    refuses(&disk, |disk| set_record(disk, &new, NEW));
    refuses(&disk, |disk| release(disk, &new));
    release(&disk, &ready).unwrap();
    assert_eq!(read(&disk).unwrap(), ClaimState::Nothing);
}

#[test]
fn half_a_claim_on_a_disk_of_another_size_is_cleared_not_finished() {
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

/// Somebody made a filesystem over half a claim, and over a claim that is being released: what is his stays.
#[test]
fn only_what_is_ours_is_erased() {
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
            // And what is ours is gone.
            assert!(disk.peek(backup(sector_size).0, sector_size as usize).iter().all(|byte| *byte == 0));
            assert!(disk.peek(MIB, 4096).iter().all(|byte| *byte == 0));
        }
    }
}

#[test]
fn a_degraded_claim_is_released_whole() {
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
