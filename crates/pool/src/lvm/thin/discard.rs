//! Discards what an interrupted copy has left in a thin volume.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use quarry_lvm::{LvUuid, VgUuid, mapped_bytes};
use quarry_volume::{Error, Reason, Result};

use super::super::{LvmPool, device};
use crate::PoolVolume;
use crate::disk::discard;

/// How much is discarded at once. In between, it can be stopped.
const PIECE: u64 = 4 << 30;

/// Stops a discard when it is dropped.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl LvmPool {
    /// See [`crate::Pool::is_empty_from`]. Only the kernel's answer counts, not that of the discard: a thin pool can ignore
    /// discards, and does not discard a part of a block.
    pub(in crate::lvm) async fn emptied_from(&self, volume: &PoolVolume, start: u64) -> bool {
        if self.config.thin_pool.is_none() {
            return false;
        }
        let Ok((group, uuid)) = volume.logical() else { return false };
        // A volume that was handed out is never discarded.
        let end = volume.record().is_ok_and(|record| record.filling).then_some(volume.size);
        let stop = StopOnDrop(Arc::default());
        let stopped = Arc::clone(&stop.0);
        let emptied = tokio::task::spawn_blocking(move || {
            let is_empty = || mapped_bytes(group, uuid).is_some_and(|(_, end)| end <= start);
            match end {
                Some(end) if !is_empty() => discard_from(group, uuid, start, end, &stopped).map(|()| is_empty()),
                _ => Ok(is_empty()),
            }
        });
        let emptied = emptied.await.unwrap_or_else(|error| Err(Error::host(error.to_string())));
        emptied.unwrap_or_else(|error| {
            tracing::warn!(pool = self.name, volume = volume.name, %error, "zeros of the copy will take space");
            false
        })
    }
}

fn discard_from(group: VgUuid, volume: LvUuid, start: u64, end: u64, stopped: &AtomicBool) -> Result<()> {
    let find = || device::find(group, volume).map_err(|error| Error::host(error.to_string()));
    let node = find()?.ok_or_else(|| Error::unavailable("it has no device any more"))?;
    let held = quarry_filesystem::exclusive(&node).map_err(|error| Error::host(error.to_string()))?;
    // While it is held, its node stays the same.
    if find()?.as_ref() != Some(&node) {
        return Err(Error::new(Reason::UnderWay, "its device has just changed"));
    }
    let mut from = start;
    while from < end && !stopped.load(Ordering::Relaxed) {
        let to = from.saturating_add(PIECE).min(end);
        discard(&held, from..to).map_err(|errno| Error::host(format!("discarding {from} to {to}: {errno}")))?;
        from = to;
    }
    Ok(())
}
