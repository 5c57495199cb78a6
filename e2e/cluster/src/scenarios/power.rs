//! A node loses power and returns; a node never returns.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use quarry_vm::Daemon;
use serde_json::Value;

use super::{expand, last_number, node_of};
use crate::cluster::{Cluster, is, items, text};
use crate::install::{self, CLASS};
use crate::objects::{claim, class, pod, sleeper, stateful_set};
use crate::space::Space;
use crate::worker::until;

/// For how long a pod writes before the power goes.
const WRITING: Duration = Duration::from_secs(20);
/// How long it may take until a node that is gone for good is treated as gone: five minutes, and some.
const FOR_GOOD: Duration = Duration::from_secs(600);

/// The machine of a pod is killed while it writes; it boots, and the pod finds every byte that was flushed. Its claim
/// requested more while the machine was off.
pub(super) async fn cut(cluster: &mut Cluster) -> Result<String> {
    let (name, acknowledged) = {
        let space = Space::new(cluster, "power").await?;
        space.apply(&[stateful_set("db", 3, CLASS, "64Mi")]).await?;
        for number in 0..3 {
            space.ready(&format!("db-{number}")).await?;
        }
        let writer = space.ready("db-1").await?;
        // Each number is printed once it is flushed.
        let script = "i=0; while :; do i=$((i+1)); echo $i >>/data/data/log; sync; echo $i; done";
        let output = cluster.kubeconfig().with_file_name("output");
        let exec = ["--namespace=power", "exec", "db-1", "--", "/bin/busybox", "sh", "-ec", script];
        let streaming = Daemon::start(cluster.kubectl().program(), cluster.kubectl().arguments(exec), &output)?;
        tokio::time::sleep(WRITING).await;
        let name = node_of(cluster, &writer)?.name.clone();
        cluster.worker_mut(&name)?.vm.power_cut().await?;
        let text = std::fs::read_to_string(&output).context("cannot read the pod's output")?;
        drop(streaming);
        (name, last_number(&text)?)
    };
    // A volume of a node that is away grows when the node is back.
    let space = Space { cluster, name: "power".to_owned() };
    expand::request(&space, "data-db-1", "128Mi").await?;
    until("an event that says that the node of data-db-1 is away", async || {
        let events = space.events().await;
        Ok(events.lines().any(|event| event.contains("VolumeResizeFailed") && event.contains("code = Unavailable")))
    })
    .await?;
    cluster.worker_mut(&name)?.boot_again().await?;
    let space = Space { cluster, name: "power".to_owned() };
    space.restarted("db-1").await?;
    let found = space.exec("db-1", "cat /data/data/log").await?;
    let numbers: Vec<u64> = found.lines().filter_map(|line| line.trim().parse().ok()).collect();
    let expected: Vec<u64> = (1..=acknowledged).collect();
    ensure!(
        numbers.starts_with(&expected),
        "{acknowledged} lines were flushed, and of the {} found not all are right",
        numbers.len()
    );
    install::wait_running(cluster).await?;
    expand::has(&space, "data-db-1", 128 << 20).await?;
    // The host's lvm activated it at boot, and the plugin's lvm made it larger: on a host with udevd, its links stay.
    let names = "for device in /sys/block/dm-*; do ls /dev/mapper/$(cat $device/dm/name); done";
    space.cluster.worker(&name)?.vm.sh(names).await.context("a volume has lost its name in /dev/mapper")?;
    space.end().await?;
    Ok(format!("{acknowledged} flushed lines, all there after the boot of {name}, in a volume that has grown since"))
}

/// A node is destroyed and deleted: its claim can be deleted, and the pod gets a new volume on another node.
pub(super) async fn gone(cluster: &mut Cluster) -> Result<String> {
    install::install_releasing(cluster).await?;
    install::wait_running(cluster).await?;
    let space = Space::new(cluster, "gone").await?;
    let name = cluster.workers.last().context("there is no node")?.name.clone();
    let on = serde_json::json!({ "nodeSelector": { "kubernetes.io/hostname": name } });
    space.apply(&[claim("data", CLASS, "64Mi"), pod("first", crate::objects::with(sleeper(&["data"]), on))]).await?;
    space.ready("first").await?;
    let volume = text(&space.volume_of("data").await?, "/metadata/name").to_owned();
    // Two StatefulSets whose pods prefer this node. The class of one of them releases its claims.
    let parameters = serde_json::json!({ "parameters": { "onNodeLoss": "release" } });
    space.apply(&[crate::objects::with(class(RELEASED, "main"), parameters)]).await?;
    let mut before = Vec::new();
    for (set, class) in [("replicated", RELEASED), ("single", CLASS)] {
        space.apply(&[preferring(&name, stateful_set(set, 1, class, "64Mi"))]).await?;
        let pod = space.ready(&format!("{set}-0")).await?;
        ensure!(node_of(cluster, &pod)?.name == name, "{set}-0 is not on {name}");
        space.exec(&format!("{set}-0"), "echo old >/data/data/file; sync").await?;
        before.push(
            text(&space.get("pvc", &format!("data-{set}-0")).await?.unwrap_or_default(), "/metadata/uid").to_owned(),
        );
    }
    let lost = cluster.lose_worker(&name)?;
    lost.vm.shutdown().await?;
    let began = Instant::now();
    let kubectl = cluster.kubectl();
    kubectl.run(["delete", "node", &name]).await?;
    let space = Space { cluster, name: "gone".to_owned() };
    space.run(&["delete", "pod", "first", "--grace-period=0", "--force"]).await?;
    space.run(&["delete", "pvc", "data"]).await?;
    space.apply(&[claim("data", CLASS, "64Mi"), pod("second", sleeper(&["data"]))]).await?;
    let second = space.ready("second").await?;
    let elsewhere = node_of(cluster, &second)?.name.clone();
    let new = began.elapsed();
    // The old volume's object goes when the node is treated as gone.
    loop {
        let volumes = kubectl.get(["pv"]).await?;
        if !items(&volumes).any(|found| text(found, "/metadata/name") == volume) {
            break;
        }
        ensure!(began.elapsed() < FOR_GOOD, "volume {volume} of the lost node is there after {FOR_GOOD:?}");
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let old = began.elapsed();
    // The StatefulSet gets a new claim and an empty volume, without anybody's help.
    while !space
        .get("pod", "replicated-0")
        .await?
        .is_some_and(|pod| is(&pod, "Ready") && text(&pod, "/spec/nodeName") != name)
    {
        ensure!(began.elapsed() < FOR_GOOD, "replicated-0 does not run elsewhere\n{}", space.events().await);
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let moved = began.elapsed();
    let files = space.exec("replicated-0", "ls /data/data").await?;
    ensure!(!files.contains("file"), "it has a file: {files}");
    ensure!(space.events().await.contains("ClaimReleased"), "no event\n{}", space.events().await);
    let claims = [space.get("pvc", "data-replicated-0").await?, space.get("pvc", "data-single-0").await?];
    let after: Vec<_> = claims.iter().flatten().map(|claim| text(claim, "/metadata/uid").to_owned()).collect();
    ensure!(after.len() == 2 && after.first() != before.first(), "the released claim is the old one: {after:?}");
    ensure!(after.get(1) == before.get(1), "a claim whose class keeps it was released");
    space.run(&["delete", "statefulset", "replicated", "single"]).await?;
    space.run(&["delete", "storageclass", RELEASED]).await?;
    space.end().await?;
    Ok(format!(
        "a new volume on {elsewhere} after {:.0} s; the old one's object gone after {:.0} s; a StatefulSet's pod elsewhere, \
         with a new claim, after {:.0} s",
        new.as_secs_f64(),
        old.as_secs_f64(),
        moved.as_secs_f64()
    ))
}

/// The class that releases claims.
const RELEASED: &str = "released";

/// A StatefulSet whose pods prefer a node.
fn preferring(node: &str, set: Value) -> Value {
    let there = serde_json::json!([{ "key": "kubernetes.io/hostname", "operator": "In", "values": [node] }]);
    let preferred = serde_json::json!([{ "weight": 100, "preference": { "matchExpressions": there } }]);
    let affinity =
        serde_json::json!({ "nodeAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": preferred } });
    crate::objects::with(set, serde_json::json!({ "spec": { "template": { "spec": { "affinity": affinity } } } }))
}
