//! The physical volumes below volume groups. Each is accessed in at most one thread, with a time limit.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quarry_lvm::PvUuid;
use quarry_lvm::metadata::{Disk, NeedsReport, read_disk};
use tokio::task::JoinSet;

use crate::UnresponsiveDisk;
use crate::threads::{DiskThreads, PATIENCE, REPORT_AFTER};

/// The operations on a device. Every function may block forever; tests use doubles.
pub(super) trait DiskIo: Send + Sync {
    /// See [`quarry_lvm::metadata_fingerprint`].
    fn fingerprint(&self, device: &Path) -> io::Result<[u8; 32]>;
    /// See [`read_disk`].
    fn metadata(&self, device: &Path) -> Result<Disk, NeedsReport>;
    /// See [`quarry_lvm::flush`].
    fn flush(&self, device: &Path) -> io::Result<()>;
    /// See [`quarry_lvm::label_uuid`].
    fn label_uuid(&self, device: &Path) -> io::Result<Option<PvUuid>>;
}

/// The devices of this host.
struct HostIo;

impl DiskIo for HostIo {
    fn fingerprint(&self, device: &Path) -> io::Result<[u8; 32]> {
        quarry_lvm::metadata_fingerprint(device)
    }

    fn metadata(&self, device: &Path) -> Result<Disk, NeedsReport> {
        read_disk(device)
    }

    fn flush(&self, device: &Path) -> io::Result<()> {
        quarry_lvm::flush(device)
    }

    fn label_uuid(&self, device: &Path) -> io::Result<Option<PvUuid>> {
        quarry_lvm::label_uuid(device)
    }
}

/// The fingerprints of some devices' metadata headers. An unreadable device has `None`, which matches
/// nothing.
pub(super) type Fingerprints = Vec<(PathBuf, Option<[u8; 32]>)>;

/// The devices of all volume groups of this host. Cheap to clone; all clones share the threads.
#[derive(Clone)]
pub(crate) struct LvmDisks {
    io: Arc<dyn DiskIo>,
    threads: DiskThreads<PathBuf>,
}

impl Default for LvmDisks {
    fn default() -> Self {
        Self::over(Arc::new(HostIo), PATIENCE)
    }
}

impl LvmDisks {
    pub(super) fn over(io: Arc<dyn DiskIo>, patience: Duration) -> Self {
        Self { io, threads: DiskThreads::new(patience) }
    }

    /// Reads the metadata headers of all these devices at once.
    ///
    /// # Errors
    /// One of them is unresponsive.
    pub(super) async fn fingerprints(&self, devices: Vec<PathBuf>) -> Result<Fingerprints, UnresponsiveDisk> {
        let read = self.ask_all(devices, "read", |io, device| io.fingerprint(device)).await;
        read.into_iter().map(|(device, answer)| Ok((device, answer?.ok()))).collect()
    }

    /// Reads the metadata on all these devices at once.
    ///
    /// # Errors
    /// One of them is unresponsive, or why lvm's report is needed.
    pub(super) async fn metadata(
        &self,
        devices: Vec<PathBuf>,
    ) -> Result<Result<Vec<Disk>, NeedsReport>, UnresponsiveDisk> {
        let mut disks = Vec::new();
        for (device, answer) in self.ask_all(devices, "read", |io, device| Ok(io.metadata(device))).await {
            match answer?.unwrap_or_else(|error| Err(NeedsReport::Unreadable { device, error })) {
                Ok(disk) => disks.push(disk),
                Err(why) => return Ok(Err(why)),
            }
        }
        Ok(Ok(disks))
    }

    /// Asks the kernel about the devices of a volume group. It may have to wait for their disks, so there is one thread
    /// for each volume group.
    ///
    /// # Errors
    /// It does not answer.
    pub(super) async fn ask_kernel<T: Send + 'static>(
        &self,
        group: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<io::Result<T>, UnresponsiveDisk> {
        // The name takes the place of a device.
        let devices = Path::new("/dev/mapper").join(group);
        self.threads.ask(&devices, "status", || Ok(work())).await
    }

    /// Flushes the caches of all these devices at once.
    pub(super) async fn flush(
        &self,
        devices: Vec<PathBuf>,
    ) -> Vec<(PathBuf, Result<io::Result<()>, UnresponsiveDisk>)> {
        self.ask_all(devices, "flush", |io, device| io.flush(device)).await
    }

    /// Reads the labels of all these devices at once. A device that does not answer soon counts as
    /// unreadable.
    pub(super) async fn labels(&self, devices: Vec<PathBuf>) -> Vec<(PathBuf, io::Result<Option<PvUuid>>)> {
        let read = self.with_patience(REPORT_AFTER).ask_all(devices, "read", |io, device| io.label_uuid(device)).await;
        let flat = |answer: Result<io::Result<_>, UnresponsiveDisk>| {
            answer.unwrap_or_else(|unresponsive| Err(io::Error::other(unresponsive)))
        };
        read.into_iter().map(|(device, answer)| (device, flat(answer))).collect()
    }

    /// The same disks, with a shorter time limit.
    pub(super) fn with_patience(&self, patience: Duration) -> Self {
        Self { io: Arc::clone(&self.io), threads: self.threads.with_patience(patience) }
    }

    /// Those of these devices that have not answered for at least `age`.
    pub(super) fn unresponsive(&self, devices: &[PathBuf], age: Duration) -> Vec<UnresponsiveDisk> {
        self.threads.unresponsive_among(devices, age)
    }

    /// The first of these devices that has not answered for longer than a healthy disk takes.
    pub(super) fn overdue(&self, devices: &[PathBuf]) -> Option<UnresponsiveDisk> {
        self.unresponsive(devices, self.threads.patience).into_iter().next()
    }

    /// Sends the same request to all devices at once, and returns the answers in the order of the devices.
    async fn ask_all<T: Send + 'static>(
        &self,
        devices: Vec<PathBuf>,
        request: &'static str,
        work: fn(&dyn DiskIo, &Path) -> io::Result<T>,
    ) -> Vec<(PathBuf, Result<io::Result<T>, UnresponsiveDisk>)> {
        let mut asked = JoinSet::new();
        for (index, device) in devices.into_iter().enumerate() {
            let (io, threads, of) = (Arc::clone(&self.io), self.threads.clone(), device.clone());
            asked.spawn(async move {
                let answer = threads.ask(&device, request, move || work(&*io, &of)).await;
                (index, device, answer)
            });
        }
        let mut answers = asked.join_all().await;
        answers.sort_by_key(|(index, ..)| *index);
        answers.into_iter().map(|(_, device, answer)| (device, answer)).collect()
    }
}

#[cfg(test)]
pub(super) mod double {
    use std::collections::{HashMap, HashSet};
    use std::sync::{Condvar, Mutex};

    use super::*;

    /// Devices in memory: each has a fingerprint, may have a label, and may hang or fail.
    #[derive(Default)]
    pub(crate) struct FakeDisks {
        state: Mutex<State>,
        healed: Condvar,
    }

    #[derive(Default)]
    pub(crate) struct State {
        pub(crate) hanging: HashSet<PathBuf>,
        pub(crate) failing: HashSet<PathBuf>,
        pub(crate) generations: HashMap<PathBuf, u8>,
        pub(crate) labels: HashMap<PathBuf, PvUuid>,
        /// The metadata; the fingerprint is that of the generation.
        pub(crate) metadata: HashMap<PathBuf, Disk>,
        /// After how many of the next reads of the metadata the disk changes.
        pub(crate) changes_after_reads: usize,
        /// Every request that was started: its kind and its device.
        pub(crate) begun: Vec<(&'static str, PathBuf)>,
        /// The number of running requests.
        pub(crate) running: usize,
    }

    impl FakeDisks {
        pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
            let changed = change(&mut self.state.lock().unwrap());
            self.healed.notify_all();
            changed
        }

        fn serve<T>(&self, request: &'static str, device: &Path, answer: impl FnOnce(&State) -> T) -> io::Result<T> {
            let mut state = self.state.lock().unwrap();
            state.begun.push((request, device.to_owned()));
            state.running += 1;
            let mut state = self.healed.wait_while(state, |state| state.hanging.contains(device)).unwrap();
            state.running -= 1;
            if state.failing.contains(device) {
                return Err(io::Error::from_raw_os_error(nix::libc::EIO));
            }
            Ok(answer(&state))
        }
    }

    impl DiskIo for FakeDisks {
        fn fingerprint(&self, device: &Path) -> io::Result<[u8; 32]> {
            self.serve("read", device, |state| [state.generations.get(device).copied().unwrap_or_default(); 32])
        }

        fn metadata(&self, device: &Path) -> Result<Disk, NeedsReport> {
            let read = |state: &State| {
                let disk = state.metadata.get(device).cloned().ok_or(NeedsReport::NoMetadata)?;
                Ok(Disk { fingerprint: [state.generations.get(device).copied().unwrap_or_default(); 32], ..disk })
            };
            let unreadable = |error| NeedsReport::Unreadable { device: device.to_owned(), error };
            let answer = self.serve("metadata", device, read).map_err(unreadable)?;
            self.change(|state| {
                if let Some(left) = state.changes_after_reads.checked_sub(1) {
                    state.changes_after_reads = left;
                    let generation = state.generations.entry(device.to_owned()).or_default();
                    *generation = generation.wrapping_add(1);
                }
            });
            answer
        }

        fn flush(&self, device: &Path) -> io::Result<()> {
            self.serve("flush", device, |_| ())
        }

        fn label_uuid(&self, device: &Path) -> io::Result<Option<PvUuid>> {
            self.serve("label", device, |state| state.labels.get(device).copied())
        }
    }
}
