//! lvm's messages, recorded from lvm 2.03.16 under `LC_ALL=C`, and their classification.

use quarry_lvm::{Kind, classify};

const RECORDED: [(Kind, &str); 32] = [
    // lvcreate
    (Kind::AlreadyExists, "  Logical Volume \"a\" already exists in volume group \"qvg\""),
    (Kind::NoSpace, "  Volume group \"qvg\" has insufficient free space (745 extents): 10000 required."),
    (Kind::NoSpace, "  Insufficient free space: 300 extents needed, but only 240 available"),
    (Kind::NoSpace, "  Number of stripes (2) must not exceed number of physical volumes (1)"),
    (
        Kind::NoSpace,
        "  WARNING: Physical volume /dev/loop43 not allocatable.\n  No specified PVs have space available.",
    ),
    (
        Kind::NoSpace,
        "  VG small 13 metadata on /dev/loop44 (521617 bytes) exceeds maximum metadata size (521472 bytes)\n  \
         Failed to write VG small.",
    ),
    (
        Kind::NoSpace,
        "  VG small 901 metadata on /dev/loop44 (261011 bytes) too large for circular buffer (521728 bytes with \
         261010 used)\n  Failed to write VG small.",
    ),
    (Kind::NoSpace, "  Maximum number of logical volumes (2) reached in volume group qvg"),
    (Kind::NotFound, "  Volume group \"nosuch\" not found\n  Cannot process volume group nosuch"),
    (Kind::MissingPv, "  Physical Volume \"/dev/loop44\" not found in Volume Group \"qvg\"."),
    (
        Kind::MissingPv,
        "  WARNING: Couldn't find device with uuid FWYbZN-Ugwd-V6WD-mu7p-nETB-h1C1-eXSdaM.\n  WARNING: VG qvg is \
         missing PV FWYbZN-Ugwd-V6WD-mu7p-nETB-h1C1-eXSdaM (last written to /dev/loop43).\n  Cannot change VG qvg \
         while PVs are missing.\n  See vgreduce --removemissing and vgextend --restoremissing.\n  Cannot process volume \
         group qvg",
    ),
    (
        Kind::Denied,
        "  Volume vg0/a is not active locally (volume_list activation filter?).\n  Aborting. Failed to wipe start of new \
         LV.",
    ),
    (Kind::Denied, "  lvcreate: Command not permitted while global/metadata_read_only is set."),
    // About the filesystem that holds lvm's locks.
    (Kind::Locked, "  /run/lock/lvm/V_qvg: open failed: No space left on device\n  Can't get lock for qvg."),
    (Kind::Denied, "  Volume group empty is exported"),
    (Kind::Denied, "  Cannot access VG empty with system ID foo with unknown local system ID."),
    (
        Kind::Locked,
        "  /run/lock/lvm/V_qvg: flock failed: Resource temporarily unavailable\n  Can't get lock for qvg.\n  \
         Cannot process volume group qvg",
    ),
    // A copy of a disk of the group is attached.
    (Kind::Duplicate, "  Cannot update volume group vg0 with duplicate PV devices."),
    (
        Kind::Duplicate,
        "  WARNING: Not using device /dev/vdd for PV FWYbZN-Ugwd-V6WD-mu7p-nETB-h1C1-eXSdaM.\n  Cannot activate LVs in VG \
         vg0 while PVs appear on duplicate devices.",
    ),
    // lvremove, lvchange
    (Kind::NotFound, "  Failed to find logical volume \"qvg/nosuch\""),
    (Kind::Changing, "  Can't remove locked logical volume qvg/r."),
    (Kind::Changing, "  Can't remove merging snapshot logical volume qvg/s."),
    (Kind::InUse, "  Logical volume qvg/r contains a filesystem in use."),
    (Kind::InUse, "  Logical volume qvg/r in use."),
    (Kind::InUse, "  Logical volume qvg/r is used by another device."),
    (
        Kind::MissingPv,
        "  WARNING: Couldn't find device with uuid 3xfzHW-6uR5-hlUd-K6tf-vwCo-fv2M-QpoNvf.\n  Refusing activation of \
         partial LV qvg/l.  Use '--activationmode partial' to override.",
    ),
    // In a volume group that lacks a disk, other failures keep their classification.
    (
        Kind::NotFound,
        "  WARNING: VG qvg is missing PV FWYbZN-Ugwd-V6WD-mu7p-nETB-h1C1-eXSdaM (last written to [unknown]).\n  \
         Failed to find logical volume \"qvg/nosuch\"",
    ),
    (
        Kind::InUse,
        "  WARNING: Couldn't find device with uuid FWYbZN-Ugwd-V6WD-mu7p-nETB-h1C1-eXSdaM.\n  Logical volume qvg/r \
         in use.",
    ),
    // No known kind.
    (
        Kind::Other,
        "  Names starting \"snapshot\" are reserved. Please choose a different LV name.\n  Run `lvcreate --help' for \
         more information.",
    ),
    (Kind::Other, "  Can't create raid1 without using device-mapper kernel driver."),
    (Kind::Other, "  Invalid argument for --maxphysicalvolumes: r\n  Error during parsing of command line."),
    (Kind::Other, ""),
];

#[test]
fn recorded_messages_are_classified() {
    for (kind, stderr) in RECORDED {
        assert_eq!(classify(stderr), kind, "{stderr}");
    }
}

#[test]
fn names_do_not_affect_the_classification() {
    let stderr = "  Failed to find logical volume \"in-use/already-exists.missing.insufficient\"";
    assert_eq!(classify(stderr), Kind::NotFound);
}

#[test]
fn warnings_do_not_affect_the_classification() {
    assert_eq!(classify("  WARNING: Logical volume qvg/a not found, in use, already exists."), Kind::Other);
}
