//! The disks that a pool of another kind selects.

use super::double::SIGNATURE;
use super::*;

/// The disks that the pool `group` selects; another pool, of whole disks, has `y-*`.
fn select(host: &Host, uevents: &Uevents) -> Arc<Selection> {
    let pools = [("group", "x-*"), ("whole", "y-*")];
    let selectors: Arc<[_]> = pools.iter().map(|(name, by_id)| ((*name).to_owned(), selector(by_id))).collect();
    Arc::new(Selection::over(Arc::new(host.clone()), "group".to_owned(), selectors, uevents.clone()))
}

/// The states of the selected disks, by name.
async fn states(selection: &Arc<Selection>) -> Vec<(String, String)> {
    let mut states: Vec<_> =
        selection.read().await.unwrap().disks.into_iter().map(|(disk, state)| (disk.name, state.to_string())).collect();
    states.sort();
    states
}

#[test]
fn only_selected_disks_that_hold_nothing_are_free() {
    let host = Host::default();
    let [_blank, foreign, other, claimed, half] = ["vdb", "vdc", "vdd", "vde", "vdf"].map(|name| host.disk(name, 16));
    host.poke(foreign, SIGNATURE.0, SIGNATURE.1);
    host.change(other, |disk| disk.by_id = vec!["y-vdd".into()]);
    run(async {
        // A volume of a pool of whole disks that had this disk before.
        let pool = start_of(&host, Wipe::None, "whole", &[("whole", "x-vde")]);
        pool.create(&spec("a", 1)).await.unwrap();
        let ClaimState::Claimed(_) = found(&host, claimed) else { panic!("not claimed") };
        // Half of it on another disk: everything but the first MiB.
        let image = host.image(claimed);
        host.poke(half, MIB, &image[usize::try_from(MIB).unwrap()..]);

        let selection = select(&host, &Uevents::default());
        let states = states(&selection).await;
        let names: Vec<&str> = states.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["vdb", "vdc", "vde", "vdf"], "{states:?}");
        assert_eq!(states[0].1, "free");
        for (index, part) in [(1, "foreign data"), (2, "volume a"), (3, "claim")] {
            assert!(states[index].1.contains(part) && !states[index].1.starts_with("free"), "{states:?}");
        }
        for (number, name) in [(foreign, "vdc"), (claimed, "vde"), (half, "vdf")] {
            let disk = disk_of(&host, number);
            assert!(selection.hold_free(&disk).await.is_err(), "{name}");
        }
        let why = selection.hold_free(&disk_of(&host, other)).await.map(drop).unwrap_err();
        assert!(why.contains("no longer belongs"), "{why}");
    });
}

#[test]
fn a_disk_is_checked_again_once_it_is_held() {
    let host = Host::default();
    let disk = host.disk("vdb", 16);
    run(async {
        let selection = select(&host, &Uevents::default());
        assert_eq!(states(&selection).await[0].1, "free");
        let held = selection.hold_free(&disk_of(&host, disk)).await.unwrap();
        assert!(selection.hold_free(&disk_of(&host, disk)).await.is_err(), "it is held");
        drop(held);
        host.before_hold(move |host| host.poke(disk, SIGNATURE.0, SIGNATURE.1));
        let why = selection.hold_free(&disk_of(&host, disk)).await.map(drop).unwrap_err();
        assert!(why.contains("foreign data"), "{why}");
    });
}

#[test]
fn what_was_written_past_the_page_cache_is_seen_once_a_disk_is_held() {
    let host = Host::default();
    let disk = host.disk("vdb", 16);
    run(async {
        let selection = select(&host, &Uevents::default());
        host.write_elsewhere(disk, SIGNATURE.0, SIGNATURE.1);
        assert_eq!(states(&selection).await[0].1, "free");
        let why = selection.hold_free(&disk_of(&host, disk)).await.map(drop).unwrap_err();
        assert!(why.contains("foreign data"), "{why}");
    });
}

#[test]
fn disks_are_read_again_only_after_an_event() {
    let host = Host::default();
    let disk = host.disk("vdb", 16);
    run(async {
        let uevents = Uevents::default();
        let selection = select(&host, &uevents);
        assert!(selection.may_have_changed(), "nothing was read yet");
        states(&selection).await;
        assert!(!selection.may_have_changed());
        let probes = host.probes();
        host.poke(disk, SIGNATURE.0, SIGNATURE.1);
        assert_eq!((states(&selection).await[0].1.as_str(), host.probes()), ("free", probes), "no event");
        uevents.count_disk("vdb");
        uevents.count(false);
        assert!(selection.may_have_changed());
        assert!(states(&selection).await[0].1.contains("foreign data"));
        assert!(!selection.may_have_changed());
        selection.changed(&disk_of(&host, disk));
        assert!(selection.may_have_changed(), "this process has changed it");
    });
}

/// The kernel's event comes before udev has handled the disk, and udev's is not received.
#[test]
fn a_disk_that_udev_handles_later_is_found_without_another_event() {
    let host = Host::default();
    let [disk, other] = ["vdb", "vdc"].map(|name| host.disk(name, 16));
    host.change(other, |disk| disk.by_id = vec!["y-vdc".into()]);
    for (udev, wait) in [(Udev::Awaited, FRESH), (Udev::Stale { why: "old".into() }, FRESH), (Udev::Missing, RECHECK)] {
        run(async {
            host.change(disk, |disk| (disk.udev, disk.by_id) = (udev, Vec::new()));
            let selection = select(&host, &Uevents::default());
            assert!(states(&selection).await.is_empty());
            assert!(!selection.may_have_changed());
            selection.age(wait);
            assert!(selection.may_have_changed());
            host.change(disk, |disk| (disk.udev, disk.by_id) = (Udev::Current, vec!["x-vdb".into()]));
            assert_eq!(states(&selection).await[0].1, "free");
            selection.age(2 * RECHECK);
            assert!(!selection.may_have_changed(), "all is known");
        });
    }
}

#[test]
fn a_disk_of_two_pools_is_a_problem() {
    let host = Host::default();
    let disk = host.disk("vdb", 16);
    host.change(disk, |disk| disk.by_id = vec!["x-vdb".into(), "y-vdb".into()]);
    run(async {
        let selection = select(&host, &Uevents::default());
        let selected = selection.read().await.unwrap();
        assert!(selected.disks.is_empty());
        assert!(selected.problems[0].contains("group and whole"), "{:?}", selected.problems);
        assert!(selection.hold_free(&disk_of(&host, disk)).await.is_err());
    });
}
