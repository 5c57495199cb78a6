//! From hosts with empty disks to running pods, without a command on any host.

use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::{lies_on, node_of};
use crate::cluster::Cluster;
use crate::install::{self, CLASS};
use crate::objects::stateful_set;
use crate::space::Space;

/// Leaves a host as if Quarry had never been there.
const EMPTY: &str = "set -e
    rm -f /var/lib/kubelet/plugins_registry/*@reg.sock /var/lib/kubelet/plugins/local.csi.quarry.dev/volume-groups
    vgremove -q -f -y main
    disk=/dev/disk/by-id/virtio-d1
    pvremove -q -y $disk
    blkdiscard --force --zeroout --length 64M $disk
    udevadm settle
    sync";

pub(super) async fn run(cluster: &mut Cluster) -> Result<String> {
    install::uninstall(cluster).await?;
    for worker in &cluster.workers {
        worker.vm.sh(EMPTY).await.with_context(|| format!("cannot empty the disks of {}", worker.name))?;
    }

    let began = Instant::now();
    install::install_on_empty_disks(cluster).await?;
    let space = Space::new(cluster, "empty-disks").await?;
    space.apply(&[stateful_set("db", 3, CLASS, "64Mi")]).await?;
    for number in 0..3 {
        let pod = space.ready(&format!("db-{number}")).await?;
        lies_on(&space, &format!("data-db-{number}"), node_of(cluster, &pod)?).await?;
    }
    let took = began.elapsed();
    for worker in &cluster.workers {
        let group = worker.vm.sh("vgs --noheadings -o vg_tags main").await?;
        ensure!(group.trim() == "quarry/made", "the volume group of {} has the tags {group:?}", worker.name);
    }
    space.end().await?;
    // The other scenarios install it as an operator who has made the volume group.
    install::install(cluster).await?;
    install::wait_running(cluster).await?;
    Ok(format!(
        "3 pods of a StatefulSet ran {:.0} s after `helm install` on hosts with empty disks",
        took.as_secs_f64()
    ))
}
