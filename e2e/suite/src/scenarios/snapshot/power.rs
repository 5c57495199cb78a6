//! Power cuts while snapshots are taken and volumes are restored and cloned: what was answered OK is there, with the
//! bytes of its source, and what was not is completed by the repeated call.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use quarry_vm::PowerCut;

use super::contents::{Contents, contents, fill};
use crate::csi::{Ask, MIB, Made, retry};
use crate::node::{Node, device};
use crate::random::Random;
use crate::scenario::{Context, Passed};
use crate::scenarios::steps::{close, open};

/// When the power goes.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// While CreateSnapshot is under way.
    Snapshot,
    /// As soon as its OK has arrived.
    Taken,
    /// While a volume is filled from the snapshot.
    Restore,
    /// As soon as its OK has arrived.
    Restored,
    /// While a volume is cloned.
    Clone,
    /// While the snapshot is deleted.
    Delete,
}

const MOMENTS: [Moment; 6] =
    [Moment::Snapshot, Moment::Taken, Moment::Restore, Moment::Restored, Moment::Clone, Moment::Delete];

const DISKS: [u64; 2] = [700 << 20; 2];

/// Thick volumes.
pub async fn run(context: Context) -> Passed {
    let node = Node::start("power-cut-copies", &DISKS).await?;
    cuts(&context, node).await
}

/// Volumes in a thin pool.
pub async fn in_thin_pool(context: Context) -> Passed {
    let node = Node::on_thin_pool("power-cut-thin", &DISKS).await?;
    cuts(&context, node).await
}

async fn cuts(context: &Context, mut node: Node) -> Passed {
    node.vm.sh(format!("sync; sync {} {}", device("d1"), device("d2"))).await?;
    let asks = [Ask::mount("pvc-ext4", "ext4"), Ask::block("pvc-block"), Ask::mount("pvc-btrfs", "btrfs")];
    let mut random = context.random();
    let (mut cuts, mut answered) = (0, 0);
    for round in 0..if context.settings.soak { 12 } else { 1 } {
        for (index, moment) in MOMENTS.into_iter().enumerate() {
            if !context.settings.slice.has(index + round) {
                continue;
            }
            let ask = asks[usize::try_from(random.below(asks.len() as u64))?].clone();
            let what = format!("{moment:?} of {}", ask.name);
            let began = Instant::now();
            let in_time = one(&mut node, moment, &ask, &mut random).await.with_context(|| what.clone())?;
            let answer = if in_time { "it had been answered" } else { "it had not been answered" };
            context.say(format_args!("round {round}: {what}: {answer} ({:.0} s)", began.elapsed().as_secs_f64()));
            context.count("power cuts", 1);
            (cuts, answered) = (cuts + 1, answered + usize::from(in_time));
        }
    }
    Ok(format!("{cuts} power cuts, {answered} after the answer, 0 violations"))
}

/// Cuts the power once, and finishes the interrupted work. Returns whether it had been answered.
async fn one(node: &mut Node, moment: Moment, ask: &Ask, random: &mut Random) -> Result<bool> {
    let source = retry(|| node.csi.create(ask)).await?;
    open(node, &source).await?;
    fill(node, &source, "first").await?;
    let before = contents(node, &source).await?;
    node.vm.sh("sync -f /var/lib/kubelet").await?;
    let mut copy = ask.clone().named("pvc-copy");
    if !matches!(moment, Moment::Snapshot | Moment::Taken | Moment::Clone) {
        let taken = retry(|| node.csi.snapshot("snap-1", &source.id)).await?;
        fill(node, &source, "second").await?;
        copy = copy.size(source.size + 32 * MIB).filled_from_snapshot(&taken.snapshot_id);
    } else {
        copy = copy.filled_from_volume(&source);
    }
    let after = contents(node, &source).await?;
    let (csi, made, asked) = (node.csi.clone(), source.clone(), copy.clone());
    let call = tokio::spawn(async move {
        match moment {
            Moment::Snapshot | Moment::Taken => csi.snapshot("snap-1", &made.id).await.map(drop),
            Moment::Restore | Moment::Restored | Moment::Clone => csi.create(&asked).await.map(drop),
            Moment::Delete => {
                csi.delete_snapshot(&made.id.replace("v1:", "s1:").replace(&made.ask.name, "snap-1")).await
            }
        }
    });
    let in_time = match moment {
        Moment::Taken | Moment::Restored => {
            call.await??;
            // Everything that was not flushed is lost.
            node.vm.power_cut_with(PowerCut::LoseAll).await?;
            true
        }
        _ => {
            tokio::time::sleep(Duration::from_millis(random.below(4000))).await;
            node.vm.power_cut_with(PowerCut::LoseAll).await?;
            call.await?.is_ok()
        }
    };
    node.lost_power();
    node.vm.boot_again().await?;
    node.serve().await.context("after the power cut")?;
    node.vm.sh(node.storage.check()).await.context("the storage is damaged")?;
    open(node, &source).await.context("the source after the power cut")?;
    after.check(node, &source).await.context("the source after the power cut")?;
    finish(node, moment, in_time, &source, &copy, &before, &after).await?;
    close(node, &source).await?;
    for snapshot in node.csi.snapshots().await? {
        retry(|| node.csi.delete_snapshot(&snapshot.snapshot_id)).await?;
    }
    retry(|| node.csi.delete(&source.id)).await?;
    node.expect_empty().await?;
    Ok(in_time)
}

/// Repeats the interrupted call, as its caller does, and checks what is there.
async fn finish(
    node: &Node,
    moment: Moment,
    in_time: bool,
    source: &Made,
    copy: &Ask,
    before: &Contents,
    after: &Contents,
) -> Result<()> {
    let found = node.csi.snapshots().await?;
    if in_time && matches!(moment, Moment::Taken | Moment::Snapshot) {
        ensure!(found.len() == 1 && found[0].ready_to_use, "the snapshot was answered OK, and there is {found:?}");
    }
    let (ask, expected) = match moment {
        Moment::Snapshot | Moment::Taken => {
            let taken = retry(|| node.csi.snapshot("snap-1", &source.id)).await.context("CreateSnapshot again")?;
            let found = node.csi.snapshots().await?;
            ensure!(found.len() == 1 && found[0].snapshot_id == taken.snapshot_id, "{found:?}");
            (copy.clone().filled_from_snapshot(&taken.snapshot_id), before)
        }
        Moment::Clone => (copy.clone(), after),
        Moment::Restore | Moment::Restored => (copy.clone(), before),
        Moment::Delete => {
            let id = source.id.replace("v1:", "s1:").replace(&source.ask.name, "snap-1");
            return retry(|| node.csi.delete_snapshot(&id)).await.map_err(Into::into);
        }
    };
    if matches!(moment, Moment::Restored) {
        let listed = node.csi.list().await?;
        ensure!(listed.len() == 2, "the volume was answered OK, and there is {listed:?}");
    }
    let made = retry(|| node.csi.create(&ask)).await.context("CreateVolume after the power cut")?;
    open(node, &made).await?;
    expected.check(node, &made).await.context("the copy")?;
    close(node, &made).await?;
    retry(|| node.csi.delete(&made.id)).await.map_err(Into::into)
}
