//! One change of a pool's disks at a time, and which one has been at it for too long.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a change may take before it is a problem to be shown: a disk that hangs, most likely.
const PATIENCE: Duration = Duration::from_secs(30);

/// The turns of those who change something.
#[derive(Default)]
pub(super) struct Turns {
    lock: tokio::sync::Mutex<()>,
    under_way: Mutex<Option<(String, Instant)>>,
}

/// A turn; it ends when this is dropped.
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    _lock: tokio::sync::MutexGuard<'a, ()>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.turns.under_way() = None;
    }
}

impl Turns {
    /// Waits for a turn. `what` goes on after "for … s": "volume x is created".
    pub(super) async fn take(&self, what: String) -> Turn<'_> {
        let lock = self.lock.lock().await;
        *self.under_way() = Some((what, Instant::now()));
        Turn { turns: self, _lock: lock }
    }

    /// Whether somebody has a turn.
    pub(super) fn is_taken(&self) -> bool {
        self.under_way().is_some()
    }

    /// What has been under way for too long, in words.
    pub(super) fn overdue(&self) -> Option<String> {
        let under_way = self.under_way();
        let (what, since) = under_way.as_ref().filter(|(_, since)| since.elapsed() > PATIENCE)?;
        Some(format!(
            "{what}, for {} s now, and other changes of the pool wait for it: does a disk hang? See the kernel log",
            since.elapsed().as_secs()
        ))
    }

    /// Says on which disk it is.
    pub(super) fn is_at(&self, disk: &str) {
        if let Some((what, _)) = self.under_way().as_mut() {
            let end = what.find(" (disk ").unwrap_or(what.len());
            what.truncate(end);
            what.push_str(&format!(" (disk {disk})"));
        }
    }

    fn under_way(&self) -> MutexGuard<'_, Option<(String, Instant)>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Turns {
        /// As if the change under way had begun so much earlier.
        fn age(&self, by: Duration) {
            let mut under_way = self.under_way();
            let (_, since) = under_way.as_mut().unwrap();
            *since = since.checked_sub(by).unwrap();
        }
    }

    #[tokio::test]
    async fn a_change_is_overdue_after_half_a_minute_and_names_its_disk() {
        let turns = Turns::default();
        assert_eq!((turns.is_taken(), turns.overdue()), (false, None));
        let turn = turns.take("volume a is created".to_owned()).await;
        turns.is_at("vdb");
        turns.age(Duration::from_secs(29));
        assert_eq!((turns.is_taken(), turns.overdue()), (true, None));
        turns.is_at("vdc");
        turns.age(Duration::from_secs(2));
        let overdue = turns.overdue().unwrap();
        assert!(overdue.starts_with("volume a is created (disk vdc), for 31 s now"), "{overdue}");
        drop(turn);
        assert_eq!((turns.is_taken(), turns.overdue()), (false, None));
        // The next one's time is its own.
        let _turn = turns.take("volume b is deleted".to_owned()).await;
        assert_eq!(turns.overdue(), None);
    }
}
