//! Snapshots that are full copies: made in the background of CreateSnapshot.
//!
//! The storage says how far this is, so that each step can be repeated, and the next CreateSnapshot continues after a
//! kill:
//!
//! 1. A copy-on-write snapshot is taken that only serves the copy. It has the contents of one instant.
//! 2. The space of the copy is created. Its record is `new`, and has the time of that instant. From now on, CreateSnapshot
//!    answers with the snapshot, which is not ready to use. Before that, no answer was sent, so the next CreateSnapshot
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

use crate::copies::{CopyTarget, Running};
use crate::copy::Tail;
use crate::fill::{copy_simulated, require_snapshot_unchanged};
use crate::host::Host;
use crate::kernel::DeviceCopy;
use crate::snapshot::{LocatedSnapshot, describe_snapshot};
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
        self.tasks().forget_failure(&copying(&record.id_name()));
        let serving = pool.take_snapshot(volume, &record.of_kind(SnapshotKind::ForCopy), cow_size).await?;
        quarry_fault::point(|| "snapshot:create copy:before".to_owned());
        match pool.create_copy(&serving.record.served_copy(), &serving).await {
            Err(error) if error.reason.is_final() => Err(undone(error, self.remove_temporary(pool, &serving).await)),
            // It may exist, and then it needs the serving one.
            result => result,
        }
    }

    /// Lets a full copy continue in the background if it is not complete, and waits a moment for that. Returns the
    /// snapshot as it is then. `is_fresh`: this call has created it.
    ///
    /// # Errors
    /// Why the copy failed, now or after an earlier call; the next call continues it. It is final only if nothing is
    /// left. A copy that can never be complete is no error: external-snapshotter does not delete a snapshot whose last
    /// call failed with an error that is not final, and after a final one, it may assume that there is nothing to delete.
    pub(crate) async fn continue_copy(&self, located: LocatedSnapshot, is_fresh: bool) -> Result<LocatedSnapshot> {
        let LocatedSnapshot { pool, mut snapshot } = located;
        if !matches!(snapshot.record.kind, SnapshotKind::Copy { .. }) {
            return Ok(LocatedSnapshot { pool, snapshot });
        }
        let name = snapshot.name.clone();
        if snapshot.record.state == State::New || serving(&pool, &name).await?.is_some() {
            let work = {
                let (host, pool, name) = (self.clone(), Arc::clone(&pool), name.clone());
                |handle: Handle| async move { host.copy_now(&pool, &name, &handle).await }
            };
            match self.tasks().run_long(&copying(&name), COPY, "", COPY_WAIT, work).await {
                Ok(()) => {}
                // It continues.
                Err(error) if matches!(error.reason, Reason::UnderWay | Reason::TimedOut) => {}
                Err(error) if is_fresh && error.reason.is_final() => return Err(self.undo(&pool, &name, error).await),
                Err(error) => return Err(error.not_final()),
            }
            let gone = || Error::unavailable("the snapshot was removed in the meantime; retry");
            snapshot = pool.snapshot(&name).await?.ok_or_else(gone)?;
        }
        Ok(LocatedSnapshot { pool, snapshot })
    }

    /// Removes what this call has created of the copy with that name in the pool, because of that error.
    async fn undo(&self, pool: &Arc<dyn Pool>, copy: &str, error: Error) -> Error {
        let removed = async {
            if let Some(copy) = pool.snapshot(copy).await? {
                self.erase_copied_keys(pool, &copy).await?;
                pool.remove_snapshot(&copy).await?;
            }
            self.remove_serving(pool, copy).await
        };
        let removed = removed.await;
        self.copies().set_failure(copy, None);
        undone(error, removed)
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
        match serving(pool, copy).await? {
            Some(serving) => self.remove_temporary(pool, &serving).await,
            None => Ok(()),
        }
    }

    /// Releases the device of a snapshot that was read, or of a full copy that was written, if nothing else uses it.
    /// `id`: how running copies name it as their source. The caller's own copy is not running any more.
    pub(crate) async fn deactivate_snapshot(&self, pool: &Arc<dyn Pool>, snapshot: &PoolSnapshot, id: &ContentSource) {
        // In this order: another copy is first listed, and then activates its source. So either it is found, or the pool
        // finds the later activation.
        let unused_since = Instant::now();
        if self.copies().of(id).is_some() {
            return;
        }
        deactivate(pool, snapshot, unused_since).await;
    }

    /// Releases the devices of the complete snapshots in a pool that a killed process left active.
    pub(crate) async fn deactivate_snapshots(&self, pool: &Arc<dyn Pool>) {
        let is_complete = |found: &PoolSnapshot| found.record.state == State::Ready && !found.record.serves();
        // Only a restore activates one.
        for found in pool.snapshots().await.unwrap_or_default().into_iter().filter(is_complete) {
            let id = ContentSource::Snapshot(describe_snapshot(self.node(), pool.name(), &found).id);
            self.deactivate_snapshot(pool, &found, &id).await;
        }
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
        let Some(copy) = pool.snapshot(name).await? else { return Ok(()) };
        let is_new = is_copying(&copy);
        match (&copy.health, copy.record.state) {
            (_, State::Ready) | (SnapshotHealth::Whole | SnapshotHealth::Invalid(_), State::New) => {}
            // Its disk may come back, and then it needs the snapshot that serves it.
            (SnapshotHealth::Lost(why) | SnapshotHealth::Incomplete(why), State::New) => {
                return Err(Error::unavailable(why.clone()));
            }
        }
        if is_new {
            let copy = match copy.record.empty {
                true => {
                    // Its creation activated it.
                    deactivate(pool, &copy, Instant::now()).await;
                    copy
                }
                false => self.copy_contents_of_snapshot(pool, copy, handle).await?,
            };
            quarry_fault::point(|| "snapshot:ready:before".to_owned());
            pool.set_snapshot_record(&copy, &copy.record.ready(copy.record.created)).await?;
            tracing::info!(snapshot = copy.record.name, source = %copy.record.source, "a snapshot was copied completely");
        }
        if let Err(error) = self.remove_serving(pool, name).await {
            // The copy is complete, or can never be.
            tracing::warn!(snapshot = name, %error, "the snapshot that served a full copy is removed later");
            if is_new {
                self.clean_up_after_copies_later();
            }
        }
        Ok(())
    }

    /// Copies what is left. Returns the copy with its new record.
    ///
    /// # Errors
    /// `Precondition` if the serving snapshot became full: then it is removed, because it only slows its source down.
    async fn copy_contents_of_snapshot(
        &self,
        pool: &Arc<dyn Pool>,
        mut copy: PoolSnapshot,
        handle: &Handle,
    ) -> Result<PoolSnapshot> {
        let source = ContentSource::Volume(copy.record.source.clone());
        let target = CopyTarget::Snapshot(copy.name.clone());
        let running = self.copies().begin(target, pool.name(), copy.size, &source);
        let copied = self.transfer_snapshot(pool, &mut copy, &running, handle).await;
        drop(running);
        // Nothing else uses a copy that is not ready.
        deactivate(pool, &copy, Instant::now()).await;
        let Err(error) = copied else { return Ok(copy) };
        // If that cannot be read, the error of the copy says more.
        match pool.snapshot(&copy.name).await.ok().flatten().map(|copy| copy.health) {
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
        pool: &Arc<dyn Pool>,
        copy: &mut PoolSnapshot,
        running: &Running,
        handle: &Handle,
    ) -> Result<()> {
        let _turn = running.wait_for_turn(handle).await?;
        // It may have changed meanwhile.
        let gone = || Error::unavailable("the snapshot that it is copied from was removed; retry");
        let from = serving(pool, &copy.name).await?.ok_or_else(gone)?;
        let source = pool.activate_snapshot(&from).await?;
        let target = pool.activate_snapshot(copy).await?;
        let start = match copy.record.kind {
            SnapshotKind::Copy { copied } => copied,
            SnapshotKind::Cow | SnapshotKind::ForClone | SnapshotKind::ForCopy => Gib::NONE,
        };
        let (size, meter) = (from.size, running.meter(start));
        match (source, target) {
            (Device::Node(source), Device::Node(target)) => {
                let (opened, rates) = (source.clone(), self.copies().rates(pool.name(), pool.name()));
                // Its filesystem keeps its UUID, and is as large as the source, so that nothing lies beyond it.
                let (offline, tail, filesystem, retry) = (false, Tail::WipeSignatures, None, "CreateSnapshot");
                // Its space may have had other contents.
                let zeroed_target = false;
                let whole = DeviceCopy {
                    source,
                    size,
                    offline,
                    target,
                    start,
                    tail,
                    zeroed_target,
                    filesystem,
                    rates,
                    meter,
                    retry,
                };
                self.kernel().copy(whole, handle, &mut Stored { pool, copy }).await?;
                require_snapshot_unchanged(pool, &from, &opened).await.map_err(|failure| failure.error)
            }
            (Device::Simulated(source), Device::Simulated(target)) => {
                copy_simulated(&source, &target, start.bytes()..size, size, handle).await
            }
            _ => Err(Error::precondition("nothing is copied between a simulated pool and a real one")),
        }
    }
}

async fn deactivate(pool: &Arc<dyn Pool>, copy: &PoolSnapshot, unused_since: Instant) {
    if let Err(error) = pool.deactivate_snapshot(copy, unused_since).await {
        tracing::info!(snapshot = copy.name, %error, "cannot deactivate a snapshot; it stays active");
    }
}

/// The error of a call that has removed what it created; it is not final if that failed.
fn undone(error: Error, removed: Result<()>) -> Error {
    match removed {
        Ok(()) => error,
        Err(why) => {
            let message =
                format!("{}; and what was created of the snapshot could not be removed: {why}", error.message);
            Error::unavailable(message)
        }
    }
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
