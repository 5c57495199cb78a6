//! Volumes become larger: every layout with every filesystem and raw, while they are used and while they are not.

pub mod old_bytes;
pub mod parts;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use quarry_vm::{Bus, Config, Disk, Vm};
use tonic::Code;

use self::parts::{Place, check, data_parts};
use crate::csi::{Ask, Expanded, MIB, Made, Use, refused, retry};
use crate::node::{GROUP, Node};
use crate::scenario::{Context, Passed};
use crate::scenarios::disk::signatures::md_1;
use crate::scenarios::steps::{close, device_of, open, until};

/// Linear volumes begin on the smallest disk. An xfs leaves a little of it free.
const SMALL: u64 = 341 << 20;
const LARGE: u64 = 1 << 30;
/// What the pool keeps free.
const RESERVE: i64 = 16 * MIB;
/// More than the small disk holds.
const TWO_DISKS: i64 = 400 * MIB;
/// The kernel makes no btrfs larger that is smaller than this afterwards.
const BTRFS: i64 = 256 * MIB;
/// A step of growth: whole extents and rows of stripes.
const MORE: i64 = 16 * MIB;

const LAYOUTS: [&str; 3] = ["linear", "striped", "raid1"];

pub async fn run(context: Context) -> Passed {
    let config = Config::new("expand")
        .disk(Disk::new("d1", SMALL))
        .disk(Disk::new("d2", LARGE))
        .disk(Disk::new("d3", LARGE))
        .disk(Disk::new("whole", 64 << 20).bus(Bus::Scsi));
    let mut node = Node::with_vm(Vm::start(config).await?, 3).await?;
    node.configure(&format!(
        "pools:\n  - name: main\n    lvm: {{volumeGroup: {GROUP}, reserve: 16Mi}}\n  - name: whole\n    \
         disk: {{select: {{transports: [scsi]}}}}\n"
    ))
    .await?;
    node.serve().await?;
    let class = Ask::block("x").parameter("pool", "main");
    let free = node.csi.capacity(&class.parameters).await?;

    let mut expansions = 0;
    let mut random = context.random();
    let kinds: Vec<Ask> = Ask::each_filesystem("pvc-").into_iter().chain([Ask::block("pvc-block")]).collect();
    for layout in LAYOUTS {
        // A soak has every kind on every layout.
        let count = if context.settings.soak || layout == "linear" { kinds.len() } else { 2 };
        for index in random.sample(count, kinds.len()) {
            let ask = kinds[index].clone();
            let least = if ask.name == "pvc-btrfs" { BTRFS } else { ask.required };
            // Whole rows of stripes.
            let size = (least + 2 * parts::EXTENT - 1) / (2 * parts::EXTENT) * 2 * parts::EXTENT;
            let ask = laid_out(ask.size(size), layout);
            let what = format!("{layout} {}", ask.name);
            expansions += life(&node, ask, layout).await.with_context(|| what.clone())?;
            node.expect_nothing_stored().await.with_context(|| format!("after {what}"))?;
        }
        context.say(format_args!("{layout} done"));
        to_the_end(&node, layout).await.with_context(|| format!("{layout}, to the last extent"))?;
        expansions += 1;
        all_free_again(&node, &class, free).await.with_context(|| format!("after {layout}"))?;
    }
    inactive_mirror(&node).await.context("a mirror that was deactivated while lvm compared its copies")?;
    whole_disk(&node).await.context("a whole disk")?;
    node.expect_empty().await?;
    Ok(format!("{} expansions", expansions + 1))
}

/// Fails unless the pool soon has the free space of before. Not at once: a pool that could not be read in time shows
/// its space only after the next reading.
async fn all_free_again(node: &Node, class: &Ask, before: (i64, i64)) -> Result<()> {
    let space = async || node.csi.capacity(&class.parameters).await;
    let again = until("all space is free again", Duration::from_secs(30), async || Ok(space().await? == before)).await;
    if let Err(error) = again {
        let (now, log) = (space().await?, node.log_tail().await);
        return Err(error.context(format!("{now:?} instead of {before:?}; the plugin's log ends with\n{log}")));
    }
    Ok(())
}

/// The same volume with this layout.
pub fn laid_out(ask: Ask, layout: &str) -> Ask {
    let ask = ask.parameter("pool", "main");
    match layout {
        "linear" => ask,
        "striped" => ask.parameter("layout", layout).parameter("stripes", "2"),
        _ => ask.parameter("layout", layout),
    }
}

/// A volume that is filled and expanded: published, staged, and not in use. Returns how often.
async fn life(node: &Node, ask: Ask, layout: &str) -> Result<usize> {
    let mut made = retry(|| node.csi.create(&ask)).await?;
    let before = data_parts(node, &made).await?;
    open(node, &made).await?;
    let sum = fill(node, &made).await?;
    let mut room = space(node, &made).await?;

    // The pods' volume: kubelet names the published path.
    let size = made.size + MORE;
    expand(node, &mut made, size).await?;
    check(layout, size, &before, &data_parts(node, &made).await?, 0)?;
    let answered = node.csi.node_expand(&made, &made.target()).await.context("at the published path")?;
    ensure!(answered == size, "the node answered {answered} instead of {size}");
    larger(node, &made, &mut room, MORE).await.context("at the published path")?;
    compare(node, &made, &ask, &sum).await?;

    let mut expansions = 2;
    if layout == "linear" {
        let size = TWO_DISKS;
        let more = size - made.size;
        expand(node, &mut made, size).await?;
        let after = data_parts(node, &made).await?;
        check(layout, size, &before, &after, 1)?;
        let small = after[0].segments[0][0].clone();
        ensure!(small.last + 1 == extents_of(node, &small.disk).await?, "its own disk comes first: {after:?}");
        let path = staged(&made);
        node.csi.node_expand(&made, &path).await.with_context(|| format!("at {path}"))?;
        larger(node, &made, &mut room, more).await.with_context(|| format!("at {path}"))?;
        compare(node, &made, &ask, &sum).await?;
        expansions += 1;
    }

    repeated(node, &made).await.context("repeated calls")?;

    // Not in use: the next stage makes the filesystem larger.
    close(node, &made).await?;
    let size = made.size + MORE;
    expand(node, &mut made, size).await.context("not in use")?;
    open(node, &made).await?;
    larger(node, &made, &mut room, MORE).await.context("without NodeExpandVolume")?;
    compare(node, &made, &ask, &sum).await?;
    close(node, &made).await?;
    retry(|| node.csi.delete(&made.id)).await?;
    // Too late: it is gone.
    refused("deleted", node.csi.expand(&made, 2 * size).await, Code::NotFound, "")?;
    refused("deleted, on its node", node.csi.node_expand(&made, &made.target()).await, Code::NotFound, "")?;
    Ok(expansions)
}

/// ControllerExpandVolume to exactly this size, and what shows it.
async fn expand(node: &Node, made: &mut Made, size: i64) -> Result<()> {
    let answer = retry(|| node.csi.expand(made, size)).await.with_context(|| format!("to {size} bytes"))?;
    let expected = Expanded { size, on_node: !made.ask.is_block() };
    ensure!(answer == expected, "{answer:?} instead of {expected:?}");
    made.size = size;
    // In lvm's report: nothing else is left.
    node.expect_only(made).await?;
    let listed = node.csi.list().await?;
    ensure!(
        listed.len() == 1 && listed.iter().all(|volume| volume.volume_id == made.id && volume.capacity_bytes == size),
        "{size} bytes should be listed, not {listed:?}"
    );
    Ok(())
}

/// Where kubelet names a volume that was only staged so far. A raw volume is not there, so kubelet publishes it first.
fn staged(made: &Made) -> String {
    if made.ask.is_block() { made.target() } else { made.staging() }
}

/// Repeated calls are OK and change nothing.
async fn repeated(node: &Node, made: &Made) -> Result<()> {
    let before = (revision(node).await?, node.contents().await?);
    for size in [made.size, made.size - 1, made.size / 2, 1] {
        let answer = node.csi.expand(made, size).await.with_context(|| format!("{size} bytes again"))?;
        ensure!(answer.size == made.size, "{size} bytes again: {answer:?}");
    }
    let limited = node.csi.expand_to(made, 1, made.size).await?;
    ensure!(limited.size == made.size, "{limited:?}");
    refused("a limit below its size", node.csi.expand_to(made, 1, made.size - 1).await, Code::OutOfRange, "")?;
    for path in [made.target(), staged(made), made.target()] {
        let answered = node.csi.node_expand(made, &path).await.with_context(|| path)?;
        ensure!(answered == made.size, "the node answered {answered} instead of {}", made.size);
    }
    let again = node.csi.create(&made.ask).await.context("CreateVolume again, with the old size")?;
    ensure!(again.id == made.id && again.size == made.size, "CreateVolume gave {again:?}");
    let after = (revision(node).await?, node.contents().await?);
    ensure!(before == after, "repeated calls changed {before:?} to {after:?}");
    Ok(())
}

/// How often lvm has changed the volume group.
async fn revision(node: &Node) -> Result<String> {
    node.vm.sh(format!("vgs --noheadings -o vg_seqno {GROUP}")).await
}

/// The number of extents of a disk.
async fn extents_of(node: &Node, disk: &str) -> Result<i64> {
    Ok(node.vm.sh(format!("pvs --noheadings -o pv_pe_count {disk}")).await?.trim().parse()?)
}

/// Fills a raw volume, or a good part of a filesystem, with random bytes. Returns their checksum.
async fn fill(node: &Node, made: &Made) -> Result<String> {
    let target = made.target();
    let script = if made.ask.is_block() {
        format!(
            "head -c {} /dev/urandom | tee /run/random | dd of='{target}' bs=1M iflag=fullblock oflag=direct status=none; \
             md5sum < /run/random; rm /run/random",
            made.size
        )
    } else {
        format!("head -c 12M /dev/urandom > '{target}/random'; sync -f '{target}/random'; md5sum < '{target}/random'")
    };
    node.vm.sh(script).await
}

/// Fails unless all bytes of [`fill`] are there, and zeros after those of a raw volume.
async fn compare(node: &Node, made: &Made, ask: &Ask, sum: &str) -> Result<()> {
    let (target, old) = (made.target(), ask.required);
    let script = if ask.is_block() {
        format!("cmp -n {} -i {old}:0 '{target}' /dev/zero; head -c {old} '{target}' | md5sum", made.size - old)
    } else {
        format!("md5sum < '{target}/random'")
    };
    let found = node.vm.sh(script).await.context("not zero after the old end")?;
    ensure!(found == sum, "the data was {sum}, and is {found}");
    Ok(())
}

/// The size of a published filesystem as statfs reports it, and of a raw volume.
pub async fn space(node: &Node, made: &Made) -> Result<i64> {
    let target = made.target();
    let script = if made.ask.is_block() {
        format!("blockdev --getsize64 '{target}'")
    } else {
        format!("set -- $(stat -f -c '%b %S' '{target}'); echo $(($1 * $2))")
    };
    Ok(node.vm.sh(script).await?.trim().parse()?)
}

/// The size of a published filesystem in its own description, in bytes; of a raw volume the size of its device.
pub async fn described(node: &Node, made: &Made) -> Result<i64> {
    let (target, device) = (made.target(), device_of(made));
    let script = match made.ask.usage {
        Use::Mount("ext4") => format!(
            "set -- $(dumpe2fs -h {device} 2>/dev/null | sed -n 's/^Block \\(count\\|size\\): *//p'); echo $(($1 * $2))"
        ),
        Use::Mount("xfs") => format!(
            "set -- $(xfs_info '{target}' | sed -n 's/^data .*bsize=\\([0-9]*\\) *blocks=\\([0-9]*\\),.*/\\1 \\2/p'); \
             echo $(($1 * $2))"
        ),
        Use::Mount("btrfs") => {
            format!("btrfs filesystem show --raw '{target}' | sed -n 's/.* size \\([0-9]*\\) .*/\\1/p'")
        }
        Use::Mount(other) => anyhow::bail!("the size of {other}"),
        Use::Block => format!("blockdev --getsize64 '{target}'"),
    };
    let printed = node.vm.sh(script).await?;
    printed.trim().parse().with_context(|| format!("the size of {} is {printed:?}", made.id))
}

/// Fails unless a published filesystem fills its device, and the device has the volume's size.
pub async fn fills_device(node: &Node, made: &Made) -> Result<()> {
    let device = node.vm.sh(format!("blockdev --getsize64 {}", device_of(made))).await?;
    ensure!(device.trim() == made.size.to_string(), "the device has {device} bytes instead of {}", made.size);
    let own = described(node, made).await?;
    ensure!(own <= made.size && own > made.size - MIB, "a filesystem of {own} bytes on {}", made.size);
    Ok(())
}

/// Writes a former owner's signature at the end of each of these places: md's, as if it were the one of the volume
/// when it has this size.
pub async fn plant(node: &Node, places: &[Place], size: i64) -> Result<()> {
    node.vm.write("/run/md", &md_1(u64::try_from(size - 8192)?), 0o600).await?;
    for (disk, _, to) in places {
        let dd = format!("of={disk} bs=1M oflag=seek_bytes conv=notrunc,fsync status=none");
        node.vm.sh(format!("dd if=/run/md seek={} {dd}", to - 8192)).await.context("writing md's superblock")?;
    }
    Ok(())
}

/// Fails unless probes see this filesystem on the volume's device, and nothing else.
pub async fn only(node: &Node, made: &Made, filesystem: &str) -> Result<()> {
    let device = device_of(made);
    let script = format!(
        "blockdev --flushbufs {device}; wipefs --noheadings -O TYPE {device} | tr -d ' '; \
         blkid -p -s TYPE -o value {device}"
    );
    let seen = node.vm.sh(script).await.context("a probe finds a signature of a former owner")?;
    ensure!(seen == format!("{filesystem}\n{filesystem}"), "on the device there is {seen:?}: left by a former owner");
    Ok(())
}

/// Fails unless the device has the volume's size, and what is published is larger than `room` by about `more`. `room`
/// becomes its size.
async fn larger(node: &Node, made: &Made, room: &mut i64, more: i64) -> Result<()> {
    fills_device(node, made).await?;
    let now = space(node, made).await?;
    // A filesystem uses some of it for itself.
    let least = if made.ask.is_block() { more } else { more / 5 * 4 };
    ensure!(now - *room >= least, "{more} bytes more made {now} bytes of {room}");
    *room = now;
    Ok(())
}

/// A volume that was never staged, as large as it can be: the answer to a larger size names that size exactly.
async fn to_the_end(node: &Node, layout: &str) -> Result<()> {
    let ask = laid_out(Ask::mount("pvc-new", "ext4"), layout);
    let mut made = retry(|| node.csi.create(&ask)).await?;
    let tags = "lvs --noheadings -o lv_tags";
    let record = node.vm.sh(format!("{tags} {GROUP}/pvc-new")).await?;
    let most = named(node.csi.expand(&made, 1 << 40).await, 1 << 40)?;
    ensure!(most > ask.required, "{most} bytes are the largest size of a volume of {}", ask.required);
    refused("one byte more", node.csi.expand(&made, most + 1).await, Code::OutOfRange, &most.to_string())?;
    node.expect_only(&made).await.context("after it was rejected")?;
    expand(node, &mut made, most).await?;
    refused("one byte more", node.csi.expand(&made, most + 1).await, Code::OutOfRange, &most.to_string())?;
    let free = node.vm.sh(format!("vgs --noheadings --units b --nosuffix -o vg_free {GROUP}")).await?;
    let free: i64 = free.trim().parse()?;
    ensure!(free >= RESERVE, "{free} bytes are left of the reserve");
    let again = node.csi.create(&ask).await.context("CreateVolume again, with the old size")?;
    ensure!(again.id == made.id && again.size == most, "CreateVolume gave {again:?}");
    ensure!(node.vm.sh(format!("{tags} {GROUP}/pvc-new")).await? == record, "its record is not {record}");
    open(node, &made).await?;
    fills_device(node, &made).await?;
    close(node, &made).await?;
    retry(|| node.csi.delete(&made.id)).await?;
    node.expect_nothing_stored().await
}

/// While a mirror is not active, its copies are not compared any further, and what is known of them is old. It can be
/// expanded nevertheless.
async fn inactive_mirror(node: &Node) -> Result<()> {
    let ask = laid_out(Ask::block("pvc-mirror").size(64 * MIB), "raid1");
    let mut made = retry(|| node.csi.create(&ask)).await?;
    open(node, &made).await?;
    let sum = fill(node, &made).await?;
    let slow = "sysctl -qw dev.raid.speed_limit_min=100 dev.raid.speed_limit_max=500";
    node.vm.sh(format!("{slow}; lvchange --syncaction repair {GROUP}/pvc-mirror")).await?;
    let size = made.size + MORE;
    let active = node.csi.expand(&made, size).await;
    refused("while the copies are compared", active, Code::Aborted, "while its copies are being compared")?;
    close(node, &made).await?;
    let device = format!("/dev/mapper/{GROUP}-pvc--mirror");
    let inactive = async || Ok(node.vm.sh(format!("test -e {device} || echo gone")).await? == "gone");
    until("it is deactivated", Duration::from_secs(30), inactive).await?;
    node.vm.sh("sysctl -qw dev.raid.speed_limit_min=1000 dev.raid.speed_limit_max=200000").await?;
    expand(node, &mut made, size).await?;
    until("it is deactivated again", Duration::from_secs(30), inactive).await?;
    open(node, &made).await?;
    compare(node, &made, &ask, &sum).await?;
    close(node, &made).await?;
    retry(|| node.csi.delete(&made.id)).await?;
    node.expect_nothing_stored().await
}

/// The largest number of bytes, below what was asked for, in the answer that a size does not fit.
fn named(answer: Result<Expanded, tonic::Status>, asked: i64) -> Result<i64> {
    let status = answer.err().context("a size that cannot fit was accepted")?;
    ensure!(status.code() == Code::OutOfRange, "not OUT_OF_RANGE: {status:?}");
    let numbers = status.message().split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse::<i64>().ok());
    numbers.filter(|number| *number < asked).max().with_context(|| format!("no size in {:?}", status.message()))
}

/// A whole disk has one size.
async fn whole_disk(node: &Node) -> Result<()> {
    let ask = Ask::mount("pvc-whole", "ext4").parameter("pool", "whole");
    let made = retry(|| node.csi.create(&ask)).await?;
    open(node, &made).await?;
    let words = made.size.to_string();
    refused("a whole disk", node.csi.expand(&made, made.size + 1).await, Code::OutOfRange, &words)?;
    let answer = node.csi.expand(&made, made.size).await?;
    ensure!(answer.size == made.size, "{answer:?}");
    let answered = node.csi.node_expand(&made, &made.target()).await?;
    ensure!(answered == made.size, "the node answered {answered}");
    close(node, &made).await?;
    retry(|| node.csi.delete(&made.id)).await?;
    // Its disk is wiped after the answer.
    until("the disk is free again", Duration::from_secs(60), async || {
        Ok(node.csi.capacity(&ask.parameters).await?.1 >= made.size)
    })
    .await
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_named_size_is_the_largest_below_the_asked_one() {
        let status = |code, text: &str| Err(tonic::Status::new(code, text));
        let text = "cannot have 1099511627776 bytes: 2 disks; the largest size is 335544320 bytes";
        assert_eq!(named(status(Code::OutOfRange, text), 1 << 40).unwrap(), 335_544_320);
        assert!(named(status(Code::Internal, text), 1 << 40).is_err());
        assert!(named(status(Code::OutOfRange, "no room"), 1 << 40).is_err());
    }
}
