//! How fast a copy is, and how far.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A limit of speed that copies share: all that read from or write to one pool.
#[derive(Clone, Debug)]
pub(crate) struct Rate {
    bytes_per_second: u64,
    /// When everything that was permitted so far is used up.
    next: Arc<Mutex<Option<Instant>>>,
}

impl Rate {
    /// So many bytes per second; at least one.
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), next: Arc::default() }
    }

    /// Reserves time for so many bytes, and returns how long to wait before they may be copied.
    pub(crate) fn wait_for(&self, bytes: u64) -> Duration {
        self.wait_at(Instant::now(), bytes)
    }

    fn wait_at(&self, now: Instant, bytes: u64) -> Duration {
        let mut next = self.next.lock();
        let begin = next.unwrap_or(now).max(now);
        let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        *next = begin.checked_add(Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX)));
        begin.duration_since(now)
    }
}

/// How far a copy is. Clones show the same copy.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meter {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    done: AtomicU64,
    total: AtomicU64,
}

/// What a [`Meter`] shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Measured {
    /// How many bytes are copied, those of earlier runs included. Not all of them are flushed.
    pub(crate) done: u64,
    /// How many bytes have to be copied; with [`super::Tail::Zero`], the bytes beyond the source count, too. 0 before the
    /// copy has begun.
    pub(crate) total: u64,
}

impl Meter {
    /// What it shows now.
    pub(crate) fn measured(&self) -> Measured {
        let Inner { done, total } = &*self.inner;
        Measured { done: done.load(Ordering::Relaxed), total: total.load(Ordering::Relaxed) }
    }

    pub(crate) fn begin(&self, done: u64, total: u64) {
        self.inner.done.store(done, Ordering::Relaxed);
        self.inner.total.store(total, Ordering::Relaxed);
    }

    pub(crate) fn reach(&self, done: u64) {
        self.inner.done.store(done, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_that_share_a_rate_wait_for_each_other() {
        let (rate, now) = (Rate::new(1000), Instant::now());
        let other = rate.clone();
        assert_eq!(rate.wait_at(now, 500), Duration::ZERO);
        assert_eq!(other.wait_at(now, 1000), Duration::from_millis(500));
        assert_eq!(rate.wait_at(now, 1), Duration::from_millis(1500));
        // Time that was not used does not count later.
        let later = now + Duration::from_secs(60);
        assert_eq!(rate.wait_at(later, 1000), Duration::ZERO);
        assert_eq!(rate.wait_at(later, 1000), Duration::from_secs(1));
    }
}
