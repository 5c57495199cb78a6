//! Earlier data on the disk is never visible: raw volumes read zero to the last byte, filesystems start
//! empty.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use quarry_vm::{Config, Disk, Throttle, Vm};
use tonic::Code;

use crate::csi::{Ask, Csi, MIB, Made, Use, is_passing, refused, retry};
use crate::node::{FAULTS, GROUP, Node, device};
use crate::scenario::{Context, Passed};
use crate::scenarios::steps::{checksum, close, device_of, open, read, tags, until, write};

/// The small disk: large enough for an xfs.
const SMALL: u64 = 400 << 20;
/// The large one.
const LARGE: u64 = 1 << 40;
/// So fast that zeroing it takes more than half a minute, whatever the machine.
const SPEED: u64 = 32 << 30;
/// What the callers of CreateVolume wait (external-provisioner's default).
const PATIENCE: Duration = Duration::from_secs(10);
/// What the former tenant wrote everywhere.
const OLD: &str = "a former tenant's secret";

pub async fn run(context: Context) -> Passed {
    let config = Config::new("other-tenants").disk(Disk::new("d1", SMALL)).disk(Disk::new("d2", LARGE));
    let vm = Vm::start(config).await?;
    // As far as the small raw volumes reach; what comes later soils its own place.
    vm.sh(format!("yes \"{OLD}\" | dd of={} bs=1M count=128 iflag=fullblock status=none", device("d1"))).await?;
    let mut node = Node::with_vm(vm, 1).await?;
    node.keep_active().await?;
    node.serve().await?;

    let kills = small_blocks(&context, &mut node).await.context("small raw volumes")?;
    context.say("small raw volumes done");
    filesystems(&context, &node).await.context("filesystems in the place of old ones")?;
    context.say("filesystems done");
    types(&node).await.context("another access type")?;
    node.expect_empty().await?;
    let large = large_block(&context, &mut node).await.context("a raw volume of 1 TiB")?;
    Ok(format!("{kills} kills of a small one; {large}"))
}

/// Fills the free space with the former tenant's bytes, and proves that they are there.
async fn soil(node: &Node) -> Result<()> {
    node.vm
        .sh(format!(
            "lvcreate -qq -y -Wn -Zn -l 16 -n soil {GROUP}; yes \"{OLD}\" | \
             dd of=/dev/{GROUP}/soil bs=1M count=64 iflag=fullblock oflag=direct conv=fsync status=none; \
             tail -c 4096 /dev/{GROUP}/soil | grep -q secret; lvremove -qq -y {GROUP}/soil"
        ))
        .await
        .map(drop)
}

async fn expect_zero(node: &Node, made: &Made) -> Result<()> {
    let device = device_of(made);
    let script =
        format!("test $(blockdev --getsize64 {device}) = {size}; cmp -n {size} {device} /dev/zero", size = made.size);
    node.vm.sh(script).await.with_context(|| format!("{} shows a former tenant's bytes", made.id)).map(drop)
}

/// A raw volume whose size is not a power of two; then the same with quarry killed at its fault points.
async fn small_blocks(context: &Context, node: &mut Node) -> Result<usize> {
    let ask = Ask::block("small").size(52 * MIB);
    node.vm.sh(format!("rm -f {FAULTS}/log")).await?;
    let made = node.csi.create(&ask).await?;
    let points = node.vm.sh(format!("cat {FAULTS}/log")).await?.lines().map(str::to_owned).collect::<Vec<_>>();
    expect_zero(node, &made).await?;
    ensure!(tags(node, &made).await?.contains("/s=ready/"), "it is not ready");
    node.csi.delete(&made.id).await?;
    let zeroing =
        points.iter().position(|point| point.starts_with("device:zero")).context("no fault point of zeroing")?;
    let mut random = context.random();
    // From the first moment at which the volume is there.
    let from = zeroing.saturating_sub(2);
    let chosen: Vec<usize> = if context.settings.soak {
        (from..points.len()).collect()
    } else {
        random.sample(2, points.len() - from).into_iter().map(|index| from + index).collect()
    };
    for index in &chosen {
        let point = &points[*index];
        kill_at(node, &ask, index + 1).await.with_context(|| format!("killed at point {index}, {point}"))?;
    }
    Ok(chosen.len())
}

async fn kill_at(node: &mut Node, ask: &Ask, number: usize) -> Result<()> {
    soil(node).await?;
    node.vm.sh(format!("echo {number} > {FAULTS}/kill-at")).await?;
    // Its answer may have got out before.
    let _ = node.csi.create(ask).await;
    node.vm.sh(format!("rm {FAULTS}/kill-at")).await?;
    node.wait_for_end().await?;
    node.serve().await?;
    let made = retry(|| node.csi.create(ask)).await?;
    expect_zero(node, &made).await?;
    node.csi.delete(&made.id).await?;
    node.expect_empty().await
}

/// A filesystem is created exactly in the place of another of the same kind with a file in it, or of a
/// mixture.
async fn filesystems(context: &Context, node: &Node) -> Result<()> {
    let pairs =
        [("ext4", "ext4", 16), ("ext4", "xfs", 75), ("xfs", "ext4", 75), ("xfs", "xfs", 75), ("btrfs", "btrfs", 32)];
    let count = if context.settings.soak { pairs.len() } else { 3 };
    for index in context.random().sample(count, pairs.len()) {
        let (kind, old, extents) = pairs[index];
        let force = if old == "ext4" { "-F" } else { "-f" };
        node.vm
            .sh(format!(
                "lvcreate -qq -y -Wn -Zn -l {extents} -n old {GROUP}; mkfs.{old} -q {force} /dev/{GROUP}/old; \
                 mkdir -p /mnt/old; mount /dev/{GROUP}/old /mnt/old; echo secret > /mnt/old/secret; umount /mnt/old; \
                 lvremove -qq -y {GROUP}/old"
            ))
            .await
            .context("making the old filesystem")?;
        let made = node.csi.create(&Ask::mount("empty", kind).size(extents * 4 * MIB)).await?;
        let place = node.vm.sh(format!("lvs --noheadings -o devices {GROUP}/empty")).await?;
        ensure!(place.contains("(0)"), "it is elsewhere: {place}");
        let seen = node.vm.exec(["blkid", "-p", &device_of(&made)]).await?.text();
        ensure!(seen.is_empty(), "a {old} shows on a new volume: {seen}");
        open(node, &made).await.with_context(|| format!("{kind} where {old} was"))?;
        let files = node.vm.sh(format!("ls -A '{}' | grep -v lost+found || true", made.target())).await?;
        ensure!(files.is_empty(), "a new {kind} where {old} was holds {files}");
        write(node, &made).await?;
        read(node, &made).await?;
        close(node, &made).await?;
        node.csi.delete(&made.id).await?;
    }
    Ok(())
}

/// A volume created for one use is never used otherwise: a raw device would expose bytes that were never
/// zeroed.
async fn types(node: &Node) -> Result<()> {
    let filesystem = node.csi.create(&Ask::mount("filesystem", "ext4")).await?;
    let block = node.csi.create(&Ask::block("raw")).await?;
    let as_block = Made { ask: Ask { usage: Use::Block, ..filesystem.ask.clone() }, ..filesystem.clone() };
    let as_filesystem = Made { ask: Ask { usage: Use::Mount("ext4"), ..block.ask.clone() }, ..block.clone() };
    let as_xfs = Made { ask: Ask { usage: Use::Mount("xfs"), ..filesystem.ask.clone() }, ..filesystem.clone() };
    for round in ["new", "used"] {
        for (made, words) in
            [(&as_block, "never used as"), (&as_filesystem, "never used as"), (&as_xfs, "xfs is requested")]
        {
            node.kubelet_folders(made).await?;
            let before = checksum(node, &device_of(made)).await?;
            let what = format!("{round} {} as {:?}", made.ask.name, made.ask.usage);
            refused(&what, node.csi.stage(made).await, Code::FailedPrecondition, words)?;
            refused(&what, node.csi.publish(made).await, Code::FailedPrecondition, words)?;
            ensure!(checksum(node, &device_of(made)).await? == before, "{what}: its bytes were changed");
        }
        for made in [&filesystem, &block] {
            open(node, made).await?;
            write(node, made).await?;
            close(node, made).await?;
        }
    }
    node.csi.delete(&filesystem.id).await?;
    node.csi.delete(&block.id).await?;
    Ok(())
}

/// A raw volume so large that no caller waits for it, with quarry killed on the way, twice.
async fn large_block(context: &Context, node: &mut Node) -> Result<String> {
    let mut random = context.random();
    // A former tenant's bytes: at the start, the end, and in between; 1 MiB each.
    let last = (LARGE >> 20) - 2;
    let mut places: Vec<u64> = (0..30).map(|_| 1 + random.below(last)).chain([1, 2, last - 2, last]).collect();
    places.sort_unstable();
    places.dedup();
    let disk = device("d2");
    let list = places.iter().map(u64::to_string).collect::<Vec<_>>().join(" ");
    node.vm
        .sh(format!(
            "yes \"{OLD}\" | dd of=/root/old bs=1M count=1 iflag=fullblock status=none; for at in {list}; do \
             dd if=/root/old of={disk} bs=1M seek=$at oflag=direct conv=notrunc status=none; done; vgcreate -qq large {disk}"
        ))
        .await?;
    node.stop().await?;
    node.configure(&format!(
        "pools:\n  - name: main\n    lvm: {{volumeGroup: {GROUP}}}\n  - name: large\n    lvm: {{volumeGroup: large}}\n"
    ))
    .await?;
    node.serve().await?;
    node.vm.set_throttle("d2", Throttle { bytes_per_second: SPEED, ..Throttle::default() }).await?;

    let class = Ask::block("huge").parameter("pool", "large");
    let (free, most) = node.csi.capacity(&class.parameters).await?;
    let ask = class.size(most);
    let began = Instant::now();
    let mut kills = 0;
    let mut noted = 0;
    let mut reports = 0;
    let made = loop {
        match node.csi.create_within(&ask, PATIENCE).await {
            Ok(made) => break made,
            Err(status) if status.code() == Code::Aborted => {
                reports += 1;
                let done =
                    zeroed(status.message()).with_context(|| format!("no progress in {:?}", status.message()))?;
                ensure!(done + 1.0 >= noted as f64, "{done} GiB zeroed, and the record said {noted} before");
            }
            // Its answer came too late for the caller, which does not matter.
            Err(status) if is_passing(&status) => {}
            Err(status) => bail!("{:?}: {}", status.code(), status.message()),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        ensure!(began.elapsed() < Duration::from_secs(900), "it does not end");
        let record = node.vm.sh("lvs --noheadings -o lv_tags large/huge").await?;
        let now = record.rsplit_once("/z=").map_or(0, |(_, z)| z.trim().parse().unwrap_or(0));
        if record.contains("/s=ready/") {
            // Done since the answer.
            continue;
        }
        ensure!(now >= noted, "the record went back from {noted} to {now} GiB");
        noted = now;
        if kills < 2 && noted > 0 {
            // Once only quarry, once with all its children.
            if kills == 0 {
                node.kill().await?
            } else {
                node.kill_tree().await?
            }
            kills += 1;
            node.serve().await?;
        }
    };
    let took = began.elapsed();
    ensure!(
        kills == 2 && reports >= 2 && noted >= 64,
        "{kills} kills, {reports} answers with progress, {noted} GiB noted: too fast to prove anything"
    );
    node.vm.set_throttle("d2", Throttle::default()).await?;
    let record = node.vm.sh("lvs --noheadings -o lv_tags large/huge").await?;
    ensure!(record.contains("/s=ready/") && !record.contains("/z="), "its record is {record}");
    // The volume starts 1 MiB into the disk.
    let size = node.vm.sh("blockdev --getsize64 /dev/large/huge").await?.parse::<u64>()?;
    let checks: Vec<String> =
        places.iter().map(|at| at - 1).filter(|at| *at < size >> 20).map(|at| at.to_string()).collect();
    node.vm
        .sh(format!(
            "for at in {}; do dd if=/dev/large/huge bs=1M count=1 skip=$at iflag=direct status=none | cmp -n 1048576 - /dev/zero; \
             done; tail -c 67108864 /dev/large/huge | cmp -n 67108864 - /dev/zero",
            checks.join(" ")
        ))
        .await
        .context("a former tenant's bytes show")?;
    node.csi.delete(&made.id).await?;

    // Deleted while it is being zeroed: it stops, and the space is free.
    node.vm.set_throttle("d2", Throttle { bytes_per_second: SPEED, ..Throttle::default() }).await?;
    let given_up = node.csi.create_within(&ask, Duration::from_secs(4)).await;
    ensure!(given_up.as_ref().is_err_and(is_passing), "zeroed within seconds: {given_up:?}");
    refused("create", node.csi.create(&ask).await, Code::Aborted, "zeroed")?;
    delete_on_the_way(&node.csi, &made.id).await?;
    let left = node.vm.sh("lvs --noheadings large").await?;
    ensure!(left.trim().is_empty(), "deleted, and there is: {left}");
    ensure!(node.csi.capacity(&ask.parameters).await? == (free, most), "the space is not free again");
    Ok(format!(
        "1 TiB in {:.0} s, {reports} answers with progress, killed {kills} times, {} MiB checked",
        took.as_secs_f64(),
        checks.len() + 64
    ))
}

async fn delete_on_the_way(csi: &Csi, id: &str) -> Result<()> {
    // A call that is still at work does not publish the volume; the next reading of the pool does.
    let is_listed = || async { Ok(csi.list().await?.iter().any(|volume| volume.volume_id == id)) };
    until("a volume that is being zeroed is listed", Duration::from_secs(30), is_listed).await?;
    csi.delete(id).await.context("deleting while it is zeroed")?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    ensure!(csi.list().await?.is_empty(), "deleted, and listed");
    Ok(())
}

/// `zeroed 12.3 of 1024.0 GiB` as 12.3.
fn zeroed(message: &str) -> Option<f64> {
    message.split_once("zeroed ")?.1.split_once(" of")?.0.parse().ok()
}
