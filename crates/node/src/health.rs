//! Volume and storage health as this node sees it: CSI's NodeGetVolumeHealth and NodeGetStorageHealth.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use quarry_pool::{Health, Pool, PoolVolume, Recorded};
use quarry_proto::csi::v1 as csi;
use quarry_volume::{Condition, Error, PoolState, Reason, Result, VolumeId};
use quarry_wire::csi::health;

use self::csi::StorageHealthErrorType as Status;
use self::csi::node_get_storage_health_response::StorageBackendHealth;

use crate::host::Host;
use crate::publisher::describe;

/// How long a pool may take to report its state.
const PATIENCE: Duration = Duration::from_secs(20);

/// The condition of a volume, from its health and its record.
pub(crate) fn condition(volume: &PoolVolume, has_problem: bool) -> Condition {
    match (&volume.health, &volume.record) {
        (Health::Lost(_), _) => Condition::DiskMissing,
        (Health::Incomplete(_), _) => Condition::Unfinished,
        (_, Recorded::Newer(_) | Recorded::Broken(_) | Recorded::Ambiguous(_)) => Condition::RecordUnreadable,
        (Health::Degraded(_), Recorded::Here(_)) => Condition::Degraded,
        (Health::Whole, Recorded::Here(_)) if has_problem => Condition::Other,
        (Health::Whole, Recorded::Here(_)) => Condition::Healthy,
    }
}

impl Host {
    /// The health of a volume, staged or not. `path`: where it should be staged or published.
    ///
    /// # Errors
    /// `NotFound` if it does not exist; `Unavailable` if its ID names another node.
    pub(crate) async fn volume_health(
        &self,
        id: &VolumeId,
        path: Option<&Path>,
        wait: Duration,
    ) -> Result<csi::VolumeHealth> {
        let located = match tokio::time::timeout(wait.min(PATIENCE), self.locate(id)).await {
            Ok(located) => located,
            Err(_) => Err(Error::unavailable(format!("its pool did not answer within {} s", PATIENCE.as_secs()))),
        };
        match located {
            Ok(Some(located)) => {
                if let Some(path) = path {
                    // The state publisher stores the result of this check. If the volume is not mounted,
                    // there is nothing to check.
                    let _ = self.stats(id, path).await;
                }
                let mut volume = describe(self.node(), located.pool.name(), &located.volume);
                self.publisher().add_filesystem_problems(std::slice::from_mut(&mut volume));
                Ok(health(volume.condition, id.to_string(), &volume.problem))
            }
            Ok(None) => Err(Error::not_found(format!("volume {id} does not exist"))),
            // Its storage is on this node, but cannot be read.
            Err(error) if error.reason == Reason::Unavailable && id.node == self.node() => {
                Ok(health(Condition::StorageUnreadable, id.to_string(), &error.message))
            }
            Err(error) => Err(error),
        }
    }

    /// The problems of the pools: at most one entry for unreadable pools, and one for the others.
    pub(crate) async fn storage_health(&self) -> Vec<StorageBackendHealth> {
        let ask = |pool: &Arc<dyn Pool>| {
            let pool = Arc::clone(pool);
            async move {
                tokio::time::timeout(PATIENCE, pool.status()).await.unwrap_or_else(|_| {
                    let problems = vec![format!("did not answer within {} s", PATIENCE.as_secs())];
                    PoolState { name: pool.name().to_owned(), problems, ..PoolState::default() }
                })
            }
        };
        entries(&join_all(self.pools().iter().map(ask)).await)
    }
}

/// CSI allows one entry per status and reason.
fn entries(pools: &[PoolState]) -> Vec<StorageBackendHealth> {
    let entry = |status: Status, reason: &str, of: fn(&PoolState) -> bool| {
        let concerned = pools.iter().filter(|pool| !pool.problems.is_empty() && of(pool));
        let messages: Vec<String> =
            concerned.map(|pool| format!("pool {}: {}", pool.name, pool.problems.join("; "))).collect();
        (!messages.is_empty()).then(|| StorageBackendHealth {
            status: status as i32,
            reason: reason.to_owned(),
            message: messages.join("; "),
            volume_capability: None,
        })
    };
    // A pool's storage ID is known as soon as the pool has been read.
    let unreadable = entry(Status::StorageUnreachable, "PoolUnreadable", |pool| pool.storage.is_none());
    let impaired = entry(Status::StorageDegraded, "PoolImpaired", |pool| pool.storage.is_some());
    unreadable.into_iter().chain(impaired).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_volume::StorageId;

    #[test]
    fn pools_with_the_same_problem_share_an_entry() {
        let pool = |name: &str, storage: bool, problems: &[&str]| PoolState {
            name: name.into(),
            storage: storage.then(|| StorageId::of(name)),
            problems: problems.iter().map(|text| (*text).to_owned()).collect(),
            ..PoolState::default()
        };
        assert_eq!(entries(&[pool("a", true, &[]), pool("b", true, &[])]), []);
        let found = entries(&[
            pool("a", true, &["a disk is missing"]),
            pool("b", false, &["cannot be read"]),
            pool("c", true, &["one", "two"]),
        ]);
        let reported: Vec<(&str, &str)> = found.iter().map(|one| (one.reason.as_str(), one.message.as_str())).collect();
        assert_eq!(
            reported,
            [
                ("PoolUnreadable", "pool b: cannot be read"),
                ("PoolImpaired", "pool a: a disk is missing; pool c: one; two")
            ]
        );
        assert_eq!(found[0].status(), Status::StorageUnreachable);
        assert_eq!(found[1].status(), Status::StorageDegraded);
    }
}
