//! A disk whose wipe takes a while. Until it is done, the disk is reported as being wiped and not offered;
//! after a restart the wipe continues from the progress that is stored on the disk.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use quarry_vm::{Bus, Disk, Throttle};
use tonic::Code;

use super::{MIB, VOLUME, capacity, disk, kernel_name, listed, row};
use crate::csi::Ask;
use crate::node::Node;
use crate::scenario::{Context, Passed};
use crate::scenarios::steps::{FREED, offered};

const GIB: u64 = 1 << 30;
const SIZE: u64 = 1 << 40;
/// Slow enough to observe the wipe, on any machine.
const SPEED: u64 = 8 * GIB;
/// Slow enough, while quarry starts, that a restarted wipe does not get as far as the one that was killed.
const SLOWLY: u64 = 4 * GIB;
/// How much is wiped between two notes on the disk: docs/pools.md.
const NOTE_EVERY: u64 = 64 * GIB;
/// How much is wiped when quarry is killed, at least: two notes, and a little.
const ENOUGH: u64 = 2 * NOTE_EVERY + 2 * GIB;
/// How long a deletion may take to be answered.
const AT_ONCE: Duration = Duration::from_secs(10);

pub async fn run(context: Context) -> Passed {
    let disk = disk("d1", Bus::Virtio, 512, SIZE).throttle(speed(SPEED));
    let mut node = Node::on_disks("disk-wiped", vec![disk.clone()]).await?;
    node.serve().await?;
    let all = capacity(SIZE);
    offered(&node, all).await?;

    let made = node.csi.create(&Ask::mount("wiped", "ext4").size(1)).await?;
    ensure!(made.size == all, "{} bytes, but the disk has space for {all}", made.size);
    let whole = made.size.unsigned_abs();
    // Early, where half of it is wiped, and last.
    let places = [5 * MIB, whole / 2 / MIB * MIB, whole - MIB];
    let device = node.storage.device("wiped");
    for place in places {
        let write = format!(
            "udevadm settle; {OLD} | dd of=\"{device}\" bs=1M iflag=fullblock oflag=direct,seek_bytes seek={place} \
             conv=notrunc,fsync status=none"
        );
        node.vm.sh(write).await.context("writing a former user's bytes")?;
        old(&node, &disk, place).await?;
    }

    let began = Instant::now();
    node.csi.delete(&made.id).await?;
    let answered = began.elapsed();
    ensure!(answered < AT_ONCE, "DeleteVolume took {answered:?}");
    let first = remaining(&node, |left| left > 0).await?;
    reported_as_wiping(&node, &disk).await.context("while the disk is wiped")?;
    let later = remaining(&node, |left| left < first).await?;
    context.say(format_args!("deleted after {answered:?}; {} GiB were left, then {}", first / GIB, later / GIB));

    remaining(&node, |left| left <= whole - ENOUGH).await?;
    node.vm.set_throttle(&disk.serial, speed(SLOWLY)).await?;
    let before = remaining(&node, |_| true).await?;
    // It would show nothing if all had been wiped by now.
    ensure!(before > whole / 2, "only {before} bytes were left when quarry was to be killed");
    node.kill().await?;
    // What has been wiped, and what has not: nothing else wipes it.
    zero(&node, &disk, places[0]).await?;
    old(&node, &disk, places[2]).await?;
    node.serve().await?;
    let after = remaining(&node, |left| left > 0).await?;
    ensure!(
        after <= before + NOTE_EVERY && after < whole - NOTE_EVERY,
        "{before} bytes of {whole} were left before the kill, and after it {after}: more than between two progress records"
    );
    reported_as_wiping(&node, &disk).await.context("after the restart")?;
    context.say(format_args!("killed when {} GiB were left; resumed at {}", before / GIB, after / GIB));

    node.vm.set_throttle(&disk.serial, Throttle::default()).await?;
    offered(&node, all).await?;
    let took = began.elapsed();
    for place in places {
        zero(&node, &disk, place).await?;
    }
    node.expect_empty().await?;
    let left = node.metric(REMAINING).await?;
    ensure!(left == 0.0, "{left} bytes are to be wiped of a disk that is free");
    Ok(format!(
        "1 TiB deleted in {:.2} s and wiped in {:.0} s; killed when {} GiB were left, resumed at {} GiB; {} places zeroed",
        answered.as_secs_f64(),
        took.as_secs_f64(),
        before / GIB,
        after / GIB,
        places.len()
    ))
}

fn speed(bytes_per_second: u64) -> Throttle {
    Throttle { bytes_per_second, ..Throttle::default() }
}

/// There is no volume and no space, and every report gives the reason.
async fn reported_as_wiping(node: &Node, disk: &Disk) -> Result<()> {
    let listed_volumes = node.csi.list().await?;
    ensure!(listed_volumes.is_empty(), "deleted, and listed: {listed_volumes:?}");
    let (available, largest) = node.csi.capacity(&Default::default()).await?;
    ensure!((available, largest) == (0, 0), "{available} bytes are offered, {largest} at most");
    let (table, name) = (listed(node).await?, kernel_name(node, disk).await?);
    match node.csi.create(&Ask::mount("next", "ext4").size(1)).await {
        Err(status) if status.code() == Code::ResourceExhausted => {
            let message = status.message();
            let why = message.find(&format!("; {name} ")).map(|at| &message[at..]).unwrap_or_default();
            ensure!(
                why.contains("volume wiped, which was deleted and is being wiped"),
                "the reason is missing: {message}"
            );
        }
        other => bail!("a volume on a disk that is being wiped: {other:?}"),
    }
    let row = row(&table, &name);
    let words = "main wiping volume wiped was deleted; being wiped";
    ensure!(row.contains(words), "{name} is listed as {row:?}, not as {words:?}:\n{table}");
    Ok(())
}

const REMAINING: &str = "quarry_pool_wipe_remaining_bytes{";

/// Waits until this many bytes are still to be wiped, and returns how many.
async fn remaining(node: &Node, enough: impl Fn(u64) -> bool) -> Result<u64> {
    let began = Instant::now();
    loop {
        let left = node.metric(REMAINING).await?.round() as u64;
        if enough(left) {
            return Ok(left);
        }
        ensure!(began.elapsed() < FREED, "{left} bytes are to be wiped\n{}", node.log_tail().await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What a former user wrote: a MiB of it.
const OLD: &str = "yes \"a former user's secret\" | head -c 1048576";

/// Fails unless the former user's bytes are at this byte of the volume, on the disk itself.
async fn old(node: &Node, disk: &Disk, place: u64) -> Result<()> {
    let script = format!("{OLD} >/run/old; {} | cmp - /run/old", at(disk, place));
    node.vm.sh(script).await.with_context(|| format!("byte {place} should be as it was")).map(drop)
}

/// Fails unless there are zeros.
async fn zero(node: &Node, disk: &Disk, place: u64) -> Result<()> {
    let script = format!("{} | cmp -n {MIB} - /dev/zero", at(disk, place));
    node.vm.sh(script).await.with_context(|| format!("a former user's bytes show at byte {place}")).map(drop)
}

/// A script that prints a MiB from this byte of the volume on.
fn at(disk: &Disk, place: u64) -> String {
    format!("dd if={} bs=1M count=1 iflag=direct,skip_bytes skip={} status=none", disk.path(), VOLUME + place)
}
