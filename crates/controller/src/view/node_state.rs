//! The known state of a node, copied at one instant, for checks that compare nodes with each other.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, SystemTime};

use quarry_volume::{Greeting, PoolState, Snapshot, SnapshotCondition, SnapshotId, Unreachable, VolumeId};

use super::list::is_orphan;
use super::unreachable::short;
use crate::environment::Fate;
use crate::member::{Link, Member};
use crate::orphans::{AGE, is_orphaned_snapshot};

/// Why a node is unreachable, and for how long.
#[derive(Clone, Debug)]
pub(super) struct Down {
    pub(super) cause: Unreachable,
    pub(super) why: String,
    pub(super) since: Duration,
}

/// A node, from memory.
#[derive(Clone, Debug, Default)]
pub(super) struct NodeState {
    pub(super) name: String,
    /// `None` if the node is connected.
    pub(super) down: Option<Down>,
    /// The state of an unreachable node as a machine, if it was queried.
    pub(super) fate: Option<Fate>,
    pub(super) greeting: Option<Greeting>,
    pub(super) pools: Vec<PoolState>,
    pub(super) volumes: usize,
    pub(super) orphans: usize,
    /// Problems with volumes, by pool.
    pub(super) volume_problems: BTreeMap<String, VolumeProblems>,
    pub(super) snapshots: usize,
    pub(super) orphaned_snapshots: usize,
    /// Problems with snapshots, by pool, and by whether the snapshots are invalid.
    pub(super) snapshot_problems: BTreeMap<(String, bool), SnapshotProblems>,
}

/// Snapshots of one pool with problems.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SnapshotProblems {
    pub(super) count: usize,
    /// The first one, and its problem.
    pub(super) example: (SnapshotId, String),
}

/// Volumes of one pool with problems.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct VolumeProblems {
    pub(super) count: usize,
    /// How many of them have been published.
    pub(super) ready: usize,
    /// The first one that has been published, or else the first one, and its problem.
    pub(super) example: (VolumeId, String),
    ready_example: bool,
}

impl NodeState {
    /// Copies a node from memory; `wanted` are the handles of all PersistentVolumes, if known, and `wanted_snapshots` those
    /// of all VolumeSnapshotContents.
    pub(super) fn of(
        member: &Member,
        wanted: Option<&HashSet<String>>,
        wanted_snapshots: Option<&HashSet<String>>,
    ) -> Self {
        let down = match member.link() {
            Link::Up { .. } => None,
            Link::Down { cause, why, since } => {
                Some(Down { cause, why: short(&member.name, &why), since: since.elapsed() })
            }
        };
        let memory = member.memory();
        let mut seen = Self {
            name: member.name.clone(),
            down,
            greeting: memory.greeting().cloned(),
            pools: memory.pools().cloned().collect(),
            volumes: memory.count(),
            snapshots: memory.count_snapshots(),
            ..Self::default()
        };
        for (volume, age) in memory.aged(None) {
            if wanted.is_some_and(|wanted| age >= AGE && is_orphan(wanted, &volume.id)) {
                seen.orphans += 1;
            }
            if !volume.problem.is_empty() {
                seen.add_problem(&volume.pool, volume.ready, &volume.id, &volume.problem);
            }
        }
        let now = SystemTime::now();
        let is_orphan =
            |snapshot: &&Snapshot| wanted_snapshots.is_some_and(|wanted| is_orphaned_snapshot(wanted, snapshot, now));
        seen.orphaned_snapshots = memory.snapshots(None).filter(is_orphan).count();
        for snapshot in memory.snapshots(None).filter(|snapshot| !snapshot.problem.is_empty()) {
            let is_invalid = snapshot.condition == SnapshotCondition::Invalid;
            let example = || (snapshot.id.clone(), snapshot.problem.clone());
            seen.snapshot_problems
                .entry((snapshot.pool.clone(), is_invalid))
                .or_insert_with(|| SnapshotProblems { count: 0, example: example() })
                .count += 1;
        }
        seen
    }

    /// The pools whose storage has an ID that no other storage has. That of whole disks is derived from the pool's name,
    /// which is the same on every node.
    pub(super) fn unique_storage(&self) -> impl Iterator<Item = &PoolState> {
        self.pools.iter().filter(|pool| pool.capabilities.unique_storage)
    }

    fn add_problem(&mut self, pool: &str, ready: bool, id: &VolumeId, problem: &str) {
        let example = || (id.clone(), problem.to_owned());
        let volume_problems = self.volume_problems.entry(pool.to_owned()).or_insert_with(|| VolumeProblems {
            count: 0,
            ready: 0,
            example: example(),
            ready_example: ready,
        });
        volume_problems.count += 1;
        if ready {
            volume_problems.ready += 1;
            if !volume_problems.ready_example {
                volume_problems.example = example();
                volume_problems.ready_example = true;
            }
        }
    }
}
