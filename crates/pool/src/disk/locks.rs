//! Locks for changes of a pool's disks: each volume has one, each disk can be reserved, and changes that take
//! too long are reported. A hanging change blocks its own volume and its own disk, and nothing else.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use quarry_disk::Disk;
use quarry_disk::claim::DiskGuid;
use tokio::sync::OwnedMutexGuard;

use super::key::DiskKey;

/// When a running change is reported as a problem: most likely, its disk hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// The locks of the volumes, and the reservations of disks.
#[derive(Default)]
pub(super) struct VolumeLocks {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// One for each volume that is being changed, or has waiting callers, by the GUID of its disk.
    locks: HashMap<DiskGuid, Arc<tokio::sync::Mutex<()>>>,
    /// Counts the locks that were taken.
    count: u64,
    running: BTreeMap<u64, Change>,
    /// The disks that are being claimed for volumes.
    reserved: HashSet<DiskKey>,
}

/// A running change.
struct Change {
    what: String,
    disk: Option<String>,
    since: Instant,
}

/// The lock of a volume, until it is dropped. It belongs to the task that does the work, so it lasts as long
/// as the work.
pub(super) struct VolumeLock {
    locks: Arc<VolumeLocks>,
    number: u64,
    volume: DiskGuid,
    lock: Option<OwnedMutexGuard<()>>,
}

impl Drop for VolumeLock {
    fn drop(&mut self) {
        let mut state = self.locks.state();
        state.running.remove(&self.number);
        self.lock = None;
        // The last waiting caller removes the entry.
        if state.locks.get(&self.volume).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            state.locks.remove(&self.volume);
        }
    }
}

impl VolumeLock {
    /// Records which disk is being changed.
    pub(super) fn set_disk(&self, disk: &str) {
        if let Some(change) = self.locks.state().running.get_mut(&self.number) {
            change.disk = Some(disk.to_owned());
        }
    }
}

/// The reservation of a disk for a volume, until it is dropped.
pub(super) struct Reserved {
    locks: Arc<VolumeLocks>,
    disk: DiskKey,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.locks.state().reserved.remove(&self.disk);
    }
}

impl VolumeLocks {
    /// Waits for the lock of the volume on the disk with that GUID. `what` describes the change, phrased to
    /// precede ", for … s": "volume x is being created".
    pub(super) async fn lock(self: &Arc<Self>, volume: DiskGuid, what: String) -> VolumeLock {
        let lock = Arc::clone(self.state().locks.entry(volume).or_default());
        let lock = lock.lock_owned().await;
        let mut state = self.state();
        state.count += 1;
        let number = state.count;
        state.running.insert(number, Change { what, disk: None, since: Instant::now() });
        VolumeLock { locks: Arc::clone(self), number, volume, lock: Some(lock) }
    }

    /// Reserves a disk. `None`: it is reserved already.
    pub(super) fn reserve(self: &Arc<Self>, disk: &Disk) -> Option<Reserved> {
        let disk = DiskKey::of(disk);
        let first = self.state().reserved.insert(disk.clone());
        first.then(|| Reserved { locks: Arc::clone(self), disk })
    }

    /// Whether the disk is being claimed for a volume.
    pub(super) fn is_reserved(&self, disk: &Disk) -> bool {
        self.state().reserved.contains(&DiskKey::of(disk))
    }

    /// Whether a change is running that has not taken too long yet.
    pub(super) fn is_changing(&self) -> bool {
        self.state().running.values().any(|change| change.since.elapsed() <= PATIENCE)
    }

    /// The changes that have taken too long, as problems to report.
    pub(super) fn overdue(&self) -> Vec<String> {
        let state = self.state();
        let overdue = state.running.values().filter(|change| change.since.elapsed() > PATIENCE);
        let describe = |Change { what, disk, since }: &Change| {
            let disk = disk.as_ref().map_or_else(String::new, |disk| format!(" (disk {disk})"));
            format!(
                "{what}{disk}, for {} s now, and other operations on the volume and its disk wait: does the disk \
                 hang? See the kernel log",
                since.elapsed().as_secs()
            )
        };
        overdue.map(describe).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The disk of the volume with that name.
    fn disk_of(name: &str) -> DiskGuid {
        quarry_disk::claim::Identity::of(name).disk
    }

    impl VolumeLocks {
        /// As if the running changes had started this much earlier.
        fn age(&self, by: Duration) {
            for change in self.state().running.values_mut() {
                change.since = change.since.checked_sub(by).unwrap();
            }
        }
    }

    #[tokio::test]
    async fn a_change_is_overdue_after_half_a_minute_and_names_its_disk() {
        let locks = Arc::new(VolumeLocks::default());
        assert_eq!((locks.is_changing(), locks.overdue()), (false, vec![]));
        let lock = locks.lock(disk_of("a"), "volume a is made".to_owned()).await;
        lock.set_disk("vdb");
        locks.age(Duration::from_secs(29));
        assert_eq!((locks.is_changing(), locks.overdue()), (true, vec![]));
        lock.set_disk("vdc");
        locks.age(Duration::from_secs(2));
        let overdue = locks.overdue();
        assert!(overdue[0].starts_with("volume a is made (disk vdc), for 31 s now"), "{overdue:?}");
        assert!(!locks.is_changing(), "an overdue change does not delay a read of the pool");
        // Another change works meanwhile, and has its own time.
        let other = locks.lock(disk_of("b"), "volume b is deleted".to_owned()).await;
        assert_eq!((locks.is_changing(), locks.overdue().len()), (true, 1));
        drop((lock, other));
        assert_eq!((locks.is_changing(), locks.overdue()), (false, vec![]));
        assert!(locks.state().locks.is_empty());
    }

    #[tokio::test]
    async fn only_one_change_of_a_volume_runs_at_a_time() {
        let locks = Arc::new(VolumeLocks::default());
        let first = locks.lock(disk_of("a"), "one".to_owned()).await;
        let second = {
            let locks = Arc::clone(&locks);
            tokio::spawn(async move { drop(locks.lock(disk_of("a"), "two".to_owned()).await) })
        };
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(first);
        second.await.unwrap();
        assert!(locks.state().locks.is_empty());
    }
}
