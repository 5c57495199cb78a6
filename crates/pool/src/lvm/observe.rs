//! What the kernel says of a volume group's disks and raids, added to the report: sizes, write protection, failed images.
//! It changes without any change of lvm's metadata, so that no report may be remembered for it; it is asked each time.

use std::sync::Arc;

use parking_lot::Mutex;
use quarry_lvm::VolumeGroup;
use quarry_lvm::kernel::{self, Facts};

/// A volume group as report and kernel show it together.
#[derive(Clone)]
struct Observed {
    /// The number of the report.
    report: u64,
    facts: Facts,
    group: Arc<VolumeGroup>,
    /// Another one where anything is different.
    mark: u64,
}

/// Adds the kernel's facts to reports. One that says the same as the last gives the same volume group.
#[derive(Default)]
pub(super) struct Observer {
    last: Mutex<Option<Observed>>,
}

impl Observer {
    /// The volume group of that report as it is now, with a mark that is another one where anything may be different.
    pub(super) async fn observe(self: &Arc<Self>, group: Arc<VolumeGroup>, report: u64) -> (Arc<VolumeGroup>, u64) {
        let observer = Arc::clone(self);
        let unobserved = (Arc::clone(&group), report);
        // sysfs and an ioctl: nothing that waits for a disk, but no work for a thread that serves calls.
        tokio::task::spawn_blocking(move || observer.look(&group, report)).await.unwrap_or(unobserved)
    }

    fn look(&self, group: &Arc<VolumeGroup>, report: u64) -> (Arc<VolumeGroup>, u64) {
        let mut last = self.last.lock();
        let before = last.as_ref().map(|last| last.facts.clone()).unwrap_or_default();
        let facts = kernel::facts(group, &before);
        if let Some(last) = last.as_ref().filter(|last| last.report == report && last.facts == facts) {
            return (Arc::clone(&last.group), last.mark);
        }
        let mut observed = VolumeGroup::clone(group);
        facts.enter(&mut observed);
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
    async fn the_mark_changes_with_what_is_seen_alone() {
        let pv = |device: &str| PhysicalVolume {
            uuid: "p".into(),
            device: Some(device.into()),
            ..PhysicalVolume::default()
        };
        let group =
            |device: &str| Arc::new(VolumeGroup { physical_volumes: vec![pv(device)], ..VolumeGroup::default() });
        let observer = Arc::new(Observer::default());
        let (first, mark) = observer.observe(group("/dev/quarry-no-such-disk"), 1).await;
        assert_eq!(first.physical_volumes[0].device_size, None);
        let (again, same) = observer.observe(group("/dev/quarry-no-such-disk"), 1).await;
        assert!(Arc::ptr_eq(&first, &again) && same == mark);
        let (_, next) = observer.observe(group("/dev/quarry-no-such-disk"), 2).await;
        assert_ne!(next, mark);
    }
}
