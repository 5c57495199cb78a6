//! How a disk is attached to the host.

use std::fmt;
use std::fs;
use std::path::Path;
use std::str::FromStr;

use super::kinds;

/// How a disk is attached to the host, according to its path in sysfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// NVMe in this host.
    Nvme,
    /// ATA and SATA disks at an ATA controller. SATA disks at a SAS controller count as [`Self::Scsi`].
    Ata,
    /// SCSI and SAS, disks behind a RAID controller, and virtual SCSI disks.
    Scsi,
    /// USB, with any kind of disk behind it.
    Usb,
    /// virtio-blk.
    Virtio,
    /// eMMC and SD cards.
    Mmc,
    /// iSCSI, Fibre Channel, NVMe over fabrics, and `nbd`, `ublkb` and `rnbd`: another host may have the same disk.
    /// A selector must ask for it: [`super::Selector::verdict`].
    Network,
    /// Anything else.
    Other,
}

/// The text is not the name of a transport.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a known transport; use nvme, ata, scsi, usb, virtio, mmc, network or other")]
pub struct UnknownTransport(String);

impl Transport {
    const ALL: [Self; 8] =
        [Self::Nvme, Self::Ata, Self::Scsi, Self::Usb, Self::Virtio, Self::Mmc, Self::Network, Self::Other];

    /// Its name in the configuration and in tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nvme => "nvme",
            Self::Ata => "ata",
            Self::Scsi => "scsi",
            Self::Usb => "usb",
            Self::Virtio => "virtio",
            Self::Mmc => "mmc",
            Self::Network => "network",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Transport {
    type Err = UnknownTransport;

    /// Parses a name. `sata` and `sas` are aliases of `ata` and `scsi`.
    fn from_str(name: &str) -> Result<Self, UnknownTransport> {
        match name {
            "sata" => Ok(Self::Ata),
            "sas" => Ok(Self::Scsi),
            _ => {
                Self::ALL.into_iter().find(|one| one.as_str() == name).ok_or_else(|| UnknownTransport(name.to_owned()))
            }
        }
    }
}

/// The transport of a disk. `sysfs_path` is its folder relative to the root of sysfs, and `folder` is its
/// readable path. `bus` is udev's name of the bus. It is used only if the path is not conclusive, so that the
/// result does not change when udev has handled the disk.
pub(super) fn of(sysfs_path: &Path, folder: &Path, bus: Option<&str>) -> Transport {
    let parts: Vec<&str> = sysfs_path.parent().into_iter().flatten().filter_map(|part| part.to_str()).collect();
    let has = |kind: &str| {
        parts.iter().any(|part| {
            let number = part.strip_prefix(kind).unwrap_or_default();
            !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
        })
    };
    let begins = |kind: &str| parts.iter().any(|part| part.starts_with(kind));
    let is_remote = sysfs_path.file_name().and_then(|name| name.to_str()).is_some_and(kinds::in_network);
    if has("usb") {
        Transport::Usb
    } else if is_remote || has("session") || begins("rport-") || begins("nvme-fabrics") || behind_fabrics(folder) {
        Transport::Network
    } else if has("ata") {
        Transport::Ata
    } else if has("nvme") || begins("nvme-subsys") {
        Transport::Nvme
    } else if has("mmc") {
        Transport::Mmc
    } else if has("host") {
        // A virtual SCSI disk has both: a virtio device with a SCSI host on it.
        Transport::Scsi
    } else if has("virtio") {
        Transport::Virtio
    } else {
        match bus {
            Some("ata") => Transport::Ata,
            Some("scsi") => Transport::Scsi,
            Some("usb") => Transport::Usb,
            Some("nvme") => Transport::Nvme,
            _ => Transport::Other,
        }
    }
}

/// Whether an NVMe controller of the disk is attached by anything other than PCIe. The disk's device is its
/// controller or, with multipath in the kernel, a subsystem with a link to each controller.
fn behind_fabrics(folder: &Path) -> bool {
    let device = folder.join("device");
    let remote = |controller: &Path| {
        fs::read_to_string(controller.join("transport"))
            .is_ok_and(|kind| matches!(kind.trim(), "tcp" | "rdma" | "fc" | "loop"))
    };
    let nvme = |name: &std::ffi::OsStr| name.to_str().is_some_and(|name| name.starts_with("nvme"));
    remote(&device)
        || fs::read_dir(&device)
            .into_iter()
            .flatten()
            .flatten()
            .any(|entry| nvme(&entry.file_name()) && remote(&entry.path()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sysfs_path_determines_the_transport() {
        for (sysfs_path, expected) in [
            ("devices/pci0000:00/0000:00:02.0/virtio1/block/vda", Transport::Virtio),
            ("devices/pci0000:00/0000:00:03.0/virtio2/host0/target0:0:1/0:0:1:0/block/sdb", Transport::Scsi),
            ("devices/pci0000:00/0000:00:1f.2/ata3/host2/target2:0:0/2:0:0:0/block/sda", Transport::Ata),
            (
                "devices/pci0000:00/0000:03:00.0/host6/port-6:0/end_device-6:0/target6:0:0/6:0:0:0/block/sdc",
                Transport::Scsi,
            ),
            ("devices/pci0000:00/0000:00:14.0/usb2/2-1/2-1:1.0/host7/target7:0:0/7:0:0:0/block/sdd", Transport::Usb),
            ("devices/pci0000:00/0000:01:00.0/nvme/nvme0/nvme0n1", Transport::Nvme),
            ("devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1", Transport::Nvme),
            ("devices/virtual/nvme-fabrics/ctl/nvme3/nvme3n1", Transport::Network),
            ("devices/platform/host9/session1/target9:0:0/9:0:0:1/block/sde", Transport::Network),
            ("devices/pci0000:00/0000:05:00.0/host1/rport-1:0-2/target1:0:0/1:0:0:5/block/sdf", Transport::Network),
            ("devices/virtual/block/nbd0", Transport::Network),
            ("devices/virtual/block/ublkb1", Transport::Network),
            ("devices/virtual/rnbd-client/ctl/session0/block/rnbd0", Transport::Network),
            ("devices/platform/soc/mmc_host/mmc0/mmc0:0001/block/mmcblk0", Transport::Mmc),
            ("devices/vbd-51712/block/xvda", Transport::Other),
            // The disk's own name does not count.
            ("devices/x/block/usb1", Transport::Other),
        ] {
            assert_eq!(of(Path::new(sysfs_path), Path::new("/none"), None), expected, "{sysfs_path}");
        }
        let unknown = Path::new("devices/x/block/foo");
        assert_eq!(of(unknown, Path::new("/none"), Some("ata")), Transport::Ata);
        let sas = Path::new("devices/host6/block/sdc");
        assert_eq!(of(sas, Path::new("/none"), Some("ata")), Transport::Scsi, "the path takes precedence over udev");
    }

    #[test]
    fn a_network_controller_is_found_through_its_subsystem() {
        let folder = tempfile::tempdir().unwrap();
        let controller = folder.path().join("device/nvme0");
        fs::create_dir_all(&controller).unwrap();
        let sysfs_path = Path::new("devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1");
        fs::write(controller.join("transport"), "pcie\n").unwrap();
        assert_eq!(of(sysfs_path, folder.path(), None), Transport::Nvme);
        fs::write(controller.join("transport"), "tcp\n").unwrap();
        assert_eq!(of(sysfs_path, folder.path(), None), Transport::Network);
    }

    #[test]
    fn names_round_trip() {
        for one in Transport::ALL {
            assert_eq!(one.as_str().parse(), Ok(one));
        }
        assert_eq!("sata".parse(), Ok(Transport::Ata));
        assert_eq!("sas".parse(), Ok(Transport::Scsi));
        assert!("floppy".parse::<Transport>().unwrap_err().to_string().contains("floppy"));
    }
}
