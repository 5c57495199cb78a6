//! How long disks have been there, and free.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// How long a disk must have been free until it is added to a volume group. Another driver, or an operator, may just have
/// attached it, and is about to format it.
const SETTLES_AFTER: Duration = Duration::from_secs(60);

/// Identifies a disk: [`super::key`].
type Key = (String, Option<u64>);

/// Since when each disk has been free.
#[derive(Default)]
pub(super) struct FreeSince(HashMap<Key, Instant>);

impl FreeSince {
    /// Those of the disks that have been free for long enough. `free`: all that are free now.
    pub(super) fn settled(&mut self, free: HashSet<Key>, now: Instant) -> HashSet<Key> {
        self.0.retain(|disk, _| free.contains(disk));
        free.into_iter()
            .filter(|disk| now.duration_since(*self.0.entry(disk.clone()).or_insert(now)) >= SETTLES_AFTER)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_settles_after_it_was_free_for_a_minute_without_a_break() {
        let (begin, mut since) = (Instant::now(), FreeSince::default());
        let disks = |disks: &[(&str, u64)]| -> HashSet<Key> {
            disks.iter().map(|(name, sequence)| ((*name).to_owned(), Some(*sequence))).collect()
        };
        let (sdb, sdc, exchanged) = (("sdb", 7), ("sdc", 8), ("sdb", 9));
        for (seconds, free, settled) in [
            (0, vec![sdb], vec![]),
            (59, vec![sdb, sdc], vec![]),
            (60, vec![sdb, sdc], vec![sdb]),
            // It is used for a while.
            (70, vec![sdc], vec![]),
            (119, vec![sdb, sdc], vec![sdc]),
            (179, vec![sdb], vec![sdb]),
            // Another disk has its name.
            (300, vec![exchanged], vec![]),
            (360, vec![exchanged], vec![exchanged]),
        ] {
            let found = since.settled(disks(&free), begin + Duration::from_secs(seconds));
            assert_eq!(found, disks(&settled), "after {seconds} s");
        }
    }
}
