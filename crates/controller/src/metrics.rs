//! The controller's own counters other than those of its calls.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

use quarry_transport::metrics::{Metrics, Sample};
use quarry_volume::{Condition, Reason, Result, SnapshotCondition};

use crate::cluster::Cluster;
use crate::member::Link;

/// Results of placing new volumes.
#[derive(Debug, Default)]
pub(crate) struct Placements {
    placed: AtomicU64,
    no_space: AtomicU64,
    unavailable: AtomicU64,
    under_way: AtomicU64,
    refused: AtomicU64,
}

impl Placements {
    pub(crate) fn count<T>(&self, result: &Result<T>) {
        let counter = match result.as_ref().map_err(|error| error.reason) {
            Ok(_) => &self.placed,
            Err(Reason::NoSpace) => &self.no_space,
            Err(Reason::Unavailable) => &self.unavailable,
            Err(Reason::UnderWay | Reason::TimedOut) => &self.under_way,
            Err(_) => &self.refused,
        };
        counter.fetch_add(1, Relaxed);
    }

    fn all(&self) -> [(&'static str, u64); 5] {
        [
            ("placed", &self.placed),
            ("no_space", &self.no_space),
            ("unavailable", &self.unavailable),
            ("under_way", &self.under_way),
            ("refused", &self.refused),
        ]
        .map(|(name, counter)| (name, counter.load(Relaxed)))
    }
}

fn count(number: usize) -> Sample {
    Sample::count(u64::try_from(number).unwrap_or(u64::MAX))
}

impl Cluster {
    /// Registers the metrics of this cluster.
    pub fn register(&self, metrics: &Metrics) {
        let cluster = self.clone();
        metrics.gauge("nodes", "Nodes, by whether their agent can be reached", move || {
            let members = cluster.members();
            let up = members.iter().filter(|member| matches!(member.link(), Link::Up { .. })).count();
            vec![count(up).label("state", "up"), count(members.len() - up).label("state", "down")]
        });
        let cluster = self.clone();
        metrics.gauge("node_unreachable_seconds", "How long each unreachable node has been unreachable", move || {
            let members = cluster.members();
            let down = members.iter().filter_map(|member| Some((member, member.down_for()?)));
            down.map(|(member, age)| Sample::new(age.as_secs_f64()).label("node", member.name.as_str())).collect()
        });
        let cluster = self.clone();
        metrics.counter("connections", "Connection attempts to nodes, by result", move || {
            let connections = &cluster.inner.connections;
            [("made", &connections.made), ("failed", &connections.failed)]
                .map(|(result, counter)| Sample::count(counter.load(Relaxed)).label("result", result))
                .to_vec()
        });
        let cluster = self.clone();
        metrics.counter("placements", "Requests for new volumes, by result", move || {
            let placements = cluster.inner.placements.all();
            placements.map(|(result, count)| Sample::count(count).label("result", result)).to_vec()
        });
        let cluster = self.clone();
        metrics.gauge("volumes", "Volumes that the nodes reported", move || {
            vec![count(cluster.members().iter().map(|member| member.memory().count()).sum())]
        });
        let cluster = self.clone();
        metrics.gauge("snapshots", "Snapshots that the nodes reported, by state", move || {
            let (mut ready, mut invalid, mut other) = (0, 0, 0);
            for member in cluster.members() {
                for snapshot in member.memory().snapshots(None) {
                    match (snapshot.condition, snapshot.ready) {
                        (SnapshotCondition::Invalid, _) => invalid += 1,
                        (_, true) => ready += 1,
                        (_, false) => other += 1,
                    }
                }
            }
            [("ready", ready), ("invalid", invalid), ("other", other)]
                .map(|(state, number)| count(number).label("state", state))
                .to_vec()
        });
        let cluster = self.clone();
        metrics.gauge("orphan_volumes", "Volumes that no PersistentVolume names", move || {
            cluster.count_orphans().map(count).into_iter().collect()
        });
        let cluster = self.clone();
        metrics.gauge("orphan_snapshots", "Snapshots that no VolumeSnapshotContent names", move || {
            cluster.count_orphaned_snapshots(SystemTime::now()).map(count).into_iter().collect()
        });
        let cluster = self.clone();
        metrics.gauge("volume_problems", "Volumes with a problem on nodes that can be reached", move || {
            let problems = cluster.count_problems().into_iter();
            let sample = |((node, pool, condition), number): ((String, String, &'static str), usize)| {
                count(number).label("node", node).label("pool", pool).label("condition", condition)
            };
            problems.map(sample).collect()
        });
    }

    /// The volumes with a problem, by node, pool and the kind of the problem. Nothing is known of volumes on
    /// unreachable nodes: the problem is that the node cannot be reached.
    fn count_problems(&self) -> BTreeMap<(String, String, &'static str), usize> {
        let mut problems = BTreeMap::new();
        for member in self.members().iter().filter(|member| member.down_for().is_none()) {
            for volume in member.memory().volumes(None).filter(|volume| !volume.problem.is_empty()) {
                let kind = (member.name.clone(), volume.pool.clone(), word(volume.condition));
                *problems.entry(kind).or_insert(0) += 1;
            }
        }
        problems
    }
}

/// The word for a kind of problem in the label `condition`.
fn word(condition: Condition) -> &'static str {
    match condition {
        Condition::Degraded => "degraded",
        Condition::DiskMissing => "disk_missing",
        Condition::Unfinished => "unfinished",
        Condition::RecordUnreadable => "record_unreadable",
        Condition::FilesystemFailed => "filesystem_failed",
        Condition::StorageUnreadable => "storage_unreadable",
        // A volume with a problem is not healthy, even if its node does not report the kind of the problem.
        Condition::Healthy | Condition::Other => "other",
    }
}
