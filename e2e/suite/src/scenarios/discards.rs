//! The space of deleted files is discarded as the class says, also after the plugin was restarted.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use quarry_vm::{Config, Disk, Vm};
use tonic::Code;

use crate::csi::{Ask, MIB, Made, refused, retry};
use crate::node::{GROUP, Node};
use crate::scenario::{Context, Passed};
use crate::scenarios::steps::{close, open, until};

const DISK: u64 = 3 << 30;
/// The size of the thin pool.
const POOL: i64 = 1200 * MIB;
/// The size of a volume.
const VOLUME: i64 = 300 * MIB;
/// The size of the file that is deleted.
const FILE: i64 = 60 * MIB;
/// A volume's times of `discard: periodic` are at most two of them apart.
const INTERVAL: Duration = Duration::from_secs(10);
/// A pool is looked at every ten seconds, and a failed step is repeated after a minute.
const CREATED: Duration = Duration::from_secs(120);

/// Which volumes there are: the pool, the filesystem and `discard` of the class.
const VOLUMES: [(&str, &str, &str); 10] = [
    ("thin", "ext4", "online"),
    ("thin", "ext4", "periodic"),
    ("thin", "ext4", "none"),
    ("thin", "xfs", "online"),
    ("thin", "xfs", ""),
    ("thin", "btrfs", "online"),
    ("thin", "btrfs", ""),
    ("thin", "btrfs", "none"),
    ("main", "ext4", "periodic"),
    ("main", "xfs", ""),
];

/// A volume with a file that is deleted later.
struct Filled {
    made: Made,
    /// When its unused space is discarded: the class's value, or the default of the pool.
    discard: &'static str,
    thin: bool,
    /// The bytes that it uses in the thin pool, with the file.
    used: i64,
}

pub async fn run(_context: Context) -> Passed {
    let config = Config::new("discards").disk(Disk::new("d1", DISK)).disk(Disk::new("d2", DISK));
    let mut node = Node::with_vm(Vm::start(config).await?, 2).await?;
    let interval = INTERVAL.as_secs();
    node.configure(&format!(
        "pools:\n  - name: main\n    trimInterval: {interval}s\n    lvm: {{volumeGroup: {GROUP}}}\n  - name: thin\n    \
         trimInterval: {interval}s\n    lvm: {{volumeGroup: {GROUP}, thinPool: {{name: thin, create: true, size: {POOL}, \
         overprovision: 4}}}}\n"
    ))
    .await?;
    node.serve().await?;
    let thin = Ask::block("x").parameter("pool", "thin").parameters;
    until("the thin pool", CREATED, || async { Ok(node.csi.capacity(&thin).await?.0 > 0) }).await?;
    parameter(&node).await.context("the parameter")?;

    let mut volumes = Vec::new();
    for (pool, filesystem, discard) in VOLUMES {
        let what = format!("pvc-{pool}-{filesystem}-{discard}");
        volumes.push(fill(&node, pool, filesystem, discard).await.context(what)?);
    }
    let before = used(&node, "thin", POOL).await?;
    let thick = thick_discards(&node, &volumes).await?;
    for volume in &volumes {
        let target = volume.made.target();
        node.vm.sh(format!("rm '{target}/file' && sync -f '{target}'")).await?;
    }
    // The next times are not stored anywhere.
    node.kill().await?;
    node.serve().await?;
    let began = Instant::now();
    for volume in volumes.iter().filter(|volume| volume.thin && volume.discard != "none") {
        let within = if volume.discard == "online" { Duration::from_secs(60) } else { 4 * INTERVAL };
        let what = format!("{} returns the space", volume.made.ask.name);
        until(&what, within, || async { returned(&node, volume).await }).await?;
    }
    tokio::time::sleep((4 * INTERVAL).saturating_sub(began.elapsed())).await;
    for volume in volumes.iter().filter(|volume| volume.thin && volume.discard == "none") {
        let now = used(&node, &volume.made.ask.name, VOLUME).await?;
        ensure!(now > volume.used - FILE / 10, "{}: {now} of {} bytes are left", volume.made.ask.name, volume.used);
    }
    let after = thick_discards(&node, &volumes).await?;
    for (volume, (before, after)) in volumes.iter().filter(|volume| !volume.thin).zip(thick.iter().zip(&after)) {
        let name = &volume.made.ask.name;
        let discarded = after - before;
        ensure!((discarded >= FILE * 8 / 10) == (volume.discard == "periodic"), "{name}: {discarded} bytes discarded");
    }
    let freed = before - used(&node, "thin", POOL).await?;
    ensure!(freed >= 6 * FILE / 2, "{freed} bytes returned to the pool");
    let trimmed = node.metric("quarry_trimmed_bytes_total").await?;
    let failed = node.metric("quarry_trim_failures_total").await?;
    ensure!(trimmed > 0.0 && failed == 0.0, "{trimmed} bytes were trimmed, and {failed} trims failed");
    modified(&node, &volumes).await.context("changed under a pod")?;
    // Trims run all the while, and an unmount must not meet one.
    for volume in &volumes {
        close(&node, &volume.made).await?;
        retry(|| node.csi.delete(&volume.made.id)).await?;
    }
    Ok(format!("{} volumes, {} MiB returned to the pool", volumes.len(), freed / MIB))
}

/// What the controller accepts.
async fn parameter(node: &Node) -> Result<()> {
    let class = |name: &str| Ask::mount(name, "ext4").parameter("pool", "thin").size(VOLUME);
    let unknown = class("pvc-unknown").parameter("discard", "weekly");
    refused("another value", node.csi.create(&unknown).await, Code::InvalidArgument, "online, periodic or none")?;
    let mut contrary = class("pvc-contrary").parameter("discard", "online");
    contrary.mount_flags.push("nodiscard".to_owned());
    refused("nodiscard", node.csi.create(&contrary).await, Code::InvalidArgument, "contradicts")?;
    // A class is used for both; it has no meaning for a raw volume.
    let raw = Ask::block("pvc-raw").parameter("pool", "thin").parameter("discard", "online");
    let raw = retry(|| node.csi.create(&raw)).await.context("a raw volume")?;
    let changed = node.csi.modify(&raw, &[("discard", "none"), ("readIops", "500")]).await;
    refused("a raw volume", changed, Code::InvalidArgument, "raw block volume cannot have")?;
    ensure!(!tag(node, &raw).await?.contains("/r="), "a rejected change of a raw volume was applied");
    retry(|| node.csi.delete(&raw.id)).await.map_err(Into::into)
}

/// A volume in use gets another mode, together with limits.
async fn modified(node: &Node, volumes: &[Filled]) -> Result<()> {
    let find = |thin: bool, discard: &str| {
        volumes.iter().find(|volume| volume.thin == thin && volume.discard == discard).context("no such volume")
    };
    // In one commit of the volume group.
    let thick = &find(false, "periodic")?.made;
    let commits = async || -> Result<u64> {
        Ok(node.vm.sh(format!("vgs --noheadings -o vg_seqno {GROUP}")).await?.trim().parse()?)
    };
    let before = commits().await?;
    node.csi.modify(thick, &[("discard", "none"), ("readIops", "5000")]).await?;
    let (after, record) = (commits().await?, tag(node, thick).await?);
    ensure!(record.ends_with("/d=none/r=0.0.5000.0"), "the record is {record}");
    ensure!(after == before + 1, "the change took {} commits", after - before);
    let wrong = node.csi.modify(thick, &[("readIops", "9"), ("discard", "weekly")]).await;
    refused("a wrong value", wrong, Code::InvalidArgument, "online, periodic or none")?;
    ensure!(tag(node, thick).await? == record, "a rejected change was applied");

    // The space of its deleted file returns now.
    let volume = find(true, "none")?;
    let (name, target) = (&volume.made.ask.name, volume.made.target());
    node.csi.modify(&volume.made, &[("discard", "periodic")]).await?;
    until(&format!("{name} returns the space"), 4 * INTERVAL, || async { returned(node, volume).await }).await?;
    node.csi.modify(&volume.made, &[("discard", "none")]).await?;
    node.vm.sh(format!("head -c {FILE} /dev/urandom >'{target}/file' && sync -f '{target}'")).await?;
    let full = used(node, name, VOLUME).await?;
    node.vm.sh(format!("rm '{target}/file' && sync -f '{target}'")).await?;
    tokio::time::sleep(4 * INTERVAL).await;
    let now = used(node, name, VOLUME).await?;
    ensure!(now > full - FILE / 10, "{name} is trimmed although it has \"discard: none\" again: {now} of {full} bytes");
    Ok(())
}

/// The record of a volume.
async fn tag(node: &Node, made: &Made) -> Result<String> {
    let name = &made.ask.name;
    Ok(node.vm.sh(format!("lvs --noheadings -o lv_tags {GROUP}/{name}")).await?.trim().to_owned())
}

/// Creates a volume, mounts it, and writes the file. An empty `discard` is not set.
async fn fill(node: &Node, pool: &str, filesystem: &'static str, discard: &'static str) -> Result<Filled> {
    let name = format!("pvc-{pool}-{filesystem}-{}", if discard.is_empty() { "default" } else { discard });
    let ask = Ask::mount(&name, filesystem).parameter("pool", pool).size(VOLUME);
    let ask = if discard.is_empty() { ask } else { ask.parameter("discard", discard) };
    let made = retry(|| node.csi.create(&ask)).await?;
    open(node, &made).await?;
    let target = made.target();
    let options = node.vm.sh(format!("findmnt -n -o OPTIONS '{target}'")).await?;
    let has = |wanted: &str| options.trim().split(',').any(|option| option == wanted);
    let expected = if filesystem == "btrfs" { "discard=async" } else { "discard" };
    // A newer kernel discards in btrfs by default.
    let online = has(expected) && !(filesystem == "btrfs" && discard.is_empty());
    ensure!(online == (discard == "online"), "it is mounted with {options}");
    ensure!(discard != "none" || !has(expected), "it is mounted with {options}");

    let thin = pool == "thin";
    let empty = if thin { used(node, &name, VOLUME).await? } else { 0 };
    node.vm.sh(format!("head -c {FILE} /dev/urandom >'{target}/file' && sync -f '{target}'")).await?;
    let used = if thin { used(node, &name, VOLUME).await? } else { 0 };
    ensure!(!thin || used > empty + FILE * 8 / 10, "{empty} bytes before, {used} with the file");
    let discard = match discard {
        "" if thin => "periodic",
        "" => "none",
        discard => discard,
    };
    Ok(Filled { made, discard, thin, used })
}

/// Whether the space of the deleted file of a volume in the thin pool has returned.
async fn returned(node: &Node, volume: &Filled) -> Result<bool> {
    // A filesystem discards online when its journal is committed.
    node.vm.sh(format!("touch '{0}/other' && sync -f '{0}'", volume.made.target())).await?;
    // Meanwhile, ext4 fills its inode tables, which takes space.
    Ok(used(node, &volume.made.ask.name, VOLUME).await? < volume.used - FILE / 2)
}

/// How many bytes were discarded so far in each volume that is not in the thin pool.
async fn thick_discards(node: &Node, volumes: &[Filled]) -> Result<Vec<i64>> {
    let mut bytes = Vec::new();
    for volume in volumes.iter().filter(|volume| !volume.thin) {
        // The fourteenth figure is the number of discarded sectors: Documentation/block/stat.rst of the kernel.
        let name = &volume.made.ask.name;
        let script =
            format!("awk '{{print $14}}' /sys/class/block/$(basename $(readlink -f /dev/{GROUP}/{name}))/stat");
        let sectors: i64 = node.vm.sh(script).await?.trim().parse()?;
        bytes.push(sectors * 512);
    }
    Ok(bytes)
}

/// The used bytes of the thin pool, or of a volume in it.
#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "small numbers")]
async fn used(node: &Node, name: &str, size: i64) -> Result<i64> {
    let percent = node.vm.sh(format!("lvs --noheadings -o data_percent {GROUP}/{name}")).await?;
    let percent: f64 = percent.trim().parse().with_context(|| format!("{name} has data_percent {percent:?}"))?;
    Ok((percent / 100.0 * size as f64) as i64)
}
