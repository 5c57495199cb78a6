//! Reads disks, each for a while at most: one that hangs holds up nobody but itself.

use std::collections::HashSet;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use quarry_disk::claim::{self, Found};
use quarry_disk::{Disk, remains};

use super::disks::{Any, Disks};
use super::look::Raw;
use super::view::{Place, place};

/// How long a disk may take to answer: one that sleeps has to spin up.
const PATIENCE: Duration = Duration::from_secs(20);

/// Remembers which disks have not answered yet, so that each occupies one thread at most.
#[derive(Clone)]
pub(super) struct Reader {
    patience: Duration,
    /// Whether a claim that is read is flushed.
    lasting: bool,
    under_way: Arc<Mutex<HashSet<Place>>>,
}

impl Default for Reader {
    fn default() -> Self {
        Self::with_patience(PATIENCE)
    }
}

/// For who only looks, and answers for nothing.
pub(super) fn onlooker() -> Reader {
    Reader { lasting: false, ..Reader::default() }
}

impl Reader {
    pub(super) fn with_patience(patience: Duration) -> Self {
        Self { patience, lasting: true, under_way: Arc::default() }
    }

    fn under_way(&self) -> MutexGuard<'_, HashSet<Place>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads all of them at once, and returns what was read in the same order. Blocks.
    pub(super) fn read(&self, disks: &Arc<dyn Disks>, which: Vec<Disk>) -> Vec<Raw> {
        let end = Instant::now() + self.patience;
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
                    .map_err(|_| format!("it has not answered within {:.0?}; see the kernel log", self.patience))
            });
            raw.unwrap_or_else(|why| Raw::unreadable(disk, &why))
        };
        begun.into_iter().map(wait).collect()
    }

    /// Has a thread of its own read the disk: nothing can call back one that waits for a disk.
    fn begin(&self, disks: &Arc<dyn Disks>, disk: Disk) -> Result<Receiver<Raw>, String> {
        let here = place(&disk);
        if !self.under_way().insert(here.clone()) {
            return Err("it does not answer: an earlier read has not come back; see the kernel log".to_owned());
        }
        let (tell, answer) = mpsc::channel();
        let (reader, disks) = (self.clone(), Arc::clone(disks));
        let read = move || {
            let raw = read(&*disks, disk, reader.lasting);
            reader.under_way().remove(&place(&raw.disk));
            // Nobody may be waiting any more.
            let _ = tell.send(raw);
        };
        match std::thread::Builder::new().name("read disk".to_owned()).spawn(read) {
            Ok(_) => Ok(answer),
            Err(error) => {
                self.under_way().remove(&here);
                Err(format!("there is no thread to read it: {error}"))
            }
        }
    }
}

fn read(disks: &dyn Disks, disk: Disk, lasting: bool) -> Raw {
    let device = match disks.read(&disk) {
        Ok(device) => device,
        Err(error) => return Raw::unreadable(disk, &error.message),
    };
    let found = claim::read(&Any(&*device)).map_err(|error| error.to_string());
    // It may be the word of a Quarry that was killed before its flush, and what is believed here is answered for: that a volume
    // is there, or is not any more.
    let lasting = match &found {
        Ok(Found::Claimed(_) | Found::Releasing(_)) if lasting => {
            device.flush().map_err(|error| format!("flushing it: {error}"))
        }
        _ => Ok(()),
    };
    let found = lasting.and(found);
    let remains = remains(&Any(&*device), device.size()).map_err(|error| error.to_string());
    Raw { disk, heard: 0, found, remains }
}
