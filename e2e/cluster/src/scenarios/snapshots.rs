//! VolumeSnapshots and clones: with the real snapshot controller and the chart's sidecar.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use quarry_cache::Cache;
use quarry_vm::Daemon;
use serde_json::{Value, json};

use super::{lies_on, node_of};
use crate::cluster::{Cluster, is, text};
use crate::install::{self, CLASS, SECOND_POOL};
use crate::objects::{claim, class, pod, sleeper, stateful_set, with};
use crate::space::{LOOK, Space};
use crate::{binaries, containerd, images};

/// The name of the VolumeSnapshotClass.
pub(super) const SNAPSHOT_CLASS: &str = "quarry";
/// How long the first event of a claim may take.
const EVENT: Duration = Duration::from_secs(120);

/// The snapshot controller of the cluster, while Quarry runs with the chart's sidecar.
pub(crate) struct Snapshotter {
    controller: Daemon,
}

impl Snapshotter {
    pub(crate) async fn start(cluster: &Cluster) -> Result<Self> {
        let cache = Cache::open()?;
        let snapshotter = binaries::snapshotter(&cache).await?;
        let image = images::snapshotter(&cache, &snapshotter.sidecar).await?;
        for worker in &cluster.workers {
            containerd::import(&worker.vm, &image).await?;
        }
        for crd in &snapshotter.crds {
            cluster.kubectl().apply(crd).await?;
        }
        let kubeconfig = format!("--kubeconfig={}", cluster.kubeconfig().display());
        let log = cluster.kubeconfig().with_file_name("snapshot-controller.log");
        let arguments = vec![kubeconfig, "--leader-election=false".to_owned(), "--http-endpoint=".to_owned()];
        let controller = Daemon::start(&snapshotter.controller, arguments, log)?;
        install::install_with_snapshotter(cluster).await?;
        install::wait_running(cluster).await?;
        Ok(Self { controller })
    }

    /// Quarry runs without the sidecar again.
    pub(super) async fn end(self, cluster: &Cluster) -> Result<()> {
        drop(self.controller);
        install::install(cluster).await?;
        install::wait_running(cluster).await
    }
}

pub(super) async fn run(cluster: &mut Cluster) -> Result<String> {
    let snapshotter = Snapshotter::start(cluster).await?;
    let space = Space::new(cluster, "snapshots").await?;
    let other = with(class("restored", SECOND_POOL), json!({ "parameters": { "csi.storage.k8s.io/fstype": "ext4" } }));
    space.apply(&[snapshot_class(), other, stateful_set("db", 1, CLASS, "64Mi")]).await?;
    let source_pod = space.ready("db-0").await?;
    let source_node = node_of(cluster, &source_pod)?.name.clone();
    space.exec("db-0", "echo before >/data/data/file; head -c 8000000 /dev/urandom >/data/data/random; sync").await?;
    let sum = space.exec("db-0", "md5sum </data/data/random").await?;

    // A snapshot under the running pod, which goes on writing.
    space.apply(&[snapshot("first", "data-db-0")]).await?;
    let taken = ready_to_use(&space, "first").await?;
    ensure!(text(&taken, "/status/restoreSize") == "64Mi", "restoreSize is {}", text(&taken, "/status/restoreSize"));
    space.exec("db-0", "echo after >/data/data/file; rm /data/data/random; sync").await?;

    // Restored into another class, larger; cloned from the claim.
    let restored = from_snapshot(claim("restored", "restored", "128Mi"), "first");
    let cloned = from(claim("cloned", CLASS, "64Mi"), "", "PersistentVolumeClaim", "data-db-0");
    space.apply(&[restored, cloned, pod("reader", sleeper(&["restored", "cloned"]))]).await?;
    // The scheduler does not know where the sources are, and prefers the emptier node. Then an event says what to do.
    let began = Instant::now();
    let refused = loop {
        if space.events().await.contains(&format!("run the pod on node {source_node}")) {
            break true;
        }
        let reader = space.get("pod", "reader").await?.context("the pod is gone")?;
        if is(&reader, "Ready") {
            break false;
        }
        ensure!(
            began.elapsed() < EVENT,
            "neither a running pod nor an event that names the node\n{}",
            space.events().await
        );
        tokio::time::sleep(LOOK).await;
    };
    if refused {
        space.run(&["delete", "pod", "reader"]).await?;
        let there = json!({ "nodeSelector": { "kubernetes.io/hostname": source_node } });
        space.apply(&[pod("reader", with(sleeper(&["restored", "cloned"]), there))]).await?;
    }
    let reader = space.ready("reader").await.context("a pod with a restored and a cloned volume")?;
    let node = node_of(cluster, &reader)?;
    ensure!(node.name == source_node, "the copies are on {}, and their source on {source_node}", node.name);
    lies_on(&space, "cloned", node).await?;
    let found =
        space.exec("reader", "cat /data/restored/file /data/cloned/file; md5sum </data/restored/random").await?;
    ensure!(found == format!("before\nafter\n{sum}"), "the copies contain {found:?}");
    let size = space.exec("reader", "df -m /data/restored | tail -n 1 | awk '{ print $2 }'").await?;
    let size: u64 = size.trim().parse().with_context(|| format!("df printed {size:?}"))?;
    ensure!(size > 90, "the filesystem of a volume that was restored to 128Mi has {size} MiB");

    // The claim of the source is deleted first: its volume stays until the snapshot is gone.
    space.run(&["delete", "statefulset", "db"]).await?;
    space.run(&["delete", "pvc", "data-db-0", "--wait=false"]).await?;
    space.run(&["delete", "volumesnapshot", "first", "--timeout=120s"]).await?;
    space.wait_gone("pvc", "data-db-0").await?;
    space.run(&["delete", "storageclass", "restored"]).await?;
    space.run(&["delete", "volumesnapshotclass", SNAPSHOT_CLASS]).await?;
    space.end().await?;
    snapshotter.end(cluster).await?;
    let chosen =
        if refused { "the scheduler chose a node without the source first" } else { "the scheduler chose well" };
    Ok(format!("a snapshot under a running pod, restored larger into another pool, and a clone of the claim; {chosen}"))
}

/// The VolumeSnapshotClass.
pub(crate) fn snapshot_class() -> Value {
    json!({
        "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotClass", "metadata": { "name": SNAPSHOT_CLASS },
        "driver": "local.csi.quarry.dev", "deletionPolicy": "Delete",
    })
}

/// Waits until a VolumeSnapshot can be restored.
pub(super) async fn ready_to_use(space: &Space<'_>, name: &str) -> Result<Value> {
    let ready = |object: &Value| object.pointer("/status/readyToUse").and_then(Value::as_bool) == Some(true);
    space.wait("volumesnapshot", name, "ready to use", ready).await
}

/// The claim, filled from a VolumeSnapshot.
pub(super) fn from_snapshot(claim: Value, name: &str) -> Value {
    from(claim, "snapshot.storage.k8s.io", "VolumeSnapshot", name)
}

/// A VolumeSnapshot of a claim.
pub(super) fn snapshot(name: &str, claim: &str) -> Value {
    json!({
        "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot", "metadata": { "name": name },
        "spec": { "volumeSnapshotClassName": SNAPSHOT_CLASS, "source": { "persistentVolumeClaimName": claim } },
    })
}

/// The claim, filled from this object.
fn from(claim: Value, group: &str, kind: &str, name: &str) -> Value {
    let group = if group.is_empty() { json!({}) } else { json!({ "apiGroup": group }) };
    with(claim, json!({ "spec": { "dataSource": with(json!({ "kind": kind, "name": name }), group) } }))
}
