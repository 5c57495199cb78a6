//! A real etcd of three members loses a node for good: its claim is released, the member starts elsewhere with an empty
//! volume, and every write that was acknowledged is there.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use quarry_cache::Cache;
use quarry_vm::Daemon;
use serde_json::{Value, json};

use super::{SYSTEM, node_of, selector};
use crate::cluster::{Cluster, is, items, text};
use crate::install;
use crate::objects::{class, pod, sleeping, stateful_set, with};
use crate::space::Space;
use crate::worker::{Worker, until};
use crate::{containerd, images};

/// The number of members.
const MEMBERS: u32 = 3;
/// The StorageClass that releases claims.
const CLASS: &str = "etcd";
/// The pod that writes.
const WRITER: &str = "writer";
/// How long it may take until a node is treated as gone for good, and its pod runs elsewhere.
const ELSEWHERE: Duration = Duration::from_secs(900);
/// For how long the writer works before the node is lost, and at least after the member is back.
const LOAD: Duration = Duration::from_secs(20);

/// What a member runs. Its arguments are written into its volume, by the person who manages the cluster: a member with
/// an empty volume must not join, or start a cluster of its own, by itself.
const MEMBER: &str = "until test -s /data/data/arguments; do sleep 1; done
    exec etcd --data-dir=/data/data/etcd --log-level=warn $(cat /data/data/arguments)";

pub(super) async fn run(cluster: &mut Cluster) -> Result<String> {
    while cluster.workers.len() < MEMBERS as usize {
        let name = cluster.add_worker().await.context("a third node")?;
        install::volume_groups_of(cluster.worker(&name)?).await?;
    }
    install::install_releasing(cluster).await?;
    install::wait_running(cluster).await?;
    let image = images::etcd(&Cache::open()?).await?;
    for worker in &cluster.workers {
        containerd::import(&worker.vm, &image)
            .await
            .with_context(|| format!("the image of etcd on {}", worker.name))?;
    }

    // The node that will be lost holds neither the writer nor, if there is a choice, a controller.
    let controllers =
        cluster.kubectl().get(["pods", &format!("--namespace={SYSTEM}"), &selector("controller")]).await?;
    let holds = |worker: &&Worker| items(&controllers).any(|pod| text(pod, "/spec/nodeName") == worker.name);
    let lost = cluster.workers.iter().find(|worker| !holds(worker)).or(cluster.workers.last());
    let lost = lost.context("there is no node")?.name.clone();
    let stays = cluster.workers.iter().find(|worker| worker.name != lost).context("there is no other node")?;
    let stays = stays.name.clone();
    let space = Space::new(cluster, "etcd").await?;
    let released = with(class(CLASS, "main"), json!({ "parameters": { "onNodeLoss": "release" } }));
    space.apply(&[released, members(), writer(&stays)]).await?;
    let mut addresses = Vec::new();
    let mut victim = None;
    for number in 0..MEMBERS {
        let pod = space.ready(&member(number)).await?;
        if node_of(cluster, &pod)?.name == lost {
            victim = Some(number);
        }
        addresses.push(text(&pod, "/status/podIP").to_owned());
    }
    let victim = victim.with_context(|| format!("no member runs on {lost}"))?;
    let initial: Vec<_> =
        (0..MEMBERS).zip(&addresses).map(|(number, at)| format!("{}={}", member(number), peer(at))).collect();
    for (number, at) in (0..MEMBERS).zip(&addresses) {
        start(&space, number, at, &initial, "new").await?;
    }
    space.ready(WRITER).await?;
    let all = endpoints(&addresses);
    healthy(&space, &all).await?;
    let load = Load::start(&space, &all)?;
    tokio::time::sleep(LOAD).await;

    let early = load.acknowledged()?.len();
    let claim = format!("data-{}", member(victim));
    let before = uid(&space, &claim).await?;
    let machine = cluster.lose_worker(&lost)?;
    machine.vm.shutdown().await?;
    let began = Instant::now();
    cluster.kubectl().run(["delete", "node", &lost]).await?;
    // A new host takes its place, with empty disks.
    let new = cluster.add_worker().await.context("the new node")?;
    let worker = cluster.worker(&new)?;
    install::volume_groups_of(worker).await?;
    containerd::import(&worker.vm, &image).await?;
    let space = Space { cluster, name: "etcd".to_owned() };
    let elsewhere = async || {
        let pod = space.get("pod", &member(victim)).await?.unwrap_or_default();
        anyhow::Ok(text(&pod, "/spec/nodeName") == new && is(&pod, "Ready"))
    };
    while !elsewhere().await? {
        ensure!(began.elapsed() < ELSEWHERE, "{} does not run on {new}\n{}", member(victim), space.events().await);
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let moved = began.elapsed();
    ensure!(uid(&space, &claim).await? != before, "it is the old claim");
    ensure!(space.events().await.contains("ClaimReleased"), "no event\n{}", space.events().await);
    let files = space.exec(&member(victim), "ls -A /data/data").await?;
    ensure!(!files.contains("etcd") && !files.contains("arguments"), "the new volume has files: {files}");

    // As etcd's documentation says: remove the failed member, add a new one, start it with an empty directory.
    let remaining: Vec<_> =
        (0..).zip(&addresses).filter(|(number, _)| *number != victim).map(|(_, at)| at.clone()).collect();
    let few = endpoints(&remaining);
    let old = identifier(&etcdctl(&space, &few, "member list").await?, &member(victim))?;
    etcdctl(&space, &few, &format!("member remove {old}")).await?;
    let pod = space.ready(&member(victim)).await?;
    let at = text(&pod, "/status/podIP").to_owned();
    etcdctl(&space, &few, &format!("member add {} --peer-urls={}", member(victim), peer(&at))).await?;
    let now: Vec<_> = (0..MEMBERS)
        .zip(&addresses)
        .map(|(number, old)| format!("{}={}", member(number), peer(if number == victim { &at } else { old })))
        .collect();
    start(&space, victim, &at, &now, "existing").await?;
    let all: Vec<_> = remaining.iter().chain([&at]).cloned().collect();
    healthy(&space, &endpoints(&all)).await.context("with the new member")?;
    let rejoined = began.elapsed();
    let meanwhile = load.acknowledged()?.len();
    ensure!(meanwhile > early, "no write was acknowledged while a member was missing");
    tokio::time::sleep(LOAD).await;
    let acknowledged = load.acknowledged()?;
    ensure!(acknowledged.len() > meanwhile, "no write was acknowledged after the member was back");
    drop(load);

    // The new member alone, from its own volume.
    let read = async || {
        let keys = etcdctl(&space, &endpoints(std::slice::from_ref(&at)), "get --prefix n --keys-only --consistency=s")
            .await?;
        let found: BTreeSet<u64> = keys.lines().filter_map(|key| key.strip_prefix('n')?.parse().ok()).collect();
        anyhow::Ok(acknowledged.difference(&found).copied().collect::<Vec<_>>())
    };
    until("the new member with every write", async || Ok(read().await?.is_empty())).await.context("it lacks writes")?;
    space.run(&["delete", "statefulset", "etcd"]).await?;
    space.run(&["delete", "storageclass", CLASS]).await?;
    space.end().await?;
    Ok(format!(
        "{} acknowledged writes, all in the new member's volume; its pod ran elsewhere after {:.0} s and was a member after {:.0} s",
        acknowledged.len(),
        moved.as_secs_f64(),
        rejoined.as_secs_f64()
    ))
}

/// The name of a member and of its pod.
fn member(number: u32) -> String {
    format!("etcd-{number}")
}

/// Where a member with this address is reached by other members.
fn peer(address: &str) -> String {
    format!("http://{address}:2380")
}

/// Where members with these addresses are reached by clients.
fn endpoints(addresses: &[String]) -> String {
    addresses.iter().map(|address| format!("http://{address}:2379")).collect::<Vec<_>>().join(",")
}

/// The StatefulSet: never two members on one node.
fn members() -> Value {
    let mut pod = sleeping(&["data"]);
    if let Some(container) = pod.pointer_mut("/containers/0") {
        let more = json!({ "image": images::ETCD, "command": ["/bin/busybox", "sh", "-ec", MEMBER] });
        *container = with(container.clone(), more);
    }
    let term =
        json!({ "labelSelector": { "matchLabels": { "app": "etcd" } }, "topologyKey": "kubernetes.io/hostname" });
    let apart =
        json!({ "affinity": { "podAntiAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [term] } } });
    with(stateful_set("etcd", MEMBERS, CLASS, "256Mi"), json!({ "spec": { "template": { "spec": with(pod, apart) } } }))
}

/// The pod with etcdctl.
fn writer(node: &str) -> Value {
    let spec = with(sleeping(&[]), json!({ "nodeName": node }));
    pod(
        WRITER,
        with(
            spec,
            json!({ "containers": [{ "name": "main", "image": images::ETCD, "command": ["/bin/busybox", "sleep", "1000000"] }] }),
        ),
    )
}

/// Gives a member its arguments, with which it starts.
async fn start(space: &Space<'_>, number: u32, address: &str, initial: &[String], state: &str) -> Result<()> {
    let peer = peer(address);
    let client = format!("http://{address}:2379");
    let arguments = [
        format!("--name={}", member(number)),
        format!("--listen-peer-urls={peer} --initial-advertise-peer-urls={peer}"),
        format!("--listen-client-urls={client} --advertise-client-urls={client}"),
        format!("--initial-cluster={} --initial-cluster-state={state}", initial.join(",")),
        // An emulated processor is slow.
        "--heartbeat-interval=500 --election-timeout=5000".to_owned(),
    ];
    let script = format!("echo '{}' >/data/data/new; mv /data/data/new /data/data/arguments", arguments.join(" "));
    space.exec(&member(number), &script).await.map(drop)
}

/// Runs etcdctl in the writer's pod.
async fn etcdctl(space: &Space<'_>, endpoints: &str, command: &str) -> Result<String> {
    space.exec(WRITER, &format!("etcdctl --endpoints={endpoints} --command-timeout=30s {command}")).await
}

/// Waits until each of these members serves.
async fn healthy(space: &Space<'_>, endpoints: &str) -> Result<()> {
    until("healthy members", async || Ok(etcdctl(space, endpoints, "endpoint health").await.is_ok())).await
}

/// The identifier of a member in etcdctl's list: `8e9e05c52164694d, started, etcd-0, …`.
fn identifier(list: &str, name: &str) -> Result<String> {
    let found = list.lines().map(|line| line.split(", ").collect::<Vec<_>>()).find(|words| words.get(2) == Some(&name));
    let found = found.and_then(|words| words.first().map(|word| (*word).to_owned()));
    found.with_context(|| format!("{name} is not a member: {list}"))
}

/// The identity of a claim.
async fn uid(space: &Space<'_>, claim: &str) -> Result<String> {
    let claim = space.get("pvc", claim).await?.with_context(|| format!("there is no claim {claim}"))?;
    Ok(text(&claim, "/metadata/uid").to_owned())
}

/// What writes to the cluster, until it is dropped.
struct Load {
    _running: Daemon,
    output: PathBuf,
}

impl Load {
    fn start(space: &Space<'_>, endpoints: &str) -> Result<Self> {
        // Each number is printed once its write is acknowledged. One that is not acknowledged is not written again.
        let script = format!(
            "i=0; while :; do i=$((i+1))
                if etcdctl --endpoints={endpoints} --command-timeout=10s put n$i x >/dev/null 2>&1; then echo $i; fi
            done"
        );
        let kubectl = space.cluster.kubectl();
        let output = space.cluster.kubeconfig().with_file_name("acknowledged");
        let namespace = format!("--namespace={}", space.name);
        let exec = [namespace.as_str(), "exec", WRITER, "--", "/bin/busybox", "sh", "-c", &script];
        let running = Daemon::start(kubectl.program(), kubectl.arguments(exec), &output)?;
        Ok(Self { _running: running, output })
    }

    /// The numbers whose writes were acknowledged.
    fn acknowledged(&self) -> Result<BTreeSet<u64>> {
        let text = std::fs::read_to_string(&self.output).context("cannot read what was written")?;
        let whole = text.rfind('\n').map_or("", |end| text.get(..end).unwrap_or_default());
        let numbers: BTreeSet<u64> = whole.lines().filter_map(|line| line.trim().parse().ok()).collect();
        ensure!(!numbers.is_empty(), "no write was acknowledged: {text}");
        Ok(numbers)
    }
}
