//! Copies the contents of a source into a new volume, in chunks, with progress that survives a restart.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use quarry_pool::{Device, Pool, PoolVolume, Record, SimulatedDevice};
use quarry_volume::{AccessTypes, ContentSource, Error, Filesystem, Gib, Reason, Result};
use uuid::Uuid;

use super::Failure;
use super::content::{Content, Origin};
use crate::copies::{Copy, Running};
use crate::host::Host;
use crate::kernel::CopyDevices;
use crate::prepare::update_record;
use crate::tasks::Handle;
use crate::{device, errors};

const GIB: u64 = 1 << 30;
/// The largest range that is copied at once. The task can be stopped between two ranges.
const CHUNK: u64 = GIB / 4;
/// How much is copied between two updates of the stored progress.
const STORE_EVERY: u64 = 16 * GIB;

/// A source and the volume that is filled from it. Nothing else uses the volume until this is dropped; nor the source,
/// if it is not a snapshot.
enum Pair {
    Devices(Arc<dyn CopyDevices>),
    Simulated { source: SimulatedDevice, target: SimulatedDevice },
}

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
        source: &ContentSource,
        handle: &Handle,
    ) -> Result<Option<Uuid>, Failure> {
        let from = match &content.origin {
            Origin::Snapshot(snapshot) => content.pool.activate_snapshot(snapshot).await?,
            Origin::Volume(volume) | Origin::Offline(volume) => {
                device::activate_bytes(&content.pool, volume).await?
            }
        };
        let activated = Instant::now();
        let copied = self.transfer_from(from, pool, volume, content, source, handle).await;
        // A source that no pod uses was inactive.
        self.deactivate_now(&content.record.source, activated).await;
        copied
    }

    async fn transfer_from(
        &self,
        from: Device,
        pool: &Arc<dyn Pool>,
        volume: &mut PoolVolume,
        content: &Content,
        source: &ContentSource,
        handle: &Handle,
    ) -> Result<Option<Uuid>, Failure> {
        let to = device::activate_bytes(pool, volume).await?;
        let uuid = self.new_uuid(&from, content, volume).await?;
        let record = volume.record()?.clone();
        let filesystem = record.filesystem.zip(uuid);
        let pair = self.open_pair(from, to, matches!(content.origin, Origin::Offline(_)), filesystem).await?;
        clean_tail(&pair, &record, content.size, volume.size).await?;
        let zeroes_tail = record.access.shows_bytes() && !quarry_fault::disabled("copy-tail");
        let total = if zeroes_tail { volume.size } else { content.size };
        let (source, pool_name) = (source.clone(), pool.name().to_owned());
        let running = self.copies().begin(&volume.name, Copy { source, pool: pool_name, done: 0, total });
        copy(&pair, pool, volume, content, total, handle, &running).await?;
        Ok(uuid)
    }

    /// The UUID that the filesystem in a source gets in the volume; `None` for raw contents.
    async fn new_uuid(&self, from: &Device, content: &Content, volume: &PoolVolume) -> Result<Option<Uuid>, Failure> {
        let record = &content.record;
        let (Some(kind), Some(expected)) = (record.filesystem, record.filesystem_uuid) else { return Ok(None) };
        let found = match from {
            Device::Node(node) => self.kernel().superblock(kind, node).await?,
            Device::Simulated(_) => return Ok(Some(volume.filesystem_uuid())),
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

    async fn open_pair(
        &self,
        from: Device,
        to: Device,
        offline: bool,
        filesystem: Option<(Filesystem, Uuid)>,
    ) -> Result<Pair> {
        match (from, to) {
            (Device::Node(source), Device::Node(target)) => {
                let kernel = Arc::clone(self.kernel());
                let open = move || kernel.open_copy(&source, offline, &target, filesystem);
                Ok(Pair::Devices(errors::blocking(open).await?))
            }
            (Device::Simulated(source), Device::Simulated(target)) => Ok(Pair::Simulated { source, target }),
            (Device::Node(_), Device::Simulated(_)) | (Device::Simulated(_), Device::Node(_)) => {
                Err(Error::precondition("nothing is copied between a simulated pool and a real one"))
            }
        }
    }
}

impl Pair {
    /// Copies these bytes; not flushed.
    async fn copy(&self, bytes: Range<u64>) -> Result<()> {
        match self {
            Self::Devices(devices) => {
                let devices = Arc::clone(devices);
                errors::blocking(move || devices.copy_range(bytes)).await
            }
            Self::Simulated { source, target } => target.copy_from(source, bytes).await,
        }
    }

    /// Zeroes these bytes of the volume; not flushed.
    async fn zero(&self, bytes: Range<u64>) -> Result<()> {
        match self {
            Self::Devices(devices) => {
                let devices = Arc::clone(devices);
                errors::blocking(move || devices.zero_range(bytes)).await
            }
            Self::Simulated { target, .. } => target.zero(bytes).await,
        }
    }

    /// Flushes all writes to the volume's disk.
    async fn flush(&self) -> Result<()> {
        match self {
            Self::Devices(devices) if !quarry_fault::disabled("copy-flush") => {
                let devices = Arc::clone(devices);
                errors::blocking(move || devices.flush()).await
            }
            Self::Devices(_) | Self::Simulated { .. } => Ok(()),
        }
    }
}

/// Removes what previous owners left beyond the contents, where a signature would be found: unless the volume may be
/// shown raw, so that [`copy`] zeroes all of that.
async fn clean_tail(pair: &Pair, record: &Record, contents: u64, size: u64) -> Result<()> {
    if record.access.shows_bytes() || quarry_fault::disabled("copy-tail") {
        return Ok(());
    }
    for place in quarry_filesystem::signature_places(size) {
        let beyond = place.start.max(contents)..place.end;
        if !beyond.is_empty() {
            pair.zero(beyond).await?;
        }
    }
    Ok(())
}

/// Copies the contents, zeroes what lies beyond them, up to `end`, and flushes.
async fn copy(
    pair: &Pair,
    pool: &Arc<dyn Pool>,
    volume: &mut PoolVolume,
    content: &Content,
    end: u64,
    handle: &Handle,
    running: &Running,
) -> Result<(), Failure> {
    let record = volume.record()?.clone();
    // A volume without a snapshot may have been used since an interrupted copy, which had another instant's contents.
    let resumable = matches!(content.origin, Origin::Snapshot(_));
    let mut offset = if resumable { record.zeroed.bytes().min(end) } else { 0 };
    let mut stored = offset;
    let report = |offset: u64| {
        #[allow(clippy::cast_precision_loss, reason = "for people")]
        let gib = |bytes: u64| bytes as f64 / GIB as f64;
        handle.progress(format!("copied {:.1} of {:.1} GiB", gib(offset), gib(end)));
        running.at(offset);
    };
    report(offset);
    while offset < end {
        if handle.cancel.is_cancelled() {
            return Err(Error::new(
                Reason::UnderWay,
                "filling the volume was stopped; a retry of CreateVolume continues it",
            )
            .into());
        }
        // The contents end between two ranges.
        let limit = if offset < content.size { content.size } else { end };
        let next = offset.saturating_add(CHUNK).min(limit);
        match offset < content.size {
            true => pair.copy(offset..next).await.map_err(Failure::of_source)?,
            false => pair.zero(offset..next).await?,
        }
        offset = next;
        report(offset);
        if resumable && offset - stored >= STORE_EVERY && offset < end {
            pair.flush().await?;
            update_record(pool, volume, &record.zeroed(Gib::whole_in(offset))).await?;
            stored = offset;
        }
    }
    Ok(pair.flush().await?)
}
