//! What depends on a source: the volumes that are being filled from it, and the snapshots that only serve a clone or a
//! full copy.
//!
//! A source must not vanish while it is copied. The creation of a volume first writes the record that names the source,
//! adds itself to the copies that are running ([`crate::copies`]), and then looks whether the source is being deleted. A
//! deletion first holds the source's name, and then looks for copies and records. So one of the two notices the other,
//! whichever pools they are in. The records also protect the source of an interrupted copy.
//!
//! A call that takes a snapshot, or creates a volume that shares the contents of its source, has no such record before it
//! is done. Until then, it adds the source to those that are kept ([`crate::copies::Copies::keep`]), before it looks. To
//! look again afterwards would not be enough: a deletion that has erased the keys of an encrypted source, and then failed
//! because of the new snapshot, has ended by then.
//!
//! In the same way, nothing uses a volume while it is copied without a snapshot.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use quarry_pool::{Pool, PoolSnapshot, PoolVolume, SnapshotHealth, SnapshotKind, SnapshotRecord, State};
use quarry_volume::{ContentSource, Error, Reason, Result, VolumeId, safe_name};

use crate::agent::{CREATE, DELETE, EXPAND, new_space, within};
use crate::copies::CopyTarget;
use crate::fill;
use crate::host::{Host, OTHER_POOLS};
use crate::publish::PUBLISH;
use crate::snapshot::{DELETE_SNAPSHOT, subject};
use crate::stage::STAGE;

/// The task that removes a snapshot that no clone or full copy needs any more. It works on the name of that.
const CLEAN_UP: &str = "clean-up";
/// How long that task is waited for. It continues.
const CLEAN_UP_WAIT: Duration = Duration::from_secs(60);
/// How long the pools may take to find a clone meanwhile: calls on the clone wait for that.
const SEARCH: Duration = Duration::from_secs(10);
/// How long after a failure it is tried again.
const CLEAN_UP_AGAIN: Duration = Duration::from_secs(60);

impl Host {
    /// Fails while this source is being deleted.
    pub(crate) fn require_kept(&self, source: &ContentSource) -> Result<()> {
        match source {
            ContentSource::Snapshot(id) => self.tasks().require_none(&subject(&id.snapshot), &[DELETE_SNAPSHOT]),
            ContentSource::Volume(id) => self.require_complete(id),
        }
    }

    /// Fails while this volume is being created or deleted.
    pub(crate) fn require_complete(&self, id: &VolumeId) -> Result<()> {
        self.tasks().require_none(&id.volume, &[CREATE, DELETE])
    }

    /// Fails while this volume is being staged, published or expanded.
    pub(crate) fn require_no_change_of(&self, id: &VolumeId) -> Result<()> {
        self.tasks().require_none(&id.volume, &[STAGE, PUBLISH])?;
        self.tasks().require_none(&new_space(id), &[EXPAND])
    }

    /// Fails while this volume must not be used, because it is being copied, and its pool cannot take snapshots. Call it
    /// in the task that changes the volume or makes it usable: see [`Host::require_no_change_of`].
    ///
    /// # Errors
    /// `UnderWay`, with the name of what is being filled.
    pub(crate) fn require_no_offline_copy_of(&self, id: &VolumeId) -> Result<()> {
        match self.copies().offline_of(&ContentSource::Volume(id.clone())) {
            None => Ok(()),
            Some(_) if quarry_fault::disabled("copy-offline") => Ok(()),
            Some(target) => Err(Error::new(
                Reason::UnderWay,
                format!(
                    "{target} is being filled from it, and its pool has no snapshots, so that nothing can use it \
                     meanwhile; retry when that is done, or delete that {} first",
                    target.kind()
                ),
            )),
        }
    }

    /// Fails while a snapshot is being taken of this source, which is in the pool `own`, or a volume, or a snapshot that
    /// is a full copy, is being filled from it, or the filling of a volume was interrupted.
    ///
    /// Volumes of all pools that are being filled now are found. Those whose filling was interrupted are found in `own`
    /// and, if the source is a snapshot, in the other pools that answer soon. Where one is not found, its creation
    /// finds that the source is gone, and removes the volume: what was copied is not mixed with other contents. (If a
    /// clone can continue what was interrupted, `own` has the snapshot that serves it, and rejects the removal of the
    /// volume.)
    ///
    /// # Errors
    /// `UnderWay`, with the name of what is being filled. `Unavailable` if `own` cannot be read.
    pub(crate) async fn require_no_copy_of(&self, source: &ContentSource, own: &Arc<dyn Pool>) -> Result<()> {
        let needed = |target: &CopyTarget, how_far: &str| {
            Err(Error::new(
                Reason::UnderWay,
                format!(
                    "{target} is being filled from it{how_far}; retry when that is done, or delete the {} first",
                    target.kind()
                ),
            ))
        };
        if let Some(target) = self.copies().kept_for(source) {
            let how = match target {
                CopyTarget::Snapshot(_) => "taken of it",
                CopyTarget::Volume(_) => "created from it",
            };
            return Err(Error::new(Reason::UnderWay, format!("{target} is being {how}; retry when that is done")));
        }
        if let Some(target) = self.copies().of(source) {
            return needed(&target, "");
        }
        let mut volumes = own.volumes().await?;
        if matches!(source, ContentSource::Snapshot(_)) {
            let others = self.pools().iter().filter(|pool| pool.name() != own.name());
            volumes.extend(volumes_that_answer(others).await);
        }
        for volume in volumes {
            if let Ok(record) = volume.record()
                && record.filling
                && record.source.as_ref() == Some(source)
            {
                let target = CopyTarget::Volume(record.name.clone());
                return needed(&target, &format!(" ({})", fill::progress(&volume)));
            }
        }
        Ok(())
    }

    /// The snapshot of `source` that serves, or served, the clone named `clone`, and its pool.
    async fn clone_snapshot(
        &self,
        source: &ContentSource,
        clone: &str,
    ) -> Result<Option<(Arc<dyn Pool>, PoolSnapshot)>> {
        let ContentSource::Volume(id) = source else { return Ok(None) };
        let pool = self.pool_of(id).await?;
        Ok(snapshot_for_clone(&pool, clone).await?.map(|snapshot| (pool, snapshot)))
    }

    /// Removes the snapshot of `source` that serves, or served, the clone named `clone`; the caller holds that name.
    pub(crate) async fn remove_clone_snapshot(&self, source: &ContentSource, clone: &str) -> Result<()> {
        match self.clone_snapshot(source, clone).await? {
            Some((pool, snapshot)) => self.remove_temporary(&pool, &snapshot).await,
            None => Ok(()),
        }
    }

    /// Like [`Self::remove_clone_snapshot`], for a clone in the pool `own` that is being removed. But if the storage of the
    /// source cannot be read, or if it is another one and does not let the snapshot be removed, that is done later: the
    /// clone does not depend on it. (A later volume of this name is only created when the snapshot is gone.)
    pub(crate) async fn remove_clone_snapshot_if_possible(
        &self,
        source: &ContentSource,
        clone: &str,
        own: &Arc<dyn Pool>,
    ) -> Result<()> {
        let why = match self.clone_snapshot(source, clone).await {
            Ok(Some((pool, snapshot))) => match self.remove_temporary(&pool, &snapshot).await {
                Err(error) if pool.name() != own.name() => error,
                removed => return removed,
            },
            Ok(None) => return Ok(()),
            Err(error) => error.context("it was not searched for"),
        };
        tracing::warn!(clone, %source, error = %why, "the snapshot that served a deleted clone is removed later");
        self.clean_up_after_copies_later();
        Ok(())
    }

    /// Removes a snapshot that serves, or served, a clone or a full copy.
    pub(crate) async fn remove_temporary(&self, pool: &Arc<dyn Pool>, snapshot: &PoolSnapshot) -> Result<()> {
        quarry_fault::point(|| "remove temporary snapshot:before".to_owned());
        let SnapshotRecord { source, name, kind, .. } = &snapshot.record;
        let removed = pool.remove_snapshot(snapshot).await;
        removed.map_err(|error| {
            let served = match kind {
                SnapshotKind::ForCopy => format!("snapshot {name}, a full copy"),
                SnapshotKind::Cow | SnapshotKind::ForClone | SnapshotKind::Copy { .. } => "the clone".to_owned(),
            };
            error.context(format_args!("removing the temporary snapshot for {served} of volume {source}"))
        })?;
        self.deactivate_if_unused(source).await;
        Ok(())
    }

    /// Removes, in the background, the snapshots for clones and full copies that do not need them any more, and releases
    /// the devices of snapshots that nothing reads. What cannot be removed now is tried again. Each pool has one task for
    /// that, however often this is called while the pool cannot be read.
    pub(crate) fn clean_up_after_copies_later(&self) {
        for pool in self.pools() {
            let Some(mut clean_up) = self.copies().begin_clean_up(pool.name()) else { continue };
            let (host, pool) = (self.clone(), Arc::clone(pool));
            tokio::spawn(async move {
                loop {
                    host.deactivate_snapshots(&pool).await;
                    if !host.clean_up_after_copies(&pool, None).await {
                        tokio::time::sleep(CLEAN_UP_AGAIN).await;
                    } else if clean_up.ends() {
                        return;
                    }
                }
            });
        }
    }

    /// Removes the snapshots in a pool for clones and full copies that no longer need them: of `source`, or of all
    /// volumes. Returns whether that is done; what cannot be removed now is logged.
    pub(crate) async fn clean_up_after_copies(&self, pool: &Arc<dyn Pool>, source: Option<&VolumeId>) -> bool {
        let Ok(snapshots) = pool.snapshots().await else { return false };
        let concerned = |snapshot: &PoolSnapshot| {
            snapshot.record.serves() && source.is_none_or(|source| snapshot.record.source == *source)
        };
        let mut done = true;
        for snapshot in snapshots.into_iter().filter(concerned) {
            let (host, pool, record) = (self.clone(), Arc::clone(pool), snapshot.record);
            let name = safe_name(&record.name);
            let is_for_copy = record.kind == SnapshotKind::ForCopy;
            let key = if is_for_copy { subject(&name) } else { name };
            let work = |_| async move {
                match is_for_copy {
                    true => host.clean_up_after_copy(&pool, &record).await,
                    false => host.clean_up_after_clone(&pool, &record).await,
                }
            };
            if let Err(error) = self.tasks().run_in_background(&key, CLEAN_UP, CLEAN_UP_WAIT, work).await {
                tracing::debug!(served = key, %error, "a snapshot that serves a clone or a full copy is kept");
                done = false;
            }
        }
        done
    }

    /// Removes the snapshot with that record, unless the full copy still needs it.
    async fn clean_up_after_copy(&self, pool: &Arc<dyn Pool>, record: &SnapshotRecord) -> Result<()> {
        let name = safe_name(&record.name);
        self.require_not_copying(&name)?;
        let copy = pool.snapshot(&name).await?.filter(|copy| copy.record.state == State::New);
        if copy.is_some_and(|copy| matches!(copy.health, SnapshotHealth::Whole | SnapshotHealth::Lost(_))) {
            return Ok(());
        }
        tracing::info!(snapshot = record.name, pool = pool.name(), "removing what only served a full copy");
        self.remove_serving(pool, &name).await
    }

    /// Removes the snapshot with that record, unless its clone still needs it.
    async fn clean_up_after_clone(&self, pool: &Arc<dyn Pool>, record: &SnapshotRecord) -> Result<()> {
        // A pool whose disk hangs must not hold the clone's name, because calls wait for this.
        let clone = within(SEARCH, self.find_anywhere(&record.name)).await?;
        let source = ContentSource::Volume(record.source.clone());
        if let Some(clone) = clone {
            // The record of a clone may be unreadable.
            let clone = clone.volume.record()?;
            if clone.filling && clone.source.as_ref() == Some(&source) {
                return Ok(());
            }
        }
        let pool_name = pool.name();
        tracing::info!(
            clone = record.name,
            pool = pool_name,
            "removing the snapshot of a clone that is complete or gone"
        );
        self.remove_clone_snapshot(&source, &record.name).await
    }
}

/// The volumes of those of the pools that answer soon.
async fn volumes_that_answer(pools: impl Iterator<Item = &Arc<dyn Pool>>) -> Vec<PoolVolume> {
    let responsive = pools.filter(|pool| pool.unresponsive_disks().is_empty());
    let answers = responsive.map(|pool| async move {
        let answer = tokio::time::timeout(OTHER_POOLS, pool.volumes()).await;
        answer.ok().and_then(Result::ok).unwrap_or_else(|| {
            tracing::warn!(pool = pool.name(), "pool not searched for volumes that are being filled");
            Vec::new()
        })
    });
    join_all(answers).await.into_iter().flatten().collect()
}

/// The snapshot in the pool that serves, or served, the clone with that name.
pub(crate) async fn snapshot_for_clone(pool: &Arc<dyn Pool>, clone: &str) -> Result<Option<PoolSnapshot>> {
    let mut snapshots = pool.snapshots().await?.into_iter();
    Ok(snapshots.find(|snapshot| snapshot.record.kind == SnapshotKind::ForClone && snapshot.record.name == clone))
}
