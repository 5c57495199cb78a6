//! A virtual node's disks: they are added, removed, fail, and may move to another node.

use std::fmt;
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{PLUG, Vm};
use crate::disk::{Bus, Disk, Throttle};
use crate::machine::{Qemu, SLOTS};
use crate::nbd::{Fault, Server};
use crate::write_cache::CachedDisk;

/// A disk of this machine and where it is plugged in.
pub(super) struct Attached {
    spare: SpareDisk,
    /// The slot, for buses that need one; also the number in the names of QEMU's objects.
    slot: usize,
    pub(super) plugged: bool,
}

/// A disk outside any machine, with its content: see [`Vm::take_disk`].
pub struct SpareDisk {
    disk: Disk,
    server: Server,
    /// The file with its stable data.
    file: PathBuf,
}

impl fmt::Debug for SpareDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SpareDisk").field(&self.disk).finish()
    }
}

impl Vm {
    /// Makes new, empty disks, plugs them in and waits until the guest's udev knows them. A machine that is off finds
    /// them when it boots.
    ///
    /// # Errors
    /// When a description is wrong, no slot is free, or the guest does not see them.
    pub async fn add_disks(&mut self, disks: Vec<Disk>) -> Result<()> {
        let mut paths = Vec::new();
        for disk in disks {
            disk.check().map_err(anyhow::Error::msg)?;
            paths.push(disk.path());
            let (cached, file) = self.empty_disk(&disk)?;
            let server = Server::new(cached);
            self.place(SpareDisk { disk, server, file }).await?;
        }
        self.wait_for_udev(paths).await
    }

    /// Removes a disk from the machine permanently, with its content: unplugged as by [`Self::unplug`] if the
    /// machine runs. The effects of a power cut on it are final.
    ///
    /// # Errors
    /// As [`Self::unplug`].
    pub async fn take_disk(&mut self, serial: &str) -> Result<SpareDisk> {
        if self.attached(serial)?.plugged && self.qemu.is_some() {
            self.unplug(serial).await?;
        }
        let place = self.disks.iter().position(|attached| attached.spare.disk.serial == serial);
        let mut spare = self.disks.remove(place.context("the disk is gone")?).spare;
        spare.server.finish()?;
        Ok(spare)
    }

    /// Puts a disk that was taken out of this or another machine in. A machine that is off finds it when it boots.
    ///
    /// # Errors
    /// When there is a disk of that serial number, no slot is free, or the guest does not see it.
    pub async fn insert_disk(&mut self, disk: SpareDisk) -> Result<()> {
        let path = disk.disk.path();
        self.place(disk).await?;
        self.wait_for_udev(vec![path]).await
    }

    /// Puts a disk into a free slot.
    async fn place(&mut self, spare: SpareDisk) -> Result<()> {
        let taken = |slot: &usize| self.disks.iter().any(|attached| attached.slot == *slot);
        let slot = (0..SLOTS).find(|slot| !taken(slot));
        let slot = slot.with_context(|| format!("a virtual node holds {SLOTS} disks at most"))?;
        if self.disks.iter().any(|attached| attached.spare.disk.serial == spare.disk.serial) {
            bail!("there is a disk {} already", spare.disk.serial);
        }
        let mut attached = Attached { spare, slot, plugged: true };
        if let Some(qemu) = &self.qemu {
            attached.plug(qemu).await?;
        }
        self.disks.push(attached);
        Ok(())
    }

    /// Pulls a disk out, whatever uses it. A disk that hangs must be healed first: QEMU waits for its answers.
    ///
    /// # Errors
    /// There is no such disk, or the guest does not release it.
    pub async fn unplug(&mut self, serial: &str) -> Result<()> {
        let (qemu, attached) = self.find(serial)?;
        if !attached.plugged {
            bail!("disk {serial} is not plugged in");
        }
        let device = device_id(attached.slot);
        let gone = |event: &Value| {
            event.get("event").and_then(Value::as_str) == Some("DEVICE_DELETED")
                && event.pointer("/data/device").and_then(Value::as_str) == Some(&device)
        };
        qemu.qmp.call_until("device_del", json!({ "id": device }), PLUG, gone).await?;
        let slot = attached.slot;
        qemu.qmp.call("blockdev-del", json!({ "node-name": format!("node{slot}") })).await?;
        qemu.qmp.call("object-del", json!({ "id": format!("throttle{slot}") })).await?;
        attached.plugged = false;
        let path = attached.path();
        self.guest.wait_paths(vec![path], false, PLUG).await
    }

    /// Plugs an unplugged disk in again, with its content.
    ///
    /// # Errors
    /// There is no such disk, or the guest does not see it.
    pub async fn replug(&mut self, serial: &str) -> Result<()> {
        let (qemu, attached) = self.find(serial)?;
        if attached.plugged {
            bail!("disk {serial} is plugged in already");
        }
        attached.plug(qemu).await?;
        attached.plugged = true;
        let path = attached.path();
        self.wait_for_udev(vec![path]).await
    }

    /// Gives a disk another size in bytes, as a hypervisor does. A resizable disk may be plugged in; then this waits
    /// until the guest's kernel knows the new size. Any other disk must be unplugged.
    ///
    /// # Errors
    /// There is no such disk, it cannot be resized now, or the guest does not see the new size.
    pub async fn resize_disk(&mut self, serial: &str, size: u64) -> Result<()> {
        let (qemu, attached) = self.find(serial)?;
        let resized = Disk { size, ..attached.spare.disk.clone() };
        resized.check().map_err(anyhow::Error::msg)?;
        if !attached.plugged {
            attached.spare.server.resize(size)?;
            attached.spare.disk = resized;
            return Ok(());
        }
        if !resized.resizable {
            bail!("disk {serial} is not resizable, and plugged in");
        }
        let arguments = json!({ "node-name": format!("node{}", attached.slot), "size": size });
        qemu.qmp.call("block_resize", arguments).await?;
        let path = resized.path();
        attached.spare.disk = resized;
        let seen = format!(
            "for i in $(seq 200); do [ $(blockdev --getsize64 {path}) != {size} ] || break; sleep 0.1; done; \
             blockdev --getsize64 {path}; udevadm settle"
        );
        let found = self.guest.sh(seen).await?;
        if found.trim() != size.to_string() {
            bail!("the guest does not see that disk {serial} has {size} bytes: {found}");
        }
        Ok(())
    }

    /// Makes a disk fail, hang or work again.
    ///
    /// # Errors
    /// There is no such disk, or the machine is not running.
    pub fn set_fault(&mut self, serial: &str, fault: Fault) -> Result<()> {
        let (_, attached) = self.find(serial)?;
        attached.spare.server.set_fault(fault);
        Ok(())
    }

    /// Limits a disk's speed from now on.
    ///
    /// # Errors
    /// There is no such disk, or the machine is not running.
    pub async fn set_throttle(&mut self, serial: &str, throttle: Throttle) -> Result<()> {
        let (qemu, attached) = self.find(serial)?;
        attached.spare.disk.throttle = throttle;
        if attached.plugged {
            let group = format!("/objects/throttle{}", attached.slot);
            let arguments = json!({ "path": group, "property": "limits", "value": limits(throttle) });
            qemu.qmp.call("qom-set", arguments).await?;
        }
        Ok(())
    }

    /// The machine, which must run, and one of its disks.
    fn find(&mut self, serial: &str) -> Result<(&Qemu, &mut Attached)> {
        self.attached(serial)?;
        let qemu = self.qemu.as_ref().context("the machine is not running")?;
        let attached = self.disks.iter_mut().find(|attached| attached.spare.disk.serial == serial);
        Ok((qemu, attached.context("the disk is gone")?))
    }

    fn attached(&self, serial: &str) -> Result<&Attached> {
        self.disks.iter().find(|attached| attached.spare.disk.serial == serial).with_context(|| {
            let known: Vec<_> = self.disks.iter().map(|attached| attached.spare.disk.serial.as_str()).collect();
            format!("the machine has no disk {serial}; it has: {}", known.join(", "))
        })
    }

    /// A disk of zeroes in a sparse file.
    fn empty_disk(&self, disk: &Disk) -> Result<(CachedDisk, PathBuf)> {
        // Numbered, for a disk of the same serial number may have left the machine, and its file not.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.path().join(format!("disk-{}-{number}", disk.serial));
        let what = || format!("cannot make the file {} for disk {disk}", path.display());
        let file = File::options().read(true).write(true).create_new(true).open(&path).with_context(what)?;
        file.set_len(disk.size).with_context(what)?;
        Ok((CachedDisk::new(file, disk.size), path))
    }

    /// Waits for the disks' names, and then until udev has nothing left to do: lvm trusts what udev wrote down.
    pub(super) async fn wait_for_udev(&self, paths: Vec<String>) -> Result<()> {
        if paths.is_empty() || self.qemu.is_none() {
            return Ok(());
        }
        self.guest.wait_paths(paths, true, PLUG).await?;
        self.guest.check(["udevadm", "settle"]).await?;
        Ok(())
    }
}

fn device_id(slot: usize) -> String {
    format!("disk{slot}")
}

fn limits(throttle: Throttle) -> Value {
    json!({ "bps-total": throttle.bytes_per_second, "iops-total": throttle.operations_per_second })
}

impl Attached {
    pub(super) fn path(&self) -> String {
        self.spare.disk.path()
    }

    /// What a power cut does to the disk; see [`Server::lose_power`].
    pub(super) fn lose_power(&mut self, survives: impl FnMut() -> bool) -> Result<()> {
        self.spare.server.lose_power(survives)
    }

    /// Shows a disk to the guest: our server, throttle, device.
    pub(super) async fn plug(&mut self, qemu: &Qemu) -> Result<()> {
        let Self { spare: SpareDisk { disk, server, file }, slot, .. } = self;
        let stored = if disk.resizable {
            json!({ "driver": "file", "filename": file, "discard": "unmap" })
        } else {
            json!({
                "driver": "nbd", "discard": "unmap",
                "server": { "type": "unix", "path": server.serve()?, "abstract": true },
            })
        };
        let qmp = &qemu.qmp;
        let group = format!("throttle{slot}");
        qmp.call("object-add", json!({ "qom-type": "throttle-group", "id": group, "limits": limits(disk.throttle) }))
            .await?;
        let node = json!({
            "driver": "throttle", "node-name": format!("node{slot}"), "throttle-group": group,
            "discard": "unmap", "detect-zeroes": "unmap",
            "file": stored,
        });
        qmp.call("blockdev-add", node).await?;
        let mut device = json!({
            "id": device_id(*slot), "drive": format!("node{slot}"), "serial": disk.serial,
            "logical_block_size": disk.block_size, "physical_block_size": disk.block_size,
        });
        let (driver, bus) = match disk.bus {
            Bus::Virtio => ("virtio-blk-pci", format!("slot{slot}")),
            Bus::Nvme => ("nvme", format!("slot{slot}")),
            Bus::Scsi => ("scsi-hd", "scsi.0".to_owned()),
        };
        if let Some(fields) = device.as_object_mut() {
            fields.insert("driver".into(), driver.into());
            fields.insert("bus".into(), bus.into());
        }
        qmp.call("device_add", device).await.with_context(|| format!("cannot plug disk {disk} in"))?;
        Ok(())
    }
}
