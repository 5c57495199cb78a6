//! Copy-on-write snapshots: logical volumes that lvm attaches to their source. Each is recognized by its record; its
//! name decides nothing.

use std::path::PathBuf;
use std::sync::Arc;

use quarry_lvm::commands::{self, CreateSnapshot, TagChange};
use quarry_lvm::{LogicalVolume, SnapshotStatus, VolumeGroup, capacity, cow_extents, never_full, snapshot_status};
use quarry_volume::{CowSize, Error, Extents, Reason, Result, safe_name, show_size, some_of};

use super::{LvmPool, device, volume};
use crate::key::VolumeKey;
use crate::record::State;
use crate::{Pool as _, PoolSnapshot, PoolVolume, SnapshotHealth, SnapshotRecord};

/// The beginning of the names of snapshots. With the safe form of a name, they are longer than the names of volumes, so
/// that no request can need the same name.
const PREFIX: &str = "quarry-snapshot-named-";
/// From this share of its space on, in percent, a snapshot that can become full is shown to the operator.
const NEARLY_FULL: u8 = 80;

/// The name of the logical volume for the snapshot with that name in the pool.
fn name_for(snapshot: &str) -> String {
    // The space is no character of a name, so this is always the safe form.
    format!("{PREFIX}{}", safe_name(&format!("snapshot {snapshot}")))
}

/// All snapshots, by their names.
pub(super) fn all(group: &VolumeGroup) -> Vec<PoolSnapshot> {
    let mut found: Vec<_> = group.volumes().filter_map(|volume| from_logical(group, volume)).collect();
    found.sort_by(|one, other| one.name.cmp(&other.name));
    found
}

/// Converts a logical volume; `None` if it is not a snapshot of Quarry's.
pub(super) fn from_logical(group: &VolumeGroup, logical: &LogicalVolume) -> Option<PoolSnapshot> {
    let record = volume::record_on(logical).snapshot().filter(|_| !logical.internal)?;
    let source = logical.origin.as_deref().and_then(|origin| group.logical_volume(origin));
    Some(PoolSnapshot {
        name: record.id_name(),
        storage: volume::storage_of(group.uuid),
        key: VolumeKey::Logical { group: group.uuid, volume: logical.uuid },
        size: source.map_or(0, |source| source.size),
        allocated: logical.size,
        health: health(group, logical, source, &record),
        record,
    })
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

/// What an operator should know about the snapshots.
pub(super) fn hint(group: &VolumeGroup) -> Option<String> {
    let describe = |logical: &LogicalVolume| {
        let snapshot = from_logical(group, logical)?;
        let name = format!("snapshot {} of volume {}", snapshot.record.name, snapshot.record.source.volume);
        if let Some(why) = snapshot.health.problem() {
            return Some(format!("{name} ({}/{}): {why}", group.name, logical.name));
        }
        let can_be_full = !never_full(group.extent_size, snapshot.size, group.extent_size.whole_in(logical.size));
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

impl LvmPool {
    /// The current state of a snapshot, and its logical volume.
    ///
    /// # Errors
    /// `Unavailable` if it is gone.
    fn current_snapshot<'a>(
        &self,
        group: &'a VolumeGroup,
        snapshot: &PoolSnapshot,
    ) -> Result<(PoolSnapshot, &'a LogicalVolume)> {
        let (_, uuid) = snapshot.logical()?;
        let found = group.volumes().find(|found| found.uuid == uuid);
        let current = found.and_then(|found| Some((from_logical(group, found)?, found)));
        current.filter(|(current, _)| current.key == snapshot.key && current.name == snapshot.name).ok_or_else(|| {
            Error::unavailable(format!(
                "snapshot {} was removed from pool {}, or lost its record in the meantime: retry",
                snapshot.name, self.name
            ))
        })
    }

    /// See [`crate::Pool::take_snapshot`]. The caller holds the pool lock.
    pub(super) async fn take_snapshot_of(
        &self,
        volume: &PoolVolume,
        record: &SnapshotRecord,
        cow_size: CowSize,
    ) -> Result<PoolSnapshot> {
        let group = self.group().await?;
        let (current, source) = self.current(&group, volume)?;
        self.check_complete(&group)?;
        check_source(&self.name, &group, &current, source)?;
        let (wanted, name) = (record.id_name(), name_for(&record.id_name()));
        if let Some(other) = all(&group).into_iter().find(|other| other.name == wanted) {
            return Err(Error::new(
                Reason::Exists,
                format!("pool {}: snapshot {} already exists", self.name, other.record.name),
            ));
        }
        super::name::check_free(&self.name, &group, &name)?;
        let extents = cow_extents(group.extent_size, source.size, cow_size);
        let pvs = match capacity::closed(&group) {
            Some(why) => return Err(self.no_room_for_snapshot(&group, &current, extents, None, &[why])),
            None => capacity::choose_for_snapshot(&group, source, extents, self.config.reserve),
        };
        let pvs = pvs.map_err(|most| {
            self.no_room_for_snapshot(&group, &current, extents, Some(most), &capacity::withheld(&group))
        })?;
        // Otherwise, lvm would attach the snapshot without freezing anything, and activate neither.
        if self.device(&current)?.is_none() {
            let activated = commands::activate(&group, source).await;
            self.recover_if_killed(&group, &activated).await;
            activated.map_err(|error| self.explain(error))?;
        }
        let tag = record.to_string();
        let request = CreateSnapshot { source, name: &name, extents, tag: &tag, pvs: &pvs };
        let made = commands::create_snapshot(&group, &request).await;
        let created = crate::snapshot::now();
        let refused = made.is_err();
        if let Err(error) = self.commit(&group, made).await {
            return Err(if refused { self.undo_snapshot(&name, &tag, error).await } else { error.not_final() });
        }
        self.make_ready(&current, &name, record, (extents, created)).await.map_err(Error::not_final)
    }

    /// Checks the snapshot that lvm has just made, and makes its record `ready`.
    async fn make_ready(
        &self,
        volume: &PoolVolume,
        name: &str,
        record: &SnapshotRecord,
        (extents, created): (Extents, u64),
    ) -> Result<PoolSnapshot> {
        let group = self.group().await?;
        let (_, source) = self.current(&group, volume)?;
        let (before, after) = (record.to_string(), record.ready(created).to_string());
        let made = group.logical_volume(name).filter(|made| made.tags.contains(&before));
        let made = made.filter(|made| {
            made.origin.as_deref() == Some(&source.name)
                && made.size == group.extent_size.bytes(extents)
                && !matches!(snapshot_status(group.uuid, made.uuid), Some(SnapshotStatus::Invalid))
        });
        let Some(made) = made else {
            return Err(Error::unavailable(format!(
                "pool {}: lvm created {}/{name}, but it is not a snapshot of volume {} with {} bytes; retry",
                self.name,
                group.name,
                volume.name,
                group.extent_size.bytes(extents)
            )));
        };
        let changed = commands::change_tags(&group, made, TagChange { del: &[&before], add: &[&after] }).await;
        self.commit(&group, changed).await?;
        let group = self.group().await?;
        let taken = group.logical_volume(name).and_then(|made| from_logical(&group, made));
        let taken = taken.filter(|taken| taken.record.to_string() == after);
        let taken = taken.ok_or_else(|| {
            Error::unavailable(format!("{}/{name} was created, but was changed in the meantime; retry", group.name))
        })?;
        taken.check_whole(&self.name)?;
        Ok(taken)
    }

    /// The error for a snapshot that does not fit. `most`: the most extents that it could have.
    fn no_room_for_snapshot(
        &self,
        group: &VolumeGroup,
        volume: &PoolVolume,
        extents: Extents,
        most: Option<Extents>,
        more: &[String],
    ) -> Error {
        let why = more.iter().map(|why| format!("; {why}")).collect::<String>();
        let free = most.map(|most| {
            format!(
                ", and the disks of the volume have {} bytes free for it; delete something there, or set a smaller \
                 cowSize in the VolumeSnapshotClass",
                group.extent_size.bytes(most)
            )
        });
        Error::new(
            Reason::NoSpace,
            format!(
                "pool {}: a snapshot of volume {} needs {} bytes{}{why}",
                self.name,
                volume.name,
                group.extent_size.bytes(extents),
                free.unwrap_or_default()
            ),
        )
    }

    /// The error of a snapshot whose lvcreate failed. lvcreate may have created a part of it nevertheless; that was
    /// never handed out, so it is removed again. The caller holds the pool lock, and has held it since the name was
    /// free.
    async fn undo_snapshot(&self, name: &str, tag: &str, error: Error) -> Error {
        if !error.reason.is_final() {
            return error;
        }
        let Ok(group) = self.group().await else { return error.not_final() };
        let made = group.volumes().find(|volume| volume.name == name && volume.tags.iter().any(|found| found == tag));
        let Some(made) = made else { return error };
        match self.remove_volume(&group, made).await {
            Ok(()) => error,
            Err(why) => Error::unavailable(format!(
                "{}; lvm created {}/{name} nevertheless, and it could not be removed: {}",
                error.message, group.name, why.message
            )),
        }
    }

    /// See [`crate::Pool::activate_snapshot`].
    pub(super) async fn activate_snapshot_device(&self, snapshot: &PoolSnapshot) -> Result<PathBuf> {
        let _lock = self.lock().await?;
        let group = self.group().await?;
        let (current, found) = self.current_snapshot(&group, snapshot)?;
        current.check_whole(&self.name)?;
        if let Some(why) = capacity::duplicated(&group) {
            return Err(Error::unavailable(format!("pool {}: {why}", self.name)));
        }
        let find = || {
            let found = device::find(group.uuid, found.uuid);
            found.map_err(|error| Error::host(format!("finding the device of snapshot {}: {error}", snapshot.name)))
        };
        if find()?.is_none() {
            let activated = commands::activate(&group, found).await;
            self.recover_if_killed(&group, &activated).await;
            activated.map_err(|error| self.explain(error))?;
        }
        let node = find()?.ok_or_else(|| {
            Error::host(format!(
                "lvm activated {}/{}, but the kernel has no device for it: see the kernel log and `lvs -a {}`",
                group.name, found.name, group.name
            ))
        })?;
        // Only the kernel knows it, and only now: it may have become full before the last boot.
        match snapshot_status(group.uuid, found.uuid) {
            Some(SnapshotStatus::Used(_)) => Ok(node),
            Some(SnapshotStatus::Invalid) => Err(Error::precondition(format!(
                "pool {}: the contents of snapshot {} are lost, because its space became full, or a disk failed",
                self.name, current.record.name
            ))),
            None => Err(Error::host(format!(
                "pool {}: the device of snapshot {} is not a snapshot according to the kernel: see `dmsetup table` and \
                 the kernel log",
                self.name, current.record.name
            ))),
        }
    }

    /// See [`crate::Pool::remove_snapshot`]. The caller holds the pool lock.
    pub(super) async fn remove_taken_snapshot(&self, snapshot: &PoolSnapshot) -> Result<()> {
        let group = self.group().await?;
        let (current, found) = self.current_snapshot(&group, snapshot)?;
        self.check_complete(&group)?;
        if quarry_lvm::open_count(group.uuid, found.uuid).is_some_and(|count| count > 0) {
            return Err(Error::new(
                Reason::InUse,
                format!("pool {}: snapshot {} is open, so it is not removed", self.name, current.record.name),
            ));
        }
        self.remove_volume(&group, found).await
    }

    /// Removes the snapshots of a volume whose creation was interrupted: they were never handed out, and must not
    /// prevent the volume's deletion. The caller holds the pool lock, so none of them is being created.
    pub(super) async fn remove_interrupted_snapshots(
        &self,
        group: &Arc<VolumeGroup>,
        volume: &PoolVolume,
    ) -> Result<Arc<VolumeGroup>> {
        let of_volume = |snapshot: &PoolSnapshot| {
            snapshot.record.source.volume == volume.name && snapshot.record.source.storage == volume.storage
        };
        let left = all(group)
            .into_iter()
            .filter(|snapshot| of_volume(snapshot) && matches!(snapshot.health, SnapshotHealth::Incomplete(_)));
        let mut current = Arc::clone(group);
        for snapshot in left {
            tracing::info!(pool = self.name, snapshot = snapshot.name, "removing a snapshot that was interrupted");
            self.remove_taken_snapshot(&snapshot).await?;
            current = self.group().await?;
        }
        Ok(current)
    }
}

/// Checks that lvm can take a snapshot of the volume now.
fn check_source(pool: &str, group: &VolumeGroup, volume: &PoolVolume, logical: &LogicalVolume) -> Result<()> {
    let name = &volume.name;
    crate::snapshot::check_filled(pool, volume)?;
    if let Some(why) = group.operation_in_progress(logical) {
        return Err(Error::new(
            Reason::UnderWay,
            format!("pool {pool}: a snapshot of volume {name} cannot be taken now: {why}"),
        ));
    }
    if let crate::Health::Lost(why) | crate::Health::Incomplete(why) = &volume.health {
        return Err(Error::precondition(format!("pool {pool}: no snapshot of volume {name} can be taken: {why}")));
    }
    let plain = ["linear", "striped", "raid1"];
    match logical.segment_types.iter().find(|kind| !plain.contains(&kind.as_str())) {
        // An operator converted it, for example to a cached volume.
        Some(kind) => Err(Error::precondition(format!(
            "pool {pool}: no snapshot of volume {name} can be taken while its logical volume {}/{} is of type {kind}",
            group.name, logical.name
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
