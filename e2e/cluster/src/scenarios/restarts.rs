//! Parts of the driver and kubelet restart: running pods are not affected, and pods that start meanwhile come
//! up.

use anyhow::Result;

use super::{delete_pods, node_of, writer};
use crate::cluster::Cluster;
use crate::install::{self, CLASS};
use crate::objects::{claim, pod, sleeper};
use crate::space::Space;

pub(super) async fn run(cluster: &mut Cluster) -> Result<String> {
    let space = Space::new(cluster, "restarts").await?;
    space.apply(&[claim("old", CLASS, "64Mi"), pod("old", sleeper(&["old"]))]).await?;
    let old = space.ready("old").await?;
    let node = node_of(cluster, &old)?.name.clone();
    writer::write(&space, "old", "old").await?;

    for (round, what) in ["node", "controller", "kubelet"].into_iter().enumerate() {
        let name = format!("new-{round}");
        match what {
            "kubelet" => cluster.worker(&node)?.stop_kubelet().await?,
            component => delete_pods(cluster, component).await?,
        }
        space.apply(&[claim(&name, CLASS, "64Mi"), pod(&name, sleeper(&[&name]))]).await?;
        if what == "kubelet" {
            cluster.worker(&node)?.start_kubelet().await?;
        }
        space.ready(&name).await?;
        space.exec(&name, &format!("echo new >/data/{name}/file")).await?;
        install::wait_running(cluster).await?;
    }
    writer::undisturbed(&space, &old, "old").await?;
    space.end().await?;
    Ok("node plugin, controller and kubelet; a pod that writes all the while, three new ones".to_owned())
}
