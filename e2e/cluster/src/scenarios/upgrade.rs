//! The driver is upgraded from an older commit, and its controller taken back, under running pods.

use anyhow::{Context, Result, ensure};
use quarry_vm::Cache;
use serde_json::Value;

use super::{SYSTEM, lies_on, node_of, volumes_on};
use crate::cluster::{Cluster, text};
use crate::images;
use crate::install::{self, CLASS};
use crate::objects::{claim, pod, sleeper, stateful_set};
use crate::previous::{self, previous};
use crate::space::Space;
use crate::worker::Worker;

/// Writes twice a second; a write that fails ends it and leaves a mark.
const WRITE: &str = "(while date +%s >>/data/data/log; do sleep 0.5; done; touch /data/data/failed) >/dev/null 2>&1 &";

pub(super) async fn run(cluster: &mut Cluster) -> Result<String> {
    let old = previous(&Cache::open()?).await?;
    install::uninstall(cluster).await?;
    install::install_chart(cluster, &old.chart, previous::TAG).await.context("the older chart")?;
    install::wait_running(cluster).await.context("the older Quarry")?;

    let space = Space::new(cluster, "upgrade").await?;
    let objects =
        [stateful_set("db", 2, CLASS, "64Mi"), claim("doomed", CLASS, "64Mi"), pod("doomed", sleeper(&["doomed"]))];
    space.apply(&objects).await?;
    let first = running(&space).await?;
    let doomed = space.ready("doomed").await?;
    let doomed_node = node_of(cluster, &doomed)?;
    let doomed_volume = lies_on(&space, "doomed", doomed_node).await?;
    for pod in ["db-0", "db-1"] {
        space.exec(pod, &format!("echo {pod} >/data/data/file; sync; {WRITE}")).await?;
    }

    install::install(cluster).await.context("the upgrade")?;
    install::wait_running(cluster).await.context("after the upgrade")?;
    undisturbed(&space, &first, &["db-0", "db-1"]).await.context("after the upgrade")?;
    // The newer one stages, deletes and makes volumes beside those of the older one.
    space.run(&["delete", "pod", "db-0", "doomed"]).await?;
    space.run(&["delete", "pvc", "doomed"]).await?;
    comes_back(&space, "db-0", &first).await?;
    deleted(&space, &doomed_volume, doomed_node).await.context("made by the older Quarry, deleted by the newer one")?;
    space.apply(&[claim("fresh", CLASS, "64Mi"), pod("fresh", sleeper(&["fresh"]))]).await?;
    space.ready("fresh").await?;

    // The controller goes back; the nodes stay.
    let second = running(&space).await?;
    controller(cluster, previous::TAG).await.context("the older controller over newer nodes")?;
    undisturbed(&space, &second, &["db-1"]).await.context("with the older controller")?;
    space.apply(&[claim("reverse", CLASS, "64Mi"), pod("reverse", sleeper(&["reverse"]))]).await?;
    let reverse = space.ready("reverse").await?;
    lies_on(&space, "reverse", node_of(cluster, &reverse)?).await?;
    let fresh = space.ready("fresh").await?;
    let fresh_node = node_of(cluster, &fresh)?;
    let fresh_volume = lies_on(&space, "fresh", fresh_node).await?;
    space.run(&["delete", "pod", "fresh"]).await?;
    space.run(&["delete", "pvc", "fresh"]).await?;
    space.run(&["delete", "pod", "db-1"]).await?;
    comes_back(&space, "db-1", &second).await?;
    deleted(&space, &fresh_volume, fresh_node)
        .await
        .context("made by the newer Quarry, deleted by the older controller")?;

    controller(cluster, images::QUARRY).await.context("the newer controller again")?;
    space.end().await?;
    Ok("older to newer, and the controller back and forth: 2 pods wrote all the while; volumes made by each, served and deleted by the other".to_owned())
}

/// The StatefulSet's pods, ready.
async fn running(space: &Space<'_>) -> Result<[Value; 2]> {
    Ok([space.ready("db-0").await?, space.ready("db-1").await?])
}

/// Fails unless the pods are the same as before, never restarted, and their writing has never stopped.
async fn undisturbed(space: &Space<'_>, before: &[Value; 2], pods: &[&str]) -> Result<()> {
    let now = running(space).await?;
    for (before, now) in before.iter().zip(&now) {
        let name = text(now, "/metadata/name");
        ensure!(text(before, "/metadata/uid") == text(now, "/metadata/uid"), "{name} is another pod");
        let restarts = now.pointer("/status/containerStatuses/0/restartCount").cloned().unwrap_or_default();
        ensure!(restarts == 0, "{name} was restarted {restarts} times");
    }
    for pod in pods {
        let said = space.exec(pod, "ls /data/data; tail -n 1 /data/data/log; date +%s").await?;
        ensure!(!said.contains("failed"), "a write of {pod} failed");
        let times: Vec<i64> = said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        ensure!(matches!(times[..], [last, now] if now - last <= 10), "{pod} stopped writing: {said}");
    }
    Ok(())
}

/// Waits until a pod that was deleted is there again, and has its file.
async fn comes_back(space: &Space<'_>, name: &str, before: &[Value; 2]) -> Result<()> {
    let old: Vec<&str> = before.iter().map(|pod| text(pod, "/metadata/uid")).collect();
    space.wait("pod", name, "another one", |pod| !old.contains(&text(pod, "/metadata/uid"))).await?;
    space.ready(name).await?;
    let found = space.exec(name, "cat /data/data/file").await?;
    ensure!(found.trim() == name, "{name} finds {found:?} in its file");
    Ok(())
}

/// Waits until a PersistentVolume is gone, and fails if its logical volume is not.
async fn deleted(space: &Space<'_>, volume: &str, node: &Worker) -> Result<()> {
    space.wait_gone("pv", volume).await?;
    ensure!(
        !volumes_on(node).await?.contains(&volume.to_owned()),
        "{} still has the logical volume {volume}",
        node.name
    );
    Ok(())
}

/// Gives the controller another image and waits until it serves.
async fn controller(cluster: &Cluster, image: &str) -> Result<()> {
    let namespace = format!("--namespace={SYSTEM}");
    let container = format!("quarry={image}");
    cluster.kubectl().run(["set", "image", "deployment/quarry-controller", &container, &namespace]).await?;
    install::wait_running(cluster).await
}
