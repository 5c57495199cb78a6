//! The kinds of volumes that pods request.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{lies_on, node_of, volumes_on};
use crate::cluster::{Cluster, text};
use crate::install::{CLASS, SECOND_POOL};
use crate::objects::{BUSYBOX, claim, class, pod, sleeper, sleeping, with};
use crate::space::Space;

/// Raw block, mount options, fsGroup and a non-root user.
pub(super) async fn shapes(cluster: &mut Cluster) -> Result<String> {
    let space = Space::new(cluster, "shapes").await?;
    let raw = with(claim("raw", CLASS, "64Mi"), json!({ "spec": { "volumeMode": "Block" } }));
    let mut raw_pod = json!({
        "terminationGracePeriodSeconds": 0,
        "volumes": [{ "name": "raw", "persistentVolumeClaim": { "claimName": "raw" } }],
    });
    let container = json!({
        "name": "main", "image": BUSYBOX, "command": ["/bin/busybox", "sleep", "1000000"],
        "volumeDevices": [{ "name": "raw", "devicePath": "/dev/raw" }],
    });
    raw_pod = with(raw_pod, json!({ "containers": [container] }));
    let noatime = with(
        class("noatime", "main"),
        json!({ "mountOptions": ["noatime", "nodev"], "parameters": { "csi.storage.k8s.io/fstype": "xfs" } }),
    );
    let secure =
        json!({ "securityContext": { "runAsUser": 1234, "runAsGroup": 1234, "fsGroup": 4321, "runAsNonRoot": true } });
    space
        .apply(&[
            noatime,
            raw,
            pod("raw", raw_pod),
            claim("options", "noatime", "400Mi"),
            pod("options", sleeper(&["options"])),
            claim("group", CLASS, "64Mi"),
            pod("group", with(sleeper(&["group"]), secure)),
        ])
        .await?;
    space.ready("raw").await?;
    let zero = space
        .exec(
            "raw",
            "dd if=/dev/raw bs=1M 2>/dev/null | tr -d '\\000' | wc -c; dd if=/dev/raw bs=1M 2>/dev/null | wc -c",
        )
        .await?;
    let counts: Vec<&str> = zero.split_whitespace().collect();
    ensure!(counts == ["0", "67108864"], "a fresh raw volume has {counts:?} bytes that are not zero, and bytes");
    space.exec("raw", "echo precious | dd of=/dev/raw conv=fsync 2>/dev/null").await?;
    let found = space.exec("raw", "head -c 8 /dev/raw").await?;
    ensure!(found.trim() == "precious", "the raw volume reads {found:?}");

    space.ready("options").await?;
    let mounts = space.exec("options", "grep ' /data/options ' /proc/mounts").await?;
    ensure!(
        mounts.contains(" xfs ") && mounts.contains("noatime") && mounts.contains("nodev"),
        "the class's filesystem and mount options are not there: {mounts}"
    );
    space.ready("group").await?;
    let who =
        space.exec("group", "touch /data/group/file; stat -c '%u %g' /data/group/file; stat -c %g /data/group").await?;
    ensure!(who.split_whitespace().eq(["1234", "4321", "4321"]), "a file of user 1234 with fsGroup 4321: {who}");
    space.run(&["delete", "storageclass", "noatime"]).await?;
    space.end().await?;
    Ok("raw block of zeroes, xfs with noatime and nodev, fsGroup".to_owned())
}

/// Two pods with one volume, one exclusive pod, and a volume that is deleted with its pod.
pub(super) async fn sharing(cluster: &mut Cluster) -> Result<String> {
    let space = Space::new(cluster, "sharing").await?;
    space.apply(&[claim("shared", CLASS, "64Mi"), pod("writer", sleeper(&["shared"]))]).await?;
    let writer = space.ready("writer").await?;
    let node = node_of(cluster, &writer)?;
    let mut reader = sleeper(&["shared"]);
    if let Some(mount) = reader.pointer_mut("/containers/0/volumeMounts/0") {
        *mount = with(mount.clone(), json!({ "readOnly": true }));
    }
    let once = with(claim("once", CLASS, "64Mi"), json!({ "spec": { "accessModes": ["ReadWriteOncePod"] } }));
    let template = json!({ "spec": claim("", CLASS, "64Mi").get("spec") });
    let ephemeral = with(
        sleeping(&["scratch"]),
        json!({ "volumes": [{ "name": "scratch", "ephemeral": { "volumeClaimTemplate": template } }] }),
    );
    space.apply(&[pod("reader", reader), once, pod("alone", sleeper(&["once"])), pod("brief", ephemeral)]).await?;
    let found = space.ready("reader").await?;
    ensure!(node_of(cluster, &found)?.name == node.name, "two pods of one volume run on two nodes");
    space.exec("writer", "echo hello >/data/shared/file").await?;
    let read =
        space.exec("reader", "cat /data/shared/file; touch /data/shared/mine 2>/dev/null || echo refused").await?;
    ensure!(read.split_whitespace().eq(["hello", "refused"]), "the read-only pod: {read}");

    space.ready("alone").await?;
    space.apply(&[pod("too-many", sleeper(&["once"]))]).await?;
    let refused = |pod: &Value| {
        let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
        conditions.into_iter().flatten().any(|found| text(found, "/message").contains("ReadWriteOncePod"))
    };
    space.wait("pod", "too-many", "rejected for ReadWriteOncePod", refused).await?;

    let brief = space.ready("brief").await?;
    let name = lies_on(&space, "brief-scratch", node_of(cluster, &brief)?).await?;
    space.run(&["delete", "pod", "brief"]).await?;
    space.wait_gone("pv", &name).await?;
    ensure!(!volumes_on(node_of(cluster, &brief)?).await?.contains(&name), "the ephemeral volume outlives its pod");
    space.end().await?;
    Ok("reader next to writer, ReadWriteOncePod rejected for a second pod, ephemeral volume deleted with its pod"
        .to_owned())
}

/// Which pool and which node a class leads to.
pub(super) async fn classes(cluster: &mut Cluster) -> Result<String> {
    let space = Space::new(cluster, "classes").await?;
    let there = "node-2";
    let at = json!([{ "matchLabelExpressions": [{ "key": "topology.local.csi.quarry.dev/node", "values": [there] }] }]);
    space
        .apply(&[
            class("second", SECOND_POOL),
            with(class("at-once", "main"), json!({ "volumeBindingMode": "Immediate" })),
            with(class("there", "main"), json!({ "allowedTopologies": at })),
            claim("second", "second", "64Mi"),
            claim("at-once", "at-once", "64Mi"),
            claim("there", "there", "64Mi"),
            pod("both", sleeper(&["second", "there"])),
        ])
        .await?;
    // No pod asks for it.
    let early = space.volume_of("at-once").await?;
    ensure!(text(&early, "/spec/csi/driver") == "local.csi.quarry.dev", "{early}");
    space.apply(&[pod("late", sleeper(&["at-once"]))]).await?;
    let late = space.ready("late").await?;
    lies_on(&space, "at-once", node_of(cluster, &late)?).await?;

    let both = space.ready("both").await?;
    ensure!(node_of(cluster, &both)?.name == there, "the class allows only {there}: {}", text(&both, "/spec/nodeName"));
    let name = lies_on(&space, "second", cluster.worker(there)?).await?;
    let group = cluster.worker(there)?.vm.sh(format!("lvs --noheadings -o vg_name --select lv_name={name}")).await?;
    ensure!(group.trim() == SECOND_POOL, "a volume of pool {SECOND_POOL} is in volume group {group:?}");
    for class in ["second", "at-once", "there"] {
        space.run(&["delete", "storageclass", class]).await?;
    }
    space.end().await?;
    Ok("two pools, Immediate, allowedTopologies".to_owned())
}
