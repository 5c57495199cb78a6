//! The agent: creates, finds and deletes volumes on this host for any controller.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quarry_pool::{Pool, PoolVolume};
use quarry_volume::{
    Agent, Change, ContentSource, Error, FencingToken, MutableParameters, NameLookup, Reason, Result, SizeRange,
    Snapshot, SnapshotId, SnapshotSpec, UpdateStream, Volume, VolumeId, VolumeSpec, safe_name,
};
use tokio::time::Instant;

use crate::device::VolumeDevice;
use crate::host::{Host, Located};
use crate::kernel::Mounts;
use crate::publisher::describe;
use crate::unmount::{UNPUBLISH, UNSTAGE};
use crate::{device, errors, read_only};

#[async_trait::async_trait]
impl Agent for Host {
    fn node(&self) -> &str {
        self.node()
    }

    async fn create(&self, spec: VolumeSpec, token: Option<FencingToken>, wait: Duration) -> Result<(Volume, Change)> {
        let host = self.clone();
        let key = safe_name(&spec.name);
        let name = spec.name.clone();
        let request = format!("{spec:?}");
        self.tasks()
            .run_long(&key, CREATE, &request, wait, |handle| async move {
                // The task holds the name now.
                if let Some(token) = &token {
                    host.check_token(token)?;
                }
                host.create_now(spec, handle).await
            })
            .await
            .map_err(|error| error.context(format_args!("creating volume {name:?}")))
    }

    async fn delete(&self, id: &VolumeId, wait: Duration) -> Result<Change> {
        let host = self.clone();
        let wanted = id.clone();
        let deadline = Instant::now() + wait;
        let left = || deadline.saturating_duration_since(Instant::now());
        // A volume that is still being zeroed or filled is no longer needed, so stop its creation or expansion. A volume
        // with the same name on another storage is a different one, and its creation continues.
        if within(wait, self.pool_of(id)).await.is_ok() {
            self.tasks().stop(&id.volume, CREATE, left()).await;
            self.tasks().stop(&new_space(id), EXPAND, left()).await;
        }
        self.tasks()
            .run_after(
                &id.volume,
                DELETE,
                &[UNSTAGE, UNPUBLISH],
                left(),
                |_| async move { host.delete_now(&wanted).await },
            )
            .await
            .map_err(|error| error.context(format_args!("deleting volume {id}")))
    }

    async fn get(&self, id: &VolumeId, wait: Duration) -> Result<Volume> {
        match within(wait, self.locate(id)).await.map_err(|error| error.context(format_args!("volume {id}")))? {
            Some(Located { pool, volume }) => Ok(self.describe(&pool, &volume)),
            None => Err(Error::not_found(format!("volume {id} does not exist"))),
        }
    }

    async fn find(&self, name: &str, fence: u64, wait: Duration) -> Result<NameLookup> {
        // In this order: a creation that passed the check with a lower token already holds the name.
        self.raise_fence(fence)?;
        self.tasks().require_none(&safe_name(name), &[CREATE, DELETE])?;
        let found = within(wait, self.find_anywhere(name)).await;
        let found = found.map_err(|error| error.context(format_args!("looking up volume {name:?}")))?;
        let volume = found.map(|Located { pool, volume }| self.describe(&pool, &volume));
        Ok(NameLookup { instance: self.instance().to_owned(), volume })
    }

    async fn expand(&self, id: &VolumeId, size: SizeRange, wait: Duration) -> Result<(Volume, Change)> {
        let (host, wanted) = (self.clone(), id.clone());
        self.tasks().require_none(&id.volume, &[CREATE, DELETE])?;
        self.tasks()
            .run_long(&new_space(id), EXPAND, &format!("{size:?}"), wait, |handle| async move {
                host.expand_now(&wanted, size, handle).await
            })
            .await
            .map_err(|error| error.context(format_args!("expanding volume {id}")))
    }

    async fn modify(&self, id: &VolumeId, changes: MutableParameters, wait: Duration) -> Result<(Volume, Change)> {
        self.modify_volume(id, changes, wait).await
    }

    async fn create_snapshot(&self, spec: SnapshotSpec, wait: Duration) -> Result<(Snapshot, Change)> {
        self.take_snapshot(spec, wait).await
    }

    async fn delete_snapshot(&self, id: &SnapshotId, wait: Duration) -> Result<Change> {
        self.remove_snapshot(id, wait).await
    }

    async fn get_snapshot(&self, id: &SnapshotId, wait: Duration) -> Result<Snapshot> {
        self.read_snapshot(id, wait).await
    }

    async fn watch(&self) -> Result<UpdateStream> {
        // A controller connects soon after a start.
        if self.is_first_watch() {
            self.clean_up_after_copies_later();
        }
        Ok(self.publisher().listen())
    }
}

/// The task that creates a volume.
pub(crate) const CREATE: &str = "create";
/// The task that deletes a volume.
pub(crate) const DELETE: &str = "delete";

/// The task that expands a volume.
pub(crate) const EXPAND: &str = "expand";

/// What an expansion works on, as the name of its task. Zeroing the new space can take long, and must not keep the
/// volume from being unpublished. So this is not the volume itself; the pool serializes the rest.
pub(crate) fn new_space(id: &VolumeId) -> String {
    format!("{} (new space)", id.volume)
}

/// Limits the wait for a query, which changes nothing.
pub(crate) async fn within<T>(wait: Duration, question: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(wait, question).await.unwrap_or_else(|_| {
        Err(Error::new(Reason::TimedOut, format!("its storage did not answer within {wait:.1?}; retry")))
    })
}

impl Host {
    pub(crate) fn describe(&self, pool: &Arc<dyn Pool>, volume: &PoolVolume) -> Volume {
        let mut volume = describe(self.node(), pool.name(), volume);
        self.copies().show(pool.name(), std::slice::from_mut(&mut volume));
        volume
    }

    async fn delete_now(&self, id: &VolumeId) -> Result<Change> {
        // An expansion may not have stopped in time, or may have begun since. It looks for a deletion in the same way, so
        // that one of the two notices the other.
        self.tasks().require_none(&new_space(id), &[EXPAND])?;
        let located = self.locate(id).await;
        let is_absent = located.as_ref().is_err_and(|error| error.storage_absent);
        if is_absent || matches!(&located, Ok(None)) {
            // Quarry does not remove a volume without its tag. But a mounted volume is not reported as
            // deleted.
            if let Some(active) = device::active_in_kernel(&**self.kernel(), id) {
                self.require_unused(id, active).await?;
            }
            self.require_layer_unused(id).await?;
        }
        let Some(Located { pool, volume }) = located? else {
            let pool = self.pool_of(id).await?;
            return Ok(self.publisher().changed(pool.name(), id, None).await);
        };
        // Only a volume with a readable record is removed: the tag alone is not enough.
        let record = volume.record()?;
        self.require_no_copy_of(&ContentSource::Volume(id.clone()), &pool).await?;
        self.clean_up_after_copies(&pool, Some(id)).await;
        if let Some(source) = &record.source {
            // Before the volume, so that no later volume of this name finds it.
            self.remove_clone_snapshot_if_possible(source, &record.name, &pool).await?;
        }
        let device = device::active(&**self.kernel(), &pool, &volume)?;
        if let Some(device) = device.clone() {
            self.require_unused(id, device).await?;
        }
        let removed = async {
            if record.encryption.is_some() {
                self.erase_encrypted(id, &pool, &volume).await?;
            }
            pool.remove(&volume).await
        };
        if let Err(mut error) = removed.await {
            self.publisher().refresh_soon(pool.name());
            if let (Reason::InUse, Some(device)) = (error.reason, &device) {
                // The pool removes its own device, so what holds that one is in the way.
                error.message.push_str(&self.kernel().held_by(&device.raw));
            }
            return Err(error);
        }
        Ok(self.publisher().changed(pool.name(), id, None).await)
    }

    /// Fails if the volume is in use anywhere that this process can see.
    pub(crate) async fn require_unused(&self, id: &VolumeId, device: VolumeDevice) -> Result<()> {
        let (id, kernel) = (id.clone(), Arc::clone(self.kernel()));
        errors::blocking(move || {
            unused(&*kernel, &device.top)?;
            read_only::require_unpublished(&*kernel, &id)
        })
        .await
    }
}

/// Fails if the device is mounted or published anywhere that this process can see.
pub(crate) fn unused(mounts: &dyn Mounts, device: &Path) -> Result<()> {
    let Some(number) = mounts.number(device) else { return Ok(()) };
    let mut users = mounts.mounts_of_device(number)?;
    users.extend(mounts.publications_of_block(number)?);
    // One mount can appear several times at one path if kubelet's directory is bind-mounted on itself to make
    // it shared.
    let places: BTreeSet<PathBuf> = users.into_iter().map(|entry| entry.target).collect();
    let mut places = places.iter();
    let Some(first) = places.next() else { return Ok(()) };
    let more = match places.count() {
        0 => String::new(),
        1 => " and 1 more place".to_owned(),
        count => format!(" and {count} more places"),
    };
    Err(Error::new(Reason::InUse, format!("it is in use at {first:?}{more}; unpublish and unstage it first")))
}
