//! Making a volume, or finding the one that an earlier call made.
//!
//! From the instant at which a volume exists no answer is final: a caller that takes one for the end never learns an
//! identifier, and nobody deletes the volume. So either the error makes the caller retry, or what was made is removed
//! before the answer.

use std::sync::Arc;

use quarry_filesystem as filesystem;
use quarry_pool::{Health, Pool, PoolVolume, State};
use quarry_volume::{Change, Error, Filesystem, Reason, Result, Volume, VolumeId, VolumeSpec, Wipe, check_options};

use crate::host::{Host, Located};
use crate::prepare::prepare;
use crate::tasks::Handle;

impl Host {
    pub(crate) async fn create_now(&self, spec: VolumeSpec, handle: Handle) -> Result<(Volume, Change)> {
        check(&spec)?;
        let asked = Arc::clone(self.pool(spec.class.pool.as_deref())?);
        match self.make(&asked, &spec, &handle).await {
            Ok((pool, volume)) => {
                let volume = self.describe(&pool, &volume);
                let change = self.publisher().changed(pool.name(), &volume.id, Some(volume.clone())).await;
                Ok((volume, change))
            }
            Err(error) => {
                // It may have come half-way.
                self.publisher().refresh_soon(asked.name());
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
        // It may exist where this cannot be told.
        let found = self.find_by_name(&spec.name, asked).await.map_err(Error::not_final)?;
        let (pool, volume, fresh) = match found {
            Some(Located { pool, volume }) => {
                compatible(spec, asked.name(), pool.name(), &volume)?;
                let (volume, fresh) = take_up(&pool, volume, spec).await?;
                (pool, volume, fresh)
            }
            None => (Arc::clone(asked), self.carve(asked, spec).await?, true),
        };
        match prepare(&pool, volume.clone(), fresh, handle).await {
            Ok(volume) => Ok((pool, volume)),
            Err(error) => Err(self.unprepared(&pool, &volume, fresh, error).await),
        }
    }

    async fn carve(&self, pool: &Arc<dyn Pool>, spec: &VolumeSpec) -> Result<PoolVolume> {
        let size = pool.size_of(spec).await?;
        if let Some(kind) = spec.filesystem
            && size < filesystem::minimum_size(kind)
        {
            let least = filesystem::minimum_size(kind);
            return Err(Error::new(
                Reason::SizeOutOfRange,
                format!("{size} bytes are too few for {kind}, which needs {least}: ask for more"),
            ));
        }
        let volume = pool.carve(spec).await?;
        // The space is gone now, and zeroing takes its time; if there is nothing to zero, the pool is read meanwhile.
        self.publisher().refresh_soon(pool.name());
        Ok(volume)
    }

    /// What is answered when a volume that exists could not be prepared. One that this very call carved is removed again
    /// where a retry would fail as well: the host failed or its disk did, or the pool has no room for the record of what
    /// was done. The answer is final then. Any other volume stays, the caller has to come again, and until it is prepared or
    /// removed the volume shows why it is not.
    async fn unprepared(&self, pool: &Arc<dyn Pool>, volume: &PoolVolume, fresh: bool, error: Error) -> Error {
        let mut error = error;
        if fresh && matches!(error.reason, Reason::Host | Reason::NoSpace) {
            match pool.remove(volume).await {
                Ok(()) => {
                    error.message.push_str("; what was made of the volume was removed again");
                    return error;
                }
                Err(why) => error.message = format!("{}; nor could it be removed again: {why}", error.message),
            }
        }
        self.publisher().failed(pool.name(), &self.id_of(volume), &error.message);
        error.not_final()
    }

    fn id_of(&self, volume: &PoolVolume) -> VolumeId {
        VolumeId { storage: volume.storage.clone(), node: self.node().to_owned(), volume: volume.name.clone() }
    }
}

/// Goes on with a volume that an earlier call made; the flag says whether it had to be carved anew.
async fn take_up(pool: &Arc<dyn Pool>, volume: PoolVolume, spec: &VolumeSpec) -> Result<(PoolVolume, bool)> {
    match &volume.health {
        Health::Incomplete(why) if volume.record()?.state == State::New => {
            tracing::warn!(volume = volume.name, why, "made again: its creation was interrupted");
            pool.remove(&volume).await.map_err(Error::not_final)?;
            Ok((pool.carve(spec).await?, true))
        }
        // It exists, and may be whole again when its disk is back.
        Health::Incomplete(why) | Health::Lost(why) => Err(Error::unavailable(why.clone())),
        Health::Whole | Health::Degraded(_) => Ok((volume, false)),
    }
}

/// Refuses options that the controller should have refused: the two may be of different versions.
fn check(spec: &VolumeSpec) -> Result<()> {
    match spec.filesystem {
        Some(kind) => check_options(kind, &[], &spec.class.mkfs_options),
        None if spec.class.mkfs_options.is_empty() => Ok(()),
        None => Err(Error::invalid("mkfsOptions are given for a raw block volume, which has no filesystem")),
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
    if spec.class.layout != record.layout {
        return conflict(format!("{}, not {}", record.layout, spec.class.layout));
    }
    if spec.parameters_hash() != record.parameters {
        return conflict("made with other mkfsOptions".to_owned());
    }
    if spec.class.wipe != record.wipe {
        let way = |wipe: Option<Wipe>| wipe.map_or("as the pool says", Wipe::as_str);
        return conflict(format!("to be wiped: {}, not {}", way(record.wipe), way(spec.class.wipe)));
    }
    Ok(())
}
