//! The agent: makes, finds and deletes volumes on this host, for whichever controller asks.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quarry_mount as mount;
use quarry_pool::{Pool, PoolVolume, volume_name};
use quarry_volume::{
    Agent, Change, Error, FencingToken, NameLookup, Reason, Result, UpdateStream, Volume, VolumeId, VolumeSpec,
};
use tokio::time::Instant;

use crate::host::{Host, Located};
use crate::publisher::describe;
use crate::unmount::{UNPUBLISH, UNSTAGE};
use crate::{errors, read_only};

#[async_trait::async_trait]
impl Agent for Host {
    fn node(&self) -> &str {
        self.node()
    }

    async fn create(&self, spec: VolumeSpec, token: Option<FencingToken>, wait: Duration) -> Result<(Volume, Change)> {
        let host = self.clone();
        let key = volume_name(&spec.name);
        let name = spec.name.clone();
        self.tasks()
            .run(&key, CREATE, wait, |handle| async move {
                // Now the name is taken.
                if let Some(token) = &token {
                    host.admit(token)?;
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
        // A volume that is still being zeroed is not wanted any more. One of the same name on another storage is another volume,
        // whose creation goes on.
        if within(wait, self.pool_of(id)).await.is_ok() {
            self.tasks().stop(&id.volume, CREATE, left()).await;
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
        // In this order: a creation that is admitted by the lower fence has taken the name before.
        self.raise(fence)?;
        self.tasks().refuse(&volume_name(name), &[CREATE, DELETE])?;
        let found = within(wait, self.find_anywhere(name)).await;
        let found = found.map_err(|error| error.context(format_args!("looking for a volume named {name:?}")))?;
        let volume = found.map(|Located { pool, volume }| self.describe(&pool, &volume));
        Ok(NameLookup { instance: self.instance().to_owned(), volume })
    }

    async fn watch(&self) -> Result<UpdateStream> {
        Ok(self.publisher().listen())
    }
}

/// The task that makes a volume.
const CREATE: &str = "create";
/// The task that deletes one.
const DELETE: &str = "delete";

/// Bounds the wait for a question, which changes nothing.
async fn within<T>(wait: Duration, question: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(wait, question).await.unwrap_or_else(|_| {
        Err(Error::new(Reason::TimedOut, format!("its storage did not answer within {wait:.1?}; retry")))
    })
}

impl Host {
    pub(crate) fn describe(&self, pool: &Arc<dyn Pool>, volume: &PoolVolume) -> Volume {
        describe(self.node(), pool.name(), volume)
    }

    async fn delete_now(&self, id: &VolumeId) -> Result<Change> {
        let Some(Located { pool, volume }) = self.locate(id).await? else {
            // Without our mark a volume is not ours to remove; but what is mounted is not called deleted.
            let active = quarry_pool::active(&id.storage, &id.volume);
            if let Ok(Some(active)) = active {
                require_unused(id, active.node).await?;
            }
            let pool = self.pool_of(id).await?;
            return Ok(self.publisher().changed(pool.name(), id, None).await);
        };
        // Only what this code can read is removed: the mark alone does not say enough.
        volume.record()?;
        let device = pool.device(&volume)?;
        if let Some(device) = device.clone() {
            require_unused(id, device).await?;
        }
        if let Err(mut error) = pool.remove(&volume).await {
            self.publisher().refresh_soon(pool.name());
            if let (Reason::InUse, Some(device)) = (error.reason, &device) {
                error.message.push_str(&errors::held_by(device));
            }
            return Err(error);
        }
        Ok(self.publisher().changed(pool.name(), id, None).await)
    }
}

/// Refuses a volume that is in use anywhere that this process can see.
async fn require_unused(id: &VolumeId, device: PathBuf) -> Result<()> {
    let id = id.clone();
    errors::blocking(move || unused(&device).and_then(|()| read_only::refuse_use(&id))).await
}

/// Refuses a device that is mounted or published anywhere that this process can see.
fn unused(device: &Path) -> Result<()> {
    let Some(number) = mount::Device::of_node(device) else { return Ok(()) };
    let mut users = mount::mounts_of_device(number).map_err(errors::mount)?;
    users.extend(mount::publications_of_block(number).map_err(errors::mount)?);
    // One mount shows several times at one path where kubelet's folder is bound on itself to be shared.
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
