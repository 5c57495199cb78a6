//! States of disks, and their reasons.

use std::path::PathBuf;

use quarry_filesystem::Probe;

use super::*;
use crate::find::Use;
use crate::find::testing::{Host, blank};

fn nothing() -> Contents {
    Contents::Other { probe: Probe::Blank, remnants: Remnants::default() }
}

fn probed(probe: Probe) -> Contents {
    Contents::Other { probe, remnants: Remnants::default() }
}

/// The state of a disk that could be opened exclusively.
fn state(disk: &Disk, contents: &Contents) -> String {
    classify(disk, contents, || ExclusiveOpen::Possible).to_string()
}

fn used(how: How) -> Disk {
    Disk { uses: vec![Use { device: "sdb".to_owned(), how }], ..blank("sdb") }
}

#[test]
fn a_disk_is_free_if_all_checks_agree() {
    assert_eq!(classify(&blank("sdb"), &nothing(), || ExclusiveOpen::Possible), State::Free);
    assert_eq!(state(&blank("sdb"), &nothing()), "free");
}

/// Each possible problem of a disk, with its description.
fn wrong() -> Vec<(Disk, Contents, &'static str)> {
    let disk = || blank("sdb");
    let at = || PathBuf::from("/data");
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let filesystem = |kind: &str, label: Option<&str>, in_progress| {
        let (kind, label) = (kind.parse().unwrap(), label.map(str::to_owned));
        probed(Probe::Filesystem { kind, uuid: "1234".to_owned(), label, in_progress })
    };
    let other = |what: &str| probed(Probe::Other { what: what.to_owned() });
    let left = |headers: &[u64], boot| Contents::Other {
        probe: Probe::Blank,
        remnants: Remnants { headers: headers.to_vec(), boot, ..Remnants::default() },
    };
    let foreign = |what| Contents::Other {
        probe: Probe::Blank,
        remnants: Remnants { foreign: vec![what], ..Remnants::default() },
    };
    vec![
        (Disk { holders: names(&["md0"]), ..disk() }, nothing(), "in-use: is used by md0"),
        (used(How::Mounted { at: at() }), nothing(), "in-use: is mounted on /data"),
        (used(How::Published { at: at() }), nothing(), "in-use: is a raw block volume at /data"),
        (used(How::Swap), nothing(), "in-use: is used as swap"),
        (used(How::Loop { name: "loop0".to_owned() }), nothing(), "in-use: is used by loop0"),
        (used(How::Btrfs), nothing(), "in-use: is a member of a mounted btrfs"),
        (Disk { size: 0, ..disk() }, nothing(), "unusable: has a size of 0"),
        (Disk { size: 0, removable: true, ..disk() }, nothing(), "unusable: has no medium"),
        (Disk { read_only: true, ..disk() }, nothing(), "unusable: is read-only"),
        (Disk { zoned: true, ..disk() }, nothing(), "unusable: is zoned: its zones can only be written sequentially"),
        (
            Disk { logical_sector: 2048, ..disk() },
            nothing(),
            "unusable: has sectors of 2048 bytes, and Quarry needs 512 or 4096",
        ),
        (Disk { multipath: true, ..disk() }, nothing(), "unusable: is one of several paths to a multipath device"),
        (
            Disk { same_as: names(&["sdc"]), ..disk() },
            nothing(),
            "unusable: has the same world-wide name as sdc: one disk with two paths, or a clone",
        ),
        (
            disk(),
            Contents::Unreadable { why: "reading its last sectors failed: EIO".to_owned() },
            "unusable: reading its last sectors failed: EIO",
        ),
        (Disk { partitions: names(&["sdb1", "sdb2"]), ..disk() }, nothing(), "not-empty: has partitions sdb1, sdb2"),
        (disk(), filesystem("ext4", Some("data"), false), "not-empty: has an ext4 filesystem, label data"),
        (disk(), filesystem("xfs", None, false), "not-empty: has an xfs filesystem"),
        (disk(), filesystem("xfs", None, true), "not-empty: has an unfinished xfs filesystem"),
        (
            disk(),
            filesystem("btrfs", Some("a\u{1b}[2J"), false),
            "not-empty: has a btrfs filesystem, label a\\u{1b}[2J",
        ),
        (disk(), other("a member of an md array"), "not-empty: holds a member of an md array"),
        (disk(), probed(Probe::Ambivalent { what: "both a and b".to_owned() }), "not-empty: holds both a and b"),
        (disk(), foreign("an SPDK blobstore"), "not-empty: holds an SPDK blobstore"),
        (disk(), left(&[512, 4096], None), "not-empty: has remnants of a GPT (EFI PART at byte 512, 4096)"),
        (disk(), left(&[], Some(BootSector::Protective)), "not-empty: has a protective MBR"),
        (disk(), left(&[], Some(BootSector::Other)), "not-empty: has a boot signature in its first sector"),
        (
            disk(),
            left(&[512], Some(BootSector::Protective)),
            "not-empty: has a protective MBR; has remnants of a GPT (EFI PART at byte 512)",
        ),
    ]
}

#[test]
fn each_single_reason_is_enough_and_is_described() {
    for (disk, contents, text) in wrong() {
        assert_eq!(state(&disk, &contents), text);
    }
}

#[test]
fn the_exclusive_open_is_skipped_for_disks_that_are_not_free() {
    for (disk, contents, _) in wrong() {
        classify(&disk, &contents, || panic!("the disk was opened"));
    }
}

#[test]
fn the_exclusive_open_decides_last() {
    let last = |open| classify(&blank("sdb"), &nothing(), || open).to_string();
    assert_eq!(last(ExclusiveOpen::Held), "in-use: is held by another program or the kernel");
    assert_eq!(last(ExclusiveOpen::Unknown { why: "opening failed".to_owned() }), "unusable: opening failed");
}

#[test]
fn a_quarry_claim_takes_precedence() {
    let contents = Contents::Claimed { what: "volume pvc-1".to_owned() };
    for (disk, _, _) in wrong() {
        assert_eq!(classify(&disk, &contents, || panic!("the disk was opened")).to_string(), "claimed: volume pvc-1");
    }
}

#[test]
fn all_reasons_are_listed_the_first_kind_first() {
    let disk = Disk {
        read_only: true,
        partitions: vec!["sdb1".to_owned()],
        holders: vec!["dm-0".to_owned(), "md0".to_owned()],
        uses: vec![Use { device: "sdb1".to_owned(), how: How::Mounted { at: PathBuf::from("/boot") } }],
        ..blank("sdb")
    };
    let contents = probed(Probe::Other { what: "a GPT partition table".to_owned() });
    let text = "in-use: is used by dm-0, md0; is mounted on /boot (sdb1); is read-only; has partitions sdb1; holds a GPT \
                 partition table";
    assert_eq!(state(&disk, &contents), text);
}

#[test]
fn a_missing_medium_hides_the_read_error() {
    let disk = Disk { size: 0, removable: true, ..blank("sdb") };
    let contents = Contents::Unreadable { why: "opening failed".to_owned() };
    assert_eq!(state(&disk, &contents), "unusable: has no medium");
}

#[test]
fn of_many_mounts_the_shortest_are_listed() {
    let mount = |at: &str| Use { device: "sdb2".to_owned(), how: How::Mounted { at: PathBuf::from(at) } };
    let uses = (0..300).map(|n| mount(&format!("/var/lib/kubelet/pods/{n}/volume"))).chain([mount("/")]).collect();
    let text = state(&Disk { uses, ..blank("sdb") }, &nothing());
    assert!(text.starts_with("in-use: is mounted on / (sdb2), "), "{text}");
    assert!(text.ends_with(" and 296 more"), "{text}");
}

#[test]
fn states_of_a_whole_host() {
    let host = Host::new();
    let root = host.disk("pci0000:00/0000:00:02.0/virtio1/block/vda", "254:0");
    root.partition("vda1", 1, "254:1").partition("vda2", 2, "254:2");
    host.disk("pci0000:00/ata1/host0/block/sda", "8:0").holder("holders/md0");
    host.disk("pci0000:00/0000:01:00.0/nvme/nvme0/nvme0n1", "259:0");
    host.write("proc/self/mountinfo", "22 1 254:2 / / rw - ext4 /dev/root rw\n");
    host.write("proc/swaps", "Filename\n/dev/vda1 partition 1 0 -2\n");
    let states: Vec<_> = host.disks().iter().map(|disk| format!("{} {}", disk.name, state(disk, &nothing()))).collect();
    assert_eq!(
        states,
        [
            "sda in-use: is used by md0",
            "vda in-use: is mounted on / (vda2); is used as swap (vda1); has partitions vda1, vda2",
            "nvme0n1 free",
        ]
    );
}
