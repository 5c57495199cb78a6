//! The cached state of a volume group, and how its validity is checked.
//!
//! Its source is lvm's report, or the disks themselves (see [`read`]), which have the same contents. It is
//! dropped when Quarry changes the volume group, and when a disk appears or disappears. If it is older than
//! [`FRESH`], or the kernel has reported an event of any block device since, the metadata headers of the
//! physical volumes are compared with those at the time before it is used: one small read per disk, and no
//! lvm process. Every commit of lvm changes them. So an idle node runs no lvm at all, and a change made by
//! hand shows in the next answer.
//!
//! An unresponsive disk makes its own volume group unreadable, and nothing else: each disk is read in one
//! thread, there is one comparison at a time, and as long as a disk is unresponsive, no lvm is started,
//! because it would hang as well.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use quarry_lvm::{Locator, Lookup, VolumeGroup};
use quarry_volume::StorageId;

use super::disks::{Fingerprints, LvmDisks};
use super::lost::{LostVolumes, Search};
use super::volume::storage_of;
use crate::{EventCounts, Uevents, UnresponsiveDisk};

pub(crate) mod read;

/// How long a report is used without reading the disks. This is less than the interval at which the node
/// checks for changes from outside, so that each check sees them.
const FRESH: Duration = Duration::from_secs(4);
/// How often a report is repeated because the disks changed in the meantime.
const TRIES: usize = 5;

/// The result of a report.
#[derive(Clone, Debug)]
pub(crate) enum View {
    /// The complete volume group, and the number of the report, which is different whenever anything may have
    /// changed.
    Found(Arc<VolumeGroup>, u64),
    /// Every disk was read, and the volume group does not exist. Says so.
    Missing(String),
    /// The volume group cannot be used, with the reason.
    Absent(String),
}

#[derive(Clone)]
struct CachedReport {
    view: View,
    /// The headers on the disks before the report.
    fingerprints: Fingerprints,
    /// [`State::changes`] at that time.
    changes: u64,
    /// [`Uevents::counts`] at that time, or at the last comparison of the fingerprints.
    counts: EventCounts,
    /// When the fingerprints were last known to match.
    checked: Instant,
    /// The physical volumes that the report did not find.
    lost: Option<LostVolumes>,
}

impl CachedReport {
    fn devices(&self) -> Vec<PathBuf> {
        self.fingerprints.iter().map(|(device, _)| device.clone()).collect()
    }
}

#[derive(Default)]
struct State {
    seen: Option<CachedReport>,
    /// Counts Quarry's own changes of the volume group.
    changes: u64,
    /// Counts the reports.
    reports: u64,
    /// The identity of the volume group that was last seen.
    storage: Option<StorageId>,
}

/// The answer from memory alone.
enum CacheCheck {
    /// This is the answer.
    Answer(View),
    /// This is the answer if the fingerprints still match.
    Compare(Box<CachedReport>),
}

/// The cached report of one volume group.
pub(crate) struct Cache {
    group: String,
    locator: Locator,
    uevents: Uevents,
    disks: LvmDisks,
    search: Search,
    state: Mutex<State>,
    /// Held while the fingerprints are compared: concurrent callers wait for that comparison.
    comparing: tokio::sync::Mutex<()>,
    /// Held during a report: concurrent callers share it. Contains when and why the last one failed.
    reporting: Arc<tokio::sync::Mutex<Option<(Instant, View)>>>,
}

impl Cache {
    pub(crate) fn new(group: &str, locator: Locator, uevents: Uevents, disks: LvmDisks) -> Arc<Self> {
        Arc::new(Self {
            group: group.to_owned(),
            locator,
            uevents,
            disks,
            search: Search::default(),
            state: Mutex::default(),
            comparing: tokio::sync::Mutex::default(),
            reporting: Arc::default(),
        })
    }

    pub(crate) fn uevents(&self) -> &Uevents {
        &self.uevents
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Records that Quarry is about to change the volume group, or has changed it.
    pub(crate) fn invalidate(&self) {
        self.state().changes += 1;
    }

    /// The current volume group: from memory if that is known to be valid, otherwise from its disks or from lvm.
    pub(crate) async fn view(self: &Arc<Self>) -> View {
        let came = Instant::now();
        if let Some(view) = self.cached().await {
            return view;
        }
        let mut last_failure = Arc::clone(&self.reporting).lock_owned().await;
        if let Some(view) = self.cached().await {
            return view;
        }
        // Do not wait for a second report, which may hang like the first one.
        if let Some((_, view)) = last_failure.as_ref().filter(|(failed, _)| *failed >= came) {
            return view.clone();
        }
        // A separate task: if a caller that gives up left an unknown process behind, every caller would start
        // another report that hangs.
        let cache = Arc::clone(self);
        let asked = tokio::spawn(async move {
            let answer = cache.report().await;
            *last_failure = answer.as_ref().err().map(|view| (Instant::now(), view.clone()));
            answer.unwrap_or_else(|view| view)
        });
        asked.await.unwrap_or_else(|error| View::Absent(format!("reading the report panicked ({error})")))
    }

    /// The answer without lvm: the cached view, if it is known to be valid, or that a disk is unresponsive.
    pub(crate) async fn cached(&self) -> Option<View> {
        match self.check_cache()? {
            CacheCheck::Answer(view) => return Some(view),
            CacheCheck::Compare(_) => {}
        }
        let _guard = self.comparing.lock().await;
        match self.check_cache()? {
            CacheCheck::Answer(view) => Some(view),
            CacheCheck::Compare(seen) => self.compare(*seen).await,
        }
    }

    /// The answer from memory, without reading the disks. `None`: the report itself is outdated.
    fn check_cache(&self) -> Option<CacheCheck> {
        let counts = self.uevents.counts();
        let state = self.state();
        let seen = state.seen.as_ref()?;
        // lvm would hang on it, too.
        if let Some(unresponsive) = self.disks.overdue(&seen.devices()) {
            return Some(CacheCheck::Answer(self.unresponsive_view(&unresponsive)));
        }
        // A disk appeared or disappeared, or Quarry made a change.
        if seen.changes != state.changes || seen.counts.disks != counts.disks {
            return None;
        }
        let young = seen.checked.elapsed() < FRESH;
        if young && seen.counts == counts {
            return Some(CacheCheck::Answer(seen.view.clone()));
        }
        match &seen.view {
            // There are no fingerprints to compare, and the missing group may have appeared.
            View::Absent(_) | View::Missing(_) => None,
            View::Found(..) => Some(CacheCheck::Compare(Box::new(seen.clone()))),
        }
    }

    /// Compares the fingerprints of the disks with those at the time of the report.
    async fn compare(&self, seen: CachedReport) -> Option<View> {
        let (counts, began) = (self.uevents.counts(), Instant::now());
        let now = match self.disks.fingerprints(seen.devices()).await {
            Ok(now) => now,
            Err(unresponsive) => return Some(self.unresponsive_view(&unresponsive)),
        };
        if now != seen.fingerprints || now.iter().any(|(_, fingerprint)| fingerprint.is_none()) {
            return None;
        }
        if let (Some(lost), View::Found(group, _)) = (&seen.lost, &seen.view)
            && lost.may_have_returned(group, &self.search, &self.disks, counts).await
        {
            return None;
        }
        let mut state = self.state();
        if let Some(same) = state.seen.as_mut().filter(|same| same.fingerprints == seen.fingerprints) {
            same.checked = began;
            same.counts = counts;
        }
        Some(seen.view)
    }

    fn unresponsive_view(&self, unresponsive: &UnresponsiveDisk) -> View {
        View::Absent(format!("volume group {} cannot be read: {unresponsive}", self.group))
    }

    /// Flushes the disks with the volume group's metadata.
    pub(crate) async fn flush(&self, group: &VolumeGroup) -> Vec<(PathBuf, Result<io::Result<()>, UnresponsiveDisk>)> {
        self.disks.flush(group.metadata_devices()).await
    }

    /// The disks of the volume group, as last seen, that have not answered for at least `age`.
    pub(crate) fn unresponsive(&self, age: Duration) -> Vec<UnresponsiveDisk> {
        let devices = self.state().seen.as_ref().map(CachedReport::devices).unwrap_or_default();
        self.disks.unresponsive(&devices, age)
    }

    /// The first of them that takes longer than a healthy disk.
    pub(crate) fn overdue(&self) -> Option<UnresponsiveDisk> {
        let devices = self.state().seen.as_ref().map(CachedReport::devices).unwrap_or_default();
        self.disks.overdue(&devices)
    }

    /// The identity of the volume group that was last seen, even if it is gone now.
    pub(crate) fn last_storage(&self) -> Option<StorageId> {
        self.state().storage.clone()
    }

    /// Reads the volume group, with lvm if that is necessary. A result that must not be cached is returned as an error.
    async fn report(&self) -> Result<View, View> {
        match self.read_without_lvm().await {
            Some(view) => view,
            None => self.report_of_lvm().await,
        }
    }

    /// Runs lvm. The headers are read first, so that a change during the report is noticed by the next call.
    /// A result that must not be cached is returned as an error.
    async fn report_of_lvm(&self) -> Result<View, View> {
        let (mut devices, lost) = {
            let state = self.state();
            let seen = state.seen.as_ref();
            (seen.map(CachedReport::devices).unwrap_or_default(), seen.and_then(|seen| seen.lost.clone()))
        };
        for _ in 0..TRIES {
            let changes = self.state().changes;
            let counts = self.uevents.counts();
            let checked = Instant::now();
            let read = self.disks.fingerprints(devices.clone()).await;
            let before = read.map_err(|unresponsive| self.unresponsive_view(&unresponsive))?;
            let view = match self.locator.report(counts.disks).await {
                Ok(Lookup::Found(group)) => {
                    let mut state = self.state();
                    state.reports += 1;
                    state.storage = Some(storage_of(group.uuid));
                    View::Found(Arc::new(*group), state.reports)
                }
                Ok(Lookup::Missing) => {
                    View::Missing(format!("volume group {} does not exist on this node", self.group))
                }
                Ok(Lookup::Unreadable(why)) => {
                    View::Absent(format!("volume group {} cannot be read: {why}", self.group))
                }
                // Not cached: the next call asks again.
                Err(error) => {
                    return Err(View::Absent(format!("volume group {} cannot be read: {error}", self.group)));
                }
            };
            let View::Found(group, _) = &view else {
                let seen =
                    CachedReport { view: view.clone(), fingerprints: Vec::new(), changes, counts, checked, lost: None };
                self.state().seen = Some(seen);
                return Ok(view);
            };
            let found = group.metadata_devices();
            let same = found == devices;
            devices = found;
            if same {
                let lost = LostVolumes::of(group, &self.search, &self.disks, counts, lost.as_ref()).await;
                let seen = CachedReport { view: view.clone(), fingerprints: before, changes, counts, checked, lost };
                self.state().seen = Some(seen);
                return Ok(view);
            }
        }
        Err(View::Absent(format!("the physical volumes of volume group {} changed while they were read", self.group)))
    }
}

#[cfg(test)]
mod tests;
