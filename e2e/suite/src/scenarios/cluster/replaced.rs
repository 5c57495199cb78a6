//! A node whose identity changed: the same name with other disks, or another node's address. Nothing is
//! created or deleted on the wrong node.

use anyhow::{Context as _, Result, ensure};
use quarry_proto::csi::v1 as csi;
use quarry_vm::Disk;
use tonic::Code;

use crate::cluster::{Cluster, PATIENCE, eventually};
use crate::controller::Controller;
use crate::csi::{Ask, MIB, Made, refused};
use crate::node::{GROUP, device};
use crate::scenario::{Context, Passed};
use crate::scenarios::steps;

const DISK: u64 = 512 << 20;
/// The disk that comes in its place.
const OTHER: u64 = 1 << 30;

pub async fn run(context: Context) -> Passed {
    let mut cluster = Cluster::start("replaced", &[DISK; 2]).await?;
    let mut controller = cluster.only_controller().await?;
    disks(&mut cluster, &controller).await.context("other disks under the same name")?;
    context.say("other disks: no volume was mistaken for another");
    addresses(&mut cluster, &controller).await.context("exchanged addresses")?;
    controller.stop().await?;
    cluster.expect_empty().await?;
    Ok(String::new())
}

/// The first node gets another disk whose volume group has the same name, and then its own disk back.
async fn disks(cluster: &mut Cluster, controller: &Controller) -> Result<()> {
    let calls = &controller.csi;
    let old = calls.create(&Ask::mount("data", "ext4").on("n1")).await?;
    steps::open(cluster.of(&old)?, &old).await?;
    steps::write(cluster.of(&old)?, &old).await?;
    steps::close(cluster.of(&old)?, &old).await?;
    let gone = calls.create(&Ask::mount("gone", "ext4").on("n1")).await?;

    let node = &mut cluster.nodes[0];
    node.stop().await?;
    node.vm.power_off().await?;
    let disk = node.vm.take_disk("d1").await?;
    node.vm.add_disks(vec![Disk::new("d1", OTHER)]).await?;
    node.vm.boot_again().await?;
    node.vm.sh(format!("vgcreate -qq {GROUP} {}", device("d1"))).await?;
    node.serve().await?;
    controller.connected(2).await?;

    let (free, _) = calls.capacity_of(Some("n1"), &Default::default()).await?;
    ensure!(free > 900 * MIB, "the capacity is not that of the new disks: {free}");
    ensure!(calls.list().await?.is_empty(), "volumes are listed of disks that are not there");
    let new = calls.create(&old.ask).await?;
    ensure!(new.id != old.id && new.node == "n1", "the new volume is {new:?}, the old one was {old:?}");
    steps::open(cluster.of(&new)?, &new).await?;
    steps::write(cluster.of(&new)?, &new).await?;
    for made in [&old, &gone] {
        refused("delete", calls.delete(&made.id).await, Code::Unavailable, "n1")?;
        refused("look-up", look_up(controller, made).await, Code::Unavailable, "n1")?;
        refused("stage", cluster.of(made)?.csi.stage(made).await, Code::Unavailable, "")?;
    }
    // Also once it is unused.
    steps::close(cluster.of(&new)?, &new).await?;
    refused("delete", calls.delete(&old.id).await, Code::Unavailable, "n1")?;
    steps::open(cluster.of(&new)?, &new).await?;
    steps::read(cluster.of(&new)?, &new).await?;
    steps::close(cluster.of(&new)?, &new).await?;
    let listed: Vec<String> = calls.list().await?.into_iter().map(|volume| volume.volume_id).collect();
    ensure!(listed == [new.id.clone()], "listed: {listed:?}");

    let node = &mut cluster.nodes[0];
    node.stop().await?;
    node.vm.power_off().await?;
    let other = node.vm.take_disk("d1").await?;
    node.vm.insert_disk(disk).await?;
    node.vm.boot_again().await?;
    node.serve().await?;
    controller.connected(2).await?;
    refused("delete of what went", calls.delete(&new.id).await, Code::Unavailable, "n1")?;
    steps::open(cluster.of(&old)?, &old).await?;
    steps::read(cluster.of(&old)?, &old).await?;
    steps::close(cluster.of(&old)?, &old).await?;
    drop(other);
    for made in [&old, &gone] {
        calls.delete(&made.id).await?;
    }
    cluster.expect_empty().await
}

async fn look_up(controller: &Controller, made: &Made) -> Result<(), tonic::Status> {
    let request = csi::ControllerGetVolumeRequest { volume_id: made.id.clone() };
    controller.csi.controller().controller_get_volume(request).await.map(drop)
}

/// Two nodes exchange their addresses, and the controller is not informed.
async fn addresses(cluster: &mut Cluster, controller: &Controller) -> Result<()> {
    let calls = &controller.csi;
    // Of one name on both, so that the wrong node has something to delete.
    let (one, two) = (
        calls.create(&Ask::mount("twin", "ext4").on("n1")).await?,
        calls.create(&Ask::mount("twin", "ext4").on("n2")).await?,
    );
    let (first, second) = cluster.nodes.split_at_mut(1);
    first[0].vm.swap_addresses(&mut second[0].vm).await?;
    // While the controller finds out, and when it has.
    for round in 0..2 {
        for (made, node) in [(&one, "n1"), (&two, "n2")] {
            refused("delete", calls.delete(&made.id).await, Code::Unavailable, node)?;
            let new = Ask::mount(&format!("stray-{round}-{node}"), "ext4").on(node);
            refused("create", calls.create(&new).await, Code::Unavailable, node)?;
        }
        let either = Ask::mount(&format!("either-{round}"), "ext4");
        refused("create anywhere", calls.create(&either).await, Code::Unavailable, "n")?;
        controller.connected(0).await?;
        eventually("the controller has met the wrong node", PATIENCE, || async {
            let answer = calls.delete(&one.id).await;
            Ok(answer.is_err_and(|status| status.message().contains("address")))
        })
        .await?;
    }
    ensure!(cluster.holders("twin").await? == ["n1", "n2"], "the twins are on {:?}", cluster.holders("twin").await?);
    for node in &cluster.nodes {
        let volumes = node.contents().await?;
        ensure!(volumes.lines().count() == 1, "something was made on the wrong node:\n{volumes}");
    }

    cluster.list_agents(&cluster.addresses()).await?;
    controller.connected(2).await?;
    calls.delete(&one.id).await?;
    ensure!(cluster.holders("twin").await? == ["n2"], "the twins are on {:?}", cluster.holders("twin").await?);
    calls.delete(&two.id).await.map_err(Into::into)
}
