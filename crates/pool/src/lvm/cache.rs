//! The one cached report of a volume group, and how it is known to be true.
//!
//! A report is dropped when we change the volume group ourselves, and when a disk comes or goes. Before an answer older
//! than [`FRESH`] is used, or when the kernel told of any block device since, the metadata headers of the physical
//! volumes are compared with those that the report saw: one small read a disk, no lvm process. Every commit of lvm
//! changes them. So an idle node runs no lvm at all, and a change made by hand shows in the next answer.
//!
//! A disk that does not answer makes its own volume group unreadable, and nothing else: each is asked on one thread, one
//! comparison is under way at a time, and while a disk is silent no lvm is started that would hang on it as well.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use quarry_lvm::{Locator, Lookup, VolumeGroup};
use quarry_volume::StorageId;

use super::disks::{Fingerprints, LvmDisks};
use super::lost::{Lost, Search};
use crate::{SilentDisk, Uevents};

/// For how long an answer is used without a look at the disks: less than the time between two looks of those who wait
/// for changes from outside, so that each look sees them.
const FRESH: Duration = Duration::from_secs(4);
/// How often a report is repeated because the disks changed while it was made.
const TRIES: usize = 5;

/// What a report said.
#[derive(Clone, Debug)]
pub(crate) enum View {
    /// The volume group, completely, and the number of the report: another one where anything may be different.
    Found(Arc<VolumeGroup>, u64),
    /// It cannot be used, and why.
    Absent(String),
}

#[derive(Clone)]
struct CachedReport {
    view: View,
    /// What the disks said before the report was made.
    fingerprints: Fingerprints,
    /// [`State::changes`] at that time.
    changes: u64,
    /// [`Uevents::heard`] at that time, or when the fingerprints were compared last.
    heard: (u64, u64),
    /// When the fingerprints were last known to be right.
    checked: Instant,
    /// The physical volumes that the report did not find.
    lost: Option<Lost>,
}

impl CachedReport {
    fn devices(&self) -> Vec<PathBuf> {
        self.fingerprints.iter().map(|(device, _)| device.clone()).collect()
    }
}

#[derive(Default)]
struct State {
    seen: Option<CachedReport>,
    /// Counts our own changes of the volume group.
    changes: u64,
    /// Counts the reports.
    reports: u64,
    /// The identity of the volume group that was seen last.
    storage: Option<StorageId>,
}

/// What memory alone says.
enum Glance {
    /// This is the answer.
    Told(View),
    /// This, if the disks still say the same.
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
    /// Held while the fingerprints are compared: callers that come meanwhile wait for that one comparison.
    comparing: tokio::sync::Mutex<()>,
    /// Held while a report is made: callers that come meanwhile share it. Holds when and why the last one failed.
    asking: Arc<tokio::sync::Mutex<Option<(Instant, View)>>>,
}

impl Cache {
    pub(crate) fn new(group: &str, archives: u32, uevents: Uevents, disks: LvmDisks) -> Arc<Self> {
        Arc::new(Self {
            group: group.to_owned(),
            locator: Locator::new(group, archives),
            uevents,
            disks,
            search: Search::default(),
            state: Mutex::default(),
            comparing: tokio::sync::Mutex::default(),
            asking: Arc::default(),
        })
    }

    pub(crate) fn uevents(&self) -> &Uevents {
        &self.uevents
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Says that the volume group is about to be changed, or was changed, by us.
    pub(crate) fn invalidate(&self) {
        self.state().changes += 1;
    }

    /// The volume group as it is: from memory where that is known to be true, else from lvm.
    pub(crate) async fn view(self: &Arc<Self>) -> View {
        let came = Instant::now();
        if let Some(view) = self.remembered().await {
            return view;
        }
        let mut last_failure = Arc::clone(&self.asking).lock_owned().await;
        if let Some(view) = self.remembered().await {
            return view;
        }
        // Nobody waits for a second report that may hang as the first one did.
        if let Some((_, view)) = last_failure.as_ref().filter(|(failed, _)| *failed >= came) {
            return view.clone();
        }
        // A task of its own: a caller that gives up must not leave a process behind that the next one does not know of,
        // or a report that hangs would be started once by every caller.
        let cache = Arc::clone(self);
        let asked = tokio::spawn(async move {
            let answer = cache.ask().await;
            *last_failure = answer.as_ref().err().map(|view| (Instant::now(), view.clone()));
            answer.unwrap_or_else(|view| view)
        });
        asked.await.unwrap_or_else(|error| View::Absent(format!("reading the report panicked ({error})")))
    }

    /// What is known without asking lvm: the remembered view, if it is known to be true, or that a disk is silent.
    pub(crate) async fn remembered(&self) -> Option<View> {
        match self.glance()? {
            Glance::Told(view) => return Some(view),
            Glance::Compare(_) => {}
        }
        let _turn = self.comparing.lock().await;
        match self.glance()? {
            Glance::Told(view) => Some(view),
            Glance::Compare(seen) => self.compare(*seen).await,
        }
    }

    /// What memory says, without a look at the disks; `None`: the report itself is old.
    fn glance(&self) -> Option<Glance> {
        let heard = self.uevents.heard();
        let state = self.state();
        let seen = state.seen.as_ref()?;
        // lvm would hang on it too.
        if let Some(silent) = self.disks.overdue(&seen.devices()) {
            return Some(Glance::Told(self.silent_view(&silent)));
        }
        // A disk that came or went, or our own change.
        if seen.changes != state.changes || seen.heard.1 != heard.1 {
            return None;
        }
        let young = seen.checked.elapsed() < FRESH;
        if young && seen.heard == heard {
            return Some(Glance::Told(seen.view.clone()));
        }
        match &seen.view {
            // There is nothing to compare: what is not there may have come.
            View::Absent(_) => None,
            View::Found(..) => Some(Glance::Compare(Box::new(seen.clone()))),
        }
    }

    /// Compares what the disks say with what they said when the report was made.
    async fn compare(&self, seen: CachedReport) -> Option<View> {
        let (heard, began) = (self.uevents.heard(), Instant::now());
        let now = match self.disks.fingerprints(seen.devices()).await {
            Ok(now) => now,
            Err(silent) => return Some(self.silent_view(&silent)),
        };
        if now != seen.fingerprints || now.iter().any(|(_, fingerprint)| fingerprint.is_none()) {
            return None;
        }
        if let (Some(lost), View::Found(group, _)) = (&seen.lost, &seen.view)
            && lost.may_be_back(group, &self.search, &self.disks, heard).await
        {
            return None;
        }
        let mut state = self.state();
        if let Some(same) = state.seen.as_mut().filter(|same| same.fingerprints == seen.fingerprints) {
            same.checked = began;
            same.heard = heard;
        }
        Some(seen.view)
    }

    fn silent_view(&self, silent: &SilentDisk) -> View {
        View::Absent(format!("volume group {} cannot be read: {silent}", self.group))
    }

    /// Flushes the disks that carry the volume group's metadata.
    pub(crate) async fn flush(&self, group: &VolumeGroup) -> Vec<(PathBuf, Result<io::Result<()>, SilentDisk>)> {
        self.disks.flush(group.metadata_devices()).await
    }

    /// The disks of the volume group, as far as it was ever seen, that have not answered for at least `age`.
    pub(crate) fn silent(&self, age: Duration) -> Vec<SilentDisk> {
        let devices = self.state().seen.as_ref().map(CachedReport::devices).unwrap_or_default();
        self.disks.silent(&devices, age)
    }

    /// The first of them that takes longer than a healthy disk does.
    pub(crate) fn overdue(&self) -> Option<SilentDisk> {
        let devices = self.state().seen.as_ref().map(CachedReport::devices).unwrap_or_default();
        self.disks.overdue(&devices)
    }

    /// The identity of the volume group that was seen last, whether it is still there or not.
    pub(crate) fn last_storage(&self) -> Option<StorageId> {
        self.state().storage.clone()
    }

    /// Asks lvm. The headers are read before it is asked, so that what changes meanwhile is noticed next time.
    /// What is no answer, and so is not remembered, comes as an error.
    async fn ask(&self) -> Result<View, View> {
        let (mut devices, lost) = {
            let state = self.state();
            let seen = state.seen.as_ref();
            (seen.map(CachedReport::devices).unwrap_or_default(), seen.and_then(|seen| seen.lost.clone()))
        };
        for _ in 0..TRIES {
            let changes = self.state().changes;
            let heard = self.uevents.heard();
            let checked = Instant::now();
            let read = self.disks.fingerprints(devices.clone()).await;
            let before = read.map_err(|silent| self.silent_view(&silent))?;
            let view = match self.locator.report(heard.1).await {
                Ok(Lookup::Found(group)) => {
                    let mut state = self.state();
                    state.reports += 1;
                    state.storage = Some(StorageId::of(&group.uuid));
                    View::Found(Arc::new(*group), state.reports)
                }
                Ok(Lookup::Missing) => View::Absent(format!(
                    "volume group {} does not exist on this node: create it (vgcreate), or correct the configuration",
                    self.group
                )),
                Ok(Lookup::Unreadable(why)) => {
                    View::Absent(format!("volume group {} cannot be read: {why}", self.group))
                }
                // Not remembered: the next question asks again.
                Err(error) => {
                    return Err(View::Absent(format!("volume group {} cannot be read: {error}", self.group)));
                }
            };
            let View::Found(group, _) = &view else {
                let seen =
                    CachedReport { view: view.clone(), fingerprints: Vec::new(), changes, heard, checked, lost: None };
                self.state().seen = Some(seen);
                return Ok(view);
            };
            let found = group.metadata_devices();
            let same = found == devices;
            devices = found;
            if same {
                let lost = Lost::of(group, &self.search, &self.disks, heard, lost.as_ref()).await;
                let seen = CachedReport { view: view.clone(), fingerprints: before, changes, heard, checked, lost };
                self.state().seen = Some(seen);
                return Ok(view);
            }
        }
        Err(View::Absent(format!("the physical volumes of volume group {} changed while they were read", self.group)))
    }
}

#[cfg(test)]
mod tests;
