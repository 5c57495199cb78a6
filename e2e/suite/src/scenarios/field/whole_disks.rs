//! Damage to the claims of whole disks, copies of disks, and names from a stale udev database.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use quarry_vm::{Bus, Disk};
use serde_json::Value;
use tonic::Code;

use crate::csi::{Ask, Made, refused, retry};
use crate::node::{BINARY, Node};
use crate::scenario::{Context, Passed, Scenario};
use crate::scenarios::disk::kernel_name;
use crate::scenarios::steps::{close, open, read, write};

const MIB: u64 = 1 << 20;
/// The size of the disk that is damaged, of its copies, and of a free one.
const SIZE: u64 = 72 * MIB;

/// All of them.
pub fn all() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "disk-claims-repaired",
            about: "whatever damages a claim, its name stays in use, and the printed commands repair it",
            limit: Duration::from_secs(20 * 60),
            run: |context| Box::pin(repaired(context)),
        },
        Scenario {
            name: "disk-stale-names",
            about: "stale udev names of another disk select nothing",
            limit: Duration::from_secs(10 * 60),
            run: |context| Box::pin(stale_names(context)),
        },
    ]
}

fn disk(serial: &str) -> Disk {
    Disk::new(serial, SIZE).bus(Bus::Virtio)
}

/// What happens to a claim, as a script; `$d` is the disk, `$s` its size in sectors of 512 bytes.
const HARMS: [(&str, &str); 8] = [
    ("the table at the start lost", "dd if=/dev/zero of=$d bs=512 seek=1 count=1 conv=notrunc,fsync"),
    ("the table at the end lost", "dd if=/dev/zero of=$d bs=512 seek=$((s - 1)) count=1 conv=notrunc,fsync"),
    ("the protective MBR lost", "dd if=/dev/zero of=$d bs=512 count=1 conv=notrunc,fsync"),
    (
        "both tables lost",
        "for at in 1 $((s - 1)); do dd if=/dev/zero of=$d bs=512 seek=$at count=1 conv=notrunc,fsync; done",
    ),
    ("a DOS partition table", "echo 'label: dos' | sfdisk --force --no-reread --wipe never $d"),
    ("another GPT", "sgdisk -o -n 1:2048: $d"),
    ("the volume's partition extended", "echo ', +' | sfdisk --force --no-reread -N 2 $d; partx --update $d"),
    (
        "the volume's partition and its filesystem extended",
        "echo ', +' | sfdisk --force --no-reread -N 2 $d; partx --update $d; e2fsck -f -p ${d}2; resize2fs ${d}2",
    ),
];

async fn repaired(context: Context) -> Passed {
    let mut node = Node::on_disks("disk-claims-repaired", vec![disk("claimed"), disk("spare")]).await?;
    node.serve().await?;
    let ask = Ask::mount("precious", "ext4");
    let made = retry(|| node.csi.create(&ask)).await?;
    open(&node, &made).await?;
    write(&node, &made).await?;
    let name = claimed(&node).await?;
    measured(&node, &made, true).await?;
    close(&node, &made).await?;
    fresh_cache(&node, &name).await.context("the disk's bytes after the unstage")?;
    for (what, harm) in HARMS {
        damaged(&mut node, &made, &name, harm).await.with_context(|| what.to_owned())?;
        context.say(format_args!("{what}: repaired by the printed commands"));
    }
    mounted(&mut node, &made, &name).await.context("damaged while mounted")?;
    let at = copied(&mut node, &made, &name).await.context("a copy of the disk")?;
    node.csi.delete(&made.id).await?;
    Ok(format!("{} kinds of damage repaired by the printed commands, a copy at {at} reported", HARMS.len()))
}

/// The kernel's name of the disk that the volume got.
async fn claimed(node: &Node) -> Result<String> {
    for candidate in [disk("claimed"), disk("spare")] {
        let name = kernel_name(node, &candidate).await?;
        if report(node, &name).await?["volume"].is_string() {
            return Ok(name);
        }
    }
    anyhow::bail!("no disk is claimed")
}

/// What `quarry disks` says of a disk.
async fn report(node: &Node, name: &str) -> Result<Value> {
    let text = node.vm.sh(format!("{BINARY} disks --config /etc/quarry/pools.yaml -o json || true")).await?;
    let answer: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    let disks = answer["disks"].as_array().context("a list of disks")?;
    disks.iter().find(|disk| disk["name"] == *name).cloned().with_context(|| format!("no disk {name} in {text}"))
}

/// Runs something on a disk, with `$d` and `$s` set.
async fn on(node: &Node, name: &str, script: &str) -> Result<String> {
    node.vm
        .sh(format!("d=/dev/{name}; s=$(blockdev --getsz $d); {{ {script}; }} >/tmp/harm.log 2>&1 || {{ cat /tmp/harm.log; exit 1; }}; udevadm settle"))
        .await
}

/// A copy of the whole disk contains the filesystem's bytes, not the earlier ones.
async fn fresh_cache(node: &Node, name: &str) -> Result<()> {
    // It goes soon after the unstage.
    let mut magic = String::new();
    for _ in 0..20 {
        magic = node
            .vm
            .sh(format!("dd if=/dev/{name} bs=8 skip=$(((2 << 20 | 1080) / 8)) count=1 status=none | od -An -tx2"))
            .await?;
        if magic.contains("ef53") {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    anyhow::bail!("ext4's mark is not there, but {magic:?}")
}

/// Damages the claim, restarts, tries to create the volume again, repairs the claim, and reads the data.
async fn damaged(node: &mut Node, made: &Made, name: &str, harm: &str) -> Result<()> {
    on(node, name, harm).await?;
    node.stop().await?;
    node.serve().await?;
    // A volume with one valid table is used as it is; all others need the operator first.
    let before = report(node, name).await?;
    let usable = !before["mend"].to_string().contains("wipefs");
    if usable {
        ensure!(node.csi.create(&made.ask).await?.id == made.id, "another volume answers to the name");
    } else {
        refused("create", node.csi.create(&made.ask).await, Code::Unavailable, name)?;
        refused("stage", node.csi.stage(made).await, Code::FailedPrecondition, name)?;
        refused("delete", node.csi.delete(&made.id).await, Code::Unavailable, name)?;
    }
    repair(node, name, false).await?;
    open(node, made).await?;
    read(node, made).await?;
    close(node, made).await
}

/// Runs what `quarry disks` prints. `mounted`: the filesystem is in use, and was not grown.
async fn repair(node: &Node, name: &str, mounted: bool) -> Result<()> {
    let before = report(node, name).await?;
    let repairs = before["mend"].as_array().cloned().unwrap_or_default();
    ensure!(!repairs.is_empty(), "no commands are printed that repair it: {before}");
    for step in &repairs {
        let about = step["about"].as_str().unwrap_or_default();
        if about.contains("ceases to exist") || mounted && about.contains("larger than the volume") {
            continue;
        }
        for command in step["commands"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            // The step for a filesystem that was extended does nothing to one that was not.
            node.vm
                .sh(format!(
                    "{{ {command}\n}} >/tmp/repair.log 2>&1 || {{ cat /tmp/repair.log; exit 1; }}; udevadm settle"
                ))
                .await
                .with_context(|| command.to_owned())?;
        }
    }
    let after = report(node, name).await?;
    ensure!(after["mend"] == Value::Array(Vec::new()), "it is not repaired: {after}");
    Ok(())
}

/// A mounted volume can be measured and unmounted whatever is done to the tables, also after a restart.
async fn mounted(node: &mut Node, made: &Made, name: &str) -> Result<()> {
    open(node, made).await?;
    on(node, name, "echo ', +' | sfdisk --force --no-reread -N 2 $d; partx --update $d").await?;
    node.stop().await?;
    node.serve().await?;
    measured(node, made, true).await?;
    repair(node, name, true).await.context("while it is mounted")?;
    read(node, made).await?;
    close(node, made).await
}

/// NodeGetVolumeStats of the target.
async fn measured(node: &Node, made: &Made, answers: bool) -> Result<()> {
    let request = quarry_proto::csi::v1::NodeGetVolumeStatsRequest {
        volume_id: made.id.clone(),
        volume_path: made.target(),
        ..Default::default()
    };
    let answer = node.csi.node().node_get_volume_stats(request).await;
    match answer {
        Ok(answer) => ensure!(answers && !answer.get_ref().usage.is_empty(), "{answer:?}"),
        Err(status) => ensure!(!answers && status.code() == Code::Unavailable, "{status:?}"),
    }
    Ok(())
}

/// Two disks with the volume, which is mounted: every call reports this, names both and is retryable; only
/// its pod can end. Returns the name of the copy.
async fn copied(node: &mut Node, made: &Made, name: &str) -> Result<String> {
    open(node, made).await?;
    node.vm.add_disks(vec![disk("copy")]).await?;
    let copy = kernel_name(node, &disk("copy")).await?;
    node.vm.sh(format!("dd if=/dev/{name} of=/dev/{copy} bs=1M conv=fsync status=none; udevadm settle")).await?;
    for restarted in [false, true] {
        if restarted {
            node.stop().await?;
            node.serve().await?;
        }
        for disk in [name, &copy] {
            refused("create", node.csi.create(&made.ask).await, Code::Unavailable, disk)?;
            refused("stage", node.csi.stage(made).await, Code::Unavailable, disk)?;
            refused("publish", node.csi.publish(made).await, Code::Unavailable, disk)?;
            refused("delete", node.csi.delete(&made.id).await, Code::Unavailable, disk)?;
        }
        measured(node, made, false).await?;
        let (_, ready) = node.http("/readyz").await?;
        ensure!(ready.contains(name) && ready.contains(&copy), "/readyz says {ready}");
        let listed = report(node, &copy).await?;
        ensure!(listed["reason"].as_str().is_some_and(|why| why.contains(name)), "{listed}");
        ensure!(node.csi.list().await?.len() == 1, "the volume is not listed");
    }
    close(node, made).await.context("while two disks hold it")?;
    node.vm.take_disk("copy").await?;
    retry(|| node.csi.stage(made)).await.context("after the copy was removed")?;
    open(node, made).await?;
    read(node, made).await?;
    close(node, made).await?;
    Ok(copy)
}

async fn stale_names(context: Context) -> Passed {
    let mut node = Node::on_disks("disk-stale-names", vec![disk("SYSTEM"), disk("other")]).await?;
    let name = kernel_name(&node, &disk("SYSTEM")).await?;
    // As where udev missed that GOOD was pulled and SYSTEM came in its place: database and links are those of GOOD. The
    // kernel's count was not written down, as older udevs do not.
    let stale = format!(
        "udevadm control --exit; data=/run/udev/data/b$(cat /sys/block/{name}/dev); \
         sed -i -e /by-diskseq/d -e s/SYSTEM/GOOD/g $data; \
         rm -f /dev/disk/by-id/virtio-SYSTEM; ln -s ../../{name} /dev/disk/by-id/virtio-GOOD"
    );
    node.vm.sh(stale).await?;
    let selections = [
        "select: {byId: ['virtio-GOOD*']}\n    exclude: {byId: ['virtio-SYSTEM*']}",
        "select: {byId: ['virtio-GOOD*']}",
        "select: {paths: ['/dev/disk/by-id/virtio-GOOD*']}",
        "select: {transports: [virtio], size: {atLeast: 64Mi, atMost: 80Mi}}\n    exclude: {byId: ['virtio-SYSTEM*', 'virtio-other']}",
    ];
    for select in selections {
        node.configure(&format!("pools:\n  - name: main\n    disk:\n      {}\n", select.replace('\n', "\n  "))).await?;
        node.serve().await?;
        let made = node.csi.create(&Ask::mount("excluded", "ext4")).await;
        refused(select, made, Code::ResourceExhausted, "disk")?;
        let report = report(&node, &name).await?;
        ensure!(
            report["reason"].as_str().is_some_and(|why| why.contains("GOOD") && why.contains("SYSTEM")),
            "{report}"
        );
        ensure!(report["pool"].is_null() && report["volume"].is_null(), "{report}");
        node.stop().await?;
        context.say(format_args!("{select}: not selected"));
    }
    Ok(format!("{} selectors did not take a disk by another's names", selections.len()))
}
