//! The facts about one disk.

use std::path::PathBuf;

use quarry_mount::Device;

use super::Transport;

/// A whole disk, at the time when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The kernel's name, `sdb`. It may belong to another disk after a reboot.
    pub name: String,
    /// The device's node, `/dev/sdb`.
    pub node: PathBuf,
    /// The device's number.
    pub number: Device,
    /// The kernel's sequence number of the disk, unique until a reboot; kernels before 5.15 have none. It
    /// distinguishes a disk from another one that took over its name and number.
    pub sequence: Option<u64>,
    /// Manufacturer and model.
    pub model: Option<String>,
    /// The serial number.
    pub serial: Option<String>,
    /// The world-wide name, as the kernel spells it: `naa.5000c500a1b2c3d4`, `eui.0025385b21404321`.
    pub wwn: Option<String>,
    /// Its names under `/dev/disk/by-id`, without those of partitions, sorted.
    pub by_id: Vec<String>,
    /// Its names under `/dev/disk/by-path`, without those of partitions, sorted.
    pub by_path: Vec<String>,
    /// Its size in bytes; 0 without a medium.
    pub size: u64,
    /// The unit in which it is addressed, in bytes.
    pub logical_sector: u64,
    /// The unit in which it writes without reading first, in bytes.
    pub physical_sector: u64,
    /// Whether it is rotational.
    pub rotational: bool,
    /// How it is attached to the host.
    pub transport: Transport,
    /// Whether the kernel refuses writes to it.
    pub read_only: bool,
    /// Whether its medium is removable; some hosts report that of every disk in a hot-swap bay.
    pub removable: bool,
    /// Whether its zones can only be written sequentially.
    pub zoned: bool,
    /// Whether udev marked it as a path that multipathd will combine with others.
    pub multipath: bool,
    /// Whether udev's database has an entry for this very disk.
    pub udev: Udev,
    /// The block devices that are built on it or on a partition of it: `md0`, `dm-3`.
    pub holders: Vec<String>,
    /// The kernel names of its partitions, sorted by number.
    pub partitions: Vec<String>,
    /// What else uses it or a partition of it.
    pub uses: Vec<Use>,
    /// Other disks of this host with the same world-wide name.
    pub same_as: Vec<String>,
}

/// What udev's database says about a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Udev {
    /// There is an entry for this disk.
    Current,
    /// There is no entry of any device: there is no udev, or its database is not visible in this container. Links may be
    /// missing, and with them the information that an exclusion needs.
    Missing,
    /// There is no entry, but there are entries of other devices: udev has not handled this disk, shortly after it was
    /// attached. It may turn out to be one of several paths to a multipath device.
    Awaited,
    /// The entry is of another disk that had this number before. udev has not updated it, and the links in
    /// `/dev` may be the other disk's too, so no name identifies this disk.
    Stale {
        /// The mismatch.
        why: String,
    },
}

/// One way in which a disk is in use.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Use {
    /// The kernel's name of the disk or of the partition that is used.
    pub device: String,
    /// The kind of use.
    pub how: How,
}

/// How a device is used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    /// A filesystem on it is mounted.
    Mounted {
        /// The mount point, as this process sees it. Mounts outside a container are not visible inside.
        at: PathBuf,
    },
    /// Its node itself is mounted on another file: a raw block volume that was published to a pod. The kernel
    /// does not count that as a use, and would let others open the disk exclusively.
    Published {
        /// Where.
        at: PathBuf,
    },
    /// It is swap space.
    Swap,
    /// A loop device uses it, which the kernel does not count as a use either.
    Loop {
        /// Which: `loop0`.
        name: String,
    },
    /// It is a member of a mounted btrfs, of whose members the mount table shows only one.
    Btrfs,
}
