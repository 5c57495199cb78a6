//! Creates a volume, or finds the one that an earlier call created.
//!
//! Once a volume exists, no error may be final: after a final error, the caller never learns the volume ID,
//! so the volume is never deleted. So either the error makes the caller retry, or the volume is removed
//! before the response.

use std::sync::Arc;

use quarry_filesystem as filesystem;
use quarry_pool::{Health, Pool, PoolVolume, State};
use quarry_volume::{Change, Error, MakeOptions, Reason, Result, Volume, VolumeId, VolumeSpec, check_options};

use crate::fill::Failure;
use crate::host::{Host, Located};
use crate::prepare::prepare;
use crate::tasks::Handle;

impl Host {
    pub(crate) async fn create_now(&self, spec: VolumeSpec, handle: Handle) -> Result<(Volume, Change)> {
        let requested = match check(&spec).and_then(|()| self.pool(spec.class.pool.as_deref())) {
            Ok(pool) => Arc::clone(pool),
            Err(error) => return Err(self.rejected(&spec.name, error).await),
        };
        match self.make(&requested, &spec, &handle).await {
            Ok((pool, volume, since)) => {
                let volume = self.describe(&pool, &volume);
                let shown = Some(volume.clone());
                let change = self.publisher().changed_since(pool.name(), &volume.id, shown, since).await;
                Ok((volume, change))
            }
            Err(error) => {
                // The volume may have been partly created.
                self.publisher().refresh_soon(requested.name());
                Err(error)
            }
        }
    }

    /// The error for a request that this node cannot carry out. If an earlier attempt created the volume, it is not final:
    /// the configuration or the version of Quarry has changed since, and another node must not create it again.
    async fn rejected(&self, name: &str, error: Error) -> Error {
        match self.find_in_answering(name, None).await {
            Some(Located { pool, .. }) => {
                let exists = format!("the volume exists in pool {} from an earlier attempt", pool.name());
                error.context(exists).not_final()
            }
            None => error,
        }
    }

    /// Finds or creates the volume and prepares it for use. The number is that of the last reading of the pool that had
    /// begun before the pool's last change, if that was the creation.
    async fn make(
        &self,
        requested: &Arc<dyn Pool>,
        spec: &VolumeSpec,
        handle: &Handle,
    ) -> Result<(Arc<dyn Pool>, PoolVolume, Option<u64>)> {
        // If a pool cannot be searched, the volume may exist there.
        let found = self.find_by_name(&spec.name, requested).await.map_err(Error::not_final)?;
        let (pool, volume, fresh, since) = match found {
            Some(Located { pool, volume }) => {
                compatible(spec, requested.name(), pool.name(), &volume)?;
                let (volume, fresh) = self.resume(&pool, volume, spec).await?;
                let updated = self.update_mutable(&pool, volume, spec).await;
                let volume = updated.map_err(Error::not_final)?;
                (pool, volume, fresh, None)
            }
            None => {
                let (volume, since) = self.create_in_pool(requested, spec).await?;
                (Arc::clone(requested), volume, true, Some(since))
            }
        };
        let prepared = async {
            let volume = self.fill(&pool, volume.clone(), handle).await?;
            Ok(prepare(self.kernel(), &pool, volume, fresh, handle).await?)
        };
        match prepared.await {
            Ok(prepared) => {
                let same = spec.source.is_none() && prepared.record().ok() == volume.record().ok();
                let since = since.filter(|_| same);
                Ok((pool, prepared, since))
            }
            Err(failure) => Err(self.clean_up_unprepared(&pool, &volume, fresh, failure).await),
        }
    }

    /// Creates the volume. The number is that of the last reading of the pool that had begun by then.
    async fn create_in_pool(&self, pool: &Arc<dyn Pool>, spec: &VolumeSpec) -> Result<(PoolVolume, u64)> {
        pool.supports(spec)?;
        let spec = &self.sized(spec).await?;
        let size = pool.size_of(spec).await?.saturating_sub(spec.overhead());
        if let Some(kind) = spec.filesystem
            && size < filesystem::minimum_size(kind)
        {
            let least = filesystem::minimum_size(kind);
            return Err(Error::new(
                Reason::SizeOutOfRange,
                format!("{size} bytes are too few for {kind}, which needs {least}: request more"),
            ));
        }
        if let Some(kind) = spec.filesystem
            && let Some(limit) = filesystem::limit_of_growth(&MakeOptions::parse(kind, &spec.class.mkfs_options)?)
        {
            let options = &spec.class.mkfs_options;
            tracing::warn!(volume = spec.name, %kind, options, "the mkfsOptions limit how far the filesystem can grow: {limit}");
        }
        self.check_source(spec, size).await?;
        let volume = self.create_filled_or_empty(pool, spec).await?;
        let since = self.publisher().readings(pool.name());
        // The space is allocated now, and zeroing can take long. If there is nothing to zero, the pool is
        // read concurrently.
        self.publisher().refresh_soon(pool.name());
        Ok((volume, since))
    }

    /// Creates the volume with the contents of its source, if the pool can do that. Otherwise it is empty, and they are
    /// copied later.
    async fn create_filled_or_empty(&self, pool: &Arc<dyn Pool>, spec: &VolumeSpec) -> Result<PoolVolume> {
        match self.create_filled(pool, spec).await? {
            Some(volume) => Ok(volume),
            None => pool.create(spec).await,
        }
    }

    /// Resumes the creation of a volume that an earlier call created. The flag is true if the volume had to be
    /// created again.
    async fn resume(&self, pool: &Arc<dyn Pool>, volume: PoolVolume, spec: &VolumeSpec) -> Result<(PoolVolume, bool)> {
        match &volume.health {
            Health::Incomplete(why) if volume.record()?.state == State::New => {
                tracing::warn!(volume = volume.name, why, "creating the volume again: its creation was interrupted");
                pool.remove(&volume).await.map_err(Error::not_final)?;
                Ok((self.create_filled_or_empty(pool, &self.sized(spec).await?).await?, true))
            }
            // It exists, and may be complete again when its disk is back.
            Health::Incomplete(why) | Health::Lost(why) => Err(Error::unavailable(why.clone())),
            Health::Whole | Health::Degraded(_) => Ok((volume, false)),
        }
    }

    /// Handles a failed preparation of a created volume and returns the error for the caller. If this call created the
    /// volume and a retry would fail too (the host or its disk failed, or the pool has no space for the updated record),
    /// or if its source can no longer be used, the volume is removed and the error is final. Otherwise the volume stays
    /// and the caller must retry; until it is prepared or removed, the volume shows the problem. A volume that is being
    /// filled stays also if the host failed: what was copied is not copied again.
    async fn clean_up_unprepared(
        &self,
        pool: &Arc<dyn Pool>,
        volume: &PoolVolume,
        fresh: bool,
        failure: Failure,
    ) -> Error {
        let Failure { mut error, is_permanent } = failure;
        let is_filled = volume.record().is_ok_and(|record| record.source.is_some());
        if is_permanent || fresh && !is_filled && matches!(error.reason, Reason::Host | Reason::NoSpace) {
            match self.remove_unprepared(pool, &volume.name).await {
                Ok(()) => {
                    error.message.push_str("; the partly created volume was removed");
                    return error;
                }
                Err(why) => {
                    error.message = format!("{}; the partly created volume could not be removed: {why}", error.message)
                }
            }
        }
        self.publisher().failed(pool.name(), &self.id_of(volume), &error.message);
        error.not_final()
    }

    /// Removes a volume that was never handed out, as it is now: its record may have changed.
    async fn remove_unprepared(&self, pool: &Arc<dyn Pool>, name: &str) -> Result<()> {
        let Some(volume) = pool.volume(name).await? else { return Ok(()) };
        if let Some(source) = &volume.record()?.source {
            self.remove_clone_snapshot_if_possible(source, &volume.record()?.name, pool).await?;
            if volume.record()?.encryption.is_some() {
                // The keys of its source may have been copied.
                self.erase_encrypted(&self.id_of(&volume), pool, &volume).await?;
            }
        }
        pool.remove(&volume).await
    }

    pub(crate) fn id_of(&self, volume: &PoolVolume) -> VolumeId {
        VolumeId { storage: volume.storage.clone(), node: self.node().to_owned(), volume: volume.name.clone() }
    }
}

/// Rejects options that the controller should have rejected: the two may have different versions.
fn check(spec: &VolumeSpec) -> Result<()> {
    match spec.filesystem {
        Some(kind) => check_options(kind, &[], &spec.class),
        None if spec.class.mkfs_options.is_empty() => Ok(()),
        None => Err(Error::invalid("mkfsOptions are given for a raw block volume, which has no filesystem")),
    }
}

/// Checks that the existing volume matches the request (CSI `CreateVolume`, idempotency).
fn compatible(spec: &VolumeSpec, requested: &str, pool: &str, volume: &PoolVolume) -> Result<()> {
    let record = volume.record()?;
    let conflict = |what: String| {
        Err(Error::new(
            Reason::Exists,
            format!("a volume of this name exists, {what}; delete it, or request another name"),
        ))
    };
    if requested != pool {
        return conflict(format!("in pool {pool:?}, not in {requested:?}"));
    }
    // Its size at creation: it may have been expanded since.
    if !spec.size.admits(record.usable_size()) {
        return conflict(format!(
            "with {} bytes, but at least {}{} are requested",
            record.usable_size(),
            spec.size.required,
            spec.size.limit.map_or_else(String::new, |limit| format!(" and at most {limit}"))
        ));
    }
    match record.conflict(spec) {
        Some(what) => conflict(what),
        None => Ok(()),
    }
}
