//! The same kills on whole disks: an interrupted claim, wipe or release is completed, or has no effect.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use quarry_vm::{Bus, Disk};

use super::alone::Undisturbed;
use super::broken::{adopt, disable, expect_violation};
use super::tree::TreeKills;
use super::{Course, Life, Step, sweep};
use crate::csi::{Ask, MIB};
use crate::node::Node;
use crate::random::Random;
use crate::scenario::{Context, Passed};
use crate::scenarios::steps::checksum;

/// A disk that is not Quarry's.
const FOREIGN: &str = "foreign";

/// A node with small disks of every kind, one of which holds a foreign filesystem.
async fn node(name: &str) -> Result<Node> {
    const MIB: u64 = 1 << 20;
    let disks = vec![
        // The volumes of the sweep are on these two.
        Disk::new("d1", 16 * MIB).bus(Bus::Scsi),
        Disk::new("d2", 48 * MIB).bus(Bus::Nvme).block_size(4096),
        Disk::new("d3", 52 * MIB).bus(Bus::Nvme),
        Disk::new("d4", 140 * MIB).block_size(4096),
        Disk::new("d5", 310 * MIB).bus(Bus::Scsi),
        Disk::new(FOREIGN, 40 * MIB),
    ];
    let mut node = Node::on_disks(name, disks).await?;
    node.vm.sh(format!("mkfs.ext4 -q {0}; sync {0}; udevadm settle", foreign_disk())).await?;
    node.ignore_existing_content().await?;
    node.serve().await?;
    Ok(node)
}

fn foreign_disk() -> String {
    Disk::new(FOREIGN, 0).path()
}

/// Runs `work`, and fails unless the foreign disk has the same bytes afterwards.
async fn next_to_a_foreign_disk(node: &mut Node, work: impl AsyncFnOnce(&mut Node) -> Passed) -> Passed {
    let before = checksum(node, &foreign_disk()).await?;
    let passed = work(node).await?;
    let after = checksum(node, &foreign_disk()).await?;
    ensure!(before == after, "the bytes of a foreign disk were changed");
    Ok(format!("{passed}, a foreign disk untouched"))
}

/// At every fault point.
pub async fn points(context: Context) -> Passed {
    let mut node = node("disk-kill").await?;
    let kinds = [
        (Ask::block("pvc-block").size(8 * MIB), Course::Whole, 2),
        (Ask::mount("pvc-ext4", "ext4").size(36 * MIB), Course::Whole, 3),
    ];
    let passed = next_to_a_foreign_disk(&mut node, async |node| sweep::sweep(&context, node, kinds).await).await?;
    adopt(&mut node).await.context("without the adoption of an interrupted stage")?;
    unmarked(&mut node).await.context("without the mark that a claim is being released")?;
    Ok(format!("{passed}; 2 broken variants, 2 caught"))
}

/// A claim that does not say that it is being released stays, although its deletion was answered OK.
async fn unmarked(node: &mut Node) -> Result<()> {
    let mut plan = Undisturbed;
    let mut life = Life::new(node, &mut plan, Ask::mount("pvc-unmarked", "ext4"));
    life.step_without_kill(Step::Create).await?;
    disable(life.node, "claim-release-mark", true).await?;
    expect_violation(life.step_without_kill(Step::Delete).await, "left behind")?;
    disable(life.node, "claim-release-mark", false).await?;
    life.step_without_kill(Step::Delete).await?;
    life.node.expect_empty().await
}

/// With all children of quarry, some time after it started to claim, to create a filesystem, or to release.
pub async fn tree(context: Context) -> Passed {
    let mut node = node("disk-kill-tree").await?;
    next_to_a_foreign_disk(&mut node, async |node| trees(&context, node).await).await
}

async fn trees(context: &Context, node: &mut Node) -> Passed {
    let mut random = context.random();
    let mut tree_kills = TreeKills::default();
    // The steps of a claim: its first write, its commit; the wipe of earlier data; the record that the volume
    // is ready.
    let creates =
        ["claim:write record:before", "claim:write protective MBR:before", "device:zero:before", "exec:blkid:before"];
    let deletes = [
        "disk:drop partition 2:before",
        "claim:write record:before",
        "device:zero:before",
        "claim:flush primary table away:before",
    ];
    for round in 0..if context.settings.soak { 40 } else { 2 } {
        if !context.settings.slice.has(round) {
            continue;
        }
        for (ask, mkfs, seconds) in [
            (Ask::block("pvc-block").size(8 * MIB), None, 0.0),
            (Ask::mount("pvc-ext4", "ext4"), Some("mkfs.ext4"), 0.2),
            (Ask::mount("pvc-btrfs", "btrfs"), Some("mkfs.btrfs"), 0.3),
            (Ask::mount("pvc-xfs", "xfs"), Some("mkfs.xfs"), 0.3),
        ] {
            // A sample has two kinds in each round.
            if !context.settings.soak && random.below(2) == 0 && round > 0 {
                continue;
            }
            let mut pick = |markers: [&str; 4]| {
                let index = usize::try_from(random.below(4)).context("an index")?;
                Ok::<_, anyhow::Error>((markers[index].to_owned(), 0.1))
            };
            let mut markers = BTreeMap::from([(Step::Create, pick(creates)?), (Step::Delete, pick(deletes)?)]);
            if let Some(mkfs) = mkfs {
                markers.insert(Step::Stage, (format!("exec:{mkfs}:before"), seconds));
            }
            tree_kills.live(node, Random::new(random.next()), ask, markers, Course::Whole).await?;
        }
    }
    context.count("trees killed", tree_kills.kills());
    context.say(tree_kills.within());
    Ok(format!("{}, 0 violations", tree_kills.figures()?))
}
