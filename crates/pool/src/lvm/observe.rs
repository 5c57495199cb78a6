//! Adds the kernel's facts about a volume group's disks, raids, snapshots and thin pools to the report: sizes, write
//! protection, failed images, lost contents. They change without any change of lvm's metadata, so they are read each
//! time.

use std::sync::Arc;

use parking_lot::Mutex;
use quarry_lvm::VolumeGroup;
use quarry_lvm::kernel::{self, Facts};

use super::snapshot::InvalidSnapshots;

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

/// Adds the kernel's facts to reports. If nothing has changed, it returns the same volume group again.
pub(super) struct Observer {
    last: Mutex<Option<Observed>>,
    invalid: Arc<InvalidSnapshots>,
}

impl Observer {
    pub(super) fn new(invalid: Arc<InvalidSnapshots>) -> Arc<Self> {
        Arc::new(Self { last: Mutex::default(), invalid })
    }

    /// The current volume group for that report, with a mark that is different whenever anything may have
    /// changed.
    pub(super) async fn observe(self: &Arc<Self>, group: Arc<VolumeGroup>, report: u64) -> (Arc<VolumeGroup>, u64) {
        let observer = Arc::clone(self);
        let unobserved = (Arc::clone(&group), report);
        // Reads sysfs and calls an ioctl: nothing that waits for a disk of the pool, but too slow for a thread that
        // serves calls. If a snapshot was lost, a file on the host's filesystem is written.
        tokio::task::spawn_blocking(move || observer.observe_now(&group, report)).await.unwrap_or(unobserved)
    }

    /// Whether the volume group had copy-on-write snapshots when it was last observed.
    pub(super) fn has_snapshots(&self) -> bool {
        self.last.lock().as_ref().is_some_and(|last| last.facts.snapshots().next().is_some())
    }

    fn observe_now(&self, group: &Arc<VolumeGroup>, report: u64) -> (Arc<VolumeGroup>, u64) {
        let mut last = self.last.lock();
        let before = last.as_ref().map(|last| last.facts.clone()).unwrap_or_default();
        let mut facts = kernel::facts(group, &before);
        self.invalid.keep(group, &mut facts);
        if let Some(last) = last.as_ref().filter(|last| last.report == report && last.facts == facts) {
            return (Arc::clone(&last.group), last.mark);
        }
        let mut observed = VolumeGroup::clone(group);
        facts.apply(&mut observed);
        let mark = last.as_ref().map_or(1, |last| last.mark.saturating_add(1));
        let observed = Observed { report, facts, group: Arc::new(observed), mark };
        let answer = (Arc::clone(&observed.group), mark);
        *last = Some(observed);
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_lvm::PhysicalVolume;

    #[tokio::test]
    async fn the_mark_changes_only_with_the_facts() {
        let pv = |device: &str| PhysicalVolume { device: Some(device.into()), ..PhysicalVolume::default() };
        let group =
            |device: &str| Arc::new(VolumeGroup { physical_volumes: vec![pv(device)], ..VolumeGroup::default() });
        let folder = tempfile::tempdir().unwrap();
        let observer = Observer::new(InvalidSnapshots::open(folder.path()));
        let (first, mark) = observer.observe(group("/dev/quarry-no-such-disk"), 1).await;
        assert_eq!(first.physical_volumes[0].device_size, None);
        let (again, same) = observer.observe(group("/dev/quarry-no-such-disk"), 1).await;
        assert!(Arc::ptr_eq(&first, &again) && same == mark);
        let (_, next) = observer.observe(group("/dev/quarry-no-such-disk"), 2).await;
        assert_ne!(next, mark);
    }
}
