//! The same kills while quarry makes a volume group of empty disks, and while it adds a disk to it. At some of the points,
//! the power goes as well.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use quarry_vm::{Disk, PowerCut};

use super::{disarm, forget_points, points, was_killed};
use crate::csi::Ask;
use crate::node::{FAULTS, GROUP, Node, STATE, device};
use crate::random::Random;
use crate::scenario::{Context, Passed};
use crate::scenarios::disk::refused::boot_sector;
use crate::scenarios::group::{SELECT, members, nothing_left};
use crate::scenarios::steps::{close, open, read, until, write};

const DISK: u64 = 400 << 20;
/// Disks are looked at every five seconds, and thin pools every ten; a failed step is repeated after a minute.
const DONE: Duration = Duration::from_secs(240);
/// How many points of each phase a sample tries.
const SAMPLE: usize = 3;
/// What the volume group is made of at first, and what is added.
const FIRST: [&str; 2] = ["d1", "d2"];
const LAST: &str = "d3";

/// What quarry does by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Make,
    Extend,
}

/// How quarry ends at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Kill,
    /// The disks lose all unflushed writes: lvm writes its metadata and the header that points to it without a flush in
    /// between, so a disk that keeps only the second corrupts the volume group.
    PowerCut,
}

/// The end in one life of the volume group: the phase, the fault point in it, counted from 1, and how.
type Kill = Option<(Phase, u64, End)>;

pub async fn points_of_groups(context: Context) -> Passed {
    let disks = FIRST.iter().chain([&LAST]).map(|serial| Disk::new(*serial, DISK)).collect();
    let mut node = Node::on_blank_disks("kill-group", disks).await?;
    let main = format!("  - name: main\n    lvm: {{volumeGroup: {GROUP}, create: {{select: {{{SELECT}}}}}}}\n");
    let thin = format!("{{volumeGroup: {GROUP}, thinPool: {{name: thin, create: true, percent: 40}}}}");
    node.configure(&format!("pools:\n{main}  - name: thin\n    lvm: {thin}\n")).await?;

    node.vm.sh(format!("mkdir -p {FAULTS}")).await?;

    let mut random = context.random();
    let mut exist = [0; 2];
    live(&mut node, None, &mut exist).await.context("undisturbed")?;
    ensure!(exist.iter().all(|&exist| exist > 0), "no fault points were passed; was quarry built with them?");
    let (mut kills, mut cuts, mut missed) = (0, 0, 0);
    for (phase, exist) in [Phase::Make, Phase::Extend].into_iter().zip(exist) {
        for (point, end) in chosen(&context, &mut random, exist) {
            let killed = live(&mut node, Some((phase, point, end)), &mut [0; 2]).await;
            // Reports for other reasons pass points as well, so their number is not the same each time.
            match (killed.with_context(|| format!("{phase:?}, {end:?} at point {point}"))?, end) {
                (false, _) => missed += 1,
                (true, End::Kill) => kills += 1,
                (true, End::PowerCut) => cuts += 1,
            }
        }
    }
    ensure!(kills > 0 && cuts > 0, "{kills} kills, {cuts} power cuts");
    context.count("kill points", kills);
    context.count("power cuts", cuts);
    let [make, extend] = exist;
    Ok(format!(
        "{kills} kills and {cuts} power cuts ({missed} missed) at {make} points of making and {extend} of extending, 0 \
         violations"
    ))
}

/// The points of a phase that are tried, and how: a sample, or all of this slice in both ways.
fn chosen(context: &Context, random: &mut Random, exist: usize) -> Vec<(u64, End)> {
    let slice = context.settings.slice;
    let number = |index: usize| index as u64 + 1;
    match context.settings.soak {
        true => {
            let both = (0..exist).flat_map(|index| [(number(index), End::Kill), (number(index), End::PowerCut)]);
            both.enumerate().filter(|(index, _)| slice.has(*index)).map(|(_, one)| one).collect()
        }
        false => {
            let sample = random.sample(SAMPLE, exist).into_iter().enumerate();
            sample.map(|(turn, index)| (number(index), if turn % 3 == 1 { End::PowerCut } else { End::Kill })).collect()
        }
    }
}

/// The volume group is made of two blank disks, and extended by a third one. Then all is removed. Returns whether quarry
/// was killed.
async fn live(node: &mut Node, kill: Kill, exist: &mut [usize; 2]) -> Result<bool> {
    let at = |phase| kill.filter(|(killed, ..)| *killed == phase).map(|(_, point, end)| (point, end));
    let mut killed = false;

    // A boot sector: it is not free.
    node.vm.sh(boot_sector(&device(LAST))).await?;
    forget_points(node, at(Phase::Make).map(|(point, _)| point)).await?;
    // The first points are passed before it serves.
    if let Err(error) = node.serve().await
        && !was_killed(node).await?
    {
        return Err(error);
    }
    killed |= wait(node, "the pools", at(Phase::Make), async |node: &Node| usable(node).await).await?;
    nothing_left(node).await?;
    exist[0] = points(node).await?.len();
    ensure!(members(node).await? == FIRST, "the volume group has {:?}", members(node).await?);

    let made = node.csi.create(&Ask::mount("pvc-ext4", "ext4").parameter("pool", "main")).await?;
    open(node, &made).await?;
    write(node, &made).await?;
    close(node, &made).await?;
    forget_points(node, at(Phase::Extend).map(|(point, _)| point)).await?;
    let blank =
        format!("dd if=/dev/zero of={} bs=512 count=1 conv=notrunc,fsync status=none; udevadm settle", device(LAST));
    node.vm.sh(blank).await?;
    let extended = async |node: &Node| Ok(members(node).await? == [FIRST[0], FIRST[1], LAST]);
    killed |= wait(node, "the third disk", at(Phase::Extend), extended).await?;
    nothing_left(node).await?;
    exist[1] = points(node).await?.len();
    open(node, &made).await?;
    read(node, &made).await?;
    close(node, &made).await?;
    node.csi.delete(&made.id).await?;
    remove_group(node).await?;
    Ok(killed)
}

/// Waits until quarry has done it. If it is killed at the armed point before that, it is started again, after a power cut
/// if there is one. Returns whether it was killed.
async fn wait(
    node: &mut Node,
    what: &str,
    kill: Option<(u64, End)>,
    done: impl AsyncFn(&Node) -> Result<bool>,
) -> Result<bool> {
    until(what, DONE, async || Ok(was_killed(node).await? || done(node).await?)).await?;
    let armed = disarm(node).await?;
    let killed = was_killed(node).await?;
    if killed {
        node.wait_for_end().await?;
        if let Some((_, End::PowerCut)) = kill {
            node.vm.power_cut_with(PowerCut::LoseAll).await?;
            node.lost_power();
            node.vm.boot_again().await?;
        }
        node.serve().await?;
        if let Err(error) = until(what, DONE, async || done(node).await).await {
            let script = format!("cat {STATE}/volume-groups; pvs -a; lvs -a");
            let state = node.vm.sh(script).await.unwrap_or_default();
            return Err(error.context(format!(
                "{state}\n{}",
                node.http("/readyz").await.map_or_else(|error| error.to_string(), |(_, text)| text)
            )));
        }
    } else if armed {
        // A new process counts its points from the beginning.
        node.kill().await?;
        node.serve().await?;
    }
    Ok(killed)
}

/// Whether both pools take volumes.
async fn usable(node: &Node) -> Result<bool> {
    for pool in ["main", "thin"] {
        let class = Ask::block("x").parameter("pool", pool).parameters;
        // While quarry is being killed, there is no answer.
        if node.csi.capacity(&class).await.map_or(0, |(free, _)| free) == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Removes the volume group, and what is known about it. The disks are flushed, or the power cut of the next life would
/// bring the volume group back: lvm does not flush what it writes, and a plain `sync` flushes no disk that it bypassed.
async fn remove_group(node: &mut Node) -> Result<()> {
    node.stop().await?;
    let disks = FIRST.iter().chain([&LAST]).map(|serial| device(serial)).collect::<Vec<_>>().join(" ");
    node.vm
        .sh(format!("vgremove -qq -f -y {GROUP}; pvremove -qq {disks}; rm {STATE}/volume-groups; sync; sync {disks}"))
        .await
        .map(drop)
}
