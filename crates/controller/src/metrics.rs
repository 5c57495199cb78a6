//! The controller's own counters other than those of its calls.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use quarry_transport::metrics::{Metrics, Sample};
use quarry_volume::{Reason, Result, SnapshotCondition};

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
        metrics.counter("connections", "Connection attempts to nodes, by result", move || {
            let sum = |of: fn(&crate::member::Counts) -> &AtomicU64| {
                Sample::count(cluster.members().iter().map(|member| of(member.counts()).load(Relaxed)).sum())
            };
            vec![
                sum(|counts| &counts.connected).label("result", "made"),
                sum(|counts| &counts.failed).label("result", "failed"),
            ]
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
    }
}
