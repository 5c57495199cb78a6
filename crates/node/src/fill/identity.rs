//! Gives a copied filesystem a UUID of its own. Two filesystems with one UUID must never be mounted on one host.

use std::sync::Arc;

use quarry_pool::{Device, Pool, PoolVolume};
use quarry_volume::{Filesystem, Result};
use uuid::Uuid;

use crate::device;
use crate::kernel::Kernel;

/// Recovers the copied filesystem on the volume, which is as after a power cut, and gives it that UUID. Idempotent.
pub(super) async fn give(
    kernel: &Arc<dyn Kernel>,
    pool: &Arc<dyn Pool>,
    volume: &PoolVolume,
    kind: Filesystem,
    uuid: Uuid,
) -> Result<()> {
    let Device::Node(device) = device::activate_bytes(pool, volume).await? else { return Ok(()) };
    if quarry_fault::disabled("copy-uuid") {
        return Ok(());
    }
    kernel.set_uuid(kind, &device, uuid).await
}
