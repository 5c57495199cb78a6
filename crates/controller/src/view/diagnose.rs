//! Finds what is wrong in the cluster, from the controller's memory.

mod nodes;
mod storage;

use std::time::Duration;

use futures::StreamExt as _;
use quarry_proto::view::v2;

use super::finding::Finding;
use super::node_state::NodeState;
use super::write::count;
use crate::cluster::Cluster;

/// Yield to other tasks after this many nodes.
const TURN: usize = 64;
/// How many nodes' states are queried at once, and the timeout for all of them.
const ASKING: usize = 16;
const ASKING_WAIT: Duration = Duration::from_secs(5);

/// All findings, and what was checked. `version` is the controller's own.
pub(super) async fn diagnose(cluster: &Cluster, version: &str) -> (Vec<Finding>, v2::Totals) {
    let (wanted, wanted_snapshots) = (cluster.inner.claims.handles(), cluster.inner.claims.snapshot_handles());
    let mut nodes = Vec::new();
    for (position, member) in cluster.members().iter().enumerate() {
        if position % TURN == TURN - 1 {
            tokio::task::yield_now().await;
        }
        nodes.push(NodeState::of(member, wanted.as_deref(), wanted_snapshots.as_deref()));
    }
    query_fates(cluster, &mut nodes).await;

    let totals = v2::Totals {
        nodes: count(nodes.len()),
        reachable_nodes: count(nodes.iter().filter(|node| node.down.is_none()).count()),
        pools: count(nodes.iter().map(|node| node.pools.len()).sum()),
        volumes: count(nodes.iter().map(|node| node.volumes).sum()),
        orphans: count(nodes.iter().map(|node| node.orphans).sum()),
        orphans_known: wanted.is_some(),
        snapshots: count(nodes.iter().map(|node| node.snapshots).sum()),
    };
    let mut findings = Vec::new();
    if !cluster.synced() {
        findings.push(Finding::error(
            "nodes-not-listed",
            "controller",
            "the controller has not listed the nodes yet, so it serves no requests",
            "if the controller has just started, wait; otherwise check its log: it cannot read from Kubernetes",
        ));
    } else if nodes.is_empty() {
        findings.push(Finding::error(
            "no-nodes",
            "cluster",
            "no node has a plugin pod, so there is no storage",
            "check the node plugin's DaemonSet; without Kubernetes, check the list of agents",
        ));
    }
    nodes::unreachable(&nodes, &mut findings);
    nodes::versions(&nodes, version, &mut findings);
    nodes::boots(&nodes, &mut findings);
    storage::pools(&nodes, &mut findings);
    storage::kinds(&nodes, &mut findings);
    storage::twins(&nodes, &mut findings);
    storage::volumes(&nodes, &mut findings);
    storage::snapshots(&nodes, &mut findings);
    storage::orphans(&nodes, wanted.is_some(), &mut findings);
    storage::orphaned_snapshots(&nodes, &mut findings);
    (findings, totals)
}

/// Queries the state of unreachable nodes. Nodes whose query takes too long stay unknown.
async fn query_fates(cluster: &Cluster, nodes: &mut [NodeState]) {
    let away: Vec<(usize, String)> = nodes
        .iter()
        .enumerate()
        .filter(|(_, node)| node.down.is_some())
        .map(|(position, node)| (position, node.name.clone()))
        .collect();
    let mut asked = futures::stream::iter(away)
        .map(|(position, name)| async move { (position, cluster.inner.nodes.fate(&name).await) })
        .buffer_unordered(ASKING);
    let all = async {
        while let Some((position, fate)) = asked.next().await {
            if let Some(node) = nodes.get_mut(position) {
                node.fate = Some(fate);
            }
        }
    };
    // The states that arrived in time are kept.
    let _ = tokio::time::timeout(ASKING_WAIT, all).await;
}
