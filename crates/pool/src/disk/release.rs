//! The end of a volume: its disk is marked as being released, then its data is wiped, then the claim is
//! removed.
//!
//! After the first step, the volume no longer exists; until the last step, the disk is not free. The mark is
//! on the disk itself, so any process that finds it resumes the release.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use quarry_disk::claim::{self, ClaimState};
use quarry_disk::{Disk, find_remnants};
use quarry_volume::{Error, Result};

use super::disks::{Any, Held};
use super::key::DiskKey;
use super::view::View;
use super::{Inner, blocking};
use crate::Wiping;

/// When a failed release is retried. A disk that was pulled and put back is a new one to the kernel, and is
/// retried at once. (Events are no reason to retry, because each attempt causes some.)
const RETRY: Duration = Duration::from_secs(60);

/// The running and stopped releases, by disk.
#[derive(Default)]
pub(super) struct Releases {
    jobs: Mutex<HashMap<DiskKey, Job>>,
}

#[derive(Default)]
struct Job {
    progress: Arc<Progress>,
    /// Why and when it stopped.
    failed: Option<(String, Instant)>,
}

/// The progress that a running release reports.
#[derive(Default)]
pub(super) struct Progress {
    pub(super) done: AtomicU64,
    pub(super) total: AtomicU64,
}

impl Releases {
    fn jobs(&self) -> MutexGuard<'_, HashMap<DiskKey, Job>> {
        self.jobs.lock()
    }

    /// Marks a release as running.
    pub(super) fn begin(&self, disk: DiskKey) {
        self.jobs().insert(disk, Job::default());
    }

    /// Removes a release that is complete.
    pub(super) fn end(&self, disk: &DiskKey) {
        self.jobs().remove(disk);
    }

    /// Like [`Self::begin`], unless the release is running, or has failed recently.
    fn begin_retry(&self, disk: &DiskKey) -> bool {
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

    /// The progress of a disk.
    pub(super) fn of(&self, disk: &DiskKey) -> Option<Wiping> {
        let jobs = self.jobs();
        let job = jobs.get(disk)?;
        Some(Wiping {
            done: job.progress.done.load(Ordering::Relaxed),
            total: job.progress.total.load(Ordering::Relaxed),
            failed: job.failed.as_ref().map(|(why, ..)| why.clone()),
        })
    }

    /// The progress of all disks with a running or stopped release, by disk name.
    pub(super) fn all(&self) -> Vec<(String, Wiping)> {
        let disks: Vec<DiskKey> = self.jobs().keys().cloned().collect();
        disks.into_iter().filter_map(|disk| Some((disk.name.clone(), self.of(&disk)?))).collect()
    }

    /// The failed releases, as problems to report.
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

    /// Removes failures of disks that no longer need a release.
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
    /// Resumes releases that an earlier process, or an earlier attempt, did not complete. `changes`: the number
    /// of Quarry's own changes before the disks were read for this view.
    pub(super) fn resume_releases(self: &Arc<Self>, view: &View, changes: u64) {
        self.releases.retain(view);
        for seen in view.disks.iter().filter(|seen| matches!(seen.raw.found, Ok(ClaimState::Releasing(_)))) {
            let disk = seen.raw.disk.clone();
            let here = DiskKey::of(&disk);
            // A release that was completed since the disk was read was counted as a change before it ended. To
            // resume it would hold the disk, which is free now, and for that time the disk would look used. The
            // next read decides.
            let is_outdated = || self.memory().changes != changes;
            if is_outdated() || !self.releases.begin_retry(&here) {
                continue;
            }
            if is_outdated() {
                self.releases.end(&here);
                continue;
            }
            tokio::spawn(Arc::clone(self).release(disk, None));
        }
    }

    /// Completes a release, and records the result.
    pub(super) async fn release(self: Arc<Self>, disk: Disk, held: Option<Arc<dyn Held>>) {
        let here = DiskKey::of(&disk);
        let progress = self.releases.progress(&here);
        let result = self.wipe_and_release(&disk, held, &progress).await;
        self.mark_changed(&disk);
        match result {
            Ok(()) => {
                self.releases.end(&here);
                tracing::info!(pool = self.name, disk = disk.name, "the disk's volume is wiped, and the disk is free");
                // More space is free than was reported.
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
                // The release was completed in the meantime, and the disk may belong to a new volume.
                ClaimState::Nothing | ClaimState::Claimed(_) | ClaimState::HalfClaimed(_) if goes_on => {
                    return Ok(None);
                }
                found => {
                    return Err(Error::unavailable(format!("the disk {} now holds {}", disk.name, found.describe())));
                }
            };
            // The process that wrote the mark may have been killed before the flush, or between the two
            // slots. A disk that could come back as a volume must not be wiped.
            let claim = claim::begin_release(&Any(&*held), &claim).map_err(|error| inner.explain(&error))?;
            held.drop_partitions()?;
            // The protective MBR is removed after the wipe, so its presence shows that the wipe is not
            // complete.
            let rest = find_remnants(&Any(&*held), held.size())
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
