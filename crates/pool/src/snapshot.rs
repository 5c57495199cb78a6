//! Snapshots, as a pool finds them on its storage.

use std::time::{SystemTime, UNIX_EPOCH};

use quarry_volume::{Error, Reason, Result, StorageId, some_of};

use crate::key::VolumeKey;
use crate::{PoolVolume, SnapshotKind, SnapshotRecord};

/// A snapshot as its pool finds it on the storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSnapshot {
    /// The name in its identifier, unique among the snapshots of the pool: [`SnapshotRecord::id_name`].
    pub name: String,
    /// The identity of its pool's storage.
    pub storage: StorageId,
    /// Identifies it on its storage.
    pub(crate) key: VolumeKey,
    /// The size of its source, in bytes: it cannot change while there is a snapshot. 0 if the snapshot has lost it.
    pub size: u64,
    /// The space that it uses on its storage, in bytes.
    pub allocated: u64,
    /// Its record.
    pub record: SnapshotRecord,
    /// The state of the storage under it.
    pub health: SnapshotHealth,
}

/// The state of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotHealth {
    /// Its contents can be read, if its record is `ready`. A full copy whose record is `new` can be continued.
    Whole,
    /// Its creation was interrupted. It is removed and taken again.
    Incomplete(String),
    /// Its disk is lost or cannot be reached now; or that of its source.
    Lost(String),
    /// Its contents are gone for good, or a full copy can never be completed: the space for overwritten blocks became
    /// full.
    Invalid(String),
}

impl SnapshotHealth {
    /// The problem, if there is one.
    #[must_use]
    pub fn problem(&self) -> Option<&str> {
        match self {
            Self::Whole => None,
            Self::Incomplete(why) | Self::Lost(why) | Self::Invalid(why) => Some(why),
        }
    }
}

impl PoolSnapshot {
    /// Checks that its contents can be read.
    ///
    /// # Errors
    /// `Precondition` if it is not complete, or damaged.
    pub(crate) fn check_whole(&self, pool: &str) -> Result<()> {
        match self.health.problem() {
            None => Ok(()),
            Some(why) => {
                Err(Error::precondition(format!("pool {pool}: snapshot {} cannot be read: {why}", self.record.name)))
            }
        }
    }
}

/// Rejects a volume that cannot be the source of a snapshot, because its record cannot be used, or it is still being
/// filled.
pub(crate) fn check_filled(pool: &str, volume: &PoolVolume) -> Result<()> {
    match volume.record()?.filling {
        false => Ok(()),
        true => Err(Error::new(
            Reason::UnderWay,
            format!("pool {pool}: volume {} is still being filled from its source; retry", volume.name),
        )),
    }
}

/// Rejects a volume whose record has changed since it was looked up: the record of its snapshot is made from that, and
/// says for example that the volume was never used. The caller holds the pool lock.
pub(crate) fn check_unchanged(pool: &str, found: &PoolVolume, current: &PoolVolume) -> Result<()> {
    match found.record == current.record {
        true => Ok(()),
        false => {
            Err(Error::unavailable(format!("pool {pool}: volume {} was changed in the meantime: retry", current.name)))
        }
    }
}

/// Rejects a change of a volume that has these snapshots. `subject` is the volume, and `change` what is not done to it
/// ("removed").
///
/// # Errors
/// `Precondition`, with the snapshots that must be deleted first. `UnderWay` if all of them only serve clones or full
/// copies, because those are removed when these are complete.
pub(crate) fn check_none(snapshots: &[PoolSnapshot], subject: &str, change: &str) -> Result<()> {
    if snapshots.is_empty() {
        return Ok(());
    }
    let (serving, own): (Vec<_>, Vec<_>) =
        snapshots.iter().map(|snapshot| &snapshot.record).partition(|it| it.serves());
    let own: Vec<String> = own.into_iter().map(|record| record.name.clone()).collect();
    let served = |record: &SnapshotRecord| match record.kind {
        SnapshotKind::ForCopy => format!("snapshot {} is being copied", record.name),
        _ => format!("{} is being cloned", record.name),
    };
    Err(match own.is_empty() {
        true => Error::new(
            Reason::UnderWay,
            format!("{subject} cannot be {change} while {} from it; retry", some_of(serving.into_iter().map(served))),
        ),
        false => Error::precondition(format!(
            "{subject} cannot be {change} while it has snapshots: delete {} first",
            some_of(own)
        )),
    })
}

/// The current time, in seconds since 1970-01-01 UTC. Never 0.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs().max(1))
}
