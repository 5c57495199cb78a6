//! Adds the kernel's facts about a volume group's disks, raids, snapshots and thin pools to the report: sizes, write
//! protection, failed images, lost contents. They change without any change of lvm's metadata, so they are read each
//! time.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use quarry_lvm::kernel::{self, Facts};
use quarry_lvm::{VgUuid, VolumeGroup};

use super::disks::LvmDisks;
use super::snapshot::InvalidSnapshots;
use super::used_groups::UsedGroups;
use crate::UnresponsiveDisk;

/// A volume group according to both report and kernel.
#[derive(Clone)]
struct Observed {
    /// The number of the report.
    report: u64,
    facts: Facts,
    group: Arc<VolumeGroup>,
    /// Different whenever anything has changed.
    mark: u64,
}

/// How the kernel is asked, given the previous facts: [`kernel::facts`].
type AskFacts = fn(&VolumeGroup, &Facts) -> Facts;

/// Adds the kernel's facts to reports. If nothing has changed, it returns the same volume group again.
pub(super) struct Observer {
    /// The name of the volume group in the configuration.
    name: String,
    disks: LvmDisks,
    facts: AskFacts,
    /// Never held while anything is waited for.
    last: Mutex<Option<Observed>>,
    invalid: Arc<InvalidSnapshots>,
    used: Arc<UsedGroups>,
}

impl Observer {
    /// For the volume group with that name in the configuration.
    pub(super) fn new(name: &str, disks: LvmDisks, invalid: Arc<InvalidSnapshots>, used: Arc<UsedGroups>) -> Arc<Self> {
        Arc::new(Self { name: name.to_owned(), disks, facts: kernel::facts, last: Mutex::default(), invalid, used })
    }

    /// The current volume group for that report, with a mark that is different whenever anything may have
    /// changed.
    ///
    /// # Errors
    /// The kernel does not answer: it waits for a disk below a thin pool.
    pub(super) async fn observe(
        self: &Arc<Self>,
        group: Arc<VolumeGroup>,
        report: u64,
    ) -> Result<(Arc<VolumeGroup>, u64), UnresponsiveDisk> {
        let observer = Arc::clone(self);
        let unobserved = (Arc::clone(&group), report);
        // If a snapshot was lost, or the volume group is a new one, a file on the host's filesystem is written as well.
        let observed = self.ask_kernel(move || observer.observe_now(&group, report)).await?;
        Ok(observed.unwrap_or(unobserved))
    }

    /// Asks the kernel about the devices of the volume group, in its one thread for that: see [`LvmDisks::ask_kernel`].
    ///
    /// # Errors
    /// It does not answer.
    pub(super) async fn ask_kernel<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<io::Result<T>, UnresponsiveDisk> {
        self.disks.ask_kernel(&self.name, work).await
    }

    /// Whether the volume group had copy-on-write snapshots when it was last observed.
    pub(super) fn has_snapshots(&self) -> bool {
        self.last.lock().as_ref().is_some_and(|last| last.facts.snapshots().next().is_some())
    }

    /// Notes that a pool has changed the volume group with this UUID.
    pub(super) async fn note_change(&self, group: VgUuid) {
        if self.used.of(&self.name).contains(&group) {
            return;
        }
        let (used, name) = (Arc::clone(&self.used), self.name.clone());
        if let Err(error) = tokio::task::spawn_blocking(move || used.keep(&name, group)).await {
            tracing::warn!(%error, "cannot note which volume group is used");
        }
    }

    /// One call at a time: it has the volume group's only thread.
    fn observe_now(&self, group: &Arc<VolumeGroup>, report: u64) -> (Arc<VolumeGroup>, u64) {
        let last = self.last.lock().clone();
        let before = last.as_ref().map(|last| last.facts.clone()).unwrap_or_default();
        let mut facts = (self.facts)(group, &before);
        self.invalid.keep(group, &mut facts);
        self.used.found(&self.name, group.uuid);
        if let Some(last) = last.as_ref().filter(|last| last.report == report && last.facts == facts) {
            return (Arc::clone(&last.group), last.mark);
        }
        let mut observed = VolumeGroup::clone(group);
        facts.apply(&mut observed);
        let mark = last.map_or(1, |last| last.mark.saturating_add(1));
        let observed = Observed { report, facts, group: Arc::new(observed), mark };
        let answer = (Arc::clone(&observed.group), mark);
        *self.last.lock() = Some(observed);
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    use super::*;
    use quarry_lvm::PhysicalVolume;

    fn group(device: &str) -> Arc<VolumeGroup> {
        let pv = PhysicalVolume { device: Some(device.into()), ..PhysicalVolume::default() };
        Arc::new(VolumeGroup { physical_volumes: vec![pv], ..VolumeGroup::default() })
    }

    #[tokio::test]
    async fn the_mark_changes_only_with_the_facts() {
        let folder = tempfile::tempdir().unwrap();
        let observer = Observer::new(
            "vg",
            LvmDisks::default(),
            InvalidSnapshots::open(folder.path()),
            UsedGroups::open(folder.path()),
        );
        let (first, mark) = observer.observe(group("/dev/quarry-no-such-disk"), 1).await.unwrap();
        assert_eq!(first.physical_volumes[0].device_size, None);
        let (again, same) = observer.observe(group("/dev/quarry-no-such-disk"), 1).await.unwrap();
        assert!(Arc::ptr_eq(&first, &again) && same == mark);
        let (_, next) = observer.observe(group("/dev/quarry-no-such-disk"), 2).await.unwrap();
        assert_ne!(next, mark);
    }

    /// Set while the kernel waits for the metadata of a thin pool.
    static HANGS: AtomicBool = AtomicBool::new(true);

    fn hanging_facts(_: &VolumeGroup, before: &Facts) -> Facts {
        while HANGS.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        before.clone()
    }

    /// A hanging kernel must not stop the runtime, which has one thread here.
    #[tokio::test]
    async fn a_kernel_that_does_not_answer_blocks_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let patience = Duration::from_millis(200);
        let disks = LvmDisks::default().with_patience(patience);
        let observer = Observer {
            name: "vg".to_owned(),
            disks,
            facts: hanging_facts,
            last: Mutex::default(),
            invalid: InvalidSnapshots::open(folder.path()),
            used: UsedGroups::open(folder.path()),
        };
        let observer = Arc::new(observer);
        let hung = observer.observe(group("/dev/vdb"), 1).await.map(drop).unwrap_err();
        assert_eq!(hung.request, "status");
        let began = Instant::now();
        assert!(!observer.has_snapshots());
        // No call waits for it again, and no second thread is started.
        for _ in 0..100 {
            assert!(observer.observe(group("/dev/vdb"), 2).await.is_err());
            assert!(observer.ask_kernel(|| ()).await.is_err());
        }
        assert!(began.elapsed() < 20 * patience, "{:?}", began.elapsed());
        HANGS.store(false, Ordering::SeqCst);
        let (_, mark) = loop {
            match observer.observe(group("/dev/vdb"), 2).await {
                Ok(observed) => break observed,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        assert_eq!(mark, 2, "the late answer counted as well");
    }
}
