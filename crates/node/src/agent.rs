//! The agent: makes, finds and deletes volumes on this host, for whichever controller asks.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use quarry_filesystem as filesystem;
use quarry_mount as mount;
use quarry_pool::{Health, Pool, PoolVolume, Recorded, State, volume_name};
use quarry_volume::{Agent, Capacity, Error, Filesystem, Layout, Reason, Result, Volume, VolumeId, VolumeSpec};

use crate::errors;
use crate::host::{Host, Located};
use crate::prepare::prepare;
use crate::tasks::Handle;

#[async_trait::async_trait]
impl Agent for Host {
    fn node(&self) -> &str {
        self.node()
    }

    async fn create(&self, spec: VolumeSpec, wait: Duration) -> Result<Volume> {
        let host = self.clone();
        let key = volume_name(&spec.name);
        let name = spec.name.clone();
        self.tasks()
            .run(&key, "create", wait, |handle| async move { host.create_now(spec, handle).await })
            .await
            .map_err(|error| error.context(format_args!("creating volume {name:?}")))
    }

    async fn delete(&self, id: &VolumeId, wait: Duration) -> Result<()> {
        let host = self.clone();
        let wanted = id.clone();
        // A volume that is still being zeroed is not wanted any more.
        self.tasks().stop(&id.volume, "create", wait).await;
        self.tasks()
            .run(&id.volume, "delete", wait, |_| async move { host.delete_now(&wanted).await })
            .await
            .map_err(|error| error.context(format_args!("deleting volume {id}")))
    }

    async fn get(&self, id: &VolumeId) -> Result<Volume> {
        match self.locate(id).await? {
            Some(Located { pool, volume }) => Ok(self.describe(&pool, &volume)),
            None => Err(Error::not_found(format!("volume {id} does not exist"))),
        }
    }

    async fn list(&self) -> Result<Vec<Volume>> {
        let mut list = Vec::new();
        let answers = self.pools().iter().map(|pool| async move { (pool, pool.volumes().await) });
        for (pool, volumes) in join_all(answers).await {
            // One pool that cannot be read must not hide the others; it shows in /readyz and in the metrics.
            match volumes {
                Ok(volumes) => list.extend(volumes.iter().map(|volume| self.describe(pool, volume))),
                Err(error) => tracing::warn!(pool = pool.name(), %error, "its volumes are not listed"),
            }
        }
        Ok(list)
    }

    async fn capacity(&self, pool: Option<&str>, layout: &Layout) -> Result<Capacity> {
        let mut total = Capacity::default();
        for candidate in self.pools().iter().filter(|candidate| pool.is_none_or(|name| candidate.name() == name)) {
            let capacity = candidate.capacity(layout).await?;
            total.available = total.available.saturating_add(capacity.available);
            total.largest = total.largest.max(capacity.largest);
            total.smallest = match total.smallest {
                0 => capacity.smallest,
                smallest => smallest.min(capacity.smallest),
            };
        }
        Ok(total)
    }

    fn check_options(&self, kind: Filesystem, mount_flags: &[String], mkfs_options: &str) -> Result<()> {
        filesystem::MountOptions::parse(kind, mount_flags).map_err(errors::option)?;
        filesystem::MakeOptions::parse(kind, mkfs_options).map_err(errors::option)?;
        Ok(())
    }
}

impl Host {
    fn describe(&self, pool: &Arc<dyn Pool>, volume: &PoolVolume) -> Volume {
        let record = match &volume.record {
            Recorded::Here(record) => Some(record),
            Recorded::Newer(_) | Recorded::Broken(_) => None,
        };
        Volume {
            id: self.id_of(volume),
            name: record.map_or_else(|| volume.name.clone(), |record| record.name.clone()),
            size: volume.size,
            pool: pool.name().to_owned(),
            access: record.map(|record| record.access),
            filesystem: record.and_then(|record| record.filesystem),
        }
    }

    async fn create_now(&self, spec: VolumeSpec, handle: Handle) -> Result<Volume> {
        let asked = Arc::clone(self.pool(spec.pool.as_deref())?);
        let (pool, volume, fresh) = match self.find_by_name(&spec.name, &asked).await? {
            Some(Located { pool, volume }) => {
                compatible(&spec, asked.name(), pool.name(), &volume)?;
                match &volume.health {
                    Health::Incomplete(why) if volume.record()?.state == State::New => {
                        tracing::warn!(volume = volume.name, why, "made again: its creation was interrupted");
                        pool.remove(&volume).await?;
                        (Arc::clone(&pool), pool.carve(&spec).await?, true)
                    }
                    Health::Incomplete(why) | Health::Lost(why) => return Err(Error::precondition(why.clone())),
                    Health::Whole | Health::Degraded(_) => (pool, volume, false),
                }
            }
            None => {
                let size = asked.size_of(&spec).await?;
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
                let volume = asked.carve(&spec).await?;
                (asked, volume, true)
            }
        };
        let volume = prepare(&pool, volume, fresh, &handle).await?;
        Ok(self.describe(&pool, &volume))
    }

    async fn delete_now(&self, id: &VolumeId) -> Result<()> {
        let Some(Located { pool, volume }) = self.locate(id).await? else { return Ok(()) };
        // Only what this code can read is removed: the mark alone does not say enough.
        volume.record()?;
        if let Some(device) = pool.device(&volume)? {
            unused(&device)?;
        }
        pool.remove(&volume).await
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
    Ok(())
}
