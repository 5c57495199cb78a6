//! Reads the disks: which ones belong to the pool, what each one holds, and whether it is free.
//!
//! Claims are searched for on every disk of the host: a volume still exists if the selector no longer matches
//! its disk (a udev link is not there yet, the configuration was changed, the disk belongs to another pool
//! now).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use quarry_disk::claim::{self, ClaimState};
use quarry_disk::{Conflict, Contents, Disk, Remnants, Selector, State, classify, find_remnants};
use quarry_filesystem::Probe;
use quarry_volume::{Error, Result};
use tokio::task::JoinSet;

use super::blocking;
use super::disks::{Any, Disks};
use super::key::DiskKey;
use super::reader::Reader;
use super::report::Owner;
use super::view::title;
use crate::Uevents;

/// How long libblkid and the kernel may take to answer about a disk that was just read.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A disk and its contents.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Raw {
    pub(super) disk: Disk,
    /// The number of events of the disk before it was read: [`crate::Uevents::count_of_disk`].
    pub(super) events: u64,
    /// The claim state, or why the disk could not be read.
    pub(super) found: Result<ClaimState, String>,
    pub(super) remnants: Result<Remnants, String>,
}

/// A disk that belongs to the pool.
#[derive(Clone, Debug)]
pub(super) struct PoolDisk {
    pub(super) raw: Raw,
    pub(super) state: State,
}

impl PoolDisk {
    /// Whether it may have become free without any event: the only obstacle was an exclusive holder, which no
    /// table shows, or that the disk did not answer.
    pub(super) fn may_change_without_event(&self) -> bool {
        let shown = !self.raw.disk.holders.is_empty() || !self.raw.disk.uses.is_empty();
        matches!(self.state, State::InUse { .. }) && !shown || matches!(self.state, State::Unknown { .. })
    }
}

/// A disk that does not belong to the pool.
#[derive(Debug)]
pub(super) struct OtherDisk {
    pub(super) raw: Raw,
    /// The reason.
    pub(super) why: String,
    /// Whether it may belong to the pool once a doubt is resolved, or more facts about it are known. Until then, an
    /// unreadable disk counts like one of the pool's.
    pub(super) may_belong: bool,
    /// Whether it belongs to another pool, which then reports its problems.
    pub(super) has_pool: bool,
}

/// Everything that was found.
#[derive(Debug)]
pub(super) struct Gathered<T> {
    /// The disks of the pool.
    pub(super) own: Vec<T>,
    /// All other disks.
    pub(super) others: Vec<OtherDisk>,
    /// Disks that this pool and another one select.
    pub(super) conflicts: Vec<Conflict>,
    /// Disks for which the kernel reports impossible values.
    pub(super) failed: Vec<String>,
}

/// Reads every disk that may belong to the pool. Blocks. `earlier` is what was read a short while ago. It is
/// used again for a disk that could be read, if the kernel's facts are the same and there was no event for
/// it: so a sleeping disk is not woken up, and an event for one disk does not cause reads of all.
pub(super) fn gather(
    disks: &Arc<dyn Disks>,
    reader: &Reader,
    uevents: &Uevents,
    pool: &str,
    selectors: &[(String, Selector)],
    earlier: &[Raw],
) -> Result<Gathered<Raw>> {
    let found = disks.find().map_err(|error| Error::unavailable(format!("pool {pool}: {error}")))?;
    let assignment = disks.assign(selectors, &found.disks);
    let mut gathered = Gathered {
        own: Vec::new(),
        others: Vec::new(),
        failed: found.failed.iter().map(ToString::to_string).collect(),
        conflicts: assignment
            .conflicts
            .iter()
            .filter(|one| one.pools.iter().any(|name| name == pool))
            .cloned()
            .collect(),
    };
    let owned = found.disks.into_iter().map(|disk| (Owner::of(&assignment, &disk), disk));
    let asked: Vec<(Owner, Disk)> =
        owned.filter(|(owner, disk)| owner.pool() == Some(pool) || !is_unreadable(disk)).collect();
    let read = read_again(disks, reader, uevents, asked.iter().map(|(_, disk)| disk), earlier);
    for ((owner, _), raw) in asked.iter().zip(read) {
        let why = match owner {
            Owner::Pool(owner) if owner == pool => {
                gathered.own.push(raw);
                continue;
            }
            Owner::Pool(other) => format!("it belongs to pool {other}"),
            _ => owner.why_no_pool().unwrap_or_default(),
        };
        let grown = matches!(&raw.found, Ok(ClaimState::Claimed(claim)) if claim.capacity > claim.length);
        let hint = "; it became larger than its volume: if the pool's selector limits the size, raise size.atMost";
        let why = if grown { why + hint } else { why };
        let possible = assignment.possible.get(&raw.disk.name);
        let may_belong = possible.is_some_and(|pools| pools.iter().any(|name| name == pool));
        gathered.others.push(OtherDisk { raw, why, may_belong, has_pool: owner.pool().is_some() });
    }
    Ok(gathered)
}

/// Reads these disks, in their order, except those that could be read in `earlier` and had no event since. Blocks.
pub(super) fn read_again<'a>(
    disks: &Arc<dyn Disks>,
    reader: &Reader,
    uevents: &Uevents,
    asked: impl Iterator<Item = &'a Disk>,
    earlier: &[Raw],
) -> Vec<Raw> {
    // The events are counted before anything is read, so that an event during the read causes another read.
    let asked: Vec<(&Disk, u64)> = asked.map(|disk| (disk, uevents.count_of_disk(&disk.name))).collect();
    let known = |(disk, events): &(&Disk, u64)| {
        let is_unchanged = |raw: &&Raw| raw.found.is_ok() && raw.remnants.is_ok() && raw.events == *events;
        earlier.iter().find(|raw| raw.disk == **disk).filter(is_unchanged).cloned()
    };
    let known: Vec<Option<Raw>> = asked.iter().map(known).collect();
    let unread = asked.iter().zip(&known).filter(|(_, known)| known.is_none()).map(|((disk, _), _)| (*disk).clone());
    let mut fresh = reader.read(disks, unread.collect()).into_iter();
    let read = |((_, events), known): ((&Disk, u64), Option<Raw>)| {
        known.or_else(|| fresh.next().map(|raw| Raw { events, ..raw }))
    };
    asked.into_iter().zip(known).filter_map(read).collect()
}

/// Whether reading it is useless: a drive without a medium does not hold anything, and one of several paths to a
/// disk may be dead, while the disk is read through another path.
pub(super) fn is_unreadable(disk: &Disk) -> bool {
    disk.size == 0 && disk.removable || disk.multipath
}

/// Reads one disk that is held. Blocks.
pub(super) fn read_held(device: &dyn claim::Sectors, disk: &Disk) -> Raw {
    let found = claim::read(&Any(device)).map_err(|error| error.to_string());
    let remnants = find_remnants(&Any(device), device.size()).map_err(|error| error.to_string());
    Raw { disk: disk.clone(), events: 0, found, remnants }
}

impl Raw {
    /// A disk that could not be read, with the reason.
    pub(super) fn unreadable(disk: Disk, why: &str) -> Self {
        Self { disk, events: 0, found: Err(why.to_owned()), remnants: Err(why.to_owned()) }
    }

    /// Whether libblkid should probe it.
    fn is_unclaimed(&self) -> bool {
        matches!(self.found, Ok(ClaimState::Nothing | ClaimState::HalfClaimed(_) | ClaimState::Foreign { .. }))
            && self.remnants.is_ok()
    }

    /// The disk's state. `last` is called only if all other checks say that the disk is free.
    pub(super) fn state(
        &self,
        probe: Option<Result<Probe, String>>,
        last: impl FnOnce() -> quarry_disk::ExclusiveOpen,
    ) -> State {
        let contents = match (&self.found, &self.remnants, probe) {
            (Err(why), ..) | (_, Err(why), _) => Contents::Unreadable { why: why.clone() },
            (_, _, Some(Err(why))) => Contents::Unreadable { why },
            // The remnants of its tables are Quarry's own. A probe does not see a half-made claim.
            (Ok(ClaimState::HalfClaimed(_)), Ok(remnants), Some(Ok(probe))) => {
                let foreign = remnants.foreign.clone();
                Contents::Other { probe, remnants: Remnants { foreign, ..Remnants::default() } }
            }
            (Ok(ClaimState::Nothing | ClaimState::Foreign { .. }), Ok(remnants), Some(Ok(probe))) => {
                Contents::Other { probe, remnants: remnants.clone() }
            }
            (Ok(ClaimState::Claimed(claim)), ..) => Contents::Claimed { what: title(claim) },
            (Ok(ClaimState::Releasing(claim)), ..) => {
                Contents::Claimed { what: format!("{}, which was deleted and is being wiped", title(claim)) }
            }
            (Ok(found), _, _) => Contents::Claimed { what: found.describe() },
        };
        match (classify(&self.disk, &contents, last), &self.found) {
            // In doubt, it is not free: one check found something that the other did not.
            (State::Free, Ok(ClaimState::Foreign { what, .. })) => State::NotEmpty { why: format!("holds {what}") },
            (state, _) => state,
        }
    }
}

/// Determines the states of the pool's disks, all at once. A disk that has the same contents as in `earlier`,
/// without any event since, keeps its state: determining it takes a program for each disk.
pub(super) async fn determine_states(
    disks: &Arc<dyn Disks>,
    queries: &Queries,
    own: Vec<Raw>,
    earlier: &[PoolDisk],
) -> Result<Vec<PoolDisk>> {
    let mut states = Vec::with_capacity(own.len());
    let mut asked = JoinSet::new();
    for (index, raw) in own.into_iter().enumerate() {
        match earlier.iter().find(|seen| seen.raw == raw) {
            Some(seen) => states.push((index, seen.clone())),
            None => {
                let (disks, queries) = (Arc::clone(disks), queries.clone());
                asked.spawn(async move { (index, queries.state_of(disks, raw).await) });
            }
        }
    }
    while let Some(ended) = asked.join_next().await {
        let (index, seen) =
            ended.map_err(|join| Error::host(format!("reading a disk panicked ({join}); please report it")))?;
        states.push((index, seen?));
    }
    states.sort_by_key(|(index, _)| *index);
    Ok(states.into_iter().map(|(_, seen)| seen).collect())
}

/// Pending queries about disks: one that hangs occupies one task, and delays nothing else.
#[derive(Clone, Default)]
pub(super) struct Queries {
    running: Arc<Mutex<HashSet<DiskKey>>>,
}

impl Queries {
    async fn state_of(&self, disks: Arc<dyn Disks>, raw: Raw) -> Result<PoolDisk> {
        let here = DiskKey::of(&raw.disk);
        let unknown = |raw: Raw, why: String| Ok(PoolDisk { raw, state: State::Unknown { why } });
        if !self.running().insert(here.clone()) {
            return unknown(raw, "is unresponsive: an earlier request has not returned; see the kernel log".to_owned());
        }
        let pending = PendingQuery { queries: self.clone(), disk: here };
        let asked = raw.clone();
        let asking = tokio::spawn(async move {
            let seen = determine_state(disks, asked).await;
            drop(pending);
            seen
        });
        match tokio::time::timeout(PATIENCE, asking).await {
            Ok(Ok(seen)) => seen,
            Ok(Err(join)) => Err(Error::host(format!("reading a disk panicked ({join}); please report it"))),
            Err(_) => unknown(raw, format!("has not answered for {} s; see the kernel log", PATIENCE.as_secs())),
        }
    }

    fn running(&self) -> MutexGuard<'_, HashSet<DiskKey>> {
        self.running.lock()
    }
}

/// Marks a query as pending until it is dropped.
struct PendingQuery {
    queries: Queries,
    disk: DiskKey,
}

impl Drop for PendingQuery {
    fn drop(&mut self) {
        self.queries.running().remove(&self.disk);
    }
}

async fn determine_state(disks: Arc<dyn Disks>, raw: Raw) -> Result<PoolDisk> {
    let probe = match raw.is_unclaimed() {
        true => Some(disks.probe(&raw.disk).await.map_err(|error| error.message)),
        false => None,
    };
    blocking(move || {
        let state = raw.state(probe, || disks.try_exclusive_open(&raw.disk));
        Ok(PoolDisk { raw, state })
    })
    .await
}
