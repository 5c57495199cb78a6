//! Whole disks that appear, disappear, fail, and change their names; and more callers than disks.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::future::join_all;
use quarry_vm::{Bus, Disk, Fault};
use tonic::{Code, Status};

use super::{MIB, capacity, damaged, disk, kernel_name, listed, row};
use crate::csi::{Ask, Made, refused, retry};
use crate::node::Node;
use crate::scenario::{Context, Passed};
use crate::scenarios::steps::{close, offered, open, read, write};

/// How long it may take until a new disk is offered. Without a kernel event, a scan after four seconds finds
/// it.
const NOTICED: Duration = Duration::from_secs(3);
const DISKS: usize = 10;

/// The size of the disk with that number: all differ.
fn size(index: usize) -> u64 {
    (40 + index as u64) * MIB
}

/// The disk with that number; the buses alternate.
fn numbered(index: usize) -> Disk {
    let bus = [Bus::Virtio, Bus::Nvme, Bus::Scsi][index % 3];
    disk(&format!("d{index}"), bus, [512, 4096][index / 3 % 2], size(index))
}

/// A volume that fits only on the disk with that number.
fn on(index: usize, ask: Ask) -> Ask {
    Ask { required: capacity(size(index)), limit: capacity(size(index)), ..ask }
}

async fn create(node: &Node, ask: Ask) -> Result<Made> {
    Ok(retry(|| node.csi.create(&ask)).await?)
}

pub async fn run(context: Context) -> Passed {
    let mut node = Node::on_disks("disk-pulled", (0..DISKS).map(numbered).collect()).await?;
    node.serve().await?;
    let all: i64 = (0..DISKS).map(|index| capacity(size(index))).sum();
    offered(&node, all).await?;

    twice_as_many_callers(&node).await.context("twenty callers for ten disks")?;
    offered(&node, all).await?;
    context.say("20 callers for 10 disks: 10 OK, 10 rejected");
    let noticed = new_disk(&mut node, all).await.context("a new disk")?;
    context.say(format_args!("a new disk was offered after {noticed:.2} s"));
    failing(&mut node, all).await.context("a disk that cannot be read")?;
    context.say("failing disks done");
    let volumes = [
        create(&node, on(3, Ask::mount("pulled-mount", "ext4"))).await?,
        create(&node, on(4, Ask::block("pulled-block"))).await?,
        create(&node, on(5, Ask::mount("pulled-scsi", "ext4"))).await?,
        create(&node, on(6, Ask::mount("swapped-virtio", "ext4"))).await?,
        create(&node, on(7, Ask::mount("swapped-nvme", "ext4"))).await?,
        create(&node, on(8, Ask::block("swapped-scsi"))).await?,
    ];
    let boots = swapped(&mut node, &volumes).await.context("names exchanged at a reboot")?;
    context.say(format_args!("six disks exchanged their names; boots: {boots}"));
    for (index, made) in (3..6).zip(&volumes) {
        pulled(&mut node, &numbered(index), made).await.with_context(|| made.id.clone())?;
        context.say(format_args!("{} unplugged and plugged in again", made.ask.name));
    }
    for (index, made) in [(6, &volumes[3]), (4, &volumes[1])] {
        damaged::published(&node, &numbered(index), made).await.with_context(|| format!("damaged: {}", made.id))?;
    }
    context.say("two claims damaged and repaired while published");
    for made in &volumes {
        node.csi.delete(&made.id).await?;
    }
    node.expect_empty().await?;
    Ok(format!(
        "6 disks exchanged their names, 3 pulled while published, a new one offered after {noticed:.2} s, \
         10 volumes of 20 calls"
    ))
}

/// Every disk is allocated once, and every other caller gets an error because no disk is left.
async fn twice_as_many_callers(node: &Node) -> Result<()> {
    let asks: Vec<Ask> = (0..2 * DISKS).map(|index| Ask::mount(&format!("many-{index}"), "ext4").size(1)).collect();
    let answers = join_all(asks.iter().map(|ask| retry(|| node.csi.create(ask)))).await;
    let (made, refusals): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    let made: Vec<Made> = made.into_iter().collect::<Result<_, Status>>()?;
    let ids: BTreeSet<&str> = made.iter().map(|made| made.id.as_str()).collect();
    ensure!(ids.len() == DISKS && made.len() == DISKS, "{} volumes were made of {DISKS} disks: {ids:?}", made.len());
    for refusal in refusals {
        refused("one too many", refusal, Code::ResourceExhausted, "disk")?;
    }
    let found = node.found().await?;
    ensure!(found.iter().filter(|found| found.volume.is_some()).count() == DISKS, "{}", node.contents().await?);
    let deleted = join_all(made.iter().map(|made| retry(|| node.csi.delete(&made.id)))).await;
    deleted.into_iter().collect::<Result<(), Status>>()?;
    node.expect_empty().await
}

/// A disk is plugged in: how many seconds until it is offered.
async fn new_disk(node: &mut Node, all: i64) -> Result<f64> {
    let new = disk("new", Bus::Virtio, 512, 64 * MIB);
    node.vm.add_disks(vec![new.clone()]).await?;
    let began = Instant::now();
    offered(node, all + capacity(new.size)).await?;
    let noticed = began.elapsed();
    ensure!(noticed < NOTICED, "it was offered after {noticed:?}");
    node.vm.take_disk("new").await?;
    offered(node, all).await.context("after it was removed")?;
    Ok(noticed.as_secs_f64())
}

/// A disk that returns read errors is not allocated, and is reported; the others are used if they are known
/// to be empty.
async fn failing(node: &mut Node, all: i64) -> Result<()> {
    let failing = numbered(0);
    let name = kernel_name(node, &failing).await?;
    node.vm.set_fault(&failing.serial, Fault::Errors)?;
    // The smallest is the one that fails; the next is used.
    let made = create(node, Ask::mount("beside", "ext4").size(1)).await?;
    ensure!(made.size == capacity(size(1)), "{} bytes: which disk is that?\n{}", made.size, node.contents().await?);
    named(node, &name).await?;
    let table = listed(node).await?;
    let row = row(&table, &name);
    ensure!(row.contains("cannot read") && !row.contains(" free "), "{name} is listed as {row:?}:\n{table}");
    node.csi.delete(&made.id).await?;
    offered(node, all - capacity(failing.size)).await?;

    // The content of a disk that was never read is unknown.
    node.stop().await?;
    node.serve().await?;
    named(node, &name).await?;
    let beside = node.csi.create(&Ask::mount("beside", "ext4").size(1)).await;
    refused("create next to a disk that was never read", beside, Code::Unavailable, &name)?;
    node.vm.set_fault(&failing.serial, Fault::None)?;
    let made = create(node, Ask::mount("healed", "ext4").size(1)).await?;
    ensure!(made.size == capacity(failing.size), "{} bytes: which disk is that?", made.size);
    node.csi.delete(&made.id).await?;
    node.expect_empty().await?;
    offered(node, all).await?;
    let (status, text) = node.http("/readyz").await?;
    ensure!(status == 200, "/readyz after recovery: {status} {text}");
    Ok(())
}

/// Fails unless `/readyz` names the disk.
async fn named(node: &Node, name: &str) -> Result<()> {
    let began = Instant::now();
    loop {
        let (status, text) = node.http("/readyz").await?;
        if status != 200 && text.contains(&format!("the disk {name} ")) {
            return Ok(());
        }
        ensure!(began.elapsed() < Duration::from_secs(20), "/readyz does not name {name}: {status} {text}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// A disk is unplugged while its volume is published, and returns under another name.
async fn pulled(node: &mut Node, disk: &Disk, made: &Made) -> Result<()> {
    open(node, made).await?;
    write(node, made).await?;
    let before = kernel_name(node, disk).await?;
    node.vm.unplug(&disk.serial).await?;

    // What needs the disk says where it lay and what to do.
    let other = made.target_in("pod-2");
    node.vm.sh(format!("mkdir -p \"$(dirname '{other}')\"")).await?;
    let words = format!("is on the disk {before}, which is missing: put the disk back");
    refused("publish", node.csi.publish_at(made, &other, false).await, Code::FailedPrecondition, &words)?;
    refused("delete", node.csi.delete(&made.id).await, Code::Unavailable, &words)?;
    let listed = node.csi.list().await?;
    ensure!(listed.iter().any(|volume| volume.volume_id == made.id), "{} is not listed: {listed:?}", made.id);
    // A pod whose disk is gone must be able to end.
    node.csi.unpublish(made).await.context("unpublishing a volume whose disk is gone")?;
    node.csi.unstage(made).await.context("unstaging a volume whose disk is gone")?;
    let left =
        node.vm.sh(format!("grep {} /proc/self/mountinfo || true; ls -d '{}' || true", made.ask.name, made.target()));
    let left = left.await?;
    ensure!(!left.contains('/'), "remnants of {}: {left}", made.id);
    refused("stage", node.csi.stage(made).await, Code::FailedPrecondition, &words)?;
    // The pool keeps working.
    let beside =
        node.csi.create(&Ask::mount("beside", "ext4").size(1)).await.context("CreateVolume on another disk")?;
    open(node, &beside).await?;
    close(node, &beside).await?;
    node.csi.delete(&beside.id).await?;

    // Another disk takes its name.
    let taker = Disk { serial: "taker".to_owned(), ..disk.clone() };
    node.vm.add_disks(vec![taker.clone()]).await?;
    node.vm.replug(&disk.serial).await?;
    let after = kernel_name(node, disk).await?;
    ensure!(before != after, "it has its old name, {before}: this shows nothing");
    open(node, made).await.context("when it was put back")?;
    read(node, made).await?;

    // A pod is replaced on the same node at once, as those of a StatefulSet are: kubelet does not stage the volume again.
    node.vm.unplug(&disk.serial).await?;
    node.vm.replug(&disk.serial).await?;
    node.csi.unpublish(made).await.context("unpublishing for the next pod")?;
    retry(|| node.csi.publish(made)).await.context("publishing for the next pod, without a stage")?;
    read(node, made).await?;
    write(node, made).await?;
    close(node, made).await?;
    node.vm.take_disk(&taker.serial).await.map(drop)
}

/// The machine is switched off, and on each bus two disks are put into each other's places: each volume has its own
/// bytes under the other's name. Returns how often the machine had to boot.
async fn swapped(node: &mut Node, volumes: &[Made; 6]) -> Result<usize> {
    for made in volumes {
        open(node, made).await?;
        write(node, made).await?;
        close(node, made).await?;
    }
    // Three buses, and then the same three.
    let disks: Vec<Disk> = (3..9).map(numbered).collect();
    node.vm.sh("sync").await?;
    node.stop().await?;
    // Until now their names followed the order in which they were plugged in; after a boot they follow their
    // addresses.
    node.vm.reboot().await?;
    let mut wanted = names(node, &disks).await?;
    wanted.rotate_left(3);
    node.vm.power_off().await?;
    let mut taken = Vec::new();
    for disk in &disks {
        taken.push(node.vm.take_disk(&disk.serial).await?);
    }
    // Each goes into the first slot that is empty.
    taken.rotate_left(3);
    for disk in taken {
        node.vm.insert_disk(disk).await?;
    }
    let mut boots = 1;
    loop {
        node.vm.boot_again().await?;
        boots += 1;
        let after = names(node, &disks).await?;
        if after == wanted {
            break;
        }
        // Disks are probed concurrently, so the kernel may name a later one first.
        ensure!(boots < 5, "their names should be {wanted:?}, and are {after:?}");
        node.vm.power_off().await?;
    }
    node.serve().await?;
    for made in volumes {
        open(node, made).await?;
        read(node, made).await?;
        close(node, made).await?;
    }
    Ok(boots)
}

async fn names(node: &Node, disks: &[Disk]) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for disk in disks {
        names.push(kernel_name(node, disk).await?);
    }
    Ok(names)
}
