//! What is known of one disk.

use std::path::PathBuf;

use quarry_mount::Device;

use super::Transport;

/// A whole disk, as it was at the moment of the look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The kernel's name, `sdb`. It may be another disk's after a reboot.
    pub name: String,
    /// The device's node, `/dev/sdb`.
    pub node: PathBuf,
    /// The device's number.
    pub number: Device,
    /// The kernel's count of disks that came, never given twice before a reboot; kernels before 5.15 have none. It tells
    /// a disk from another that took its name and number.
    pub sequence: Option<u64>,
    /// Who made what.
    pub model: Option<String>,
    /// The serial number.
    pub serial: Option<String>,
    /// The world-wide name, as the kernel spells it: `naa.5000c500a1b2c3d4`, `eui.0025385b21404321`.
    pub wwn: Option<String>,
    /// The names under `/dev/disk/by-id` that mean the whole disk, sorted.
    pub by_id: Vec<String>,
    /// The names under `/dev/disk/by-path` that mean the whole disk, sorted.
    pub by_path: Vec<String>,
    /// Bytes; 0 when no medium is in it.
    pub size: u64,
    /// The unit in which it is addressed, in bytes.
    pub logical_sector: u64,
    /// The unit in which it writes without reading first, in bytes.
    pub physical_sector: u64,
    /// Whether it turns.
    pub rotational: bool,
    /// How the host reaches it.
    pub transport: Transport,
    /// Whether the kernel refuses writes to it.
    pub read_only: bool,
    /// Whether its medium can be taken out; some hosts say it of every disk in a hot-swap bay.
    pub removable: bool,
    /// Whether its zones can only be written from their beginning to their end.
    pub zoned: bool,
    /// Whether udev has said that multipathd will join it with other paths to the same disk.
    pub multipath: bool,
    /// Whether udev has written down what it knows of this very disk.
    pub udev: Udev,
    /// The block devices that are built on it or on a partition of it: `md0`, `dm-3`.
    pub holders: Vec<String>,
    /// The partitions that the kernel has made of it, by their number.
    pub partitions: Vec<String>,
    /// What else uses it or a partition of it.
    pub uses: Vec<Use>,
    /// Other disks of this host with the same world-wide name.
    pub same_as: Vec<String>,
}

/// What udev's database says of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Udev {
    /// What it is.
    Told,
    /// Nothing. So it is shortly after a disk has come, and where there is no udev, or its database is not shown to this
    /// container: links may be missing, and so may be what an exclusion goes by.
    Silent,
    /// What another disk was that had its number before. udev has not come to this one, and the links in `/dev` may be the
    /// other's too: no name says what this disk is.
    Stale {
        /// How that is known, in words.
        why: String,
    },
}

/// One way in which a disk is in use.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Use {
    /// The kernel's name of the disk or of the partition that is used.
    pub device: String,
    /// How.
    pub how: How,
}

/// How a device is used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    /// A filesystem on it is mounted.
    Mounted {
        /// Where, as this process sees it. Mounts outside of a container do not show inside.
        at: PathBuf,
    },
    /// Its node itself is mounted on another: a raw block volume that was handed to a pod. The kernel does not count
    /// that as a use, and would give the disk to another.
    Published {
        /// Where.
        at: PathBuf,
    },
    /// It is swap space.
    Swap,
    /// A loop device leads to it, which the kernel does not count as a use either.
    Loop {
        /// Which: `loop0`.
        name: String,
    },
    /// It is a member of a btrfs that is mounted, of whose members the table of mounts names only one.
    Btrfs,
}
