//! Snapshots with `method: copy`: the contents of one instant, over a kill and a power cut; afterwards, source and
//! snapshot have nothing in common.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use quarry_proto::csi::v1 as csi;
use quarry_vm::PowerCut;
use tonic::Code;

use super::contents::{Contents, contents, fill};
use super::{MORE, copy, free, pools};
use crate::csi::{Ask, MIB, Made, refused, retry};
use crate::node::{GROUP, Node};
use crate::scenario::{Context, Passed};
use crate::scenarios::expand::laid_out;
use crate::scenarios::steps::{close, open, until};

/// How long a copy of these volumes may take, on an emulated disk.
const COPIED: Duration = Duration::from_secs(300);
const COPY: (&str, &str) = ("method", "copy");
const SNAPSHOT: &str = "snap-copy";

/// What interrupts a copy.
#[derive(Clone, Copy, Debug)]
enum Interruption {
    Kill,
    PowerCut,
}

pub async fn run(context: Context) -> Passed {
    let mut node = super::start("full-copy").await?;
    let (before, mut random, mut restored) = (free(&node).await?, context.random(), 0);
    let lives = [
        (Ask::mount("pvc-ext4", "ext4"), Interruption::Kill),
        (Ask::mount("pvc-btrfs", "btrfs"), Interruption::Kill),
        (Ask::block("pvc-block"), Interruption::PowerCut),
    ];
    for (ask, interruption) in lives {
        let layout = ["linear", "striped", "raid1"][usize::try_from(random.below(3))?];
        let what = format!("{} on {layout}, {interruption:?}", ask.name);
        restored += life(&mut node, laid_out(ask, layout), interruption).await.with_context(|| what.clone())?;
        left(&node, before).await.with_context(|| format!("after {what}"))?;
        context.say(format_args!("{what}: done"));
    }
    lost(&mut node).await.context("the snapshot that it is copied from becomes full")?;
    left(&node, before).await?;
    Ok(format!(
        "{restored} volumes restored from 3 full copies, 2 kills, a power cut; 1 instant lost, and 1 copy deleted"
    ))
}

/// All space is free again.
async fn left(node: &Node, before: (i64, i64)) -> Result<()> {
    node.expect_empty().await?;
    let now = free(node).await?;
    ensure!(now == before, "{now:?} is free of {before:?}");
    Ok(())
}

/// Starts quarry again, with slow or fast copies.
async fn restart(node: &mut Node, slow: bool) -> Result<()> {
    // 32 MiB take two minutes.
    node.configure(&pools(if slow { "copyRate: 256Ki" } else { "" })).await?;
    node.vm.sh("sync -f /etc/quarry").await?;
    node.serve().await
}

async fn life(node: &mut Node, ask: Ask, interruption: Interruption) -> Result<usize> {
    let source = retry(|| node.csi.create(&ask)).await?;
    open(node, &source).await?;
    fill(node, &source, "first").await?;
    let before = contents(node, &source).await?;
    node.stop().await?;
    restart(node, true).await?;

    let taken = retry(|| node.csi.snapshot_with(SNAPSHOT, &source.id, &[COPY])).await.context("CreateSnapshot")?;
    let id = taken.snapshot_id.clone();
    ensure!(!taken.ready_to_use && taken.size_bytes == source.size && taken.creation_time.is_some(), "{taken:?}");
    fill(node, &source, "second").await?;
    let after = contents(node, &source).await?;
    incomplete(node, &source, &taken).await.context("while it is copied")?;

    match interruption {
        Interruption::Kill => node.kill().await?,
        Interruption::PowerCut => {
            node.vm.sh("sync -f /var/lib/kubelet").await?;
            node.vm.power_cut_with(PowerCut::LoseAll).await?;
            node.lost_power();
            node.vm.boot_again().await?;
        }
    }
    restart(node, false).await.context("after the interruption")?;
    open(node, &source).await?;
    after.check(node, &source).await.context("the source after the interruption")?;
    let found = node.csi.snapshots_of("", &id).await?;
    ensure!(found.len() == 1 && !found[0].ready_to_use, "nothing continues by itself: {found:?}");
    let ready = complete(node, &source).await?;
    let expected = csi::Snapshot { ready_to_use: true, ..taken };
    ensure!(ready == expected, "{ready:?} is not {expected:?}");
    independent(node, &source).await?;

    // The source grows, and is deleted, and the snapshot keeps the contents of its instant.
    let same = ask.clone().named("pvc-same").filled_from_snapshot(&id);
    copy(node, &source, same.clone(), &before).await.context("restored beside its source")?;
    retry(|| node.csi.expand(&source, source.size + MORE)).await.context("expanded")?;
    after.check(node, &source).await?;
    close(node, &source).await?;
    retry(|| node.csi.delete(&source.id)).await.context("DeleteVolume of the source")?;
    restored(node, &same, &before).await.context("restored without its source")?;
    for _ in 0..2 {
        retry(|| node.csi.delete_snapshot(&id)).await.context("DeleteSnapshot")?;
    }
    Ok(2)
}

/// Nothing uses a copy that is not complete, and its source stays as it is.
async fn incomplete(node: &Node, source: &Made, taken: &csi::Snapshot) -> Result<()> {
    let id = &taken.snapshot_id;
    let ask = source.ask.clone().named("pvc-early").filled_from_snapshot(id);
    refused("restored", node.csi.create(&ask).await, Code::Unavailable, "is not complete")?;
    refused("expanded", node.csi.expand(source, source.size + MORE).await, Code::Aborted, SNAPSHOT)?;
    close(node, source).await?;
    refused("source deleted", node.csi.delete(&source.id).await, Code::Aborted, SNAPSHOT)?;
    open(node, source).await?;
    let again = node.csi.snapshot_with(SNAPSHOT, &source.id, &[COPY]).await.context("CreateSnapshot again")?;
    ensure!(again == *taken, "{again:?} is not {taken:?}");
    let found = node.csi.snapshots().await?;
    ensure!(found == [taken.clone()], "only the snapshot itself is listed: {found:?}");
    let script =
        format!("lvs --noheadings -o lv_tags {GROUP} | grep -c 'quarry2/k=copy/s=new\\|quarry2/k=snapshot.*/i=copy'");
    let stored = node.vm.sh(script).await.context("the copy and what serves it")?;
    ensure!(stored.trim() == "2", "{stored}");
    Ok(())
}

/// Asks until the snapshot is ready, as the snapshotter does.
async fn complete(node: &Node, source: &Made) -> Result<csi::Snapshot> {
    let ask = || retry(|| node.csi.snapshot_with(SNAPSHOT, &source.id, &[COPY]));
    until("the snapshot is ready", COPIED, || async { Ok(ask().await?.ready_to_use) }).await?;
    Ok(ask().await?)
}

/// The copy is complete, inactive, and depends on nothing.
async fn independent(node: &Node, source: &Made) -> Result<()> {
    let script = format!(
        "lvs --noheadings -o lv_tags {GROUP} | grep 'k=snapshot' && exit 1; \
         lvs --noheadings --separator , -o lv_active,origin,segtype,lv_tags {GROUP} | grep k=copy"
    );
    let found = node.vm.sh(script).await.context("what serves it is gone")?;
    let found = found.trim();
    ensure!(found.starts_with(",,linear,quarry2/k=copy/s=ready/") && !found.contains('\n'), "{found}");
    let script = format!("test -z \"$(lvs --noheadings -o origin_size {GROUP}/{} | tr -d ' ')\"", source.ask.name);
    node.vm.sh(script).await.map(drop).context("its source has no snapshot")
}

async fn restored(node: &Node, ask: &Ask, expected: &Contents) -> Result<()> {
    let made = retry(|| node.csi.create(ask)).await?;
    open(node, &made).await?;
    expected.check(node, &made).await?;
    close(node, &made).await?;
    retry(|| node.csi.delete(&made.id)).await.map_err(Into::into)
}

/// Its instant is lost: it is never ready, its source is free, and it is deleted. So is one that is being copied.
async fn lost(node: &mut Node) -> Result<()> {
    node.stop().await?;
    restart(node, true).await?;
    let ask = laid_out(Ask::block("pvc-lost").size(64 * MIB), "linear");
    let source = retry(|| node.csi.create(&ask)).await?;
    open(node, &source).await?;
    fill(node, &source, "first").await?;
    let parameters = [COPY, ("cowSize", "8Mi")];
    let taken = retry(|| node.csi.snapshot_with(SNAPSHOT, &source.id, &parameters)).await?;
    ensure!(!taken.ready_to_use, "{taken:?}");
    fill(node, &source, "second").await?;
    let after = contents(node, &source).await?;
    let free = || async {
        let again = node.csi.snapshot_with(SNAPSHOT, &source.id, &parameters).await;
        ensure!(!again.is_ok_and(|snapshot| snapshot.ready_to_use), "ready, and its instant was lost");
        let origin = node.vm.sh(format!("lvs --noheadings -o origin_size {GROUP}/{}", source.ask.name)).await?;
        Ok(origin.trim().is_empty())
    };
    until("the full snapshot is removed", COPIED, free).await?;
    after.check(node, &source).await.context("the source")?;
    let ask = source.ask.clone().named("pvc-restored").filled_from_snapshot(&taken.snapshot_id);
    refused("restored", node.csi.create(&ask).await, Code::FailedPrecondition, "never be complete")?;
    retry(|| node.csi.delete_snapshot(&taken.snapshot_id)).await?;

    let taken = retry(|| node.csi.snapshot_with(SNAPSHOT, &source.id, &[COPY])).await.context("taken again")?;
    ensure!(!taken.ready_to_use, "{taken:?}");
    retry(|| node.csi.delete_snapshot(&taken.snapshot_id)).await.context("deleted while it is copied")?;
    close(node, &source).await?;
    retry(|| node.csi.delete(&source.id)).await.context("the source")?;
    node.stop().await?;
    restart(node, false).await
}
