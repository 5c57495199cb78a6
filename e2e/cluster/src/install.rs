//! Installs Quarry in the cluster: the images of the nodes, the pools' volume groups, the chart, the example.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::cluster::{Cluster, is, items, text};
use crate::images;
use crate::objects::with;
use crate::worker::{Worker, until};

/// What the cluster's process says when all is up.
pub const UP: &str = "cluster: up";
/// The namespace that Quarry is installed in.
pub const NAMESPACE: &str = "quarry-system";
/// The StorageClass that the chart creates, for the pool `main`.
pub const CLASS: &str = "quarry";
/// The volume group of the second disk, and the pool over it.
pub const SECOND_POOL: &str = "second";
/// The repository's root.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Makes the volume groups of all nodes.
///
/// # Errors
/// When vgcreate fails.
pub async fn volume_groups(cluster: &Cluster) -> Result<()> {
    for worker in &cluster.workers {
        volume_groups_of(worker).await?;
    }
    Ok(())
}

/// Makes the volume groups of a node, as an operator would: `main` on the disk d1, `second` on d2 if it exists.
///
/// # Errors
/// When vgcreate fails.
pub(crate) async fn volume_groups_of(worker: &Worker) -> Result<()> {
    let script = "set -e; vgcreate -q main /dev/disk/by-id/virtio-d1; sync /dev/disk/by-id/virtio-d1
        second=/dev/disk/by-id/virtio-d2
        if test -e $second; then vgcreate -q second $second; sync $second; fi";
    worker.vm.sh(script).await.map(drop).with_context(|| format!("cannot make the volume groups of {}", worker.name))
}

/// The pools over the nodes' volume groups.
fn pools(cluster: &Cluster) -> Vec<Value> {
    let mut pools = vec![json!({ "name": "main", "lvm": { "volumeGroup": "main" } })];
    if cluster.workers.first().is_some_and(|worker| worker.disks > 1) {
        pools.push(json!({ "name": SECOND_POOL, "lvm": { "volumeGroup": "second" } }));
    }
    pools
}

/// The values of the chart for this cluster.
fn values(pools: &[Value], image: &str) -> Value {
    let (repository, tag) = image.rsplit_once(':').unwrap_or((image, ""));
    json!({
        "pools": pools,
        "storageClasses": [{ "name": CLASS, "default": true, "parameters": { "pool": "main" } }],
        "image": { "repository": repository, "tag": tag },
        "clusterSize": 10,
        // A cluster of two emulated nodes does not need a fast API.
        "log": { "level": "info" },
    })
}

/// Installs the chart, or upgrades it.
///
/// # Errors
/// helm fails; the error quotes its output.
pub async fn install(cluster: &Cluster) -> Result<()> {
    install_chart(cluster, &Path::new(ROOT).join("deploy/chart"), images::QUARRY).await
}

/// As [`install`], with another chart and another image.
///
/// # Errors
/// As [`install`].
pub async fn install_chart(cluster: &Cluster, chart: &Path, image: &str) -> Result<()> {
    install_pools(cluster, chart, image, &pools(cluster)).await
}

/// As [`install`], with external-snapshotter's sidecar.
///
/// # Errors
/// As [`install`].
pub async fn install_with_snapshotter(cluster: &Cluster) -> Result<()> {
    let more = json!({ "snapshotter": { "enabled": true } });
    install_values(cluster, &Path::new(ROOT).join("deploy/chart"), images::QUARRY, &pools(cluster), more).await
}

/// As [`install`], with a controller that releases the claims of lost nodes.
///
/// # Errors
/// As [`install`].
pub async fn install_releasing(cluster: &Cluster) -> Result<()> {
    let more = json!({ "controller": { "releaseOnNodeLoss": true } });
    install_values(cluster, &Path::new(ROOT).join("deploy/chart"), images::QUARRY, &pools(cluster), more).await
}

/// As [`install`], with one pool more.
///
/// # Errors
/// As [`install`].
pub async fn install_with(cluster: &Cluster, pool: Value) -> Result<()> {
    let mut pools = pools(cluster);
    pools.push(pool);
    install_pools(cluster, &Path::new(ROOT).join("deploy/chart"), images::QUARRY, &pools).await
}

/// As [`install`], where the disks d1 are empty: Quarry makes the volume group of the pool `main`.
///
/// # Errors
/// As [`install`].
pub async fn install_on_empty_disks(cluster: &Cluster) -> Result<()> {
    let mut pools = pools(cluster);
    if let Some(main) = pools.first_mut() {
        *main = json!({
            "name": "main",
            "lvm": { "volumeGroup": "main", "create": { "select": { "byId": ["virtio-d1"] } } },
        });
    }
    install_pools(cluster, &Path::new(ROOT).join("deploy/chart"), images::QUARRY, &pools).await
}

async fn install_pools(cluster: &Cluster, chart: &Path, image: &str, pools: &[Value]) -> Result<()> {
    install_values(cluster, chart, image, pools, json!({})).await
}

async fn install_values(cluster: &Cluster, chart: &Path, image: &str, pools: &[Value], more: Value) -> Result<()> {
    let file = cluster.kubeconfig().with_file_name("values.json");
    let values = with(values(pools, image), more);
    std::fs::write(&file, values.to_string()).with_context(|| format!("cannot write {}", file.display()))?;
    let (chart, file) = (chart.display().to_string(), file.display().to_string());
    let arguments = ["quarry", &chart, "--install", "--namespace", NAMESPACE, "--create-namespace", "--values", &file];
    cluster.helm("upgrade", &arguments).await.map(drop)
}

/// Takes the chart out, and waits until its pods are gone.
///
/// # Errors
/// When helm fails, or pods stay.
pub async fn uninstall(cluster: &Cluster) -> Result<()> {
    cluster.helm("uninstall", &["quarry", "--namespace", NAMESPACE]).await?;
    let namespace = format!("--namespace={NAMESPACE}");
    until("a namespace without our pods", async || {
        let pods = cluster.kubectl().get(["pods", &namespace]).await?;
        Ok(items(&pods).next().is_none())
    })
    .await
}

/// Waits until all pods of Quarry are ready, the node plugin is registered on every node, and each has
/// reported its capacity.
///
/// # Errors
/// When they are not in time; with what their containers said.
pub async fn wait_running(cluster: &Cluster) -> Result<()> {
    let namespace = format!("--namespace={NAMESPACE}");
    let running = async || {
        let kubectl = cluster.kubectl();
        let daemons = kubectl.get(["daemonsets,deployments", &namespace]).await?;
        let complete = items(&daemons).all(|set| {
            let number = |pointer: &str| set.pointer(pointer).and_then(Value::as_u64).unwrap_or_default();
            let complete = match text(set, "/kind") {
                "DaemonSet" => {
                    let wanted = number("/status/desiredNumberScheduled");
                    wanted == cluster.workers.len() as u64
                        && number("/status/numberReady") == wanted
                        && number("/status/updatedNumberScheduled") == wanted
                }
                // None of an older one is left, and all of this one are ready.
                _ => ["replicas", "updatedReplicas", "readyReplicas"]
                    .iter()
                    .all(|kind| number(&format!("/status/{kind}")) == number("/spec/replicas")),
            };
            complete && number("/status/observedGeneration") == number("/metadata/generation")
        });
        let drivers = kubectl.get(["csinodes"]).await?;
        let registered = items(&drivers)
            .filter(|node| node.pointer("/spec/drivers").and_then(Value::as_array).is_some_and(|all| !all.is_empty()))
            .count();
        let capacities = kubectl.get(["csistoragecapacities", &namespace]).await?;
        Ok(complete
            && items(&daemons).count() >= 2
            && registered == cluster.workers.len()
            && items(&capacities).count() >= cluster.workers.len())
    };
    if let Err(error) = until("Quarry on every node", running).await {
        bail!("{error:#}\n{}", said(cluster).await);
    }
    Ok(())
}

/// What our pods are and what their containers said last.
async fn said(cluster: &Cluster) -> String {
    let namespace = format!("--namespace={NAMESPACE}");
    let kubectl = cluster.kubectl();
    let mut all = String::new();
    for arguments in [
        &["get", "pods,events", &namespace, "--output=wide"][..],
        &["logs", &namespace, "--selector=app.kubernetes.io/name=quarry", "--all-containers", "--prefix", "--tail=12"],
    ] {
        all += &kubectl.run(arguments.iter().copied()).await.unwrap_or_else(|error| format!("{error:#}"));
        all.push('\n');
    }
    all
}

/// Makes the volume groups, installs the chart and waits until all of it runs.
///
/// # Errors
/// As the parts.
pub async fn quarry(cluster: &Cluster, say: &(dyn Fn(&str) + Sync)) -> Result<()> {
    volume_groups(cluster).await?;
    install(cluster).await?;
    say("the chart is installed");
    wait_running(cluster).await?;
    say("Quarry runs on every node");
    Ok(())
}

/// Applies examples/statefulset.yaml and waits until its pods run.
///
/// # Errors
/// When they do not, with their events.
pub async fn example(cluster: &Cluster, say: &(dyn Fn(&str) + Sync)) -> Result<()> {
    let kubectl = cluster.kubectl();
    kubectl.apply(&Path::new(ROOT).join("examples/statefulset.yaml")).await?;
    let began = Instant::now();
    let mut reported = usize::MAX;
    loop {
        let sets = kubectl.get(["statefulsets", "--namespace=default"]).await?;
        let pods = kubectl.get(["pods", "--namespace=default"]).await?;
        let wanted: u64 = items(&sets).filter_map(|set| set.pointer("/spec/replicas").and_then(Value::as_u64)).sum();
        let ready = items(&pods).filter(|pod| is(pod, "Ready")).count();
        if reported != ready {
            say(&format!("examples/statefulset.yaml: {ready} of {wanted} pods run"));
            reported = ready;
        }
        if wanted > 0 && ready as u64 == wanted {
            return Ok(());
        }
        if began.elapsed() > Duration::from_secs(300) {
            let events = kubectl.run(["get", "events", "--namespace=default"]).await?;
            bail!("the example's pods do not run after {} s:\n{events}", began.elapsed().as_secs());
        }
        tokio::time::sleep(crate::space::LOOK).await;
    }
}
