//! Threads for work that may wait for a disk forever: at most one for each disk.
//!
//! A thread that waits for a disk in the kernel cannot be interrupted. So everything that reads or flushes a
//! disk of a pool uses this module. As long as a disk has not answered, no second thread is started for it,
//! and callers learn how long it has been unresponsive. These are separate threads: the runtime's
//! threads for blocking work are shared, and a hanging disk would use them up.

use std::collections::HashMap;
use std::hash::Hash;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};

/// How long a disk may take to answer: a sleeping disk has to spin up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// How long a disk must have been unresponsive to be reported.
pub(crate) const REPORT_AFTER: Duration = Duration::from_secs(2);

/// A disk that has not answered for some time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("disk {disk} has not answered a {request} for {} s; see the kernel log", .age.as_secs())]
pub struct UnresponsiveDisk {
    /// The disk's name, or the path of its device.
    pub disk: String,
    /// The pending request: `read` or `flush`.
    pub request: &'static str,
    /// How long the request has been pending.
    pub age: Duration,
}

/// A request that a disk has not answered yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    pub(crate) request: &'static str,
    pub(crate) since: Instant,
}

/// The disks, identified by `K`, with a pending request. All clones share the same state.
pub(crate) struct DiskThreads<K> {
    /// How long a disk may take to answer.
    pub(crate) patience: Duration,
    shared: Arc<Shared<K>>,
}

struct Shared<K> {
    pending: Mutex<HashMap<K, Pending>>,
    /// Notified whenever a disk has answered.
    answered: Notify,
}

/// The right to send a request to a disk, until it is dropped.
pub(crate) struct Permit<K: Eq + Hash> {
    disk: K,
    shared: Arc<Shared<K>>,
}

impl<K> Clone for DiskThreads<K> {
    fn clone(&self) -> Self {
        Self { patience: self.patience, shared: Arc::clone(&self.shared) }
    }
}

impl<K> DiskThreads<K> {
    /// Without any pending request.
    pub(crate) fn new(patience: Duration) -> Self {
        Self { patience, shared: Arc::new(Shared { pending: Mutex::default(), answered: Notify::new() }) }
    }

    /// The same threads, with a shorter time limit.
    pub(crate) fn with_patience(&self, patience: Duration) -> Self {
        Self { patience: patience.min(self.patience), shared: Arc::clone(&self.shared) }
    }
}

impl<K> Shared<K> {
    fn pending(&self) -> MutexGuard<'_, HashMap<K, Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash + Send + 'static> DiskThreads<K> {
    /// Acquires the right to send a request to this disk.
    ///
    /// # Errors
    /// It has not answered an earlier request yet.
    pub(crate) fn acquire(&self, disk: K, request: &'static str) -> Result<Permit<K>, Pending> {
        let mut pending = self.shared.pending();
        if let Some(earlier) = pending.get(&disk) {
            return Err(*earlier);
        }
        pending.insert(disk.clone(), Pending { request, since: Instant::now() });
        Ok(Permit { disk, shared: Arc::clone(&self.shared) })
    }

    /// The disks that have not answered for at least `age`.
    pub(crate) fn unresponsive(&self, age: Duration) -> Vec<(K, Pending)> {
        let pending = self.shared.pending();
        let old = pending.iter().filter(|(_, pending)| pending.since.elapsed() >= age);
        old.map(|(disk, pending)| (disk.clone(), *pending)).collect()
    }
}

impl<K: Eq + Hash + Send + Sync + 'static> Permit<K> {
    /// Runs the work in a separate thread, and then calls `report` with the result. The permit is released
    /// before `report` is called.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn run<T>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
        report: impl FnOnce(T) + Send + 'static,
    ) -> io::Result<()> {
        let thread = move || {
            let answer = work();
            drop(self);
            report(answer);
        };
        std::thread::Builder::new().name("ask disk".to_owned()).spawn(thread).map(drop)
    }
}

impl<K: Eq + Hash> Drop for Permit<K> {
    fn drop(&mut self) {
        self.shared.pending().remove(&self.disk);
        self.shared.answered.notify_waiters();
    }
}

impl DiskThreads<PathBuf> {
    /// Sends a request to the disk with this device, after any pending request, and waits for the answer.
    ///
    /// # Errors
    /// The disk is unresponsive: it has not answered this request, or an earlier one, within the time limit.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        device: &Path,
        request: &'static str,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<io::Result<T>, UnresponsiveDisk> {
        let permit = self.wait_for_permit(device, request).await?;
        let asked = Pending { request, since: Instant::now() };
        let (report, answer) = oneshot::channel();
        // If the receiver is gone, the answer is dropped.
        if let Err(error) = permit.run(work, move |answer| drop(report.send(answer))) {
            return Ok(Err(error));
        }
        match tokio::time::timeout(self.patience, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Ok(Err(io::Error::other("the thread that read the disk panicked"))),
            Err(_) => Err(asked.of(device)),
        }
    }

    async fn wait_for_permit(&self, device: &Path, request: &'static str) -> Result<Permit<PathBuf>, UnresponsiveDisk> {
        loop {
            let answered = self.shared.answered.notified();
            tokio::pin!(answered);
            // Before the attempt, so that an answer in between is noticed.
            answered.as_mut().enable();
            let earlier = match self.acquire(device.to_owned(), request) {
                Ok(permit) => return Ok(permit),
                Err(earlier) => earlier,
            };
            let left = self.patience.saturating_sub(earlier.since.elapsed());
            if tokio::time::timeout(left, answered).await.is_err() {
                return Err(earlier.of(device));
            }
        }
    }

    /// Those of these devices that have not answered for at least `age`.
    pub(crate) fn unresponsive_among(&self, devices: &[PathBuf], age: Duration) -> Vec<UnresponsiveDisk> {
        let unresponsive = self.unresponsive(age).into_iter().filter(|(device, _)| devices.contains(device));
        unresponsive.map(|(device, pending)| pending.of(&device)).collect()
    }
}

impl Pending {
    fn of(self, device: &Path) -> UnresponsiveDisk {
        UnresponsiveDisk { disk: device.display().to_string(), request: self.request, age: self.since.elapsed() }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Work that waits until the sender is dropped, like that of a hanging disk.
    fn hanging() -> (mpsc::Sender<()>, impl FnOnce() -> io::Result<&'static str> + Send + 'static) {
        let (heal, healed) = mpsc::channel();
        let work = move || {
            let _ = healed.recv();
            Ok("late")
        };
        (heal, work)
    }

    #[tokio::test]
    async fn an_unresponsive_disk_has_one_thread_and_delays_no_other() {
        // On a busy machine, the thread for a disk that answers may start late.
        let threads = DiskThreads::new(Duration::from_secs(1));
        let (vda, vdb) = (Path::new("/dev/vda"), Path::new("/dev/vdb"));
        let (heal, work) = hanging();
        let unresponsive = threads.ask(vda, "flush", work).await.expect_err("it hangs");
        assert_eq!((unresponsive.disk.as_str(), unresponsive.request), ("/dev/vda", "flush"));
        assert!(unresponsive.age >= threads.patience, "{unresponsive:?}");
        let began = Instant::now();
        for _ in 0..1000 {
            let unresponsive =
                threads.ask(vda, "read", || -> io::Result<()> { panic!("a second thread was started") }).await;
            assert_eq!(unresponsive.expect_err("it still hangs").request, "flush", "the first request is named");
        }
        assert!(began.elapsed() < 100 * threads.patience, "nothing waits for it again");
        assert_eq!(threads.ask(vdb, "read", || Ok(7)).await.expect("it answers").expect("read"), 7);
        assert_eq!(threads.unresponsive_among(&[vdb.to_owned()], Duration::ZERO), []);
        assert_eq!(threads.unresponsive_among(&[vda.to_owned()], Duration::ZERO).len(), 1);

        drop(heal);
        while !threads.unresponsive(Duration::ZERO).is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let well = threads.ask(vda, "read", || Ok(8)).await;
        assert_eq!(well.expect("it answers again").expect("read"), 8);
    }

    #[tokio::test]
    async fn the_next_request_waits_for_a_slow_answer() {
        let threads = DiskThreads::new(Duration::from_secs(10));
        let device = Path::new("/dev/vda");
        let slow = || {
            std::thread::sleep(Duration::from_millis(50));
            Ok(1)
        };
        let (first, second) = tokio::join!(threads.ask(device, "read", slow), threads.ask(device, "flush", || Ok(2)));
        assert_eq!((first.unwrap().unwrap(), second.unwrap().unwrap()), (1, 2));
    }

    #[tokio::test]
    async fn a_panic_leaves_no_disk_unresponsive() {
        let threads = DiskThreads::new(Duration::from_secs(10));
        let device = Path::new("/dev/vda");
        let broken = threads.ask(device, "read", || -> io::Result<()> { panic!("on purpose") }).await;
        assert!(broken.expect("responsive").is_err());
        threads.ask(device, "read", || Ok(())).await.expect("responsive").expect("read");
    }
}
