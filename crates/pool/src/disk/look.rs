//! A look at the disks: which are the pool's, what lies on each, and whether it is free.
//!
//! Claims are looked for on every disk of the host: a volume whose disk the selector does not mean any more (a link of
//! udev's is not there yet, a line of the configuration was changed, another pool has it now) has not ceased to exist.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use quarry_disk::claim::{self, ClaimState};
use quarry_disk::{Conflict, Contents, Disk, Remains, Selector, State, judge, remains};
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

/// How long libblkid and the kernel may take to answer what is asked of a disk that was just read.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A disk, and what lies on it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Raw {
    pub(super) disk: Disk,
    /// What had been heard of it before it was read: [`crate::Uevents::of_disk`].
    pub(super) heard: u64,
    /// Or why it could not be read.
    pub(super) found: Result<ClaimState, String>,
    pub(super) remains: Result<Remains, String>,
}

/// A disk of the pool.
#[derive(Clone, Debug)]
pub(super) struct PoolDisk {
    pub(super) raw: Raw,
    pub(super) state: State,
}

impl PoolDisk {
    /// Whether it may be free by now without a word of it: all that kept it from being so was somebody who had it to
    /// himself, which no table shows, or that it did not answer.
    pub(super) fn may_change_untold(&self) -> bool {
        let shown = !self.raw.disk.holders.is_empty() || !self.raw.disk.uses.is_empty();
        matches!(self.state, State::InUse { .. }) && !shown || matches!(self.state, State::Unknown { .. })
    }
}

/// A disk that is not the pool's.
#[derive(Debug)]
pub(super) struct Other {
    pub(super) raw: Raw,
    /// Why it is not.
    pub(super) why: String,
    /// Whether it is the pool's once a doubt is settled: until then, what cannot be read there counts as on its own disks.
    pub(super) may_be_ours: bool,
    /// Whether another pool has it, which tells of what is wrong there.
    pub(super) has_pool: bool,
}

/// All that a look found.
#[derive(Debug)]
pub(super) struct Gathered<T> {
    /// The pool's own disks.
    pub(super) own: Vec<T>,
    /// All others.
    pub(super) others: Vec<Other>,
    /// Disks that this pool and another mean.
    pub(super) conflicts: Vec<Conflict>,
    /// Disks of which the kernel says what cannot be.
    pub(super) failed: Vec<String>,
}

/// Reads every disk that may be the pool's. Blocks. `earlier`: what was read a short while ago, and is believed of a disk
/// that could be read, of which the kernel tells the same as then and nothing was heard since: so that a disk that sleeps
/// is let sleep, and what happens to one is no reason to ask all.
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
    // Before anything is read: what is heard meanwhile is a reason to read again.
    let heard: HashMap<String, u64> =
        found.disks.iter().map(|disk| (disk.name.clone(), uevents.of_disk(&disk.name))).collect();
    let heard = |disk: &Disk| heard.get(&disk.name).copied().unwrap_or_default();
    let believed = |raw: &&Raw| raw.found.is_ok() && raw.remains.is_ok() && raw.heard == heard(&raw.disk);
    let known = |disk: &Disk| earlier.iter().find(|raw| raw.disk == *disk).filter(believed);
    let owned = found.disks.into_iter().map(|disk| (Owner::of(&assignment, &disk), disk));
    let asked: Vec<(Owner, Disk)> =
        owned.filter(|(owner, disk)| owner.pool() == Some(pool) || !is_unreadable(disk)).collect();
    let unread = asked.iter().map(|(_, disk)| disk).filter(|disk| known(disk).is_none()).cloned().collect();
    let mut fresh = reader.read(disks, unread).into_iter();
    for (owner, disk) in &asked {
        let read = |raw: Raw| Raw { heard: heard(disk), ..raw };
        let Some(raw) = known(disk).cloned().or_else(|| fresh.next().map(read)) else { continue };
        let why = match owner {
            Owner::Pool(owner) if owner == pool => {
                gathered.own.push(raw);
                continue;
            }
            Owner::Pool(other) => format!("it is pool {other}'s"),
            _ => owner.why_none().unwrap_or_default(),
        };
        let may_be_ours = match owner {
            Owner::Conflict(conflict) => conflict.pools.iter().any(|name| name == pool),
            Owner::Doubtful { pool: would_be, .. } => would_be == pool,
            Owner::Pool(_) | Owner::Nobody => false,
        };
        gathered.others.push(Other { raw, why, may_be_ours, has_pool: owner.pool().is_some() });
    }
    Ok(gathered)
}

/// Whether there is no use in reading it: nothing can be on a disk without a size, and one of several paths to a disk may
/// lead nowhere, while the disk is read by another.
pub(super) fn is_unreadable(disk: &Disk) -> bool {
    disk.size == 0 || disk.multipath
}

/// Looks at one disk that is held, as it is now. Blocks.
pub(super) fn read_held(device: &dyn claim::Sectors, disk: &Disk) -> Raw {
    let found = claim::read(&Any(device)).map_err(|error| error.to_string());
    let remains = remains(&Any(device), device.size()).map_err(|error| error.to_string());
    Raw { disk: disk.clone(), heard: 0, found, remains }
}

impl Raw {
    /// A disk that could not be read, and why.
    pub(super) fn unreadable(disk: Disk, why: &str) -> Self {
        Self { disk, heard: 0, found: Err(why.to_owned()), remains: Err(why.to_owned()) }
    }

    /// Whether it is worth asking libblkid about it.
    fn is_unclaimed(&self) -> bool {
        matches!(self.found, Ok(ClaimState::Nothing | ClaimState::HalfClaimed(_) | ClaimState::Foreign { .. }))
            && self.remains.is_ok()
    }

    /// What it is to us. `last` is asked only when all else says that it is free.
    pub(super) fn judge(
        &self,
        probe: Option<Result<Probe, String>>,
        last: impl FnOnce() -> quarry_disk::Alone,
    ) -> State {
        let contents = match (&self.found, &self.remains, probe) {
            (Err(why), ..) | (_, Err(why), _) => Contents::Unreadable { why: why.clone() },
            (_, _, Some(Err(why))) => Contents::Unreadable { why },
            // What is left of its tables is our own. To a probe, half a claim is blank.
            (Ok(ClaimState::HalfClaimed(_)), _, Some(Ok(probe))) => {
                Contents::Other { probe, remains: Remains::default() }
            }
            (Ok(ClaimState::Nothing | ClaimState::Foreign { .. }), Ok(remains), Some(Ok(probe))) => {
                Contents::Other { probe, remains: remains.clone() }
            }
            (Ok(ClaimState::Claimed(claim)), ..) => Contents::Ours { what: title(claim) },
            (Ok(ClaimState::Releasing(claim)), ..) => {
                Contents::Ours { what: format!("{}, which was deleted and is being wiped", title(claim)) }
            }
            (Ok(found), _, _) => Contents::Ours { what: found.words() },
        };
        match (judge(&self.disk, &contents, last), &self.found) {
            // Doubt: one look saw what another did not.
            (State::Free, Ok(ClaimState::Foreign { what, .. })) => State::NotEmpty { why: format!("holds {what}") },
            (state, _) => state,
        }
    }
}

/// Judges the pool's disks, all at once. What an earlier look said of a disk that is the same in all that can be read, and
/// of which nothing was heard, is not asked again: it takes a program for each disk.
pub(super) async fn judge_all(
    disks: &Arc<dyn Disks>,
    judges: &Judges,
    own: Vec<Raw>,
    earlier: &[PoolDisk],
) -> Result<Vec<PoolDisk>> {
    let mut judged = Vec::with_capacity(own.len());
    let mut asked = JoinSet::new();
    for (index, raw) in own.into_iter().enumerate() {
        match earlier.iter().find(|seen| seen.raw == raw) {
            Some(seen) => judged.push((index, seen.clone())),
            None => {
                let (disks, judges) = (Arc::clone(disks), judges.clone());
                asked.spawn(async move { (index, judges.judge(disks, raw).await) });
            }
        }
    }
    while let Some(ended) = asked.join_next().await {
        let (index, seen) =
            ended.map_err(|join| Error::host(format!("reading a disk panicked ({join}); please report it")))?;
        judged.push((index, seen?));
    }
    judged.sort_by_key(|(index, _)| *index);
    Ok(judged.into_iter().map(|(_, seen)| seen).collect())
}

/// Questions about disks that have not been answered yet: one that hangs occupies one task, and holds up nobody else.
#[derive(Clone, Default)]
pub(super) struct Judges {
    under_way: Arc<Mutex<HashSet<DiskKey>>>,
}

impl Judges {
    async fn judge(&self, disks: Arc<dyn Disks>, raw: Raw) -> Result<PoolDisk> {
        let here = DiskKey::of(&raw.disk);
        let unknown = |raw: Raw, why: String| Ok(PoolDisk { raw, state: State::Unknown { why } });
        if !self.under_way().insert(here.clone()) {
            return unknown(raw, "is unresponsive: an earlier request has not returned; see the kernel log".to_owned());
        }
        let question = Question { judges: self.clone(), disk: here };
        let asked = raw.clone();
        let asking = tokio::spawn(async move {
            let seen = judge_one(disks, asked).await;
            drop(question);
            seen
        });
        match tokio::time::timeout(PATIENCE, asking).await {
            Ok(Ok(seen)) => seen,
            Ok(Err(join)) => Err(Error::host(format!("reading a disk panicked ({join}); please report it"))),
            Err(_) => unknown(raw, format!("has not answered for {} s; see the kernel log", PATIENCE.as_secs())),
        }
    }

    fn under_way(&self) -> MutexGuard<'_, HashSet<DiskKey>> {
        self.under_way.lock()
    }
}

/// A question under way; it has come back when this is dropped.
struct Question {
    judges: Judges,
    disk: DiskKey,
}

impl Drop for Question {
    fn drop(&mut self) {
        self.judges.under_way().remove(&self.disk);
    }
}

async fn judge_one(disks: Arc<dyn Disks>, raw: Raw) -> Result<PoolDisk> {
    let probe = match raw.is_unclaimed() {
        true => Some(disks.probe(&raw.disk).await.map_err(|error| error.message)),
        false => None,
    };
    blocking(move || {
        let state = raw.judge(probe, || disks.alone(&raw.disk));
        Ok(PoolDisk { raw, state })
    })
    .await
}
