//! A raw block volume is published read-only to one pod while another writes, on LVM and on a whole disk;
//! with kills at each step.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use quarry_vm::{Config, Disk, Vm};
use tonic::Code;

use crate::csi::{Ask, Made, refused, retry};
use crate::node::Node;
use crate::scenario::{Context, Passed};
use crate::scenarios::kill::{forget_points, points, was_killed};
use crate::scenarios::steps::{read, write};

const DISK: u64 = 256 << 20;
/// More fault points than either call passes.
const MOST: u64 = 40;
/// Prints the device-mapper UUIDs of the read-only mappings.
const MAPPINGS: &str = "dmsetup info -c --noheadings -o uuid | grep QUARRY-RO- || true";

pub async fn run(context: Context) -> Passed {
    let config = Config::new("raw-read-only").disk(Disk::new("d1", DISK)).disk(Disk::new("d2", DISK));
    let mut node = Node::with_vm(Vm::start(config).await?, 1).await?;
    node.configure(
        "pools:\n  - name: main\n    lvm: {volumeGroup: vg0}\n  - name: whole\n    \
         disk: {select: {byId: [virtio-d2]}}\n",
    )
    .await?;
    node.serve().await?;
    let mut kills = 0;
    for pool in ["main", "whole"] {
        let class = BTreeMap::from([("pool".to_owned(), pool.to_owned())]);
        let ask = Ask { parameters: class, ..Ask::block(&format!("raw-{pool}")) };
        let made = retry(|| node.csi.create(&ask)).await?;
        node.kubelet_folders(&made).await?;
        node.csi.stage(&made).await?;
        let reader = made.target_in("pod-2");
        beside_a_writer(&mut node, &made, &reader).await.with_context(|| format!("pool {pool}"))?;
        kills += killed(&mut node, &made, &reader).await.with_context(|| format!("pool {pool}, killed"))?;
        left(&mut node, &made, &reader).await.with_context(|| format!("pool {pool}, left behind"))?;
        context.say(format_args!("pool {pool}: read-only next to a writer; {kills} kills in all"));
    }
    node.expect_empty().await?;
    Ok(format!("{kills} kills, no write through a read-only target, no mapping left"))
}

async fn beside_a_writer(node: &mut Node, made: &Made, reader: &str) -> Result<()> {
    let target = made.target();
    node.csi.publish(made).await?;
    write(node, made).await?;
    node.csi.publish_at(made, reader, true).await?;
    node.csi.publish_at(made, reader, true).await.context("the same call again")?;
    reads_only(node, &target, reader).await?;
    write(node, made).await.context("the writer next to it")?;
    read(node, made).await?;
    node.vm.sh(format!("test $(blockdev --getro '{target}') = 0")).await.context("the writer's device is read-only")?;
    refused("it, writable", node.csi.publish_at(made, reader, false).await, Code::AlreadyExists, "read-only")?;
    refused(
        "the writer's, read-only",
        node.csi.publish_at(made, &target, true).await,
        Code::AlreadyExists,
        "writable",
    )?;
    let request = quarry_proto::csi::v1::NodeGetVolumeStatsRequest {
        volume_id: made.id.clone(),
        volume_path: reader.to_owned(),
        ..Default::default()
    };
    let answer = node.csi.node().node_get_volume_stats(request).await?.into_inner();
    ensure!(answer.usage.first().is_some_and(|usage| usage.total == made.size), "its figures: {answer:?}");

    // It is a use of the volume, after a restart as well.
    node.csi.unpublish(made).await?;
    node.kill().await?;
    node.serve().await?;
    refused("delete", node.csi.delete(&made.id).await, Code::FailedPrecondition, reader)?;
    refused("unstage", node.csi.unstage(made).await, Code::FailedPrecondition, reader)?;
    node.csi.publish_at(made, reader, true).await?;
    node.csi.publish(made).await?;
    reads_only(node, &target, reader).await?;

    node.csi.unpublish_at(made, reader).await?;
    none_left(node).await?;
    write(node, made).await?;
    node.csi.unpublish(made).await.map_err(Into::into)
}

/// Kills quarry at each point of a publish and of an unpublish; the call is repeated.
async fn killed(node: &mut Node, made: &Made, reader: &str) -> Result<usize> {
    let mut kills = 0;
    for publish in [true, false] {
        for at in 1..MOST {
            if publish {
                retry(|| node.csi.unpublish_at(made, reader)).await?;
                none_left(node).await?;
            } else {
                retry(|| node.csi.publish_at(made, reader, true)).await?;
            }
            // The kernel events of the last call cause a scan of the pool.
            node.vm.sh("sleep 1").await?;
            forget_points(node, Some(at)).await?;
            let answer = call(node, made, reader, publish).await;
            let passed = points(node).await?;
            node.vm.sh("rm -f /run/quarry-faults/kill-at").await?;
            if !was_killed(node).await? {
                answer.with_context(|| format!("not killed, after {passed:?}"))?;
                if (passed.len() as u64) >= at {
                    // A scan of the pool passed points of its own before the kill was armed.
                    continue;
                }
                ensure!(passed.iter().any(|point| point.starts_with("mapper:")), "no mapping was changed: {passed:?}");
                break;
            }
            node.wait_for_end().await?;
            node.serve().await?;
            kills += 1;
            retry(|| call(node, made, reader, publish)).await.with_context(|| format!("again, after {passed:?}"))?;
            if publish {
                let mappings = node.vm.sh(MAPPINGS).await?;
                ensure!(mappings.lines().count() == 1, "one mapping belongs there after {passed:?}: {mappings}");
                node.vm.sh(format!("test $(blockdev --getro '{reader}') = 1")).await?;
            } else {
                none_left(node).await.with_context(|| format!("after {passed:?}"))?;
            }
        }
    }
    retry(|| node.csi.unpublish_at(made, reader)).await?;
    Ok(kills)
}

async fn call(node: &Node, made: &Made, reader: &str, publish: bool) -> Result<(), tonic::Status> {
    if publish { node.csi.publish_at(made, reader, true).await } else { node.csi.unpublish_at(made, reader).await }
}

/// A publish that was killed after its mapping was created, and is never repeated: the volume can be unstaged
/// and deleted. A mapping that only looks like Quarry's, and holds the volume, stays.
async fn left(node: &mut Node, made: &Made, reader: &str) -> Result<()> {
    // A new process counts its points from the beginning. They are before and after each of: create, load, resume.
    node.kill().await?;
    node.serve().await?;
    forget_points(node, Some(6)).await?;
    let _ = node.csi.publish_at(made, reader, true).await;
    node.wait_for_end().await?;
    node.vm.sh(format!("rm -f /run/quarry-faults/kill-at; {MAPPINGS} | grep -q QUARRY-RO-")).await?;
    node.serve().await?;
    node.csi.unstage(made).await?;
    none_left(node).await?;

    node.csi.stage(made).await?;
    node.csi.publish(made).await?;
    let target = made.target();
    node.vm
        .sh(format!(
            "dmsetup create --readonly --uuid QUARRY-OTHER-1 foreign --table \"0 8 linear $(stat -c '%Hr:%Lr' '{target}') 0\""
        ))
        .await?;
    node.csi.unpublish(made).await?;
    let answer = node.csi.delete(&made.id).await;
    ensure!(answer.is_err(), "a volume was deleted that another mapping holds");
    node.vm.sh("dmsetup info foreign >/dev/null && dmsetup remove foreign").await.context("the foreign mapping")?;
    retry(|| node.csi.delete(&made.id)).await.map(drop).map_err(Into::into)
}

/// Fails unless the reader sees what the writer wrote, and cannot write.
async fn reads_only(node: &Node, target: &str, reader: &str) -> Result<()> {
    node.vm
        .sh(format!(
            "test $(blockdev --getro '{reader}') = 1; test $(blockdev --getsize64 '{reader}') = $(blockdev --getsize64 '{target}'); \
             cmp -n 1048576 '{target}' '{reader}'; ! dd if=/dev/zero of='{reader}' bs=4k count=1 conv=notrunc 2>/dev/null"
        ))
        .await
        .map(drop)
        .context("the read-only target")
}

async fn none_left(node: &Node) -> Result<()> {
    let left = node.vm.sh(MAPPINGS).await?;
    ensure!(left.is_empty(), "read-only mappings are left: {left}");
    Ok(())
}
