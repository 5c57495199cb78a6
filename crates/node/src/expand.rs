//! Expands a volume: reserves new space on its storage, cleans it, and only then adds it to the volume.
//!
//! In this order, no instant shows bytes of a previous owner, and nothing is ever wiped on a device that is in
//! use. A kill leaves the volume with its old size, or a device that is larger than the filesystem on it, which
//! the next stage or NodeExpandVolume completes.
//!
//! A filesystem on the volume grows in [`crate::grow`].

use std::sync::Arc;

use quarry_pool::{Device, Health, NewSpace, Pool, PoolVolume};
use quarry_volume::{Change, Error, Gib, Reason, Result, SizeRange, Volume, VolumeId};

use crate::bytes::Bytes;
use crate::errors;
use crate::fill::require_filled;
use crate::host::{Host, Located};
use crate::tasks::Handle;
use crate::zero::{Progress, zero_all};

impl Host {
    pub(crate) async fn expand_now(&self, id: &VolumeId, size: SizeRange, handle: Handle) -> Result<(Volume, Change)> {
        // Now that a deletion finds this task.
        self.require_complete(id)?;
        self.require_no_offline_copy_of(id)?;
        let Located { pool, volume } = self.locate(id).await?.ok_or_else(|| Error::not_found("it does not exist"))?;
        match self.expand_in_pool(&pool, volume, size, &handle).await {
            Ok(volume) => {
                let volume = self.describe(&pool, &volume);
                let change = self.publisher().changed(pool.name(), id, Some(volume.clone())).await;
                Ok((volume, change))
            }
            Err(error) => {
                // Space may be reserved now.
                self.publisher().refresh_soon(pool.name());
                Err(error)
            }
        }
    }

    async fn expand_in_pool(
        &self,
        pool: &Arc<dyn Pool>,
        volume: PoolVolume,
        size: SizeRange,
        handle: &Handle,
    ) -> Result<PoolVolume> {
        require_filled(&volume)?;
        match &volume.health {
            // It may be complete again when its disk is back.
            Health::Lost(why) | Health::Incomplete(why) => return Err(Error::unavailable(why.clone())),
            Health::Whole | Health::Degraded(_) => {}
        }
        // The volume's storage also has what its user does not see.
        let overhead = volume.record()?.overhead();
        let size = size.larger_by(overhead);
        let reserved = pool.reserve_expansion(&volume, &size).await.map_err(|error| match overhead {
            0 => error,
            _ => error.context(format_args!("it is encrypted, and needs {overhead} bytes more than its user has")),
        });
        let Some(expansion) = reserved? else {
            self.fit_encrypted(pool, &volume).await?;
            return Ok(volume);
        };
        let expanded = async {
            if let Some(space) = &expansion.device {
                let cleaned = Bytes::held(self.kernel(), space.device.clone(), async |bytes| {
                    clean(bytes, pool, &volume, space, handle).await
                });
                cleaned.await.map_err(no_room)?;
            }
            pool.expand(&volume, &expansion).await
        };
        let expanded = expanded.await;
        if expansion.device.as_ref().is_some_and(|space| matches!(space.device, Device::Space(_))) {
            // It has the disk open.
            errors::dropped(expansion).await;
        }
        let expanded = expanded?;
        self.fit_encrypted(pool, &expanded).await?;
        Ok(expanded)
    }
}

/// The error of an expansion that found too little space. External-resizer takes `NoSpace` for an operation that continues.
fn no_room(mut error: Error) -> Error {
    if error.reason == Reason::NoSpace {
        error.reason = Reason::SizeOutOfRange;
    }
    error
}

/// Removes what previous owners left on the new space of a volume: all of it, if the volume may be shown raw,
/// otherwise the signatures that would be at an end of the expanded volume.
async fn clean(
    bytes: &Bytes,
    pool: &Arc<dyn Pool>,
    volume: &PoolVolume,
    space: &NewSpace,
    handle: &Handle,
) -> Result<()> {
    let record = volume.record()?;
    // Also of an encrypted volume: it may have the key of a deleted copy of it, whose data would not read as noise.
    if record.access.shows_bytes() {
        if quarry_fault::disabled("expand-zero") {
            return Ok(());
        }
        let mut progress = Stored { pool, volume };
        return zero_all(bytes, space.size, space.zeroed, handle, "ControllerExpandVolume", &mut progress).await;
    }
    if quarry_fault::disabled("expand-wipe") {
        return Ok(());
    }
    for place in &space.signature_places {
        bytes.zero(place.clone()).await?;
    }
    bytes.flush().await
}

/// The progress in the new space's own record.
struct Stored<'a> {
    pool: &'a Arc<dyn Pool>,
    volume: &'a PoolVolume,
}

#[async_trait::async_trait]
impl Progress for Stored<'_> {
    async fn store(&mut self, zeroed: Gib) -> Result<()> {
        self.pool.set_expansion_zeroed(self.volume, zeroed).await
    }
}
