//! Uses of disks, from the kernel's tables.

use std::path::PathBuf;

use super::super::testing::Host;
use super::super::{How, Use};

/// A disk `sda` with the partitions 1 to 3, and another disk.
fn host() -> Host {
    let host = Host::new();
    let disk = host.disk("pci0000:00/ata1/host0/block/sda", "8:0");
    disk.partition("sda1", 1, "8:1").partition("sda2", 2, "8:2").partition("sda3", 3, "8:3");
    host.disk("pci0000:00/ata2/host1/block/sdb", "8:16");
    host
}

fn uses(host: &Host) -> Vec<Vec<Use>> {
    host.disks().into_iter().map(|disk| disk.uses).collect()
}

fn used(device: &str, how: How) -> Use {
    Use { device: device.to_owned(), how }
}

fn at(path: &str) -> PathBuf {
    PathBuf::from(path)
}

#[test]
fn mounts_count_by_number_for_disks_and_partitions() {
    let host = host();
    host.write(
        "proc/self/mountinfo",
        "22 1 8:2 / / rw - ext4 /dev/root rw\n\
         23 22 8:1 / /boot\\040efi rw - vfat /dev/sda1 rw\n\
         24 22 8:2 /sub /bind rw - ext4 /dev/root rw\n\
         25 22 8:2 / / rw - ext4 /dev/root rw\n\
         26 22 8:17 / /other rw - ext4 /dev/sdb1 rw\n\
         27 22 8:16 / /data rw - xfs /dev/sdb rw\n",
    );
    let mounted = |device, path| used(device, How::Mounted { at: at(path) });
    assert_eq!(
        uses(&host),
        [
            vec![mounted("sda1", "/boot efi"), mounted("sda2", "/"), mounted("sda2", "/bind")],
            vec![mounted("sdb", "/data")]
        ],
        "each once, and none of a number that is not theirs"
    );
}

#[test]
fn btrfs_counts_by_its_source_and_by_its_members() {
    let host = host();
    host.link("dev/disk/by-uuid/1234", "../../sda2");
    host.write("proc/self/mountinfo", "22 1 0:45 /sub / rw - btrfs /dev/disk/by-uuid/1234 rw\n");
    let mounted = vec![used("sda2", How::Mounted { at: at("/") })];
    assert_eq!(uses(&host), [mounted.clone(), vec![]]);
    // The mount table has only one of several members. sysfs lists all, as links.
    host.write("sys/fs/btrfs/features/raid56", "1");
    host.link("sys/fs/btrfs/0d17b9c6/devices/sda2", "../../../../block/sda/sda2");
    host.link("sys/fs/btrfs/0d17b9c6/devices/sdb", "../../../../block/sdb");
    assert_eq!(uses(&host), [mounted, vec![used("sdb", How::Btrfs)]]);
    host.write("proc/self/mountinfo", "22 1 0:45 /sub / rw - btrfs /dev/root rw\n");
    assert_eq!(uses(&host), [vec![used("sda2", How::Btrfs)], vec![used("sdb", How::Btrfs)]]);
}

#[test]
fn a_mount_source_missing_in_this_container_counts_by_its_name() {
    let host = host();
    std::fs::remove_file(host.path("dev/sda3")).unwrap();
    host.write(
        "proc/self/mountinfo",
        "22 1 0:45 / /data rw - btrfs /dev/sda3 rw\n23 22 0:46 / /s rw - nfs4 host:/sda rw\n",
    );
    assert_eq!(uses(&host), [vec![used("sda3", How::Mounted { at: at("/data") })], vec![]]);
}

#[test]
fn swap_counts() {
    let host = host();
    let swaps = "Filename\tType\tSize\tUsed\tPriority\n/dev/sda3 partition 1 0 -2\n/sdb file 1 0 -3\n";
    host.write("proc/swaps", swaps);
    assert_eq!(uses(&host), [vec![used("sda3", How::Swap)], vec![]]);
}

#[test]
fn published_raw_block_volumes_count() {
    let host = host();
    // What kubelet does: it mounts the node on a file, and makes a loop device over that file.
    host.write(
        "proc/self/mountinfo",
        "30 22 0:5 /sdb /var/lib/kubelet/plugins/block/pod rw - devtmpfs udev rw\n\
         31 22 0:5 / /dev rw - devtmpfs udev rw\n\
         32 22 0:5 /sda2//deleted /gone rw - devtmpfs udev rw\n",
    );
    host.disk("virtual/block/loop0", "7:0").set("loop/backing_file", "/var/lib/kubelet/plugins/block/pod");
    host.disk("virtual/block/loop1", "7:1").set("loop/backing_file", "/dev/sda1");
    host.disk("virtual/block/loop2", "7:2").set("loop/backing_file", "/images/sdb (deleted)");
    let published = |device, path| used(device, How::Published { at: at(path) });
    let looped = |device, name: &str| used(device, How::Loop { name: name.to_owned() });
    assert_eq!(
        uses(&host),
        [
            vec![looped("sda1", "loop1"), published("sda2", "/gone")],
            vec![published("sdb", "/var/lib/kubelet/plugins/block/pod"), looped("sdb", "loop0")],
        ]
    );
}
