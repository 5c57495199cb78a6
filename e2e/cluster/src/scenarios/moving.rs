//! The procedures of docs/migrating.md, from volumes that the static provisioner might have created.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{lies_on, node_of};
use crate::cluster::{Cluster, text};
use crate::install::CLASS;
use crate::objects::{claim, class, pod, sleeping, stateful_set, with};
use crate::space::Space;

/// The class of the volumes that are moved from.
const STATIC: &str = "static";
/// The node that they are on.
const NODE: &str = "node-1";

pub(super) async fn run(cluster: &mut Cluster) -> Result<String> {
    let space = Space::new(cluster, "moving").await?;
    let no_provisioner = with(class(STATIC, "none"), json!({ "provisioner": "kubernetes.io/no-provisioner" }));
    space.apply(&[no_provisioner]).await?;
    for set in ["web", "ring"] {
        cluster.worker(NODE)?.vm.sh(format!("mkdir -p {}", path(set))).await?;
        space.apply(&[local(set), stateful_set(set, 1, STATIC, "64Mi")]).await?;
    }
    for set in ["web", "ring"] {
        let pod = format!("{set}-0");
        space.ready(&pod).await?;
        space.exec(&pod, "echo precious >/data/data/file; sync").await?;
    }
    copied(&space).await?;
    replicated(&space).await?;
    // Deleted by hand, as the page says; with the claims, Quarry's volumes are deleted.
    space.run(&["delete", "pv", "old-web", "old-ring", "--wait=false"]).await?;
    space.run(&["delete", "storageclass", STATIC]).await?;
    space.end().await?;
    Ok("local volumes to Quarry: one copied and handed over, one recreated under its pod".to_owned())
}

/// "The application does not replicate".
async fn copied(space: &Space<'_>) -> Result<()> {
    space.run(&["scale", "statefulset", "web", "--replicas=0"]).await?;
    let copy = json!({
        "restartPolicy": "Never",
        "nodeSelector": { "kubernetes.io/hostname": NODE },
        "volumes": [
            { "name": "old", "hostPath": { "path": path("web"), "type": "Directory" } },
            { "name": "new", "persistentVolumeClaim": { "claimName": "copy-web-0" } },
        ],
    });
    let command = json!({
        "name": "copy", "image": crate::objects::BUSYBOX,
        "command": ["/bin/busybox", "sh", "-ec", "cp -a /old/. /new/ && sync && du -s /old /new"],
        "volumeMounts": [{ "name": "old", "mountPath": "/old", "readOnly": true }, { "name": "new", "mountPath": "/new" }],
    });
    let mut copier = with(sleeping(&[]), copy);
    if let Some(container) = copier.pointer_mut("/containers/0") {
        *container = command;
    }
    space.wait_gone("pod", "web-0").await?;
    space.apply(&[claim("copy-web-0", CLASS, "64Mi"), pod("copy-web-0", copier)]).await?;
    space.wait("pod", "copy-web-0", "through", |pod| text(pod, "/status/phase") == "Succeeded").await?;

    let new = text(&space.volume_of("copy-web-0").await?, "/metadata/name").to_owned();
    retain(space, &new).await?;
    space.run(&["delete", "pod/copy-web-0", "pvc/copy-web-0"]).await?;
    let old = text(&space.volume_of("data-web-0").await?, "/metadata/name").to_owned();
    retain(space, &old).await?;
    space.run(&["delete", "pvc", "data-web-0"]).await?;
    let kept_for =
        r#"--patch={"spec":{"claimRef":{"namespace":"moving","name":"data-web-0","uid":null,"resourceVersion":null}}}"#;
    space.run(&["patch", "pv", &new, "--type=merge", kept_for]).await?;
    let handed = with(claim("data-web-0", CLASS, "64Mi"), json!({ "spec": { "volumeName": new } }));
    space.apply(&[handed]).await?;
    space.run(&["delete", "statefulset", "web", "--cascade=orphan"]).await?;
    space.apply(&[stateful_set("web", 1, CLASS, "64Mi")]).await?;
    let pod = space.ready("web-0").await?;
    lies_on(space, "data-web-0", node_of(space.cluster, &pod)?).await?;
    let found = space.exec("web-0", "cat /data/data/file").await?;
    ensure!(found.trim() == "precious", "the pod finds {found:?} on the new volume");
    let delete = r#"--patch={"spec":{"persistentVolumeReclaimPolicy":"Delete"}}"#;
    space.run(&["patch", "pv", &new, delete]).await.map(drop)
}

/// "The application replicates": the pod gets an empty Quarry volume, and the old one is kept.
async fn replicated(space: &Space<'_>) -> Result<()> {
    let before = text(&space.ready("ring-0").await?, "/metadata/uid").to_owned();
    space.run(&["delete", "statefulset", "ring", "--cascade=orphan"]).await?;
    space.apply(&[stateful_set("ring", 1, CLASS, "64Mi")]).await?;
    let still = space.ready("ring-0").await?;
    ensure!(text(&still, "/metadata/uid") == before, "the pod did not run on");
    retain(space, "old-ring").await?;
    space.run(&["delete", "pvc", "data-ring-0", "--wait=false"]).await?;
    space.run(&["delete", "pod", "ring-0"]).await?;
    space.wait("pod", "ring-0", "another one", |pod| text(pod, "/metadata/uid") != before).await?;
    let pod = space.ready("ring-0").await?;
    lies_on(space, "data-ring-0", node_of(space.cluster, &pod)?).await?;
    let found = space.exec("ring-0", "ls /data/data").await?;
    ensure!(!found.contains("file"), "the new volume is not empty: {found}");
    space.wait("pv", "old-ring", "kept", |volume| text(volume, "/status/phase") == "Released").await?;
    let kept = space.cluster.worker(NODE)?.vm.sh(format!("cat {}/file", path("ring"))).await?;
    ensure!(kept.trim() == "precious", "of the old data {kept:?} is left");
    Ok(())
}

async fn retain(space: &Space<'_>, volume: &str) -> Result<()> {
    let retain = r#"--patch={"spec":{"persistentVolumeReclaimPolicy":"Retain"}}"#;
    space.run(&["patch", "pv", volume, retain]).await.map(drop)
}

/// The folder of a set's old data on the node.
fn path(set: &str) -> String {
    format!("/var/tmp/old-{set}")
}

/// A volume as the static provisioner creates it, for the claim of a set's first pod.
fn local(set: &str) -> Value {
    let node = json!({ "key": "kubernetes.io/hostname", "operator": "In", "values": [NODE] });
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": { "name": format!("old-{set}") },
        "spec": {
            "capacity": { "storage": "64Mi" },
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": STATIC,
            "claimRef": { "namespace": "moving", "name": format!("data-{set}-0") },
            "local": { "path": path(set) },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [node] }] } },
        },
    })
}
