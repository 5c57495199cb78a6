//! What a former owner wrote where a volume grows is never visible: a raw volume reads zero at every instant, and no
//! signature shows at an end of a device with a filesystem.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use quarry_vm::{Command, Config, Disk, Vm};

use super::parts::{EXTENT, data_parts, new_places, new_places_of};
use super::{laid_out, only, plant, space};
use crate::csi::{Ask, MIB, retry};
use crate::node::{GROUP, Node, device};
use crate::scenario::{Context, Passed};
use crate::scenarios::kill::broken::{disable, expect_violation};
use crate::scenarios::steps::{close, open, read, remove_left, write};

/// Linear volumes begin on the smaller disk, and do not fit there once they are expanded twice.
const DISKS: [u64; 2] = [61 << 20, 121 << 20];
const READER: &str = "/usr/local/bin/read-raw-volume";
const STOP: &str = "/run/stop-reading";
/// What the former owner wrote everywhere.
const OLD: &str = "a former owner's secret";
/// The raw volume.
const RAW: &str = "pvc-raw";
/// The volume that is expanded over signatures.
const OVER: &str = "pvc-over";

pub async fn run(context: Context) -> Passed {
    let config = Config::new("expand-old-bytes").disk(Disk::new("d1", DISKS[0])).disk(Disk::new("d2", DISKS[1]));
    let vm = Vm::start(config).await?;
    vm.write(READER, include_bytes!("reader.pl"), 0o644).await?;
    let mut node = Node::with_vm(vm, 2).await?;
    node.serve().await?;
    templates(&node).await.context("making the signatures")?;

    let (mut looks, mut sizes) = (0, 0);
    for (layout, steps) in [("linear", [44, 96]), ("striped", [64, 96]), ("raid1", [44, 52])] {
        let read = raw(&node, layout, steps).await.with_context(|| format!("a raw {layout} volume"))?;
        looks += read.looks;
        sizes += read.sizes;
    }
    context.say(format_args!("raw: looked {looks} times, larger {sizes} times"));
    for layout in ["linear", "striped", "raid1"] {
        signatures(&node, layout).await.with_context(|| format!("ext4 on a {layout} volume"))?;
    }
    context.say("signatures done");

    not_discarded(&node).await.context("a host that discards the space of removed volumes")?;

    let asks = [Ask::block(RAW), Ask::mount(OVER, "ext4")];
    disable(&node, "expand-zero", true).await?;
    expect_violation(raw(&node, "linear", [44, 96]).await.map(drop), "a former owner's byte")?;
    disable(&node, "expand-zero", false).await?;
    remove_left(&node, &asks).await?;
    for layout in ["linear", "raid1"] {
        disable(&node, "expand-wipe", true).await?;
        expect_violation(signatures(&node, layout).await, "left by a former owner")?;
        disable(&node, "expand-wipe", false).await?;
        remove_left(&node, &asks).await?;
    }
    node.expect_empty().await?;
    Ok(format!(
        "looked {looks} times while volumes became larger {sizes} times, 0 old bytes; 3 broken variants, 3 caught"
    ))
}

/// Fills that many free extents with the former owner's bytes: a number, or `100%FREE`.
pub async fn soil(node: &Node, extents: &str) -> Result<()> {
    node.vm
        .sh(format!(
            "lvcreate -qq -y -Wn -Zn -l {extents} -n soil {GROUP}; size=$(blockdev --getsize64 /dev/{GROUP}/soil); \
             yes \"{OLD}\" | head -c $size | dd of=/dev/{GROUP}/soil bs=1M iflag=fullblock oflag=direct status=none; \
             tail -c 4096 /dev/{GROUP}/soil | grep -q secret; lvremove -qq -y {GROUP}/soil"
        ))
        .await
        .map(drop)
        .context("writing a former owner's bytes")
}

/// What the reader saw.
struct Seen {
    looks: u64,
    sizes: u64,
}

/// A raw volume that is expanded to these sizes (MiB) while it is read.
async fn raw(node: &Node, layout: &str, steps: [i64; 2]) -> Result<Seen> {
    soil(node, "100%FREE").await?;
    let ask = laid_out(Ask::block(RAW), layout);
    let mut made = retry(|| node.csi.create(&ask)).await?;
    open(node, &made).await?;
    write(node, &made).await?;
    let (target, old) = (made.target(), made.size);
    node.vm.sh(format!("rm -f {STOP}")).await?;
    let reader = Command::sh(format!("exec perl {READER} '{target}' {old} {STOP}")).timeout(Duration::from_secs(600));
    let mut reader = node.vm.spawn(reader).await?;
    for step in steps {
        tokio::time::sleep(Duration::from_millis(300)).await;
        made.size = retry(|| node.csi.expand(&made, step * MIB)).await?.size;
        ensure!(made.size == step * MIB, "{} bytes", made.size);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    node.vm.sh(format!("touch {STOP}")).await?;
    let output = reader.wait().await?;
    let printed = output.text();
    ensure!(output.exit.success(), "the reader: {}\n{printed}\n{}", output.exit, output.error_text());
    let words: Vec<&str> = printed.split_whitespace().collect();
    let [looks, sizes, end, found] = words[..] else { anyhow::bail!("the reader said {printed:?}") };
    ensure!(found == "clean", "a former owner's byte showed at {found} (of {end}, {old} before)");
    ensure!(end == made.size.to_string() && sizes == "2", "the reader missed a size: {printed}");
    // Each copy, and from the disk.
    let images = "ls /dev/mapper/*pvc--raw_rimage_? 2>/dev/null || true";
    let script = format!(
        "for device in {target} $({images}); do blockdev --flushbufs $device; \
         cmp -n {} -i {old}:0 $device /dev/zero || exit 1; done",
        made.size - old
    );
    node.vm.sh(script).await.context("a former owner's byte shows")?;
    read(node, &made).await?;
    close(node, &made).await?;
    retry(|| node.csi.delete(&made.id)).await?;
    node.expect_empty().await?;
    Ok(Seen { looks: looks.parse()?, sizes: sizes.parse()? })
}

/// With `issue_discards`, lvm discards the space of removed volumes, but not what was zeroed for a volume: a disk may
/// return anything after a discard.
async fn not_discarded(node: &Node) -> Result<()> {
    const LOCAL: &str = "/etc/lvm/lvmlocal.conf";
    node.vm.sh(format!("touch {LOCAL}; cp {LOCAL} /run/lvmlocal; echo 'devices/issue_discards=1' >> {LOCAL}")).await?;
    let ask = Ask::block(RAW);
    let mut made = retry(|| node.csi.create(&ask)).await?;
    let before = discards(node).await?;
    made.size = retry(|| node.csi.expand(&made, 44 * MIB)).await?.size;
    let during = discards(node).await? - before;
    ensure!(during == 0, "{during} discards while a volume was expanded");
    retry(|| node.csi.delete(&made.id)).await?;
    ensure!(discards(node).await? > before, "the setting has no effect on this guest");
    node.vm.sh(format!("cp /run/lvmlocal {LOCAL}")).await.map(drop)
}

/// How many discards the disks of the volume group have got.
async fn discards(node: &Node) -> Result<u64> {
    let disks = ["d1", "d2"].map(device).join(" ");
    let script = format!("for disk in {disks}; do cat /sys/class/block/$(basename $(readlink -f $disk))/stat; done");
    let counted = node.vm.sh(format!("({script}) | awk '{{ sum += $12 }} END {{ print sum + 0 }}'")).await?;
    Ok(counted.trim().parse()?)
}

/// Files with the beginnings of things that a former owner may have had where the new space begins.
async fn templates(node: &Node) -> Result<()> {
    node.vm
        .sh("mkdir -p /run/old; cd /run/old; \
             truncate -s 8M ext4; mkfs.ext4 -q -F -L former ext4; \
             truncate -s 310M xfs; mkfs.xfs -q -f xfs; \
             truncate -s 8M lvm; loop=$(losetup -f --show lvm); pvcreate -qq -y $loop; losetup -d $loop; \
             truncate -s 64M gpt; sgdisk -n 1:2048: gpt >/dev/null; tail -c 16896 gpt > gpt-end; \
             for file in ext4 xfs lvm; do head -c 128K $file > $file-start; rm $file; done; rm gpt")
        .await
        .map(drop)
}

/// An ext4 is expanded over the signatures of former owners.
async fn signatures(node: &Node, layout: &str) -> Result<()> {
    let size = 48 * MIB;
    let starts = ["ext4", "xfs", "lvm"];
    soil(node, "100%FREE").await?;
    let ask = laid_out(Ask::mount(OVER, "ext4"), layout);
    let mut made = retry(|| node.csi.create(&ask)).await?;
    let before = data_parts(node, &made).await?;
    // The new extents: directly after the old ones on the same disks.
    let places = new_places(&before, made.size, size)?;
    for (index, (disk, from, to)) in places.iter().enumerate() {
        let start = starts[index % starts.len()];
        let dd = format!("of={disk} bs=1M oflag=seek_bytes conv=notrunc,fsync status=none");
        let backup = to - 16896;
        let script =
            format!("dd if=/run/old/{start}-start seek={from} {dd}; dd if=/run/old/gpt-end seek={backup} {dd}");
        node.vm.sh(script).await.context("writing a former owner's signatures")?;
    }
    plant(node, &places, size).await?;
    open(node, &made).await?;
    write(node, &made).await?;
    let room = space(node, &made).await?;
    made.size = retry(|| node.csi.expand(&made, size)).await?.size;
    let after = data_parts(node, &made).await?;
    ensure!(
        made.size == size && places == new_places_of(&before, &after)?,
        "the signatures are not where the volume became larger: {places:?}, {after:?}"
    );
    // Before the filesystem becomes larger: what is there is what the expansion left there.
    only(node, &made, "ext4").await?;
    for (disk, from, to) in &places {
        for at in [*from, to - EXTENT] {
            let script = format!(
                "dd if={disk} bs=1M iflag=direct,skip_bytes,count_bytes skip={at} count={EXTENT} status=none | \
                 cmp -n {EXTENT} - /dev/zero"
            );
            node.vm.sh(script).await.with_context(|| format!("{disk} at {at}: left by a former owner"))?;
        }
    }
    let target = made.target();
    retry(|| node.csi.node_expand(&made, &target)).await?;
    ensure!(space(node, &made).await? > room, "the filesystem did not become larger");
    only(node, &made, "ext4").await?;
    read(node, &made).await?;
    close(node, &made).await?;
    open(node, &made).await.context("staged again")?;
    only(node, &made, "ext4").await?;
    read(node, &made).await?;
    close(node, &made).await?;
    retry(|| node.csi.delete(&made.id)).await?;
    node.expect_empty().await
}
