//! Threads for work that may wait for a disk forever: at most one for each disk.
//!
//! Nothing can call back a thread that waits for a disk in the kernel. So everything that reads or flushes a disk of a
//! pool goes through here. While a disk has not answered, no second thread is started for it, and callers learn
//! since when it has been silent. These are threads of their own: the runtime's threads for blocking work are shared by
//! all, and a disk that hangs would use them up.

use std::collections::HashMap;
use std::hash::Hash;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, oneshot};

/// How long a disk may take to answer: one that sleeps has to spin up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// After how long it is worth telling that a disk has not answered yet.
pub(crate) const NOTEWORTHY: Duration = Duration::from_secs(2);

/// A disk that has not answered for some time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("disk {disk} has not answered a {request} for {} s; see the kernel log", .age.as_secs())]
pub struct SilentDisk {
    /// Its name or the path of its device.
    pub disk: String,
    /// What it was asked for: `read` or `flush`.
    pub request: &'static str,
    /// How long ago that was.
    pub age: Duration,
}

/// What a disk has been asked for and has not answered yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    pub(crate) request: &'static str,
    pub(crate) since: Instant,
}

/// The disks, named by `K`, that are being asked something. All clones share one record.
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

/// The right to ask a disk; given back when it is dropped.
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
    /// No disk is being asked anything yet.
    pub(crate) fn new(patience: Duration) -> Self {
        Self { patience, shared: Arc::new(Shared { pending: Mutex::default(), answered: Notify::new() }) }
    }

    /// The same threads, for one who has less patience.
    pub(crate) fn within(&self, patience: Duration) -> Self {
        Self { patience: patience.min(self.patience), shared: Arc::clone(&self.shared) }
    }
}

impl<K> Shared<K> {
    fn pending(&self) -> MutexGuard<'_, HashMap<K, Pending>> {
        self.pending.lock()
    }
}

impl<K: Clone + Eq + Hash + Send + 'static> DiskThreads<K> {
    /// Takes the place of the one who may ask this disk.
    ///
    /// # Errors
    /// It has not answered an earlier request yet.
    pub(crate) fn take(&self, disk: K, request: &'static str) -> Result<Permit<K>, Pending> {
        let mut pending = self.shared.pending();
        if let Some(earlier) = pending.get(&disk) {
            return Err(*earlier);
        }
        pending.insert(disk.clone(), Pending { request, since: Instant::now() });
        Ok(Permit { disk, shared: Arc::clone(&self.shared) })
    }

    /// The disks that have not answered for at least `age`.
    pub(crate) fn silent(&self, age: Duration) -> Vec<(K, Pending)> {
        let pending = self.shared.pending();
        let old = pending.iter().filter(|(_, pending)| pending.since.elapsed() >= age);
        old.map(|(disk, pending)| (disk.clone(), *pending)).collect()
    }
}

impl<K: Eq + Hash + Send + Sync + 'static> Permit<K> {
    /// Does the work on a thread of its own, and then calls `tell` with the result. The disk may be asked again before
    /// `tell` is called.
    ///
    /// # Errors
    /// There is no thread for it.
    pub(crate) fn run<T>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
        tell: impl FnOnce(T) + Send + 'static,
    ) -> io::Result<()> {
        let thread = move || {
            let answer = work();
            drop(self);
            tell(answer);
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
    /// Asks the disk with this device, after whatever it is asked already, and waits for its answer.
    ///
    /// # Errors
    /// The disk is silent: it has not answered within our patience, or had not answered an earlier request for as long.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        device: &Path,
        request: &'static str,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<io::Result<T>, SilentDisk> {
        let place = self.wait_for_place(device, request).await?;
        let asked = Pending { request, since: Instant::now() };
        let (tell, answer) = oneshot::channel();
        // If nobody waits any more, the answer is dropped.
        if let Err(error) = place.run(work, move |answer| drop(tell.send(answer))) {
            return Ok(Err(error));
        }
        match tokio::time::timeout(self.patience, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Ok(Err(io::Error::other("the thread that read the disk panicked"))),
            Err(_) => Err(asked.of(device)),
        }
    }

    async fn wait_for_place(&self, device: &Path, request: &'static str) -> Result<Permit<PathBuf>, SilentDisk> {
        loop {
            let answered = self.shared.answered.notified();
            tokio::pin!(answered);
            // Before the look: what is answered in between counts.
            answered.as_mut().enable();
            let earlier = match self.take(device.to_owned(), request) {
                Ok(place) => return Ok(place),
                Err(earlier) => earlier,
            };
            let left = self.patience.saturating_sub(earlier.since.elapsed());
            if tokio::time::timeout(left, answered).await.is_err() {
                return Err(earlier.of(device));
            }
        }
    }

    /// Those of these devices that have not answered for at least `age`.
    pub(crate) fn silent_among(&self, devices: &[PathBuf], age: Duration) -> Vec<SilentDisk> {
        let silent = self.silent(age).into_iter().filter(|(device, _)| devices.contains(device));
        silent.map(|(device, pending)| pending.of(&device)).collect()
    }
}

impl Pending {
    fn of(self, device: &Path) -> SilentDisk {
        SilentDisk { disk: device.display().to_string(), request: self.request, age: self.since.elapsed() }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Work that waits until the sender is dropped, as for a disk that hangs.
    fn hanging() -> (mpsc::Sender<()>, impl FnOnce() -> io::Result<&'static str> + Send + 'static) {
        let (heal, healed) = mpsc::channel();
        let work = move || {
            let _ = healed.recv();
            Ok("late")
        };
        (heal, work)
    }

    #[tokio::test]
    async fn a_silent_disk_has_one_thread_and_holds_up_no_other() {
        let threads = DiskThreads::new(Duration::from_millis(100));
        let (vda, vdb) = (Path::new("/dev/vda"), Path::new("/dev/vdb"));
        let (heal, work) = hanging();
        let silent = threads.ask(vda, "flush", work).await.expect_err("it hangs");
        assert_eq!((silent.disk.as_str(), silent.request), ("/dev/vda", "flush"));
        assert!(silent.age >= Duration::from_millis(100), "{silent:?}");
        let began = Instant::now();
        for _ in 0..1000 {
            let silent = threads.ask(vda, "read", || -> io::Result<()> { panic!("a second thread was started") }).await;
            assert_eq!(silent.expect_err("it still hangs").request, "flush", "what it was asked first is named");
        }
        assert!(began.elapsed() < 100 * threads.patience, "nobody waits for it again");
        assert_eq!(threads.ask(vdb, "read", || Ok(7)).await.expect("it answers").expect("read"), 7);
        assert_eq!(threads.silent_among(&[vdb.to_owned()], Duration::ZERO), []);
        assert_eq!(threads.silent_among(&[vda.to_owned()], Duration::ZERO).len(), 1);

        drop(heal);
        while !threads.silent(Duration::ZERO).is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let well = threads.ask(vda, "read", || Ok(8)).await;
        assert_eq!(well.expect("it answers again").expect("read"), 8);
    }

    #[tokio::test]
    async fn a_slow_answer_is_waited_for_by_the_next_request() {
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
    async fn a_panic_leaves_no_disk_silent() {
        let threads = DiskThreads::new(Duration::from_secs(10));
        let device = Path::new("/dev/vda");
        let broken = threads.ask(device, "read", || -> io::Result<()> { panic!("on purpose") }).await;
        assert!(broken.expect("not silent").is_err());
        threads.ask(device, "read", || Ok(())).await.expect("not silent").expect("read");
    }
}
