//! A pool on the machine: a simulated pool whose volumes have devices.

use std::future::pending;
use std::path::PathBuf;
use std::time::Instant;

use quarry_mount::Device as Number;
use quarry_pool::{Device, Pool, PoolVolume, Reading, Record, SimulatedPool, State, Uevents};
use quarry_volume::{Error, Reason, Result, StorageId, VolumeSpec};

use super::machine::{Bytes, Disk, MAPPER, Process, State as Machine, node};

/// The pool as one process uses it.
pub(super) struct MachinePool {
    pub(super) simulated: SimulatedPool,
    pub(super) process: Process,
}

impl MachinePool {
    /// Waits forever if the process is dead.
    async fn alive(&self) {
        if !self.process.is_alive() {
            pending::<()>().await;
        }
    }

    /// An effect: a dead process never returns from it.
    async fn effect<T>(&self, what: &str, work: impl FnOnce(&mut Machine) -> T) -> T {
        match self.process.try_effect(what, work) {
            Some(result) => result,
            None => pending().await,
        }
    }
}

fn in_use(volume: &PoolVolume) -> Error {
    Error::new(Reason::InUse, format!("volume {} is open", volume.name))
}

#[async_trait::async_trait]
impl Pool for MachinePool {
    fn name(&self) -> &str {
        self.simulated.name()
    }

    async fn read(&self, known: Option<u64>) -> Reading {
        self.alive().await;
        self.simulated.read(known).await
    }

    fn uevents(&self) -> &Uevents {
        self.simulated.uevents()
    }

    fn changing(&self) -> bool {
        self.simulated.changing()
    }

    async fn volumes(&self) -> Result<Vec<PoolVolume>> {
        self.alive().await;
        self.simulated.volumes().await
    }

    async fn volume(&self, name: &str) -> Result<Option<PoolVolume>> {
        self.alive().await;
        self.simulated.volume(name).await
    }

    async fn storage(&self) -> Result<StorageId> {
        self.simulated.storage().await
    }

    fn last_storage(&self) -> Option<StorageId> {
        self.simulated.last_storage()
    }

    fn supports(&self, spec: &VolumeSpec) -> Result<()> {
        self.simulated.supports(spec)
    }

    async fn size_of(&self, spec: &VolumeSpec) -> Result<u64> {
        self.simulated.size_of(spec).await
    }

    async fn create(&self, spec: &VolumeSpec) -> Result<PoolVolume> {
        self.effect("create", |_| ()).await;
        let volume = self.simulated.create(spec).await?;
        let mut machine = self.process.state();
        let number = Number { major: MAPPER, minor: machine.next() };
        machine.disks.insert(node(&volume.name), Disk::new(number, volume.size, Bytes::remnants(volume.size)));
        Ok(volume)
    }

    async fn activate(&self, volume: &PoolVolume) -> Result<Device> {
        let node = node(&volume.name);
        let active = self.process.try_read(|machine| machine.disks.get(&node).is_some_and(|disk| disk.active));
        match active {
            None => pending().await,
            Some(true) => {}
            Some(false) => {
                self.effect("activate", |machine| {
                    if let Some(disk) = machine.disks.get_mut(&node) {
                        disk.active = true;
                    }
                })
                .await;
            }
        }
        Ok(Device::Node(node))
    }

    fn may_be_active(&self, storage: &StorageId, name: &str) -> bool {
        let own = self.last_storage().as_ref() == Some(storage);
        let asked = self.process.try_read(|machine| match machine.sysfs_names_volumes {
            // As for LVM.
            true => machine.disks.get(&node(name)).is_some_and(|disk| disk.active),
            // As for whole disks.
            false => true,
        });
        own && asked.unwrap_or_default()
    }

    async fn deactivate(&self, volume: &PoolVolume, _unused_since: Instant) -> Result<()> {
        self.effect("deactivate", |machine| {
            let node = node(&volume.name);
            let open = machine.disks.get(&node).is_some_and(|disk| machine.is_open(disk));
            match machine.disks.get_mut(&node) {
                Some(_) if open => Err(in_use(volume)),
                Some(disk) => {
                    disk.active = false;
                    Ok(())
                }
                None => Ok(()),
            }
        })
        .await
    }

    fn device(&self, volume: &PoolVolume) -> Result<Option<PathBuf>> {
        let node = node(&volume.name);
        let active = self.process.try_read(|machine| machine.disks.get(&node).is_some_and(|disk| disk.active));
        Ok(active.unwrap_or_default().then_some(node))
    }

    async fn set_record(&self, volume: &PoolVolume, record: &Record) -> Result<()> {
        self.effect("set record", |machine| {
            let disk = machine.disks.get(&node(&volume.name));
            let unflushed = disk.is_some_and(|disk| disk.bytes != disk.durable);
            if disk.is_some_and(Disk::has_mkfs) {
                machine.violation("the record was changed while an mkfs writes to the volume");
            }
            if unflushed {
                machine.violation("the record was changed before the volume was flushed");
            }
        })
        .await;
        self.simulated.set_record(volume, record).await?;
        if let Some(disk) = self.process.state().disks.get_mut(&node(&volume.name)) {
            disk.ready = record.state == State::Ready;
        }
        Ok(())
    }

    async fn remove(&self, volume: &PoolVolume) -> Result<()> {
        self.effect("remove", |machine| {
            let node = node(&volume.name);
            if machine.disks.get(&node).is_some_and(|disk| machine.is_open(disk)) {
                return Err(in_use(volume));
            }
            machine.disks.remove(&node);
            Ok(())
        })
        .await?;
        self.simulated.remove(volume).await
    }
}
