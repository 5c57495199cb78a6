//! Snapshots that are full copies: made in the background of CreateSnapshot.
//!
//! The storage says how far this is, so that each step can be repeated, and the next CreateSnapshot continues after a
//! kill:
//!
//! 1. A copy-on-write snapshot is taken that only serves the copy. It has the contents of one instant.
//! 2. The space of the copy is created. Its record is `new`, and has the time of that instant. From now on, CreateSnapshot
//!    answers with the snapshot, which is not ready to use. Until then, nobody knows of it, and the next CreateSnapshot
//!    begins again.
//! 3. The contents are copied. The progress is stored.
//! 4. The record becomes `ready`, and the serving snapshot is removed.
//!
//! A copy never begins again from another instant: its creation time was answered. If the serving snapshot is lost before
//! 4, the copy can never be completed, and only be deleted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quarry_pool::{Device, Pool, PoolSnapshot, PoolVolume, SnapshotHealth, SnapshotKind, SnapshotRecord, State};
use quarry_volume::{ContentSource, CowSize, Error, Gib, Reason, Result};

use crate::copies::{Copy, CopyTarget};
use crate::copy::{Meter, Tail};
use crate::fill::copy_simulated;
use crate::host::Host;
use crate::kernel::DeviceCopy;
use crate::snapshot::LocatedSnapshot;
use crate::tasks::Handle;
use crate::zero::Progress;

/// The task that copies.
const COPY: &str = "copy";
/// How long CreateSnapshot waits for that task, which continues. The caller wants to know soon that the snapshot is taken:
/// then it lets the application go on.
const COPY_WAIT: Duration = Duration::from_secs(1);
/// How long a deletion waits for it to stop.
const STOP_WAIT: Duration = Duration::from_secs(20);

/// What the task works on. Not the snapshot itself, so that CreateSnapshot can answer meanwhile.
fn copying(snapshot: &str) -> String {
    format!("{snapshot} (copy into the snapshot)")
}

/// The snapshot in the pool that serves, or served, the full copy with that name in the pool.
pub(crate) async fn serving(pool: &Arc<dyn Pool>, copy: &str) -> Result<Option<PoolSnapshot>> {
    let serves = |record: &SnapshotRecord| {
        record.kind == SnapshotKind::ForCopy && record.of_kind(SnapshotKind::Cow).id_name() == copy
    };
    Ok(pool.snapshots().await?.into_iter().find(|snapshot| serves(&snapshot.record)))
}

/// Whether a snapshot is a full copy that still has to be completed, and can be.
fn is_copying(snapshot: &PoolSnapshot) -> bool {
    let record = &snapshot.record;
    let is_copy = matches!(record.kind, SnapshotKind::Copy { .. });
    is_copy && record.state == State::New && snapshot.health == SnapshotHealth::Whole
}

/// Releases the device of a full copy, if nothing has activated it since. Nothing is done to another snapshot.
pub(crate) async fn deactivate_copy(pool: &Arc<dyn Pool>, snapshot: &PoolSnapshot, unused_since: Instant) {
    if let Err(error) = pool.deactivate_snapshot(snapshot, unused_since).await {
        tracing::info!(snapshot = snapshot.name, %error, "cannot deactivate a full copy; it stays active");
    }
}

impl Host {
    /// Begins the full copy of a volume, as the snapshot with that record. Nothing is copied yet.
    ///
    /// # Errors
    /// Final ones leave nothing behind.
    pub(crate) async fn begin_copy(
        &self,
        pool: &Arc<dyn Pool>,
        volume: &PoolVolume,
        record: &SnapshotRecord,
        cow_size: CowSize,
    ) -> Result<PoolSnapshot> {
        // One that an interrupted call left has the contents of an earlier instant.
        self.remove_serving(pool, &record.id_name()).await.map_err(Error::not_final)?;
        let serving = pool.take_snapshot(volume, &record.of_kind(SnapshotKind::ForCopy), cow_size).await?;
        quarry_fault::point(|| "snapshot:create copy:before".to_owned());
        match pool.create_copy(&serving.record.served_copy(), &serving).await {
            Err(error) if error.reason.is_final() => Err(undo(pool, &[&serving], error).await),
            // It may exist, and then it needs the serving one.
            result => result,
        }
    }

    /// Lets a full copy continue in the background if it is not complete, and waits a moment for that. Returns the
    /// snapshot as it is then. `is_fresh`: this call has created it.
    ///
    /// # Errors
    /// Why the last attempt failed; each failure is returned once, and the next call continues. It is final only if
    /// nothing is left.
    pub(crate) async fn continue_copy(&self, located: LocatedSnapshot, is_fresh: bool) -> Result<LocatedSnapshot> {
        let LocatedSnapshot { pool, snapshot } = located;
        let is_copy = matches!(snapshot.record.kind, SnapshotKind::Copy { .. });
        let is_unserved = || async { Ok::<_, Error>(serving(&pool, &snapshot.name).await?.is_none()) };
        if !is_copy || !is_copying(&snapshot) && is_unserved().await? {
            return Ok(LocatedSnapshot { pool, snapshot });
        }
        let name = snapshot.name.clone();
        if let Some(error) = self.copies().tell_failure(&name) {
            return Err(error.not_final());
        }
        let work = {
            let (host, pool, name) = (self.clone(), Arc::clone(&pool), name.clone());
            |handle: Handle| async move { host.copy_now(&pool, &name, &handle).await }
        };
        let ended = self.tasks().run(&copying(&name), COPY, COPY_WAIT, work).await;
        if let Some(error) = self.copies().tell_failure(&name) {
            if !is_fresh || !error.reason.is_final() {
                return Err(error.not_final());
            }
            // In this order: without the serving one, a copy would count as lost.
            let left = [pool.snapshot(&name).await?, serving(&pool, &name).await?];
            self.copies().set_failure(&name, None);
            return Err(undo(&pool, &left.iter().flatten().collect::<Vec<_>>(), error).await);
        }
        match ended {
            Err(error) if !matches!(error.reason, Reason::UnderWay | Reason::TimedOut) => return Err(error.not_final()),
            _ => {}
        }
        let gone = || Error::unavailable("the snapshot was removed in the meantime; retry");
        let snapshot = pool.snapshot(&name).await?.ok_or_else(gone)?;
        Ok(LocatedSnapshot { pool, snapshot })
    }

    /// Fails while a task copies into the snapshot with that name in its pool.
    pub(crate) fn require_not_copying(&self, snapshot: &str) -> Result<()> {
        self.tasks().require_none(&copying(snapshot), &[COPY])
    }

    /// Stops a copy into the snapshot with that name in its pool, and removes the snapshot that serves it. The caller
    /// holds the name.
    ///
    /// # Errors
    /// `UnderWay` if the copy did not stop.
    pub(crate) async fn give_up_copy(&self, pool: &Arc<dyn Pool>, snapshot: &str) -> Result<()> {
        self.tasks().stop(&copying(snapshot), COPY, STOP_WAIT).await;
        self.require_not_copying(snapshot)?;
        self.copies().set_failure(snapshot, None);
        self.remove_serving(pool, snapshot).await
    }

    /// Removes the snapshot that serves, or served, the full copy with that name in the pool.
    pub(crate) async fn remove_serving(&self, pool: &Arc<dyn Pool>, copy: &str) -> Result<()> {
        let Some(serving) = serving(pool, copy).await? else { return Ok(()) };
        quarry_fault::point(|| "snapshot:remove serving:before".to_owned());
        let removed = pool.remove_snapshot(&serving).await;
        removed.map_err(|error| error.context(format_args!("removing the snapshot that served to copy {copy}")))
    }

    /// The task: completes the copy.
    async fn copy_now(&self, pool: &Arc<dyn Pool>, name: &str, handle: &Handle) -> Result<()> {
        let result = self.complete_copy(pool, name, handle).await;
        match &result {
            Err(error) if !handle.cancel.is_cancelled() => {
                tracing::warn!(snapshot = name, %error, "a snapshot is not copied completely");
                self.copies().set_failure(name, Some(error.clone()));
            }
            Ok(()) | Err(_) => self.copies().set_failure(name, None),
        }
        self.publisher().refresh_soon(pool.name());
        result
    }

    async fn complete_copy(&self, pool: &Arc<dyn Pool>, name: &str, handle: &Handle) -> Result<()> {
        let Some(mut copy) = pool.snapshot(name).await? else { return Ok(()) };
        if is_copying(&copy) {
            if !copy.record.empty {
                self.copy_contents_of_snapshot(pool, &mut copy, handle).await?;
            }
            quarry_fault::point(|| "snapshot:ready:before".to_owned());
            pool.set_snapshot_record(&copy, &copy.record.ready(copy.record.created)).await?;
            tracing::info!(snapshot = copy.record.name, source = %copy.record.source, "a snapshot was copied completely");
        }
        self.remove_serving(pool, name).await
    }

    /// Copies what is left.
    ///
    /// # Errors
    /// `Precondition` if the serving snapshot became full: then it is removed, because it only slows its source down.
    async fn copy_contents_of_snapshot(
        &self,
        pool: &Arc<dyn Pool>,
        copy: &mut PoolSnapshot,
        handle: &Handle,
    ) -> Result<()> {
        let gone = || Error::unavailable("the snapshot that it is copied from was removed; retry");
        let from = serving(pool, &copy.name).await?.ok_or_else(gone)?;
        let source = pool.activate_snapshot(&from).await?;
        let target = pool.activate_snapshot(copy).await?;
        let activated = Instant::now();
        let copied = self.transfer_snapshot((source, from.size), pool, copy, target, handle).await;
        deactivate_copy(pool, copy, activated).await;
        let Err(error) = copied else { return Ok(()) };
        match pool.snapshot(&copy.name).await?.map(|copy| copy.health) {
            Some(SnapshotHealth::Invalid(why)) => {
                if let Err(error) = self.remove_serving(pool, &copy.name).await {
                    tracing::info!(snapshot = copy.name, %error, "a full snapshot is kept");
                }
                Err(Error::precondition(why))
            }
            _ => Err(error),
        }
    }

    async fn transfer_snapshot(
        &self,
        (source, size): (Device, u64),
        pool: &Arc<dyn Pool>,
        copy: &mut PoolSnapshot,
        target: Device,
        handle: &Handle,
    ) -> Result<()> {
        let start = match copy.record.kind {
            SnapshotKind::Copy { copied } => copied,
            SnapshotKind::Cow | SnapshotKind::ForClone | SnapshotKind::ForCopy => Gib::NONE,
        };
        let meter = Meter::default();
        let entry = Copy {
            source: ContentSource::Volume(copy.record.source.clone()),
            pool: pool.name().to_owned(),
            start,
            meter: meter.clone(),
        };
        let _running = self.copies().begin(CopyTarget::Snapshot(copy.name.clone()), entry);
        match (source, target) {
            (Device::Node(source), Device::Node(target)) => {
                let rates = self.copies().rates(pool.name(), pool.name());
                // Its filesystem keeps its UUID, and is as large as the source, so that nothing lies beyond it.
                let (tail, filesystem) = (Tail::WipeSignatures, None);
                let retry = "CreateSnapshot";
                let whole =
                    DeviceCopy { source, size, offline: false, target, start, tail, filesystem, rates, meter, retry };
                self.kernel().copy(whole, handle, &mut Stored { pool, copy }).await
            }
            (Device::Simulated(source), Device::Simulated(target)) => {
                copy_simulated(&source, &target, start.bytes()..size, size, handle).await
            }
            _ => Err(Error::precondition("nothing is copied between a simulated pool and a real one")),
        }
    }
}

/// Removes what a call has created, so that its error can be final.
async fn undo(pool: &Arc<dyn Pool>, created: &[&PoolSnapshot], error: Error) -> Error {
    for snapshot in created {
        if let Err(why) = pool.remove_snapshot(snapshot).await {
            let message = format!("{}; and snapshot {} could not be removed: {why}", error.message, snapshot.name);
            return Error::unavailable(message);
        }
    }
    error
}

/// The progress in the record of the copy.
struct Stored<'a> {
    pool: &'a Arc<dyn Pool>,
    copy: &'a mut PoolSnapshot,
}

#[async_trait::async_trait]
impl Progress for Stored<'_> {
    async fn store(&mut self, copied: Gib) -> Result<()> {
        let record = self.copy.record.of_kind(SnapshotKind::Copy { copied });
        self.pool.set_snapshot_record(self.copy, &record).await.map_err(Error::not_final)?;
        self.copy.record = record;
        Ok(())
    }
}
