//! What is wrong in the cluster, as far as the controller can tell from memory.

mod nodes;
mod storage;

use std::time::Duration;

use futures::StreamExt as _;
use quarry_proto::view::v1;

use super::finding::Finding;
use super::node_state::NodeState;
use super::write::count;
use crate::cluster::Cluster;

/// After so many nodes, others get a turn.
const TURN: usize = 64;
/// How many nodes' fates are asked for at once, and for how long in all.
const ASKING: usize = 16;
const ASKING_WAIT: Duration = Duration::from_secs(5);

/// Everything that is wrong, and what was looked at. `version` is our own.
pub(super) async fn diagnose(cluster: &Cluster, version: &str) -> (Vec<Finding>, v1::Totals) {
    let wanted = cluster.inner.claims.handles();
    let mut nodes = Vec::new();
    for (position, member) in cluster.members().iter().enumerate() {
        if position % TURN == TURN - 1 {
            tokio::task::yield_now().await;
        }
        nodes.push(NodeState::of(member, wanted.as_deref()));
    }
    ask_fates(cluster, &mut nodes).await;

    let totals = v1::Totals {
        nodes: count(nodes.len()),
        reachable_nodes: count(nodes.iter().filter(|node| node.down.is_none()).count()),
        pools: count(nodes.iter().map(|node| node.pools.len()).sum()),
        volumes: count(nodes.iter().map(|node| node.volumes).sum()),
        orphans: count(nodes.iter().map(|node| node.orphans).sum()),
        orphans_known: wanted.is_some(),
    };
    let mut findings = Vec::new();
    if !cluster.synced() {
        findings.push(Finding::error(
            "nodes-not-listed",
            "controller",
            "the nodes have not been listed yet, so that no request is served",
            "wait, if the controller has just been started; else see its log: it cannot read from Kubernetes",
        ));
    } else if nodes.is_empty() {
        findings.push(Finding::error(
            "no-nodes",
            "cluster",
            "no node has a plugin pod, so that there is no storage at all",
            "see the node plugin's DaemonSet; without Kubernetes, the list of agents",
        ));
    }
    nodes::unreachable(&nodes, &mut findings);
    nodes::versions(&nodes, version, &mut findings);
    nodes::boots(&nodes, &mut findings);
    storage::pools(&nodes, &mut findings);
    storage::kinds(&nodes, &mut findings);
    storage::twins(&nodes, &mut findings);
    storage::volumes(&nodes, &mut findings);
    storage::orphans(&nodes, wanted.is_some(), &mut findings);
    (findings, totals)
}

/// Asks what has become of the nodes that are away. Those for which that takes too long stay unknown.
async fn ask_fates(cluster: &Cluster, nodes: &mut [NodeState]) {
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
    // What was told until then is kept.
    let _ = tokio::time::timeout(ASKING_WAIT, all).await;
}

/// A length of time for people: `42 s`, `5 min`, `3 h`, `12 days`.
fn spoken(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86400),
    }
}

/// `1 node`, `2 nodes`.
fn plural(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}
