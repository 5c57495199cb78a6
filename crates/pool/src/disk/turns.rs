//! Locks for changes of a pool's disks: each volume has one, each disk can be reserved, and changes that take
//! too long are reported. A hanging change blocks its own volume and its own disk, and nothing else.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use quarry_disk::Disk;
use tokio::sync::OwnedMutexGuard;

use super::key::DiskKey;

/// When a running change is reported as a problem: most likely, its disk hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// The locks of the volumes, and the reservations of disks.
#[derive(Default)]
pub(super) struct Turns {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// One for each volume that is being changed, or has waiting callers.
    locks: HashMap<String, Arc<tokio::sync::Mutex<()>>>,
    /// Counts the locks that were taken.
    count: u64,
    under_way: BTreeMap<u64, Change>,
    /// The disks that are being claimed for volumes.
    taken: HashSet<DiskKey>,
}

/// A running change.
struct Change {
    what: String,
    disk: Option<String>,
    since: Instant,
}

/// The lock of a volume, until it is dropped. It belongs to the task that does the work, so it lasts as long
/// as the work.
pub(super) struct Turn {
    turns: Arc<Turns>,
    number: u64,
    volume: String,
    lock: Option<OwnedMutexGuard<()>>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.turns.state();
        state.under_way.remove(&self.number);
        self.lock = None;
        // The last waiting caller removes the entry.
        if state.locks.get(&self.volume).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            state.locks.remove(&self.volume);
        }
    }
}

impl Turn {
    /// Records which disk is being changed.
    pub(super) fn is_at(&self, disk: &str) {
        if let Some(change) = self.turns.state().under_way.get_mut(&self.number) {
            change.disk = Some(disk.to_owned());
        }
    }
}

/// The reservation of a disk for a volume, until it is dropped.
pub(super) struct Reserved {
    turns: Arc<Turns>,
    disk: DiskKey,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.turns.state().taken.remove(&self.disk);
    }
}

impl Turns {
    /// Waits for the lock of a volume, which `volume` identifies. `what` describes the change, phrased to
    /// precede ", for … s": "volume x is being created".
    pub(super) async fn take(self: &Arc<Self>, volume: &str, what: String) -> Turn {
        let lock = Arc::clone(self.state().locks.entry(volume.to_owned()).or_default());
        let lock = lock.lock_owned().await;
        let mut state = self.state();
        state.count += 1;
        let number = state.count;
        state.under_way.insert(number, Change { what, disk: None, since: Instant::now() });
        Turn { turns: Arc::clone(self), number, volume: volume.to_owned(), lock: Some(lock) }
    }

    /// Reserves a disk. `None`: it is reserved already.
    pub(super) fn reserve(self: &Arc<Self>, disk: &Disk) -> Option<Reserved> {
        let disk = DiskKey::of(disk);
        let first = self.state().taken.insert(disk.clone());
        first.then(|| Reserved { turns: Arc::clone(self), disk })
    }

    /// Whether the disk is being claimed for a volume.
    pub(super) fn is_reserved(&self, disk: &Disk) -> bool {
        self.state().taken.contains(&DiskKey::of(disk))
    }

    /// Whether a change is running that has not taken too long yet.
    pub(super) fn is_taken(&self) -> bool {
        self.state().under_way.values().any(|change| change.since.elapsed() <= PATIENCE)
    }

    /// The changes that have taken too long, as problems to report.
    pub(super) fn overdue(&self) -> Vec<String> {
        let state = self.state();
        let overdue = state.under_way.values().filter(|change| change.since.elapsed() > PATIENCE);
        let words = |Change { what, disk, since }: &Change| {
            let disk = disk.as_ref().map_or_else(String::new, |disk| format!(" (disk {disk})"));
            format!(
                "{what}{disk}, for {} s now, and other operations on the volume and its disk wait: does the disk \
                 hang? See the kernel log",
                since.elapsed().as_secs()
            )
        };
        overdue.map(words).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Turns {
        /// As if the running changes had started this much earlier.
        fn age(&self, by: Duration) {
            for change in self.state().under_way.values_mut() {
                change.since = change.since.checked_sub(by).unwrap();
            }
        }
    }

    #[tokio::test]
    async fn a_change_is_overdue_after_half_a_minute_and_names_its_disk() {
        let turns = Arc::new(Turns::default());
        assert_eq!((turns.is_taken(), turns.overdue()), (false, vec![]));
        let turn = turns.take("a", "volume a is made".to_owned()).await;
        turn.is_at("vdb");
        turns.age(Duration::from_secs(29));
        assert_eq!((turns.is_taken(), turns.overdue()), (true, vec![]));
        turn.is_at("vdc");
        turns.age(Duration::from_secs(2));
        let overdue = turns.overdue();
        assert!(overdue[0].starts_with("volume a is made (disk vdc), for 31 s now"), "{overdue:?}");
        assert!(!turns.is_taken(), "nobody waits for it to read the pool");
        // Another change works meanwhile, and has its own time.
        let other = turns.take("b", "volume b is deleted".to_owned()).await;
        assert_eq!((turns.is_taken(), turns.overdue().len()), (true, 1));
        drop((turn, other));
        assert_eq!((turns.is_taken(), turns.overdue()), (false, vec![]));
        assert!(turns.state().locks.is_empty());
    }

    #[tokio::test]
    async fn only_one_change_of_a_volume_runs_at_a_time() {
        let turns = Arc::new(Turns::default());
        let first = turns.take("a", "one".to_owned()).await;
        let second = {
            let turns = Arc::clone(&turns);
            tokio::spawn(async move { drop(turns.take("a", "two".to_owned()).await) })
        };
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(first);
        second.await.unwrap();
        assert!(turns.state().locks.is_empty());
    }
}
