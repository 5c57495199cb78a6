//! Reads disks with a time limit: a hanging disk delays nothing else.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use quarry_disk::claim::{self, ClaimState};
use quarry_disk::{Disk, find_remnants};

use super::RECHECK;
use super::disks::{Any, Disks};
use super::key::DiskKey;
use super::scan::Raw;
use crate::threads::{DiskThreads, PATIENCE, Pending, UnresponsiveDisk};

/// How often a damaged claim is read again at most: more only helps if the disk is claimed and released over and
/// over.
const MOST_REPEATS: u32 = 3;

/// A disk that took longer to fail is dying: the kernel resets it and tries again before it returns an error.
const SLOW: Duration = Duration::from_secs(2);

/// The last errors of disks that fail slowly, and when they were returned.
type SlowFailures = HashMap<DiskKey, (String, Instant)>;

/// Reads disks, each in at most one thread.
#[derive(Clone)]
pub(super) struct Reader {
    /// Whether a disk with a claim is flushed after it was read.
    flushes: bool,
    threads: DiskThreads<DiskKey>,
    slow: Arc<Mutex<SlowFailures>>,
}

impl Default for Reader {
    fn default() -> Self {
        Self::with_patience(PATIENCE)
    }
}

/// A reader for reports only, which does not flush.
pub(super) fn read_only_reader() -> Reader {
    Reader { flushes: false, ..Reader::default() }
}

impl Reader {
    pub(super) fn with_patience(patience: Duration) -> Self {
        Self { flushes: true, threads: DiskThreads::new(patience), slow: Arc::default() }
    }

    /// The disks that have not answered for at least `age`.
    pub(super) fn unresponsive(&self, age: Duration) -> Vec<UnresponsiveDisk> {
        let unresponsive = self.threads.unresponsive(age).into_iter();
        let describe = |(DiskKey { name: disk, .. }, pending): (DiskKey, Pending)| UnresponsiveDisk {
            disk,
            request: pending.request,
            age: pending.since.elapsed(),
        };
        unresponsive.map(describe).collect()
    }

    /// Reads all of them at once, and returns the results in the same order. Blocks.
    pub(super) fn read(&self, disks: &Arc<dyn Disks>, which: Vec<Disk>) -> Vec<Raw> {
        let patience = self.threads.patience;
        let end = Instant::now() + patience;
        let begun: Vec<(Disk, Result<Receiver<Raw>, String>)> = which
            .into_iter()
            .map(|disk| {
                let answer = self.begin(disks, disk.clone());
                (disk, answer)
            })
            .collect();
        let wait = |(disk, answer): (Disk, Result<Receiver<Raw>, String>)| {
            let raw = answer.and_then(|answer| {
                answer
                    .recv_timeout(end.saturating_duration_since(Instant::now()))
                    .map_err(|_| format!("it has not answered within {patience:.0?}; see the kernel log"))
            });
            raw.unwrap_or_else(|why| Raw::unreadable(disk, &why))
        };
        begun.into_iter().map(wait).collect()
    }

    /// Begins to read the disk. One that failed slowly would delay each caller: its last error is returned at once, and
    /// it is read again in the background, at most once in [`RECHECK`].
    fn begin(&self, disks: &Arc<dyn Disks>, disk: Disk) -> Result<Receiver<Raw>, String> {
        let last = self.slow().get(&DiskKey::of(&disk)).cloned();
        let Some((why, at)) = last else { return self.read_in_thread(disks, disk) };
        if at.elapsed() >= RECHECK {
            // The next caller gets what it finds.
            let _ = self.read_in_thread(disks, disk);
        }
        Err(why)
    }

    /// Reads the disk in a separate thread: a thread that waits for a disk cannot be interrupted.
    fn read_in_thread(&self, disks: &Arc<dyn Disks>, disk: Disk) -> Result<Receiver<Raw>, String> {
        // The same text every time: it is part of the volumes' state, and every change of the state is
        // published.
        let permit = self
            .threads
            .acquire(DiskKey::of(&disk), "read")
            .map_err(|_| "it is unresponsive: an earlier read has not returned; see the kernel log".to_owned())?;
        let (sender, answer) = mpsc::channel();
        let (flushes, disks, slow, began) = (self.flushes, Arc::clone(disks), Arc::clone(&self.slow), Instant::now());
        let report = move |raw: Raw| {
            let here = DiskKey::of(&raw.disk);
            let mut slow = slow.lock();
            // Without those that are gone: one that is there is read again and again.
            slow.retain(|disk, (_, at)| *disk != here && at.elapsed() < 10 * RECHECK);
            if let Err(why) = &raw.found
                && began.elapsed() >= SLOW
            {
                slow.insert(here, (why.clone(), Instant::now()));
            }
            drop(slow);
            // If the receiver is gone, the answer is dropped.
            drop(sender.send(raw));
        };
        permit
            .run(move || read(&*disks, disk, flushes), report)
            .map_err(|error| format!("cannot start a thread to read it: {error}"))?;
        Ok(answer)
    }

    fn slow(&self) -> MutexGuard<'_, SlowFailures> {
        self.slow.lock()
    }

    /// Lets the time pass after which disks that fail slowly are read again.
    #[cfg(test)]
    pub(super) fn age(&self) {
        for (_, at) in self.slow().values_mut() {
            *at -= 2 * RECHECK;
        }
    }
}

fn read(disks: &dyn Disks, disk: Disk, flushes: bool) -> Raw {
    let device = match disks.read(&disk) {
        Ok(device) => device,
        Err(error) => return Raw::unreadable(disk, &error.message),
    };
    // Reads of no bytes succeed, and would show that the disk holds nothing. But the kernel could not read its size.
    if device.size() == 0 {
        return Raw::unreadable(
            disk,
            "it has a size of 0 bytes; if that is right, exclude it from the pool by byId, paths, model or transports",
        );
    }
    let found = read_twice_if_damaged(&Any(&*device)).map_err(|error| error.to_string());
    // The claim may have been written by a Quarry process that was killed before its flush. Flush it before
    // anything relies on it: on the volume's existence, or on its deletion.
    let flushed = match &found {
        Ok(ClaimState::Claimed(_) | ClaimState::Releasing(_)) if flushes => {
            device.flush().map_err(|error| format!("flushing it: {error}"))
        }
        _ => Ok(()),
    };
    let found = match flushed.and(found) {
        Ok(found) => found,
        // No more reads: each may take the disk as long.
        Err(why) => return Raw::unreadable(disk, &why),
    };
    let remnants = find_remnants(&Any(&*device), device.size()).map_err(|error| error.to_string());
    Raw { disk, events: 0, found: Ok(found), remnants }
}

/// Reads the claim state of a disk, and reads it again if it is damaged: the places are read one after another,
/// so a claim that is made or released meanwhile, by another task or another process, looks damaged. What was
/// read the second time cannot be a result of the same change: a claim is made and released in an order in
/// which every state in between is a valid one.
fn read_twice_if_damaged(device: &Any<'_>) -> Result<ClaimState, claim::Error> {
    let mut found = claim::read(device)?;
    for _ in 0..MOST_REPEATS {
        if !matches!(found, ClaimState::Damaged(_)) {
            break;
        }
        let again = claim::read(device)?;
        if again == found {
            break;
        }
        found = again;
    }
    Ok(found)
}
