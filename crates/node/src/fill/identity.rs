//! Gives what was copied a UUID of its own: a filesystem, or the LUKS2 header of an encrypted volume. Two filesystems with
//! one UUID that see each other must never be mounted on one host.

use std::sync::Arc;

use quarry_encryption::{header_uuid, layer_name};
use quarry_filesystem::UuidStep;
use quarry_pool::{Device, Pool, PoolVolume};
use quarry_volume::{Filesystem, Gib};
use uuid::Uuid;

use super::{Failure, require_not_stopped};
use crate::bytes::Bytes;
use crate::device;
use crate::host::Host;
use crate::kernel::Kernel;
use crate::prepare::update_record;
use crate::tasks::Handle;

/// Recovers the copied filesystem on the volume, which is as after a power cut, and gives it that UUID. Idempotent.
///
/// # Errors
/// [`Failure::is_permanent`] if the filesystem cannot be recovered, or cannot get a new UUID, because of what it contains.
/// `UnderWay` if the task was asked to stop.
pub(super) async fn give(
    kernel: &Arc<dyn Kernel>,
    pool: &Arc<dyn Pool>,
    volume: &mut PoolVolume,
    kind: Filesystem,
    uuid: Uuid,
    handle: &Handle,
) -> Result<(), Failure> {
    let Device::Node(device) = device::activate_bytes(pool, volume).await? else { return Ok(()) };
    // An earlier process may have been killed before it flushed. If a tool that it started still runs, this fails.
    let flush = async || Bytes::held(kernel, Device::Node(device.clone()), async |bytes| bytes.flush().await).await;
    flush().await?;
    let step = async || kernel.uuid_step(kind, &device, uuid).await.map_err(Failure::of_source);
    if quarry_fault::disabled("copy-uuid") {
        return Ok(());
    }
    let mut next = step().await?;
    if let UuidStep::Set { recover_with: Some(options), .. } = next {
        quarry_fault::point(|| "fill:recover:before".to_owned());
        kernel.recover(kind, &device, options).await.map_err(Failure::of_source)?;
        quarry_fault::point(|| "fill:recover:after".to_owned());
        flush().await?;
        next = step().await?;
    }
    match next {
        UuidStep::Done => Ok(()),
        // An xfs does not show whether its log is clean. A journal that was not replayed makes `set_uuid` fail.
        UuidStep::Set { repeatable, .. } => {
            if !repeatable {
                // The recovery may have taken long.
                require_not_stopped(handle)?;
                // If this is interrupted, everything is copied again.
                let again = volume.record()?.zeroed(Gib::NONE);
                update_record(pool, volume, &again).await?;
            }
            quarry_fault::point(|| "fill:uuid:before".to_owned());
            kernel.set_uuid(kind, &device, uuid).await.map_err(Failure::of_source)?;
            quarry_fault::point(|| "fill:uuid:after".to_owned());
            Ok(())
        }
    }
}

impl Host {
    /// Gives the copied LUKS2 header on the volume the UUID that belongs to it. Idempotent.
    ///
    /// # Errors
    /// [`Failure::is_permanent`] if the copy contains no complete header.
    pub(super) async fn give_header_uuid(&self, pool: &Arc<dyn Pool>, volume: &PoolVolume) -> Result<(), Failure> {
        let Device::Node(raw) = device::activate_bytes(pool, volume).await? else { return Ok(()) };
        let (uuid, name) = (header_uuid(&volume.uuid()), layer_name(&self.id_of(volume).to_string()));
        self.kernel().set_header_uuid(&raw, uuid, &name).await.map_err(Failure::of_source)
    }
}
