//! The complete life of volumes on whole disks: virtio, NVMe and SCSI, with sectors of 512 and of 4096 bytes.

use anyhow::{Context as _, Result, ensure};
use quarry_vm::{Bus, Disk};

use super::{MIB, VOLUME, capacity, disk, fill, kernel_name, listed, row};
use crate::csi::{Ask, refused, retry};
use crate::node::Node;
use crate::scenario::{Context, Passed};
use crate::scenarios::kill::{forget_points, points};
use crate::scenarios::steps::offered;
use crate::scenarios::{lifecycle, stats};
use crate::storage::partition;

/// The types of the two partitions: docs/disk-format.md.
const METADATA_TYPE: &str = "a7953e1b-d10f-418c-ac8a-a0e6afe8d458";
const VOLUME_TYPE: &str = "4897e890-2b58-42b9-84ed-933a631248d1";

/// How often a volume is staged while the kernel reads the table again and again.
const REREAD_STAGES: usize = 10;

/// Each larger than the one before. Sizes that are not whole MiB show how they are rounded.
fn disks() -> Vec<Disk> {
    vec![
        disk("v512", Bus::Virtio, 512, 48 * MIB),
        disk("v4096", Bus::Virtio, 4096, 52 * MIB + 12_288),
        disk("n512", Bus::Nvme, 512, 56 * MIB + 8192),
        disk("n4096", Bus::Nvme, 4096, 60 * MIB + 4096),
        disk("s512", Bus::Scsi, 512, 64 * MIB),
        disk("s4096", Bus::Scsi, 4096, 68 * MIB + 1_040_384),
        disk("btrfs", Bus::Nvme, 4096, 140 * MIB),
        disk("xfs", Bus::Virtio, 4096, 310 * MIB),
    ]
}

pub async fn run(context: Context) -> Passed {
    let disks = disks();
    let mut node = Node::on_disks("disk-lifecycle", disks.clone()).await?;
    node.serve().await?;
    let sizes: Vec<i64> = disks.iter().map(|disk| capacity(disk.size)).collect();
    let all: i64 = sizes.iter().sum();
    offered(&node, all).await?;
    let (_, largest) = node.csi.capacity(&Default::default()).await?;
    ensure!(largest == sizes[7], "{largest} bytes are the largest volume, and the largest disk has {}", sizes[7]);

    reread(&mut node, &disks[2]).await.context("while the kernel reads the table again and again")?;
    offered(&node, all).await?;
    let mut lives = 0;
    for (index, disk) in disks.iter().enumerate() {
        // One byte more than the disk before has: this one is the smallest that fits.
        let required = if index == 0 { 1 } else { sizes[index - 1] + 1 };
        let mut asks = match disk.serial.as_str() {
            "btrfs" => vec![Ask::mount("pvc-btrfs", "btrfs")],
            "xfs" => vec![Ask::mount("pvc-xfs", "xfs")],
            _ => vec![Ask::mount("pvc-ext4", "ext4"), Ask::block("pvc-block")],
        };
        if context.settings.soak && disk.size > 300 * MIB {
            asks.extend([Ask::mount("pvc-ext4", "ext4"), Ask::mount("pvc-btrfs", "btrfs"), Ask::block("pvc-block")]);
        }
        for ask in asks {
            let what = format!("{} on {disk}", ask.name);
            live(&node, disk, ask.size(required)).await.with_context(|| what.clone())?;
            offered(&node, all).await.with_context(|| format!("after {what}"))?;
            context.say(what);
            lives += 1;
        }
    }
    for ask in Ask::each_filesystem("stats-").into_iter().chain([Ask::block("stats-block")]) {
        let name = ask.name.clone();
        stats::live(&node, ask).await.with_context(|| name.clone())?;
        node.expect_empty().await.with_context(|| format!("after {name}"))?;
        offered(&node, all).await?;
        lives += 1;
    }
    context.say("stats done");
    let striped = Ask::mount("striped", "ext4").parameter("layout", "striped").parameter("stripes", "2");
    refused("a striped one", node.csi.create(&striped).await, tonic::Code::ResourceExhausted, "one whole disk")?;
    let huge = Ask::block("huge").size(all);
    refused("as large as all disks", node.csi.create(&huge).await, tonic::Code::ResourceExhausted, "no free disk has")?;
    for policy in ["discard", "none"] {
        not_zeroed(&mut node, policy, &disks[0], all).await.with_context(|| format!("with wipe: {policy}"))?;
        lives += 2;
    }
    context.say(format_args!("what an operator sees:\n{}", seen(&node, &disks, all).await?));
    Ok(format!("{lives} lives on {} disks", disks.len()))
}

/// `quarry disks` next to the running quarry: each disk with its state and the reason.
async fn seen(node: &Node, disks: &[Disk], all: i64) -> Result<String> {
    let made = node.csi.create(&Ask::mount("pvc-listed", "ext4")).await?;
    let strange = disks[3].path();
    node.vm.sh(format!("mkfs.ext4 -q -F -L data {strange}; udevadm settle")).await?;
    let table = listed(node).await?;
    let (mine, theirs) = (kernel_name(node, &disks[0]).await?, kernel_name(node, &disks[3]).await?);
    let free = kernel_name(node, &disks[1]).await?;
    for (name, words) in [
        (mine.as_str(), "main claimed volume pvc-listed"),
        (&theirs, "main not-empty has an ext4 filesystem, label data"),
        (&free, "main free -"),
    ] {
        let row = row(&table, name);
        ensure!(row.ends_with(words), "{name} is listed as {row:?}, not as {words:?}:\n{table}");
    }
    ensure!(table.contains("in-use") && table.contains("is mounted on /"), "the root disk is not in use:\n{table}");
    node.csi.delete(&made.id).await?;
    node.vm.sh(format!("wipefs -qa {strange}; udevadm settle")).await?;
    offered(node, all).await?;
    Ok(table)
}

/// The complete life of a volume on this disk, which held a former tenant's bytes, and is blank and zeroed
/// afterwards.
async fn live(node: &Node, disk: &Disk, ask: Ask) -> Result<()> {
    fill(node, disk).await?;
    let made = retry(|| node.csi.create(&ask)).await?;
    node.expect_only(&made).await?;
    let found = node.found().await?;
    let record = found.iter().filter_map(|found| found.volume.as_ref()).map(|volume| &volume.record).next();
    ensure!(record.is_some_and(|record| record.contains(&format!("/n={}/", ask.name))), "the record is {record:?}");
    let (name, contents) = (kernel_name(node, disk).await?, node.contents().await?);
    ensure!(contents.starts_with(&format!("{name}: ")), "not the smallest disk that fits, {name}:\n{contents}");
    ensure!(
        made.size == capacity(disk.size),
        "{} bytes, and a disk of {} is {}",
        made.size,
        disk.size,
        capacity(disk.size)
    );

    node.vm.sh("udevadm settle").await?;
    let sector = u64::from(disk.block_size);
    let metadata = partition(&node.vm, &disk.path(), 1, sector).await?;
    ensure!((metadata.start, metadata.size, metadata.kind.as_str()) == (MIB, MIB, METADATA_TYPE), "{metadata:?}");
    let volume = partition(&node.vm, &disk.path(), 2, sector).await?;
    let size = made.size.unsigned_abs();
    ensure!((volume.start, volume.size, volume.kind.as_str()) == (VOLUME, size, VOLUME_TYPE), "{volume:?}");
    let device = node.storage.device(&ask.name);
    let size = node.vm.sh(format!("udevadm settle; blockdev --getsize64 \"{device}\"")).await?;
    ensure!(size == made.size.to_string(), "udev's link leads to {size} bytes");
    if ask.is_block() {
        node.vm.sh(format!("cmp -n {size} \"{device}\" /dev/zero")).await.context("a former tenant's bytes show")?;
    }

    lifecycle::live(node, ask).await?;
    node.expect_empty().await?;
    let zeros = format!("cmp -n {} {} /dev/zero", disk.size, disk.path());
    node.vm.sh(zeros).await.context("the disk was not wiped").map(drop)
}

/// Stages a volume while the kernel removes the partitions and adds them again, as udev has it do when a program closes
/// the disk. The kernel refuses that while the partition is open, which it is not after a restart of the plugin.
async fn reread(node: &mut Node, disk: &Disk) -> Result<()> {
    let ask = Ask::mount("pvc-reread", "ext4").size(capacity(disk.size) - MIB.cast_signed());
    let made = retry(|| node.csi.create(&ask)).await?;
    node.kubelet_folders(&made).await?;
    let path = kernel_name(node, disk).await?;
    let script = format!(
        "(while [ ! -e /run/enough ]; do blockdev --rereadpt /dev/{path} 2>/dev/null && echo >>/run/rereads; done) \
         >/dev/null 2>&1 </dev/null &"
    );
    node.vm.sh(script).await?;
    for attempt in 1..=REREAD_STAGES {
        node.stop().await?;
        node.serve().await?;
        // Not repeated: kubelet would do that a while later.
        node.csi.stage(&made).await.with_context(|| format!("stage {attempt}"))?;
        retry(|| node.csi.unstage(&made)).await?;
    }
    let rereads = node.vm.sh("touch /run/enough; sleep 1; wc -l </run/rereads").await?.trim().parse::<usize>()?;
    ensure!(rereads >= REREAD_STAGES, "the table was read again only {rereads} times");
    retry(|| node.csi.delete(&made.id)).await.map_err(Into::into)
}

/// Under another policy than zeroing a disk is free again as well, and the next raw volume shows zeros.
async fn not_zeroed(node: &mut Node, policy: &str, disk: &Disk, all: i64) -> Result<()> {
    let section = node.storage.section().replace("select", &format!("wipe: {policy}, select"));
    node.configure(&format!("pools:\n  - name: main\n    {section}\n")).await?;
    node.stop().await?;
    node.serve().await?;
    fill(node, disk).await?;
    for name in ["first", "second"] {
        let ask = Ask::block(name);
        let made = retry(|| node.csi.create(&ask)).await?;
        let device = node.storage.device(name);
        let zeros = format!("udevadm settle; cmp -n {} \"{device}\" /dev/zero", made.size);
        node.vm.sh(zeros).await.context("a former tenant's bytes show")?;
        // From here on: what the deletion does to the disk.
        forget_points(node, None).await?;
        lifecycle::live(node, ask).await?;
        if policy == "none" {
            // At once, and without bytes that could look like a signature.
            let (available, _) = node.csi.capacity(&Default::default()).await?;
            ensure!(available == all, "{available} bytes are offered, not {all}");
            let zeros = format!("cmp -n 65536 -i {VOLUME}:0 {} /dev/zero", disk.path());
            node.vm.sh(zeros).await.context("the start of the volume is as it was")?;
        }
        node.expect_empty().await?;
        offered(node, all).await?;
        let passed = points(node).await?;
        let discarded = passed.iter().any(|point| point == "disk:discard:before");
        ensure!(discarded == (policy == "discard"), "what the deletion did to the disk: {passed:?}");
        // The places of signatures, whatever the policy.
        ensure!(passed.iter().any(|point| point == "device:zero:before"), "nothing was zeroed: {passed:?}");
    }
    Ok(())
}
