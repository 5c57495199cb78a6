//! What happens to a volume when its claim is deleted.

use anyhow::{Result, ensure};
use serde_json::json;

use super::{lies_on, node_of, volumes_on};
use crate::cluster::{Cluster, text};
use crate::install::CLASS;
use crate::objects::{claim, class, pod, sleeper, with};
use crate::space::Space;

pub(super) async fn run(cluster: &mut Cluster) -> Result<String> {
    let space = Space::new(cluster, "reclaim").await?;
    let keep = with(class("keep", "main"), json!({ "reclaimPolicy": "Retain" }));
    space
        .apply(&[
            keep,
            claim("gone", CLASS, "64Mi"),
            claim("kept", "keep", "64Mi"),
            pod("first", sleeper(&["gone", "kept"])),
        ])
        .await?;
    let first = space.ready("first").await?;
    let node = node_of(cluster, &first)?;
    let gone = lies_on(&space, "gone", node).await?;
    let kept = lies_on(&space, "kept", node).await?;
    space.exec("first", "echo precious >/data/kept/file; sync").await?;
    space.run(&["delete", "pod", "first"]).await?;
    space.run(&["delete", "pvc", "gone", "kept"]).await?;
    space.wait_gone("pv", &gone).await?;
    let there = volumes_on(node).await?;
    ensure!(!there.contains(&gone), "the logical volume {gone} outlives its volume");
    ensure!(there.contains(&kept), "the logical volume {kept} is gone, although its class says Retain");

    // As docs/storageclass.md says: the volume is kept for the new claim, which names it.
    space.wait("pv", &kept, "released", |volume| text(volume, "/status/phase") == "Released").await?;
    let kept_for =
        r#"--patch={"spec":{"claimRef":{"namespace":"reclaim","name":"again","uid":null,"resourceVersion":null}}}"#;
    space.run(&["patch", "pv", &kept, "--type=merge", kept_for]).await?;
    let again = with(claim("again", "keep", "64Mi"), json!({ "spec": { "volumeName": kept } }));
    space.apply(&[again, pod("second", sleeper(&["again"]))]).await?;
    space.ready("second").await?;
    let found = space.exec("second", "cat /data/again/file").await?;
    ensure!(found.trim() == "precious", "the new claim's pod finds {found:?}");

    // Given back to Delete, it goes with its claim.
    let delete = r#"--patch={"spec":{"persistentVolumeReclaimPolicy":"Delete"}}"#;
    space.run(&["patch", "pv", &kept, delete]).await?;
    space.run(&["delete", "storageclass", "keep"]).await?;
    space.end().await?;
    ensure!(!volumes_on(node).await?.contains(&kept), "the logical volume {kept} outlives its volume");
    Ok("deleted with its claim; kept, and given to another".to_owned())
}
