//! The end of a volume: its disk says that it is being released, then its bytes are wiped, then the claim is taken off.
//!
//! From the first step on there is no volume any more; until the last, the disk is not free. The disk itself says so, and
//! whoever finds it goes on: after a restart the wiping begins anew, since nothing but the disk's end of it is written
//! down.

use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use quarry_disk::claim::{self, Claim, Found, Sectors};
use quarry_disk::{Disk, remains};
use quarry_volume::{Error, Result, show_size};

use super::disks::{Any, Held};
use super::view::{Place, View, place};
use super::{Inner, blocking};
use crate::Wipe;

/// The largest range that is wiped at once: between two, the process can end.
const CHUNK: u64 = 1 << 30;
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

/// The releases under way, by their disks.
#[derive(Default)]
pub(super) struct Releases {
    jobs: Mutex<HashMap<Place, Job>>,
}

#[derive(Default)]
struct Job {
    progress: Arc<Progress>,
    /// Why and when it has stopped.
    failed: Option<(String, Instant)>,
}

#[derive(Default)]
struct Progress {
    done: AtomicU64,
    total: AtomicU64,
}

impl Releases {
    fn jobs(&self) -> MutexGuard<'_, HashMap<Place, Job>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that somebody works on it.
    pub(super) fn begin(&self, disk: Place) {
        self.jobs().insert(disk, Job::default());
    }

    /// Notes that nobody has to work on it any more.
    pub(super) fn end(&self, disk: &Place) {
        self.jobs().remove(disk);
    }

    /// The same as [`Self::begin`], unless somebody works on it, or has failed just now.
    fn begin_again(&self, disk: &Place) -> bool {
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

    fn fail(&self, disk: &Place, why: String) {
        if let Some(job) = self.jobs().get_mut(disk) {
            job.failed = Some((why, Instant::now()));
        }
    }

    fn progress(&self, disk: &Place) -> Arc<Progress> {
        self.jobs().get(disk).map(|job| Arc::clone(&job.progress)).unwrap_or_default()
    }

    /// How far a disk has come.
    pub(super) fn of(&self, disk: &Place) -> Option<Wiping> {
        let jobs = self.jobs();
        let job = jobs.get(disk)?;
        Some(Wiping {
            done: job.progress.done.load(Ordering::Relaxed),
            total: job.progress.total.load(Ordering::Relaxed),
            failed: job.failed.as_ref().map(|(why, ..)| why.clone()),
        })
    }

    /// Those that have failed, in words.
    pub(super) fn problems(&self) -> Vec<String> {
        let jobs = self.jobs();
        let failed = |((name, ..), job): (&Place, &Job)| {
            let (why, ..) = job.failed.as_ref()?;
            Some(format!("the disk {name} is not free although its volume was deleted: {why}"))
        };
        let mut problems: Vec<String> = jobs.iter().filter_map(failed).collect();
        problems.sort_unstable();
        problems
    }

    /// Forgets failures of disks that have nothing to be released any more.
    fn retain(&self, view: &View) {
        let releasing = |disk: &Place| {
            view.disks.iter().any(|seen| {
                place(&seen.raw.disk) == *disk && !matches!(seen.raw.found, Ok(Found::Nothing | Found::Claimed(_)))
            })
        };
        self.jobs().retain(|disk, job| job.failed.is_none() || releasing(disk));
    }
}

impl Inner {
    /// Goes on with what an earlier process, or an earlier attempt, has not brought to its end.
    pub(super) fn go_on_releasing(self: &Arc<Self>, view: &View) {
        self.releases.retain(view);
        for seen in view.disks.iter().filter(|seen| matches!(seen.raw.found, Ok(Found::Releasing(_)))) {
            let disk = seen.raw.disk.clone();
            if self.releases.begin_again(&place(&disk)) {
                tokio::spawn(Arc::clone(self).release(disk, None));
            }
        }
    }

    /// Brings a release to its end, and notes how that went.
    pub(super) async fn release(self: Arc<Self>, disk: Disk, held: Option<Arc<dyn Held>>) {
        let here = place(&disk);
        let progress = self.releases.progress(&here);
        let result = self.wipe_and_release(&disk, held, &progress).await;
        self.invalidate();
        match result {
            Ok(()) => {
                self.releases.end(&here);
                tracing::info!(pool = self.name, disk = disk.name, "the disk is free again");
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
            let held = match held {
                Some(held) => held,
                None => inner.disks.hold(&disk)?,
            };
            held.drop_partitions()?;
            let claim = match claim::read(&Any(&*held)).map_err(|error| inner.explain(&error))? {
                Found::Releasing(claim) => claim,
                found => {
                    return Err(Error::unavailable(format!("the disk {} holds {} by now", disk.name, found.words())));
                }
            };
            // The protective MBR goes when the wiping is done.
            let rest = remains(&Any(&*held), held.size())
                .map_err(|error| Error::host(format!("the disk {}: {error}", disk.name)))?;
            Ok((held, claim, rest.boot.is_some()))
        });
        let (held, claim, unwiped) = begun.await?;
        if unwiped {
            self.wipe(&held, &claim, progress).await?;
        }
        let inner = Arc::clone(self);
        blocking(move || claim::release(&Any(&*held), &claim).map_err(|error| inner.explain(&error))).await
    }

    /// Wipes the volume's bytes by the pool's policy, and flushes that.
    async fn wipe(&self, held: &Arc<dyn Held>, claim: &Claim, progress: &Progress) -> Result<()> {
        if self.wipe == Wipe::None {
            return Ok(());
        }
        let mut discard = self.wipe == Wipe::Discard;
        progress.total.store(claim.length, Ordering::Relaxed);
        let mut done = 0;
        while done < claim.length {
            let (offset, length) = (claim.offset + done, CHUNK.min(claim.length - done));
            let device = Arc::clone(held);
            let discarded = blocking(move || match discard && device.discard(offset, length)? {
                true => Ok(true),
                // The policy is a promise: what cannot be discarded is zeroed.
                false => device.zero(offset, length).map(|()| false),
            });
            discard = discarded.await?;
            done += length;
            progress.done.store(done, Ordering::Relaxed);
        }
        let device = Arc::clone(held);
        blocking(move || {
            device.flush().map_err(|error| {
                Error::host(format!("flushing {} wiped on {:?}: {error}", show_size(done), device.path()))
            })
        })
        .await
    }
}

/// Has the disk say that its claim is being released, and no more: the wiping comes before the rest, and a cut in the
/// middle of it must find the disk so. Returns when it would survive a power cut.
///
/// [`claim::release`] says it before it erases anything; here it is kept from erasing.
pub(super) fn announce(disk: &dyn Held, claim: &Claim) -> Result<(), claim::Error> {
    let only = OnlyRecord { disk, refused: Cell::new(false) };
    match claim::release(&only, claim) {
        Err(_) if only.refused.get() => Ok(()),
        result => result,
    }
}

/// A disk on which nothing can be written but the record.
struct OnlyRecord<'a> {
    disk: &'a dyn Sectors,
    /// Whether something else was to be written.
    refused: Cell<bool>,
}

impl Sectors for OnlyRecord<'_> {
    fn path(&self) -> &Path {
        self.disk.path()
    }

    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn sector_size(&self) -> u32 {
        self.disk.sector_size()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.disk.read_exact_at(buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        const RECORD: std::ops::Range<u64> = 1 << 20..2 << 20;
        if RECORD.contains(&offset) && !self.refused.get() {
            return self.disk.write_all_at(bytes, offset);
        }
        self.refused.set(true);
        Err(io::Error::other("not before the wiping is done"))
    }

    fn flush(&self) -> io::Result<()> {
        self.disk.flush()
    }
}
