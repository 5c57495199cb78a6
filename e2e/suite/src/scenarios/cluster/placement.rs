//! Volumes are created on the requested node, every controller knows where each volume is, and a volume that
//! fits nowhere is rejected with the free space of each node.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use quarry_proto::csi::v1 as csi;
use tonic::Code;

use crate::cluster::{Cluster, PATIENCE, eventually};
use crate::controller::Controller;
use crate::csi::{Ask, MIB, Made, TOPOLOGY, refused};
use crate::scenario::{Context, Passed};
use crate::scenarios::steps;

/// The middle node has the most.
const SIZES: [u64; 3] = [1 << 30, 2 << 30, 512 << 20];
/// For so long a change from outside may go unnoticed.
const OUTSIDE: Duration = Duration::from_secs(10);

pub async fn run(context: Context) -> Passed {
    let cluster = Cluster::start("placement", &SIZES).await?;
    let mut one = cluster.controller(1, "--chooser /run/quarry/chooser").await?;
    let mut two = cluster.controller(2, "--chooser /run/quarry/chooser").await?;
    one.connected(3).await?;
    two.connected(3).await?;
    context.say("three nodes are connected to two controllers");
    let made = placed(&cluster, &one).await.context("where volumes go")?;
    listed(&one, &made).await.context("the list")?;
    free(&cluster, &one).await.context("the free space")?;
    nowhere(&one).await.context("volumes that fit nowhere")?;
    used(&cluster, &made).await.context("the volumes in use")?;
    for made in &made {
        one.csi.delete(&made.id).await?;
        one.csi.delete(&made.id).await?;
    }
    cluster.expect_empty().await?;
    let outside = by_hand(&cluster, &one).await.context("changes by hand")?;
    let through = replicas(&one, &two).await.context("changes through the other controller")?;
    cluster.expect_empty().await?;
    one.stop().await?;
    two.stop().await?;
    Ok(format!(
        "{} volumes placed; a change by hand seen after {:.1} s, one through another controller after {:.2} s",
        made.len(),
        outside.as_secs_f64(),
        through.as_secs_f64()
    ))
}

async fn placed(cluster: &Cluster, controller: &Controller) -> Result<Vec<Made>> {
    let csi = &controller.csi;
    let all = ["n1", "n2", "n3"];
    let mut made = Vec::new();
    for (ask, node) in [
        (Ask::mount("strict-1", "ext4").on("n1"), "n1"),
        (Ask::mount("strict-2", "xfs").on("n2"), "n2"),
        (Ask::block("strict-3").on("n3"), "n3"),
        (Ask::mount("preferred", "ext4").among(&all).preferring(&["n3", "n1", "n2"]), "n3"),
        (Ask::block("only-preferred").preferring(&["n1"]), "n1"),
        // The node that is preferred is too small, and the next one takes it.
        (Ask::mount("next", "ext4").size(800 * MIB).among(&all).preferring(&["n3", "n1", "n2"]), "n1"),
        (Ask::mount("anywhere", "ext4"), "n2"),
        (Ask::mount("among", "ext4").among(&["n1", "n3"]), "n1 n3"),
    ] {
        let name = ask.name.clone();
        let volume = csi.create(&ask).await.with_context(|| format!("creating {name}"))?;
        ensure!(node.contains(&volume.node) && !volume.node.is_empty(), "{name} is on {:?}, not {node}", volume.node);
        let again = csi.create(&ask).await?;
        ensure!(again.id == volume.id && again.node == volume.node, "{name} again is {again:?}, and was {volume:?}");
        let holders = cluster.holders(&name).await?;
        ensure!(holders == [volume.node.clone()], "{name} is on {holders:?}, not on {}", volume.node);
        made.push(volume);
    }
    Ok(made)
}

/// All volumes are listed once, with their nodes, in pages of any size.
async fn listed(controller: &Controller, made: &[Made]) -> Result<()> {
    let mut expected: Vec<(String, String)> = made.iter().map(|made| (made.id.clone(), made.node.clone())).collect();
    expected.sort();
    for most in [0, 3, 1] {
        let (mut found, mut token) = (Vec::new(), String::new());
        loop {
            let request = csi::ListVolumesRequest { max_entries: most, starting_token: token };
            let answer = controller.csi.controller().list_volumes(request).await?.into_inner();
            for volume in answer.entries.into_iter().filter_map(|entry| entry.volume) {
                let node = volume.accessible_topology.first().and_then(|at| at.segments.get(TOPOLOGY)).cloned();
                found.push((volume.volume_id, node.unwrap_or_default()));
            }
            token = answer.next_token;
            if token.is_empty() {
                break;
            }
        }
        found.sort();
        ensure!(found == expected, "pages of {most}: {found:?} are listed, not {expected:?}");
    }
    Ok(())
}

/// The capacity of each node is what lvm says, and that of all is their sum.
async fn free(cluster: &Cluster, controller: &Controller) -> Result<()> {
    let class = Default::default();
    let mut sum = 0;
    for (index, node) in cluster.nodes.iter().enumerate() {
        let name = format!("n{}", index + 1);
        let by_lvm = node.vm.sh("vgs --noheadings --units b --nosuffix -o vg_free vg0").await?;
        let by_lvm: i64 = by_lvm.trim().parse().with_context(|| by_lvm.clone())?;
        let (available, largest) = controller.csi.capacity_of(Some(&name), &class).await?;
        ensure!(available == by_lvm && largest <= available, "{name}: {available}, largest {largest}; lvm: {by_lvm}");
        sum += available;
    }
    let (all, _) = controller.csi.capacity(&class).await?;
    ensure!(all == sum, "all nodes have {all} free, and one by one {sum}");
    let unknown_node = controller.csi.capacity_of(Some("n9"), &class).await?;
    ensure!(unknown_node.0 == 0, "a node that does not exist has {} free", unknown_node.0);
    Ok(())
}

async fn nowhere(controller: &Controller) -> Result<()> {
    let csi = &controller.csi;
    let size =
        |node: &'static str| async move { anyhow::Ok(csi.capacity_of(Some(node), &Default::default()).await?.1) };
    let huge = Ask::mount("huge", "ext4").size(8 << 30);
    let strict = csi.create(&huge.clone().on("n3")).await;
    refused("one node", strict, Code::ResourceExhausted, "n3")?;
    let answer = csi.create(&huge.clone().among(&["n1", "n3"])).await;
    for (node, name) in [(size("n1").await?, "n1"), (size("n3").await?, "n3")] {
        refused("two nodes", answer.clone(), Code::ResourceExhausted, &format!("{name}: {node} bytes"))?;
    }
    let message = answer.err().map(|status| status.message().to_owned()).unwrap_or_default();
    ensure!(!message.contains("n2"), "a node that is not admitted is named: {message}");
    let answer = csi.create(&huge).await;
    for name in ["n1", "n2", "n3"] {
        refused("no node named", answer.clone(), Code::ResourceExhausted, &format!("{name}: "))?;
    }
    refused("a node unknown", csi.create(&Ask::mount("lost", "ext4").on("n9")).await, Code::Unavailable, "n9")
}

/// Each volume is staged, published, written and read on its node, and on no other.
async fn used(cluster: &Cluster, made: &[Made]) -> Result<()> {
    for made in made {
        let node = cluster.of(made)?;
        steps::open(node, made).await?;
        steps::write(node, made).await?;
        steps::close(node, made).await?;
        steps::open(node, made).await?;
        steps::read(node, made).await?;
        steps::close(node, made).await?;
    }
    let made = &made[0];
    let other = cluster.node("n3")?;
    other.kubelet_folders(made).await?;
    let elsewhere = other.csi.stage(made).await;
    ensure!(elsewhere.is_err(), "a volume of {} was staged on n3", made.node);
    Ok(())
}

/// Changes made by hand on a node show in the controller.
async fn by_hand(cluster: &Cluster, controller: &Controller) -> Result<Duration> {
    let node = cluster.node("n1")?;
    let free = || async { anyhow::Ok(controller.csi.capacity_of(Some("n1"), &Default::default()).await?.0) };
    let before = free().await?;
    node.vm.sh("lvcreate -qq -y -Wn -Zn -an -n somebodys -L 64M vg0").await?;
    let seen = eventually("lvcreate by hand", OUTSIDE, || async { Ok(free().await? == before - 64 * MIB) }).await?;
    node.vm.sh("lvremove -qq -y vg0/somebodys").await?;
    let gone = eventually("lvremove by hand", OUTSIDE, || async { Ok(free().await? == before) }).await?;
    Ok(seen.max(gone))
}

/// A change through one controller shows in its very next answer, and in the other's soon after.
async fn replicas(one: &Controller, two: &Controller) -> Result<Duration> {
    let free =
        |csi: crate::csi::Csi| async move { anyhow::Ok(csi.capacity_of(Some("n2"), &Default::default()).await?.0) };
    let mut slowest = Duration::ZERO;
    for round in 0..5 {
        let before = free(one.csi.clone()).await?;
        let made = one.csi.create(&Ask::mount(&format!("round-{round}"), "ext4").on("n2")).await?;
        let began = Instant::now();
        let after = free(one.csi.clone()).await?;
        ensure!(after == before - made.size, "free: {before}, and after {} were taken: {after}", made.size);
        ensure!(one.csi.list().await?.iter().any(|volume| volume.volume_id == made.id), "not listed where it was made");
        let there = |present: bool| {
            let (id, csi) = (made.id.clone(), two.csi.clone());
            move || {
                let (id, csi) = (id.clone(), csi.clone());
                async move { Ok(csi.list().await?.iter().any(|volume| volume.volume_id == id) == present) }
            }
        };
        eventually("the other controller lists it", PATIENCE, there(true)).await?;
        ensure!(free(two.csi.clone()).await? == after, "the other controller lists it, and its room is wrong");
        slowest = slowest.max(began.elapsed());

        one.csi.delete(&made.id).await?;
        let began = Instant::now();
        ensure!(free(one.csi.clone()).await? == before, "not free after the delete");
        ensure!(!one.csi.list().await?.iter().any(|volume| volume.volume_id == made.id), "listed after the delete");
        eventually("the other controller lists it no more", PATIENCE, there(false)).await?;
        slowest = slowest.max(began.elapsed());
    }
    // A second is promised; the machine that runs this may be slow.
    ensure!(slowest < Duration::from_secs(5), "the other controller saw a change after {slowest:?}");
    Ok(slowest)
}
