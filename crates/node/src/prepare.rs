//! What happens to a volume between being carved and being answered OK: nobody may ever see what lay there before.
//!
//! Only a volume in state `new` comes here. One that is made for a filesystem loses the signatures of former owners; one
//! that may be used as a raw block device is zeroed to the last byte, in chunks, with its progress in the record.

use std::sync::Arc;

use quarry_filesystem as filesystem;
use quarry_pool::{Device, Pool, PoolVolume, Record, Recorded, State};
use quarry_volume::{AccessTypes, Error, Reason, Result};

use crate::bytes::Bytes;
use crate::stage::own_superblock;
use crate::tasks::Handle;

const GIB: u64 = 1 << 30;
/// The largest range that one ioctl zeroes: between two, the task can be stopped.
const CHUNK: u64 = GIB;
/// How much is zeroed between two notes in the record.
const NOTE_EVERY: u64 = 64 * GIB;

/// Whether a `new` volume of both access types is zeroed: its record keeps the state `new` until its first use, which
/// decides what it is.
pub(crate) fn is_zeroed(record: &Record, size: u64) -> bool {
    record.zeroed >= size.div_ceil(GIB)
}

/// Makes a volume fit to be answered OK. `fresh`: it was carved by this very call.
///
/// # Errors
/// `UnderWay` if something holds the device exclusively, or the task was asked to stop.
pub(crate) async fn prepare(
    pool: &Arc<dyn Pool>,
    mut volume: PoolVolume,
    fresh: bool,
    handle: &Handle,
) -> Result<PoolVolume> {
    let record = volume.record()?.clone();
    if record.state == State::Ready || (record.access.shows_bytes() && is_zeroed(&record, volume.size)) {
        return Ok(volume);
    }
    let device = pool.activate(&volume).await?;
    if record.access.shows_bytes() {
        zero(pool, &mut volume, record, device, handle).await?;
    } else if fresh || !carries_own_filesystem(&volume, &device).await? {
        Bytes::hold(device).await?.wipe().await?;
    }
    Ok(volume)
}

/// Whether a `new` volume carries the filesystem that a stage made for it: then it is that stage's, or, after an
/// operator restored old metadata, somebody's data. Either way it is not wiped, whatever else lies on it.
async fn carries_own_filesystem(volume: &PoolVolume, device: &Device) -> Result<bool> {
    // In a simulated pool no stage ever makes one.
    let (Device::Node(device), Some(kind)) = (device, volume.record()?.filesystem) else { return Ok(false) };
    let own = filesystem::filesystem_uuid(&volume.uuid);
    Ok(own_superblock(kind, device, &own).await?.is_some())
}

/// Zeroes the whole device from where the record says, and marks the volume `ready` (or, for both access types, zeroed).
async fn zero(
    pool: &Arc<dyn Pool>,
    volume: &mut PoolVolume,
    record: Record,
    device: Device,
    handle: &Handle,
) -> Result<()> {
    let size = volume.size;
    let mut offset = record.zeroed.saturating_mul(GIB).min(size);
    let mut noted = offset;
    let tell = |offset: u64| {
        #[allow(clippy::cast_precision_loss, reason = "for people")]
        let gib = |bytes: u64| bytes as f64 / GIB as f64;
        handle.progress(format!("zeroed {:.1} of {:.1} GiB", gib(offset), gib(size)));
    };
    tell(offset);
    let bytes = Bytes::hold(device).await?;
    while offset < size {
        if handle.cancel.is_cancelled() {
            return Err(Error::new(
                Reason::UnderWay,
                format!("zeroing of volume {} was stopped; a retry of CreateVolume goes on with it", volume.name),
            ));
        }
        let length = CHUNK.min(size - offset);
        bytes.zero(offset, length).await?;
        offset += length;
        tell(offset);
        if offset - noted >= NOTE_EVERY && offset < size {
            bytes.flush().await?;
            let record = record.zeroed(offset / GIB);
            note(pool, volume, &record).await?;
            noted = offset;
        }
    }
    bytes.flush().await?;
    drop(bytes);
    let done = match record.access {
        AccessTypes::Both => record.zeroed(size.div_ceil(GIB)),
        AccessTypes::Block | AccessTypes::Mount => record.ready(),
    };
    note(pool, volume, &done).await
}

/// Replaces the record on the storage and in `volume`.
pub(crate) async fn note(pool: &Arc<dyn Pool>, volume: &mut PoolVolume, record: &Record) -> Result<()> {
    pool.set_record(volume, record).await?;
    volume.record = Recorded::Here(Box::new(record.clone()));
    Ok(())
}
