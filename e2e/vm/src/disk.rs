//! The disks of a virtual node: their options, and their paths in the guest.

use std::fmt;

/// How the guest sees a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bus {
    /// virtio-blk, which calls itself rotational.
    #[default]
    Virtio,
    /// NVMe, not rotational.
    Nvme,
    /// SCSI on a virtio controller.
    Scsi,
}

/// Limits of a disk's speed; 0 means none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttle {
    /// Bytes per second, reads and writes together.
    pub bytes_per_second: u64,
    /// Operations per second, reads and writes together.
    pub operations_per_second: u64,
}

/// A disk to be plugged into a virtual node: empty, sparse on the host, with a write cache that a power cut loses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Serial number, 1 to 20 characters of `A-Za-z0-9-`: it names the disk in the guest and in calls such as unplug.
    pub serial: String,
    /// Size in bytes.
    pub size: u64,
    /// How the guest sees it.
    pub bus: Bus,
    /// Logical and physical block size in bytes: 512 or 4096.
    pub block_size: u32,
    /// Limits of its speed.
    pub throttle: Throttle,
    /// Whether its size can change while it is plugged in. Then QEMU opens its file itself, so it has no faults, and a
    /// power cut loses nothing.
    pub resizable: bool,
}

impl Disk {
    /// A virtio disk with 512-byte blocks and no limits. `size` is in bytes.
    #[must_use]
    pub fn new(serial: impl Into<String>, size: u64) -> Self {
        Self {
            serial: serial.into(),
            size,
            bus: Bus::default(),
            block_size: 512,
            throttle: Throttle::default(),
            resizable: false,
        }
    }

    /// The same disk, whose size can change while it is plugged in.
    #[must_use]
    pub fn resizable(self) -> Self {
        Self { resizable: true, ..self }
    }

    /// The same disk on another bus.
    #[must_use]
    pub fn bus(self, bus: Bus) -> Self {
        Self { bus, ..self }
    }

    /// The same disk with blocks of 512 or 4096 bytes.
    #[must_use]
    pub fn block_size(self, block_size: u32) -> Self {
        Self { block_size, ..self }
    }

    /// The same disk with limits of its speed.
    #[must_use]
    pub fn throttle(self, throttle: Throttle) -> Self {
        Self { throttle, ..self }
    }

    /// The path by which the guest finds the disk, whatever order disks appear in.
    #[must_use]
    pub fn path(&self) -> String {
        let prefix = match self.bus {
            Bus::Virtio => "virtio-",
            Bus::Nvme => "nvme-QEMU_NVMe_Ctrl_",
            Bus::Scsi => "scsi-0QEMU_QEMU_HARDDISK_",
        };
        format!("/dev/disk/by-id/{prefix}{}", self.serial)
    }

    /// Checks the description.
    pub(crate) fn check(&self) -> Result<(), String> {
        let plain = self.serial.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        if self.serial.is_empty() || self.serial.len() > 20 || !plain {
            return Err(format!("a disk's serial is 1 to 20 of A-Za-z0-9-, not {:?}", self.serial));
        }
        if !matches!(self.block_size, 512 | 4096) {
            return Err(format!("disk {}: blocks of {} bytes; 512 or 4096 are possible", self.serial, self.block_size));
        }
        if self.size == 0 || !self.size.is_multiple_of(4096) {
            return Err(format!("disk {}: a size of {} bytes is not a multiple of 4096", self.serial, self.size));
        }
        Ok(())
    }
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?}, {} bytes, blocks of {})", self.serial, self.bus, self.size, self.block_size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_descriptions_are_rejected() {
        assert!(Disk::new("d1", 1 << 30).check().is_ok());
        for disk in [
            Disk::new("", 1 << 30),
            Disk::new("a-name-that-is-too-long", 1 << 30),
            Disk::new("a,b", 1 << 30),
            Disk::new("d1", 0),
            Disk::new("d1", 1000),
            Disk::new("d1", 1 << 30).block_size(1024),
        ] {
            assert!(disk.check().is_err(), "{disk}");
        }
    }
}
