//! Snapshots: takes, finds and deletes them on this host for any controller.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use quarry_pool::{Health, Pool, PoolSnapshot, PoolVolume, SnapshotHealth, SnapshotKind, SnapshotRecord, State};
use quarry_volume::{
    AccessTypes, Change, ContentSource, CopyProgress, Error, Filesystem, Reason, Result, Snapshot, SnapshotCondition,
    SnapshotId, SnapshotMethod, SnapshotParameters, SnapshotSpec, VolumeId, safe_name,
};

use crate::agent::within;
use crate::copies::CopyTarget;
use crate::host::{Host, Located, OTHER_POOLS};
use crate::prepare::is_zeroed;

/// The task that takes a snapshot.
const CREATE_SNAPSHOT: &str = "create snapshot";
/// The task that deletes a snapshot.
pub(crate) const DELETE_SNAPSHOT: &str = "delete snapshot";

/// What the tasks of a snapshot work on. A volume may have the same name, but not this one: it has a space in it.
pub(crate) fn subject(name: &str) -> String {
    format!("{name} (snapshot)")
}

/// A snapshot and the pool that contains it.
pub(crate) struct LocatedSnapshot {
    pub(crate) pool: Arc<dyn Pool>,
    pub(crate) snapshot: PoolSnapshot,
}

impl Host {
    pub(crate) async fn take_snapshot(&self, spec: SnapshotSpec, wait: Duration) -> Result<(Snapshot, Change)> {
        let (host, name) = (self.clone(), spec.name.clone());
        self.tasks()
            .run(&subject(&safe_name(&name)), CREATE_SNAPSHOT, wait, |_| async move { host.take_now(&spec).await })
            .await
            .map_err(|error| error.context(format_args!("creating snapshot {name:?}")))
    }

    pub(crate) async fn remove_snapshot(&self, id: &SnapshotId, wait: Duration) -> Result<Change> {
        let (host, wanted) = (self.clone(), id.clone());
        self.tasks()
            .run(
                &subject(&id.snapshot),
                DELETE_SNAPSHOT,
                wait,
                |_| async move { host.remove_snapshot_now(&wanted).await },
            )
            .await
            .map_err(|error| error.context(format_args!("deleting snapshot {id}")))
    }

    pub(crate) async fn read_snapshot(&self, id: &SnapshotId, wait: Duration) -> Result<Snapshot> {
        let found = within(wait, self.locate_snapshot(id)).await;
        match found.map_err(|error| error.context(format_args!("snapshot {id}")))? {
            Some(located) => Ok(self.describe_located(&located)),
            None => Err(Error::not_found(format!("snapshot {id} does not exist"))),
        }
    }

    /// Finds a snapshot by its ID. `None`: its pool was read completely, and does not have it.
    ///
    /// # Errors
    /// As for [`Host::pool_of`].
    pub(crate) async fn locate_snapshot(&self, id: &SnapshotId) -> Result<Option<LocatedSnapshot>> {
        let pool = self.pool_of_snapshot(id).await?;
        Ok(pool.snapshot(&id.snapshot).await?.map(|snapshot| LocatedSnapshot { pool, snapshot }))
    }

    async fn take_now(&self, spec: &SnapshotSpec) -> Result<(Snapshot, Change)> {
        let pool = self.pool_of(&spec.source).await?;
        let taken = async {
            let (located, is_fresh) = self.find_or_take(&pool, spec).await?;
            self.continue_copy(located, is_fresh).await
        };
        match taken.await {
            Ok(located) => {
                let snapshot = self.describe_located(&located);
                let (pool, id) = (located.pool.name(), snapshot.id.clone());
                let change = self.publisher().changed_snapshot(pool, &id, Some(snapshot.clone())).await;
                Ok((snapshot, change))
            }
            Err(error) => {
                // It may have been taken.
                self.publisher().refresh_soon(pool.name());
                Err(error)
            }
        }
    }

    fn describe_located(&self, located: &LocatedSnapshot) -> Snapshot {
        let LocatedSnapshot { pool, snapshot } = located;
        let mut snapshot = describe_snapshot(self.node(), pool.name(), snapshot);
        self.copies().show_snapshots(pool.name(), std::slice::from_mut(&mut snapshot));
        snapshot
    }

    /// Finds the snapshot, or takes it; then the flag is true. A full copy may not be complete. `pool`: that of the
    /// source.
    async fn find_or_take(&self, pool: &Arc<dyn Pool>, spec: &SnapshotSpec) -> Result<(LocatedSnapshot, bool)> {
        // If the pool cannot be searched, the snapshot may exist there.
        if let Some(found) = self.find_snapshot(&spec.name, pool).await.map_err(Error::not_final)? {
            let record = &found.snapshot.record;
            if record.source != spec.source || record.name != spec.name {
                return Err(Error::new(
                    Reason::Exists,
                    format!(
                        "a snapshot of this name exists, of volume {} (its name is {:?}); delete it, or request another \
                         name",
                        record.source, record.name
                    ),
                ));
            }
            if record.method() != spec.class.method {
                return Err(Error::new(
                    Reason::Exists,
                    format!(
                        "a snapshot of this name exists, with method {}, not {}; delete it, or request another name",
                        record.method(),
                        spec.class.method
                    ),
                ));
            }
            match (&found.snapshot.health, record.state, record.kind) {
                (SnapshotHealth::Lost(why), ..) => return Err(Error::unavailable(why.clone())),
                (SnapshotHealth::Whole | SnapshotHealth::Invalid(_), State::Ready, _) => return Ok((found, false)),
                // Its instant was answered already.
                (SnapshotHealth::Whole | SnapshotHealth::Invalid(_), State::New, SnapshotKind::Copy { .. }) => {
                    return Ok((found, false));
                }
                // It may not have the contents of one instant.
                (SnapshotHealth::Incomplete(_), ..) | (_, State::New, _) => {
                    tracing::warn!(snapshot = spec.name, "taking the snapshot again: its creation was interrupted");
                    found.pool.remove_snapshot(&found.snapshot).await.map_err(Error::not_final)?;
                }
            }
        }
        // In this order: see `sources`.
        let target = CopyTarget::Snapshot(safe_name(&spec.name));
        let _kept = self.copies().keep(&ContentSource::Volume(spec.source.clone()), target);
        self.require_complete(&spec.source)?;
        let source = self.locate(&spec.source).await?;
        let Located { pool, volume } =
            source.ok_or_else(|| Error::not_found(format!("volume {} does not exist", spec.source)))?;
        let record = record_of(&spec.name, &spec.source, &volume)?;
        let SnapshotParameters { method, cow_size } = spec.class;
        let snapshot = match method {
            SnapshotMethod::Cow => pool.take_snapshot(&volume, &record, cow_size).await?,
            SnapshotMethod::Copy => self.begin_copy(&pool, &volume, &record, cow_size).await?,
        };
        Ok((LocatedSnapshot { pool, snapshot }, true))
    }

    /// Finds the snapshot that an earlier CreateSnapshot took under this name: first in the pool of its source, which
    /// must be readable, then in the other pools that answer soon.
    async fn find_snapshot(&self, name: &str, first: &Arc<dyn Pool>) -> Result<Option<LocatedSnapshot>> {
        let name = &safe_name(name);
        if let Some(snapshot) = first.snapshot(name).await? {
            return Ok(Some(LocatedSnapshot { pool: Arc::clone(first), snapshot }));
        }
        let others = self.pools().iter().filter(|pool| pool.name() != first.name());
        let mut answers: FuturesUnordered<_> = others
            .map(|pool| async move { (pool, tokio::time::timeout(OTHER_POOLS, pool.snapshot(name)).await) })
            .collect();
        while let Some((pool, answer)) = answers.next().await {
            match answer {
                Ok(Ok(Some(snapshot))) => return Ok(Some(LocatedSnapshot { pool: Arc::clone(pool), snapshot })),
                Ok(Ok(None)) => {}
                Ok(Err(_)) | Err(_) => tracing::warn!(pool = pool.name(), "pool not searched for the snapshot's name"),
            }
        }
        Ok(None)
    }

    async fn remove_snapshot_now(&self, id: &SnapshotId) -> Result<Change> {
        let pool = self.pool_of_snapshot(id).await?;
        let found = pool.snapshot(&id.snapshot).await?;
        if found.is_some() {
            self.require_no_copy_of(&ContentSource::Snapshot(id.clone()), &pool).await?;
        }
        // In this order: what is left of an incomplete copy can be deleted by its identifier.
        self.give_up_copy(&pool, &id.snapshot).await?;
        if let Some(snapshot) = found {
            let removed = async {
                self.erase_copied_keys(&pool, &snapshot).await?;
                pool.remove_snapshot(&snapshot).await
            };
            if let Err(error) = removed.await {
                self.publisher().refresh_soon(pool.name());
                return Err(error);
            }
            self.deactivate_if_unused(&snapshot.record.source).await;
        }
        Ok(self.publisher().changed_snapshot(pool.name(), id, None).await)
    }
}

/// The record of a snapshot of that volume that is still to be taken.
///
/// # Errors
/// Not final, unless the volume's record cannot be used: `UnderWay` or `Unavailable` if the volume is not complete or
/// its disk is lost.
pub(crate) fn record_of(name: &str, source: &VolumeId, volume: &PoolVolume) -> Result<SnapshotRecord> {
    let record = volume.record()?;
    let is_encrypted = record.encryption.is_some();
    if is_encrypted && record.filesystem == Some(Filesystem::Btrfs) && record.state == State::Ready {
        return Err(Error::precondition(format!(
            "volume {source} is encrypted and contains btrfs: a copy of it would keep its UUID, and a host must never see \
             two btrfs with one UUID; use ext4 or xfs, or make a backup from within the pod"
        )));
    }
    if let Health::Lost(why) | Health::Incomplete(why) = &volume.health {
        return Err(Error::unavailable(format!("volume {source}: {why}")));
    }
    crate::fill::require_filled(volume).map_err(|error| error.context(format_args!("volume {source}")))?;
    let never_used = record.state == State::New;
    let is_exposed =
        record.access == AccessTypes::Block || record.access.shows_bytes() && !is_zeroed(record, volume.size);
    // An encrypted volume that was never used has no key yet.
    if never_used && is_exposed && !record.needs_no_zeroes() {
        return Err(Error::unavailable(format!(
            "volume {source} is not completely zeroed and may still contain another tenant's data; retry when its \
             CreateVolume has returned OK"
        )));
    }
    let uuid = record.filesystem.filter(|_| !never_used).map(|_| volume.filesystem_uuid());
    let mut snapshot = SnapshotRecord::new(name.to_owned(), source.clone(), record, uuid);
    snapshot.empty = never_used;
    Ok(snapshot)
}

/// A snapshot of this node as controllers see it.
pub(crate) fn describe_snapshot(node: &str, pool: &str, snapshot: &PoolSnapshot) -> Snapshot {
    let record = &snapshot.record;
    let copying = match record.kind {
        SnapshotKind::Copy { copied } if record.state == State::New && snapshot.health == SnapshotHealth::Whole => {
            Some(CopyProgress { copied: copied.bytes().min(snapshot.size), total: snapshot.size })
        }
        _ => None,
    };
    Snapshot {
        id: SnapshotId { storage: snapshot.storage.clone(), node: node.to_owned(), snapshot: snapshot.name.clone() },
        name: record.name.clone(),
        source: record.source.clone(),
        size: snapshot.size.saturating_sub(record.overhead()),
        pool: pool.to_owned(),
        method: record.method(),
        created: record.created,
        ready: record.state == State::Ready && snapshot.health == SnapshotHealth::Whole,
        allocated: snapshot.allocated,
        problem: snapshot.health.problem().unwrap_or_default().to_owned(),
        condition: match (&snapshot.health, record.state) {
            (SnapshotHealth::Lost(_), _) => SnapshotCondition::DiskMissing,
            (SnapshotHealth::Invalid(_), _) => SnapshotCondition::Invalid,
            (SnapshotHealth::Whole, State::New) if copying.is_some() => SnapshotCondition::Healthy,
            (SnapshotHealth::Incomplete(_), _) | (_, State::New) => SnapshotCondition::Unfinished,
            (SnapshotHealth::Whole, State::Ready) => SnapshotCondition::Healthy,
        },
        copying,
    }
}
