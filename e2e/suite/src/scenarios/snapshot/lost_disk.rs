//! The disk of a snapshot is lost, while its volume has another one.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use quarry_proto::csi::v1 as csi;
use quarry_vm::PowerCut;
use tonic::Code;

use super::contents::{changed, contents, fill};
use crate::csi::{Ask, Made, retry};
use crate::node::{GROUP, Node, device};
use crate::scenario::{Context, Passed};
use crate::scenarios::steps::{close, open, until};

/// How long it may take until the loss is shown.
const SHOWN: Duration = Duration::from_secs(60);

pub async fn run(context: Context) -> Passed {
    let mut node = Node::start("snapshot-lost-disk", &[256 << 20, 256 << 20]).await?;
    let mut seen = Vec::new();
    for reboot in [false, true] {
        let what = if reboot { "after a power cut" } else { "while it runs" };
        let answer = life(&mut node, reboot).await.with_context(|| format!("the disk comes back {what}"))?;
        context.say(format_args!("the disk comes back {what}: {answer}"));
        seen.push(format!("{what}, the snapshot is {answer}"));
    }
    Ok(format!("the disk came back twice: {}", seen.join("; ")))
}

/// What the snapshot is after the disk has come back.
async fn life(node: &mut Node, reboot: bool) -> Result<&'static str> {
    let ask = Ask::mount("pvc-raid1", "ext4").parameter("layout", "raid1");
    let source = retry(|| node.csi.create(&ask)).await?;
    open(node, &source).await?;
    fill(node, &source, "first").await?;
    let before = contents(node, &source).await?;
    let taken = retry(|| node.csi.snapshot("snap-1", &source.id)).await?;
    let id = &taken.snapshot_id;
    let disk = disk_of_snapshot(node).await?;
    // Only what quarry flushes itself, later, is tested.
    node.vm.sh("sync -f /etc/quarry").await?;
    node.vm.unplug(disk).await?;

    // It goes on, and the snapshot loses what it does not get any more.
    fill(node, &source, "second").await.context("the source without the snapshot's disk")?;
    let after = contents(node, &source).await?;
    ensure!(changed(&before, &after), "the test writes nothing else");
    until("the snapshot is not ready any more", SHOWN, || async { Ok(!is_ready(&find(node, id).await?)) }).await?;
    let ask = source.ask.clone().named("pvc-restored").filled_from_snapshot(id);
    let Err(status) = node.csi.create(&ask).await else { bail!("restored from a snapshot whose disk is missing") };
    ensure!(matches!(status.code(), Code::Unavailable | Code::FailedPrecondition), "{status:?}");

    if reboot {
        node.vm.power_cut_with(PowerCut::LoseAll).await?;
        node.lost_power();
        node.vm.boot_again().await?;
        node.vm.replug(disk).await?;
        node.serve().await?;
    } else {
        node.vm.replug(disk).await?;
    }
    let flagged = node.vm.sh(format!("vgs --noheadings -o vg_missing_pv_count {GROUP}")).await?;
    if flagged.trim() != "0" {
        node.vm.sh(format!("vgextend -qq --restoremissing {GROUP} {}", device(disk))).await?;
    }
    node.vm.sh(format!("vgchange -qq --refresh {GROUP} || true")).await?;
    open(node, &source).await.context("the source, with the disk")?;
    after.check(node, &source).await.context("the source, with the disk")?;
    restored(node, &source, &ask, id).await
}

async fn restored(node: &mut Node, source: &Made, ask: &Ask, id: &str) -> Result<&'static str> {
    // It did not get the old blocks of its source, so nothing may ever read it as the contents of its instant.
    let answer = match node.csi.create(ask).await {
        Ok(made) => bail!("{} was restored from a snapshot that missed writes to its source", made.id),
        Err(status) if matches!(status.code(), Code::FailedPrecondition) => "lost",
        Err(status) => bail!("{status:?}"),
    };
    ensure!(!is_ready(&find(node, id).await?), "ready, and it cannot be restored");
    retry(|| node.csi.delete_snapshot(id)).await?;
    close(node, source).await?;
    retry(|| node.csi.delete(&source.id)).await?;
    node.expect_empty().await?;
    Ok(answer)
}

fn is_ready(found: &Option<csi::Snapshot>) -> bool {
    found.as_ref().is_some_and(|found| found.ready_to_use)
}

async fn find(node: &Node, id: &str) -> Result<Option<csi::Snapshot>> {
    Ok(node.csi.snapshots_of("", id).await?.into_iter().next())
}

/// The disk that the only snapshot is on.
async fn disk_of_snapshot(node: &Node) -> Result<&'static str> {
    let script = format!("lvs --noheadings -o lv_tags,devices {GROUP} | grep k=snapshot");
    let found = node.vm.sh(script).await?;
    for disk in ["d1", "d2"] {
        let path = node.vm.sh(format!("readlink -f {}", device(disk))).await?;
        if found.contains(&format!("{}(", path.trim())) {
            return Ok(disk);
        }
    }
    bail!("the snapshot is on no disk: {found}")
}
