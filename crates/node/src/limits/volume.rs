//! The limits of one volume, for all pods that use it.

use std::collections::BTreeSet;
use std::sync::Arc;

use quarry_mount::Device;
use quarry_pool::{Pool, PoolVolume};
use quarry_volume::{Error, IoLimits, Result, VolumeId};

use super::{Limited, pod, required};
use crate::host::Host;
use crate::{device, errors, read_only};

/// The pods that use a volume, and do not have its limits any more.
pub(crate) struct Unlimited {
    device: Device,
    pods: BTreeSet<String>,
}

impl Host {
    /// Brings these limits into force for all pods that use the volume. Fails if they are required and are not in force
    /// for one of them.
    pub(crate) async fn limit_pods_using(
        &self,
        id: &VolumeId,
        pool: &Arc<dyn Pool>,
        volume: &PoolVolume,
        limits: IoLimits,
    ) -> Result<()> {
        let (Some(device), pods) = self.pods_using(id, pool, volume).await? else { return Ok(()) };
        let requires = volume.record()?.requires_limits;
        let record = volume.record()?.limited(limits, requires);
        let mut result = Ok(());
        for uid in pods {
            self.limits().register(&uid, Limited { id, pool: pool.name(), device }, limits);
            if let Err(obstacle) = self.limits().enforce(&uid, device).await
                && !obstacle.is_early()
            {
                result = result.and(required(&record, obstacle.error()));
            }
        }
        result
    }

    /// Removes the limits from all pods that use the volume. If that fails for one, all keep them: its record has them.
    /// `None`: it is not active.
    pub(crate) async fn unlimit_pods_using(
        &self,
        id: &VolumeId,
        pool: &Arc<dyn Pool>,
        volume: &PoolVolume,
    ) -> Result<Option<Unlimited>> {
        let (Some(device), pods) = self.pods_using(id, pool, volume).await? else { return Ok(None) };
        let (limited, unlimited) = (Limited { id, pool: pool.name(), device }, Unlimited { device, pods });
        for uid in &unlimited.pods {
            self.limits().register(uid, limited, IoLimits::default());
            if let Err(obstacle) = self.limits().enforce(uid, device).await
                && !obstacle.is_absent()
            {
                self.limit_again(id, pool, volume, &unlimited)?;
                return Err(Error::unavailable(format!("its limits cannot be removed: {obstacle}")));
            }
        }
        if !self.limits().follows(IoLimits::default()) {
            for uid in &unlimited.pods {
                self.limits().withdraw(uid, id).await;
            }
        }
        Ok(Some(unlimited))
    }

    /// Soon gives these pods the limits again that the record still has.
    pub(crate) fn limit_again(
        &self,
        id: &VolumeId,
        pool: &Arc<dyn Pool>,
        volume: &PoolVolume,
        unlimited: &Unlimited,
    ) -> Result<()> {
        let limits = volume.record()?.limits;
        if self.limits().follows(limits) {
            for uid in &unlimited.pods {
                self.limits().register(uid, Limited { id, pool: pool.name(), device: unlimited.device }, limits);
                self.limits().enforce_soon(uid);
            }
        }
        Ok(())
    }

    /// The device whose I/O is limited for a volume, and the UIDs of the pods that the volume is published for. No device:
    /// the volume is not active.
    pub(crate) async fn pods_using(
        &self,
        id: &VolumeId,
        pool: &Arc<dyn Pool>,
        volume: &PoolVolume,
    ) -> Result<(Option<Device>, BTreeSet<String>)> {
        let Some(active) = device::active(&**self.kernel(), pool, volume)? else { return Ok((None, BTreeSet::new())) };
        let (kernel, id) = (Arc::clone(self.kernel()), id.clone());
        errors::blocking(move || {
            let Some(number) = kernel.number(&active.top) else { return Ok((None, BTreeSet::new())) };
            let mut entries = kernel.mounts_of_device(number)?;
            entries.extend(kernel.publications_of_block(number)?);
            entries.extend(read_only::publications(&*kernel, &id)?);
            let pods = entries.iter().filter_map(|entry| pod::uid(&entry.target)).collect();
            Ok((Some(kernel.limited_device(number)), pods))
        })
        .await
    }
}
