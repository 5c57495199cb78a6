//! Changes of a pool's disks: one of each volume at a time, each disk in one hand, and which change has been at it for
//! too long. A change that hangs holds up its own volume and its own disk, and nothing else.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use quarry_disk::Disk;
use tokio::sync::OwnedMutexGuard;

use super::key::DiskKey;

/// How long a change may take before it is a problem to be shown: a disk that hangs, most likely.
const PATIENCE: Duration = Duration::from_secs(30);

/// The turns of those who change something.
#[derive(Default)]
pub(super) struct Turns {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// One for each volume that somebody changes or waits to change.
    locks: HashMap<String, Arc<tokio::sync::Mutex<()>>>,
    /// Counts the turns.
    count: u64,
    under_way: BTreeMap<u64, Change>,
    /// The disks that are being taken for volumes.
    taken: HashSet<DiskKey>,
}

/// A change under way.
struct Change {
    what: String,
    disk: Option<String>,
    since: Instant,
}

/// A turn; it ends when this is dropped. It belongs to the task that does the work, so that it lasts as long as that.
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
        // Callers that wait for the lock share it.
        if state.locks.get(&self.volume).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            state.locks.remove(&self.volume);
        }
    }
}

impl Turn {
    /// Says on which disk the change is.
    pub(super) fn is_at(&self, disk: &str) {
        if let Some(change) = self.turns.state().under_way.get_mut(&self.number) {
            change.disk = Some(disk.to_owned());
        }
    }
}

/// A disk that is being taken for a volume, until this is dropped.
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
    /// Waits for the turn to change a volume, which `volume` stands for. `what` goes on after "for … s": "volume x is
    /// made".
    pub(super) async fn take(self: &Arc<Self>, volume: &str, what: String) -> Turn {
        let lock = Arc::clone(self.state().locks.entry(volume.to_owned()).or_default());
        let lock = lock.lock_owned().await;
        let mut state = self.state();
        state.count += 1;
        let number = state.count;
        state.under_way.insert(number, Change { what, disk: None, since: Instant::now() });
        Turn { turns: Arc::clone(self), number, volume: volume.to_owned(), lock: Some(lock) }
    }

    /// Has nobody else take that disk. `None`: somebody does.
    pub(super) fn reserve(self: &Arc<Self>, disk: &Disk) -> Option<Reserved> {
        let disk = DiskKey::of(disk);
        let first = self.state().taken.insert(disk.clone());
        first.then(|| Reserved { turns: Arc::clone(self), disk })
    }

    /// Whether somebody takes that disk for a volume at this moment.
    pub(super) fn is_reserved(&self, disk: &Disk) -> bool {
        self.state().taken.contains(&DiskKey::of(disk))
    }

    /// Whether somebody has a turn, and has not had it for too long.
    pub(super) fn is_taken(&self) -> bool {
        self.state().under_way.values().any(|change| change.since.elapsed() <= PATIENCE)
    }

    /// What has been under way for too long, in words.
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
        self.state.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Turns {
        /// As if the changes under way had begun so much earlier.
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
        // Another one goes on meanwhile, and its time is its own.
        let other = turns.take("b", "volume b is deleted".to_owned()).await;
        assert_eq!((turns.is_taken(), turns.overdue().len()), (true, 1));
        drop((turn, other));
        assert_eq!((turns.is_taken(), turns.overdue()), (false, vec![]));
        assert!(turns.state().locks.is_empty());
    }

    #[tokio::test]
    async fn a_volume_is_changed_by_one_at_a_time() {
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
