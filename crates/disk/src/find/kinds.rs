//! Block devices that Quarry never uses, by the names that the kernel gives them.

/// Prefixes of names, each followed by a number, and why such a device is never used.
const NUMBERED: &[(&str, &str)] = &[
    ("loop", "a file that is presented as a disk"),
    ("ram", "memory: its contents are lost at a reboot"),
    ("zram", "memory: its contents are lost at a reboot"),
    ("nullb", "memory, or nothing at all: a device for tests of the kernel"),
    ("zloop", "a folder of files that is presented as a zoned disk"),
    ("dm-", "a device-mapper device; the disks below it are listed instead"),
    ("md", "an array; its member disks are listed instead"),
    ("bcache", "a bcache device; the disks below it are listed instead"),
    ("zd", "a volume of a ZFS pool"),
    ("drbd", "a replica of a disk that another host writes, too"),
    ("rbd", "an image in a Ceph cluster, not a disk of this host"),
    ("sr", "an optical drive"),
    ("fd", "a floppy drive"),
    ("mtdblock", "raw flash, which wears out under a filesystem for disks"),
];

/// Why a block device with that kernel name is not a usable disk; `None` if it may be one. An `nbd` may be
/// one (tests and some hosts have disks behind it), and [`super::find`] skips it while nothing is connected
/// to it. To a selector, it is a disk in the network, like those of [`in_network`].
#[must_use]
pub fn why_unsupported(name: &str) -> Option<&'static str> {
    let number = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    // mmcblk0 is the memory itself; mmcblk0boot0, mmcblk0rpmb and mmcblk0gp0 are areas beside it.
    if let Some(rest) = name.strip_prefix("mmcblk")
        && rest.contains(|c: char| !c.is_ascii_digit())
    {
        return Some("an area of an eMMC for firmware or keys");
    }
    // An array may have a name instead of a number.
    if name.starts_with("md_") {
        return Some("an array; its member disks are listed instead");
    }
    NUMBERED.iter().find(|(kind, _)| name.strip_prefix(kind).is_some_and(number)).map(|(_, why)| *why)
}

/// Whether a block device with that kernel name shows the storage of another host, or of a program: drivers for volumes
/// of Kubernetes attach such devices, and they are empty until the driver formats them.
pub(super) fn in_network(name: &str) -> bool {
    let numbered =
        |kind| name.strip_prefix(kind).is_some_and(|rest: &str| rest.starts_with(|c: char| c.is_ascii_digit()));
    ["nbd", "ublkb", "rnbd"].into_iter().any(numbered)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_distinguished_from_other_block_devices() {
        for name in [
            "loop0",
            "ram15",
            "zram0",
            "nullb0",
            "zloop0",
            "dm-3",
            "md0",
            "md127",
            "md_d0",
            "md_home",
            "bcache0",
            "zd16",
            "drbd1000",
            "rbd0",
            "sr0",
            "fd0",
            "mtdblock2",
            "mmcblk0boot0",
            "mmcblk1rpmb",
            "mmcblk0gp1",
        ] {
            assert!(why_unsupported(name).is_some(), "{name}");
        }
        for name in
            ["sda", "sdmd", "sdaa", "vda", "xvda", "nvme0n1", "nvme10n2", "mmcblk0", "pmem0", "nbd0", "cciss!c0d0"]
        {
            assert_eq!(why_unsupported(name), None, "{name}");
        }
    }

    #[test]
    fn devices_in_the_network_are_recognized_by_their_names() {
        for (name, expected) in
            [("nbd0", true), ("ublkb12", true), ("rnbd3", true), ("sda", false), ("nbd", false), ("vda", false)]
        {
            assert_eq!(in_network(name), expected, "{name}");
        }
    }
}
