//! Whole disks: plugged in, added to a pool, and allocated, one per pod.

use anyhow::{Context, Result, ensure};
use quarry_vm::{Bus, Disk};
use serde_json::{Value, json};

use super::capacity::bytes;
use super::{SYSTEM, node_of};
use crate::cluster::{Cluster, items, text};
use crate::install;
use crate::objects::{class, stateful_set};
use crate::space::Space;
use crate::worker::until;

const GIB: u64 = 1 << 30;
const POOL: &str = "whole";

pub(super) async fn run(cluster: &mut Cluster) -> Result<String> {
    // Of other buses and sizes than those beneath the volume groups, and a running kubelet.
    for worker in &mut cluster.workers {
        let disks = vec![Disk::new("w1", GIB).bus(Bus::Nvme).block_size(4096), Disk::new("w2", 2 * GIB).bus(Bus::Scsi)];
        worker.vm.add_disks(disks).await.with_context(|| format!("the disks of {}", worker.name))?;
    }
    let select = json!({ "transports": ["nvme", "scsi"] });
    install::install_with(cluster, json!({ "name": POOL, "disk": { "select": select } })).await?;
    install::wait_running(cluster).await.context("with a pool of whole disks")?;

    let space = Space::new(cluster, "disks").await?;
    space.apply(&[class(POOL, POOL)]).await?;
    // The largest disk of each node, less the space around the volume.
    wait_for_largest_free(cluster, 2 * GIB - (3 << 20)).await?;
    space.apply(&[stateful_set("db", 4, POOL, "512Mi")]).await?;
    let mut taken = Vec::new();
    for number in 0..4 {
        let name = format!("db-{number}");
        let pod = space.ready(&name).await?;
        let device = space.exec(&name, "grep ' /data/data ' /proc/mounts | cut -d ' ' -f 1").await?;
        let device = device.trim().to_owned();
        ensure!(
            device.ends_with("p2") || device.starts_with("/dev/sd"),
            "{name} has {device}, which is not the second partition of a disk"
        );
        space.exec(&name, &format!("echo {number} >/data/data/file; sync")).await?;
        taken.push((node_of(cluster, &pod)?.name.clone(), device));
    }
    let mut different = taken.clone();
    different.sort();
    different.dedup();
    ensure!(different.len() == 4, "four pods have {taken:?}, not one disk each");

    // A fifth has to wait until one of them is deleted and wiped.
    space.run(&["scale", "statefulset", "db", "--replicas=5"]).await?;
    let waits = |pod: &Value| {
        let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
        conditions.into_iter().flatten().any(|found| text(found, "/reason") == "Unschedulable")
    };
    space.wait("pod", "db-4", "waiting for room", waits).await?;
    space.run(&["scale", "statefulset", "db", "--replicas=3"]).await?;
    space.wait_gone("pod", "db-4").await?;
    space.wait_gone("pod", "db-3").await?;
    space.run(&["delete", "pvc", "data-db-3", "data-db-4"]).await?;
    space.run(&["scale", "statefulset", "db", "--replicas=4"]).await?;
    space.ready("db-3").await?;
    let file = space.exec("db-3", "ls /data/data").await?;
    ensure!(file.trim() == "lost+found" || file.trim().is_empty(), "the new volume shows a former one's {file:?}");
    // The remaining pods still have their data.
    let before = text(&space.ready("db-0").await?, "/metadata/uid").to_owned();
    space.run(&["delete", "pod", "db-0"]).await?;
    space.wait("pod", "db-0", "another one", |pod| text(pod, "/metadata/uid") != before).await?;
    space.ready("db-0").await?;
    let found = space.exec("db-0", "cat /data/data/file").await?;
    ensure!(found.trim() == "0", "db-0 finds {found:?} in its file");

    space.run(&["delete", "storageclass", POOL]).await?;
    space.end().await?;
    // A later scenario finds only the disks that it plugs in.
    install::install(cluster).await?;
    install::wait_running(cluster).await?;
    for worker in &mut cluster.workers {
        for serial in ["w1", "w2"] {
            drop(worker.vm.take_disk(serial).await?);
        }
    }
    Ok("4 pods on 4 disks of 2 nodes (NVMe of 4096-byte sectors, SCSI); a fifth waits; a deleted one's disk serves again".to_owned())
}

/// Waits until the scheduler knows of a volume that large on every node.
async fn wait_for_largest_free(cluster: &Cluster, largest: u64) -> Result<()> {
    let namespace = format!("--namespace={SYSTEM}");
    until("the capacity of whole disks", async || {
        let capacities = cluster.kubectl().get(["csistoragecapacities", &namespace]).await?;
        let of_pool = items(&capacities).filter(|capacity| text(capacity, "/storageClassName") == POOL);
        let right = of_pool.filter(|capacity| bytes(text(capacity, "/maximumVolumeSize")).ok() == Some(largest));
        Ok(right.count() == cluster.workers.len())
    })
    .await
}
