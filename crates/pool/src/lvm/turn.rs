//! Changes of a volume group: one at a time, none after one that hangs, and each flushed before it is answered for.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use quarry_lvm::VolumeGroup;
use quarry_volume::{Error, Reason, Result};

use super::LvmPool;

/// How often those who wait for their turn look whether the change before theirs hangs.
const LOOK: Duration = Duration::from_secs(1);
/// How long a change may take before the pool is read all the same: the published state may be stale by then.
const LONG: Duration = Duration::from_secs(30);

/// The turns of those who change the volume group.
#[derive(Default)]
pub(super) struct Turns {
    lock: tokio::sync::Mutex<()>,
    since: Mutex<Option<Instant>>,
    /// Whether what an earlier Quarry left behind has been put in order.
    recovered: AtomicBool,
}

/// A turn; it ends when this is dropped.
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    _lock: tokio::sync::MutexGuard<'a, ()>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.turns.since() = None;
    }
}

impl Turns {
    fn since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.since.lock()
    }

    /// Whether somebody has a turn, and has not had it for long.
    pub(super) fn is_taken(&self) -> bool {
        self.since().is_some_and(|since| since.elapsed() < LONG)
    }
}

/// Counts changes of the metadata, and how many of them were flushed. A change that may have been made and was not flushed
/// is owed to the disks: nothing that depends on it may be answered before. So it is for everything that an earlier
/// Quarry may have changed.
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
    /// Notes that something may have been changed.
    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
    }

    /// The number of the newest change, if it was not flushed.
    fn owed(&self) -> Option<u64> {
        let changes = self.changes.load(Ordering::SeqCst);
        (changes > self.flushed.load(Ordering::SeqCst)).then_some(changes)
    }

    /// Notes that all changes up to this number were flushed.
    fn flushed(&self, change: u64) {
        self.flushed.fetch_max(change, Ordering::SeqCst);
    }
}

impl LvmPool {
    /// Waits for its turn to change the volume group.
    ///
    /// While an earlier lvm command on it or a disk below it hangs, nobody waits: it may never end.
    pub(super) async fn turn(&self) -> Result<Turn<'_>> {
        let lock = self.changing.lock.lock();
        tokio::pin!(lock);
        let lock = loop {
            if let Some(why) = self.overdue() {
                return Err(Error::unavailable(format!("pool {} cannot be changed now: {why}", self.name)));
            }
            if let Ok(lock) = tokio::time::timeout(LOOK, &mut lock).await {
                break lock;
            }
        };
        *self.changing.since() = Some(Instant::now());
        let turn = Turn { turns: &self.changing, _lock: lock };
        // The change before may have ended because a disk did not answer.
        if let Some(why) = self.overdue() {
            return Err(Error::unavailable(format!("pool {} cannot be changed now: {why}", self.name)));
        }
        if let Some(orphan) = self.orphan() {
            return Err(Error::new(
                Reason::UnderWay,
                format!("pool {} cannot be changed before {orphan} has ended; retry", self.name),
            ));
        }
        if !self.known_orphans().is_empty() {
            // What they changed is not known yet, and they may have died of a signal. They are forgotten only when that has
            // been looked at: a volume group that cannot be read now is looked at next time.
            self.cache.invalidate();
            self.recover_first().await?;
            self.known_orphans().clear();
        } else if !self.changing.recovered.load(Ordering::SeqCst) {
            self.recover_first().await?;
        }
        Ok(turn)
    }

    /// Puts in order what an earlier Quarry left behind.
    pub(super) async fn recover_first(&self) -> Result<()> {
        let group = self.group().await?;
        self.recover(&group).await;
        self.changing.recovered.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Finds devices of the volume group that a killed lvm left suspended, and resumes them: any access to them hangs.
    pub(super) async fn recover(&self, group: &VolumeGroup) {
        // A live lvm suspends for a moment. The report took the volume group's lock, so those seen before and after it
        // belong to no live command.
        let uuid = group.uuid.clone();
        let suspended = match quarry_lvm::suspended(&uuid) {
            Ok(found) if found.is_empty() => return,
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "cannot look for suspended devices");
                return;
            }
        };
        self.cache.invalidate();
        if self.group().await.is_err() {
            return;
        }
        let still = quarry_lvm::suspended(&uuid).unwrap_or_default();
        let orphaned: Vec<_> = suspended.into_iter().filter(|device| still.contains(device)).collect();
        if orphaned.is_empty() {
            return;
        }
        let names: Vec<&str> = orphaned.iter().map(|device| device.name.as_str()).collect();
        tracing::warn!(?names, "resuming devices that a killed lvm left suspended");
        if let Err(error) = quarry_lvm::resume(group, &orphaned).await {
            tracing::error!(%error, ?names, "cannot resume suspended devices");
        }
    }

    /// Looks for suspended devices if a signal ended the command.
    pub(super) async fn recover_if_killed(&self, group: &VolumeGroup, result: &Result<(), quarry_lvm::Error>) {
        if let Err(quarry_lvm::Error::Exec(quarry_exec::Error::Signalled { .. })) = result {
            self.recover(group).await;
        }
    }

    /// Ends one change of the volume group: what was remembered is forgotten, and what lvm wrote is flushed.
    pub(super) async fn commit(&self, group: &VolumeGroup, result: Result<(), quarry_lvm::Error>) -> Result<()> {
        self.cache.invalidate();
        // It may have been made though the command failed.
        self.flushes.changed();
        self.recover_if_killed(group, &result).await;
        result.map_err(|error| self.explain(error))?;
        let change = self.flushes.changes.load(Ordering::SeqCst);
        for (device, flushed) in self.flush(group).await {
            flushed.map_err(|error| {
                let disk = device.display();
                Error::unavailable(format!(
                    "pool {}: the change was made, but may not survive a power cut: flushing {disk}: {error}; retry",
                    self.name
                ))
            })?;
        }
        self.flushes.flushed(change);
        Ok(())
    }

    /// Flushes what was changed and not flushed yet, before anything is answered that depends on it. An lvm that outlived
    /// its Quarry may change something at any moment, until it has ended.
    ///
    /// One disk that answers is enough: each carries all the metadata, and lvm takes the newest.
    pub(super) async fn flush_what_is_owed(&self, group: &VolumeGroup) -> Result<()> {
        if self.orphan().is_some() {
            self.flushes.changed();
        }
        let Some(change) = self.flushes.owed() else { return Ok(()) };
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
            self.flushes.flushed(change);
        }
        Ok(())
    }

    /// Flushes the disks that carry the metadata, and says of each why not.
    async fn flush(&self, group: &VolumeGroup) -> Vec<(std::path::PathBuf, Result<(), String>)> {
        if quarry_fault::disabled("flush") {
            return Vec::new();
        }
        let flushed = self.cache.flush(group).await;
        let flat = |answer: Result<std::io::Result<()>, crate::SilentDisk>| match answer {
            Ok(flushed) => flushed.map_err(|error| error.to_string()),
            Err(silent) => Err(silent.to_string()),
        };
        flushed.into_iter().map(|(device, answer)| (device, flat(answer))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_at_the_start_is_owed_and_each_change_until_it_is_flushed() {
        let flushes = Flushes::default();
        let first = flushes.owed().expect("an earlier Quarry may have changed something");
        flushes.changed();
        flushes.flushed(first);
        let second = flushes.owed().expect("changed while the flush was under way");
        flushes.flushed(second);
        assert_eq!(flushes.owed(), None);
        flushes.flushed(first);
        assert_eq!(flushes.owed(), None, "an older flush ends later");
        flushes.changed();
        assert!(flushes.owed().is_some());
    }
}
