//! The claim on a disk is damaged while its volume is in use: the pod can end, nothing else gets the disk,
//! and once the claim is repaired the volume is back with its data.

use anyhow::{Context as _, Result, ensure};
use quarry_vm::Disk;
use tonic::Code;

use super::{kernel_name, listed, row};
use crate::csi::{Made, refused};
use crate::node::Node;
use crate::scenarios::steps::{close, open, read, write};

/// Takes away the disk's first sector while the volume is published, and puts it back.
pub async fn published(node: &Node, disk: &Disk, made: &Made) -> Result<()> {
    open(node, made).await?;
    write(node, made).await?;
    let (device, name) = (disk.path(), kernel_name(node, disk).await?);
    let copy = |from: &str, to: &str| {
        format!("dd if={from} of={to} bs={} count=1 conv=notrunc,fsync status=none; udevadm settle", disk.block_size)
    };
    node.vm.sh(copy(&device, "/root/first-sector")).await?;
    node.vm.sh(copy("/dev/zero", &device)).await?;

    refused("delete of a mounted volume", node.csi.delete(&made.id).await, Code::FailedPrecondition, "in use")?;
    // The partition can still be identified, so the mount is not foreign.
    node.csi.unpublish(made).await.context("unpublishing a volume whose claim is damaged")?;
    node.csi.unstage(made).await.context("unstaging a volume whose claim is damaged")?;
    let left = node.vm.sh(format!("grep '{}' /proc/self/mountinfo || true", made.ask.name)).await?;
    ensure!(left.is_empty(), "remnants of {}: {left}", made.id);
    refused("stage", node.csi.stage(made).await, Code::FailedPrecondition, &name)?;
    refused("delete", node.csi.delete(&made.id).await, Code::Unavailable, &name)?;
    let table = listed(node).await?;
    let row = row(&table, &name);
    ensure!(row.contains("damaged") && !row.contains(" free "), "{name} is listed as {row:?}:\n{table}");

    node.vm.sh(copy("/root/first-sector", &device)).await?;
    open(node, made).await.context("when the claim was whole again")?;
    read(node, made).await?;
    close(node, made).await
}
