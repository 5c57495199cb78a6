//! Reports the volumes whose I/O limits are not in force, once for each change.
//!
//! Every controller does this, and none has to be the leader: the API rejects an event that another one has written.

use std::collections::BTreeMap;
use std::time::Duration;

use quarry_volume::VolumeId;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;

/// How often the volumes are looked at, in memory.
const INTERVAL: Duration = Duration::from_secs(30);
/// How many are reported at a time. If a node has no cgroups, that concerns all its volumes.
const BURST: usize = 10;

/// What was reported so far.
#[derive(Default)]
struct Reports {
    /// The volumes whose report was accepted, and still holds, with what it said.
    accepted: BTreeMap<VolumeId, String>,
    /// The last volume that was tried.
    last: Option<VolumeId>,
}

impl Cluster {
    /// Reports until `stop`.
    pub(crate) async fn report_unlimited(self, stop: CancellationToken) {
        let mut reports = Reports::default();
        let look = async {
            loop {
                tokio::time::sleep(INTERVAL).await;
                self.report_new_unlimited(&mut reports).await;
            }
        };
        let _: Option<()> = stop.run_until_cancelled(look).await;
    }

    async fn report_new_unlimited(&self, reports: &mut Reports) {
        let mut now = BTreeMap::new();
        for member in self.members() {
            let memory = member.memory();
            let unlimited = memory.volumes(None).filter(|volume| !volume.limits_problem.is_empty());
            now.extend(unlimited.map(|volume| (volume.id.clone(), volume.limits_problem.clone())));
        }
        reports.accepted.retain(|id, why| now.get(id) == Some(why));
        now.retain(|id, _| !reports.accepted.contains_key(id));
        // The API may reject some of them every time. These must not keep the others from being tried, so the next ones
        // follow.
        let is_tried = |(id, _): &(VolumeId, String)| reports.last.as_ref().is_some_and(|last| id <= last);
        let (tried, next): (Vec<_>, Vec<_>) = now.into_iter().partition(is_tried);
        for (id, why) in next.into_iter().chain(tried).take(BURST) {
            reports.last = Some(id.clone());
            if self.inner.nodes.report_unlimited(&id, &why).await {
                reports.accepted.insert(id, why);
            }
        }
    }
}
