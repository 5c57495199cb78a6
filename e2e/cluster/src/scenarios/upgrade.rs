//! The driver is upgraded from an older commit, and its controller rolled back, under running pods.

use anyhow::{Context, Result, ensure};
use quarry_cache::Cache;
use serde_json::{Value, json};

use super::{SYSTEM, lies_on, node_of, volumes_on, writer};
use crate::binaries;
use crate::cluster::{Cluster, text};
use crate::containerd;
use crate::images;
use crate::install::{self, CLASS};
use crate::objects::{claim, pod, sleeper, stateful_set};
use crate::previous::{self, previous};
use crate::space::Space;
use crate::worker::Worker;

pub(super) async fn run(cluster: &mut Cluster) -> Result<String> {
    let cache = Cache::open()?;
    let old = previous(&cache).await?;
    let registrar = images::registrar(&cache, &binaries::registrar(&cache).await?).await?;
    // Only here: the states that nodes start from do not hold them.
    for image in [&old.image, &registrar] {
        let imports = cluster.workers.iter().map(|worker| containerd::import(&worker.vm, image));
        futures::future::try_join_all(imports).await.context("the images of the older Quarry")?;
    }
    install::uninstall(cluster).await?;
    // docs/install.md: kubelet rejects the same driver on another socket as long as this one is there.
    for worker in &cluster.workers {
        worker
            .vm
            .sh("rm /var/lib/kubelet/plugins_registry/*@reg.sock")
            .await
            .context("the socket that the plugin left")?;
    }
    install::install_chart(cluster, &old.chart, previous::TAG).await.context("the older chart")?;
    install::wait_running(cluster).await.context("the older Quarry")?;
    let older_quarry = container(cluster, "quarry").await?;

    let space = Space::new(cluster, "upgrade").await?;
    let objects =
        [stateful_set("db", 2, CLASS, "64Mi"), claim("doomed", CLASS, "64Mi"), pod("doomed", sleeper(&["doomed"]))];
    space.apply(&objects).await?;
    let first = running(&space).await?;
    let doomed = space.ready("doomed").await?;
    let doomed_node = node_of(cluster, &doomed)?;
    let doomed_volume = lies_on(&space, "doomed", doomed_node).await?;
    for pod in ["db-0", "db-1"] {
        space.exec(pod, &format!("echo {pod} >/data/data/file; sync")).await?;
        writer::write(&space, pod, "data").await?;
    }

    install::install(cluster).await.context("the upgrade")?;
    install::wait_running(cluster).await.context("after the upgrade")?;
    for pod in &first {
        writer::undisturbed(&space, pod, "data").await.context("after the upgrade")?;
    }
    // The newer version stages, deletes and creates volumes next to those of the older one.
    space.run(&["delete", "pod", "db-0", "doomed"]).await?;
    space.run(&["delete", "pvc", "doomed"]).await?;
    comes_back(&space, "db-0", &first).await?;
    deleted(&space, &doomed_volume, doomed_node)
        .await
        .context("created by the older Quarry, deleted by the newer one")?;
    space.apply(&[claim("fresh", CLASS, "64Mi"), pod("fresh", sleeper(&["fresh"]))]).await?;
    space.ready("fresh").await?;

    // The controller goes back; the nodes stay. external-resizer does not run next to a driver that cannot expand
    // volumes.
    let second = running(&space).await?;
    let [newer_quarry, resizer] = [container(cluster, "quarry").await?, container(cluster, "resizer").await?];
    let older = json!([
        { "name": "quarry", "image": previous::TAG, "args": older_quarry.get("args") },
        { "name": "resizer", "$patch": "delete" },
    ]);
    controller(cluster, &older).await.context("the older controller over newer nodes")?;
    let [back, writing] = &second;
    writer::same(&space, back).await.context("with the older controller")?;
    writer::undisturbed(&space, writing, "data").await.context("with the older controller")?;
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
        .context("created by the newer Quarry, deleted by the older controller")?;

    let newer = json!([{ "name": "quarry", "image": images::QUARRY, "args": newer_quarry.get("args") }, resizer]);
    controller(cluster, &newer).await.context("the newer controller again")?;
    space.end().await?;
    // Helm does not change what kubectl has patched. A later scenario installs the chart with other values.
    install::uninstall(cluster).await?;
    install::install(cluster).await?;
    install::wait_running(cluster).await?;
    Ok("older to newer, and the controller back and forth: 2 pods kept writing; volumes created by each, served and deleted by the other".to_owned())
}

/// The StatefulSet's pods, ready.
async fn running(space: &Space<'_>) -> Result<[Value; 2]> {
    Ok([space.ready("db-0").await?, space.ready("db-1").await?])
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

/// Changes containers of the controller's pods, and waits until all of them are ready.
async fn controller(cluster: &Cluster, containers: &Value) -> Result<()> {
    let namespace = format!("--namespace={SYSTEM}");
    let patch = json!({ "spec": { "template": { "spec": { "containers": containers } } } }).to_string();
    cluster.kubectl().run(["patch", "deployment", "quarry-controller", &namespace, "--patch", &patch]).await?;
    install::wait_running(cluster).await
}

/// A container of the controller, as the chart made it.
async fn container(cluster: &Cluster, name: &str) -> Result<Value> {
    let namespace = format!("--namespace={SYSTEM}");
    let controller = cluster.kubectl().get(["deployment", "quarry-controller", &namespace]).await?;
    let containers = controller.pointer("/spec/template/spec/containers").and_then(Value::as_array);
    let found = containers.into_iter().flatten().find(|container| text(container, "/name") == name);
    found.cloned().with_context(|| format!("the controller has no container {name}"))
}
