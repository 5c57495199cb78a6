//! The same kills while quarry creates thin pools, and extends one that becomes full.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use quarry_vm::{Config, Disk, Vm};

use super::{disarm, forget_points, points, was_killed};
use crate::csi::{Ask, MIB, Made, retry};
use crate::node::{GROUP, Node};
use crate::random::Random;
use crate::scenario::{Context, Passed};
use crate::scenarios::steps::{close, open, until};

const DISK: u64 = 400 << 20;
/// The size of a pool's data.
const POOL: i64 = 64 * MIB;
/// What is written to a volume: the pool is extended when 60 % are used.
const WRITTEN: i64 = 48 * MIB;
/// A pool is looked at every ten seconds, and a failed step is repeated after a minute.
const DONE: Duration = Duration::from_secs(150);
/// How many points of each phase a sample tries.
const SAMPLE: usize = 3;
/// The pools, which are created at the same time.
const POOLS: [&str; 2] = ["thin", "mirrored"];

/// What quarry does by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Create,
    Extend,
}

/// The kill in one life of the pools: the phase, and the fault point in it, counted from 1.
type Kill = Option<(Phase, u64)>;

pub async fn points_of_pools(context: Context) -> Passed {
    let config = Config::new("kill-thin-pool").disk(Disk::new("d1", DISK)).disk(Disk::new("d2", DISK));
    let mut node = Node::with_vm(Vm::start(config).await?, 2).await?;
    let pool = |name: &str, more: &str| {
        let thin = format!("{{name: {name}, create: true, size: {POOL}, {more}}}");
        format!("  - name: {name}\n    lvm: {{volumeGroup: {GROUP}, thinPool: {thin}}}\n")
    };
    let (thin, mirrored) = (pool("thin", "extend: {at: 60, by: 100}"), pool("mirrored", "layout: raid1"));
    node.configure(&format!("pools:\n  - name: main\n    lvm: {{volumeGroup: {GROUP}}}\n{thin}{mirrored}")).await?;
    // Quarry waits for the volume group.
    node.vm.sh(format!("vgremove -qq -y {GROUP} && sync")).await?;
    node.serve().await?;

    let mut random = context.random();
    let mut exist = [0; 2];
    live(&mut node, None, &mut exist).await.context("undisturbed")?;
    ensure!(exist.iter().all(|&exist| exist > 0), "no fault points were passed; was quarry built with them?");
    let (mut kills, mut missed) = (0, 0);
    for (phase, exist) in [Phase::Create, Phase::Extend].into_iter().zip(exist) {
        for point in chosen(&context, &mut random, exist) {
            let killed = live(&mut node, Some((phase, point)), &mut [0; 2]).await;
            // Reports for other reasons pass points as well, so their number is not the same each time.
            *if killed.with_context(|| format!("{phase:?}, killed at point {point}"))? {
                &mut kills
            } else {
                &mut missed
            } += 1;
        }
    }
    ensure!(kills > 0, "quarry was never killed");
    context.count("kill points", kills);
    let [create, extend] = exist;
    Ok(format!(
        "{kills} kills ({missed} missed) at {create} points of creation and {extend} of extension, 0 violations"
    ))
}

/// The points of a phase that are tried: a sample, or all of this slice.
fn chosen(context: &Context, random: &mut Random, exist: usize) -> Vec<u64> {
    let slice = context.settings.slice;
    let all = 0..exist;
    let indices: Vec<usize> = match context.settings.soak {
        true => all.filter(|index| slice.has(*index)).collect(),
        false => random.sample(SAMPLE, exist),
    };
    indices.into_iter().map(|index| index as u64 + 1).collect()
}

/// The pools are created in an empty volume group, one becomes full, and all is removed. Returns whether quarry was killed.
async fn live(node: &mut Node, kill: Kill, exist: &mut [usize; 2]) -> Result<bool> {
    let at = |phase| kill.filter(|(killed, _)| *killed == phase).map(|(_, point)| point);
    let mut killed = false;

    forget_points(node, at(Phase::Create)).await?;
    node.vm.sh(format!("vgcreate -q {GROUP} {} && sync", disks())).await?;
    killed |= wait(node, "the pools", async |node: &Node| usable(node).await).await?;
    exist[0] = points(node).await?.len();
    expect_pools(node, POOL).await?;

    let ask = Ask::block("pvc-block").parameter("pool", "thin").size(POOL);
    let made = retry(|| node.csi.create(&ask)).await?;
    open(node, &made).await?;
    forget_points(node, at(Phase::Extend)).await?;
    let target = made.target();
    let bytes = format!("yes 'some bytes' | head -c {WRITTEN}");
    let write = format!("{bytes} | dd of='{target}' bs=1M iflag=fullblock oflag=direct conv=notrunc status=none");
    node.vm.sh(write).await?;
    killed |= wait(node, "the extension", async |node: &Node| Ok(size_of(node, "thin").await? > POOL)).await?;
    exist[1] = points(node).await?.len();
    // Once, and not once more after a kill.
    expect_pools(node, 2 * POOL).await?;
    node.vm.sh(format!("{bytes} | cmp -n {WRITTEN} - '{target}'")).await.context("what was written is not there")?;
    remove_volume(node, &made).await?;
    remove_group(node).await?;
    Ok(killed)
}

/// Waits until quarry has done it. If it is killed at the armed point before that, it is started again. Returns whether it
/// was killed.
async fn wait(node: &mut Node, what: &str, done: impl AsyncFn(&Node) -> Result<bool>) -> Result<bool> {
    until(what, DONE, async || Ok(was_killed(node).await? || done(node).await?)).await?;
    let armed = disarm(node).await?;
    let killed = was_killed(node).await?;
    if killed {
        node.wait_for_end().await?;
        node.serve().await?;
        until(what, DONE, async || done(node).await).await?;
    } else if armed {
        // A new process counts its points from the beginning.
        node.kill().await?;
        node.serve().await?;
    }
    Ok(killed)
}

fn disks() -> String {
    ["d1", "d2"].map(|disk| format!("/dev/disk/by-id/virtio-{disk}")).join(" ")
}

/// Whether all pools take volumes.
async fn usable(node: &Node) -> Result<bool> {
    for pool in POOLS {
        let class = Ask::block("x").parameter("pool", pool).parameters;
        // While quarry is being killed, there is no answer.
        if node.csi.capacity(&class).await.map_or(0, |(free, _)| free) == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The size of a logical volume in bytes.
async fn size_of(node: &Node, name: &str) -> Result<i64> {
    let size = node.vm.sh(format!("lvs --noheadings --units b --nosuffix -o lv_size {GROUP}/{name}")).await?;
    size.trim().parse().with_context(|| format!("{name} has the size {size:?}"))
}

/// Fails unless the pools are as configured, `thin` with that size, and nothing else is in the volume group.
async fn expect_pools(node: &Node, size: i64) -> Result<()> {
    let report = node
        .vm
        .sh(format!("lvs -a --noheadings --units b --nosuffix -o lv_name,lv_layout,lv_size {GROUP} | tr -s ' '"))
        .await?;
    let mut lines: Vec<&str> = report.lines().map(str::trim).collect();
    let others = ["[mirrored_t", "[thin_tmeta]", "pvc-block "];
    lines.retain(|line| !others.iter().any(|other| line.starts_with(other)));
    lines.sort_unstable();
    let spare = lines.iter().find(|line| line.starts_with("[lvol")).copied().unwrap_or_default();
    let expected = [
        spare.to_owned(),
        format!("[thin_tdata] linear {size}"),
        format!("mirrored thin,pool {POOL}"),
        format!("thin thin,pool {size}"),
    ];
    ensure!(spare.contains("_pmspare]") && lines == expected, "{expected:?} should be there, not\n{report}");
    let suspended = node.vm.sh("grep -l 1 /sys/block/dm-*/dm/suspended 2>/dev/null || true").await?;
    ensure!(suspended.is_empty(), "left suspended: {suspended}");
    Ok(())
}

async fn remove_volume(node: &Node, made: &Made) -> Result<()> {
    close(node, made).await?;
    retry(|| node.csi.delete(&made.id)).await.map_err(Into::into)
}

/// Removes the volume group with its pools, with one command: between two of them, quarry would create a pool again. Then
/// waits until quarry knows it.
async fn remove_group(node: &Node) -> Result<()> {
    node.vm.sh(format!("vgremove -qq -f -y {GROUP} && sync")).await?;
    until("the pools are gone", DONE, async || Ok(!usable(node).await?)).await.map(drop)
}
