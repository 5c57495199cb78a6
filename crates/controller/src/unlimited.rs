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

impl Cluster {
    /// Reports until `stop`.
    pub(crate) async fn report_unlimited(self, stop: CancellationToken) {
        let mut reported = BTreeMap::new();
        let look = async {
            loop {
                tokio::time::sleep(INTERVAL).await;
                self.report_new_unlimited(&mut reported).await;
            }
        };
        let _: Option<()> = stop.run_until_cancelled(look).await;
    }

    /// `reported`: what was reported and still holds.
    async fn report_new_unlimited(&self, reported: &mut BTreeMap<VolumeId, String>) {
        let mut now = BTreeMap::new();
        for member in self.members() {
            let memory = member.memory();
            let unlimited = memory.volumes(None).filter(|volume| !volume.limits_problem.is_empty());
            now.extend(unlimited.map(|volume| (volume.id.clone(), volume.limits_problem.clone())));
        }
        reported.retain(|id, why| now.get(id) == Some(why));
        for (id, why) in now.into_iter().filter(|(id, _)| !reported.contains_key(id)).take(BURST).collect::<Vec<_>>() {
            if self.inner.nodes.report_unlimited(&id, &why).await {
                reported.insert(id, why);
            }
        }
    }
}
