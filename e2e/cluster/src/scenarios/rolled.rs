//! The scheduler's view of free space (CSIStorageCapacity) while parts of the driver restart.
//!
//! kubelet removes a driver from its CSINode when the registration socket disappears, and external-provisioner then
//! deletes the capacity of that node. The socket's file of a plugin that stops or is killed stays, so that its node keeps
//! the capacity until the next plugin registers. A socket that is removed comes back, and no other node may lose its
//! capacity.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;

use super::{SYSTEM, delete_pods, selector};
use crate::cluster::{Cluster, items, text};
use crate::install::{self, CLASS};
use crate::objects::{claim, pod, sleeper};
use crate::space::{LOOK, Space};
use crate::worker::{Worker, until};

/// How long the plugins may take to be replaced; a container starts slowly on an emulated processor.
const PATIENCE: Duration = Duration::from_secs(400);
/// How long the objects must stay as they are: more than two periods of the provisioner's lease.
const CALM: Duration = Duration::from_secs(40);

pub(super) async fn run(cluster: &mut Cluster) -> Result<String> {
    let space = Space::new(cluster, "rolled").await?;
    let before = objects(cluster).await?;
    ensure!(before.len() == cluster.workers.len(), "a node has no capacity: {before:?}");

    // Another provisioner becomes the leader: no object changes.
    delete_pods(cluster, "controller").await?;
    let began = Instant::now();
    while began.elapsed() < CALM {
        let now = objects(cluster).await?;
        ensure!(now == before, "a new leader changed the capacities: {before:?}, then {now:?}");
        tokio::time::sleep(LOOK).await;
    }
    install::wait_running(cluster).await?;

    // A plugin that is killed leaves its socket, and kubelet learns only of the new one.
    let node = cluster.worker("node-1")?;
    let socket = registration_socket(node).await?;
    node.vm.sh("pkill -KILL -f '[q]uarry node --config'").await?;
    replaced(node, &socket).await?;
    let killed = Away::watch(cluster, &before, &BTreeSet::new()).await?;
    ensure!(killed.longest.keys().all(|node| node == "node-1"), "the plugin of node-1 was killed: {killed:?}");

    // Some tools for nodes empty the folder.
    node.vm.sh("rm /var/lib/kubelet/plugins_registry/*@reg.sock").await?;
    replaced(node, "").await?;
    let emptied = Away::watch(cluster, &before, &BTreeSet::new()).await?;
    ensure!(emptied.longest.keys().all(|node| node == "node-1"), "the socket of node-1 was removed: {emptied:?}");

    // An upgrade replaces one plugin after the other. A pod that is created meanwhile runs.
    let namespace = format!("--namespace={SYSTEM}");
    let selector = selector("node");
    let old = plugins(cluster).await?;
    cluster.kubectl().run(["rollout", "restart", "daemonset", &namespace, &selector]).await?;
    space.apply(&[claim("meanwhile", CLASS, "64Mi"), pod("meanwhile", sleeper(&["meanwhile"]))]).await?;
    let rolled = Away::watch(cluster, &before, &old).await?;
    ensure!(
        rolled.at_once <= 1,
        "{} nodes had no capacity at once, with one plugin replaced at a time",
        rolled.at_once
    );
    space.ready("meanwhile").await?;

    // All plugins at once.
    let old = plugins(cluster).await?;
    delete_pods(cluster, "node").await?;
    let all = Away::watch(cluster, &before, &old).await?;
    install::wait_running(cluster).await?;
    space.end().await?;
    Ok(format!(
        "a new leader changes nothing; a node has no capacity for {} s when its plugin is killed, {} s when its \
         registration socket is removed, {} s when its plugin is replaced, {} s when all are",
        killed.seconds(),
        emptied.seconds(),
        rolled.seconds(),
        all.seconds()
    ))
}

/// The inode and the time of the registration socket of a node's plugin; empty if the socket does not exist.
async fn registration_socket(node: &Worker) -> Result<String> {
    node.vm.sh("stat --format='%i %y' /var/lib/kubelet/plugins_registry/*@reg.sock || true").await
}

/// Waits until there is a registration socket other than `before`.
async fn replaced(node: &Worker, before: &str) -> Result<()> {
    until("a new registration socket", async || {
        let now = registration_socket(node).await?;
        Ok(!now.is_empty() && now != before)
    })
    .await
}

/// For how long nodes had no capacity object.
#[derive(Debug, Default)]
struct Away {
    /// By node, the longest time.
    longest: BTreeMap<String, Duration>,
    /// How many nodes had none at the same time.
    at_once: usize,
}

impl Away {
    /// Watches until none of the `old` plugins is left, and every node of `before` has had its capacity for a while.
    async fn watch(cluster: &Cluster, before: &BTreeMap<String, String>, old: &BTreeSet<String>) -> Result<Self> {
        let mut away = Self::default();
        let mut since: BTreeMap<&String, Instant> = BTreeMap::new();
        let (began, mut complete) = (Instant::now(), Instant::now());
        loop {
            let now = objects(cluster).await?;
            since.retain(|node, _| !now.contains_key(*node));
            for node in before.keys().filter(|node| !now.contains_key(*node)) {
                let since = since.entry(node).or_insert_with(Instant::now);
                let longest = away.longest.entry(node.clone()).or_default();
                *longest = since.elapsed().max(*longest);
            }
            away.at_once = away.at_once.max(since.len());
            if !since.is_empty() || plugins(cluster).await?.intersection(old).next().is_some() {
                complete = Instant::now();
            }
            if complete.elapsed() > CALM {
                return Ok(away);
            }
            ensure!(began.elapsed() < PATIENCE, "after {} s: {away:?}, now {now:?}", PATIENCE.as_secs());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The longest of all, in whole seconds.
    fn seconds(&self) -> u64 {
        self.longest.values().max().map_or(0, Duration::as_secs)
    }
}

/// The UID of each node's capacity object of our class. An object that was deleted and created again has another one.
async fn objects(cluster: &Cluster) -> Result<BTreeMap<String, String>> {
    let objects = cluster.kubectl().get(["csistoragecapacities", &format!("--namespace={SYSTEM}")]).await?;
    let node =
        |object: &Value| text(object, "/nodeTopology/matchLabels/topology.local.csi.quarry.dev~1node").to_owned();
    let of_class = items(&objects).filter(|object| text(object, "/storageClassName") == CLASS);
    Ok(of_class.map(|object| (node(object), text(object, "/metadata/uid").to_owned())).collect())
}

/// The UIDs of the plugins' pods.
async fn plugins(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let pods = cluster.kubectl().get(["pods", &format!("--namespace={SYSTEM}"), &selector("node")]).await?;
    Ok(items(&pods).map(|pod| text(pod, "/metadata/uid").to_owned()).collect())
}
