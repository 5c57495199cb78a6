//! Disks that are never claimed, and half-made claims that are finished.

use super::double::SIGNATURE;
use super::*;

/// A pool whose only disk is unsuitable for some reason.
fn refuses(why: &str, spoil: impl FnOnce(&Host, u64)) {
    let host = Host::default();
    let disk = host.disk("vdb", 16);
    spoil(&host, disk);
    let before = host.image(disk);
    run(async {
        let pool = start(&host, Wipe::Zero);
        let error = pool.create(&spec("a", 1)).await.unwrap_err();
        assert_eq!(error.reason, Reason::NoSpace);
        assert!(error.message.contains(why), "{:?} does not say {why:?}", error.message);
        assert_eq!(pool.status().await.space.available(), 0);
    });
    assert!(host.image(disk) == before, "{why}: it was written to");
}

#[test]
fn a_disk_that_is_not_free_is_not_claimed_or_changed() {
    refuses("foreign data", |host, disk| host.poke(disk, SIGNATURE.0, SIGNATURE.1));
    for at in [512, 4096, (16 << 20) - 512, (16 << 20) - 4096] {
        refuses("EFI PART", |host, disk| host.poke(disk, at, b"EFI PART"));
    }
    // Formats that libblkid does not know.
    refuses("holds an SPDK blobstore", |host, disk| host.poke(disk, 0, b"SPDKBLOB"));
    refuses("holds a provider of GEOM", |host, disk| host.poke(disk, (16 << 20) - 512, b"GEOM::ELI"));
    refuses("boot signature", |host, disk| host.poke(disk, 510, &[0x55, 0xaa]));
    refuses("is held by another program", |host, disk| host.set_held(disk, true));
    refuses("is read-only", |host, disk| host.change(disk, |disk| disk.read_only = true));
    refuses("has partitions vdb1", |host, disk| host.change(disk, |disk| disk.partitions = vec!["vdb1".into()]));
    refuses("used by md0", |host, disk| host.change(disk, |disk| disk.holders = vec!["md0".into()]));
    refuses("is mounted on /x", |host, disk| host.set_use(disk, How::Mounted { at: "/x".into() }));
    refuses("is a raw block volume", |host, disk| host.set_use(disk, How::Published { at: "/x".into() }));
    refuses("same world-wide name", |host, disk| host.change(disk, |disk| disk.same_as = vec!["vdc".into()]));
    refuses("matches no other disk", |host, disk| host.change(disk, |disk| disk.by_id.clear()));
}

/// Between the scan and the moment when the disk is held, something else used it.
#[test]
fn everything_is_checked_again_once_the_disk_is_held() {
    type Spoil = fn(&Host, u64);
    let spoils: [(&str, Spoil); 6] = [
        ("foreign data", |host, disk| host.poke(disk, SIGNATURE.0, SIGNATURE.1)),
        ("EFI PART", |host, disk| host.poke(disk, 512, b"EFI PART")),
        ("is mounted on /x", |host, disk| host.set_use(disk, How::Mounted { at: "/x".into() })),
        ("is held by another program", |host, disk| host.set_held(disk, true)),
        ("matches no other disk", |host, disk| host.pull(disk)),
        ("is gone", |host, disk| host.put_back(disk, "vdc")),
    ];
    for (why, spoil) in spoils {
        let host = Host::default();
        let disk = host.disk("vdb", 16);
        run(async {
            let pool = start(&host, Wipe::None);
            pool.status().await;
            host.before_hold(move |host| spoil(host, disk));
            let error = pool.create(&spec("a", 1)).await.unwrap_err();
            assert_eq!(error.reason, Reason::NoSpace);
            assert!(error.message.contains(why), "{:?} does not say {why:?}", error.message);
        });
        assert_eq!(host.peek(disk, MIB, 8), [0; 8], "{why}: no record was written");
    }
}

/// A shared LUN, or a device-mapper table on the disk: this kernel keeps what it has read before.
#[test]
fn what_was_written_past_the_page_cache_is_seen_once_the_disk_is_held() {
    for (at, bytes, why) in [(SIGNATURE.0, SIGNATURE.1, "foreign data"), (512, b"EFI PART".as_slice(), "EFI PART")] {
        let host = Host::default();
        let disk = host.disk("vdb", 16);
        run(async {
            let pool = start(&host, Wipe::None);
            pool.status().await;
            host.write_elsewhere(disk, at, bytes);
            let error = pool.create(&spec("a", 1)).await.unwrap_err();
            assert!(error.reason == Reason::NoSpace && error.message.contains(why), "{}", error.message);
        });
        assert_eq!(host.peek(disk, MIB, 8), [0; 8], "{why}: no record was written");
    }
    let host = Host::default();
    let disk = host.disk("vdb", 16);
    host.set_keeping_cache(disk);
    run(async {
        let error = start(&host, Wipe::None).create(&spec("a", 1)).await.unwrap_err();
        assert!(error.reason == Reason::NoSpace && error.message.contains("cannot be dropped"), "{}", error.message);
    });
    assert_eq!(state_name(&host, disk), "nothing");
}

/// Otherwise the record would have another size than the claim, and the rest of the volume would not be zeroed.
#[test]
fn a_disk_whose_size_changed_since_the_scan_is_not_claimed() {
    for mib in [12, 24] {
        let host = Host::default();
        let disk = host.disk("vdb", 16);
        run(async {
            let pool = start(&host, Wipe::None);
            pool.status().await;
            host.before_hold(move |host| host.resize(disk, mib));
            let error = pool.create(&spec("a", 1)).await.unwrap_err();
            assert!(error.reason == Reason::NoSpace && error.message.contains("changed its size"), "{}", error.message);
            assert_eq!(state_name(&host, disk), "nothing");
            let volume = pool.create(&spec("a", 1)).await.unwrap();
            assert_eq!((volume.size, volume.record().unwrap().size), ((mib - 3) * MIB, (mib - 3) * MIB));
        });
    }
}

#[test]
fn a_disk_of_two_pools_belongs_to_neither() {
    let host = Host::default();
    let both = host.disk("vdb", 16);
    let pools = [("one", "x-vdb"), ("two", "x-*")];
    run(async {
        for name in ["one", "two"] {
            let pool = start_of(&host, Wipe::None, name, &pools);
            let problems = pool.status().await.problems.join("\n");
            for part in ["vdb", "one and two"] {
                assert!(problems.contains(part), "{problems}");
            }
            assert_eq!(pool.create(&spec("a", 1)).await.unwrap_err().reason, Reason::NoSpace);
        }
        assert_eq!(state_name(&host, both), "nothing");
        // A volume on such a disk still exists, and neither pool may change it.
        let only_pool = start_of(&host, Wipe::None, "two", &pools[1..]);
        let volume = only_pool.create(&spec("a", 1)).await.unwrap();
        for name in ["one", "two"] {
            let pool = start_of(&host, Wipe::None, name, &pools);
            for error in
                [pool.volume("a").await.map(drop), pool.find_requested("a").await.map(drop), pool.remove(&volume).await]
            {
                assert_eq!(error.unwrap_err().reason, Reason::Unavailable);
            }
            assert!(pool.volume("b").await.unwrap().is_none());
        }
        assert_eq!(state_name(&host, both), "claimed");
    });
}

/// A disk with a half-made claim of volume `a`, as an interrupted creation leaves it.
fn half(host: &Host, disk: u64, kill_after: usize) {
    host.kill_after(kill_after);
    run(async { start(host, Wipe::None).create(&spec("a", 1)).await.unwrap_err() });
    host.reboot();
    assert_eq!(state_name(host, disk), "half");
}

#[test]
fn a_half_made_claim_is_finished_for_its_own_volume_and_cleared_for_another() {
    for (asked, size, sequence) in [("a", 1, Some(1)), ("a", 2, Some(1)), ("b", 1, Some(1)), ("b", 20, None)] {
        let host = Host::default();
        let disk = host.disk("vdb", 16);
        half(&host, disk, 6);
        run(async {
            let pool = start(&host, Wipe::None);
            assert!(pool.find_requested("a").await.unwrap().is_none(), "a half-made claim is not a volume");
            assert_eq!(pool.status().await.space.available(), 13 * MIB, "it is free apart from that");
            let made = pool.create(&spec(asked, size)).await;
            match sequence {
                None => {
                    assert_eq!(made.unwrap_err().reason, Reason::NoSpace);
                    assert_eq!(state_name(&host, disk), "nothing");
                }
                Some(sequence) => {
                    assert_eq!(made.unwrap().name, asked);
                    let ClaimState::Claimed(claim) = found(&host, disk) else { panic!("not claimed") };
                    assert_eq!(claim.sequence, sequence);
                }
            }
        });
    }
}

#[test]
fn a_half_made_claim_on_a_disk_in_use_is_not_changed() {
    for asked in ["a", "b"] {
        let host = Host::default();
        let disk = host.disk("vdb", 16);
        half(&host, disk, 6);
        host.poke(disk, SIGNATURE.0, SIGNATURE.1);
        let before = host.image(disk);
        run(async {
            let pool = start(&host, Wipe::None);
            assert_eq!(pool.create(&spec(asked, 1)).await.unwrap_err().reason, Reason::NoSpace);
        });
        assert!(host.image(disk) == before, "it was written to");
    }
}

/// There is no event when a program releases a disk that it held exclusively.
#[test]
fn a_released_disk_becomes_free_without_an_event() {
    let host = Host::default();
    let disk = host.disk("vdb", 16);
    host.set_held(disk, true);
    run(async {
        let pool = start(&host, Wipe::None);
        assert_eq!(pool.status().await.space.available(), 0);
        host.set_held(disk, false);
        if let Some(kept) = &mut pool.inner.memory().seen {
            (kept.at, kept.asked) = (kept.at - 2 * RECHECK, kept.asked - 2 * RECHECK);
        }
        assert!(pool.status().await.space.available() > 0);
    });
}

/// A worn disk can be read but not written. It fits best, and must not block the others.
#[test]
fn an_unwritable_disk_is_skipped_for_a_while() {
    let host = Host::default();
    let [worn, other] = [host.disk("vdb", 16), host.disk("vdc", 24)];
    host.set_unwritable(worn, true);
    run(async {
        let pool = start(&host, Wipe::None);
        assert_eq!(pool.create(&spec("a", 1)).await.unwrap().size, 21 * MIB);
        let state = pool.status().await;
        assert!(state.problems.iter().any(|why| why.contains("vdb") && why.contains("worn")), "{:?}", state.problems);
        assert_eq!(state.space.available(), 0, "it is not offered");
        let error = pool.create(&spec("b", 1)).await.unwrap_err();
        assert_eq!(error.reason, Reason::NoSpace);
        assert!(error.message.contains("vdb could not be claimed"), "{}", error.message);
        // A minute later.
        pool.inner.failures.age();
        host.set_unwritable(worn, false);
        pool.inner.invalidate();
        assert_eq!(pool.create(&spec("b", 1)).await.unwrap().size, 13 * MIB);
        assert_eq!(pool.status().await.problems, Vec::<String>::new());
    });
    assert_eq!([worn, other].map(|disk| state_name(&host, disk)), ["claimed"; 2]);
}

/// Its claim was started and cannot be finished: another disk is used, and the half-made claim is cleared
/// when possible.
#[test]
fn an_unfinishable_half_made_claim_does_not_block_its_volume() {
    let host = Host::default();
    let [worn, other] = [host.disk("vdb", 16), host.disk("vdc", 24)];
    half(&host, worn, 6);
    assert_eq!(state_name(&host, worn), "half");
    host.set_unwritable(worn, true);
    run(async {
        let pool = start(&host, Wipe::None);
        assert_eq!(pool.create(&spec("a", 1)).await.unwrap().size, 21 * MIB);
        assert_eq!(state_name(&host, worn), "half");
        host.set_unwritable(worn, false);
        pool.inner.failures.age();
        pool.inner.invalidate();
        assert_eq!(pool.create(&spec("b", 1)).await.unwrap().size, 13 * MIB);
    });
    let names = [worn, other].map(|disk| match found(&host, disk) {
        ClaimState::Claimed(claim) => super::super::view::name(&claim),
        _ => None,
    });
    assert_eq!(names, [Some("b".to_owned()), Some("a".to_owned())]);
}

/// The last write of a claim has reached the disk when it is pulled, or fails. Until it is read again, nothing shows
/// whether the volume exists, so it is not made on another disk: the two would hold the same volume.
#[test]
fn a_volume_may_exist_on_a_disk_that_failed_in_its_claim() {
    type Spoil = fn(&Host, u64);
    let spoils: [Spoil; 2] = [|host, disk| host.pull(disk), |host, disk| host.set_unreadable(disk)];
    for (spoil, resumed) in spoils.into_iter().flat_map(|spoil| [(spoil, false), (spoil, true)]) {
        let host = Host::default();
        let [disk, other] = [host.disk("vdb", 16), host.disk("vdc", 24)];
        if resumed {
            half(&host, disk, 6);
        }
        run(async {
            let pool = start(&host, Wipe::None);
            pool.status().await;
            host.after_write(disk, 0, move |host| spoil(host, disk));
            let error = pool.create(&spec("a", 1)).await.unwrap_err();
            assert!(!error.reason.is_final(), "{error:?}");
            // Nor by a retry, as long as the disk was not read.
            assert_eq!(pool.create(&spec("a", 1)).await.unwrap_err().reason, Reason::Exists);
            let lost = pool.find_requested("a").await.unwrap().unwrap();
            assert!(matches!(&lost.health, Health::Lost(why) if why.contains("vdb")), "{lost:?}");
            assert_eq!(state_name(&host, other), "nothing");
            // Other volumes are made.
            assert_eq!(pool.create(&spec("b", 1)).await.unwrap().size, 21 * MIB);
            if host.find().unwrap().disks.len() == 1 {
                host.put_back(disk, "vdz");
                pool.uevents().count(true);
                let volume = pool.find_requested("a").await.unwrap().unwrap();
                assert_eq!((volume.size, volume.health), (13 * MIB, Health::Whole));
            }
        });
    }
}

/// Then nothing of its claim was written, and another disk is used.
#[test]
fn a_disk_that_is_pulled_before_its_claim_is_written_holds_no_volume() {
    let host = Host::default();
    let [disk, _] = [host.disk("vdb", 16), host.disk("vdc", 24)];
    run(async {
        let pool = start(&host, Wipe::None);
        pool.status().await;
        host.before_zero(move |host| host.pull(disk));
        assert_eq!(pool.create(&spec("a", 1)).await.unwrap().size, 21 * MIB);
    });
}
