//! The chart is uninstalled and reinstalled while volumes exist.

use anyhow::{Result, ensure};

use super::{lies_on, node_of};
use crate::cluster::Cluster;
use crate::install::{self, CLASS};
use crate::objects::{claim, pod, sleeper};
use crate::space::Space;

pub(super) async fn run(cluster: &mut Cluster) -> Result<String> {
    let space = Space::new(cluster, "uninstall").await?;
    space.apply(&[claim("data", CLASS, "64Mi"), pod("user", sleeper(&["data"]))]).await?;
    let user = space.ready("user").await?;
    let node = node_of(cluster, &user)?;
    let name = lies_on(&space, "data", node).await?;
    space.exec("user", "echo precious >/data/data/file; sync").await?;

    install::uninstall(cluster).await?;
    // The pod keeps running without Quarry.
    let found = space.exec("user", "cat /data/data/file; echo more >>/data/data/file").await?;
    ensure!(found.trim() == "precious", "the running pod finds {found:?}");
    ensure!(super::volumes_on(node).await?.contains(&name), "the logical volume is gone with the chart");

    install::install(cluster).await?;
    install::wait_running(cluster).await?;
    space.run(&["delete", "pod", "user"]).await?;
    space.apply(&[pod("again", sleeper(&["data"]))]).await?;
    space.ready("again").await?;
    let found = space.exec("again", "cat /data/data/file").await?;
    ensure!(found.split_whitespace().eq(["precious", "more"]), "the next pod finds {found:?}");
    space.end().await?;
    ensure!(!super::volumes_on(node).await?.contains(&name), "the volume is not removed with its claim");
    Ok("uninstalled under a running pod; installed again: served and deleted".to_owned())
}
