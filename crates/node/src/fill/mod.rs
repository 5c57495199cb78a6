//! Fills a new volume with the contents of a snapshot or of another volume, in the background of CreateVolume.
//!
//! The volume's record says how far this is, so that each step can be repeated, and a retry continues after a kill:
//!
//! 1. `filling`: the contents are copied, after what lies beyond them on the volume was cleaned. The progress is stored.
//!    If the source is a volume whose pool can take snapshots, a snapshot that only serves this clone is copied.
//! 2. `filling`, everything copied (see [`is_copied`]): a copied filesystem is recovered and gets a UUID of its own,
//!    which the record has already. The source is not needed any more. An encrypted volume is copied as it is: its LUKS2
//!    header gets a UUID of its own. Its filesystem keeps its UUID, which only the passphrase could change.
//! 3. `ready`. The snapshot that served the clone is removed.
//!
//! Until then, the volume was never handed out. If its source is gone, it is removed.
//!
//! A thin pool creates a volume with the contents of another one in it ([`quarry_pool::Pool::create_with_contents`]):
//! then only the second and third step are left.

use std::sync::Arc;

use quarry_pool::{Pool, PoolVolume, Record};
use quarry_volume::{ContentSource, CopyProgress, Error, Gib, Reason, Result, VolumeSpec, safe_name};

use crate::copies::{CopyTarget, Running};
use crate::host::Host;
use crate::prepare::update_record;
use crate::snapshot::LocatedSnapshot;
use crate::tasks::Handle;

mod content;
mod identity;
mod transfer;

pub(crate) use transfer::{copy_simulated, require_snapshot_unchanged};

/// Why a volume was not filled.
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// Whether no retry can fill the volume, so that it is removed.
    pub(crate) is_permanent: bool,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, is_permanent: false }
    }
}

impl Failure {
    /// An error of the source. If it is final, nothing of the volume can be used. (A failure of the host may not last.)
    fn of_source(error: Error) -> Self {
        Self { is_permanent: error.reason.is_final() && error.reason != Reason::Host, error }
    }

    /// An error of the copy into the pool with that name. If the pool is full, the volume must not stay: it holds what
    /// space there was, and without it, the caller may find another place.
    fn of_copy(error: Error, pool: &str) -> Self {
        Self::of_source(match error.reason {
            Reason::NoSpace => error.context(format_args!("pool {pool}")),
            _ => error,
        })
    }
}

impl Host {
    /// Fills the volume, if its record says that this is not complete.
    ///
    /// # Errors
    /// `UnderWay` if the task was asked to stop.
    pub(crate) async fn fill(
        &self,
        pool: &Arc<dyn Pool>,
        mut volume: PoolVolume,
        handle: &Handle,
    ) -> Result<PoolVolume, Failure> {
        let record = volume.record()?.clone();
        let Some(source) = &record.source else { return Ok(volume) };
        if record.filling && !is_copied(&record, volume.size) {
            self.copy_contents(pool, &mut volume, source, handle).await?;
        }
        let record = volume.record()?.clone();
        // The source may contain nothing.
        if record.filling {
            quarry_fault::point(|| "fill:copied".to_owned());
            require_not_stopped(handle)?;
            match (record.encryption, record.filesystem, record.filesystem_uuid) {
                (Some(_), ..) => self.give_header_uuid(pool, &volume).await?,
                (None, Some(kind), Some(uuid)) => {
                    identity::give(self.kernel(), pool, &mut volume, kind, uuid, handle).await?;
                }
                (None, ..) => {}
            }
            quarry_fault::point(|| "fill:ready:before".to_owned());
            update_record(pool, &mut volume, &record.ready()).await?;
            tracing::info!(volume = record.name, %source, "a volume was filled");
        }
        if let Err(error) = self.remove_clone_snapshot(source, &record.name).await {
            // The volume is complete.
            tracing::warn!(volume = record.name, %source, %error, "a snapshot that served a clone is removed later");
            self.clean_up_after_copies_later();
        }
        Ok(volume)
    }

    /// Copies the contents of the source, and stores that this is complete.
    async fn copy_contents(
        &self,
        pool: &Arc<dyn Pool>,
        volume: &mut PoolVolume,
        source: &ContentSource,
        handle: &Handle,
    ) -> Result<(), Failure> {
        // A deletion of the source first holds its name, and then looks for copies. So one of the two notices the other.
        let target = CopyTarget::Volume(volume.name.clone());
        let running = self.copies().begin(target, pool.name(), volume.size, source);
        self.require_kept(source)?;
        if self.content(source).await.map_err(Failure::of_source)?.is_empty() {
            let nothing = volume.record()?.filled_with_nothing();
            return Ok(update_record(pool, volume, &nothing).await?);
        }
        let filled = self.copy_in_turn(pool, volume, source, &running, handle).await;
        drop(running);
        // Whether it was copied or not: another copy that has ended may have left that to this one.
        if let ContentSource::Snapshot(id) = source
            && let Ok(Some(LocatedSnapshot { pool, snapshot })) = self.locate_snapshot(id).await
        {
            self.deactivate_snapshot(&pool, &snapshot, source).await;
        }
        filled
    }

    async fn copy_in_turn(
        &self,
        pool: &Arc<dyn Pool>,
        volume: &mut PoolVolume,
        source: &ContentSource,
        running: &Running,
        handle: &Handle,
    ) -> Result<(), Failure> {
        let _turn = running.wait_for_turn(handle).await?;
        // It may have changed meanwhile.
        let content = self.content(source).await.map_err(Failure::of_source)?;
        let content = self.stable_source(content, source, pool, volume, running).await?;
        let uuid = self.transfer(pool, volume, &content, running, handle).await?;
        let mut copied = volume.record()?.zeroed(Gib::needed_for(volume.size));
        copied.filesystem_uuid = uuid;
        Ok(update_record(pool, volume, &copied).await?)
    }

    /// Creates a volume with the contents of its source, if both are in the same pool and that can do it without copying.
    ///
    /// # Errors
    /// `UnderWay` while the source is being deleted; otherwise as [`quarry_pool::Pool::create_with_contents`].
    pub(crate) async fn create_filled(
        &self,
        pool: &Arc<dyn Pool>,
        spec: &quarry_volume::VolumeSpec,
    ) -> Result<Option<PoolVolume>> {
        let Some(source) = &spec.source else { return Ok(None) };
        // In this order: see `sources`.
        let _kept = self.copies().keep(source, CopyTarget::Volume(safe_name(&spec.name)));
        self.require_kept(source)?;
        let content = self.content(source).await.map_err(Error::not_final)?;
        match content.shared_with(pool) {
            Some(contents) => pool.create_with_contents(spec, &contents).await,
            None => Ok(None),
        }
    }

    /// The spec of a volume that is to be created: if it has a source and no minimum size, that is the size of the source.
    ///
    /// # Errors
    /// `SizeOutOfRange` if the spec permits no volume of that size; otherwise as for [`Self::check_source`].
    pub(crate) async fn sized(&self, spec: &VolumeSpec) -> Result<VolumeSpec> {
        let size = match spec.overhead() {
            0 => spec.size,
            overhead => spec.size.with_default().larger_by(overhead),
        };
        let mut sized = VolumeSpec { size, ..spec.clone() };
        let Some(source) = spec.source.as_ref().filter(|_| spec.size.required == 0) else { return Ok(sized) };
        let of_source = |error: Error| error.context(format_args!("it is to be filled from {source}"));
        let least = self.content(source).await.map_err(of_source)?.usable_size();
        sized.size.required = least.saturating_add(spec.overhead());
        match spec.size.limit.filter(|limit| *limit < least) {
            None => Ok(sized),
            Some(limit) => Err(of_source(Error::new(
                Reason::SizeOutOfRange,
                format!("its source has {least} bytes, and at most {limit} are requested"),
            ))),
        }
    }

    /// Checks, before a volume is created, that it can be filled from its source. `size`: that of the volume.
    ///
    /// # Errors
    /// `NotFound` if the source does not exist; `SizeOutOfRange` if it is larger than the volume; `InvalidRequest` if it
    /// was created for another use.
    pub(crate) async fn check_source(&self, spec: &VolumeSpec, size: u64) -> Result<()> {
        let Some(source) = &spec.source else { return Ok(()) };
        let of_source = |error: Error| error.context(format_args!("it is to be filled from {source}"));
        self.require_kept(source).map_err(of_source)?;
        let content = self.content(source).await.map_err(of_source)?;
        content.check(spec, size).map_err(of_source)?;
        self.require_offline(&content).await.map_err(of_source)?;
        // One that an earlier volume of this name left has older contents.
        self.remove_clone_snapshot(source, &spec.name).await.map_err(Error::not_final)
    }
}

/// Fails if the task was asked to stop.
///
/// # Errors
/// `UnderWay`.
fn require_not_stopped(handle: &Handle) -> Result<()> {
    match handle.cancel.is_cancelled() {
        true => Err(Error::new(Reason::UnderWay, "it was stopped; a retry of CreateVolume continues it")),
        false => Ok(()),
    }
}

/// Whether everything is copied into a volume that is being filled. `size`: that of the volume. (While it is copied, the
/// progress stays below this, because it is rounded down, and a source is never larger.)
fn is_copied(record: &Record, size: u64) -> bool {
    record.zeroed >= Gib::needed_for(size)
}

/// How much is copied into a volume that is being filled, according to its record. `size`: that of the volume, because
/// the record does not have the size of the source.
pub(crate) fn copied(record: &Record, size: u64) -> CopyProgress {
    CopyProgress { copied: record.zeroed.bytes().min(size), total: size }
}

/// How far the filling of a volume is.
pub(crate) fn progress(volume: &PoolVolume) -> String {
    match volume.record() {
        Ok(record) if is_copied(record, volume.size) => "completely copied, but not ready for use".to_owned(),
        Ok(record) => format!("{} are copied", copied(record, volume.size)),
        Err(error) => error.message,
    }
}

/// Fails if the volume is still being filled, or that was interrupted.
///
/// # Errors
/// `UnderWay`, with the progress.
pub(crate) fn require_filled(volume: &PoolVolume) -> Result<()> {
    let record = volume.record()?;
    match &record.source {
        Some(source) if record.filling => Err(Error::new(
            Reason::UnderWay,
            format!(
                "it is being filled with the contents of {source} ({}); retry when its CreateVolume has returned OK",
                progress(volume)
            ),
        )),
        _ => Ok(()),
    }
}
