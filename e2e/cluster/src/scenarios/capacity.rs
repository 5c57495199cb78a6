//! Capacity: the scheduler knows which nodes have free space, and recovers from outdated values.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{lies_on, node_of};
use crate::cluster::{Cluster, items, text};
use crate::install::CLASS;
use crate::objects::{claim, pod, sleeper, with};
use crate::space::Space;
use crate::worker::until;

/// A little more than half of a node's pool: one such volume fits, two do not.
const HALF: &str = "6Gi";

pub(super) async fn run(cluster: &mut Cluster) -> Result<String> {
    let space = Space::new(cluster, "capacity").await?;
    // A node is filled, and its capacity object says so.
    let on = |node: &str| json!({ "nodeSelector": { "kubernetes.io/hostname": node } });
    space.apply(&[claim("filler", CLASS, HALF), pod("filler", with(sleeper(&["filler"]), on("node-1")))]).await?;
    space.ready("filler").await?;
    until("the capacity of node-1 without room", async || {
        let largest = largest(cluster, "node-1").await?;
        Ok(largest < 5 << 30)
    })
    .await?;
    // It prefers the full node, and there are others.
    let prefers = |node: &str| {
        let term =
            json!({ "matchExpressions": [{ "key": "kubernetes.io/hostname", "operator": "In", "values": [node] }] });
        let preferred = json!([{ "weight": 100, "preference": term }]);
        json!({ "affinity": { "nodeAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": preferred } } })
    };
    space
        .apply(&[claim("elsewhere", CLASS, HALF), pod("elsewhere", with(sleeper(&["elsewhere"]), prefers("node-1")))])
        .await?;
    let elsewhere = space.ready("elsewhere").await?;
    let second = node_of(cluster, &elsewhere)?.name.clone();
    ensure!(second != "node-1", "the scheduler chose a node without room");

    // Two concurrent claims want the last free space of one node.
    space.run(&["delete", "pod", "filler", "elsewhere"]).await?;
    space.run(&["delete", "pvc", "filler", "elsewhere"]).await?;
    until("the room of the deleted volumes", async || {
        Ok(largest(cluster, "node-1").await? > 6 << 30 && largest(cluster, &second).await? > 6 << 30)
    })
    .await?;
    space
        .apply(&[
            claim("one", CLASS, HALF),
            claim("two", CLASS, HALF),
            pod("one", with(sleeper(&["one"]), prefers("node-1"))),
            pod("two", with(sleeper(&["two"]), prefers("node-1"))),
        ])
        .await?;
    let (one, two) = (space.ready("one").await?, space.ready("two").await?);
    let (one, two) = (node_of(cluster, &one)?.name.clone(), node_of(cluster, &two)?.name.clone());
    ensure!(one != two, "both volumes are on {one}, which has room for one");
    lies_on(&space, "one", cluster.worker(&one)?).await?;
    lies_on(&space, "two", cluster.worker(&two)?).await?;
    let events = space.events().await;
    let rescheduled = events.contains("ResourceExhausted");
    space.end().await?;
    Ok(format!(
        "a full node avoided; of two racing pods one went to {one}, one to {two}{}",
        if rescheduled { ", rescheduled after RESOURCE_EXHAUSTED" } else { ", by the scheduler's own count" }
    ))
}

/// The largest volume that the capacity object of a node and our class promises.
async fn largest(cluster: &Cluster, node: &str) -> Result<u64> {
    let objects = cluster.kubectl().get(["csistoragecapacities", "--all-namespaces"]).await?;
    let label = "/nodeTopology/matchLabels/topology.local.csi.quarry.dev~1node";
    let of_node = |object: &&Value| text(object, label) == node && text(object, "/storageClassName") == CLASS;
    let object = items(&objects).find(of_node).with_context(|| format!("no capacity of {node}: {objects}"))?;
    bytes(text(object, "/maximumVolumeSize"))
}

/// A quantity as the API server writes it.
pub(super) fn bytes(quantity: &str) -> Result<u64> {
    let split = quantity.find(|c: char| !c.is_ascii_digit()).unwrap_or(quantity.len());
    let (number, unit) = quantity.split_at(split);
    let shift = match unit {
        "" => 0,
        "Ki" => 10,
        "Mi" => 20,
        "Gi" => 30,
        "Ti" => 40,
        _ => anyhow::bail!("the quantity {quantity:?}"),
    };
    Ok(number.parse::<u64>().with_context(|| format!("the quantity {quantity:?}"))? << shift)
}
