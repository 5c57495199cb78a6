//! Others change the volume group all the time while quarry reads it, creates and deletes volumes. Each read without lvm
//! is compared with lvm's report, see [`crate::notes`].

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use quarry_vm::Command;

use crate::csi::{Ask, retry};
use crate::node::Node;
use crate::scenario::{Context, Passed};
use crate::scenarios::steps::offered;

/// For how long the volume group is changed.
const TIME: Duration = Duration::from_secs(90);
/// What others do to it. They pause, because a comparison takes longer than a change.
const CHANGES: &str = "while test ! -e /run/enough; do \
    lvcreate -qq -y -n other -l 3 --addtag others vg0 && sleep 2 && lvcreate -qq -y -n lines -i 2 -l 4 -W n -Z n vg0 && \
    lvchange -qq -a n vg0/other && sleep 2 && lvextend -qq -l +2 vg0/other && lvchange -qq -a y vg0/other && \
    lvchange -qq --addtag 'more#1' vg0/lines && vgchange -qq --addtag everything vg0 && sleep 2 && \
    lvcreate -qq -y -s -n snap -l 1 vg0/lines && lvremove -qq -y vg0/snap && lvrename -qq vg0/lines vg0/stripes && sleep 2 && \
    lvremove -qq -y vg0/other vg0/stripes && vgchange -qq --deltag everything vg0 || exit; echo >> /run/rounds; done";

pub async fn run(_: Context) -> Passed {
    let mut node = Node::start("changes", &[512 << 20, 512 << 20]).await?;
    let (free, _) = node.csi.capacity(&Default::default()).await?;
    let mut others = node
        .vm
        .spawn(Command::sh(CHANGES).env("LC_ALL", "C").timeout(4 * TIME))
        .await
        .context("the others' changes")?;
    let began = Instant::now();
    let mut lives = 0;
    while began.elapsed() < TIME {
        let ask = Ask::mount(&format!("volume-{lives}"), "ext4");
        let made = retry(|| node.csi.create(&ask)).await?;
        let listed = node.csi.list().await?;
        ensure!(listed.iter().map(|volume| &volume.volume_id).eq([&made.id]), "{} is listed as {listed:?}", made.id);
        let (now, _) = node.csi.capacity(&Default::default()).await?;
        ensure!(now < free, "{now} bytes are free with a volume and {free} without");
        retry(|| node.csi.delete(&made.id)).await?;
        lives += 1;
    }
    node.vm.sh("touch /run/enough").await?;
    let ended = others.wait().await?;
    ensure!(ended.exit.success(), "the others' changes failed: {}", String::from_utf8_lossy(&ended.stderr));
    offered(&node, free).await.context("after all changes")?;
    let rounds = node.vm.sh("wc -l < /run/rounds").await?;
    let (alone, with_lvm) = reads(&node).await?;
    ensure!(alone > lives, "{alone} reads without lvm in the lives of {lives} volumes");
    node.expect_empty().await?;
    node.stop().await?;
    Ok(format!(
        "{lives} volumes created and deleted while others made {} rounds of 12 changes; read {alone} times without lvm, \
         {with_lvm}",
        rounds.trim()
    ))
}

/// How often quarry read the volume group without lvm, and why it needed lvm for the others.
async fn reads(node: &Node) -> Result<(u64, String)> {
    let (status, text) = node.http("/metrics").await?;
    if status != 200 {
        bail!("/metrics answered {status}: {text}");
    }
    let sample = |line: &str| {
        let (reason, count) = line.strip_prefix("quarry_volume_group_reads_total{reason=\"")?.split_once("\"} ")?;
        Some((reason.to_owned(), count.parse::<f64>().ok()?.round() as u64))
    };
    let samples: Vec<(String, u64)> = text.lines().filter_map(sample).collect();
    let alone = samples.iter().find(|(reason, _)| reason.is_empty()).map_or(0, |(_, count)| *count);
    let others = samples.iter().filter(|(reason, _)| !reason.is_empty());
    let others: Vec<String> = others.map(|(reason, count)| format!("{count} with lvm ({reason})")).collect();
    Ok((alone, others.join(", ")))
}
