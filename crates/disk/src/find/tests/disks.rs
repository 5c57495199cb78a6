//! Facts about disks.

use quarry_mount::Device;

use super::super::testing::Host;
use super::super::{Error, Transport, Udev, find, open};

const VIRTIO: &str = "pci0000:00/0000:00:02.0/virtio1/block/vda";
const SCSI: &str = "pci0000:00/0000:00:03.0/virtio2/host0/target0:0:1/0:0:1:0/block/sdb";
const SATA: &str = "pci0000:00/0000:00:1f.2/ata3/host2/target2:0:0/2:0:0:0/block/sda";

#[test]
fn a_virtio_disk_is_found_with_the_kernel_alone() {
    let host = Host::new();
    host.disk(VIRTIO, "254:0").set("serial", "data-1").set("diskseq", "9").set("queue/rotational", "1");
    let disk = host.only();
    assert_eq!((disk.name.as_str(), disk.node.clone()), ("vda", host.path("dev/vda")));
    assert_eq!(disk.number, Device { major: 254, minor: 0 });
    assert_eq!(disk.sequence, Some(9));
    assert_eq!(disk.size, 1 << 30, "sysfs counts in 512 bytes");
    assert_eq!((disk.logical_sector, disk.physical_sector), (512, 4096));
    assert_eq!(disk.serial.as_deref(), Some("data-1"));
    assert_eq!((disk.model, disk.wwn), (None, None));
    assert_eq!(disk.transport, Transport::Virtio);
    assert!(disk.rotational && !disk.read_only && !disk.removable && !disk.zoned);
    assert_eq!(disk.udev, Udev::Missing);
    assert!(disk.holders.is_empty() && disk.partitions.is_empty() && disk.uses.is_empty() && disk.by_id.is_empty());
}

#[test]
fn sectors_of_4096_bytes_change_nothing_about_the_size() {
    let host = Host::new();
    host.disk(SCSI, "8:16").set("queue/logical_block_size", "4096");
    let disk = host.only();
    assert_eq!((disk.size, disk.logical_sector), (1 << 30, 4096));
}

#[test]
fn an_nvme_disk_is_found_with_its_partitions() {
    let host = Host::new();
    let nvme = host.disk("pci0000:00/0000:01:00.0/nvme/nvme0/nvme0n1", "259:0");
    nvme.set("wwid", "eui.0025385b21404321")
        .set("device/model", "Samsung SSD 970 EVO Plus 1TB            ")
        .set("device/serial", "S4EWNX0R100001      ")
        .set("device/transport", "pcie")
        .partition("nvme0n1p10", 10, "259:11")
        .partition("nvme0n1p2", 2, "259:2");
    // A path to it that the kernel's multipath combines with others, and a folder that is not a partition.
    host.disk("pci0000:00/0000:01:00.0/nvme/nvme0/nvme0c0n1", "0:0").set("hidden", "1");
    let disk = host.only();
    assert_eq!(disk.name, "nvme0n1");
    assert_eq!(disk.partitions, ["nvme0n1p2", "nvme0n1p10"], "by number");
    assert_eq!(disk.model.as_deref(), Some("Samsung SSD 970 EVO Plus 1TB"));
    assert_eq!(disk.serial.as_deref(), Some("S4EWNX0R100001"));
    assert_eq!(disk.wwn.as_deref(), Some("eui.0025385b21404321"));
    assert_eq!(disk.transport, Transport::Nvme);
}

#[test]
fn the_serial_number_of_a_scsi_disk_comes_from_its_vpd_page() {
    let host = Host::new();
    host.disk(SCSI, "8:16").set("device/model", "QEMU HARDDISK").set("device/wwid", "naa.5000c500a1b2c3d4");
    host.write(&format!("sys/devices/{SCSI}/device/vpd_pg80"), b"\0\x80\0\x06disk-2");
    let disk = host.only();
    assert_eq!(disk.serial.as_deref(), Some("disk-2"));
    assert_eq!(disk.wwn.as_deref(), Some("naa.5000c500a1b2c3d4"));
    assert_eq!(disk.transport, Transport::Scsi, "virtual SCSI is SCSI");
}

#[test]
fn udev_knows_links_and_the_whole_model() {
    let host = Host::new();
    let sata = host.disk(SATA, "8:0");
    sata.set("device/model", "Samsung SSD 870").by_id("wwn-0x5002538f00000001").by_id("ata-other-name");
    host.link("dev/disk/by-id/wwn-0x5002538f00000001-part1", "../../sda1");
    host.link("dev/disk/by-id/ata-gone", "../../sdz");
    host.write(
        "run/udev/data/b8:0",
        "S:disk/by-id/ata-Samsung_SSD_870\nS:disk/by-path/pci-0000:00:1f.2-ata-3\nS:disk/by-diskseq/7\n\
         E:ID_MODEL_ENC=Samsung\\x20SSD\\x20870\\x20EVO\\x201TB\\x20\nE:ID_SERIAL_SHORT=S5Y1\nE:ID_WWN=0x5002538f00000001\n",
    );
    let disk = host.only();
    assert_eq!(disk.udev, Udev::Current);
    assert_eq!(disk.model.as_deref(), Some("Samsung SSD 870 EVO 1TB"));
    assert_eq!(disk.serial.as_deref(), Some("S5Y1"));
    assert_eq!(disk.wwn.as_deref(), Some("0x5002538f00000001"));
    assert_eq!(disk.by_id, ["ata-Samsung_SSD_870", "ata-other-name", "wwn-0x5002538f00000001"]);
    assert_eq!(disk.by_path, ["pci-0000:00:1f.2-ata-3"]);
    assert_eq!(disk.transport, Transport::Ata);
    // The kernel's spelling takes precedence over udev's.
    sata.set("device/wwid", "naa.5002538f00000001");
    assert_eq!(host.only().wwn.as_deref(), Some("naa.5002538f00000001"));
}

/// Only then can an entry still come that says something about the disk.
#[test]
fn an_entry_is_awaited_if_udev_has_entries_of_other_devices() {
    let host = Host::new();
    host.disk(SATA, "8:0");
    assert_eq!(host.only().udev, Udev::Missing);
    std::fs::create_dir_all(host.path("run/udev/data")).unwrap();
    assert_eq!(host.only().udev, Udev::Missing);
    host.write("run/udev/data/b254:0", "S:disk/by-id/virtio-x\n");
    assert_eq!(host.only().udev, Udev::Awaited);
    host.write("run/udev/data/b8:0", "E:DM_MULTIPATH_DEVICE_PATH=1\n");
    assert_eq!(host.only().udev, Udev::Current);
}

#[test]
fn a_udev_entry_of_a_former_disk_is_stale() {
    let host = Host::new();
    host.disk(SATA, "8:0").by_id("ata-old");
    let entry = |sequence| format!("S:disk/by-id/ata-old\nS:disk/by-diskseq/{sequence}\nE:ID_MODEL_ENC=Old\n");
    host.write("run/udev/data/b8:0", entry(7));
    assert_eq!(host.only().by_id, ["ata-old"]);
    host.write("run/udev/data/b8:0", entry(6));
    let disk = host.only();
    let why = "udev's database describes the disk with sequence number 6, but this disk has 7".to_owned();
    assert_eq!((disk.udev, disk.model, disk.by_id), (Udev::Stale { why }, None, vec![]));
}

/// An older udev does not record the kernel's sequence number: then the serial number or the world-wide name
/// must match.
#[test]
fn a_udev_entry_is_used_only_if_it_matches_the_disk() {
    const VIRTIO: &str = "pci0000:00/0000:00:05.0/virtio2/block/vdb";
    type Case = (&'static str, &'static [(&'static str, &'static str)], &'static str, bool);
    let cases: [Case; 17] = [
        (VIRTIO, &[("serial", "GOOD")], "E:ID_SERIAL=GOOD\n", true),
        (VIRTIO, &[("serial", "SYSTEM")], "E:ID_SERIAL=GOOD\n", false),
        (VIRTIO, &[("serial", "GOOD1")], "E:ID_SERIAL=GOOD10\n", false),
        (VIRTIO, &[("serial", "0")], "E:ID_SERIAL=GOOD10\n", false),
        // One of the two has a serial number, and the other has none.
        (VIRTIO, &[], "E:ID_SERIAL=GOOD\n", false),
        (VIRTIO, &[("serial", "SYSTEM")], "E:ID_PATH=x\n", false),
        (VIRTIO, &[], "E:ID_PATH=x\n", true),
        (VIRTIO, &[("serial", "two  words")], "E:ID_SERIAL=two_words\n", true),
        // Prefixed with manufacturer and model.
        (SCSI, &[("device/serial", "disk-2")], "E:ID_SERIAL=0QEMU_QEMU_HARDDISK_disk-2\n", true),
        (SCSI, &[("device/serial", "isk-2")], "E:ID_SERIAL=0QEMU_QEMU_HARDDISK_disk-2\n", false),
        // The serial number of a SAS disk may be recorded as just its world-wide name.
        (
            SCSI,
            &[("device/serial", "Z1"), ("device/wwid", "naa.5000c500a1b2c3d4")],
            "E:ID_SERIAL=35000c500a1b2c3d4\n",
            true,
        ),
        (
            SCSI,
            &[("device/serial", "Z1"), ("device/wwid", "naa.5000c500a1b2c3d5")],
            "E:ID_SERIAL=35000c500a1b2c3d4\n",
            false,
        ),
        (SCSI, &[("device/wwid", "naa.5000c500a1b2c3d4")], "E:ID_WWN=0x5000c500a1b2c3d4\n", true),
        (SCSI, &[("device/wwid", "eui.0025385b21404321")], "E:ID_WWN=eui.0025385b21404321\n", true),
        // Values that cannot be compared are ignored.
        (SCSI, &[("device/wwid", "t10.ATA     Samsung")], "E:ID_SERIAL_SHORT=S5Y1\n", true),
        (SCSI, &[], "E:ID_SERIAL_SHORT=S5Y1\n", true),
        (SCSI, &[("device/serial", "bridge")], "E:ID_BUS=usb\nE:ID_SERIAL_SHORT=S5Y1\n", true),
    ];
    for (sysfs_path, kernel, udev, is_current) in cases {
        let host = Host::new();
        let disk = host.disk(sysfs_path, "8:16");
        disk.by_id("it-GOOD");
        for (attribute, text) in kernel {
            disk.set(attribute, text);
        }
        host.write("run/udev/data/b8:16", format!("S:disk/by-id/it-GOOD\n{udev}"));
        let disk = host.only();
        assert_eq!(disk.udev == Udev::Current, is_current, "{kernel:?} {udev}: {:?}", disk.udev);
        assert_eq!(disk.by_id.is_empty(), !is_current, "{kernel:?} {udev}");
    }
}

/// Its serial number shows whether udev's names are its own, unless udev knows the kernel's sequence number.
#[test]
fn a_virtio_disk_that_hangs_delays_nothing_and_has_no_names() {
    let host = Host::new();
    host.disk(VIRTIO, "254:0");
    host.disk(SCSI, "8:16");
    host.write("run/udev/data/b254:0", "S:disk/by-id/virtio-GOOD\nE:ID_SERIAL=GOOD\n");
    // The reader blocks until something is written.
    let pipe = host.path(&format!("sys/devices/{VIRTIO}/serial"));
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let began = std::time::Instant::now();
    for _ in 0..3 {
        let [other, hung] = <[_; 2]>::try_from(host.disks()).unwrap();
        assert_eq!((hung.name.as_str(), other.name.as_str()), ("vda", "sdb"));
        let Udev::Stale { why } = hung.udev else { panic!("{:?}", hung.udev) };
        assert!(why.contains("has not answered the request for its serial number"), "{why}");
        assert_eq!((hung.serial, hung.by_id), (None, vec![]));
    }
    assert!(began.elapsed() < std::time::Duration::from_secs(6), "it is waited for once");
    host.write("run/udev/data/b254:0", "S:disk/by-id/virtio-GOOD\nS:disk/by-diskseq/7\nE:ID_SERIAL=GOOD\n");
    assert_eq!(host.disks()[1].udev, Udev::Current);
    // It answers after all.
    std::fs::write(&pipe, "GOOD\n").unwrap();
    host.write("run/udev/data/b254:0", "S:disk/by-id/virtio-GOOD\nE:ID_SERIAL=GOOD\n");
    while host.disks()[1].udev != Udev::Current {
        assert!(began.elapsed() < std::time::Duration::from_secs(60));
    }
    assert_eq!(host.disks()[1].serial.as_deref(), Some("GOOD"));
}

#[test]
fn devices_that_are_not_disks_are_not_listed() {
    let host = Host::new();
    for (sysfs_path, number) in [
        ("virtual/block/loop0", "7:0"),
        ("virtual/block/dm-0", "253:0"),
        ("virtual/block/md0", "9:0"),
        ("virtual/block/zram0", "252:0"),
        ("pci0000:00/ata1/host0/block/sr0", "11:0"),
        ("platform/floppy.0/block/fd0", "2:0"),
    ] {
        host.disk(sysfs_path, number);
    }
    let nbd = host.disk("virtual/block/nbd0", "43:0");
    nbd.set("size", "0");
    assert_eq!(host.disks(), []);
    nbd.set("size", "2048");
    assert_eq!(host.only().name, "nbd0");
}

#[test]
fn read_only_removable_and_zoned_disks_are_detected() {
    let host = Host::new();
    let disk = host.disk("pci0000:00/0000:00:14.0/usb2/2-1/2-1:1.0/host7/target7:0:0/7:0:0:0/block/sdc", "8:32");
    disk.set("ro", "1").set("removable", "1").set("size", "0").set("queue/zoned", "host-managed");
    let disk = host.only();
    assert!(disk.read_only && disk.removable && disk.zoned);
    assert_eq!((disk.size, disk.transport), (0, Transport::Usb));
}

#[test]
fn holders_of_partitions_count() {
    let host = Host::new();
    let disk = host.disk(SCSI, "8:16");
    disk.partition("sdb1", 1, "8:17").holder("holders/md0").holder("sdb1/holders/dm-3").holder("sdb1/holders/md0");
    assert_eq!(host.only().holders, ["dm-3", "md0"]);
}

#[test]
fn a_vanished_disk_is_skipped_and_an_unreadable_one_is_reported() {
    let host = Host::new();
    host.disk(VIRTIO, "254:0");
    host.link("sys/block/sdx", "../devices/gone");
    let half = host.disk(SCSI, "8:16");
    half.remove("dev");
    assert_eq!(host.only().name, "vda");
    // This disk is there, but has an invalid value. The others are still found.
    half.set("dev", "8:16").set("size", "many");
    let found = host.found();
    assert_eq!(found.disks.len(), 1);
    let [error] = found.failed.as_slice() else { panic!("{:?}", found.failed) };
    assert!(error.to_string().contains("the disk sdb") && error.to_string().contains("many"), "{error}");
    for (attribute, text) in [("ro", "2"), ("size", "18446744073709551615"), ("queue/rotational", "")] {
        half.set("size", "2048").set("ro", "0").set("queue/rotational", "0").set(attribute, text);
        assert_eq!(host.found().failed.len(), 1, "{attribute}");
    }
    half.set("queue/rotational", "0").remove("ro");
    assert!(matches!(host.found().failed.as_slice(), [Error::Attribute { .. }]), "missing attributes are not guessed");
}

#[test]
fn a_disk_replaced_while_it_is_read_is_skipped() {
    for (attribute, other) in [("diskseq", "8"), ("dev", "254:16"), ("diskseq", "7")] {
        let host = Host::new();
        let folder = host.disk(VIRTIO, "254:0");
        // The reader blocks at this attribute until it is written.
        folder.remove("removable");
        let pipe = host.path(&format!("sys/devices/{VIRTIO}/removable"));
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let found = std::thread::scope(|scope| {
            let reader = scope.spawn(|| host.disks());
            let writer = std::fs::File::options().write(true).open(&pipe).unwrap();
            folder.set(attribute, other);
            std::io::Write::write_all(&mut &writer, b"0\n").unwrap();
            drop(writer);
            reader.join().unwrap()
        });
        assert_eq!(found.len(), usize::from(other == "7"), "{attribute} {other}");
    }
}

#[test]
fn disks_are_ordered_by_name() {
    let host = Host::new();
    for (index, name) in ["sdaa", "sdb", "nvme10n1", "nvme9n1", "sdz", "vda"].iter().enumerate() {
        host.disk(&format!("platform/block/{name}"), &format!("8:{index}"));
    }
    let names: Vec<_> = host.disks().into_iter().map(|disk| disk.name).collect();
    assert_eq!(names, ["sdb", "sdz", "vda", "sdaa", "nvme9n1", "nvme10n1"]);
}

#[test]
fn disks_with_the_same_wwn_are_detected() {
    let host = Host::new();
    for (name, number, wwid) in [("sda", "8:0", "naa.1"), ("sdb", "8:16", "naa.1"), ("sdc", "8:32", "naa.2")] {
        host.disk(&format!("platform/block/{name}"), number).set("device/wwid", wwid);
    }
    // Without world-wide names, disks are not compared.
    host.disk("platform/block/sdd", "8:48");
    host.disk("platform/block/sde", "8:64");
    let same: Vec<_> = host.disks().into_iter().map(|disk| disk.same_as).collect();
    assert_eq!(same, [vec!["sdb".to_owned()], vec!["sda".to_owned()], vec![], vec![], vec![]]);
}

#[test]
fn multipath_members_are_detected() {
    let host = Host::new();
    host.disk(SCSI, "8:16");
    host.write("run/udev/data/b8:16", "E:DM_MULTIPATH_DEVICE_PATH=0\n");
    assert!(!host.only().multipath);
    host.write("run/udev/data/b8:16", "E:DM_MULTIPATH_DEVICE_PATH=1\n");
    assert!(host.only().multipath);
}

#[test]
fn exclamation_marks_in_kernel_names_are_slashes_in_dev() {
    let host = Host::new();
    host.write("dev/cciss/x", "");
    host.disk("pci0000:00/block/cciss!c0d0", "104:0");
    host.link("dev/disk/by-id/cciss-1", "../../cciss/c0d0");
    let disk = host.only();
    assert_eq!(disk.node, host.path("dev/cciss/c0d0"));
    assert_eq!(disk.by_id, ["cciss-1"]);
}

#[test]
fn missing_tables_are_an_error() {
    for missing in ["sys/block", "proc/self/mountinfo"] {
        let host = Host::new();
        let path = host.path(missing);
        if path.is_dir() { std::fs::remove_dir(&path) } else { std::fs::remove_file(&path) }.unwrap();
        let error = find(&host.roots()).unwrap_err();
        assert!(error.to_string().contains(missing), "{error}");
    }
    // A kernel without swap does not have this table.
    let host = Host::new();
    std::fs::remove_file(host.path("proc/swaps")).unwrap();
    assert_eq!(host.disks(), []);
}

#[test]
fn only_the_disk_itself_is_opened() {
    let host = Host::new();
    host.disk(VIRTIO, "254:0");
    let disk = host.only();
    // A regular file in its place, as in a /dev that was filled by hand.
    assert!(matches!(open(&host.roots(), &disk), Err(Error::OtherNode { .. })));
    std::fs::remove_file(&disk.node).unwrap();
    let error = open(&host.roots(), &disk).unwrap_err();
    assert!(matches!(error, Error::Open { .. }), "{error}");
}

#[test]
fn another_disk_with_the_same_name_is_detected() {
    let host = Host::new();
    let folder = host.disk(VIRTIO, "254:0");
    let disk = host.only();
    let there = || super::super::sysfs::is_same_disk(&host.roots(), &disk);
    assert!(there());
    folder.set("diskseq", "8");
    assert!(!there());
    folder.set("diskseq", "7").set("dev", "254:16");
    assert!(!there());
    folder.remove("dev");
    assert!(!there());
}
