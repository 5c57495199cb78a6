//! Changes of a volume group: one at a time, none after one that hangs, and each is flushed before it is
//! reported.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use quarry_lvm::commands::{self, TagChange};
use quarry_lvm::{LogicalVolume, LvUuid, Suspended, VolumeGroup};
use quarry_volume::{Error, Reason, Result};

use super::LvmPool;
use super::repeat::repeat;

/// How often waiting callers check whether the running change hangs.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a change may take before the pool is read nevertheless: the published state may be stale by then.
const LONG: Duration = Duration::from_secs(30);

/// The pause between two attempts to recover from a killed command.
const AGAIN: Duration = Duration::from_secs(10);

/// Repeats a failed recovery until it succeeds, once the volume group can be read: pods wait for devices that are suspended.
pub(super) fn recover_from_now_on(pool: &Arc<LvmPool>) {
    repeat(pool, AGAIN, async |pool| {
        let recovered = pool.shared.change_lock.recovered.load(Ordering::SeqCst);
        // A command of Quarry's that runs without the lock is one of the recovery at the start.
        if !recovered && !pool.is_changing() && pool.group().await.is_ok() {
            // With the lock, it recovers.
            drop(pool.lock().await);
        }
        AGAIN
    });
}

/// The pool lock, which serializes changes of the volume group.
#[derive(Default)]
pub(super) struct ChangeLock {
    lock: tokio::sync::Mutex<()>,
    since: Mutex<Option<Instant>>,
    /// Whether the state that an earlier Quarry process or a killed command left has been recovered.
    recovered: AtomicBool,
    /// Why the last attempt to recover it failed.
    unrecovered: Mutex<Option<String>>,
    /// Whether a recovery has begun to resume devices, and lvm has not yet loaded the tables that the metadata describes.
    reload: AtomicBool,
}

/// Holds the pool lock until it is dropped.
pub(super) struct ChangeGuard<'a> {
    owner: &'a ChangeLock,
    _lock: tokio::sync::MutexGuard<'a, ()>,
}

impl Drop for ChangeGuard<'_> {
    fn drop(&mut self) {
        *self.owner.since() = None;
    }
}

impl ChangeLock {
    fn since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.since.lock()
    }

    /// Keeps the result of a recovery. A failed one is repeated, see [`recover_from_now_on`], and before the next change.
    fn set_recovered(&self, result: Result<()>) {
        self.recovered.store(result.is_ok(), Ordering::SeqCst);
        *self.unrecovered.lock() = result.err().map(|error| error.message);
    }

    /// Whether the lock is held, but not for long.
    pub(super) fn is_held(&self) -> bool {
        self.since().is_some_and(|since| since.elapsed() < LONG)
    }
}

/// Counts changes of the metadata, and how many of them were flushed. A change that may have been made must
/// be flushed before anything that depends on it is reported. That includes everything that an earlier Quarry
/// process may have changed.
#[derive(Debug)]
pub(super) struct Flushes {
    changes: AtomicU64,
    flushed: AtomicU64,
}

impl Default for Flushes {
    fn default() -> Self {
        Self { changes: AtomicU64::new(1), flushed: AtomicU64::new(0) }
    }
}

impl Flushes {
    /// Records that something may have been changed.
    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
    }

    /// The number of the newest change, if it was not flushed.
    fn pending(&self) -> Option<u64> {
        let changes = self.changes.load(Ordering::SeqCst);
        (changes > self.flushed.load(Ordering::SeqCst)).then_some(changes)
    }

    /// Records that all changes up to this number were flushed.
    fn flushed(&self, change: u64) {
        self.flushed.fetch_max(change, Ordering::SeqCst);
    }
}

impl LvmPool {
    /// Why changes may not be possible now, whether the volume group can be read or not.
    pub(super) fn problems_of_changes(&self) -> Vec<String> {
        let unrecovered = self.shared.change_lock.unrecovered.lock().clone();
        self.overdue().into_iter().chain(self.orphan()).chain(unrecovered).collect()
    }

    /// Waits for the pool lock.
    ///
    /// While an earlier lvm command on the group or a disk below it hangs, it fails instead: the wait might
    /// never end.
    pub(super) async fn lock(&self) -> Result<ChangeGuard<'_>> {
        let guard = self.lock_without_group().await?;
        if !self.known_orphans().is_empty() {
            // Their changes are not known yet, and a signal may have ended them. They are forgotten only
            // after the recovery: if the volume group cannot be read now, the next call tries again.
            self.shared.cache.invalidate();
            self.recover_first().await?;
            self.known_orphans().clear();
        } else if !self.shared.change_lock.recovered.load(Ordering::SeqCst) {
            self.recover_first().await?;
        }
        Ok(guard)
    }

    async fn wait_for_lock(&self) -> Result<ChangeGuard<'_>> {
        let lock = self.shared.change_lock.lock.lock();
        tokio::pin!(lock);
        let lock = loop {
            if let Some(why) = self.overdue() {
                return Err(Error::unavailable(format!("pool {} cannot be changed now: {why}", self.name)));
            }
            if let Ok(lock) = tokio::time::timeout(CHECK_INTERVAL, &mut lock).await {
                break lock;
            }
        };
        *self.shared.change_lock.since() = Some(Instant::now());
        let guard = ChangeGuard { owner: &self.shared.change_lock, _lock: lock };
        // The change before may have ended because a disk did not answer.
        if let Some(why) = self.overdue() {
            return Err(Error::unavailable(format!("pool {} cannot be changed now: {why}", self.name)));
        }
        Ok(guard)
    }

    /// Like [`LvmPool::lock`], while the volume group does not exist: there is nothing to recover from.
    pub(super) async fn lock_without_group(&self) -> Result<ChangeGuard<'_>> {
        let guard = self.wait_for_lock().await?;
        match self.orphan() {
            None => Ok(guard),
            Some(orphan) => Err(Error::new(
                Reason::UnderWay,
                format!("pool {} cannot be changed before {orphan} has ended; retry", self.name),
            )),
        }
    }

    /// Recovers at the start of this process, unless another pool of the volume group has done so.
    pub(super) async fn recover_at_start(&self) -> Result<()> {
        let _lock = self.shared.change_lock.lock.lock().await;
        match self.shared.change_lock.recovered.load(Ordering::SeqCst) {
            true => self.group().await.map(drop),
            false => self.recover_first().await,
        }
    }

    /// Recovers from what an earlier Quarry process left.
    pub(super) async fn recover_first(&self) -> Result<()> {
        let group = self.group().await?;
        let recovered = self.recover(&group).await;
        // Before the removals: if one of their commands is killed, that needs a recovery of its own.
        self.shared.change_lock.set_recovered(recovered);
        self.remove_left_over_space(&group).await;
        self.remove_left_over_snapshots(&group).await;
        Ok(())
    }

    /// Finds devices of the volume group that a killed lvm left suspended, or with a table that is not in use, and
    /// resumes them with the table that the metadata describes: any access to a suspended device hangs. Then removes
    /// the layers of snapshots that no longer exist.
    ///
    /// # Errors
    /// Devices may still be suspended: `Unavailable`.
    async fn recover(&self, group: &VolumeGroup) -> Result<()> {
        // A running lvm loads tables and suspends devices for a moment. The volume group is read at a moment when
        // no command holds its lock, so devices that are like that both before and after it do not belong to a
        // running command.
        match quarry_lvm::suspended(group.uuid) {
            Ok(found) => self.resume(group, found).await?,
            Err(error) => return Err(self.not_recovered("cannot look for suspended devices", &error)),
        }
        self.remove_stale_layers(group).await;
        Ok(())
    }

    /// Whether a command of this process that changes the volume group is running.
    fn is_changing(&self) -> bool {
        let group = Some(self.config.volume_group.as_str());
        quarry_exec::running().iter().any(|command| command.mutation && command.subject.as_deref() == group)
    }

    /// The error of a recovery that is not complete. It names no command: a plain `dmsetup resume` would switch a device to
    /// a table that was never committed.
    fn not_recovered(&self, what: &str, why: &dyn std::fmt::Display) -> Error {
        tracing::error!(pool = self.name, error = %why, "{what}");
        Error::unavailable(format!(
            "an lvm command was killed, or one that Quarry did not start hangs, and {what}: {why}. Pods may wait for \
             suspended devices. Quarry tries again every {} seconds; see docs/troubleshooting.md, \"Suspended devices\"",
            AGAIN.as_secs()
        ))
    }

    async fn resume(&self, group: &VolumeGroup, suspended: Vec<Suspended>) -> Result<()> {
        let orphaned = match suspended.is_empty() {
            true => suspended,
            false => self.still_suspended(group, suspended).await?,
        };
        let reload = &self.shared.change_lock.reload;
        if orphaned.is_empty() && !reload.load(Ordering::SeqCst) {
            return Ok(());
        }
        let names: Vec<&str> = orphaned.iter().map(|device| device.name.as_str()).collect();
        tracing::warn!(?names, "resuming devices that a killed lvm left suspended, and loading all tables again");
        reload.store(true, Ordering::SeqCst);
        if let Err(error) = quarry_lvm::resume(group, &orphaned).await {
            return Err(self.not_recovered("cannot resume its devices with the tables of the metadata", &error));
        }
        reload.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// Those of the devices that are suspended after the volume group was read again, too.
    async fn still_suspended(&self, group: &VolumeGroup, suspended: Vec<Suspended>) -> Result<Vec<Suspended>> {
        self.shared.cache.invalidate();
        if let Err(error) = self.group().await {
            return Err(self.not_recovered("the volume group cannot be read to resume its devices", &error));
        }
        let still = quarry_lvm::suspended(group.uuid)
            .map_err(|error| self.not_recovered("cannot look for suspended devices", &error))?;
        let same = |one: &Suspended, other: &Suspended| (one.minor, &one.name) == (other.minor, &other.name);
        Ok(suspended.into_iter().filter(|device| still.iter().any(|other| same(device, other))).collect())
    }

    /// Removes layers that the volumes do not have any more, also those that the resumption above left. As for
    /// suspended devices, layers of a running command are not stale both before and after the volume group is read.
    async fn remove_stale_layers(&self, group: &VolumeGroup) {
        let stale = |group: &VolumeGroup| {
            quarry_lvm::stale_layers(group).unwrap_or_else(|error| {
                tracing::warn!(%error, "cannot look for stale layers");
                Vec::new()
            })
        };
        let Ok(before) = self.group().await else { return };
        let found = stale(&before);
        if found.is_empty() {
            return;
        }
        self.shared.cache.invalidate();
        let Ok(after) = self.group().await else { return };
        let still = stale(&after);
        let layers: Vec<String> = found.into_iter().filter(|layer| still.contains(layer)).collect();
        if let Err(error) = quarry_lvm::remove_stale(group, &layers).await {
            tracing::error!(%error, ?layers, "cannot remove stale layers");
        }
    }

    /// Resumes suspended devices if a signal ended the command.
    pub(super) async fn recover_if_killed(&self, group: &VolumeGroup, result: &Result<(), quarry_lvm::Error>) {
        if let Err(quarry_lvm::Error::Exec(quarry_exec::Error::Signalled { .. })) = result {
            // Which layers are stale depends on what the command has committed.
            self.shared.cache.invalidate();
            let recovered = self.recover(group).await;
            if recovered.is_err() {
                self.shared.change_lock.set_recovered(recovered);
            }
        }
    }

    /// Completes a change of the volume group: drops the cached report, and flushes what lvm wrote.
    pub(super) async fn commit(&self, group: &VolumeGroup, result: Result<(), quarry_lvm::Error>) -> Result<()> {
        self.shared.cache.invalidate();
        // The change may have been made although the command failed.
        self.shared.flushes.changed();
        self.recover_if_killed(group, &result).await;
        result.map_err(|error| self.explain(error))?;
        let change = self.shared.flushes.changes.load(Ordering::SeqCst);
        for (device, flushed) in self.flush(group).await {
            flushed.map_err(|error| {
                let disk = device.display();
                Error::unavailable(format!(
                    "pool {}: the change was made, but may not survive a power cut: flushing {disk}: {error}; retry",
                    self.name
                ))
            })?;
        }
        self.shared.flushes.flushed(change);
        self.shared.observer.note_change(group.uuid).await;
        Ok(())
    }

    /// Replaces a tag of a logical volume, and returns the volume group after that. The caller holds the pool lock.
    ///
    /// # Errors
    /// Among others `Unavailable` if lvm did not do it: it finds the volume by its UUID, and changes nothing while it
    /// misses a disk.
    pub(super) async fn replace_tag(
        &self,
        group: &VolumeGroup,
        volume: &LogicalVolume,
        before: &str,
        after: &str,
    ) -> Result<Arc<VolumeGroup>> {
        let changed = commands::change_tags(group, volume, TagChange { del: &[before], add: &[after] }).await;
        self.commit(group, changed).await?;
        let now = self.group().await?;
        if is_replaced(&now, volume.uuid, before, after) {
            return Ok(now);
        }
        self.check_complete(&now)?;
        Err(Error::unavailable(format!(
            "pool {}: lvm did not change the record of {}/{}: the volume or the disks of the group were changed in the \
             meantime, or lvm does not find one of the disks (see `pvs`); retry",
            self.name, group.name, volume.name
        )))
    }

    /// Like [`LvmPool::commit`], for the creation of the volume group. Returns it.
    pub(super) async fn commit_group(&self, result: Result<(), quarry_lvm::Error>) -> Result<Arc<VolumeGroup>> {
        self.shared.cache.invalidate();
        self.shared.flushes.changed();
        result.map_err(|error| self.explain(error))?;
        // This flushes the change.
        self.group().await
    }

    /// Like [`LvmPool::commit`], for new disks in the volume group. Returns it with the disks, which were flushed, too.
    pub(super) async fn commit_extended(
        &self,
        group: &VolumeGroup,
        result: Result<(), quarry_lvm::Error>,
    ) -> Result<Arc<VolumeGroup>> {
        self.commit(group, result).await?;
        self.shared.flushes.changed();
        self.group().await
    }

    /// Like [`LvmPool::commit`], for the creation of a logical volume. After a final error, it does not exist. `tag` is the
    /// record that it got. The caller holds the pool lock, and has held it since the name was free.
    pub(super) async fn commit_new(
        &self,
        group: &VolumeGroup,
        name: &str,
        tag: &str,
        result: Result<(), quarry_lvm::Error>,
    ) -> Result<()> {
        let failed = result.is_err();
        match self.commit(group, result).await {
            Err(error) if failed => Err(self.undo_new(name, tag, error).await),
            // Only the flush failed.
            committed => committed.map_err(Error::not_final),
        }
    }

    /// The error of a logical volume whose creation failed, or must be undone. lvm may have created it, or a part of it,
    /// nevertheless; that was never handed out, so it is removed again. The caller holds the pool lock, and has held it
    /// since the name was free.
    pub(super) async fn undo_new(&self, name: &str, tag: &str, error: Error) -> Error {
        if !error.reason.is_final() {
            return error;
        }
        let Ok(group) = self.group().await else { return error.not_final() };
        let made = group.volumes().find(|volume| volume.name == name && volume.tags.iter().any(|found| found == tag));
        let Some(made) = made else { return error };
        match self.remove_volume(&group, made).await {
            Ok(()) => error,
            Err(why) => Error::unavailable(format!(
                "{}; lvm created {}/{name} nevertheless, and it could not be removed: {}",
                error.message, group.name, why.message
            )),
        }
    }

    /// Flushes earlier changes before anything is reported that depends on them. An lvm that outlived its
    /// Quarry process may change something at any moment, until it has ended.
    ///
    /// One disk that answers is enough: each has all the metadata, and lvm uses the newest.
    pub(super) async fn flush_pending(&self, group: &VolumeGroup) -> Result<()> {
        if self.orphan().is_some() {
            self.shared.flushes.changed();
        }
        let Some(change) = self.shared.flushes.pending() else { return Ok(()) };
        let flushed = self.flush(group).await;
        let failed = flushed.iter().filter(|(_, flushed)| flushed.is_err()).count();
        let any = failed < flushed.len() || flushed.is_empty();
        for (device, error) in flushed.into_iter().filter_map(|(device, flushed)| Some((device, flushed.err()?))) {
            if !any {
                return Err(Error::unavailable(format!(
                    "pool {}: an earlier change may not survive a power cut: flushing {}: {error}",
                    self.name,
                    device.display()
                )));
            }
            tracing::warn!(pool = self.name, device = %device.display(), error, "cannot flush a disk");
        }
        if failed == 0 {
            self.shared.flushes.flushed(change);
        }
        Ok(())
    }

    /// Flushes the disks with the metadata, and returns the error of each.
    async fn flush(&self, group: &VolumeGroup) -> Vec<(std::path::PathBuf, Result<(), String>)> {
        if quarry_fault::disabled("flush") {
            return Vec::new();
        }
        let flushed = self.shared.cache.flush(group).await;
        let flat = |answer: Result<std::io::Result<()>, crate::UnresponsiveDisk>| match answer {
            Ok(flushed) => flushed.map_err(|error| error.to_string()),
            Err(unresponsive) => Err(unresponsive.to_string()),
        };
        flushed.into_iter().map(|(device, answer)| (device, flat(answer))).collect()
    }
}

/// Whether the logical volume with that UUID has the tag `after` instead of `before`.
fn is_replaced(group: &VolumeGroup, volume: LvUuid, before: &str, after: &str) -> bool {
    let found = group.logical_volumes.iter().find(|found| found.uuid == volume);
    let has = |found: &LogicalVolume, wanted: &str| found.tags.iter().any(|tag| tag == wanted);
    found.is_some_and(|found| has(found, after) && (before == after || !has(found, before)))
}

#[cfg(test)]
mod tests {
    use super::super::testing::uuid;
    use super::*;

    #[test]
    fn a_tag_is_replaced_on_the_volume_with_that_uuid() {
        let volume = |label: &str, tags: &[&str]| LogicalVolume {
            uuid: uuid(label),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            ..LogicalVolume::default()
        };
        let replaced = |volumes: Vec<LogicalVolume>| {
            let group = VolumeGroup { logical_volumes: volumes, ..VolumeGroup::default() };
            is_replaced(&group, uuid("a"), "before", "after")
        };
        assert!(replaced(vec![volume("b", &["before"]), volume("a", &["theirs", "after"])]));
        for unchanged in [&["before"][..], &["before", "after"], &["theirs"], &[]] {
            assert!(!replaced(vec![volume("a", unchanged), volume("b", &["after"])]), "{unchanged:?}");
        }
        // Another one has its name now.
        assert!(!replaced(vec![volume("b", &["after"])]));
    }

    #[test]
    fn earlier_changes_and_each_new_one_are_pending_until_flushed() {
        let flushes = Flushes::default();
        let first = flushes.pending().expect("an earlier Quarry may have changed something");
        flushes.changed();
        flushes.flushed(first);
        let second = flushes.pending().expect("changed while the flush was under way");
        flushes.flushed(second);
        assert_eq!(flushes.pending(), None);
        flushes.flushed(first);
        assert_eq!(flushes.pending(), None, "an older flush ends later");
        flushes.changed();
        assert!(flushes.pending().is_some());
    }
}
