//! Many snapshots of one volume.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};

use super::contents::{Contents, changed, contents, fill};
use super::frozen::measured;
use crate::csi::{Ask, MIB, retry};
use crate::node::Node;
use crate::random::Random;
use crate::scenario::{Context, Passed};
use crate::scenarios::steps::{close, open};

const DISK: u64 = 1 << 30;

pub async fn run(context: Context) -> Passed {
    let count = if context.settings.soak { 50 } else { 10 };
    let mut random = context.random();
    let mut node = Node::start("many-snapshots", &[DISK]).await?;
    many(&mut node, count, &mut random).await.context("of a thick volume")?;
    let thick = measured(&mut node, "ext4").await.context("how long a thick volume is frozen")?;
    drop(node);
    context.say(format_args!("{count} of a thick volume: done"));
    let mut node = Node::on_thin_pool("many-thin-snapshots", &[DISK]).await?;
    many(&mut node, count, &mut random).await.context("of a thin volume")?;
    let thin = measured(&mut node, "xfs").await.context("how long a thin volume is frozen")?;
    let frozen = |(waited, frozen): (f64, f64)| format!("a write waited {waited:.2} s, the metric says {frozen:.2} s");
    Ok(format!(
        "{count} snapshots of a thick volume, and as many of a thin one; thick: {}; thin: {}",
        frozen(thick),
        frozen(thin)
    ))
}

/// Takes them, restores one of them, and deletes them in any order.
async fn many(node: &mut Node, count: usize, random: &mut Random) -> Result<()> {
    let ask = Ask::block("pvc-source").size(8 * MIB);
    let source = retry(|| node.csi.create(&ask)).await?;
    open(node, &source).await?;
    let chosen = usize::try_from(random.below(count as u64))?;
    let mut taken = Vec::new();
    let mut expected: Option<Contents> = None;
    for index in 0..count {
        if index == chosen || index == chosen + 1 {
            fill(node, &source, "again").await?;
        }
        let name = format!("snap-{index}");
        let snapshot = retry(|| node.csi.snapshot(&name, &source.id)).await.with_context(|| name.clone())?;
        ensure!(snapshot.ready_to_use, "{snapshot:?}");
        if index == chosen {
            expected = Some(contents(node, &source).await?);
        }
        taken.push(snapshot.snapshot_id);
    }
    let expected = expected.context("a snapshot was chosen")?;
    let now = contents(node, &source).await?;
    ensure!(chosen + 1 == count || changed(&expected, &now), "the test writes nothing else");
    let listed: Vec<String> = node.csi.snapshots().await?.into_iter().map(|found| found.snapshot_id).collect();
    let (set, wanted): (BTreeSet<_>, BTreeSet<_>) = (listed.iter().collect(), taken.iter().collect());
    ensure!(listed.len() == count && set == wanted, "{count} are listed, each once, not {listed:?}");

    // Also after a start.
    node.stop().await?;
    node.serve().await?;
    let ask = source.ask.clone().named("pvc-restored").filled_from_snapshot(&taken[chosen]);
    let restored = retry(|| node.csi.create(&ask)).await?;
    open(node, &restored).await?;
    expected.check(node, &restored).await.with_context(|| format!("snapshot {chosen} of {count}"))?;
    close(node, &restored).await?;
    retry(|| node.csi.delete(&restored.id)).await?;

    for index in random.sample(count, count) {
        let id = &taken[index];
        retry(|| node.csi.delete_snapshot(id)).await.with_context(|| id.clone())?;
    }
    ensure!(node.csi.snapshots().await?.is_empty(), "all are deleted");
    now.check(node, &source).await.context("the source")?;
    close(node, &source).await?;
    retry(|| node.csi.delete(&source.id)).await?;
    node.expect_empty().await
}
