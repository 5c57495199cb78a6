//! Filesystems that no longer work. The kernel keeps their mounts, and a bind mount of one looks intact.

use anyhow::{Context as _, Result, ensure};
use tonic::Code;

use crate::csi::{Ask, FILESYSTEMS, Made, refused};
use crate::node::Node;
use crate::scenario::{Context, Passed};
use crate::scenarios::steps::{close, open, read, write};

const GIB: u64 = 1 << 30;

pub async fn run(_: Context) -> Passed {
    let mut node = Node::bare("dead-filesystems", &[GIB]).await?;
    node.keep_active().await?;
    node.serve().await?;
    shut_down(&node).await.context("an xfs that is shut down")?;
    for (filesystem, flags) in [("ext4", vec!["errors=remount-ro".to_owned()]), ("btrfs", Vec::new())] {
        let ask = Ask { mount_flags: flags, ..Ask::mount(&format!("refuses-{filesystem}"), filesystem) };
        read_only(&node, &ask, filesystem).await.with_context(|| format!("{filesystem}, read-only after an error"))?;
    }
    failing_disk(&node).await.context("a disk that fails")?;
    stuck(&node).await.context("a filesystem that does not answer")?;
    node.expect_empty().await?;
    Ok("xfs shut down, ext4 and btrfs read-only, failing disks: rejected, reported, and recovered".to_owned())
}

/// Shut down under its pod, which ends while its successor starts.
async fn shut_down(node: &Node) -> Result<()> {
    let made = node.csi.create(&Ask::mount("shut-down", "xfs")).await?;
    open(node, &made).await?;
    write(node, &made).await?;
    let (staging, target, successor) = (made.staging(), made.target(), successor(node, &made).await?);
    node.vm.sh(format!("xfs_io -x -c shutdown '{target}'")).await?;
    let words = "shut its filesystem down";
    refused("stats", stats(node, &made).await, Code::FailedPrecondition, words)?;
    refused("the successor", node.csi.publish_at(&made, &successor, false).await, Code::FailedPrecondition, words)?;
    nothing_at(node, &successor).await?;
    let reader = node.csi.publish_at(&made, &successor, true).await;
    refused("a successor that reads", reader, Code::FailedPrecondition, words)?;
    nothing_at(node, &successor).await?;
    // What has to go first is named.
    refused("stage under the pod", node.csi.stage(&made).await, Code::FailedPrecondition, &target)?;
    let kept = format!("grep -qF ' {staging} ' /proc/self/mountinfo && grep -qF ' {target} ' /proc/self/mountinfo");
    node.vm.sh(kept).await.context("the rejected mount was unmounted")?;

    // A dead mount that an earlier call left: kubelet never unpublishes after a rejected publish.
    node.vm.sh(format!("mkdir -p '{successor}' && mount --bind '{staging}' '{successor}'")).await?;
    refused("the left mount", node.csi.stage(&made).await, Code::FailedPrecondition, &successor)?;
    let again = node.csi.publish_at(&made, &successor, false).await;
    refused("the call again", again, Code::FailedPrecondition, "was unmounted")?;
    nothing_at(node, &successor).await?;

    node.csi.unpublish(&made).await.context("unpublish of a dead mount")?;
    node.csi.stage(&made).await.context("stage once nothing uses it")?;
    node.csi.publish(&made).await?;
    read(node, &made).await?;
    write(node, &made).await?;
    stats(node, &made).await.context("stats of the recovered volume")?;

    // Without a stage between: unstage ends clean as well.
    node.vm.sh(format!("xfs_io -x -c shutdown '{target}'")).await?;
    close(node, &made).await?;
    node.csi.delete(&made.id).await.map_err(Into::into)
}

/// Made read-only by an error that has passed.
async fn read_only(node: &Node, ask: &Ask, filesystem: &str) -> Result<()> {
    let made = node.csi.create(ask).await?;
    open(node, &made).await?;
    write(node, &made).await?;
    let (target, successor) = (made.target(), successor(node, &made).await?);
    if filesystem == "ext4" {
        node.vm
            .sh(format!(
                "name=$(basename $(readlink /sys/dev/block/$(stat -Lc '%Hr:%Lr' {}))); \
                 echo test > /sys/fs/ext4/$name/trigger_fs_error",
                device(&made)
            ))
            .await?;
    } else {
        // Data that is not in a finished transaction is lost with the one that the error aborts.
        node.vm.sh(format!("sync -f '{target}'")).await?;
        failing(node, &made, true).await?;
        node.vm
            .sh(format!("dd if=/dev/zero of='{target}/lost' bs=1M count=1 2>/dev/null; sync -f '{target}' || true"))
            .await?;
        failing(node, &made, false).await?;
    }
    node.vm
        .sh(format!("! touch '{target}/more' 2>/dev/null"))
        .await
        .context("it is not read-only: this tests nothing")?;
    let words = "after an error";
    refused("stats", stats(node, &made).await, Code::FailedPrecondition, words)?;
    refused("the successor", node.csi.publish_at(&made, &successor, false).await, Code::FailedPrecondition, words)?;
    nothing_at(node, &successor).await?;
    refused("stage under the pod", node.csi.stage(&made).await, Code::FailedPrecondition, &target)?;
    // A pod that only reads keeps working if the kernel allows it: btrfs has lost what the unfinished
    // transaction had moved.
    if filesystem == "ext4" {
        read(node, &made).await?;
        node.csi.publish_at(&made, &successor, true).await.context("a successor that reads")?;
        node.csi.unpublish_at(&made, &successor).await?;
    }

    node.csi.unpublish(&made).await?;
    node.csi.stage(&made).await.context("stage once nothing uses it")?;
    node.csi.publish(&made).await?;
    read(node, &made).await?;
    node.vm.sh(format!("touch '{target}/more'")).await.context("the pod cannot write")?;
    stats(node, &made).await.context("stats of the recovered volume")?;
    close(node, &made).await?;
    node.csi.delete(&made.id).await.map_err(Into::into)
}

/// The first and a later stage while the disk answers with errors: to be tried again, and nothing is left.
async fn failing_disk(node: &Node) -> Result<()> {
    for filesystem in FILESYSTEMS.map(|known| known.name) {
        let made = node.csi.create(&Ask::mount(&format!("fails-{filesystem}"), filesystem)).await?;
        node.kubelet_folders(&made).await?;
        for what in ["the first stage", "a later stage"] {
            failing(node, &made, true).await?;
            refused(what, node.csi.stage(&made).await, Code::Unavailable, "").with_context(|| filesystem.to_owned())?;
            node.vm.sh(format!("! mountpoint -q '{}'", made.staging())).await?;
            failing(node, &made, false).await?;
            open(node, &made).await.with_context(|| format!("{filesystem}, {what}, once the disk has recovered"))?;
            close(node, &made).await?;
        }
        node.csi.delete(&made.id).await?;
    }
    Ok(())
}

/// A filesystem that does not answer costs one thread, however often it is asked about, and can be unpublished.
async fn stuck(node: &Node) -> Result<()> {
    let made = node.csi.create(&Ask::mount("stuck", "ext4")).await?;
    open(node, &made).await?;
    write(node, &made).await?;
    let (device, successor) = (device(&made), successor(node, &made).await?);
    let threads = format!("ls /proc/{}/task | wc -l", node.pid()?);
    // A suspended device blocks its writers.
    node.vm.sh(format!("dmsetup suspend {device}")).await?;
    let first = node.csi.publish_at(&made, &successor, false).await;
    refused("publish", first, Code::Unavailable, "has not answered for")?;
    let before: usize = node.vm.sh(threads.clone()).await?.trim().parse()?;
    for _ in 0..20 {
        refused(
            "publish again",
            node.csi.publish_at(&made, &successor, false).await,
            Code::Unavailable,
            "has not answered",
        )?;
        refused("stats", stats(node, &made).await, Code::Unavailable, "has not answered for")?;
    }
    let after: usize = node.vm.sh(threads).await?.trim().parse()?;
    ensure!(after <= before, "{before} threads, and {after} after 40 more calls");
    nothing_at(node, &successor).await?;
    node.csi.unpublish(&made).await.context("unpublish meanwhile")?;
    node.vm.sh(format!("dmsetup resume {device}")).await?;
    open(node, &made).await.context("once it answers")?;
    read(node, &made).await?;
    close(node, &made).await?;
    node.csi.delete(&made.id).await.map_err(Into::into)
}

fn device(made: &Made) -> String {
    format!("/dev/mapper/vg0-{}", made.ask.name.replace('-', "--"))
}

/// Has every read and write of the volume fail, or lets them through again.
async fn failing(node: &Node, made: &Made, fails: bool) -> Result<()> {
    let device = device(made);
    let change = if fails {
        format!(
            "dmsetup table {device} >/run/table; dmsetup load {device} --table \"0 $(blockdev --getsz {device}) error\""
        )
    } else {
        format!("dmsetup load {device} /run/table")
    };
    // What was read before must not be answered from memory.
    let script = format!(
        "set -e; {change}; dmsetup suspend --noflush --nolockfs {device}; dmsetup resume {device}; \
         echo 3 >/proc/sys/vm/drop_caches; blockdev --flushbufs {device} 2>/dev/null || true"
    );
    node.vm.sh(script).await.map(drop)
}

async fn stats(node: &Node, made: &Made) -> Result<(), tonic::Status> {
    let request = quarry_proto::csi::v1::NodeGetVolumeStatsRequest {
        volume_id: made.id.clone(),
        volume_path: made.target(),
        ..Default::default()
    };
    node.csi.node().node_get_volume_stats(request).await.map(drop)
}

/// The target of the pod that comes after, with the folder above it.
async fn successor(node: &Node, made: &Made) -> Result<String> {
    let target = made.target_in("pod-2");
    node.vm.sh(format!("mkdir -p \"$(dirname '{target}')\"")).await?;
    Ok(target)
}

async fn nothing_at(node: &Node, target: &str) -> Result<()> {
    let left =
        node.vm.sh(format!("grep -F ' {target} ' /proc/self/mountinfo || true; ls -d '{target}' 2>&1 || true")).await?;
    ensure!(left.contains("No such file"), "left at the target of a rejected publish: {left}");
    Ok(())
}
