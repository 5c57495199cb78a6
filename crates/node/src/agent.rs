//! The agent: makes, finds and deletes volumes on this host, for whichever controller asks.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use quarry_filesystem as filesystem;
use quarry_mount as mount;
use quarry_pool::{Health, Pool, PoolVolume, State, volume_name};
use quarry_volume::{
    Agent, Change, Chosen, Error, Filesystem, Found, NewsStream, Reason, Result, Volume, VolumeId, VolumeSpec, Wipe,
    check_options,
};

use crate::board::describe;
use crate::errors;
use crate::host::{Host, Located};
use crate::prepare::prepare;
use crate::tasks::Handle;

#[async_trait::async_trait]
impl Agent for Host {
    fn node(&self) -> &str {
        self.node()
    }

    async fn create(&self, spec: VolumeSpec, chosen: Option<Chosen>, wait: Duration) -> Result<(Volume, Change)> {
        let host = self.clone();
        let key = volume_name(&spec.name);
        let name = spec.name.clone();
        self.tasks()
            .run(&key, CREATE, wait, |handle| async move {
                // Now the name is taken.
                if let Some(chosen) = &chosen {
                    host.admit(chosen)?;
                }
                host.create_now(spec, handle).await
            })
            .await
            .map_err(|error| error.context(format_args!("creating volume {name:?}")))
    }

    async fn delete(&self, id: &VolumeId, wait: Duration) -> Result<Change> {
        let host = self.clone();
        let wanted = id.clone();
        // A volume that is still being zeroed is not wanted any more.
        self.tasks().stop(&id.volume, CREATE, wait).await;
        self.tasks()
            .run(&id.volume, DELETE, wait, |_| async move { host.delete_now(&wanted).await })
            .await
            .map_err(|error| error.context(format_args!("deleting volume {id}")))
    }

    async fn get(&self, id: &VolumeId, wait: Duration) -> Result<Volume> {
        match within(wait, self.locate(id)).await.map_err(|error| error.context(format_args!("volume {id}")))? {
            Some(Located { pool, volume }) => Ok(self.describe(&pool, &volume)),
            None => Err(Error::not_found(format!("volume {id} does not exist"))),
        }
    }

    async fn find(&self, name: &str, fence: u64, wait: Duration) -> Result<Found> {
        // In this order: a creation that is admitted by the lower fence has taken the name before.
        self.raise(fence)?;
        self.tasks().refuse(&volume_name(name), &[CREATE, DELETE])?;
        let found = within(wait, self.find_anywhere(name)).await;
        let found = found.map_err(|error| error.context(format_args!("looking for a volume named {name:?}")))?;
        let volume = found.map(|Located { pool, volume }| self.describe(&pool, &volume));
        Ok(Found { instance: self.instance().to_owned(), volume })
    }

    async fn watch(&self) -> Result<NewsStream> {
        Ok(self.board().listen())
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
    fn describe(&self, pool: &Arc<dyn Pool>, volume: &PoolVolume) -> Volume {
        describe(self.node(), pool.name(), volume)
    }

    async fn create_now(&self, spec: VolumeSpec, handle: Handle) -> Result<(Volume, Change)> {
        check(&spec)?;
        let asked = Arc::clone(self.pool(spec.pool.as_deref())?);
        match self.make(&asked, &spec, &handle).await {
            Ok((pool, volume)) => {
                let volume = self.describe(&pool, &volume);
                let change = self.board().changed(pool.name(), &volume.id, Some(volume.clone())).await;
                Ok((volume, change))
            }
            Err(error) => {
                // It may have come half-way.
                self.board().stir(asked.name());
                Err(error)
            }
        }
    }

    /// Finds or carves the volume, and makes it fit to be handed out.
    async fn make(
        &self,
        asked: &Arc<dyn Pool>,
        spec: &VolumeSpec,
        handle: &Handle,
    ) -> Result<(Arc<dyn Pool>, PoolVolume)> {
        let (pool, volume, fresh) = match self.find_by_name(&spec.name, asked).await? {
            Some(Located { pool, volume }) => {
                compatible(spec, asked.name(), pool.name(), &volume)?;
                match &volume.health {
                    Health::Incomplete(why) if volume.record()?.state == State::New => {
                        tracing::warn!(volume = volume.name, why, "made again: its creation was interrupted");
                        pool.remove(&volume).await?;
                        (Arc::clone(&pool), pool.carve(spec).await?, true)
                    }
                    Health::Incomplete(why) | Health::Lost(why) => return Err(Error::precondition(why.clone())),
                    Health::Whole | Health::Degraded(_) => (pool, volume, false),
                }
            }
            None => {
                let size = asked.size_of(spec).await?;
                if let Some(kind) = spec.filesystem
                    && size < filesystem::minimum_size(kind)
                {
                    return Err(Error::new(
                        Reason::SizeOutOfRange,
                        format!(
                            "{size} bytes are too few for {kind}, which needs {}: ask for more",
                            filesystem::minimum_size(kind)
                        ),
                    ));
                }
                let volume = asked.carve(spec).await?;
                // The space is gone now, and zeroing takes its time; where there is none, the pool is read meanwhile.
                self.board().stir(asked.name());
                (Arc::clone(asked), volume, true)
            }
        };
        let volume = prepare(&pool, volume, fresh, handle).await?;
        Ok((pool, volume))
    }

    async fn delete_now(&self, id: &VolumeId) -> Result<Change> {
        let pool = self.pool_of(id).await?;
        if let Some(volume) = pool.volume(&id.volume).await? {
            // Only what this code can read is removed: the mark alone does not say enough.
            volume.record()?;
            if let Some(device) = pool.device(&volume)? {
                unused(&device)?;
            }
            pool.remove(&volume).await.inspect_err(|_| self.board().stir(pool.name()))?;
        }
        Ok(self.board().changed(pool.name(), id, None).await)
    }
}

/// Refuses options that the controller should have refused: the two may be of different versions.
fn check(spec: &VolumeSpec) -> Result<()> {
    match spec.filesystem {
        Some(kind) => check_options(kind, &[], &spec.mkfs_options),
        None if spec.mkfs_options.is_empty() => Ok(()),
        None => Err(Error::invalid("mkfsOptions are given for a raw block volume, which has no filesystem")),
    }
}

/// Refuses a device that is mounted or published anywhere that this process can see.
fn unused(device: &Path) -> Result<()> {
    let Some(number) = mount::Device::of_node(device) else { return Ok(()) };
    let mut users = mount::mounts_of_device(number).map_err(errors::mount)?;
    users.extend(mount::publications_of_block(number).map_err(errors::mount)?);
    match users.first() {
        None => Ok(()),
        Some(first) => Err(Error::new(
            Reason::InUse,
            format!(
                "it is in use at {:?}{}; unpublish and unstage it first",
                first.target,
                match users.len() {
                    1 => String::new(),
                    count => format!(" and {} more places", count - 1),
                }
            ),
        )),
    }
}

/// Whether the volume that exists is the one that is asked for (CSI `CreateVolume`, idempotency).
fn compatible(spec: &VolumeSpec, asked: &str, pool: &str, volume: &PoolVolume) -> Result<()> {
    let record = volume.record()?;
    let conflict = |what: String| {
        Err(Error::new(
            Reason::Exists,
            format!("a volume of this name exists, {what}; delete it, or ask for another name"),
        ))
    };
    if asked != pool {
        return conflict(format!("in pool {pool:?}, not in {asked:?}"));
    }
    if !spec.size.admits(volume.size) {
        return conflict(format!(
            "with {} bytes, where at least {}{} are asked for",
            volume.size,
            spec.size.required,
            spec.size.limit.map_or_else(String::new, |limit| format!(" and at most {limit}"))
        ));
    }
    if spec.access != record.access {
        return conflict(format!("made for use as {}, not as {}", record.access, spec.access));
    }
    if spec.filesystem != record.filesystem {
        let name = |filesystem: Option<Filesystem>| filesystem.map_or("no filesystem", Filesystem::as_str);
        return conflict(format!("with {}, not {}", name(record.filesystem), name(spec.filesystem)));
    }
    if spec.layout != record.layout {
        return conflict(format!("{}, not {}", record.layout, spec.layout));
    }
    if spec.parameters_hash() != record.parameters {
        return conflict("made with other mkfsOptions".to_owned());
    }
    if spec.wipe != record.wipe {
        let way = |wipe: Option<Wipe>| wipe.map_or("as the pool says", Wipe::as_str);
        return conflict(format!("to be wiped: {}, not {}", way(record.wipe), way(spec.wipe)));
    }
    Ok(())
}
