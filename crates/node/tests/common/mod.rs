//! Shared by the tests of this crate: hosts on simulated pools, and a follower that stores the updates it
//! receives.

// Helpers of tests may fail like tests; not every test uses all of them.
#![allow(dead_code, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use quarry_node::Host;
use quarry_pool::{Pool, SimulatedPool};
use quarry_volume::{
    Agent as _, Change, Filesystem, Greeting, PoolState, Snapshot, SnapshotId, Update, UpdateStream, Volume, VolumeId,
    VolumeSpec,
};

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const EXTENT: u64 = 4 * MIB;
pub(crate) const LONG: Duration = Duration::from_secs(600);

/// A pool of 1 GiB on one disk whose operations take no time.
pub(crate) fn pool(name: &str) -> SimulatedPool {
    SimulatedPool::new(name, EXTENT, vec![256], Duration::ZERO)
}

pub(crate) fn host(pools: &[&SimulatedPool]) -> Host {
    let pools = pools.iter().map(|pool| Arc::new((*pool).clone()) as Arc<dyn Pool>).collect();
    Host::new("node-1", pools)
}

/// A volume for ext4 in the pool `p`.
pub(crate) fn spec(name: &str, size: u64) -> VolumeSpec {
    VolumeSpec::mount(name, size, Filesystem::Ext4).in_pool("p")
}

/// A raw block volume in the pool `p`.
pub(crate) fn block(name: &str, size: u64) -> VolumeSpec {
    VolumeSpec::block(name, size).in_pool("p")
}

/// Follows a host and stores the received state.
pub(crate) struct Follower {
    updates: UpdateStream,
    pub(crate) greeting: Greeting,
    pub(crate) generation: u64,
    pub(crate) pools: BTreeMap<String, PoolState>,
    pub(crate) volumes: BTreeMap<VolumeId, Volume>,
    pub(crate) snapshots: BTreeMap<SnapshotId, Snapshot>,
    /// How many full states were received.
    pub(crate) full_states: usize,
}

impl Follower {
    /// Follows the host and waits for the first full state.
    pub(crate) async fn of(host: &Host) -> Self {
        let mut updates = host.watch().await.expect("watch");
        let Some(Ok(Update::Greeting(greeting))) = updates.next().await else { panic!("no greeting") };
        let (pools, volumes, snapshots) = Default::default();
        let mut follower = Self { updates, greeting, generation: 0, pools, volumes, snapshots, full_states: 0 };
        follower.receive().await;
        assert_eq!(follower.full_states, 1, "the full state comes first");
        follower
    }

    /// Waits for the next update and stores it.
    pub(crate) async fn receive(&mut self) -> Change {
        let change = match self.updates.next().await.expect("the stream ended").expect("the stream failed") {
            Update::Greeting(_) => panic!("a second greeting"),
            Update::FullState(full_state) => {
                self.pools.clear();
                self.volumes.clear();
                self.snapshots.clear();
                self.full_states += 1;
                full_state
            }
            Update::Change(change) => change,
        };
        assert!(change.generation > self.generation, "{} after {}", change.generation, self.generation);
        self.generation = change.generation;
        for pool in change.pools.clone() {
            self.pools.insert(pool.name.clone(), pool);
        }
        for id in &change.gone {
            assert!(self.volumes.remove(id).is_some(), "{id} is gone but was never published");
        }
        for volume in change.volumes.clone() {
            self.volumes.insert(volume.id.clone(), volume);
        }
        for id in &change.gone_snapshots {
            assert!(self.snapshots.remove(id).is_some(), "{id} is gone but was never published");
        }
        for snapshot in change.snapshots.clone() {
            self.snapshots.insert(snapshot.id.clone(), snapshot);
        }
        change
    }

    /// Receives updates until `enough`.
    pub(crate) async fn until(&mut self, what: &str, mut enough: impl FnMut(&Self) -> bool) {
        let all = async {
            while !enough(self) {
                self.receive().await;
            }
        };
        tokio::time::timeout(LONG, all).await.unwrap_or_else(|_| panic!("never received: {what}"));
    }

    /// The names of the received volumes.
    pub(crate) fn names(&self) -> Vec<String> {
        self.volumes.values().map(|volume| volume.name.clone()).collect()
    }
}
