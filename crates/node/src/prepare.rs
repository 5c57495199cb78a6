//! Prepares a created volume before CreateVolume returns OK: no user may ever see the data of a previous
//! owner.
//!
//! Only a volume in state `new` is prepared. If it is created for a filesystem, the signatures of previous
//! owners are wiped, unless its record says that they were: then what is on the volume was written later, and a
//! stage rejects it. On LVM, the record never says so, because that would take one more metadata commit. So
//! there, a repeated CreateVolume wipes again until the first stage. If it may be used as a raw block device, it
//! is zeroed completely, in chunks, and the record stores the progress. A new encrypted volume is not zeroed: what a
//! previous owner left reads as noise with a new key, and the first stage writes the header.

use std::sync::Arc;

use quarry_encryption::{Header, header_uuid};
use quarry_pool::{Device, Pool, PoolVolume, Record, Recorded, State};
use quarry_volume::{AccessTypes, Gib, Result};

use crate::bytes::Bytes;
use crate::device;
use crate::encrypted;
use crate::kernel::Kernel;
use crate::stage::own_superblock;
use crate::tasks::Handle;
use crate::zero::{Progress, zero_all};

/// Whether a `new` volume of both access types is completely zeroed. Its record keeps the state `new` until
/// its first use, which decides the type.
pub(crate) fn is_zeroed(record: &Record, size: u64) -> bool {
    // The record has the size at creation. Space that was added since was zeroed before.
    record.zeroed >= Gib::needed_for(size.min(record.size))
}

/// Prepares a volume so that CreateVolume can return OK. `fresh`: this call created it.
///
/// # Errors
/// `UnderWay` if something holds the device exclusively, or the task was asked to stop.
pub(crate) async fn prepare(
    kernel: &Arc<dyn Kernel>,
    pool: &Arc<dyn Pool>,
    mut volume: PoolVolume,
    fresh: bool,
    handle: &Handle,
) -> Result<PoolVolume> {
    let record = volume.record()?.clone();
    let needs_zeroes = record.access.shows_bytes() && !record.needs_no_zeroes();
    if record.state == State::Ready || (needs_zeroes && is_zeroed(&record, volume.size)) {
        return Ok(volume);
    }
    let device = device::activate_bytes(pool, &volume).await?;
    if needs_zeroes {
        zero(kernel, pool, &mut volume, record, device, handle).await?;
    } else if !record.wiped && (fresh || !carries_own_data(kernel, &volume, &device).await?) {
        Bytes::held(kernel, device, async |bytes| bytes.wipe().await).await?;
    }
    Ok(volume)
}

/// Whether a `new` volume contains the filesystem, or the LUKS2 header, that a stage made for it. If so, that stage was
/// interrupted, or an operator restored old metadata and it is a user's data. In both cases it is not wiped,
/// whatever else is on it.
async fn carries_own_data(kernel: &Arc<dyn Kernel>, volume: &PoolVolume, device: &Device) -> Result<bool> {
    // In a simulated pool, no stage ever makes a filesystem.
    let Device::Node(device) = device else { return Ok(false) };
    if volume.record()?.encryption.is_some() {
        let own = Header::Complete { uuid: header_uuid(&volume.uuid()) };
        return Ok(encrypted::header(kernel, device).await? == own);
    }
    let Some(kind) = volume.record()?.filesystem else { return Ok(false) };
    Ok(own_superblock(kernel, volume, kind, device).await?.is_some())
}

/// Zeroes the device from the offset in the record to the end, and marks the volume `ready` (or, for both
/// access types, zeroed).
async fn zero(
    kernel: &Arc<dyn Kernel>,
    pool: &Arc<dyn Pool>,
    volume: &mut PoolVolume,
    record: Record,
    device: Device,
    handle: &Handle,
) -> Result<()> {
    let size = volume.size;
    let mut recorded = Recording { pool, volume, record: &record };
    Bytes::held(kernel, device, async |bytes| {
        zero_all(bytes, size, record.zeroed, handle, "CreateVolume", &mut recorded).await
    })
    .await?;
    let done = match record.access {
        AccessTypes::Both => record.zeroed(Gib::needed_for(size)),
        AccessTypes::Block | AccessTypes::Mount => record.ready(),
    };
    update_record(pool, volume, &done).await
}

/// The progress in the volume's record.
struct Recording<'a> {
    pool: &'a Arc<dyn Pool>,
    volume: &'a mut PoolVolume,
    record: &'a Record,
}

#[async_trait::async_trait]
impl Progress for Recording<'_> {
    async fn store(&mut self, zeroed: Gib) -> Result<()> {
        update_record(self.pool, self.volume, &self.record.zeroed(zeroed)).await
    }
}

/// Replaces the record on the storage and in `volume`.
pub(crate) async fn update_record(pool: &Arc<dyn Pool>, volume: &mut PoolVolume, record: &Record) -> Result<()> {
    pool.set_record(volume, record).await?;
    volume.record = Recorded::Here(Box::new(record.clone()));
    Ok(())
}
