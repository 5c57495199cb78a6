//! A pool whose volumes are in a thin pool of the volume group. They take space only when they are written to, and their
//! snapshots and copies share it.
//!
//! A thin pool is recognized by its name in the configuration. It may have been created by an operator, or by Quarry, if
//! the configuration says so.

mod create;
mod discard;
mod maintain;
mod make;
mod room;
mod snapshot;

use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;
use quarry_lvm::{LogicalVolume, ThinPoolMode, VolumeGroup};
use quarry_volume::{Error, Layout, PoolState, Result, StorageId, ThinUse, VolumeSpec};

pub(super) use self::maintain::maintain_from_now_on;
pub(super) use self::make::parts_left;
use self::room::{closed, is_overcommitted, nearly_full, room, virtual_extents};
use super::LvmPool;
use super::health::part_health;
use super::volume::{storage_under, thin_storage_of};
use crate::pool::unsupported;
use crate::record::State;
use crate::{Health, PoolVolume, Record, SnapshotHealth, SnapshotKind, SnapshotRecord, ThinPoolConfig};

/// From this use of its data on, in percent, a thin pool that can become full is shown as a problem of its volumes.
const NEARLY_FULL: u8 = 90;
/// From this use of its data on, in percent, the operator gets a hint.
const FILLING_UP: u8 = 80;

/// What is known about the thin pool of a pool.
#[derive(Default)]
pub(super) struct Known {
    /// Its identity when it was last seen.
    storage: Mutex<Option<StorageId>>,
    /// Why it could not be created, activated or extended.
    problem: Mutex<Option<String>>,
    /// Whether this process has activated it. It does so once: an operator who deactivates it repairs it.
    activated: AtomicBool,
}

impl Known {
    pub(super) fn storage(&self) -> Option<StorageId> {
        self.storage.lock().clone()
    }
}

impl LvmPool {
    /// The identity of the pool's storage: of the volume group, or of the thin pool.
    ///
    /// # Errors
    /// `Unavailable` if the thin pool does not exist.
    pub(super) fn storage_in(&self, group: &VolumeGroup) -> Result<StorageId> {
        let Some(config) = &self.config.thin_pool else { return Ok(super::volume::storage_of(group.uuid)) };
        let pool = self.thin_pool_in(group, config)?;
        let storage = thin_storage_of(group.uuid, pool.uuid);
        *self.thin.storage.lock() = Some(storage.clone());
        Ok(storage)
    }

    /// The thin pool.
    fn thin_pool_in<'a>(&self, group: &'a VolumeGroup, config: &ThinPoolConfig) -> Result<&'a LogicalVolume> {
        group
            .thin_pool(&config.name)
            .ok_or_else(|| Error::unavailable(format!("pool {}: {}", self.name, missing(group, config))))
    }

    /// Adds the state of the thin pool to that of the pool.
    pub(super) fn describe_thin_pool(&self, group: &VolumeGroup, config: &ThinPoolConfig, state: &mut PoolState) {
        state.on = format!("{}/{}", group.name, config.name);
        state.enlarge = format!("extend its thin pool (`lvextend --size +SIZE {}`)", state.on);
        state.space.extent = group.extent_size;
        state.problems.extend(self.thin.problem.lock().clone());
        let Some(pool) = group.thin_pool(&config.name) else {
            state.space.closed = Some(missing(group, config));
            return;
        };
        state.size = pool.size;
        state.space.free = vec![room(group, pool, config)];
        state.space.closed = closed(group, pool);
        state.thin = pool.thin_pool.map(|status| ThinUse {
            data_percent: status.data_percent(),
            metadata_percent: status.metadata_percent(),
            virtual_size: group.extent_size.bytes(virtual_extents(group, pool)),
        });
        state.hints.extend(fill_hint(group, pool));
    }
}

/// Why there is no thin pool.
fn missing(group: &VolumeGroup, config: &ThinPoolConfig) -> String {
    let path = format!("{}/{}", group.name, config.name);
    match (group.logical_volume(&config.name), &config.create) {
        (Some(_), Some(_)) if make::is_half_made(group, config) => format!("thin pool {path} is being created"),
        (Some(_), _) => format!(
            "{path} is not a thin pool: rename or remove that logical volume, or name another pool in the configuration"
        ),
        (None, Some(_)) => format!("thin pool {path} is being created"),
        (None, None) => format!(
            "thin pool {path} does not exist: create it (lvcreate --type thin-pool), or let Quarry create it (\"create: \
             true\" in the pool's configuration)"
        ),
    }
}

/// How full the thin pool is, if that is much.
fn fill_hint(group: &VolumeGroup, pool: &LogicalVolume) -> Option<String> {
    let status = pool.thin_pool.filter(|status| status.mode == ThinPoolMode::Writable)?;
    let path = format!("{}/{}", group.name, pool.name);
    let (data, metadata) = (status.data_percent(), status.metadata_percent());
    (data >= FILLING_UP || metadata >= room::METADATA_WARNING).then(|| {
        format!(
            "thin pool {path} uses {data} % of its data and {metadata} % of its metadata: extend it (`lvextend --size \
             +SIZE {path}`, `lvextend --poolmetadatasize +SIZE {path}`), or delete volumes and snapshots in it"
        )
    })
}

/// Rejects what a pool with that name can never do, because its volumes are in a thin pool.
pub(super) fn supports(pool: &str, spec: &VolumeSpec) -> Result<()> {
    match spec.class.layout {
        Layout::Linear => Ok(()),
        layout => Err(unsupported(format!(
            "pool {pool} is a thin pool, so that its volumes have no layout of their own ({layout}): remove the layout \
             from the StorageClass"
        ))),
    }
}

/// Rejects the removal of a thin volume while it is being cloned: its clone has a snapshot of it, but the volume is asked
/// for again.
pub(super) fn check_no_clone(pool: &str, group: &VolumeGroup, volume: &PoolVolume) -> Result<()> {
    let all = super::snapshot::all_on(group, &volume.storage);
    let own = |record: &SnapshotRecord| record.kind == SnapshotKind::ForClone && record.source.volume == volume.name;
    let clones: Vec<_> = all.into_iter().filter(|snapshot| own(&snapshot.record)).collect();
    crate::snapshot::check_none(&clones, &format!("pool {pool}: volume {}", volume.name), "removed")
}

/// Why a `new` thin volume is incomplete. A copy is taken in two steps, and may not have the contents of one instant
/// before the second.
pub(super) fn incompleteness(volume: &LogicalVolume, record: &Record) -> Option<String> {
    let name = &volume.name;
    if !volume.is_thin() {
        return Some(format!("{name} is not a thin volume"));
    }
    let is_copy = record.filling && volume.origin.is_some();
    (is_copy && record.zeroed == quarry_volume::Gib::NONE)
        .then(|| format!("{name} may not have the contents of one instant"))
}

/// The health of a thin volume: that of its pool.
pub(super) fn health(group: &VolumeGroup, volume: &LogicalVolume) -> Health {
    // Every complete report has the pool.
    let pool = volume.pool.as_deref().and_then(|pool| group.thin_pool(pool));
    pool.map_or(Health::Whole, |pool| pool_health(group, pool))
}

fn pool_health(group: &VolumeGroup, pool: &LogicalVolume) -> Health {
    let path = format!("{}/{}", group.name, pool.name);
    let parts = [&pool.data_part, &pool.metadata_part].into_iter().flatten();
    let parts: Vec<Health> = parts
        .filter_map(|part| group.logical_volume(part))
        .map(|part| part_health(group, part))
        .filter(|health| *health != Health::Whole)
        .collect();
    if let Some(lost) = parts.iter().find(|health| matches!(health, Health::Lost(_))) {
        return lost.clone();
    }
    if let Some(why) = room::broken(group, pool) {
        return Health::Lost(why);
    }
    if let Some(degraded) = parts.into_iter().next() {
        return degraded;
    }
    let Some(status) = pool.thin_pool else { return Health::Whole };
    match status.mode {
        ThinPoolMode::OutOfDataSpace => Health::Degraded(format!(
            "thin pool {path} is full, so writes to new blocks {}: extend it (`lvextend --size +SIZE {path}`), or delete \
             volumes and snapshots in it",
            match pool.errors_when_full {
                Some(true) => "fail",
                _ => "wait, and fail after a minute",
            }
        )),
        _ if status.data_percent() >= NEARLY_FULL && is_overcommitted(group, pool) => Health::Degraded(format!(
            "thin pool {path} uses {} % of its data, and its volumes fail when it is full: extend it (`lvextend --size \
             +SIZE {path}`), or delete volumes and snapshots in it",
            status.data_percent()
        )),
        _ => Health::Whole,
    }
}

/// The state of a thin snapshot.
pub(super) fn snapshot_health(group: &VolumeGroup, logical: &LogicalVolume, record: &SnapshotRecord) -> SnapshotHealth {
    if record.state == State::New {
        return SnapshotHealth::Incomplete("its creation was interrupted".to_owned());
    }
    match health(group, logical) {
        Health::Lost(why) | Health::Incomplete(why) => SnapshotHealth::Lost(why),
        Health::Whole | Health::Degraded(_) => SnapshotHealth::Whole,
    }
}

/// Whether the logical volume is on the storage of that volume.
fn same_storage(group: &VolumeGroup, logical: &LogicalVolume, storage: &StorageId) -> bool {
    logical.is_thin() && storage_under(group, logical) == *storage
}

#[cfg(test)]
mod tests;
