//! What depends on a source: the volumes that are being filled from it, and the snapshots that only serve a clone or a
//! full copy.
//!
//! A source must not vanish while it is copied. The creation of a volume first writes the record that names the source,
//! and then looks whether the source is being deleted. A deletion first holds the source's name, and then looks for such
//! records. So one of the two notices the other. The records also protect the source of an interrupted copy.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use quarry_pool::{Pool, PoolSnapshot, PoolVolume, SnapshotHealth, SnapshotKind, SnapshotRecord, State};
use quarry_volume::{ContentSource, Error, Reason, Result, VolumeId, safe_name};

use crate::agent::{CREATE, DELETE};
use crate::copies::CopyTarget;
use crate::fill;
use crate::host::{Host, OTHER_POOLS};
use crate::snapshot::{DELETE_SNAPSHOT, subject};

/// The task that removes a snapshot that no clone needs any more. It works on the name of the clone.
const CLEAN_UP: &str = "clean up after";
/// How long that task is waited for. It continues.
const CLEAN_UP_WAIT: Duration = Duration::from_secs(60);

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

    /// Fails while a volume, or a snapshot that is a full copy, is being filled from this source, which is in the pool
    /// `own`, or the filling of a volume was interrupted.
    ///
    /// Other pools are searched for the latter only if the source is a snapshot, and as far as they answer soon. If a
    /// clone there has copied anything of a volume, `own` has the snapshot that serves it, and rejects the removal of
    /// the volume.
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

    /// Removes the snapshot of `source` that serves, or served, the clone named `clone`; the caller holds that name.
    pub(crate) async fn remove_clone_snapshot(&self, source: &ContentSource, clone: &str) -> Result<()> {
        let ContentSource::Volume(id) = source else { return Ok(()) };
        let pool = self.pool_of(id).await?;
        match snapshot_for_clone(&pool, clone).await? {
            Some(snapshot) => remove(&pool, &snapshot).await,
            None => Ok(()),
        }
    }

    /// Like [`Self::remove_clone_snapshot`]; but if the storage of the source cannot be read, the snapshot is removed
    /// later.
    pub(crate) async fn remove_clone_snapshot_if_found(&self, source: &ContentSource, clone: &str) -> Result<()> {
        let ContentSource::Volume(id) = source else { return Ok(()) };
        let found = async {
            let pool = self.pool_of(id).await?;
            Ok::<_, Error>(snapshot_for_clone(&pool, clone).await?.map(|snapshot| (pool, snapshot)))
        };
        match found.await {
            Ok(Some((pool, snapshot))) => remove(&pool, &snapshot).await,
            Ok(None) => Ok(()),
            Err(error) => {
                tracing::warn!(clone, source = %id, %error, "not searched for the snapshot that served a clone");
                Ok(())
            }
        }
    }

    /// Removes, in the background, the snapshots for clones and full copies that earlier runs of the agent left.
    pub(crate) fn clean_up_after_copies_later(&self) {
        for pool in self.pools() {
            let (host, pool) = (self.clone(), Arc::clone(pool));
            tokio::spawn(async move { host.clean_up_after_copies(&pool, None).await });
        }
    }

    /// Removes the snapshots in a pool for clones and full copies that no longer need them: of `source`, or of all
    /// volumes. What cannot be removed now is logged, and removed later.
    pub(crate) async fn clean_up_after_copies(&self, pool: &Arc<dyn Pool>, source: Option<&VolumeId>) {
        let Ok(snapshots) = pool.snapshots().await else { return };
        let concerned = |snapshot: &PoolSnapshot| {
            snapshot.record.serves() && source.is_none_or(|source| snapshot.record.source == *source)
        };
        for snapshot in snapshots.into_iter().filter(concerned) {
            let (host, pool, record) = (self.clone(), Arc::clone(pool), snapshot.record);
            let name = safe_name(&record.name);
            let is_for_copy = record.kind == SnapshotKind::ForCopy;
            let key = if is_for_copy { subject(&name) } else { name.clone() };
            let work = |_| async move {
                match is_for_copy {
                    true => host.clean_up_after_copy(&pool, &record).await,
                    false => host.clean_up_after_clone(&pool, &record).await,
                }
            };
            if let Err(error) = self.tasks().run(&key, CLEAN_UP, CLEAN_UP_WAIT, work).await {
                tracing::info!(name, %error, "a snapshot that serves a clone or a full copy is kept");
            }
        }
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
        let clone = self.find_anywhere(&record.name).await?;
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

/// Removes a snapshot that serves, or served, a clone.
async fn remove(pool: &Arc<dyn Pool>, snapshot: &PoolSnapshot) -> Result<()> {
    quarry_fault::point(|| "clone:remove snapshot:before".to_owned());
    let removed = pool.remove_snapshot(snapshot).await;
    let source = &snapshot.record.source;
    removed.map_err(|error| error.context(format_args!("removing the snapshot that served to clone volume {source}")))
}

/// The snapshot in the pool that serves, or served, the clone with that name.
pub(crate) async fn snapshot_for_clone(pool: &Arc<dyn Pool>, clone: &str) -> Result<Option<PoolSnapshot>> {
    let mut snapshots = pool.snapshots().await?.into_iter();
    Ok(snapshots.find(|snapshot| snapshot.record.kind == SnapshotKind::ForClone && snapshot.record.name == clone))
}
