//! Free disks that could not be claimed. For a while, other disks are preferred, so that one that cannot be
//! written does not come first each time.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use quarry_disk::{Disk, State};

use super::key::DiskKey;
use super::scan::PoolDisk;

/// How long such a disk is not retried.
const PAUSE: Duration = Duration::from_secs(60);

/// The disks, each with the reason.
#[derive(Default)]
pub(super) struct Failures {
    by_disk: Mutex<HashMap<DiskKey, (String, Instant)>>,
}

impl Failures {
    /// Records that the disk could not be claimed.
    pub(super) fn add(&self, disk: &Disk, why: String) {
        self.by_disk().insert(DiskKey::of(disk), (why, Instant::now()));
    }

    /// Whether the last attempt to claim the disk failed.
    pub(super) fn contains(&self, disk: &Disk) -> bool {
        self.by_disk().contains_key(&DiskKey::of(disk))
    }

    /// Marks these disks as not free, and forgets those whose time has passed.
    pub(super) fn mark(&self, seen: &mut [PoolDisk]) {
        let mut failures = self.by_disk();
        failures.retain(|_, (_, when)| when.elapsed() < PAUSE);
        for one in seen.iter_mut().filter(|one| one.state == State::Free) {
            if let Some((why, _)) = failures.get(&DiskKey::of(&one.raw.disk)) {
                one.state = State::Unusable { why: format!("could not be claimed for a volume: {why}") };
            }
        }
    }

    /// All of them as problems.
    pub(super) fn problems(&self) -> Vec<String> {
        let describe = |(DiskKey { name, .. }, (why, _)): (&DiskKey, &(String, Instant))| {
            format!("the disk {name} could not be claimed for a volume, and is retried in a minute: {why}")
        };
        let mut problems: Vec<String> = self.by_disk().iter().map(describe).collect();
        problems.sort_unstable();
        problems
    }

    /// Lets the time of all of them pass.
    #[cfg(test)]
    pub(super) fn age(&self) {
        for (_, when) in self.by_disk().values_mut() {
            *when -= 2 * PAUSE;
        }
    }

    fn by_disk(&self) -> MutexGuard<'_, HashMap<DiskKey, (String, Instant)>> {
        self.by_disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
