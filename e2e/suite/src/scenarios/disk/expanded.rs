//! A hypervisor makes disks larger, and then the volumes on them become larger: while they are used and while they
//! are not, with a stranger's bytes and partition table at the new end. Quarry is killed at each point of it, and the
//! power goes.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use quarry_vm::{Bus, Command, Disk, PowerCut};
use tonic::Code;

use super::{MIB, VOLUME, capacity, disk, kernel_name, listed, row};
use crate::csi::{Ask, Made, refused, retry};
use crate::node::Node;
use crate::random::Random;
use crate::scenario::{Context, Passed};
use crate::scenarios::expand::space;
use crate::scenarios::kill::broken::{disable, expect_violation};
use crate::scenarios::kill::{Kill, KillResult, Step, call_with_kill, forget_points, points};
use crate::scenarios::steps::{close, open, read, remove_left, until, write};
use crate::storage::partition;

/// Ends the programs that write while a volume becomes larger.
const STOP: &str = "/run/stop-writing";
/// The disk of the kills, and its size while it is free: an ext4 fits on it.
const KILLED: (&str, u64) = ("killed", 20 * MIB);
/// The disk of the power cuts, which has a write cache.
const CUT: (&str, u64) = ("cut", 22 * MIB);

/// At the end of a device, where programs look for signatures.
const END: u64 = 64 << 10;

/// A volume, its disk, and the sizes that the disk gets.
struct Grown {
    ask: Ask,
    disk: Disk,
    sizes: [u64; 2],
}

/// Each disk is larger than the one before. Sizes that are not whole MiB show how they are rounded.
fn all() -> Vec<Grown> {
    let grown = |ask: Ask, disk: Disk, sizes: [u64; 2]| {
        let required = capacity(disk.size) - 1_000_000;
        Grown { ask: ask.size(required), disk, sizes: sizes.map(|size| size * MIB) }
    };
    vec![
        grown(Ask::block("pvc-virtio"), disk("virtio", Bus::Virtio, 4096, 24 * MIB).resizable(), [40, 41]),
        grown(Ask::block("pvc-scsi"), disk("scsi", Bus::Scsi, 512, 28 * MIB + 12_288).resizable(), [50, 70]),
        grown(Ask::mount("pvc-ext4", "ext4"), disk("ext4", Bus::Virtio, 512, 48 * MIB).resizable(), [90, 120]),
        // The emulated NVMe controller does not tell of another size: the disk is pulled meanwhile.
        grown(Ask::mount("pvc-btrfs", "btrfs"), disk("btrfs", Bus::Nvme, 4096, 140 * MIB), [300, 340]),
        grown(Ask::mount("pvc-xfs", "xfs"), disk("xfs", Bus::Scsi, 4096, 310 * MIB).resizable(), [360, 420]),
    ]
}

pub async fn run(context: Context) -> Passed {
    let all = all();
    let mut disks: Vec<Disk> = all.iter().map(|one| one.disk.clone()).collect();
    disks.push(disk(KILLED.0, Bus::Virtio, 512, KILLED.1).resizable());
    disks.push(disk(CUT.0, Bus::Virtio, 512, CUT.1));
    let mut node = Node::on_disks("disk-expand", disks).await?;
    node.vm.sh("sync").await?;
    node.serve().await?;
    let mut random = context.random();

    let mut made = Vec::new();
    // The smallest disks are of the kills and power cuts: these volumes do not fit there.
    for one in &all {
        made.push(retry(|| node.csi.create(&one.ask)).await.with_context(|| one.ask.name.clone())?);
    }
    for (one, made) in all.iter().zip(&mut made) {
        ensure!(made.size == capacity(one.disk.size), "{} is not on its disk: {} bytes", made.id, made.size);
        grow(&mut node, one, made).await.with_context(|| format!("{} on {}", one.ask.name, one.disk))?;
        context.say(format_args!("{} done", one.ask.name));
    }
    for made in &made {
        retry(|| node.csi.delete(&made.id)).await?;
    }
    node.expect_empty().await?;

    broken(&mut node).await.context("without a safeguard")?;
    let kills = kills(&context, &mut node, &mut random).await.context("kills")?;
    let cuts = if context.settings.soak { 12 } else { 3 };
    for _ in 0..cuts {
        power_cut(&mut node, &mut random).await.context("a power cut")?;
    }
    node.expect_empty().await?;
    Ok(format!("{} volumes became larger twice, 2 broken variants caught, {kills} kills, {cuts} power cuts", all.len()))
}

/// The volume's disk becomes larger twice: while the volume is published, and while it is not staged.
async fn grow(node: &mut Node, one: &Grown, made: &mut Made) -> Result<()> {
    open(node, made).await?;
    write(node, made).await?;
    let words = "only after its disk";
    refused("the disk has its size", node.csi.expand(made, made.size + 1).await, Code::OutOfRange, words)?;
    let answer = node.csi.expand(made, made.size).await?;
    ensure!(answer.size == made.size, "{answer:?}");

    let [first, second] = one.sizes;
    let old = made.size;
    if one.disk.resizable {
        node.vm.sh(format!("rm -f {STOP} /run/wrote")).await?;
        let mut writer = node.vm.spawn(Command::sh(writer(made)).timeout(Duration::from_secs(600))).await?;
        enlarge(node, one, first).await?;
        expand(node, one, made, first).await?;
        node.vm.sh(format!("touch {STOP}")).await?;
        let output = writer.wait().await?;
        ensure!(output.exit.success(), "the writer: {}\n{}", output.exit, output.error_text());
        ensure!(node.vm.sh("cat /run/wrote").await?.trim() != "0", "nothing was written meanwhile");
    } else {
        close(node, made).await?;
        enlarge(node, one, first).await?;
        open(node, made).await?;
        expand(node, one, made, first).await?;
    }
    check(node, made, old).await?;

    close(node, made).await?;
    enlarge(node, one, second).await?;
    expand(node, one, made, second).await?;
    let before = made.size;
    open(node, made).await?;
    ensure!(space(node, made).await? > before / 5 * 4, "the filesystem did not become larger at its stage");
    check(node, made, old).await?;
    close(node, made).await?;
    open(node, made).await.context("staged again")?;
    check(node, made, old).await?;
    close(node, made).await
}

/// A program that writes and flushes until [`STOP`], after the bytes of [`write`].
fn writer(made: &Made) -> String {
    let target = made.target();
    let once = if made.ask.is_block() {
        format!("dd if=/dev/urandom of='{target}' bs=64k seek=16 count=8 oflag=direct conv=notrunc,fsync status=none")
    } else {
        format!("dd if=/dev/urandom of='{target}/other' bs=64k count=8 conv=fsync status=none")
    };
    format!("count=0; until [ -e {STOP} ]; do {once} || exit 1; count=$((count + 1)); done; echo $count > /run/wrote")
}

/// Makes a disk larger. Its new bytes are a stranger's, and end with the end of another partition table.
async fn enlarge(node: &mut Node, one: &Grown, size: u64) -> Result<()> {
    let serial = &one.disk.serial;
    if !one.disk.resizable {
        node.vm.unplug(serial).await?;
    }
    let before = if size == one.sizes[0] { one.disk.size } else { one.sizes[0] };
    node.vm.resize_disk(serial, size).await?;
    if !one.disk.resizable {
        node.vm.replug(serial).await?;
    }
    soil(node, &one.disk, before, size).await?;
    let name = kernel_name(node, &one.disk).await?;
    if capacity(size) > capacity(before) {
        let table = listed(node).await?;
        let row = row(&table, &name);
        let claimed = format!("claimed volume {}", one.ask.name);
        ensure!(row.contains(&claimed) && row.contains("became larger than its volume"), "{row:?} in\n{table}");
    }
    Ok(())
}

async fn soil(node: &Node, disk: &Disk, from: u64, to: u64) -> Result<()> {
    let path = disk.path();
    let script = format!(
        "head -c {length} /dev/urandom | dd of={path} bs=1M seek={from} oflag=seek_bytes iflag=fullblock \
         conv=notrunc,fsync status=none; rm -f /run/gpt; truncate -s {to} /run/gpt; sgdisk -n 1:2048: /run/gpt >/dev/null; \
         tail -c 16896 /run/gpt | dd of={path} bs=512 seek={gpt} oflag=seek_bytes conv=notrunc,fsync status=none; \
         udevadm settle",
        length = to - from,
        gpt = to - 16896,
    );
    node.vm.sh(script).await.context("writing a stranger's bytes").map(drop)
}

/// The volume gets its whole disk, which has this size now.
async fn expand(node: &Node, one: &Grown, made: &mut Made, disk: u64) -> Result<()> {
    let wanted = capacity(disk);
    let words = "has room for";
    refused("more than the disk", node.csi.expand(made, wanted + 1).await, Code::OutOfRange, words)?;
    made.size = retry(|| node.csi.expand(made, made.size + 1)).await?.size;
    ensure!(made.size == wanted, "{} bytes on a disk of {disk}", made.size);
    let again = node.csi.expand(made, made.size).await?;
    ensure!(again.size == made.size, "{again:?}");
    let path = one.disk.path();
    let volume = partition(&node.vm, &path, 2, u64::from(one.disk.block_size)).await?;
    ensure!((volume.start, volume.size) == (VOLUME, made.size.unsigned_abs()), "{volume:?}");
    let name = kernel_name(node, &one.disk).await?;
    let table = listed(node).await?;
    let row = row(&table, &name);
    ensure!(row.ends_with(&format!("claimed volume {}", one.ask.name)), "{row:?} in\n{table}");
    let kernel = format!("cat /sys/class/block/{name}/{name}*2/size");
    let sectors = node.vm.sh(format!("udevadm settle; {kernel}")).await?;
    ensure!(sectors.trim() == (made.size / 512).to_string(), "the kernel's partition has {sectors} sectors");
    Ok(())
}

/// A published volume has its bytes and its size, and no byte of a stranger.
async fn check(node: &Node, made: &Made, old: i64) -> Result<()> {
    let target = made.target();
    let answered = retry(|| node.csi.node_expand(made, &target)).await?;
    ensure!(answered == made.size, "the node answered {answered} instead of {}", made.size);
    read(node, made).await?;
    let room = space(node, made).await?;
    ensure!(room <= made.size && room > made.size / 5 * 4, "{room} bytes of {}", made.size);
    if made.ask.is_block() {
        let more = made.size - old;
        let script = format!("blockdev --flushbufs '{target}'; cmp -n {more} -i {old}:0 '{target}' /dev/zero");
        node.vm.sh(script).await.context("a stranger's byte shows")?;
    } else {
        let device = node.storage.device(&made.ask.name);
        let script = format!("wipefs --noheadings -O TYPE \"$(readlink -f {device})\" | tr -d ' '");
        let seen = node.vm.sh(script).await?;
        ensure!(!seen.trim().contains('\n'), "a stranger's signature shows: {seen:?}");
    }
    Ok(())
}

/// The sizes of the volume that is interrupted, before and after, and its disk.
fn small(name: &str, size: u64) -> (Ask, i64, Disk) {
    let bus = disk(name, Bus::Virtio, 512, size);
    (Ask::block(&format!("pvc-{name}")).size(8 * 1024 * 1024), capacity(size), bus)
}

/// Quarry is killed at fault points of an expansion: at each in a soak, otherwise at some. Returns how often.
async fn kills(context: &Context, node: &mut Node, random: &mut Random) -> Result<usize> {
    let count = one_kill(node, None).await?.len();
    ensure!(count > 20, "only {count} points");
    context.say(format_args!("{count} points of an expansion"));
    let chosen = match context.settings.soak {
        true => (0..count).filter(|index| context.settings.slice.has(*index)).collect(),
        false => random.sample(8, count),
    };
    let mut killed = 0;
    for index in chosen {
        let at = index as u64 + 1;
        one_kill(node, Some(at)).await.with_context(|| format!("killed at point {at}"))?;
        killed += 1;
    }
    Ok(killed)
}

/// A volume from its creation to its deletion, whose expansion is killed at this point. Returns the points of an
/// expansion that was not killed.
async fn one_kill(node: &mut Node, at: Option<u64>) -> Result<Vec<String>> {
    let (serial, size) = KILLED;
    let (ask, before, disk) = small(serial, size);
    let mut made = retry(|| node.csi.create(&ask)).await?;
    ensure!(made.size == before, "{} bytes on the wrong disk", made.size);
    open(node, &made).await?;
    write(node, &made).await?;
    node.vm.resize_disk(serial, 40 * MIB).await?;
    soil(node, &disk, size, 40 * MIB).await?;
    let mut passed = Vec::new();
    match at {
        None => {
            forget_points(node, None).await?;
            made.size = retry(|| node.csi.expand(&made, before + 1)).await?.size;
            passed = points(node).await?;
        }
        Some(at) => {
            let result = call_with_kill(node, Step::Expand, &ask, Some(&made), &Kill::Point(at)).await?;
            let last = match &result {
                KillResult::Killed { points } | KillResult::Missed { points } => points.last().cloned(),
            };
            interrupted(node, &made, before).await.with_context(|| format!("after {last:?}"))?;
            made.size = retry(|| node.csi.expand(&made, before + 1)).await?.size;
        }
    }
    ensure!(made.size == capacity(40 * MIB), "{} bytes", made.size);
    check(node, &made, before).await?;
    end(node, &made).await?;
    node.vm.resize_disk(serial, size).await?;
    Ok(passed)
}

/// With a safeguard of quarry disabled, the checks find a stranger's bytes.
async fn broken(node: &mut Node) -> Result<()> {
    let (serial, size) = KILLED;
    filesystem_end(node).await.context("with the safeguards in place")?;
    let asks = [small(serial, size).0, Ask::mount("pvc-killed-ext4", "ext4")];

    disable(node, "expand-zero", true).await?;
    expect_violation(one_kill(node, None).await.map(drop), "a stranger's byte shows")?;
    disable(node, "expand-zero", false).await?;
    remove_left(node, &asks).await?;
    node.vm.resize_disk(serial, size).await?;

    disable(node, "expand-wipe", true).await?;
    expect_violation(filesystem_end(node).await, "a stranger's bytes where signatures may be")?;
    disable(node, "expand-wipe", false).await?;
    remove_left(node, &asks).await?;
    node.vm.resize_disk(serial, size).await
}

/// A volume with an ext4 has no bytes of a stranger at its new end, before its filesystem becomes larger.
async fn filesystem_end(node: &mut Node) -> Result<()> {
    let (serial, size) = KILLED;
    let (_, before, disk) = small(serial, size);
    let ask = Ask::mount("pvc-killed-ext4", "ext4").size(8 * 1024 * 1024);
    let mut made = retry(|| node.csi.create(&ask)).await?;
    ensure!(made.size == before, "{} bytes on the wrong disk", made.size);
    open(node, &made).await?;
    node.vm.resize_disk(serial, 40 * MIB).await?;
    soil(node, &disk, size, 40 * MIB).await?;
    made.size = retry(|| node.csi.expand(&made, before + 1)).await?.size;
    let end = VOLUME + made.size.unsigned_abs() - END;
    let script = format!(
        "dd if={} bs=64k iflag=direct,skip_bytes,count_bytes skip={end} count={END} status=none | cmp -n {END} - /dev/zero",
        disk.path()
    );
    node.vm.sh(script).await.context("a stranger's bytes where signatures may be")?;
    self::end(node, &made).await?;
    node.vm.resize_disk(serial, size).await
}

/// The bytes of a raw volume whose expansion was interrupted: its own, and zeros after them.
async fn interrupted(node: &Node, made: &Made, before: i64) -> Result<()> {
    // When a program that wrote to the disk has ended, udev makes the kernel read its tables again. A partition that
    // is not open, as it would be in a pod, is not there for that moment.
    node.vm.sh("udevadm settle").await?;
    read(node, made).await?;
    let target = made.target();
    let script = format!(
        "blockdev --flushbufs '{target}'; more=$(($(blockdev --getsize64 '{target}') - {before})); \
         cmp -n $more -i {before}:0 '{target}' /dev/zero"
    );
    node.vm.sh(script).await.context("a stranger's byte shows").map(drop)
}

/// The power goes while a volume becomes larger, on a disk that may keep some unflushed writes.
async fn power_cut(node: &mut Node, random: &mut Random) -> Result<()> {
    let (serial, size) = CUT;
    let (ask, before, disk) = small(serial, size);
    // The smaller disk is of the kills.
    let ask = ask.size(before - 1_000_000);
    let mut made = retry(|| node.csi.create(&ask)).await?;
    ensure!(made.size == before, "{} bytes on the wrong disk", made.size);
    open(node, &made).await?;
    write(node, &made).await?;
    close(node, &made).await?;
    node.vm.unplug(serial).await?;
    node.vm.resize_disk(serial, 40 * MIB).await?;
    node.vm.replug(serial).await?;
    soil(node, &disk, size, 40 * MIB).await?;
    open(node, &made).await?;
    let call = tokio::spawn({
        let (csi, made) = (node.csi.clone(), made.clone());
        async move { csi.expand(&made, before + 1).await }
    });
    tokio::time::sleep(Duration::from_millis(random.below(1500))).await;
    node.vm.power_cut_with(PowerCut::LoseSome(random.next())).await?;
    let answered = call.await?.map(|answer| answer.size).ok();
    node.vm.boot_again().await?;
    node.lost_power();
    node.serve().await?;
    let after = capacity(40 * MIB);
    let found = retry(|| node.csi.list()).await?;
    let size_now = found.first().map(|volume| volume.capacity_bytes);
    ensure!(found.len() == 1 && size_now.is_some_and(|size| [before, after].contains(&size)), "{found:?}");
    ensure!(answered.is_none() || size_now == Some(after), "{answered:?} was answered, and now: {found:?}");
    open(node, &made).await.context("after the power cut")?;
    interrupted(node, &made, before).await.context("after the power cut")?;
    made.size = retry(|| node.csi.expand(&made, before + 1)).await?.size;
    ensure!(made.size == after, "{} bytes", made.size);
    check(node, &made, before).await?;
    end(node, &made).await?;
    node.vm.unplug(serial).await?;
    node.vm.resize_disk(serial, size).await?;
    node.vm.replug(serial).await
}

/// Unpublishes and deletes a volume, and waits until its disk is wiped.
async fn end(node: &Node, made: &Made) -> Result<()> {
    close(node, made).await?;
    retry(|| node.csi.delete(&made.id)).await?;
    let empty = || async { Ok(node.found().await?.is_empty()) };
    until("the disk is free again", Duration::from_secs(60), empty).await.map(drop)
}
