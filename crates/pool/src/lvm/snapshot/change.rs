//! Takes, activates and removes snapshots.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quarry_lvm::commands::{self, CreateSnapshot};
use quarry_lvm::{LogicalVolume, LvUuid, SnapshotStatus, VgUuid, VolumeGroup, capacity, cow_extents, snapshot_status};
use quarry_volume::{CowSize, Error, Extents, Reason, Result, SnapshotMethod};

use super::super::{LvmPool, device, name};
use super::{all_on, from_logical, left_over, name_for};
use crate::{Health, Pool as _, PoolSnapshot, PoolVolume, SnapshotHealth, SnapshotKind, SnapshotRecord};

/// How long the deactivation of a snapshot waits until nothing has it open, and how often it looks.
const CLOSING: Duration = Duration::from_millis(100);
const CLOSING_TRIES: u32 = 50;

/// Why a snapshot is activated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::lvm) enum Purpose {
    /// Its contents are read, or completed.
    Read,
    /// It is removed afterwards.
    Remove,
}

impl LvmPool {
    /// The current state of a snapshot, and its logical volume.
    ///
    /// # Errors
    /// `Unavailable` if it is gone.
    pub(super) fn current_snapshot<'a>(
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
    pub(in crate::lvm) async fn take_snapshot_of(
        &self,
        volume: &PoolVolume,
        record: &SnapshotRecord,
        cow_size: CowSize,
    ) -> Result<PoolSnapshot> {
        let group = self.group().await?;
        let (current, source) = self.current(&group, volume)?;
        self.check_complete(&group)?;
        check_source(&self.name, &group, &current, source)?;
        crate::snapshot::check_unchanged(&self.name, volume, &current)?;
        let (wanted, name) = (record.id_name(), name_for(&record.id_name()));
        self.check_new_snapshot(&group, &current, &wanted, &name)?;
        let extents = cow_extents(group.extent_size, source.size, cow_size);
        let pvs = match capacity::closed(&group) {
            Some(why) => return Err(self.no_room_for_snapshot(&group, record, extents, None, &[why])),
            None => capacity::choose_for_snapshot(&group, source, extents, self.config.reserve),
        };
        let pvs = pvs.map_err(|most| {
            self.no_room_for_snapshot(&group, record, extents, Some(most), &capacity::withheld(&group))
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
        self.commit_new(&group, &name, &tag, made).await?;
        self.make_ready(&current, &name, record, (extents, created)).await.map_err(Error::not_final)
    }

    /// Checks that neither a snapshot with that name in its ID nor a logical volume with that name exists.
    pub(in crate::lvm) fn check_new_snapshot(
        &self,
        group: &VolumeGroup,
        volume: &PoolVolume,
        wanted: &str,
        name: &str,
    ) -> Result<()> {
        match all_on(group, &volume.storage).into_iter().find(|other| other.name == wanted) {
            Some(other) => Err(Error::new(
                Reason::Exists,
                format!("pool {}: snapshot {} already exists", self.name, other.record.name),
            )),
            None => name::check_free(&self.name, group, name),
        }
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
            made.origin.as_deref() == Some(&source.name) && made.size == group.extent_size.bytes(extents)
        });
        let is_valid = match made {
            Some(made) => self.ask_status(group.uuid, made.uuid).await? != Some(SnapshotStatus::Invalid),
            None => false,
        };
        let Some(made) = made.filter(|_| is_valid) else {
            return Err(Error::unavailable(format!(
                "pool {}: lvm created {}/{name}, but it is not a snapshot of volume {} with {} bytes; retry",
                self.name,
                group.name,
                volume.name,
                group.extent_size.bytes(extents)
            )));
        };
        let group = self.replace_tag(&group, made, &before, &after).await?;
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
        record: &SnapshotRecord,
        extents: Extents,
        most: Option<Extents>,
        more: &[String],
    ) -> Error {
        let why = more.iter().map(|why| format!("; {why}")).collect::<String>();
        let free = most.map(|most| {
            let smaller = match record.kind {
                SnapshotKind::ForClone => "",
                SnapshotKind::Cow | SnapshotKind::ForCopy | SnapshotKind::Copy { .. } => {
                    ", or set a smaller cowSize in the VolumeSnapshotClass"
                }
            };
            format!(
                ", and the disks of the volume have {} bytes free for it; delete something there{smaller}",
                group.extent_size.bytes(most)
            )
        });
        Error::new(
            Reason::NoSpace,
            format!(
                "pool {}: a snapshot of volume {} needs {} bytes{}{why}",
                self.name,
                record.source.volume,
                group.extent_size.bytes(extents),
                free.unwrap_or_default()
            ),
        )
    }

    /// See [`crate::Pool::activate_snapshot`] and [`crate::Pool::activate_for_removal`].
    pub(in crate::lvm) async fn activate_snapshot_device(
        &self,
        snapshot: &PoolSnapshot,
        purpose: Purpose,
    ) -> Result<PathBuf> {
        if self.has_own_device(snapshot) {
            self.shared.idle.mark_activated(snapshot.logical()?.1);
        }
        let _lock = self.lock().await?;
        let group = self.group().await?;
        let (current, found) = self.current_snapshot(&group, snapshot)?;
        match (purpose, &current.health) {
            (Purpose::Remove, SnapshotHealth::Whole | SnapshotHealth::Invalid(_)) => self.check_complete(&group)?,
            (Purpose::Remove | Purpose::Read, _) => current.check_whole(&self.name)?,
        }
        if let Some(why) = capacity::duplicated(&group) {
            return Err(Error::unavailable(format!("pool {}: {why}", self.name)));
        }
        if device_of(&current)?.is_none() {
            let activated = match found.is_thin() {
                true => commands::thin::activate_skipped(&group, found).await,
                false => commands::activate(&group, found).await,
            };
            self.recover_if_killed(&group, &activated).await;
            activated.map_err(|error| self.explain(error))?;
        }
        let node = device_of(&current)?.ok_or_else(|| {
            Error::host(format!(
                "lvm activated {}/{}, but the kernel has no device for it: see the kernel log and `lvs -a {}`",
                group.name, found.name, group.name
            ))
        })?;
        if self.has_own_device(&current) {
            return Ok(node);
        }
        // Only the kernel knows it, and only now: it may have become full before the last boot.
        match self.ask_status(group.uuid, found.uuid).await? {
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

    /// The status of a copy-on-write snapshot. The kernel may wait for the snapshot's disk.
    async fn ask_status(&self, group: VgUuid, snapshot: LvUuid) -> Result<Option<SnapshotStatus>> {
        let status = self.shared.observer.ask_kernel(move || snapshot_status(group, snapshot)).await;
        let status = status.map_err(|disk| Error::unavailable(format!("pool {}: {disk}", self.name)))?;
        Ok(status.ok().flatten())
    }

    /// Whether the snapshot has a device of its own, which is activated only while something reads or writes it. Others
    /// are active as long as their source.
    fn has_own_device(&self, snapshot: &PoolSnapshot) -> bool {
        self.config.thin_pool.is_some() || snapshot.record.method() == SnapshotMethod::Copy
    }

    /// See [`crate::Pool::deactivate_snapshot`].
    pub(in crate::lvm) async fn deactivate_snapshot_device(
        &self,
        snapshot: &PoolSnapshot,
        unused_since: Instant,
    ) -> Result<()> {
        if !self.has_own_device(snapshot) || device_of(snapshot)?.is_none() {
            return Ok(());
        }
        let (group, uuid) = snapshot.logical()?;
        // udev looks at a device after it was written to.
        for _ in 0..CLOSING_TRIES {
            if quarry_lvm::open_count(group, uuid).is_none_or(|count| count == 0) {
                break;
            }
            tokio::time::sleep(CLOSING).await;
        }
        let _lock = self.lock().await?;
        let group = self.group().await?;
        let (_, found) = self.current_snapshot(&group, snapshot)?;
        let Some(_deactivation) = self.shared.idle.begin(found.uuid, unused_since) else { return Ok(()) };
        if quarry_lvm::open_count(group.uuid, found.uuid) != Some(0) {
            return Err(Error::new(Reason::InUse, format!("snapshot {} is open", snapshot.name)));
        }
        let deactivated = commands::deactivate(&group, found).await;
        self.recover_if_killed(&group, &deactivated).await;
        match deactivated {
            Ok(()) | Err(quarry_lvm::Error::InUse { .. }) => Ok(()),
            Err(error) => Err(self.explain(error)),
        }
    }

    /// See [`crate::Pool::remove_snapshot`]. The caller holds the pool lock.
    pub(in crate::lvm) async fn remove_taken_snapshot(&self, snapshot: &PoolSnapshot) -> Result<()> {
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

    /// Removes what an earlier Quarry process left of snapshots between lvm's two commits, before they had an origin: if
    /// the request is not repeated, it would use space forever. Called before this process takes any.
    ///
    /// A `new` one with an origin stays until a request names it: `vgcfgrestore` may have brought its record back.
    pub(in crate::lvm) async fn remove_left_over_snapshots(&self, group: &VolumeGroup) {
        for snapshot in left_over(group) {
            let name = &snapshot.name;
            match self.remove_taken_snapshot(&snapshot).await {
                Ok(()) => tracing::info!(pool = self.name, name, "removed a snapshot whose creation was interrupted"),
                Err(error) => {
                    tracing::warn!(pool = self.name, name, %error, "cannot remove a snapshot whose creation was interrupted");
                }
            }
        }
    }

    /// Removes those snapshots of a volume whose creation was interrupted: they must not prevent the volume's deletion, nor
    /// its expansion, if the request for them is never repeated. `which` chooses among them: an expansion keeps one of its
    /// own, because `vgcfgrestore` may have brought its record back. The caller holds the pool lock, so none of them is
    /// being created.
    pub(in crate::lvm) async fn remove_interrupted_snapshots(
        &self,
        group: &Arc<VolumeGroup>,
        volume: &PoolVolume,
        which: fn(&SnapshotRecord) -> bool,
    ) -> Result<Arc<VolumeGroup>> {
        let of_volume = |snapshot: &PoolSnapshot| {
            snapshot.record.source.volume == volume.name
                && snapshot.record.source.storage == volume.storage
                && which(&snapshot.record)
        };
        let left = all_on(group, &volume.storage)
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

/// The device of a snapshot, if it is active.
pub(super) fn device_of(snapshot: &PoolSnapshot) -> Result<Option<PathBuf>> {
    let (group, uuid) = snapshot.logical()?;
    device::find(group, uuid)
        .map_err(|error| Error::host(format!("finding the device of snapshot {}: {error}", snapshot.name)))
}

/// Checks that lvm can take a snapshot of the volume now.
pub(super) fn check_source(
    pool: &str,
    group: &VolumeGroup,
    volume: &PoolVolume,
    logical: &LogicalVolume,
) -> Result<()> {
    let name = &volume.name;
    crate::snapshot::check_filled(pool, volume)?;
    if let Some(why) = group.operation_in_progress(logical) {
        return Err(Error::new(
            Reason::UnderWay,
            format!("pool {pool}: a snapshot of volume {name} cannot be taken now: {why}"),
        ));
    }
    if let Health::Lost(why) | Health::Incomplete(why) = &volume.health {
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
