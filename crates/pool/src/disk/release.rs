//! The end of a volume: its disk says that it is being released, then its bytes are wiped, then the claim is taken off.
//!
//! From the first step on there is no volume any more; until the last, the disk is not free. The disk itself says so, and
//! whoever finds it goes on.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use quarry_disk::claim::{self, ClaimState};
use quarry_disk::{Disk, remains};
use quarry_volume::{Error, Result};

use super::disks::{Any, Held};
use super::key::DiskKey;
use super::view::View;
use super::{Inner, blocking};

/// After how long a release that failed is tried again. A disk that is put back is another one to the kernel, and comes
/// at once. (Events say nothing here: each attempt makes some.)
const RETRY: Duration = Duration::from_secs(60);

/// How far the wiping of a disk has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wiping {
    /// Bytes that are wiped.
    pub done: u64,
    /// Bytes that are to be wiped; 0 if there are none, or while that is not known yet.
    pub total: u64,
    /// Why it has stopped; it is tried again.
    pub failed: Option<String>,
}

impl fmt::Display for Wiping {
    /// In words: "being wiped, 37%".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("being wiped")?;
        if self.done > 0 && self.total > 0 {
            write!(f, ", {}%", u128::from(self.done.min(self.total)) * 100 / u128::from(self.total))?;
        }
        self.failed.as_ref().map_or(Ok(()), |why| write!(f, ", and stopped: {why}"))
    }
}

/// The releases under way, by their disks.
#[derive(Default)]
pub(super) struct Releases {
    jobs: Mutex<HashMap<DiskKey, Job>>,
}

#[derive(Default)]
struct Job {
    progress: Arc<Progress>,
    /// Why and when it has stopped.
    failed: Option<(String, Instant)>,
}

/// What is told of a wiping while it goes on.
#[derive(Default)]
pub(super) struct Progress {
    pub(super) done: AtomicU64,
    pub(super) total: AtomicU64,
}

impl Releases {
    fn jobs(&self) -> MutexGuard<'_, HashMap<DiskKey, Job>> {
        self.jobs.lock()
    }

    /// Notes that somebody works on it.
    pub(super) fn begin(&self, disk: DiskKey) {
        self.jobs().insert(disk, Job::default());
    }

    /// Notes that nobody has to work on it any more.
    pub(super) fn end(&self, disk: &DiskKey) {
        self.jobs().remove(disk);
    }

    /// The same as [`Self::begin`], unless somebody works on it, or has failed just now.
    fn begin_again(&self, disk: &DiskKey) -> bool {
        let mut jobs = self.jobs();
        let may = match jobs.get(disk).map(|job| &job.failed) {
            None => true,
            Some(None) => false,
            Some(Some((_, when))) => when.elapsed() >= RETRY,
        };
        if may {
            jobs.insert(disk.clone(), Job::default());
        }
        may
    }

    fn fail(&self, disk: &DiskKey, why: String) {
        if let Some(job) = self.jobs().get_mut(disk) {
            job.failed = Some((why, Instant::now()));
        }
    }

    fn progress(&self, disk: &DiskKey) -> Arc<Progress> {
        self.jobs().get(disk).map(|job| Arc::clone(&job.progress)).unwrap_or_default()
    }

    /// How far a disk has come.
    pub(super) fn of(&self, disk: &DiskKey) -> Option<Wiping> {
        let jobs = self.jobs();
        let job = jobs.get(disk)?;
        Some(Wiping {
            done: job.progress.done.load(Ordering::Relaxed),
            total: job.progress.total.load(Ordering::Relaxed),
            failed: job.failed.as_ref().map(|(why, ..)| why.clone()),
        })
    }

    /// All that are under way or have stopped, by the disks' names.
    pub(super) fn all(&self) -> Vec<(String, Wiping)> {
        let disks: Vec<DiskKey> = self.jobs().keys().cloned().collect();
        disks.into_iter().filter_map(|disk| Some((disk.name.clone(), self.of(&disk)?))).collect()
    }

    /// Those that have failed, in words.
    pub(super) fn problems(&self) -> Vec<String> {
        let jobs = self.jobs();
        let failed = |(DiskKey { name, .. }, job): (&DiskKey, &Job)| {
            let (why, ..) = job.failed.as_ref()?;
            Some(format!("the disk {name} is not free yet although its volume was deleted: {why}"))
        };
        let mut problems: Vec<String> = jobs.iter().filter_map(failed).collect();
        problems.sort_unstable();
        problems
    }

    /// Forgets failures of disks that have nothing to be released any more.
    fn retain(&self, view: &View) {
        let releasing = |disk: &DiskKey| {
            view.disks.iter().any(|seen| {
                DiskKey::of(&seen.raw.disk) == *disk
                    && !matches!(seen.raw.found, Ok(ClaimState::Nothing | ClaimState::Claimed(_)))
            })
        };
        self.jobs().retain(|disk, job| job.failed.is_none() || releasing(disk));
    }
}

impl Inner {
    /// Goes on with what an earlier process, or an earlier attempt, has not brought to its end.
    pub(super) fn go_on_releasing(self: &Arc<Self>, view: &View) {
        self.releases.retain(view);
        for seen in view.disks.iter().filter(|seen| matches!(seen.raw.found, Ok(ClaimState::Releasing(_)))) {
            let disk = seen.raw.disk.clone();
            if self.releases.begin_again(&DiskKey::of(&disk)) {
                tokio::spawn(Arc::clone(self).release(disk, None));
            }
        }
    }

    /// Brings a release to its end, and notes how that went.
    pub(super) async fn release(self: Arc<Self>, disk: Disk, held: Option<Arc<dyn Held>>) {
        let here = DiskKey::of(&disk);
        let progress = self.releases.progress(&here);
        let result = self.wipe_and_release(&disk, held, &progress).await;
        self.touched(&disk);
        match result {
            Ok(()) => {
                self.releases.end(&here);
                tracing::info!(pool = self.name, disk = disk.name, "the disk's volume is wiped, and the disk is free");
                // There is more room than was told.
                self.uevents.count(true);
            }
            Err(error) => {
                tracing::warn!(pool = self.name, disk = disk.name, %error, "the disk is not free yet");
                self.releases.fail(&here, error.message);
            }
        }
    }

    async fn wipe_and_release(
        self: &Arc<Self>,
        disk: &Disk,
        held: Option<Arc<dyn Held>>,
        progress: &Progress,
    ) -> Result<()> {
        let (inner, disk) = (Arc::clone(self), disk.clone());
        let begun = blocking(move || {
            let goes_on = held.is_none();
            let held = match held {
                Some(held) => held,
                None => inner.disks.hold(&disk)?,
            };
            let claim = match claim::read(&Any(&*held)).map_err(|error| inner.explain(&error))? {
                ClaimState::Releasing(claim) => claim,
                // What was seen is over: the release has ended since, and the disk may be a volume's again.
                ClaimState::Nothing | ClaimState::Claimed(_) | ClaimState::HalfClaimed(_) if goes_on => {
                    return Ok(None);
                }
                found => {
                    return Err(Error::unavailable(format!("the disk {} now holds {}", disk.name, found.words())));
                }
            };
            // Whoever said so may have been killed before it was flushed, or between the two slots: a disk that could come
            // back as a volume must not be wiped.
            let claim = claim::begin_release(&Any(&*held), &claim).map_err(|error| inner.explain(&error))?;
            held.drop_partitions()?;
            // The protective MBR goes when the wiping is done.
            let rest = remains(&Any(&*held), held.size())
                .map_err(|error| Error::host(format!("the disk {}: {error}", disk.name)))?;
            Ok(Some((held, claim, rest.boot.is_some())))
        });
        let Some((held, claim, unwiped)) = begun.await? else { return Ok(()) };
        let claim = match unwiped {
            true => self.wipe(&held, claim, progress).await?,
            false => claim,
        };
        let inner = Arc::clone(self);
        blocking(move || claim::release(&Any(&*held), &claim).map_err(|error| inner.explain(&error))).await
    }
}
