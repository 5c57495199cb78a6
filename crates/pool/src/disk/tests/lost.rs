//! Disks that are pulled, unreadable or damaged: a volume that may exist is never reported as nonexistent.

use super::*;

#[test]
fn a_volume_whose_disk_is_pulled_is_lost_and_found_again_under_another_name() {
    let host = Host::default();
    let disk = host.disk("vdb", 16);
    host.disk("vdc", 16);
    run(async {
        let pool = start(&host, Wipe::None);
        let volume = pool.create(&spec("a", 1)).await.unwrap();
        pool.volumes().await.unwrap();
        host.pull(disk);
        pool.uevents().count(true);
        let lost = pool.volume("a").await.unwrap().unwrap();
        assert!(
            matches!(&lost.health, Health::Lost(why) if why.contains("vdb") && why.contains("missing")),
            "{lost:?}"
        );
        let steps = pool.read(None).await.state.repair;
        assert!(steps.len() == 3 && steps[1].contains("(a, on vdb)"), "{steps:?}");
        assert_eq!(pool.device(&volume).unwrap(), None);
        assert_eq!(pool.activate(&volume).await.unwrap_err().reason, Reason::Precondition);
        assert_eq!(pool.remove(&volume).await.unwrap_err().reason, Reason::Unavailable);
        assert_eq!(pool.create(&spec("a", 1)).await.unwrap_err().reason, Reason::Exists, "not twice");
        // The other volumes work.
        pool.create(&spec("b", 1)).await.unwrap();

        host.put_back(disk, "vdz");
        pool.uevents().count(true);
        let back = pool.volume("a").await.unwrap().unwrap();
        assert_eq!((back.health.clone(), &back.key), (Health::Whole, &volume.key));
        assert_eq!(pool.read(None).await.state.repair, Vec::<String>::new());
        assert_eq!(pool.activate(&back).await.unwrap().node().unwrap(), PathBuf::from("/dev/vdz2"));
        assert_eq!(pool.device(&volume).unwrap(), Some(PathBuf::from("/dev/vdz2")));
        pool.remove(&back).await.unwrap();
        assert!(pool.volume("a").await.unwrap().is_none());
    });
}

#[test]
fn two_disks_that_swapped_their_names_keep_their_volumes() {
    let host = Host::default();
    let [one, other] = [host.disk("vdb", 16), host.disk("vdc", 24)];
    run(async {
        let pool = start(&host, Wipe::None);
        let volume = pool.create(&spec("a", 1)).await.unwrap();
        pool.create(&spec("b", 1)).await.unwrap();
        pool.volumes().await.unwrap();
        host.put_back(one, "vdc");
        host.put_back(other, "vdb");
        pool.uevents().count(true);
        pool.volume("a").await.unwrap();
        assert_eq!(pool.device(&volume).unwrap(), Some(PathBuf::from("/dev/vdc2")));
    });
}

#[test]
fn an_unread_disk_may_hold_any_volume() {
    let host = Host::default();
    let disk = host.disk("vdb", 16);
    host.disk("vdc", 16);
    host.set_unreadable(disk);
    run(async {
        let pool = start(&host, Wipe::None);
        for error in [
            pool.volume("a").await.map(drop),
            pool.find_requested("a").await.map(drop),
            pool.volumes().await.map(drop),
            pool.create(&spec("a", 1)).await.map(drop),
        ] {
            let error = error.unwrap_err();
            assert_eq!(error.reason, Reason::Unavailable);
            assert!(error.message.contains("vdb"), "{}", error.message);
        }
        let reading = pool.read(None).await;
        assert!(matches!(reading.volumes, Volumes::Unreadable));
        assert!(reading.state.space.closed.is_some());
    });
}

#[test]
fn a_disk_that_fails_later_affects_only_its_own_volume() {
    let host = Host::default();
    let disk = host.disk("vdb", 16);
    host.disk("vdc", 24);
    run(async {
        let pool = start(&host, Wipe::None);
        pool.create(&spec("a", 1)).await.unwrap();
        pool.volumes().await.unwrap();
        host.set_unreadable(disk);
        pool.uevents().count_disk("vdb");
        pool.uevents().count(false);
        let lost = pool.volume("a").await.unwrap().unwrap();
        assert!(matches!(&lost.health, Health::Lost(why) if why.contains("bad sector")), "{lost:?}");
        assert!(pool.status().await.problems.iter().any(|problem| problem.contains("vdb cannot be read")));
        assert!(pool.find_requested("b").await.unwrap().is_none());
        assert_eq!(pool.create(&spec("b", 1)).await.unwrap().size, 21 * MIB);
    });
}

#[test]
fn a_disk_with_an_overwritten_table_is_neither_free_nor_forgotten() {
    let host = Host::default();
    let disk = host.disk("vdb", 16);
    run(async {
        let pool = start(&host, Wipe::None);
        let volume = pool.create(&spec("a", 1)).await.unwrap();
        pool.set_record(&volume, &volume.record().unwrap().ready()).await.unwrap();
    });
    host.poke(disk, 0, &[0; 512]);
    host.reboot();
    let before = host.image(disk);
    run(async {
        // A new process that has never seen the claim intact.
        let pool = start(&host, Wipe::Zero);
        let state = pool.status().await;
        assert!(state.problems.iter().any(|problem| problem.contains("damaged")), "{:?}", state.problems);
        assert_eq!(state.space.available(), 0);
        assert_eq!(pool.create(&spec("b", 1)).await.unwrap_err().reason, Reason::NoSpace);
    });
    assert!(host.image(disk) == before, "it was written to");
}

#[test]
fn a_hanging_disk_delays_only_itself() {
    let host = Host::default();
    let [hanging, _] = ["vdb", "vdc"].map(|name| host.disk(name, 16));
    host.set_hanging(hanging, true);
    run(async {
        let mut pool = start(&host, Wipe::None);
        Arc::get_mut(&mut pool.inner).unwrap().reader = Reader::with_patience(Duration::from_secs(1));
        let state = pool.status().await;
        assert!(
            state.problems.iter().any(|problem| problem.contains("vdb") && problem.contains("not answered")),
            "{state:?}"
        );
        assert_eq!(pool.volume("a").await.unwrap_err().reason, Reason::Unavailable, "it may be there");
        // An unresponsive disk is not read again, and nothing waits for it.
        pool.uevents().count(false);
        let began = Instant::now();
        let state = pool.status().await;
        assert!(state.problems.iter().any(|problem| problem.contains("an earlier read")), "{state:?}");
        assert!(began.elapsed() < Duration::from_secs(1));
        host.set_hanging(hanging, false);
        for _ in 0..100 {
            pool.uevents().count(false);
            if pool.status().await.problems.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(pool.volumes().await.unwrap().len(), 0);
        assert_eq!(pool.status().await.space.available(), 26 * MIB);
    });
}

/// A disk that could be read may still hang when blkid probes it.
#[test]
fn an_unresponsive_disk_is_unknown_and_not_probed_again() {
    let host = Host::default();
    let [unresponsive, _] = ["vdb", "vdc"].map(|name| host.disk(name, 16));
    host.set_unresponsive(unresponsive, true);
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().unwrap().block_on(async {
        let disks: Arc<dyn Disks> = Arc::new(host.clone());
        let queries = scan::Queries::default();
        let raw = |disk: quarry_disk::Disk| scan::read_held(&*host.read(&disk).unwrap(), &disk);
        let state_of = async || {
            let own = host.find().unwrap().disks.into_iter().map(raw).collect();
            let seen = scan::determine_states(&disks, &queries, own, &[]).await.unwrap();
            [0, 1].map(|index| seen[index].state.clone())
        };
        let unknown = |state: &Disk, part: &str| matches!(state, Disk::Unknown { why } if why.contains(part));

        let began = tokio::time::Instant::now();
        let [one, other] = state_of().await;
        assert!(unknown(&one, "not answered for 30 s"), "{one:?}");
        assert_eq!(other, Disk::Free);
        assert!(began.elapsed() >= Duration::from_secs(30));

        let (began, asked) = (tokio::time::Instant::now(), host.probes());
        let [one, other] = state_of().await;
        assert!(unknown(&one, "an earlier request"), "{one:?}");
        assert_eq!((other, host.probes()), (Disk::Free, asked + 1), "only the other one is probed");
        assert!(began.elapsed() < Duration::from_secs(1), "nothing waits for it");

        host.set_unresponsive(unresponsive, false);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(state_of().await, [Disk::Free, Disk::Free]);
    });
}

#[test]
fn a_volume_on_an_unselected_disk_still_exists() {
    let host = Host::default();
    let disk = host.disk("vdb", 16);
    run(async { start(&host, Wipe::None).create(&spec("a", 1)).await.unwrap() });
    host.change(disk, |disk| disk.by_id.clear());
    run(async {
        let pool = start(&host, Wipe::None);
        let error = pool.volume("a").await.unwrap_err();
        assert_eq!(error.reason, Reason::Unavailable);
        assert!(error.message.contains("vdb") && error.message.contains("no pool's selector"), "{}", error.message);
        assert!(pool.volume("b").await.unwrap().is_none());
    });
}

/// The configuration was changed: the volume's disk belongs to another pool now.
#[test]
fn a_volume_on_a_disk_of_another_pool_still_exists() {
    let host = Host::default();
    host.disk("vdb", 16);
    run(async { start(&host, Wipe::None).create(&spec("a", 1)).await.unwrap() });
    let pools = [("whole", "y-*"), ("other", "x-*")];
    run(async {
        let pool = start_of(&host, Wipe::None, "whole", &pools);
        let error = pool.volume("a").await.unwrap_err();
        assert_eq!(error.reason, Reason::Unavailable);
        assert!(error.message.contains("vdb") && error.message.contains("pool other"), "{}", error.message);
        assert!(pool.volume("b").await.unwrap().is_none());
        // It is not a problem of this pool; for its name, the other pool is responsible.
        assert_eq!(pool.status().await.problems, Vec::<String>::new());
        assert!(pool.find_requested("a").await.unwrap().is_none());
        let other = start_of(&host, Wipe::None, "other", &pools);
        assert!(other.find_requested("a").await.unwrap().is_some());
    });
}

/// Two pools select it: it may belong to this one once that is resolved, and until then, it may hold any
/// volume of either.
#[test]
fn an_unreadable_doubtful_disk_may_hold_any_volume() {
    let host = Host::default();
    let disk = host.disk("vdb", 16);
    host.disk("vdc", 16);
    host.set_unreadable(disk);
    let pools = [("whole", "x-*"), ("other", "x-vdb"), ("third", "y-*")];
    run(async {
        let pool = start_of(&host, Wipe::None, "whole", &pools);
        let error = pool.volume("a").await.unwrap_err();
        assert!(error.reason == Reason::Unavailable && error.message.contains("vdb"), "{}", error.message);
        assert_eq!(pool.create(&spec("a", 1)).await.unwrap_err().reason, Reason::Unavailable);
        // A pool that does not select it is not affected.
        let third = start_of(&host, Wipe::None, "third", &pools);
        assert!(third.volume("a").await.unwrap().is_none());
    });
}

/// A disk that was enlarged beyond the sizes that its pool selects.
#[test]
fn a_volume_whose_disk_has_outgrown_its_pool_says_so() {
    let host = Host::default();
    let disk = host.disk("vdb", 16);
    let size = Some(Sizes { at_least: None, at_most: Some(20 * MIB) });
    let by_size = Selector::new(Criteria { size, ..Criteria::default() }, Criteria::default()).unwrap();
    let start = || {
        let (disks, selectors) = (Arc::new(host.clone()), [("whole".to_owned(), by_size.clone())]);
        DiskPool::over(disks, "whole".to_owned(), Wipe::None, selectors.into(), Uevents::default())
    };
    run(async {
        start().create(&spec("a", 1)).await.unwrap();
        host.resize(disk, 24);
        let error = start().volume("a").await.unwrap_err();
        assert!(error.reason == Reason::Unavailable && error.message.contains("raise size.atMost"), "{error:?}");
    });
}

/// A disk that hangs after a boot also keeps udev from naming it, so whether the pool selects it is unknown.
#[test]
fn an_unreadable_disk_without_names_may_hold_any_volume() {
    let host = Host::default();
    let disk = host.disk("vdb", 16);
    host.disk("vdc", 16);
    host.set_unreadable(disk);
    host.change(disk, |disk| (disk.by_id, disk.udev) = (Vec::new(), Udev::Missing));
    run(async {
        let pool = start(&host, Wipe::None);
        let error = pool.volume("a").await.unwrap_err();
        assert!(error.reason == Reason::Unavailable && error.message.contains("vdb"), "{}", error.message);
        assert_eq!(pool.create(&spec("a", 1)).await.unwrap_err().reason, Reason::Unavailable);
        // Once udev knows the disk, its names decide.
        host.change(disk, |disk| (disk.by_id, disk.udev) = (vec!["system".into()], Udev::Current));
        pool.uevents().count(true);
        assert!(pool.volume("a").await.unwrap().is_none());
    });
}

/// The kernel could not ask the disk for its size. An empty card reader has none either, and holds nothing.
#[test]
fn a_disk_without_a_size_may_hold_any_volume() {
    let sizes = |at_least, at_most| {
        let size = Some(Sizes { at_least, at_most });
        Selector::new(Criteria { size, ..Criteria::default() }, Criteria::default()).unwrap()
    };
    let large = ("whole".to_owned(), sizes(Some(MIB), None));
    let small = ("small".to_owned(), sizes(None, Some(MIB - 1)));
    let by_name = ("whole".to_owned(), selector("x-*"));
    for (selectors, removable, complete) in [
        (vec![large.clone()], false, false),
        (vec![large.clone()], true, true),
        (vec![large, small], false, false),
        (vec![by_name], false, false),
    ] {
        let host = Host::default();
        let disk = host.disk("vdb", 16);
        host.change(disk, |disk| (disk.size, disk.removable) = (0, removable));
        host.disk("vdc", 16);
        run(async {
            let disks = Arc::new(host.clone());
            let pool = DiskPool::over(disks, "whole".to_owned(), Wipe::None, selectors.into(), Uevents::default());
            match pool.volume("a").await {
                Ok(found) => assert!(complete && found.is_none()),
                Err(error) => {
                    assert!(!complete && error.reason == Reason::Unavailable, "{error:?}");
                    assert!(error.message.contains("the disk vdb") && error.message.contains("size"), "{error:?}");
                }
            }
        });
    }
}
