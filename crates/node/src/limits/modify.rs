//! Changes the limits of a volume (CSI ControllerModifyVolume), also for the pods that are using it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use quarry_mount::Device;
use quarry_pool::{Pool, PoolVolume};
use quarry_volume::{Change, Error, IoLimits, LimitChanges, Result, Volume, VolumeId};

use super::{Limited, pod, required};
use crate::host::{Host, Located};
use crate::{device, errors, read_only};

/// The task that changes the limits of a volume, or brings those of its record into force. It is short, so that a call of
/// kubelet waits for it.
pub(crate) const MODIFY: &str = "modify";

impl Host {
    pub(crate) async fn modify_limits(
        &self,
        id: &VolumeId,
        changes: LimitChanges,
        wait: Duration,
    ) -> Result<(Volume, Change)> {
        let (host, wanted) = (self.clone(), id.clone());
        self.tasks()
            .run(&id.volume, MODIFY, wait, |_| async move { host.modify_now(&wanted, changes).await })
            .await
            .map_err(|error| error.context(format_args!("modifying volume {id}")))
    }

    async fn modify_now(&self, id: &VolumeId, changes: LimitChanges) -> Result<(Volume, Change)> {
        let Located { pool, volume } = self.locate(id).await?.ok_or_else(|| Error::not_found("it does not exist"))?;
        let record = volume.record()?;
        let limits = record.limits.with(&changes);
        if !limits.is_none()
            && let Err(obstacle) = self.limits().cgroups().check()
        {
            required(&record.limited(limits, record.requires_limits), obstacle.error())?;
        }
        // A restart finds limits by their record. So the record is the last that loses them, and the first that gets them.
        if limits.is_none() {
            self.unlimit_pods_using(id, &pool, &volume).await?;
        }
        if limits != record.limits {
            pool.set_record(&volume, &record.limited(limits, record.requires_limits)).await?;
        }
        let applied = if limits.is_none() { Ok(()) } else { self.limit_pods_using(id, &pool, &volume, limits).await };
        let volume = pool.volume(&id.volume).await?.ok_or_else(|| Error::not_found("it does not exist any more"))?;
        let volume = self.describe(&pool, &volume);
        let change = self.publisher().changed(pool.name(), id, Some(volume.clone())).await;
        applied.map(|()| (volume, change))
    }

    /// Gives a volume that an earlier call created the limits of a repeated CreateVolume: those of its
    /// VolumeAttributesClass may have changed since. Once a pod uses it, only ControllerModifyVolume changes them.
    pub(crate) async fn update_limits(
        &self,
        pool: &Arc<dyn Pool>,
        volume: PoolVolume,
        limits: IoLimits,
        required: bool,
    ) -> Result<PoolVolume> {
        let record = volume.record()?;
        if (record.limits, record.requires_limits) == (limits, required) {
            return Ok(volume);
        }
        let id = self.id_of(&volume);
        if !self.pods_using(&id, pool, &volume).await?.1.is_empty() {
            return Ok(volume);
        }
        pool.set_record(&volume, &record.limited(limits, required)).await?;
        pool.volume(&id.volume).await?.ok_or_else(|| Error::unavailable("it was removed meanwhile: retry"))
    }

    /// Brings these limits into force for all pods that use the volume. Fails if they are required and are not in force
    /// for one of them.
    pub(super) async fn limit_pods_using(
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
    async fn unlimit_pods_using(&self, id: &VolumeId, pool: &Arc<dyn Pool>, volume: &PoolVolume) -> Result<()> {
        let (Some(device), pods) = self.pods_using(id, pool, volume).await? else { return Ok(()) };
        let limited = Limited { id, pool: pool.name(), device };
        for uid in &pods {
            self.limits().register(uid, limited, IoLimits::default());
            if let Err(obstacle) = self.limits().enforce(uid, device).await
                && !obstacle.is_absent()
            {
                let limits = volume.record()?.limits;
                for uid in &pods {
                    self.limits().register(uid, limited, limits);
                    self.limits().enforce_soon(uid);
                }
                return Err(Error::unavailable(format!("its limits cannot be removed: {obstacle}")));
            }
        }
        for uid in &pods {
            self.limits().withdraw(uid, id).await;
        }
        Ok(())
    }

    /// The device whose I/O is limited for a volume, and the UIDs of the pods that the volume is published for. No device:
    /// the volume is not active.
    pub(super) async fn pods_using(
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
