//! The one cached report of a volume group, and how it is known to be true.
//!
//! A report is dropped when we change the volume group ourselves, and when a disk comes or goes. Before an answer older
//! than [`FRESH`] is used, or when the kernel told of any block device since, the metadata headers of the physical
//! volumes are compared with those that the report saw: one small read a disk, no lvm process. Every commit of lvm
//! changes them. So an idle node runs no lvm at all, and a change made by hand shows in the next answer.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use quarry_lvm::{Lookup, VolumeGroup, metadata_fingerprint, report};
use std::sync::Arc;

use crate::Uevents;

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

/// The metadata headers of some disks; a disk that cannot be read has none, and equals nothing.
type Fingerprints = Vec<(PathBuf, Option<[u8; 32]>)>;

struct Seen {
    view: View,
    /// What the disks said before the report was made.
    fingerprints: Fingerprints,
    /// [`State::changes`] at that time.
    changes: u64,
    /// [`Uevents::heard`] at that time, or when the fingerprints were compared last.
    heard: (u64, u64),
    /// When the fingerprints were last known to be right.
    checked: Instant,
}

#[derive(Default)]
struct State {
    seen: Option<Seen>,
    /// Counts our own changes of the volume group.
    changes: u64,
    /// Counts the reports.
    reports: u64,
}

/// The cached report of one volume group.
pub(crate) struct Cache {
    group: String,
    uevents: Uevents,
    state: Mutex<State>,
    /// Held while a report is made: callers that come meanwhile share it. Holds when and why the last one failed.
    asking: Arc<tokio::sync::Mutex<Option<(Instant, View)>>>,
}

impl Cache {
    pub(crate) fn new(group: &str, uevents: Uevents) -> Arc<Self> {
        Arc::new(Self { group: group.to_owned(), uevents, state: Mutex::default(), asking: Arc::default() })
    }

    pub(crate) fn uevents(&self) -> &Uevents {
        &self.uevents
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        asked.await.unwrap_or_else(|error| View::Absent(format!("the report ended unexpectedly ({error})")))
    }

    /// The remembered view, if it is known to be true.
    pub(crate) async fn remembered(&self) -> Option<View> {
        let heard = self.uevents.heard();
        let (view, known) = {
            let state = self.state();
            let seen = state.seen.as_ref()?;
            // A disk that came or went, or our own change: the report itself is old.
            if seen.changes != state.changes || seen.heard.1 != heard.1 {
                return None;
            }
            let young = seen.checked.elapsed() < FRESH;
            if young && seen.heard == heard {
                return Some(seen.view.clone());
            }
            match &seen.view {
                // There is nothing to compare: what is not there may have come.
                View::Absent(_) => return None,
                View::Found(..) => (seen.view.clone(), seen.fingerprints.clone()),
            }
        };
        let began = Instant::now();
        let now = fingerprints(known.iter().map(|(device, _)| device.clone()).collect()).await;
        if now != known || now.iter().any(|(_, fingerprint)| fingerprint.is_none()) {
            return None;
        }
        let mut state = self.state();
        if let Some(seen) = state.seen.as_mut().filter(|seen| seen.fingerprints == known) {
            seen.checked = began;
            seen.heard = heard;
        }
        Some(view)
    }

    /// Asks lvm. The headers are read before it is asked, so that what changes meanwhile is noticed next time.
    /// What is no answer, and so is not remembered, comes as an error.
    async fn ask(&self) -> Result<View, View> {
        let mut devices: Vec<PathBuf> = self
            .state()
            .seen
            .as_ref()
            .map(|seen| seen.fingerprints.iter().map(|(device, _)| device.clone()).collect())
            .unwrap_or_default();
        for _ in 0..TRIES {
            let changes = self.state().changes;
            let heard = self.uevents.heard();
            let checked = Instant::now();
            let before = fingerprints(devices.clone()).await;
            let view = match report(&[&self.group]).await.map(|report| report.get(&self.group).clone()) {
                Ok(Lookup::Found(group)) => {
                    let mut state = self.state();
                    state.reports += 1;
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
            let found = match &view {
                View::Found(group, _) => group.metadata_devices(),
                View::Absent(_) => Vec::new(),
            };
            let same = found == devices;
            devices = found;
            if same || matches!(view, View::Absent(_)) {
                self.state().seen = Some(Seen { view: view.clone(), fingerprints: before, changes, heard, checked });
                return Ok(view);
            }
        }
        Err(View::Absent(format!(
            "the physical volumes of volume group {} change faster than they can be read",
            self.group
        )))
    }
}

async fn fingerprints(devices: Vec<PathBuf>) -> Fingerprints {
    let read = move || {
        devices
            .into_iter()
            .map(|device| {
                let fingerprint = metadata_fingerprint(&device).ok();
                (device, fingerprint)
            })
            .collect()
    };
    tokio::task::spawn_blocking(read).await.unwrap_or_default()
}
