//! A virtual node: its whole life, its disks, and what may befall it.

use std::fs::File;
use std::ops::Deref;
use std::os::unix::fs::symlink;
use std::sync::Once;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::agent::Guest;
use crate::cache::Cache;
use crate::disk::{Bus, Disk, Throttle};
use crate::host;
use crate::image::{self, Image};
use crate::machine::{self, Accelerator, Machine, Qemu, SLOTS, Shape, console_tail};
use crate::nbd::{Fault, Server};
use crate::rundir::RunDir;
use crate::state;
use crate::write_cache::CachedDisk;

/// How long a disk may take to come or go in the guest.
const PLUG: Duration = Duration::from_secs(60);

/// How long a restored guest may take to answer.
const RESTORE: Duration = Duration::from_secs(60);

/// What a virtual node is to be.
#[derive(Clone, Debug)]
pub struct Config {
    /// The guest's host name.
    pub name: String,
    /// Memory and processors.
    pub shape: Shape,
    /// Disks that are there when [`Vm::start`] returns.
    pub disks: Vec<Disk>,
}

impl Config {
    /// A node without disks.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), shape: Shape::default(), disks: Vec::new() }
    }

    /// The same node with one more disk.
    #[must_use]
    pub fn disk(mut self, disk: Disk) -> Self {
        self.disks.push(disk);
        self
    }

    /// The same node with other memory (MiB) and processors.
    #[must_use]
    pub fn shape(self, shape: Shape) -> Self {
        Self { shape, ..self }
    }

    fn check(&self) -> Result<()> {
        let plain = self.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        if self.name.is_empty() || self.name.len() > 40 || !plain {
            bail!("a virtual node's name is 1 to 40 of A-Za-z0-9-, not {:?}", self.name);
        }
        Ok(())
    }
}

/// A disk of this machine and where it is plugged in.
struct Attached {
    disk: Disk,
    /// The slot, for buses that need one; also the number in the names of QEMU's objects.
    slot: usize,
    plugged: bool,
    server: Server,
}

/// What a power cut leaves of what was written and not flushed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PowerCut {
    /// Nothing: all of it was in the disks' caches.
    #[default]
    LoseAll,
    /// About half of it, in no order, chosen by this seed: a disk may write its cache out as it likes.
    LoseSome(u64),
}

/// A running virtual node. It is killed, and all its files are removed, when it is dropped.
///
/// Everything that [`Guest`] offers is offered here too; [`Vm::guest`] gives a handle for other tasks.
pub struct Vm {
    // First, so that QEMU is gone when its disks end and its files are removed.
    qemu: Option<Qemu>,
    guest: Guest,
    disks: Vec<Attached>,
    name: String,
    image: Image,
    accelerator: Accelerator,
    shape: Shape,
    folder: RunDir,
}

impl Deref for Vm {
    type Target = Guest;

    fn deref(&self) -> &Guest {
        &self.guest
    }
}

impl Vm {
    /// Starts a node from the saved state and plugs its disks in. The first start of all builds what is missing.
    ///
    /// # Errors
    /// When the host lacks tools (the message names the packages), a build fails, or the guest does not come up.
    pub async fn start(config: Config) -> Result<Self> {
        config.check()?;
        host::require_tools()?;
        let cache = Cache::open()?;
        let image = image::image(&cache).await?;
        let accelerator = machine::accelerator(&cache, &image).await?;
        static SAID: Once = Once::new();
        SAID.call_once(|| eprintln!("quarry-vm: guests run under {accelerator}"));
        let machine = Machine { image: &image, accelerator, shape: config.shape };
        let saved = state::saved(&cache, &machine).await?;

        let folder = RunDir::create(&cache, &config.name)?;
        state::overlay(&saved.join("root.qcow2"), "qcow2", folder.path()).await?;
        symlink(saved.join("state"), folder.path().join("state")).context("cannot link the saved state")?;
        let qemu = machine.start(folder.path(), true).await?;
        qemu.qmp.wait_status(&["paused", "prelaunch"], RESTORE).await.context("cannot restore the saved state")?;
        qemu.qmp.call("cont", json!({})).await?;

        let guest = Guest::new(qemu.port, folder.path().to_owned());
        guest.wait_ready(RESTORE).await?;
        guest.identify(&config.name).await?;
        let mut vm = Self {
            guest,
            disks: Vec::new(),
            name: config.name,
            image,
            accelerator,
            shape: config.shape,
            qemu: Some(qemu),
            folder,
        };
        vm.add_disks(config.disks).await?;
        Ok(vm)
    }

    /// A handle to the guest that other tasks can use.
    #[must_use]
    pub fn guest(&self) -> Guest {
        self.guest.clone()
    }

    /// What runs the guest's instructions.
    #[must_use]
    pub fn accelerator(&self) -> Accelerator {
        self.accelerator
    }

    /// The end of the guest's console.
    #[must_use]
    pub fn console(&self) -> String {
        console_tail(self.folder.path())
    }

    /// Makes new, empty disks, plugs them in and waits until the guest's udev knows them.
    ///
    /// # Errors
    /// When a description is wrong, no slot is free, or the guest does not see them.
    pub async fn add_disks(&mut self, disks: Vec<Disk>) -> Result<()> {
        let mut paths = Vec::new();
        for disk in disks {
            disk.check().map_err(anyhow::Error::msg)?;
            if self.disks.iter().any(|attached| attached.disk.serial == disk.serial) {
                bail!("there is a disk {} already", disk.serial);
            }
            let slot = self.disks.len();
            if slot >= SLOTS {
                bail!("a virtual node holds {SLOTS} disks at most");
            }
            paths.push(disk.path());
            let server = Server::new(self.empty_disk(&disk, slot)?);
            let mut attached = Attached { disk, slot, plugged: true, server };
            plug(self.running()?, &mut attached).await?;
            self.disks.push(attached);
        }
        self.wait_for_udev(paths).await
    }

    /// Pulls a disk out, whatever uses it. A disk that hangs must be healed first: QEMU waits for its answers.
    ///
    /// # Errors
    /// When there is no such disk, or the guest does not let go of it.
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
        let path = attached.disk.path();
        self.guest.wait_paths(vec![path], false, PLUG).await
    }

    /// Puts a disk that was pulled out back in, with what it holds.
    ///
    /// # Errors
    /// When there is no such disk, or the guest does not see it.
    pub async fn replug(&mut self, serial: &str) -> Result<()> {
        let (qemu, attached) = self.find(serial)?;
        if attached.plugged {
            bail!("disk {serial} is plugged in already");
        }
        plug(qemu, attached).await?;
        attached.plugged = true;
        let path = attached.disk.path();
        self.wait_for_udev(vec![path]).await
    }

    /// Makes a disk fail, hang or work again.
    ///
    /// # Errors
    /// When there is no such disk, or the machine is not running.
    pub fn set_fault(&mut self, serial: &str, fault: Fault) -> Result<()> {
        let (_, attached) = self.find(serial)?;
        attached.server.set_fault(fault);
        Ok(())
    }

    /// Limits a disk's speed from now on.
    ///
    /// # Errors
    /// When there is no such disk, or the machine is not running.
    pub async fn set_throttle(&mut self, serial: &str, throttle: Throttle) -> Result<()> {
        let (qemu, attached) = self.find(serial)?;
        attached.disk.throttle = throttle;
        if attached.plugged {
            let group = format!("/objects/throttle{}", attached.slot);
            let arguments = json!({ "path": group, "property": "limits", "value": limits(throttle) });
            qemu.qmp.call("qom-set", arguments).await?;
        }
        Ok(())
    }

    /// Cuts the power: the machine is gone at once, and with it all that its disks had not flushed.
    ///
    /// # Errors
    /// When QEMU cannot be killed.
    pub async fn power_cut(&mut self) -> Result<()> {
        self.power_cut_with(PowerCut::LoseAll).await
    }

    /// As [`Self::power_cut`], with a choice of what is lost.
    ///
    /// # Errors
    /// When QEMU cannot be killed, or a disk's file not be written.
    pub async fn power_cut_with(&mut self, cut: PowerCut) -> Result<()> {
        let Some(mut qemu) = self.qemu.take() else { return Ok(()) };
        qemu.kill().await?;
        let mut random = match cut {
            PowerCut::LoseAll => None,
            PowerCut::LoseSome(seed) => Some(seed),
        };
        let mut survives = || random.as_mut().is_some_and(coin);
        for attached in &mut self.disks {
            attached.server.lose_power(&mut survives)?;
        }
        Ok(())
    }

    /// Boots the machine anew after [`Self::power_cut`] or [`Self::power_off`]: a real boot, not the saved state, with
    /// the same disks and the same root file system. The root has a journal; what was synced there is there.
    ///
    /// # Errors
    /// When the machine still runs, or the guest does not come up.
    pub async fn boot_again(&mut self) -> Result<()> {
        if self.qemu.is_some() {
            bail!("the machine is running; cut its power or power it off first");
        }
        let machine = Machine { image: &self.image, accelerator: self.accelerator, shape: self.shape };
        let qemu = machine.start(self.folder.path(), false).await?;
        for attached in self.disks.iter_mut().filter(|attached| attached.plugged) {
            plug(&qemu, attached).await?;
        }
        qemu.qmp.call("cont", json!({})).await?;
        self.guest.moved(qemu.port);
        self.qemu = Some(qemu);
        self.guest.wait_ready(state::BOOT).await?;
        self.guest.identify(&self.name).await?;
        let present = self.disks.iter().filter(|attached| attached.plugged);
        self.wait_for_udev(present.map(|attached| attached.disk.path()).collect()).await
    }

    /// Powers the guest off in good order: everything is synced and flushed. It can boot again.
    ///
    /// # Errors
    /// When the guest does not do so in time.
    pub async fn power_off(&mut self) -> Result<()> {
        let Some(mut qemu) = self.qemu.take() else { return Ok(()) };
        // The guest may be gone before the agent says how the command ended.
        let _ = self.guest.exec(["sh", "-c", "sync; mount -o remount,ro /; busybox poweroff -f"]).await;
        qemu.wait(PLUG).await.with_context(|| console_tail(self.folder.path()))
    }

    /// Ends the machine and removes its files. Nothing of it is wanted any more, so it is simply killed.
    ///
    /// # Errors
    /// When QEMU cannot be killed.
    pub async fn shutdown(mut self) -> Result<()> {
        self.power_cut().await
    }

    fn running(&self) -> Result<&Qemu> {
        self.qemu.as_ref().context("the machine is not running")
    }

    /// The machine, which must run, and one of its disks.
    fn find(&mut self, serial: &str) -> Result<(&Qemu, &mut Attached)> {
        let known: Vec<_> = self.disks.iter().map(|attached| attached.disk.serial.clone()).collect();
        let qemu = self.qemu.as_ref().context("the machine is not running")?;
        let attached = self.disks.iter_mut().find(|attached| attached.disk.serial == serial);
        Ok((qemu, attached.with_context(|| format!("the machine has no disk {serial}; it has: {}", known.join(", ")))?))
    }

    /// A disk of zeroes in a sparse file.
    fn empty_disk(&self, disk: &Disk, slot: usize) -> Result<CachedDisk> {
        let path = self.folder.path().join(format!("disk{slot}"));
        let what = || format!("cannot make the file {} for disk {disk}", path.display());
        let file = File::options().read(true).write(true).create_new(true).open(&path).with_context(what)?;
        file.set_len(disk.size).with_context(what)?;
        Ok(CachedDisk::new(file, disk.size))
    }

    /// Waits for the disks' names, and then until udev has nothing left to do: lvm trusts what udev wrote down.
    async fn wait_for_udev(&self, paths: Vec<String>) -> Result<()> {
        if paths.is_empty() {
            return Ok(());
        }
        self.guest.wait_paths(paths, true, PLUG).await?;
        self.guest.check(["udevadm", "settle"]).await?;
        Ok(())
    }
}

/// The next of a row of coin tosses.
fn coin(random: &mut u64) -> bool {
    // SplitMix64: a seed of 0 is as good as any other.
    *random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *random;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) & 1 == 1
}

fn device_id(slot: usize) -> String {
    format!("disk{slot}")
}

fn limits(throttle: Throttle) -> Value {
    json!({ "bps-total": throttle.bytes_per_second, "iops-total": throttle.operations_per_second })
}

/// Shows a disk to the guest: our server, throttle, device.
async fn plug(qemu: &Qemu, attached: &mut Attached) -> Result<()> {
    let socket = attached.server.serve()?;
    let Attached { disk, slot, .. } = attached;
    let qmp = &qemu.qmp;
    let group = format!("throttle{slot}");
    qmp.call("object-add", json!({ "qom-type": "throttle-group", "id": group, "limits": limits(disk.throttle) }))
        .await?;
    let node = json!({
        "driver": "throttle", "node-name": format!("node{slot}"), "throttle-group": group,
        "discard": "unmap", "detect-zeroes": "unmap",
        "file": {
            "driver": "nbd", "discard": "unmap",
            "server": { "type": "unix", "path": socket, "abstract": true },
        },
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
