//! A virtual node: its life cycle, its disks, and its faults.

mod disks;
mod lan;

use std::net::Ipv4Addr;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Once;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use quarry_cache::Cache;
use serde_json::json;

use crate::agent::Guest;
use crate::disk::Disk;
use crate::host;
use crate::image::{self, Image};
use crate::machine::{self, Accelerator, CONSOLE_LOG, Machine, Qemu, Shape, console_tail};
use crate::network::Network;
use crate::preparation::Preparation;
use crate::rundir::RunDir;
use crate::state;
use crate::system::System;
use disks::Attached;
use lan::Lan;

pub use disks::SpareDisk;

/// How long a disk or a network card may take to come or go in the guest.
const PLUG: Duration = Duration::from_secs(60);

/// The options of a virtual node.
#[derive(Clone, Debug)]
pub struct Config {
    /// The guest's host name.
    pub name: String,
    /// What it runs, unless it is [`System::current`].
    pub system: Option<System>,
    /// Memory and processors.
    pub shape: Shape,
    /// Disks that are there when [`Vm::start`] returns.
    pub disks: Vec<Disk>,
    /// The network it is on, if any, and its number there; see [`Network::address`].
    pub network: Option<(Network, u8)>,
    /// What was done to its root file system, in this order.
    pub preparations: Vec<Preparation>,
}

impl Config {
    /// A node without disks and network.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            system: None,
            shape: Shape::default(),
            disks: Vec::new(),
            network: None,
            preparations: Vec::new(),
        }
    }

    /// The same node with one more disk.
    #[must_use]
    pub fn disk(mut self, disk: Disk) -> Self {
        self.disks.push(disk);
        self
    }

    /// The same node with this operating system.
    #[must_use]
    pub fn system(self, system: System) -> Self {
        Self { system: Some(system), ..self }
    }

    /// The same node with other memory (MiB) and processors.
    #[must_use]
    pub fn shape(self, shape: Shape) -> Self {
        Self { shape, ..self }
    }

    /// The same node on a network, with the address of this number, 1 to 254.
    #[must_use]
    pub fn network(self, network: &Network, number: u8) -> Self {
        Self { network: Some((network.clone(), number)), ..self }
    }

    fn check(&self) -> Result<()> {
        let plain = self.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        if self.name.is_empty() || self.name.len() > 40 || !plain {
            bail!("a virtual node's name is 1 to 40 of A-Za-z0-9-, not {:?}", self.name);
        }
        if let Some((_, number)) = self.network {
            lan::check(number)?;
        }
        Ok(())
    }
}

/// What a power cut leaves of unflushed writes.
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
    lan: Option<Lan>,
    name: String,
    system: System,
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
    /// Starts a node from the saved state and plugs its disks in. The very first start builds what is
    /// missing.
    ///
    /// # Errors
    /// When the host lacks tools (the message names the packages), a build fails, or the guest does not come up.
    pub async fn start(config: Config) -> Result<Self> {
        config.check()?;
        host::require_tools()?;
        let cache = Cache::open()?;
        let system = config.system.map_or_else(System::current, Ok)?;
        let image = image::image(&cache, system).await?;
        let accelerator = machine::accelerator(&cache, &image).await?;
        static SAID: Once = Once::new();
        SAID.call_once(|| eprintln!("quarry-vm: guests run under {accelerator}"));
        let machine = Machine { image: &image, accelerator, shape: config.shape };
        let lan = config.network.map(|(network, number)| Lan::new(network, number));
        let saved = state::saved(&cache, &machine, &config.preparations).await?;

        let folder = RunDir::create(&cache, &config.name)?;
        let (qemu, guest) = state::restore(&machine, &saved, folder.path(), lan.is_some()).await?;
        guest.identify(&config.name).await?;
        let mut vm = Self {
            guest,
            disks: Vec::new(),
            lan,
            name: config.name,
            system,
            image,
            accelerator,
            shape: config.shape,
            qemu: Some(qemu),
            folder,
        };
        vm.add_disks(config.disks).await?;
        vm.join_network().await?;
        Ok(vm)
    }

    /// A handle to the guest that other tasks can use.
    #[must_use]
    pub fn guest(&self) -> Guest {
        self.guest.clone()
    }

    /// What the guest runs.
    #[must_use]
    pub fn system(&self) -> System {
        self.system
    }

    /// What runs the guest's instructions.
    #[must_use]
    pub fn accelerator(&self) -> Accelerator {
        self.accelerator
    }

    /// The guest's address on its network.
    #[must_use]
    pub fn address(&self) -> Option<Ipv4Addr> {
        self.lan.as_ref().map(|lan| Network::address(lan.number()))
    }

    /// The file with everything that was written to the guest's console. It is removed with the machine.
    #[must_use]
    pub fn console_log(&self) -> PathBuf {
        self.folder.path().join(CONSOLE_LOG)
    }

    /// The end of the guest's console.
    #[must_use]
    pub fn console(&self) -> String {
        console_tail(self.folder.path())
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
            attached.lose_power(&mut survives)?;
        }
        Ok(())
    }

    /// Boots the machine again after [`Self::power_cut`] or [`Self::power_off`]: a real boot, not the saved
    /// state, with the same disks and the same root file system. The root has a journal; synced files are
    /// there.
    ///
    /// # Errors
    /// When the machine still runs, or the guest does not come up.
    pub async fn boot_again(&mut self) -> Result<()> {
        if self.qemu.is_some() {
            bail!("the machine is running; cut its power or power it off first");
        }
        let machine = Machine { image: &self.image, accelerator: self.accelerator, shape: self.shape };
        let qemu = machine.start(self.folder.path(), false, self.lan.is_some()).await?;
        for attached in self.disks.iter_mut().filter(|attached| attached.plugged) {
            attached.plug(&qemu).await?;
        }
        qemu.qmp.call("cont", json!({})).await?;
        self.guest.moved(qemu.port);
        self.qemu = Some(qemu);
        self.guest.wait_ready(state::BOOT).await?;
        self.guest.identify(&self.name).await?;
        let present = self.disks.iter().filter(|attached| attached.plugged);
        self.wait_for_udev(present.map(Attached::path).collect()).await?;
        self.join_network().await
    }

    /// Removes udevd: device nodes and links are no longer created, and nothing listens on its sockets.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn stop_udev(&self) -> Result<()> {
        self.guest.sh(format!("{} && ! pgrep systemd-udevd", self.system.stop_udev())).await.map(drop)
    }

    /// Brings udevd back after [`Self::stop_udev`].
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_udev(&self) -> Result<()> {
        self.guest.sh(format!("{} && udevadm control --ping", self.system.start_udev())).await.map(drop)
    }

    /// Powers the guest off in good order: everything is synced and flushed. It can boot again.
    ///
    /// # Errors
    /// When the guest does not do so in time.
    pub async fn power_off(&mut self) -> Result<()> {
        let Some(qemu) = self.qemu.take() else { return Ok(()) };
        state::power_off(&self.guest, qemu).await.with_context(|| console_tail(self.folder.path()))
    }

    /// [`Self::power_off`] and [`Self::boot_again`].
    ///
    /// # Errors
    /// As these.
    pub async fn reboot(&mut self) -> Result<()> {
        self.power_off().await?;
        self.boot_again().await
    }

    /// Kills the machine and removes its files, since nothing of it is needed any longer.
    ///
    /// # Errors
    /// When QEMU cannot be killed.
    pub async fn shutdown(mut self) -> Result<()> {
        self.power_cut().await
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
