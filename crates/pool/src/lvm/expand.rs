//! Expands a logical volume. Its new extents are held by a scratch volume until they are clean, and then join the
//! volume under the pool lock.
//!
//! The instant between, in which they are free, belongs to this pool as far as Quarry is concerned. Another lvm
//! command can take them there; then lvextend fails, and the retry begins again.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use quarry_lvm::{Discards, ImageState, LogicalVolume, LvUuid, RaidStatus, VolumeGroup, capacity, commands, expansion};
use quarry_volume::{Error, Extents, Gib, Layout, Reason, Result, SizeRange};

use super::scratch::{self, Scratch};
use super::{LvmPool, device};
use crate::pool::{Device, Expansion, NewSpace};
use crate::{PoolVolume, ScratchRecord, SnapshotRecord};

impl LvmPool {
    /// See [`crate::Pool::reserve_expansion`].
    pub(super) async fn reserve_new_space(&self, volume: &PoolVolume, size: &SizeRange) -> Result<Option<Expansion>> {
        let group = self.group().await?;
        let (current, found) = self.current(&group, volume)?;
        current.record()?;
        let enough = !current.needs_expansion(size)?;
        if enough && scratch::of(&group, found.uuid).is_empty() && !is_short(&group, found)? {
            return Ok(None);
        }
        let _lock = self.lock().await?;
        let group = self.group().await?;
        let (current, found) = self.current(&group, volume)?;
        current.record()?;
        if !current.needs_expansion(size)? {
            self.complete_expansion(&group, found).await?;
            return Ok(None);
        }
        self.check_complete(&group)?;
        let group =
            self.remove_interrupted_snapshots(&group, &current, SnapshotRecord::serves).await.map_err(for_expansion)?;
        let group = self.with_known_copies(group, volume).await?;
        let (current, found) = self.current(&group, volume)?;
        let layout = check_expandable(&self.name, &group, &current, found)?;
        let target = current.expanded_size(size, Self::unit(&group, &layout))?;
        let extents = group.extent_size.whole_in(target.saturating_sub(current.size));
        if let Some(scratch) = suitable(&group, found, &layout, target, extents) {
            return self.new_space(&group, &layout, target, &scratch).await.map(Some);
        }
        let group = self.release_new_space(&group, found.uuid).await?;
        let (current, found) = self.current(&group, volume)?;
        let chosen = match capacity::closed(&group) {
            Some(why) => Err(vec![why]),
            None => expansion::choose(&group, found, &layout, extents, self.config.reserve)
                .ok_or_else(|| capacity::withheld(&group)),
        };
        let ranges = chosen.map_err(|why| self.no_room(&group, &current, found, &layout, target, &why))?;
        let name = scratch::name_for(found.uuid);
        if group.logical_volume(&name).is_some() {
            return Err(Error::unavailable(format!(
                "pool {}: {}/{name} already exists, but is not new space for volume {}; rename or remove it by hand",
                self.name, group.name, current.name
            )));
        }
        let record = ScratchRecord::new(found.uuid.to_string(), target);
        let made = commands::create_on(&group, &name, &[record.to_string()], &ranges).await;
        self.commit(&group, made).await.map_err(|error| self.taken_meanwhile(error))?;
        let group = self.group().await?;
        let (_, found) = self.current(&group, volume)?;
        match suitable(&group, found, &layout, target, extents) {
            Some(scratch) => self.new_space(&group, &layout, target, &scratch).await.map(Some),
            None => Err(self.not_reserved(&current)),
        }
    }

    /// The volume group with the present state of the volume's copies. Of an inactive mirror only the last state is known,
    /// and its copies are rebuilt only while it is active. If that prevents the expansion, it is activated, and stays
    /// active until its copies are intact and it is unstaged again. The caller holds the pool lock.
    async fn with_known_copies(&self, group: Arc<VolumeGroup>, volume: &PoolVolume) -> Result<Arc<VolumeGroup>> {
        let started = Instant::now();
        let (current, found) = self.current(&group, volume)?;
        check_independent(&self.name, &group, &current, found)?;
        if copies_are_intact(found) || find_device(&group, found)?.is_some() {
            return Ok(group);
        }
        let activated = commands::activate(&group, found).await;
        self.recover_if_killed(&group, &activated).await;
        activated.map_err(|error| self.explain(error))?;
        let group = self.group().await?;
        let (_, found) = self.current(&group, volume)?;
        if copies_are_intact(found) {
            self.deactivate_again(&group, found, started).await;
        }
        Ok(group)
    }

    /// See [`crate::Pool::set_expansion_zeroed`].
    pub(super) async fn set_new_space_zeroed(&self, volume: &PoolVolume, zeroed: Gib) -> Result<()> {
        let _lock = self.lock().await?;
        let group = self.group().await?;
        let (current, found) = self.current(&group, volume)?;
        self.check_complete(&group)?;
        let [scratch] = &scratch::of(&group, found.uuid)[..] else { return Err(self.not_reserved(&current)) };
        let (before, after) = (scratch.record.to_string(), scratch.record.zeroed(zeroed).to_string());
        self.replace_tag(&group, scratch.logical, &before, &after).await.map(drop).map_err(for_expansion)
    }

    /// See [`crate::Pool::expand`].
    pub(super) async fn add_new_space(&self, volume: &PoolVolume, expansion: &Expansion) -> Result<PoolVolume> {
        let started = Instant::now();
        let _lock = self.lock().await?;
        let group = self.group().await?;
        let (current, found) = self.current(&group, volume)?;
        current.record()?;
        if current.size >= expansion.size {
            self.complete_expansion(&group, found).await?;
            return Ok(current);
        }
        self.check_complete(&group)?;
        let layout = check_expandable(&self.name, &group, &current, found)?;
        let extents = group.extent_size.whole_in(expansion.size.saturating_sub(current.size));
        let scratch = suitable(&group, found, &layout, expansion.size, extents);
        let Some((scratch, pieces)) =
            scratch.and_then(|scratch| expansion::pieces(&scratch.ranges(), &layout).map(|pieces| (scratch, pieces)))
        else {
            return Err(self.not_reserved(&current));
        };
        let was_active = find_device(&group, found)?.is_some();
        if !was_active && matches!(layout, Layout::Raid1 { .. }) {
            let activated = commands::activate(&group, found).await;
            self.recover_if_killed(&group, &activated).await;
            activated.map_err(|error| self.explain(error))?;
        }
        // The volume gets the extents next, and must read what was written to them.
        let removed = self.remove_with_discards(&group, scratch.logical, Discards::Never).await;
        removed.map_err(for_expansion)?;
        let group = self.group().await?;
        let (_, found) = self.current(&group, volume)?;
        let size = group.extent_size.whole_in(expansion.size);
        let extended = commands::extend(&group, found, &layout, size, &pieces).await;
        self.commit(&group, extended).await.map_err(|error| self.taken_meanwhile(error))?;
        let group = self.group().await?;
        let (current, found) = self.current(&group, volume)?;
        self.refresh_if_short(&group, found).await?;
        if !was_active {
            self.deactivate_again(&group, found, started).await;
        }
        if current.size < expansion.size {
            return Err(self.not_reserved(&current));
        }
        let shared = group.shared_by_images(found);
        if !shared.is_empty() {
            return Err(Error::host(format!(
                "pool {}: volume {} was expanded, but lvm placed several of its copies on one disk ({}), so it is not \
                 mirrored there; see its problem for how to repair it",
                self.name,
                current.name,
                shared.join(", ")
            )));
        }
        Ok(current)
    }

    /// Removes the scratch volumes for the volume with that UUID. The caller holds the pool lock. Returns the
    /// volume group without them.
    pub(super) async fn release_new_space(&self, group: &Arc<VolumeGroup>, volume: LvUuid) -> Result<Arc<VolumeGroup>> {
        let mut group = Arc::clone(group);
        for scratch in scratch::of(&Arc::clone(&group), volume) {
            self.remove_volume(&group, scratch.logical).await.map_err(for_expansion)?;
            group = self.group().await?;
        }
        Ok(group)
    }

    /// Removes scratch volumes of volumes that no longer exist, as part of the recovery. Failures are only logged:
    /// they cost space, and are retried at the next start.
    pub(super) async fn remove_left_over_space(&self, group: &VolumeGroup) {
        for Scratch { logical, .. } in scratch::left_over(group) {
            let name = &logical.name;
            // The wiping of a process that outlived its Quarry.
            let open = quarry_lvm::open_count(group.uuid, logical.uuid).is_some_and(|count| count > 0);
            let removed = match self.check_complete(group) {
                Ok(()) if open => Err(Error::unavailable("its device is open")),
                Ok(()) => self.remove_volume(group, logical).await,
                Err(error) => Err(error),
            };
            match removed {
                Ok(()) => {
                    tracing::info!(pool = self.name, name, "removed the space of an expansion without its volume")
                }
                Err(error) => {
                    tracing::warn!(pool = self.name, name, %error, "cannot remove the space of an expansion without its volume");
                }
            }
        }
    }

    /// Completes an earlier expansion of a volume that is large enough: its device has the new size, and no space
    /// stays reserved.
    async fn complete_expansion(&self, group: &Arc<VolumeGroup>, volume: &LogicalVolume) -> Result<()> {
        self.refresh_if_short(group, volume).await?;
        let released = match self.check_complete(group) {
            Ok(()) => self.release_new_space(group, volume.uuid).await.map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = released {
            // The request is fulfilled nevertheless.
            tracing::warn!(pool = self.name, volume = volume.name, %error, "cannot release unused new space");
        }
        Ok(())
    }

    /// Makes the device of an active volume as large as the volume is according to lvm. An lvextend that was killed
    /// after its commit leaves a smaller one. The caller holds the pool lock.
    pub(super) async fn refresh_if_short(&self, group: &VolumeGroup, volume: &LogicalVolume) -> Result<()> {
        if !is_short(group, volume)? {
            return Ok(());
        }
        tracing::warn!(
            pool = self.name,
            volume = volume.name,
            "its device is smaller than the volume; loading it again"
        );
        let refreshed = commands::refresh(group, volume).await;
        self.recover_if_killed(group, &refreshed).await;
        refreshed.map_err(|error| self.explain(error))?;
        if is_short(group, volume)? {
            return Err(Error::host(format!(
                "pool {}: the device of {}/{} is smaller than the volume, and lvm does not enlarge it: see the kernel \
                 log, and `lvchange --refresh {}/{}`",
                self.name, group.name, volume.name, group.name, volume.name
            )));
        }
        Ok(())
    }

    /// Deactivates a volume that was activated only to be expanded, unless it was activated by a call since.
    async fn deactivate_again(&self, group: &VolumeGroup, volume: &LogicalVolume, since: Instant) {
        if !self.config.deactivate || quarry_lvm::open_count(group.uuid, volume.uuid) != Some(0) {
            return;
        }
        let Some(_deactivation) = self.shared.idle.begin(volume.uuid, since) else { return };
        let deactivated = commands::deactivate(group, volume).await;
        self.recover_if_killed(group, &deactivated).await;
        if let Err(error) = deactivated {
            tracing::warn!(pool = self.name, volume = volume.name, %error, "it stays active after its expansion");
        }
    }

    /// The new space in a scratch volume, as a device.
    async fn new_space(
        &self,
        group: &VolumeGroup,
        layout: &Layout,
        size: u64,
        scratch: &Scratch<'_>,
    ) -> Result<Expansion> {
        let logical = scratch.logical;
        let node = match find_device(group, logical)? {
            Some(node) => Some(node),
            None => {
                let activated = commands::activate(group, logical).await;
                self.recover_if_killed(group, &activated).await;
                activated.map_err(|error| self.explain(error))?;
                find_device(group, logical)?
            }
        };
        let node = node.ok_or_else(|| {
            Error::host(format!(
                "pool {}: lvm activated {}/{}, but the kernel has no device for it: see the kernel log",
                self.name, group.name, logical.name
            ))
        })?;
        let ranges = scratch.ranges();
        let pieces = expansion::pieces(&ranges, layout).unwrap_or_default();
        let space = NewSpace {
            device: Device::Node(node),
            size: logical.size,
            signature_places: scratch::signature_places(group.extent_size, &ranges, &pieces),
            zeroed: scratch.record.zeroed,
        };
        Ok(Expansion { size, device: Some(space) })
    }

    /// The error of a command that needs extents which were free a moment ago. If lvm has none now, something else took
    /// them, and a retry looks for others.
    fn taken_meanwhile(&self, error: Error) -> Error {
        match error.reason {
            Reason::NoSpace => Error::unavailable(format!(
                "pool {}: the free extents were taken in the meantime, so retry: {}",
                self.name, error.message
            )),
            _ => for_expansion(error),
        }
    }

    fn not_reserved(&self, volume: &PoolVolume) -> Error {
        Error::unavailable(format!(
            "pool {}: the new space for volume {} was released or changed in the meantime: retry",
            self.name, volume.name
        ))
    }

    /// The error for a size that is not possible, with the largest one that is.
    fn no_room(
        &self,
        group: &VolumeGroup,
        volume: &PoolVolume,
        logical: &LogicalVolume,
        layout: &Layout,
        target: u64,
        why: &[String],
    ) -> Error {
        let more = match capacity::closed(group) {
            Some(_) => Extents::NONE,
            None => expansion::largest(group, logical, layout, self.config.reserve),
        };
        let own = match layout {
            Layout::Linear => None,
            _ => Some(format!("a volume of layout {} is expanded only on its own disks", layout.kind())),
        };
        let why: String = own.iter().chain(why).map(|why| format!("; {why}")).collect();
        Error::new(
            Reason::SizeOutOfRange,
            format!(
                "pool {} cannot expand volume {} to {target} bytes ({layout}): the largest size that is possible now \
                 is {} bytes{why}",
                self.name,
                volume.name,
                volume.size.saturating_add(group.extent_size.bytes(more))
            ),
        )
    }
}

/// The node of the volume's device, if it is active.
fn find_device(group: &VolumeGroup, volume: &LogicalVolume) -> Result<Option<PathBuf>> {
    device::find(group.uuid, volume.uuid)
        .map_err(|error| Error::host(format!("finding the device of {}: {error}", volume.name)))
}

/// Whether the kernel has a device for the volume that is smaller than the volume.
fn is_short(group: &VolumeGroup, volume: &LogicalVolume) -> Result<bool> {
    let size = device::size(group.uuid, volume.uuid)
        .map_err(|error| Error::host(format!("the size of the device of {}: {error}", volume.name)))?;
    Ok(size.is_some_and(|size| size < volume.size))
}

/// Converts an error of a command for an expansion. For external-resizer, a pool without space is not final, and a
/// volume in use is not expanded before its pods end.
fn for_expansion(error: Error) -> Error {
    let reason = match error.reason {
        Reason::NoSpace => Reason::SizeOutOfRange,
        // A scratch volume, which something has open for a moment.
        Reason::InUse => Reason::UnderWay,
        other => other,
    };
    Error { reason, ..error }
}

/// Checks that nothing else works on the volume or depends on it.
fn check_independent(pool: &str, group: &VolumeGroup, volume: &PoolVolume, logical: &LogicalVolume) -> Result<()> {
    let name = &volume.name;
    if let Some(why) = group.operation_in_progress(logical) {
        return Err(Error::new(Reason::UnderWay, format!("pool {pool}: volume {name} cannot be expanded now: {why}")));
    }
    super::snapshot::check_none(pool, group, volume, "expanded")?;
    let dependents = group.removed_with(logical);
    if !dependents.is_empty() {
        let describe =
            |other: &&LogicalVolume| format!("{}/{} ({})", group.name, other.name, other.dependence(logical));
        return Err(Error::precondition(format!(
            "pool {pool}: volume {name} cannot be expanded while something depends on it: {}; remove or detach it \
             first",
            quarry_volume::some_of(dependents.iter().map(describe))
        )));
    }
    Ok(())
}

/// Checks that lvm can expand the volume now, and returns its current layout.
fn check_expandable(pool: &str, group: &VolumeGroup, volume: &PoolVolume, logical: &LogicalVolume) -> Result<Layout> {
    check_independent(pool, group, volume, logical)?;
    let name = &volume.name;
    let images = group.images_of(&logical.name);
    if let Some(status) = &logical.raid {
        if !is_idle(status) {
            return Err(Error::new(
                Reason::UnderWay,
                format!(
                    "pool {pool}: volume {name} cannot be expanded while its copies are being compared or rebuilt \
                     ({}); wait until that has finished",
                    status.action
                ),
            ));
        }
        if !copies_are_intact(logical) {
            return Err(not_intact(pool, volume));
        }
    }
    if images.iter().any(|image| image.segment_types.contains("error")) || !group.shared_by_images(logical).is_empty() {
        return Err(not_intact(pool, volume));
    }
    expansion::layout(group, logical).ok_or_else(|| {
        let kinds: Vec<&str> = logical.segment_types.iter().map(String::as_str).collect();
        Error::new(
            Reason::SizeOutOfRange,
            format!(
                "pool {pool}: volume {name} cannot be expanded, because its layout was changed by hand ({}); {} bytes \
                 is the largest size",
                kinds.join(" and "),
                volume.size
            ),
        )
    })
}

/// Whether the copies of a mirror are being neither compared nor rebuilt.
fn is_idle(status: &RaidStatus) -> bool {
    matches!(status.action.as_str(), "" | "idle")
}

/// Whether a volume is no mirror, or its copies are complete and idle, as far as the kernel last said.
fn copies_are_intact(logical: &LogicalVolume) -> bool {
    let intact =
        |status: &RaidStatus| is_idle(status) && status.images.iter().all(|image| *image == ImageState::InStep);
    logical.raid.as_ref().is_none_or(intact)
}

/// The error for a mirrored volume whose copies are not intact.
fn not_intact(pool: &str, volume: &PoolVolume) -> Error {
    Error::unavailable(format!(
        "pool {pool}: volume {} cannot be expanded before its copies are intact: {}",
        volume.name,
        volume.health.problem().unwrap_or("one of them has failed")
    ))
}

/// The scratch volume with the new space for that size, if it can still join the volume.
fn suitable<'a>(
    group: &'a VolumeGroup,
    volume: &LogicalVolume,
    layout: &Layout,
    size: u64,
    extents: Extents,
) -> Option<Scratch<'a>> {
    let fits = |scratch: &Scratch<'_>| {
        scratch.record.size == size && expansion::suits(group, volume, layout, extents, &scratch.ranges())
    };
    match scratch::of(group, volume.uuid) {
        // Several are made by hand. All are released.
        mut found if found.len() == 1 => found.pop().filter(fits),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
