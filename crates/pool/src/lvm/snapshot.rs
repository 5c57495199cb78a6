//! Copy-on-write snapshots: logical volumes that lvm attaches to their source. And full copies: linear ones of their
//! own. Each is recognized by its record; its name decides nothing.

mod change;
mod copy;
mod invalid;

use std::sync::Arc;
use std::time::Duration;

use quarry_lvm::{LogicalVolume, SnapshotStatus, VolumeGroup, never_full};
use quarry_volume::{Result, SnapshotMethod, StorageId, safe_name, show_size, some_of};

pub(super) use self::change::Purpose;
pub(crate) use self::invalid::InvalidSnapshots;
use super::repeat::repeat;
use super::volume::Storages;
use super::{LvmPool, thin, volume};
use crate::key::VolumeKey;
use crate::record::State;
use crate::{PoolSnapshot, PoolVolume, SnapshotHealth, SnapshotKind, SnapshotRecord};

/// The beginning of the names of snapshots and full copies. With the safe form of a name, they are longer than the names
/// of volumes, so that no request can need the same name.
const PREFIX: &str = "quarry-snapshot-named-";
/// From this share of its space on, in percent, a snapshot that can become full is shown to the operator.
const NEARLY_FULL: u8 = 80;

/// How often the kernel is asked which snapshots are lost, if nothing else asks.
const WATCH: Duration = Duration::from_secs(10);

/// Looks at the snapshots of a volume group again and again, until the pool is dropped, so that [`InvalidSnapshots`] has
/// each that is lost, also while no controller reads the pool.
pub(super) fn watch_from_now_on(pool: &Arc<LvmPool>) {
    repeat(pool, WATCH, async |pool| {
        if pool.shared.observer.has_snapshots()
            && let Err(error) = pool.group().await
        {
            tracing::debug!(pool = pool.name, %error, "the state of the snapshots is not known");
        }
        WATCH
    });
}

/// The name of the logical volume for the snapshot with that name in the pool.
pub(super) fn name_for(snapshot: &str) -> String {
    // The space is no character of a name, so this is always the safe form.
    format!("{PREFIX}{}", safe_name(&format!("snapshot {snapshot}")))
}

/// All snapshots on that storage, which is a volume group or a thin pool in it, by their names.
pub(super) fn all_on(group: &VolumeGroup, storage: &StorageId) -> Vec<PoolSnapshot> {
    let storages = Storages::new(group);
    let found = group.volumes().filter_map(|volume| with_storages(&storages, volume));
    let mut found: Vec<_> = found.filter(|snapshot| snapshot.storage == *storage).collect();
    found.sort_by(|one, other| one.name.cmp(&other.name));
    found
}

#[cfg(test)]
fn all(group: &VolumeGroup) -> Vec<PoolSnapshot> {
    all_on(group, &volume::storage_of(group.uuid))
}

/// Converts a logical volume; `None` if it is not a snapshot of Quarry's.
pub(super) fn from_logical(group: &VolumeGroup, logical: &LogicalVolume) -> Option<PoolSnapshot> {
    with_storages(&Storages::new(group), logical)
}

/// Like [`from_logical`], for many snapshots of a volume group.
fn with_storages<'a>(storages: &Storages<'a>, logical: &'a LogicalVolume) -> Option<PoolSnapshot> {
    let group = storages.group;
    let record = volume::other_record_on(logical).snapshot().filter(|_| !logical.internal)?;
    let source = logical.origin.as_deref().and_then(|origin| group.logical_volume(origin));
    let (size, health) = match record.kind {
        SnapshotKind::Copy { .. } => (logical.size, copy::health(group, logical, &record)),
        // A thin snapshot does not depend on its source, which may have been expanded or deleted since.
        _ if logical.is_thin() => (logical.size, thin::snapshot_health(group, logical, &record)),
        SnapshotKind::Cow | SnapshotKind::ForClone | SnapshotKind::ForCopy => {
            (source.map_or(0, |source| source.size), health(group, logical, source, &record))
        }
    };
    Some(PoolSnapshot {
        name: record.id_name(),
        storage: storages.under(logical),
        key: VolumeKey::Logical { group: group.uuid, volume: logical.uuid },
        size,
        allocated: logical.size,
        health,
        record,
    })
}

/// The copy-on-write snapshots that have no origin, because their creation was interrupted. They contain nothing.
fn left_over(group: &VolumeGroup) -> Vec<PoolSnapshot> {
    let unattached = group.volumes().filter(|volume| volume.origin.is_none());
    let found = unattached.filter_map(|volume| from_logical(group, volume));
    let is_left = |record: &SnapshotRecord| record.state == State::New && record.method() == SnapshotMethod::Cow;
    found.filter(|snapshot| is_left(&snapshot.record)).collect()
}

/// The snapshots that are attached to a volume: they would be lost without it.
fn attached<'a>(group: &'a VolumeGroup, volume: &PoolVolume) -> Vec<(&'a LogicalVolume, PoolSnapshot)> {
    let Some(source) = group.volumes().find(|found| volume.logical().is_ok_and(|(_, uuid)| uuid == found.uuid)) else {
        return Vec::new();
    };
    group.snapshots_of(source).filter_map(|logical| Some((logical, from_logical(group, logical)?))).collect()
}

/// Rejects a change of a volume that has snapshots of Quarry's.
///
/// # Errors
/// `Precondition`, or `UnderWay` if they only serve clones.
pub(super) fn check_none(pool: &str, group: &VolumeGroup, volume: &PoolVolume, change: &str) -> Result<()> {
    let snapshots: Vec<_> = attached(group, volume).into_iter().map(|(_, snapshot)| snapshot).collect();
    crate::snapshot::check_none(&snapshots, &format!("pool {pool}: volume {}", volume.name), change)
}

fn health(
    group: &VolumeGroup,
    logical: &LogicalVolume,
    source: Option<&LogicalVolume>,
    record: &SnapshotRecord,
) -> SnapshotHealth {
    let shown = format!("{}/{}", group.name, logical.name);
    let Some(source) = source else {
        return match record.state {
            State::New => SnapshotHealth::Incomplete(format!("its creation was interrupted ({shown} has no origin)")),
            State::Ready => SnapshotHealth::Invalid(format!(
                "it is not attached to its volume any more ({shown} has no origin), because its deletion was \
                 interrupted, or by hand: delete it"
            )),
        };
    };
    // The name in the identifier of the source, also if its logical volume was renamed.
    let name = volume::from_logical(group, source).map_or_else(|| source.name.clone(), |found| found.name);
    if name != record.source.volume {
        return SnapshotHealth::Invalid(format!(
            "it is a snapshot of {}/{}, not of volume {}: its tag was changed by hand",
            group.name, source.name, record.source.volume
        ));
    }
    if record.state == State::New {
        return SnapshotHealth::Incomplete("its creation was interrupted".to_owned());
    }
    if logical.snapshot == Some(SnapshotStatus::Invalid) {
        return SnapshotHealth::Invalid(format!(
            "its contents are lost: its space ({}) became full, or a disk failed; delete it, and take another one with \
             a larger cowSize",
            show_size(logical.size)
        ));
    }
    if logical.lacks(group) {
        return SnapshotHealth::Lost(format!("{shown} has extents on a physical volume that is missing"));
    }
    let images = group.images_of(&source.name);
    let readable = images.iter().any(|image| !image.lacks(group)) || (images.is_empty() && !source.lacks(group));
    match readable {
        true => SnapshotHealth::Whole,
        false => SnapshotHealth::Lost(format!("the disk of its volume {name} is missing")),
    }
}

/// What an operator should know about the snapshots, besides the problems of those that are listed.
pub(super) fn hint(group: &VolumeGroup, storage: &StorageId) -> Option<String> {
    let describe = |logical: &LogicalVolume| {
        let snapshot = from_logical(group, logical).filter(|snapshot| snapshot.storage == *storage)?;
        let name = format!("snapshot {} of volume {}", snapshot.record.name, snapshot.record.source.volume);
        if let Some(why) = snapshot.health.problem() {
            return snapshot.record.serves().then(|| format!("{name} ({}/{}): {why}", group.name, logical.name));
        }
        let is_cow = snapshot.record.method() == SnapshotMethod::Cow;
        let can_be_full =
            is_cow && !never_full(group.extent_size, snapshot.size, group.extent_size.whole_in(logical.size));
        match logical.snapshot {
            Some(SnapshotStatus::Used(percent)) if can_be_full && percent >= NEARLY_FULL => Some(format!(
                "{name} ({}/{}) uses {percent} % of its space, and is lost when that is full: delete it, or enlarge it \
                 (lvextend)",
                group.name, logical.name
            )),
            _ => None,
        }
    };
    let found: Vec<String> = group.volumes().filter_map(describe).collect();
    (!found.is_empty()).then(|| some_of(found))
}

#[cfg(test)]
mod tests;
