//! The disks that a pool of another kind selects, with the same checks as the disks of a pool of whole disks.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quarry_disk::claim::ClaimState;
use quarry_disk::{Disk, ExclusiveOpen, Selector, State, Udev};
use quarry_volume::{Error, Result};

use super::create::hold;
use super::disks::{Disks, Held};
use super::host::HostDisks;
use super::reader::Reader;
use super::report::Owner;
use super::scan::{self, PoolDisk, Queries, Raw, read_held};
use super::space::Space;
use super::{FRESH, RECHECK, blocking};
use crate::{EventCounts, Uevents};

/// How long a disk may take until it is held and was read again.
const PATIENCE: Duration = Duration::from_secs(60);

/// The disks that a pool selects.
pub(crate) struct Selection {
    /// The name of the pool.
    pool: String,
    /// The selectors of all pools that select disks, with the names of the pools.
    selectors: Arc<[(String, Selector)]>,
    disks: Arc<dyn Disks>,
    reader: Reader,
    queries: Queries,
    uevents: Uevents,
    last: Mutex<Option<Last>>,
    /// Since when it is not known of a disk whether the pool selects it, by its name and its number in the kernel's sequence.
    doubtful: Mutex<HashMap<(String, Option<u64>), Instant>>,
}

/// What was read last.
struct Last {
    counts: EventCounts,
    at: Instant,
    disks: Vec<PoolDisk>,
    /// When the facts about further disks may be known: [`wait`].
    waits: Option<Duration>,
    /// Whether this process has changed one of the disks since.
    changed: bool,
}

/// The disks that a pool selects, with their states.
#[derive(Debug, Default)]
pub(crate) struct Selected {
    pub(crate) disks: Vec<(Disk, State)>,
    /// Why further disks cannot be used: several pools select them, or the kernel's facts about them are impossible.
    pub(crate) problems: Vec<String>,
    /// The size of the sectors of every disk of the host, in bytes, by its device.
    pub(crate) sectors: HashMap<PathBuf, u64>,
}

/// The same before the states are known.
struct Gathered {
    own: Vec<Raw>,
    problems: Vec<String>,
    sectors: HashMap<PathBuf, u64>,
    waits: Option<Duration>,
}

impl Selection {
    /// Those of the host, for the pool with that name. `selectors` are those of all pools of this node: a disk that two of
    /// them match belongs to neither.
    pub(crate) fn new(pool: String, selectors: Arc<[(String, Selector)]>, uevents: Uevents) -> Self {
        Self::over(Arc::new(HostDisks::new()), pool, selectors, uevents)
    }

    pub(super) fn over(
        disks: Arc<dyn Disks>,
        pool: String,
        selectors: Arc<[(String, Selector)]>,
        uevents: Uevents,
    ) -> Self {
        let (reader, queries, last, doubtful) = Default::default();
        Self { pool, selectors, disks, reader, queries, uevents, last, doubtful }
    }

    /// Whether [`Self::read`] may have another result now than the last time: there was an event, or it is time to check
    /// what has no events.
    pub(crate) fn may_have_changed(&self) -> bool {
        let last = self.last.lock();
        let Some(last) = last.as_ref() else { return true };
        last.changed
            || last.counts != self.uevents.counts()
            || last.at.elapsed() >= RECHECK && last.disks.iter().any(is_unwatched)
            || last.waits.is_some_and(|wait| last.at.elapsed() >= wait)
    }

    /// Lets that much time pass since the last read.
    #[cfg(test)]
    pub(super) fn age(&self, time: Duration) {
        self.last.lock().iter_mut().for_each(|last| last.at -= time);
    }

    /// Reads the disks that the pool selects. One that was read before is read again only after an event.
    ///
    /// # Errors
    /// `Unavailable` if the host's tables cannot be read.
    pub(crate) async fn read(self: &Arc<Self>) -> Result<Selected> {
        let (counts, at) = (self.uevents.counts(), Instant::now());
        let earlier: Vec<PoolDisk> = {
            let last = self.last.lock();
            last.iter().flat_map(|last| &last.disks).filter(|seen| !is_unwatched(seen)).cloned().collect()
        };
        let (this, raws) = (Arc::clone(self), earlier.iter().map(|seen| seen.raw.clone()).collect::<Vec<_>>());
        let Gathered { own, problems, sectors, waits } = blocking(move || this.gather(&raws)).await?;
        let own = scan::determine_states(&self.disks, &self.queries, own, &earlier).await?;
        let disks = own.iter().map(|seen| (seen.raw.disk.clone(), state(&seen.raw, &seen.state))).collect();
        *self.last.lock() = Some(Last { counts, at, disks: own, waits, changed: false });
        Ok(Selected { disks, problems, sectors })
    }

    fn gather(&self, earlier: &[Raw]) -> Result<Gathered> {
        let found = self.disks.find().map_err(|error| Error::unavailable(error.to_string()))?;
        let assignment = self.disks.assign(&self.selectors, &found.disks);
        let conflicts = assignment.conflicts.iter().filter(|conflict| conflict.pools.contains(&self.pool));
        let mut problems: Vec<String> =
            conflicts.map(ToString::to_string).chain(found.failed.iter().map(ToString::to_string)).collect();
        let is_own = |disk: &&Disk| Owner::of(&assignment, disk).pool() == Some(&*self.pool);
        let may_be_own = |disk: &&Disk| {
            let possible = assignment.possible.get(&disk.name);
            !is_own(disk) && possible.is_some_and(|pools| pools.contains(&self.pool))
        };
        let mut doubtful = self.doubtful.lock();
        let before = std::mem::take(&mut *doubtful);
        let mut waits = None;
        for disk in found.disks.iter().filter(may_be_own).filter(|disk| disk.udev != Udev::Current) {
            let identity = (disk.name.clone(), disk.sequence);
            let since = before.get(&identity).copied().unwrap_or_else(Instant::now);
            let is_new = since.elapsed() < RECHECK;
            let wait = wait(disk, is_new);
            waits = Some(waits.map_or(wait, |least: Duration| least.min(wait)));
            if let Owner::Doubtful { why } = Owner::of(&assignment, disk)
                && !is_new
            {
                problems.push(format!("the disk {}: {why}", disk.name));
            }
            doubtful.insert(identity, since);
        }
        drop(doubtful);
        let own = found.disks.iter().filter(is_own);
        let own = scan::read_again(&self.disks, &self.reader, &self.uevents, own, earlier);
        let sectors = found.disks.iter().map(|disk| (disk.node.clone(), disk.logical_sector)).collect();
        Ok(Gathered { own, problems, sectors, waits })
    }

    /// Holds a disk exclusively if it is free: nothing that was read before counts.
    ///
    /// # Errors
    /// Why it is not free, phrased to follow "it": nothing was written.
    pub(crate) async fn hold_free(self: &Arc<Self>, disk: &Disk) -> Result<Arc<dyn Held>, String> {
        self.with_time_limit(disk, async |this, disk| {
            let (held, raw) = this.hold_and_read(disk).await?;
            let probe = this.disks.probe(&raw.disk).await.map_err(|error| error.message);
            match state(&raw, &raw.state(Some(probe), || ExclusiveOpen::Possible)) {
                State::Free => Ok(held),
                state => Err(state.reason().unwrap_or_default().to_owned()),
            }
        })
        .await
    }

    /// Holds a disk exclusively, whatever is on it.
    ///
    /// # Errors
    /// Why it cannot be held, phrased to follow "it".
    pub(crate) async fn hold(self: &Arc<Self>, disk: &Disk) -> Result<Arc<dyn Held>, String> {
        self.with_time_limit(disk, async |this, disk| Ok(this.hold_and_read(disk).await?.0)).await
    }

    /// Runs the work in a task of its own, which continues if its time is over.
    async fn with_time_limit<F>(
        self: &Arc<Self>,
        disk: &Disk,
        work: impl FnOnce(Arc<Self>, Disk) -> F,
    ) -> Result<Arc<dyn Held>, String>
    where
        F: Future<Output = Result<Arc<dyn Held>, String>> + Send + 'static,
    {
        match tokio::time::timeout(PATIENCE, tokio::spawn(work(Arc::clone(self), disk.clone()))).await {
            Ok(Ok(held)) => held,
            Ok(Err(join)) => Err(format!("was not checked, because the check panicked ({join}); please report it")),
            Err(_) => Err(format!("has not answered for {} s; see the kernel log", PATIENCE.as_secs())),
        }
    }

    /// Locks a disk without holding it: other programs can open it exclusively, but no other Quarry process uses it, and
    /// its name stays its own as long as the lock is kept.
    ///
    /// # Errors
    /// Why it cannot be locked, phrased to follow "it".
    pub(crate) async fn lock(self: &Arc<Self>, disk: &Disk) -> Result<Arc<dyn Space>, String> {
        let (this, disk) = (Arc::clone(self), disk.clone());
        let locked = blocking(move || this.disks.space(&disk, 0..disk.size)).await;
        locked.map_err(|error| format!("cannot be locked: {}", error.message))
    }

    /// Makes the next call read the disk again: this process has changed it.
    pub(crate) fn changed(&self, disk: &Disk) {
        self.uevents.count_disk(&disk.name);
        if let Some(last) = self.last.lock().as_mut() {
            last.changed = true;
        }
    }

    async fn hold_and_read(self: &Arc<Self>, disk: Disk) -> Result<(Arc<dyn Held>, Raw), String> {
        let this = Arc::clone(self);
        let held = blocking(move || hold_and_read(&this.disks, &this.reader, &this.selectors, &this.pool, &disk));
        held.await.map_err(|error| error.message)
    }
}

/// When more may be known about a disk that udev has not handled. The kernel's event is there before udev has handled the
/// disk, and what udev writes then is noticed only if its database can be watched.
fn wait(disk: &Disk, is_new: bool) -> Duration {
    match disk.udev {
        Udev::Awaited | Udev::Stale { .. } if is_new => FRESH,
        // There may be no udev at all.
        _ => RECHECK,
    }
}

/// Whether the state of a disk may change without an event.
fn is_unwatched(seen: &PoolDisk) -> bool {
    // It could not be read, by Quarry or by libblkid.
    let unread = matches!(seen.state, State::Unusable { .. }) || seen.raw.found.is_err() || seen.raw.remnants.is_err();
    unread || seen.may_change_without_event() || seen.raw.disk.udev != Udev::Current
}

/// Holds a disk and reads it again. It must still belong to the pool. Blocks.
pub(super) fn hold_and_read(
    disks: &Arc<dyn Disks>,
    reader: &Reader,
    selectors: &[(String, Selector)],
    pool: &str,
    disk: &Disk,
) -> Result<(Arc<dyn Held>, Raw)> {
    // A hanging disk must be detected by a caller that may wait.
    for raw in reader.read(disks, vec![disk.clone()]) {
        raw.found.map_err(|why| Error::unavailable(format!("cannot be read: {why}")))?;
    }
    let held = hold(&**disks, disk)?;
    // The kernel keeps what it has read of the disk while any program has it open, and does not see what another host
    // writes, or a program that writes to a device below.
    let dropped = disks.drop_cache(disk);
    dropped.map_err(|error| Error::unavailable(format!("was not read again: {}", error.message)))?;
    // A use without an exclusive hold shows only in the kernel's tables.
    let found = disks.find().map_err(|error| Error::unavailable(error.to_string()))?;
    let now = found.disks.into_iter().find(|now| (now.number, now.sequence) == (disk.number, disk.sequence));
    let now = now.ok_or_else(|| Error::unavailable(format!("the disk {} is gone", disk.name)))?;
    // udev or the kernel may have reported new facts since, and an exclusion may match them.
    let assignment = disks.assign(selectors, std::slice::from_ref(&now));
    if Owner::of(&assignment, &now).pool() != Some(pool) {
        return Err(Error::unavailable(format!("the disk {} no longer belongs to the pool", disk.name)));
    }
    let raw = read_held(&*held, &now);
    Ok((held, raw))
}

/// The state of a disk for a pool of another kind: a half-made claim is not its own.
fn state(raw: &Raw, state: &State) -> State {
    match (&raw.found, state) {
        (Ok(ClaimState::Nothing), state) => state.clone(),
        (_, State::Free) => State::NotEmpty { why: "has the claim of a volume of whole disks".to_owned() },
        (_, state) => state.clone(),
    }
}
