//! Copies the contents of a source into a new volume, with progress that survives a restart.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use quarry_pool::{Device, Pool, PoolSnapshot, PoolVolume, Record, SimulatedDevice};
use quarry_volume::{AccessTypes, Error, Gib, Reason, Result};
use uuid::Uuid;

use super::Failure;
use super::content::{Content, Origin, require_readable};
use crate::copies::Running;
use crate::copy::Tail;
use crate::device;
use crate::host::Host;
use crate::kernel::{DeviceCopy, Kernel};
use crate::prepare::update_record;
use crate::tasks::Handle;
use crate::zero::Progress;

/// How much is copied at once in a simulated pool.
const SIMULATED_CHUNK: u64 = 64 << 20;

impl Host {
    /// Copies the source into the volume, from the offset in the volume's record on, and flushes it. Returns the UUID
    /// that a copied filesystem gets; `None` for raw contents.
    ///
    /// # Errors
    /// `UnderWay` if the task was asked to stop, or if something else uses a device.
    pub(super) async fn transfer(
        &self,
        pool: &Arc<dyn Pool>,
        volume: &mut PoolVolume,
        content: &Content,
        running: &Running,
        handle: &Handle,
    ) -> Result<Option<Uuid>, Failure> {
        let from = match &content.origin {
            Origin::Snapshot(snapshot) => content.pool.activate_snapshot(snapshot).await?,
            Origin::Volume(volume) | Origin::Offline(volume) => device::activate_bytes(&content.pool, volume).await?,
        };
        let activated = Instant::now();
        let copied = self.transfer_from(from, pool, volume, content, running, handle).await;
        if matches!(content.origin, Origin::Offline(_)) {
            // Nothing else has used it since. (The source of a snapshot is deactivated when that is removed, and a full
            // copy or a thin snapshot by the caller, because others may copy it, too.)
            self.deactivate_now(&content.record.source, activated).await;
        }
        copied
    }

    async fn transfer_from(
        &self,
        from: Device,
        pool: &Arc<dyn Pool>,
        volume: &mut PoolVolume,
        content: &Content,
        running: &Running,
        handle: &Handle,
    ) -> Result<Option<Uuid>, Failure> {
        let to = device::activate_bytes(pool, volume).await?;
        let uuid = self.new_uuid(&from, content, volume).await?;
        let record = volume.record()?.clone();
        let (size, whole) = (content.size, volume.size);
        let offline = matches!(content.origin, Origin::Offline(_));
        // A volume without a snapshot may have been used since an interrupted copy, which had another instant's contents.
        let start = if offline { Gib::NONE } else { record.zeroed };
        let meter = running.meter(start);
        // An earlier call may have written to it, even if nothing counts as copied now, and even contents of another
        // instant. In a thin pool, that is discarded, or zeros would take space.
        let zeroed_target = tokio::select! {
            emptied = pool.is_empty_from(volume, start.bytes()) => emptied,
            // The copy stops before it begins.
            () = handle.cancel.cancelled() => false,
        };
        let shows_tail = record.access.shows_bytes() && !zeroed_target;
        let tail = match shows_tail && !quarry_fault::disabled("copy-tail") {
            true => Tail::Zero,
            false => Tail::WipeSignatures,
        };
        let mut stored = Stored { pool, volume, record: &record, resumable: !offline };
        match (from, to) {
            (Device::Node(source), Device::Node(target)) => {
                let filesystem = record.filesystem.zip(uuid).filter(|_| record.encryption.is_none());
                let (opened, rates) = (source.clone(), self.copies().rates(content.pool.name(), pool.name()));
                let retry = "CreateVolume";
                let copy = DeviceCopy {
                    source,
                    size,
                    offline,
                    target,
                    start,
                    tail,
                    zeroed_target,
                    filesystem,
                    rates,
                    meter,
                    retry,
                };
                let copied = self.kernel().copy(copy, handle, &mut stored).await;
                copied.map_err(|error| Failure::of_copy(error, pool.name()))?;
                require_unchanged(self.kernel(), content, &opened).await?;
            }
            (Device::Simulated(source), Device::Simulated(target)) => {
                copy_simulated(&source, &target, start.bytes()..size, whole, handle).await?;
            }
            _ => {
                return Err(Error::precondition("nothing is copied between a simulated pool and a real one").into());
            }
        }
        Ok(uuid)
    }

    /// The UUID that the filesystem in a source gets in the volume, or keeps; `None` for raw contents.
    async fn new_uuid(&self, from: &Device, content: &Content, volume: &PoolVolume) -> Result<Option<Uuid>, Failure> {
        let record = &content.record;
        let (Some(kind), Some(expected)) = (record.filesystem, record.filesystem_uuid) else { return Ok(None) };
        if record.encryption.is_some() {
            return Ok(Some(expected));
        }
        let found = match from {
            Device::Node(node) => self.kernel().superblock(kind, node).await?,
            Device::Simulated(_) | Device::Space(_) => return Ok(Some(volume.filesystem_uuid())),
        };
        if found.is_some_and(|found| !found.in_progress && found.uuid.eq_ignore_ascii_case(&expected.to_string())) {
            return Ok(Some(volume.filesystem_uuid()));
        }
        match record.access {
            // It was used raw.
            AccessTypes::Both => Ok(None),
            AccessTypes::Mount | AccessTypes::Block => Err(Failure::of_source(Error::precondition(format!(
                "the source {} should contain {kind} with UUID {expected}, but its superblock is missing: a copy of it \
                 could not be mounted; check the filesystem of the source (fsck) while nothing uses it",
                record.source
            )))),
        }
    }
}

/// Checks after a copy that the device at that node, which was read, was the source until the end, and that the contents
/// of a snapshot were not lost meanwhile.
async fn require_unchanged(kernel: &Arc<dyn Kernel>, content: &Content, opened: &Path) -> Result<(), Failure> {
    match &content.origin {
        Origin::Snapshot(snapshot) => require_snapshot_unchanged(&content.pool, snapshot, opened).await,
        Origin::Volume(volume) | Origin::Offline(volume) => {
            let now = device::active(&**kernel, &content.pool, volume)?.map(|now| now.top);
            Ok(require_same_device(now.as_deref(), opened)?)
        }
    }
}

/// The same for a snapshot: what is read from one while it becomes full may be of another instant.
pub(crate) async fn require_snapshot_unchanged(
    pool: &Arc<dyn Pool>,
    snapshot: &PoolSnapshot,
    opened: &Path,
) -> Result<(), Failure> {
    if let Some(found) = pool.snapshot(&snapshot.name).await? {
        require_readable(&found).map_err(Failure::of_source)?;
    }
    let now = pool.activate_snapshot(snapshot).await?.node()?;
    Ok(require_same_device(Some(&now), opened)?)
}

fn require_same_device(now: Option<&Path>, opened: &Path) -> Result<()> {
    if now == Some(opened) {
        return Ok(());
    }
    let opened = opened.display();
    Err(Error::unavailable(format!("the device of its source, {opened}, was removed while it was copied: retry")))
}

/// Copies a simulated device, and zeroes the rest of the target, which has `whole` bytes.
pub(crate) async fn copy_simulated(
    source: &SimulatedDevice,
    target: &SimulatedDevice,
    bytes: Range<u64>,
    whole: u64,
    handle: &Handle,
) -> Result<()> {
    let mut offset = bytes.start.min(bytes.end);
    while offset < bytes.end {
        if handle.cancel.is_cancelled() {
            return Err(Error::new(Reason::UnderWay, "the copy was stopped; a retry continues it"));
        }
        let next = offset.saturating_add(SIMULATED_CHUNK).min(bytes.end);
        target.copy_from(source, offset..next).await?;
        offset = next;
        handle.progress(format!("copied {} of {} GiB", Gib::whole_in(offset).0, Gib::needed_for(bytes.end).0));
    }
    if bytes.end < whole { target.zero(bytes.end..whole).await } else { Ok(()) }
}

/// The progress in the volume's record.
struct Stored<'a> {
    pool: &'a Arc<dyn Pool>,
    volume: &'a mut PoolVolume,
    record: &'a Record,
    /// Whether a later call can continue the copy.
    resumable: bool,
}

#[async_trait::async_trait]
impl Progress for Stored<'_> {
    async fn store(&mut self, copied: Gib) -> Result<()> {
        if !self.resumable {
            return Ok(());
        }
        // This says nothing about the source.
        update_record(self.pool, self.volume, &self.record.zeroed(copied)).await.map_err(Error::not_final)
    }
}
