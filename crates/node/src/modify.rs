//! Changes the mutable parameters of a volume (CSI ControllerModifyVolume), also for the pods that are using it.
//!
//! All of them are in the record, which is written once: after a power cut, either all are changed, or none.

use std::sync::Arc;
use std::time::Duration;

use quarry_pool::{Pool, PoolVolume, Record};
use quarry_volume::{Change, Discard, Error, LimitChanges, MutableParameters, Result, Volume, VolumeId, VolumeSpec};

use crate::agent::within;
use crate::host::{Host, Located};

/// The task that changes a volume, or brings the limits of its record into force. It is short, so that a call of kubelet
/// waits for it.
pub(crate) const MODIFY: &str = "modify";
/// How long its pool may take to answer a question meanwhile: the end of a pod waits for that.
const QUESTION: Duration = Duration::from_secs(10);

impl Host {
    pub(crate) async fn modify_volume(
        &self,
        id: &VolumeId,
        changes: MutableParameters,
        wait: Duration,
    ) -> Result<(Volume, Change)> {
        let (host, wanted) = (self.clone(), id.clone());
        self.tasks()
            .run(&id.volume, MODIFY, wait, |_| async move { host.modify_now(&wanted, changes).await })
            .await
            .map_err(|error| error.context(format_args!("modifying volume {id}")))
    }

    async fn modify_now(&self, id: &VolumeId, changes: MutableParameters) -> Result<(Volume, Change)> {
        let located = within(QUESTION, self.locate(id)).await?;
        let Located { pool, volume } = located.ok_or_else(|| Error::not_found("it does not exist"))?;
        let record = volume.record()?;
        changes.check(record.filesystem)?;
        let limits = record.limits.with(&changes.limits);
        let modified = record.limited(limits, record.requires_limits).discarding(changes.discard.or(record.discard));
        let limiting = changes.limits != LimitChanges::default();
        if limiting && !limits.is_none() {
            self.require_limits_possible(&modified)?;
        }
        // A restart finds limits by their record. So the record is the last that loses them, and the first that gets them.
        let unlimited = match limiting && limits.is_none() {
            true => self.unlimit_pods_using(id, &pool, &volume).await?,
            false => None,
        };
        if let Err(error) = self.replace_record(&pool, &volume, &modified).await {
            if let Some(unlimited) = unlimited {
                // The record may have lost them nevertheless. If it cannot be read, a retry removes them again.
                let now = within(QUESTION, pool.volume(&id.volume)).await.ok().flatten();
                self.limit_again(id, &pool, now.as_ref().unwrap_or(&volume), &unlimited)?;
            }
            return Err(error);
        }
        let applied = match limiting && !limits.is_none() {
            true => self.limit_pods_using(id, &pool, &volume, limits).await,
            false => Ok(()),
        };
        let volume = match within(QUESTION, pool.volume(&id.volume)).await {
            Ok(volume) => volume.ok_or_else(|| Error::not_found("it does not exist any more"))?,
            Err(error) => {
                // The record has changed.
                self.publisher().refresh_soon(pool.name());
                return Err(applied.err().unwrap_or(error));
            }
        };
        let volume = self.describe(&pool, &volume);
        let change = self.publisher().changed(pool.name(), id, Some(volume.clone())).await;
        applied.map(|()| (volume, change))
    }

    /// Gives a volume that an earlier call created the mutable parameters of a repeated CreateVolume: its
    /// VolumeAttributesClass may have changed since. Once a pod uses it, only ControllerModifyVolume changes them.
    pub(crate) async fn update_mutable(
        &self,
        pool: &Arc<dyn Pool>,
        volume: PoolVolume,
        spec: &VolumeSpec,
    ) -> Result<PoolVolume> {
        let record = volume.record()?;
        let updated = record.limited(spec.class.limits, spec.class.requires_limits).discarding(spec.discard());
        if *record == updated {
            return Ok(volume);
        }
        let id = self.id_of(&volume);
        if !self.pods_using(&id, pool, &volume).await?.1.is_empty() {
            return Ok(volume);
        }
        self.replace_record(pool, &volume, &updated).await?;
        pool.volume(&id.volume).await?.ok_or_else(|| Error::unavailable("it was removed meanwhile: retry"))
    }

    /// Writes the record of a volume with other mutable parameters, if it differs. A trim of its filesystem stops, unless
    /// it is still trimmed at intervals.
    async fn replace_record(&self, pool: &Arc<dyn Pool>, volume: &PoolVolume, record: &Record) -> Result<()> {
        if volume.record()? != record {
            pool.set_record(volume, record).await?;
        }
        if record.discards() != Discard::Periodic {
            self.trims().cancel(&volume.name);
        }
        Ok(())
    }
}
