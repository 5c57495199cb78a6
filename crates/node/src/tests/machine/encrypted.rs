//! Encrypted devices of the machine: their headers, and the open ones, which are only used raw.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quarry_encryption::{HEADER_SIZE, Header, Layer};
use quarry_exec::Secret;
use quarry_mount::Device;
use quarry_volume::{Error, Result};
use uuid::Uuid;

use super::filesystems::Held;
use super::{MAPPER, Process, State};
use crate::errors;
use crate::kernel::{Encryptions, HeldDevice};

/// An open encrypted device.
#[derive(Clone)]
pub(super) struct Opened {
    number: Device,
    /// The device below, and the UUID of the header on it.
    below: Device,
    header: Uuid,
    /// Its size in bytes, which does not change when the device below grows.
    size: u64,
}

/// The node of the open device with that number.
fn node_of(number: Device) -> PathBuf {
    PathBuf::from(format!("/dev/dm-{}", number.minor))
}

impl State {
    /// The size of a device in bytes.
    pub(super) fn size_of(&self, number: Device) -> Option<u64> {
        let opened = || self.encrypted.values().find(|opened| opened.number == number).map(|opened| opened.size);
        self.disk(number).map(|disk| disk.size).or_else(opened)
    }

    /// The open encrypted devices, with their numbers.
    pub(super) fn layers(&self) -> impl Iterator<Item = (Device, Layer)> {
        self.encrypted.iter().map(|(name, opened)| {
            let uuid = format!("CRYPT-LUKS2-{}-{name}", opened.header.simple());
            (opened.number, Layer { name: name.clone(), uuid, node: node_of(opened.number), size: opened.size })
        })
    }

    /// The open encrypted device on the device at `raw`.
    pub(in crate::tests) fn layer_on(&self, raw: &Path) -> Option<Layer> {
        let below = self.number(raw)?;
        let number = self.encrypted.values().find(|opened| opened.below == below)?.number;
        self.layers().find(|(other, _)| *other == number).map(|(_, layer)| layer)
    }

    /// The number of the open device with that node.
    pub(super) fn encrypted_at(&self, node: &Path) -> Option<Device> {
        self.encrypted.values().map(|opened| opened.number).find(|number| node_of(*number) == node)
    }

    /// Whether an encrypted device is open on that device.
    pub(super) fn is_encryption_open(&self, below: Device) -> bool {
        self.encrypted.values().any(|opened| opened.below == below)
    }

    /// Whether the node of a device is mounted, or that of a read-only mapping of it.
    fn is_used(&self, number: Device) -> bool {
        let shows = |found: Device| found == number || self.mapped(found) == Some(number);
        self.mounts.iter().any(|entry| self.node_device(entry).is_some_and(shows))
    }
}

/// A pool's device that is held to erase the header on it.
struct Erased(Held);

impl HeldDevice for Erased {
    fn wipe_signatures(&self) -> Result<()> {
        self.0.wipe_signatures()
    }

    fn zero_range(&self, _bytes: Range<u64>) -> Result<()> {
        self.0.process.effect("erase", |state| {
            if let Some(disk) = state.disks.get_mut(&self.0.device) {
                disk.header = None;
            }
        });
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.0.flush()
    }
}

#[async_trait::async_trait]
impl Encryptions for Process {
    fn header(&self, raw: &Path) -> Result<Header> {
        let header = self.read(|state| state.disks.get(raw).and_then(|disk| disk.header));
        Ok(header.map_or(Header::None, |uuid| Header::Complete { uuid }))
    }

    async fn format_encrypted(&self, raw: &Path, uuid: Uuid, _name: &str, _passphrase: &Secret) -> Result<()> {
        self.changes("format encrypted", |state| {
            if let Some(disk) = state.disks.get_mut(raw) {
                disk.header = Some(uuid);
            }
        })
        .await;
        Ok(())
    }

    async fn set_header_uuid(&self, _raw: &Path, _uuid: Uuid, _name: &str) -> Result<()> {
        Err(Error::host("the machine in memory does not copy encrypted devices"))
    }

    async fn open_encrypted(&self, raw: &Path, name: &str, _passphrase: &Secret, _discards: bool) -> Result<()> {
        // As cryptsetup does: it reads the size of the device, checks the passphrase, and then makes the device.
        let found = self.try_read(|state| state.disks.get(raw).map(|disk| (disk.number, disk.size, disk.header)));
        let Some((below, size, Some(header))) = found.flatten() else {
            return Err(Error::precondition("it has no LUKS2 header"));
        };
        self.changes("open encrypted", |state| {
            let number = Device { major: MAPPER, minor: state.next() };
            let opened = Opened { number, below, header, size: size.saturating_sub(HEADER_SIZE) };
            if state.encrypted.insert(name.to_owned(), opened).is_some() {
                state.violation("opened an encrypted device twice");
            }
        })
        .await;
        Ok(())
    }

    async fn resize_encrypted(&self, raw: &Path, name: &str) -> Result<()> {
        self.changes("resize encrypted", |state| {
            if state.fails.take_if(|fails| *fails == "resize encrypted").is_some() {
                return Err(Error::host("cannot resize the encrypted device: as configured"));
            }
            let size = state.disks.get(raw).map(|disk| disk.size.saturating_sub(HEADER_SIZE));
            if let (Some(opened), Some(size)) = (state.encrypted.get_mut(name), size) {
                opened.size = size;
            }
            Ok(())
        })
        .await
    }

    async fn close_encrypted(&self, layer: &Layer) -> Result<()> {
        self.changes("close encrypted", |state| {
            let closed = state.encrypted.remove(&layer.name);
            if closed.is_some_and(|closed| state.is_used(closed.number)) {
                state.violation("closed an encrypted device that is published");
            }
        })
        .await;
        Ok(())
    }

    fn remove_unfinished(&self, _raw: &Path, _name: &str) -> Result<()> {
        Ok(())
    }

    fn hold_encrypted(&self, raw: &Path, _name: &str) -> Result<Arc<dyn HeldDevice>> {
        self.read(|_| ());
        self.machine.state().hold(raw, self.inner.id).map_err(errors::filesystem)?;
        let held = Held { process: self.clone(), device: raw.to_owned(), closing_blocks: true };
        Ok(Arc::new(Erased(held)))
    }
}
