//! How many programs each call starts. Seconds depend on the machine; these counts do not, so a change that makes a call
//! slower by a program fails here.

use anyhow::{Context as _, Result, ensure};
use quarry_proto::csi::v1::NodeGetVolumeStatsRequest;
use quarry_vm::{Config, Disk, Vm};

use crate::csi::Ask;
use crate::node::{FAULTS, GROUP, Node};
use crate::scenario::{Context, Passed};

pub async fn run(_: Context) -> Passed {
    let machine = Config::new("processes").disk(Disk::new("d1", 1 << 30)).disk(Disk::new("d2", 256 << 20));
    let mut node = Node::with_vm(Vm::start(machine).await?, 1).await?;
    node.without_comparisons();
    // A later stage finds the volume active. The other pool follows what happens to any disk.
    let main = format!("  - name: main\n    lvm: {{volumeGroup: {GROUP}, deactivate: false}}\n");
    node.configure(&format!("pools:\n{main}  - name: whole\n    disk: {{select: {{byId: [virtio-d2]}}}}\n")).await?;
    node.serve().await?;
    node.csi.capacity(&Default::default()).await?;
    started(&node).await?;
    calls(&node, "ext4", &["mkfs.ext4", "lvm lvchange"]).await.context("a volume with ext4")?;
    calls(&node, "btrfs", &["mkfs.btrfs", "lvm lvchange"]).await.context("a volume with btrfs")?;
    // Some kernels are older than a feature of xfs. Then quarry also asks mkfs for its version.
    let old = node.vm.sh("uname -r").await?.starts_with("6.1.");
    let first_stage: &[&str] =
        if old { &["mkfs.xfs", "mkfs.xfs", "lvm lvchange"] } else { &["mkfs.xfs", "lvm lvchange"] };
    calls(&node, "xfs", first_stage).await.context("a volume with xfs")?;
    Ok("create 1, first stage 2 (xfs on an old kernel 3), later stage of an active volume 0, publish 0, stats 0, list 0, capacity 0, delete 1".to_owned())
}

/// The life of a volume. `first_stage` has the programs that its first stage starts.
async fn calls(node: &Node, kind: &'static str, first_stage: &[&str]) -> Result<()> {
    let made = node.csi.create(&Ask::mount(kind, kind).parameter("pool", "main")).await?;
    expect(node, "create", &["lvm lvcreate"]).await?;
    node.kubelet_folders(&made).await?;
    node.csi.stage(&made).await?;
    expect(node, "first stage", first_stage).await?;
    node.csi.publish(&made).await?;
    let stats = NodeGetVolumeStatsRequest {
        volume_id: made.id.clone(),
        volume_path: made.target(),
        ..NodeGetVolumeStatsRequest::default()
    };
    node.csi.node().node_get_volume_stats(stats).await?;
    node.csi.list().await?;
    node.csi.capacity(&Default::default()).await?;
    expect(node, "publish, stats, list and capacity", &[]).await?;
    node.csi.unpublish(&made).await?;
    node.csi.unstage(&made).await?;
    expect(node, "unpublish and unstage", &[]).await?;
    node.csi.stage(&made).await?;
    expect(node, "a later stage", &[]).await?;
    node.csi.unstage(&made).await?;
    node.csi.delete(&made.id).await?;
    expect(node, "delete", &["lvm lvremove"]).await
}

/// Compares the programs that quarry has started since the last comparison.
async fn expect(node: &Node, call: &str, expected: &[&str]) -> Result<()> {
    let programs = started(node).await?;
    ensure!(programs == expected, "{call} started {programs:?}, and not {expected:?}");
    Ok(())
}

/// The programs that quarry has started since the last call of this function. (A scrape of `/metrics` has the counts
/// too, but may itself read the volume group.)
pub async fn started(node: &Node) -> Result<Vec<String>> {
    let log = node.vm.sh(format!("cat {FAULTS}/log 2>/dev/null || true; > {FAULTS}/log")).await?;
    let labels = log.lines().filter_map(|line| line.strip_prefix("exec:")?.strip_suffix(":before"));
    Ok(labels.map(str::to_owned).collect())
}
