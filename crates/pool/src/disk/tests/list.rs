//! The report on every disk of a host, for an operator.

use quarry_disk::claim::Claim;

use super::super::list::list;
use super::double::SIGNATURE;
use super::*;
use crate::disk::disks::Disks;

type Selectors = Arc<[(String, Selector)]>;

fn selectors(pools: &[(&str, &str)]) -> Option<Selectors> {
    Some(pools.iter().map(|(name, by_id)| ((*name).to_owned(), selector(by_id))).collect())
}

/// One line per disk: name, pool, state and reason.
fn listed(host: &Host, selectors: Option<Selectors>, root: bool) -> Vec<String> {
    let disks: Arc<dyn Disks> = Arc::new(host.clone());
    let line = |report: &DiskReport| {
        let pool = report.owner.as_ref().and_then(Owner::pool).unwrap_or("-");
        format!("{} {pool} {} {}", report.disk.name, report.state_name(), report.reason().unwrap_or_default())
    };
    run(async { list(&disks, selectors, root).await.unwrap().disks.iter().map(line).collect() })
}

/// Claims a disk for the volume with this record, without a pool.
fn claim_of(host: &Host, number: u64, name: &str, record: &Record) -> Claim {
    let disks = host.find().unwrap().disks;
    let disk = disks.iter().find(|disk| disk.number.minor == 16 * number).unwrap();
    claim::claim(&Any(&*host.hold(disk).unwrap()), name, record.to_string().as_bytes()).unwrap()
}

#[test]
fn every_disk_is_listed_with_its_reason() {
    let host = Host::default();
    host.disk("vda", 16);
    host.poke(host.disk("vdb", 16), SIGNATURE.0, SIGNATURE.1);
    host.change(host.disk("vdc", 16), |disk| disk.holders = vec!["md0".into()]);
    host.set_held(host.disk("vdd", 16), true);
    host.set_unreadable(host.disk("vde", 16));
    // Neither is read: one cannot hold anything, and the other may be a dead path.
    for (name, change) in [
        ("vdf", (|disk| disk.multipath = true) as fn(&mut quarry_disk::Disk)),
        ("vdg", |disk| (disk.size, disk.removable) = (0, true)),
    ] {
        let disk = host.disk(name, 16);
        host.set_unreadable(disk);
        host.change(disk, change);
    }
    let claimed = host.disk("vdh", 24);
    claim_of(&host, claimed, "pvc-1", &Record::new(&spec("pvc-1", 1), 1));
    host.set_unreadable(host.disk("other", 16));
    let lines = listed(&host, selectors(&[("whole", "x-vd*")]), true);
    let expected = [
        "other - unusable ",
        "vda whole free ",
        "vdb whole not-empty holds foreign data",
        "vdc whole in-use is used by md0",
        "vdd whole in-use is held by another program or the kernel",
        "vde whole unusable ",
        "vdf whole unusable is one of several paths to a multipath device",
        "vdg whole unusable has no medium",
        "vdh whole claimed volume pvc-1",
    ];
    assert_eq!(lines.len(), expected.len());
    for (line, expected) in lines.iter().zip(expected) {
        match expected.ends_with("unusable ") {
            true => assert!(line.starts_with(expected) && line.contains("a bad sector"), "{line}"),
            false => assert_eq!(line, expected),
        }
    }
}

#[test]
fn the_pool_of_each_disk_is_listed_if_pools_are_configured() {
    let host = Host::default();
    let both = host.disk("vdb", 16);
    let unselected = host.disk("wda", 16);
    host.disk("wdb", 16);
    claim_of(&host, both, "a", &Record::new(&spec("a", 1), 1));
    claim_of(&host, unselected, "b", &Record::new(&spec("b", 1), 1));
    assert_eq!(
        listed(&host, selectors(&[("one", "x-vdb"), ("two", "x-v*")]), true),
        [
            "vdb - claimed volume a; the disk vdb (x-vdb) belongs to the pools one and two: change their selectors so \
             that only one of them matches it; until then, no pool uses it",
            "wda - claimed volume b; no pool's selector matches it",
            "wdb - free ",
        ]
    );
    assert_eq!(listed(&host, None, true), ["vdb - claimed volume a", "wda - claimed volume b", "wdb - free "]);
}

#[test]
fn interrupted_operations_are_listed() {
    let host = Host::default();
    let [disk, half] = [host.disk("vdb", 4096), host.disk("vdc", 16)];
    let whole = claim_of(&host, disk, "a", &Record::new(&spec("a", 1), 1).zeroed(Gib(1)));
    let vdb = host.find().unwrap().disks.remove(0);
    // The release was started and killed: the mark is there, and the protective MBR is not removed yet.
    for budget in 0.. {
        host.kill_after(budget);
        let _ = claim::release(&Any(&*host.hold(&vdb).unwrap()), &whole);
        if state_name(&host, disk) == "releasing" {
            break;
        }
    }
    host.kill_after(3);
    let vdc = host.find().unwrap().disks.remove(1);
    let record = Record::new(&spec("c", 1), 1).to_string();
    claim::claim(&Any(&*host.hold(&vdc).unwrap()), "c", record.as_bytes()).unwrap_err();
    host.reboot();
    assert_eq!(state_name(&host, half), "half");
    host.change(disk, |disk| disk.partitions.clear());
    // 1 GiB of 4093 MiB.
    assert_eq!(
        listed(&host, None, true),
        [
            "vdb - wiping volume a was deleted; being wiped, 25%",
            "vdc - free it has a half-made claim of volume c; the next volume creation finishes or clears it",
        ]
    );
}

#[test]
fn without_permission_to_read_no_disk_is_listed_as_free() {
    let host = Host::default();
    for (name, mounted) in [("vda", true), ("vdb", false)] {
        let disk = host.disk(name, 16);
        host.set_unreadable(disk);
        host.change(disk, |disk| disk.partitions = vec![format!("{name}1")]);
        if mounted {
            host.set_use(disk, How::Mounted { at: "/".into() });
        }
    }
    assert_eq!(
        listed(&host, None, false),
        ["vda - in-use is mounted on /; has partitions vda1", "vdb - unknown only root can read its contents",]
    );
    // If a user other than root can read a disk, its contents are reported.
    host.disk("vdc", 16);
    assert_eq!(listed(&host, None, false)[2], "vdc - free ");
}

#[test]
fn listing_disks_changes_nothing() {
    let host = Host::default();
    let [free, claimed] = [host.disk("vdb", 16), host.disk("vdc", 16)];
    claim_of(&host, claimed, "a", &Record::new(&spec("a", 1), 1));
    let before = (host.image(free), host.image(claimed), host.operations());
    listed(&host, selectors(&[("whole", "x-*")]), true);
    assert!(before == (host.image(free), host.image(claimed), host.operations()));
}
