//! Discards what an interrupted copy has left in a thin volume.

use quarry_volume::{Error, Result};

use super::super::{LvmPool, device};
use crate::PoolVolume;
use crate::disk::discard;

impl LvmPool {
    /// See [`crate::Pool::is_empty_from`]. Only the kernel's answer counts, not that of the discard: a thin pool can ignore
    /// discards, and does not discard a part of a block.
    pub(in crate::lvm) async fn emptied_from(&self, volume: &PoolVolume, start: u64) -> bool {
        if self.config.thin_pool.is_none() {
            return false;
        }
        let Ok((group, uuid)) = volume.logical() else { return false };
        let is_empty = || quarry_lvm::mapped_bytes(group, uuid).is_some_and(|(_, end)| end <= start);
        // A volume that was handed out is never discarded.
        if is_empty() || !volume.record().is_ok_and(|record| record.filling) {
            return is_empty();
        }
        let end = volume.size;
        let discarded = tokio::task::spawn_blocking(move || {
            let node = device::find(group, uuid).map_err(|error| Error::host(error.to_string()))?;
            let node = node.ok_or_else(|| Error::unavailable("it has no device any more"))?;
            let held = quarry_filesystem::exclusive(&node).map_err(|error| Error::host(error.to_string()))?;
            discard(&held, start..end).map_err(|errno| Error::host(format!("discarding {start} to {end}: {errno}")))
        });
        let discarded: Result<bool> = match discarded.await {
            Ok(discarded) => discarded,
            Err(error) => Err(Error::host(error.to_string())),
        };
        if let Err(error) = discarded {
            tracing::warn!(pool = self.name, volume = volume.name, %error, "zeros of the copy will take space");
        }
        is_empty()
    }
}
