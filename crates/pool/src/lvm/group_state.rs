//! What the pools in one volume group share.

use std::sync::Arc;

use parking_lot::Mutex;
use quarry_exec::Orphan;
use quarry_lvm::{Locator, VolumeGroup, capacity};

use super::cache::Cache;
use super::change::{ChangeLock, Flushes};
use super::idle::Idle;
use super::observe::Observer;
use super::{InvalidSnapshots, LvmDisks, UsedGroups, scratch, thin, volume};
use crate::{LvmConfig, PoolConfig, PoolKind, Uevents};

/// What all pools in one volume group share: the pool of its own logical volumes, and those of its thin pools.
#[derive(Clone)]
pub(crate) struct GroupState {
    pub(super) cache: Arc<Cache>,
    pub(super) observer: Arc<Observer>,
    pub(super) idle: Arc<Idle>,
    /// The pool lock, held while the volume group is changed: checking and using capacity is one step.
    pub(super) change_lock: Arc<ChangeLock>,
    /// Which changes have been flushed.
    pub(super) flushes: Arc<Flushes>,
    /// The lvm commands of an earlier Quarry process that were still running when this one started.
    pub(super) orphans: Arc<Mutex<Vec<Orphan>>>,
    /// The pool that reports what concerns the whole volume group.
    pub(super) reporter: String,
    /// The pool that makes the volume group, if the configuration says so.
    pub(super) made_by: Option<String>,
    /// The names of the thin pools that the configuration has in the volume group.
    thin_pools: Vec<String>,
}

impl GroupState {
    /// For a volume group. `first`: one of its pools; `pools`: the configuration, which may have pools elsewhere, too. The
    /// last two are what earlier processes have noted.
    pub(crate) fn new(
        first: &LvmConfig,
        pools: &[PoolConfig],
        uevents: Uevents,
        disks: LvmDisks,
        (invalid, used): (Arc<InvalidSnapshots>, Arc<UsedGroups>),
    ) -> Self {
        let of_group = |pool: &'_ PoolConfig| match &pool.kind {
            PoolKind::Lvm(config) if config.volume_group == first.volume_group => {
                Some((pool.name.clone(), config.thin_pool.as_ref().map(|thin| thin.name.clone())))
            }
            _ => None,
        };
        let makes = |pool: &&PoolConfig| match &pool.kind {
            PoolKind::Lvm(config) => config.volume_group == first.volume_group && config.create.is_some(),
            PoolKind::Disk(_) => false,
        };
        let made_by = pools.iter().find(makes).map(|pool| pool.name.clone());
        let pools: Vec<_> = pools.iter().filter_map(of_group).collect();
        // The ordinary pool, if there is one.
        let reporter = pools.iter().min_by_key(|(_, thin)| thin.is_some()).map(|(name, _)| name.clone());
        let locator = Locator::new(&first.volume_group, first.archives, used.of(&first.volume_group));
        Self {
            observer: Observer::new(&first.volume_group, disks.clone(), invalid, used),
            cache: Cache::new(&first.volume_group, locator, uevents, disks),
            idle: Arc::default(),
            change_lock: Arc::default(),
            flushes: Arc::default(),
            orphans: Arc::new(Mutex::new(quarry_exec::orphans(&first.volume_group))),
            reporter: reporter.unwrap_or_default(),
            made_by,
            thin_pools: pools.into_iter().filter_map(|(_, thin)| thin).collect(),
        }
    }

    /// What an operator should know about the whole volume group.
    pub(super) fn hints(&self, group: &VolumeGroup) -> Vec<String> {
        let mut hints = capacity::hints(group);
        hints.extend(quarry_lvm::archive_problem());
        hints.extend(volume::not_volumes(group));
        hints.extend(scratch::hint(group));
        hints.extend(thin::parts_left(group, &self.thin_pools));
        hints
    }
}
