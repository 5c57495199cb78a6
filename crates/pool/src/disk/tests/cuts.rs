//! The process is killed before each of its operations, and another process continues.

use super::*;
use crate::Tag;

/// Creates the volume `a`, and marks it as used.
fn used(host: &Host, wipe: Wipe) {
    run(async {
        let pool = start(host, wipe);
        let volume = pool.create(&spec("a", 1)).await.unwrap();
        pool.set_record(&volume, &volume.record().unwrap().ready()).await.unwrap();
    });
}

/// Deletes the volume `a` on the first disk, and waits until its data is wiped, or until that fails.
fn delete(host: &Host, mode: Wipe) {
    run(async {
        let pool = start(host, mode);
        if let Ok(Some(volume)) = pool.find_requested("a").await {
            let _ = pool.remove(&volume).await;
        }
        for _ in 0..500 {
            if state_name(host, 1) == "releasing" && pool.status().await.problems.is_empty() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    });
}

/// An interrupted long wipe continues where it stopped, and never further on.
#[test]
fn an_interrupted_long_wipe_continues_where_it_stopped() {
    const GIB: u64 = 1 << 30;
    let prepared = || {
        let host = Host::default();
        let disk = host.disk("vdb", 200 << 10);
        used(&host, Wipe::Zero);
        for at in 0..200 {
            host.poke(disk, VOLUME_OFFSET + at * GIB - MIB * u64::from(at == 199), b"secret");
        }
        host
    };
    let secrets = |host: &Host| (0..199).filter(|at| host.peek(1, VOLUME_OFFSET + at * GIB, 6) == b"secret").count();
    let remove = |host: &Host| delete(host, Wipe::Zero);
    let host = prepared();
    let (before, zeroed) = (host.operations(), host.zeroed());
    remove(&host);
    assert_eq!((state_name(&host, 1), secrets(&host)), ("nothing", 0));
    let (total, ranges) = (host.operations() - before, host.zeroed() - zeroed);
    let mut recorded = std::collections::BTreeSet::new();
    for kill in (0..total).step_by(7) {
        let host = prepared();
        host.kill_after(kill);
        remove(&host);
        host.reboot();
        if let ClaimState::Releasing(claim) = found(&host, 1) {
            let Tag::Record(record) = Record::parse(std::str::from_utf8(&claim.record).unwrap()) else {
                panic!("no record")
            };
            recorded.insert(record.zeroed);
            for at in 0..record.zeroed.0 {
                assert_ne!(host.peek(1, VOLUME_OFFSET + at * GIB, 6), b"secret", "GiB {at} of {}", record.zeroed);
            }
        }
        let zeroed = host.zeroed();
        remove(&host);
        assert_eq!((state_name(&host, 1), secrets(&host)), ("nothing", 0), "killed before operation {kill}");
        // Not the operations: each read of the disk flushes it, and how often it is read depends on the time.
        assert!(host.zeroed() - zeroed <= ranges, "killed before operation {kill}");
    }
    assert_eq!(recorded, [0, 64, 128, 192].map(Gib).into());
}

/// The same for a volume that was being filled: the progress of the copy never counts as that of the wipe.
#[test]
fn an_interrupted_wipe_of_copied_data_continues_where_it_stopped() {
    const GIB: u64 = 1 << 30;
    let prepared = || {
        let host = Host::default();
        let disk = host.disk("vdb", 200 << 10);
        run(async {
            let pool = start(&host, Wipe::Zero);
            let filled = spec("a", 1).filled_from("s1:abcdefghij:n:s".parse().unwrap());
            let volume = pool.create(&filled).await.unwrap();
            pool.set_record(&volume, &volume.record().unwrap().zeroed(Gib(150))).await.unwrap();
        });
        for at in 0..150 {
            host.poke(disk, VOLUME_OFFSET + at * GIB, b"secret");
        }
        host
    };
    let secrets = |host: &Host| (0..150).filter(|at| host.peek(1, VOLUME_OFFSET + at * GIB, 6) == b"secret").count();
    let host = prepared();
    let before = host.operations();
    delete(&host, Wipe::Zero);
    assert_eq!((state_name(&host, 1), secrets(&host)), ("nothing", 0));
    for kill in (0..host.operations() - before).step_by(23) {
        let host = prepared();
        host.kill_after(kill);
        delete(&host, Wipe::Zero);
        host.reboot();
        delete(&host, Wipe::Zero);
        assert_eq!((state_name(&host, 1), secrets(&host)), ("nothing", 0), "killed before operation {kill}");
    }
}

/// The wipe mode may differ after a restart, so discarded ranges are not recorded as wiped.
#[test]
fn an_interrupted_long_discard_starts_again() {
    const GIB: u64 = 1 << 30;
    const SECRET: u64 = VOLUME_OFFSET + 100 * GIB;
    let prepared = || {
        let host = Host::default();
        host.set_discards(host.disk("vdb", 130 << 10));
        used(&host, Wipe::Discard);
        host.poke(1, SECRET, b"secret");
        host
    };
    let host = prepared();
    let before = host.operations();
    delete(&host, Wipe::Discard);
    assert_eq!((state_name(&host, 1), host.peek(1, SECRET, 6)), ("nothing", vec![0; 6]));
    let total = host.operations() - before;
    let mut far = 0;
    for kill in (0..total).step_by(11) {
        let host = prepared();
        host.kill_after(kill);
        delete(&host, Wipe::Discard);
        host.reboot();
        let ClaimState::Releasing(claim) = found(&host, 1) else { continue };
        let Tag::Record(record) = Record::parse(std::str::from_utf8(&claim.record).unwrap()) else {
            panic!("no record")
        };
        assert_eq!(record.zeroed, Gib::NONE, "killed before operation {kill}");
        if host.peek(1, SECRET, 6) == [0; 6] {
            far += 1;
        }
        // A disk may return discarded data again; with another pool's mode, it is zeroed.
        host.poke(1, SECRET, b"secret");
        delete(&host, Wipe::Zero);
        assert_eq!(
            (state_name(&host, 1), host.peek(1, SECRET, 6)),
            ("nothing", vec![0; 6]),
            "killed before operation {kill}"
        );
    }
    assert!(far > 0, "no kill came after a discard of more than one recorded step");
}

/// The number of operations that it takes.
fn operations(work: impl FnOnce(&Host)) -> usize {
    let host = Host::default();
    work(&host);
    host.operations()
}

/// A claim whose record says that the volume is wiped.
fn says_wiped(host: &Host, disk: u64) -> bool {
    match found(host, disk) {
        ClaimState::Claimed(claim) => String::from_utf8_lossy(&claim.record).ends_with("/c=1"),
        _ => false,
    }
}

#[test]
fn a_claim_says_wiped_only_after_the_wipe() {
    // Bytes that a probe does not recognize, at the places of signatures.
    let places = [VOLUME_OFFSET + 4096, VOLUME_OFFSET + 36 * MIB];
    let prepare = || {
        let host = Host::default();
        host.disk("vdb", 40);
        places.iter().for_each(|at| host.poke(1, *at, b"old"));
        host
    };
    let asked = VolumeSpec { access: AccessTypes::Mount, filesystem: Some(Filesystem::Ext4), ..spec("a", 1) };
    let create = |host: &Host, asked: &VolumeSpec| run(async { start(host, Wipe::None).create(asked).await.map(drop) });
    let mut killed = 0;
    for kill in 0.. {
        let host = prepare();
        host.kill_after(kill);
        let created = create(&host, &asked);
        host.reboot();
        if says_wiped(&host, 1) {
            assert_eq!(places.map(|at| host.peek(1, at, 3)), [[0; 3]; 2], "killed before operation {kill}");
        }
        if created.is_ok() {
            assert!(says_wiped(&host, 1));
            break;
        }
        // A retry comes to the same result.
        create(&host, &asked)
            .or_else(|error| if error.reason == Reason::Exists { Ok(()) } else { Err(error) })
            .unwrap();
        assert!(says_wiped(&host, 1) && places.map(|at| host.peek(1, at, 3)) == [[0; 3]; 2], "after kill {kill}");
        killed += 1;
    }
    assert!(killed > 10);
    // A volume that may be shown raw is zeroed instead.
    let host = prepare();
    create(&host, &VolumeSpec { access: AccessTypes::Both, ..asked }).unwrap();
    assert!(!says_wiped(&host, 1));
}

#[test]
fn a_create_killed_anywhere_can_be_retried_and_makes_one_volume() {
    let create = |host: &Host| run(async { start(host, Wipe::None).create(&spec("a", 1)).await });
    let total = operations(|host| {
        host.disk("vdb", 16);
        create(host).unwrap();
    });
    assert!(total > 10);
    for kill in 0..total {
        let host = Host::default();
        let disks = [host.disk("vdb", 16), host.disk("vdc", 16)];
        host.kill_after(kill);
        let _ = create(&host);
        host.reboot();
        // A process that starts in between reports space for one more volume, or for two.
        let there = run(async {
            let pool = start(&host, Wipe::None);
            let there = pool.find_requested("a").await.unwrap();
            if let Some(volume) = &there {
                assert_eq!(volume.record().unwrap().state, State::New);
            }
            assert_eq!(pool.status().await.space.available() / 13, if there.is_some() { MIB } else { 2 * MIB });
            there
        });
        if there.is_none() {
            create(&host).unwrap();
        }
        run(async {
            let pool = start(&host, Wipe::None);
            let volumes = pool.volumes().await.unwrap();
            assert_eq!(volumes.len(), 1, "killed before operation {kill}");
            pool.activate(&volumes[0]).await.unwrap();
            pool.create(&spec("b", 1)).await.unwrap();
        });
        assert_eq!(disks.map(|disk| state_name(&host, disk)), ["claimed"; 2], "killed before operation {kill}");
    }
}

#[test]
fn a_record_change_killed_anywhere_leaves_the_old_or_the_new_one() {
    let change = |host: &Host| {
        run(async {
            let pool = start(host, Wipe::None);
            let volume = pool.find_requested("a").await?.unwrap();
            pool.set_record(&volume, &volume.record().unwrap().ready()).await
        })
    };
    let prepared = || {
        let host = Host::default();
        host.disk("vdb", 16);
        run(async { start(&host, Wipe::None).create(&spec("a", 1)).await }).unwrap();
        host
    };
    let host = prepared();
    let before = host.operations();
    change(&host).unwrap();
    let total = host.operations() - before;
    let mut seen = [false; 2];
    // A record that only one copy has is written again, both before it is reported and before it is used.
    for (kill, answered) in (0..total).flat_map(|kill| [(kill, true), (kill, false)]) {
        let host = prepared();
        host.kill_after(kill);
        change(&host).unwrap_err();
        host.reboot();
        run(async {
            let pool = start(&host, Wipe::None);
            let volume = match answered {
                true => pool.find_requested("a").await.unwrap().unwrap(),
                false => pool.volume("a").await.unwrap().unwrap(),
            };
            seen[usize::from(volume.record().unwrap().state == State::Ready)] = true;
            if !answered {
                pool.activate(&volume).await.unwrap();
            }
            let ClaimState::Claimed(claim) = found(&host, 1) else { panic!("not claimed") };
            assert_eq!(claim.degraded, [], "killed before operation {kill}");
        });
        change(&host).unwrap();
    }
    assert_eq!(seen, [true; 2]);
}

#[test]
fn a_removal_killed_anywhere_is_completed() {
    const SECRET: u64 = VOLUME_OFFSET + 9 * MIB;
    for wipe in [Wipe::None, Wipe::Zero, Wipe::Discard] {
        let remove = |host: &Host| {
            run(async {
                let pool = start(host, wipe);
                let Ok(Some(volume)) = pool.find_requested("a").await else { return };
                if pool.remove(&volume).await.is_ok() {
                    // The rest is done in the background; a kill during that counts as well.
                    for _ in 0..100 {
                        if pool.status().await.problems.is_empty() && state_name(host, 1) == "releasing" {
                            tokio::time::sleep(Duration::from_millis(2)).await;
                        }
                    }
                }
            })
        };
        let prepared = || {
            let host = Host::default();
            host.disk("vdb", 16);
            used(&host, wipe);
            host.poke(1, SECRET, b"secret");
            host
        };
        let host = prepared();
        let before = host.operations();
        remove(&host);
        assert_eq!(state_name(&host, 1), "nothing");
        let total = host.operations() - before;
        assert!(total > 10);
        let mut seen = std::collections::BTreeSet::new();
        for kill in 0..total {
            let host = prepared();
            host.kill_after(kill);
            remove(&host);
            host.reboot();
            let now = state_name(&host, 1);
            seen.insert(now);
            let wiped = || wipe == Wipe::None || host.peek(1, SECRET, 6) == [0; 6];
            run(async {
                let pool = start(&host, wipe);
                match pool.find_requested("a").await.unwrap() {
                    Some(volume) => {
                        assert_eq!(now, "claimed", "{wipe:?}, killed before operation {kill}");
                        assert_eq!(volume.record().unwrap().state, State::Ready);
                        assert_eq!(host.peek(1, SECRET, 6), b"secret", "its data is unchanged");
                        pool.activate(&volume).await.unwrap();
                        pool.remove(&volume).await.unwrap();
                    }
                    None => assert_ne!(now, "claimed", "{wipe:?}, killed before operation {kill}"),
                }
                let free = pool.status().await.space.available() > 0;
                assert!(!free || wiped(), "{wipe:?}, killed before operation {kill}: free, and not wiped");
                releases_done(&pool).await;
                assert!(wiped(), "{wipe:?}, killed before operation {kill}");
                assert_eq!(pool.create(&spec("b", 1)).await.unwrap().size, 13 * MIB);
            });
        }
        assert!(seen.contains("claimed") && seen.contains("releasing"), "{seen:?}");
    }
}

/// A resumed release does not wipe before both slots have the mark: if only one has it, its sector may be
/// lost, and the volume would come back without its data.
#[test]
fn a_resumed_release_marks_both_slots_before_it_wipes() {
    const SECRET: u64 = VOLUME_OFFSET + 9 * MIB;
    let prepared = |kill: usize| {
        let host = Host::default();
        host.disk("vdb", 16);
        used(&host, Wipe::Zero);
        host.poke(1, SECRET, b"secret");
        host.kill_after(kill);
        run(async {
            let pool = start(&host, Wipe::Zero);
            if let Ok(Some(volume)) = pool.find_requested("a").await {
                let _ = pool.remove(&volume).await;
            }
        });
        host.reboot();
        host
    };
    let degraded = |host: &Host| match found(host, 1) {
        ClaimState::Releasing(claim) => claim.degraded.contains(&quarry_disk::claim::Degraded::Record),
        ClaimState::Claimed(_) => panic!("a volume is back"),
        _ => false,
    };
    // Find the kill that leaves the mark in one slot only.
    let first = (0..20).find(|kill| {
        let host = prepared(*kill);
        matches!(found(&host, 1), ClaimState::Releasing(_)) && degraded(&host)
    });
    let mut wiped = 0;
    for again in 0..20 {
        let host = prepared(first.expect("no kill leaves the mark in one slot only"));
        host.kill_after(again);
        run(async {
            let pool = start(&host, Wipe::Zero);
            for _ in 0..100 {
                if pool.status().await.problems.is_empty() && state_name(&host, 1) == "releasing" {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
        });
        host.reboot();
        let claimed = host.peek(1, 510, 2) == [0x55, 0xaa];
        if claimed && host.peek(1, SECRET, 6) != b"secret" {
            assert!(!degraded(&host), "killed before operation {again}: wiped, but marked in one slot only");
            wiped += 1;
        }
    }
    assert!(wiped > 0, "no kill came during the wipe");
}

/// The release that a scan saw has ended before it is resumed.
#[test]
fn a_completed_release_is_not_a_failure() {
    let host = Host::default();
    host.disk("vdb", 16);
    run(async {
        let pool = start(&host, Wipe::None);
        for prepare in [false, true] {
            if prepare {
                pool.create(&spec("a", 1)).await.unwrap();
            }
            let before = host.image(1);
            let disk = host.find().unwrap().disks.remove(0);
            pool.inner.releases.begin(super::super::key::DiskKey::of(&disk));
            Arc::clone(&pool.inner).release(disk, None).await;
            assert_eq!(pool.status().await.problems, Vec::<String>::new());
            assert!(host.image(1) == before, "it was written to");
        }
        assert!(pool.volume("a").await.unwrap().is_some());
    });
}

/// The release was completed while a scan that had seen it was still running.
#[test]
fn a_release_that_is_complete_is_not_resumed_from_an_outdated_view() {
    let host = Host::default();
    let disk = host.disk("vdb", 16);
    used(&host, Wipe::None);
    let ClaimState::Claimed(claim) = found(&host, disk) else { panic!("not claimed") };
    claim::begin_release(&Any(&*host.hold(&disk_of(&host, disk)).unwrap()), &claim).unwrap();
    host.reboot();
    run(async {
        let pool = start(&host, Wipe::None);
        let changes = pool.inner.memory().changes;
        let outdated = pool.inner.view().await.unwrap();
        assert!(matches!(outdated.disks[0].raw.found, Ok(ClaimState::Releasing(_))));
        releases_done(&pool).await;
        while !pool.inner.releases.all().is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        pool.inner.resume_releases(&outdated, changes);
        assert_eq!(pool.inner.releases.all(), []);
    });
}
