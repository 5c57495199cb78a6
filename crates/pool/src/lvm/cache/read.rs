//! Reads the volume group from its disks, without lvm.
//!
//! lvm is run only for what it alone can judge: which disks belong to the volume group when Quarry starts or disks have
//! appeared or disappeared, and everything that the reader does not know, see [`quarry_lvm::metadata`].

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use quarry_lvm::metadata::{self, NeedsReport};
use quarry_lvm::{Lookup, VolumeGroup};

use super::{Cache, CachedReport, TRIES, View};
use crate::UnresponsiveDisk;
use crate::lvm::disks::Fingerprints;

/// How often a volume group was read, by the reason why lvm was needed.
static READS: Mutex<BTreeMap<&'static str, u64>> = Mutex::new(BTreeMap::new());

/// The reason of the reads for which lvm was not needed.
const NONE: &str = "";

/// In tests, one of so many reads is compared with lvm's report, beginning with the first one.
const COMPARED: u64 = 3;

/// How often volume groups were read since this process started. The key is the reason why lvm was run for that, a
/// word for metrics; it is empty for the reads without lvm.
pub fn volume_group_reads() -> BTreeMap<&'static str, u64> {
    READS.lock().clone()
}

/// Why the volume group cannot be read without lvm.
#[derive(Debug)]
pub(super) enum Fallback {
    /// lvm would hang as well.
    Unresponsive(UnresponsiveDisk),
    /// There is no report that the disks can be compared with.
    NoReport(&'static str),
    /// What is on the disks.
    Disks(NeedsReport),
}

impl From<UnresponsiveDisk> for Fallback {
    fn from(disk: UnresponsiveDisk) -> Self {
        Self::Unresponsive(disk)
    }
}

impl From<NeedsReport> for Fallback {
    fn from(why: NeedsReport) -> Self {
        Self::Disks(why)
    }
}

/// What was read from the disks.
struct Read {
    group: VolumeGroup,
    /// The headers of all disks, which did not change meanwhile.
    fingerprints: Fingerprints,
}

impl Cache {
    /// The current volume group from its disks. Without it, the view if lvm cannot be run now, or `None`.
    pub(super) async fn read_without_lvm(&self) -> Option<Result<View, View>> {
        let reason = match self.read().await {
            Ok(view) => {
                count(NONE);
                return Some(Ok(view));
            }
            Err(Fallback::Unresponsive(disk)) => return Some(Err(self.unresponsive_view(&disk))),
            Err(Fallback::NoReport(reason)) => reason,
            Err(Fallback::Disks(why)) => {
                tracing::debug!(volume_group = self.group, %why, "running lvm to read the volume group");
                why.label()
            }
        };
        count(reason);
        quarry_fault::note(|| format!("quarry-lvm: with lvm: {reason}"));
        None
    }

    async fn read(&self) -> Result<View, Fallback> {
        let (last, changes, counts) = {
            let (counts, state) = (self.uevents.counts(), self.state());
            let seen = state.seen.as_ref().ok_or(Fallback::NoReport("first"))?;
            let View::Found(last, _) = &seen.view else { return Err(Fallback::NoReport("absent")) };
            (Arc::clone(last), state.changes, counts)
        };
        if !self.locator.has_same_devices(counts.disks).await {
            return Err(Fallback::NoReport("disk-event"));
        }
        let checked = Instant::now();
        let read = self.read_disks(&last).await?;
        tracing::debug!(volume_group = self.group, duration = ?checked.elapsed(), "the volume group was read without lvm");
        if quarry_fault::takes_notes() && reads_without_lvm().is_multiple_of(COMPARED) {
            self.compare_with_lvm(&last, &read).await;
        }
        let Read { group, fingerprints } = read;
        // Only the disks with metadata: the others do not change.
        let carrying = group.metadata_devices();
        let fingerprints = fingerprints.into_iter().filter(|(device, _)| carrying.contains(device)).collect();
        let mut state = self.state();
        state.reports += 1;
        let view = View::Found(Arc::new(group), state.reports);
        state.seen = Some(CachedReport { view: view.clone(), fingerprints, changes, counts, checked, lost: None });
        Ok(view)
    }

    /// Reads the disks of the last volume group until they do not change meanwhile.
    async fn read_disks(&self, last: &Arc<VolumeGroup>) -> Result<Read, Fallback> {
        let missing = |pv: &quarry_lvm::PhysicalVolume| Fallback::Disks(NeedsReport::Missing(pv.uuid));
        let devices = last.physical_volumes.iter().map(|pv| pv.device.clone().ok_or_else(|| missing(pv)));
        let devices: Vec<PathBuf> = devices.collect::<Result<_, _>>()?;
        let mut changed = None;
        for _ in 0..TRIES {
            let disks = self.disks.metadata(devices.clone()).await??;
            let before: Fingerprints = disks.iter().map(|disk| (disk.device.clone(), Some(disk.fingerprint))).collect();
            let last = Arc::clone(last);
            let group = self.disks.ask_kernel(&self.group, move || metadata::next(&last, &disks)).await?;
            let group = group.map_err(NeedsReport::Kernel)??;
            let after = self.disks.fingerprints(devices.clone()).await?;
            match before.iter().zip(&after).find(|(before, after)| before != after) {
                None => return Ok(Read { group, fingerprints: before }),
                Some(((device, _), _)) => changed = Some(NeedsReport::Changed(device.clone())),
            }
        }
        Err(changed.map_or(Fallback::Disks(NeedsReport::NoMetadata), Fallback::Disks))
    }

    /// For tests: compares with lvm's report, and notes the result.
    async fn compare_with_lvm(&self, last: &Arc<VolumeGroup>, read: &Read) {
        let mut group = read.group.clone();
        let mut differences = Vec::new();
        for _ in 0..TRIES {
            let Ok(Lookup::Found(report)) = self.locator.report(self.uevents.counts().disks).await else { break };
            // What changed in the meantime, such as which volumes are open, is not a difference.
            let Ok(again) = self.read_disks(last).await else { break };
            if again.group == group && *report == group {
                return quarry_fault::note(|| "quarry-lvm: same".to_owned());
            }
            differences.push((again.group == group).then(|| difference(&report, &group)));
            group = again.group;
        }
        quarry_fault::note(|| match lasting(&differences) {
            None => "quarry-lvm: changing".to_owned(),
            Some(lines) => format!("quarry-lvm: {} differs from lvm's report: {lines}", self.group),
        });
    }
}

/// The difference that the last two comparisons found. `None` stands for a comparison during which the volume group
/// changed. A volume that is active or open for a moment while lvm reads makes one comparison differ, with the volume
/// group the same before and after.
fn lasting(differences: &[Option<String>]) -> Option<&str> {
    match differences {
        [.., Some(before), Some(last)] if before == last => Some(last),
        _ => None,
    }
}

fn reads_without_lvm() -> u64 {
    READS.lock().get(NONE).copied().unwrap_or_default()
}

fn count(reason: &'static str) {
    *READS.lock().entry(reason).or_default() += 1;
}

/// The first lines in which two volume groups differ, each with the name above it.
fn difference(report: &VolumeGroup, read: &VolumeGroup) -> String {
    let (report, read) = (format!("{report:#?}"), format!("{read:#?}"));
    let mut name = "";
    let mut shown = Vec::new();
    for (number, (report, read)) in report.lines().map(str::trim).zip(read.lines().map(str::trim)).enumerate() {
        if report.starts_with("name: ") {
            name = report;
        }
        if report != read {
            shown.push(format!("{number} ({name}): `{report}`, read `{read}`"));
        }
    }
    shown.truncate(5);
    shown.join("; ")
}

#[cfg(test)]
mod tests;
