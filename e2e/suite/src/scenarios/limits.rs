//! I/O limits of volumes, measured in the cgroups of pods: one pod is limited and its neighbour is not; the limits change
//! while a pod runs, and survive a restart of the plugin and the loss of the io controller.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use quarry_vm::{Config, Disk, Throttle, Vm};
use tonic::Code;

use crate::csi::{Ask, MIB, Made, refused, retry};
use crate::node::{GROUP, Node};
use crate::scenario::{Context, Passed};
use crate::scenarios::steps::{close, until};

const DISK: u64 = 3 << 30;
/// The limits of the measured volumes, in bytes and in operations per second.
const RATE: i64 = 8 * MIB;
const OPERATIONS: i64 = 100;
/// How long a measurement should take, in seconds, and in a soak.
const SECONDS: (i64, i64) = (8, 30);
/// The lowest measured rate over the limit, and in a soak. A guest that gets little of a busy processor is slower than its
/// limit, above all in a short measurement.
const LOWEST: (f64, f64) = (0.5, 0.9);
/// The same of a btrfs: its limit includes the metadata that it writes, which is not measured.
const LOWEST_OF_BTRFS: f64 = 0.85;
/// The highest measured rate over the limit.
const HIGHEST: f64 = 1.1;
/// How many processes write or read, so that there is always something that waits for the limit.
const WRITERS: i64 = 4;
/// The speed of the disk that two pods share, in bytes per second, and how many small writes one of them does beside the
/// other.
const SHARED_DISK: u64 = 32 << 20;
const SMALL_WRITES: u32 = 200;
/// How soon limits are in force after a change of the cgroups, in an emulated guest on a busy machine.
const SOON: Duration = Duration::from_secs(5);
/// How long the plugin may take to start and to find the pods.
const STARTED: Duration = Duration::from_secs(30);
/// Where kubelet makes the cgroups of burstable pods, with its driver cgroupfs.
const BURSTABLE: &str = "/sys/fs/cgroup/kubepods/burstable";

/// A volume that is published for a pod of its own.
struct Used {
    made: Made,
    pod: String,
    /// The cgroup of the pod.
    cgroup: String,
}

/// How long a measurement takes, and how far below the limit the rate may be.
#[derive(Clone, Copy)]
struct Measurement {
    seconds: i64,
    lowest: f64,
}

impl Measurement {
    const SHORT: Self = Self { seconds: SECONDS.0, lowest: LOWEST.0 };
    const LONG: Self = Self { seconds: SECONDS.1, lowest: LOWEST.1 };
}

pub async fn run(context: Context) -> Passed {
    let measurement = if context.settings.soak { Measurement::LONG } else { Measurement::SHORT };
    let lvm = Config::new("limits").disk(Disk::new("d1", DISK)).disk(Disk::new("whole", 1 << 30));
    let mut node = Node::with_vm(Vm::start(lvm).await?, 1).await?;
    node.configure(&format!(
        "pools:\n  - name: main\n    lvm: {{volumeGroup: {GROUP}}}\n  - name: whole\n    disk: {{select: {{byId: \
         [\"*whole\"]}}}}\n"
    ))
    .await?;
    node.serve().await?;
    node.vm.sh(format!("mkdir -p {BURSTABLE}")).await?;

    let mut measured = Vec::new();
    for filesystem in ["ext4", "xfs", "btrfs"] {
        let ask = Ask::mount(&format!("pvc-{filesystem}"), filesystem).size(400 * MIB).parameter("pool", "main");
        let used = start(&node, ask.parameter("writeBytesPerSecond", &RATE.to_string()), "cgroupfs").await?;
        let mut measurement = measurement;
        if filesystem == "btrfs" {
            measurement.lowest = measurement.lowest.min(LOWEST_OF_BTRFS);
        }
        let direct = measurement.write(&node, &used, "conv=notrunc oflag=direct").await.context(filesystem)?;
        let buffered = measurement.write(&node, &used, "conv=notrunc,fsync").await.context(filesystem)?;
        measured.push(format!("{filesystem} {direct:.2}, buffered {buffered:.2}"));
        end(&node, used).await?;
    }
    let raw = Ask::block("pvc-raw").size(200 * MIB).parameter("pool", "main");
    let raw = start(&node, raw.parameter("writeIops", &OPERATIONS.to_string()), "systemd").await?;
    let operations = measurement.small_writes(&node, &raw).await.context("raw")?;
    measured.push(format!("raw {operations:.2} (operations)"));
    end(&node, raw).await?;
    // It is read through a read-only mapping of the volume.
    let raw = Ask::block("pvc-read").size(300 * MIB).parameter("pool", "main");
    let raw = publish(&node, raw.parameter("readBytesPerSecond", &RATE.to_string()), "cgroupfs", true).await?;
    let rate = measurement.read(&node, &raw).await.context("raw, read-only")?;
    measured.push(format!("raw, read-only {rate:.2}"));
    end(&node, raw).await?;
    let whole = Ask::mount("pvc-whole", "ext4").size(900 * MIB).parameter("pool", "whole");
    let whole = start(&node, whole.parameter("writeBytesPerSecond", &RATE.to_string()), "cgroupfs").await?;
    let rate = measurement.write(&node, &whole, "conv=notrunc oflag=direct").await.context("whole disk")?;
    measured.push(format!("whole disk {rate:.2}"));
    end(&node, whole).await?;

    let changed = changes(&mut node).await.context("changed limits")?;
    lost_disk(&mut node).await.context("a pod that loses one of its disks")?;
    required(&mut node).await.context("required limits")?;
    Ok(format!("measured rate / limit: {}; {changed}", measured.join(", ")))
}

/// Creates a volume and publishes it for a pod that gets its cgroup a little later.
async fn start(node: &Node, ask: Ask, driver: &str) -> Result<Used> {
    publish(node, ask, driver, false).await
}

/// The same; read-only if `read_only`.
async fn publish(node: &Node, ask: Ask, driver: &str, read_only: bool) -> Result<Used> {
    let made = retry(|| node.csi.create(&ask)).await?;
    node.kubelet_folders(&made).await?;
    retry(|| node.csi.stage(&made)).await?;
    let target = made.target();
    retry(|| node.csi.publish_at(&made, &target, read_only)).await?;
    let pod = "pod-1".to_owned();
    let cgroup = match driver {
        "systemd" => "/sys/fs/cgroup/kubepods.slice/kubepods-podpod_1.slice".to_owned(),
        _ => format!("{BURSTABLE}/pod{pod}"),
    };
    node.vm.sh(format!("mkdir -p {cgroup}/container")).await?;
    let used = Used { made, pod, cgroup };
    until("the new cgroup has the limits", SOON, || async { Ok(!limits(node, &used).await?.is_empty()) }).await?;
    Ok(used)
}

async fn end(node: &Node, used: Used) -> Result<()> {
    close(node, &used.made).await?;
    let left = limits(node, &used).await?;
    ensure!(left.is_empty(), "limits of an unpublished volume: {left}");
    node.vm.sh(format!("rmdir {0}/container {0}", used.cgroup)).await?;
    retry(|| node.csi.delete(&used.made.id)).await.map_err(Into::into)
}

/// The limits in the cgroup of the pod; empty without any.
async fn limits(node: &Node, used: &Used) -> Result<String> {
    Ok(node.vm.sh(format!("cat {}/io.max 2>/dev/null || true", used.cgroup)).await?.trim().to_owned())
}

/// Runs a script as a container of the pod, and returns how many seconds it took in the guest.
async fn in_pod(node: &Node, used: &Used, script: &str) -> Result<f64> {
    let script = format!(
        "set -e; began=$(cut -d' ' -f1 /proc/uptime); sh -ec 'echo $$ >{}/container/cgroup.procs; {script}'; \
         awk -v began=$began '{{ print $1 - began }}' /proc/uptime",
        used.cgroup
    );
    let text = node.vm.sh(script).await?;
    text.trim().parse().with_context(|| format!("no time in {text:?}"))
}

#[allow(clippy::cast_precision_loss, reason = "small numbers")]
impl Measurement {
    /// Writes through the pod, and returns the measured rate over the limit [`RATE`].
    async fn write(self, node: &Node, used: &Used, option: &str) -> Result<f64> {
        let count = RATE / MIB * self.seconds;
        let file = format!("{}/file", used.made.target());
        let took =
            in_pod(node, used, &several(&format!("if=/dev/zero of={file} bs=1M {option}"), "seek", count)).await?;
        self.within_tolerance((count * MIB) as f64 / took / RATE as f64)
    }

    /// Reads the raw device, like [`Self::write`].
    async fn read(self, node: &Node, used: &Used) -> Result<f64> {
        let count = RATE / MIB * self.seconds;
        let read = format!("if={} of=/dev/null bs=1M iflag=direct", used.made.target());
        let took = in_pod(node, used, &several(&read, "skip", count)).await?;
        self.within_tolerance((count * MIB) as f64 / took / RATE as f64)
    }

    /// Writes small blocks to the raw device, and returns the measured rate over the limit [`OPERATIONS`].
    async fn small_writes(self, node: &Node, used: &Used) -> Result<f64> {
        let count = OPERATIONS * self.seconds;
        let write = format!("if=/dev/zero of={} bs=4k conv=notrunc oflag=direct", used.made.target());
        let took = in_pod(node, used, &several(&write, "seek", count)).await?;
        self.within_tolerance(count as f64 / took / OPERATIONS as f64)
    }

    fn within_tolerance(self, ratio: f64) -> Result<f64> {
        ensure!((self.lowest..=HIGHEST).contains(&ratio), "the measured rate is {ratio:.2} times the limit");
        Ok(ratio)
    }
}

/// A script that copies `count` blocks with several `dd` at once. `place`: the option with which each of them gets a place
/// of its own.
fn several(arguments: &str, place: &str, count: i64) -> String {
    let each = count / WRITERS;
    format!(
        "for writer in $(seq 0 {}); do dd {arguments} count={each} {place}=$((writer * {each})) status=none & done; wait",
        WRITERS - 1
    )
}

/// A neighbour on the same disk is not limited; the limits of a running pod change, and come back.
async fn changes(node: &mut Node) -> Result<String> {
    let rate = RATE.to_string();
    let ask = Ask::mount("pvc-limited", "ext4").size(600 * MIB).parameter("pool", "main");
    let used = start(node, ask.parameter("writeBytesPerSecond", &rate), "cgroupfs").await?;
    let free = Ask::mount("pvc-free", "ext4").size(600 * MIB).parameter("pool", "main");
    let free = retry(|| node.csi.create(&free)).await?;
    node.kubelet_folders(&free).await?;
    retry(|| node.csi.stage(&free)).await?;
    let target = free.target_in("pod-2");
    node.vm.sh(format!("mkdir -p $(dirname {target})")).await?;
    retry(|| node.csi.publish_at(&free, &target, false)).await?;
    let neighbour = Used { made: free, pod: "pod-2".to_owned(), cgroup: format!("{BURSTABLE}/podpod-2") };
    node.vm.sh(format!("mkdir -p {}/container", neighbour.cgroup)).await?;
    let script = format!("dd if=/dev/zero of={target}/file bs=1M count=128 oflag=direct status=none");
    let direct = "conv=notrunc oflag=direct";
    let (limited, fast) =
        tokio::join!(Measurement::SHORT.write(node, &used, direct), in_pod(node, &neighbour, &script));
    #[allow(clippy::cast_precision_loss, reason = "small numbers")]
    let times = 128.0 / fast? / (RATE / MIB) as f64;
    ensure!(times > 2.0, "the neighbour writes only {times:.1} times as fast as the limited pod");
    limited.context("next to a neighbour")?;
    let none = limits(node, &neighbour).await?;
    ensure!(none.is_empty(), "the pod {} has limits: {none}", neighbour.pod);

    let latency = latency(node, &used, &neighbour).await.context("the neighbour's latency")?;

    // Up, down, and nothing.
    for (value, seen) in [("32Mi", "wbps=33554432"), (rate.as_str(), "wbps=8388608")] {
        modify(node, &used, &[("writeBytesPerSecond", value)]).await?;
        let now = limits(node, &used).await?;
        ensure!(now.contains(seen), "after a change to {value}: {now}");
    }
    let bad = node.csi.modify(&used.made, &[("writeBytesPerSecond", "none"), ("writeIOPS", "7")]).await;
    refused("an unknown key", bad, Code::InvalidArgument, "\"writeIOPS\" is unknown")?;
    let now = limits(node, &used).await?;
    ensure!(now.contains("wbps=8388608"), "after a rejected change: {now}");
    modify(node, &used, &[("writeBytesPerSecond", "none")]).await?;
    let now = limits(node, &used).await?;
    ensure!(now.is_empty(), "without limits: {now}");
    modify(node, &used, &[("writeBytesPerSecond", &rate), ("readIops", "50")]).await?;

    // The io controller is taken away, as systemd does after a reload if nothing else needs it.
    node.vm.sh(format!("echo -io >{BURSTABLE}/cgroup.subtree_control")).await?;
    let back = || async { Ok(limits(node, &used).await?.contains("wbps=8388608 riops=50")) };
    until("the limits are back with the io controller", SOON, back).await?;
    // They were removed while no plugin ran.
    node.kill().await?;
    node.vm.sh(format!("echo -io >{BURSTABLE}/cgroup.subtree_control")).await?;
    node.with_arguments("--volume-metrics 2");
    node.serve().await?;
    let back = || async { Ok(limits(node, &used).await?.contains("wbps=8388608 riops=50")) };
    until("the limits are back after a restart", STARTED, back).await?;
    let shown = node.metric("quarry_io_limits_not_in_force").await?;
    ensure!(shown == 0.0, "{shown} volumes without their limits");
    measured(node, &used, &neighbour).await.context("metrics")?;

    node.csi.unpublish_at(&neighbour.made, &target).await?;
    retry(|| node.csi.unstage(&neighbour.made)).await?;
    retry(|| node.csi.delete(&neighbour.made.id)).await?;
    node.vm.sh(format!("rmdir {0}/container {0}", neighbour.cgroup)).await?;
    end(node, used).await?;
    Ok(format!("a neighbour wrote {times:.1} times as fast as the limited pod; {latency}"))
}

/// How long a small write of a neighbour takes on a slow disk: alone, beside the limited pod, and beside the same pod
/// without its limit.
async fn latency(node: &mut Node, limited: &Used, neighbour: &Used) -> Result<String> {
    let throttle = Throttle { bytes_per_second: SHARED_DISK, ..Throttle::default() };
    node.vm.set_throttle("d1", throttle).await?;
    let latencies = latencies(node, limited, neighbour).await;
    node.vm.set_throttle("d1", Throttle::default()).await?;
    latencies
}

async fn latencies(node: &Node, limited: &Used, neighbour: &Used) -> Result<String> {
    let file = format!("{}/small", neighbour.made.target_in(&neighbour.pod));
    let small = format!("dd if=/dev/zero of={file} bs=4k count={SMALL_WRITES} oflag=direct conv=notrunc status=none");
    let milliseconds = |seconds: f64| seconds * 1000.0 / f64::from(SMALL_WRITES);
    // The file has its space before, and what was written until now is on the disk.
    in_pod(node, neighbour, &format!("{small}; sync")).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let alone = milliseconds(in_pod(node, neighbour, &small).await?);
    let writer = format!(
        "for writer in $(seq 0 {}); do while [ ! -e /run/enough ]; do dd if=/dev/zero of={}/file bs=1M count=4 \
         seek=$((writer * 4)) oflag=direct conv=notrunc status=none; done & done; wait",
        WRITERS - 1,
        limited.made.target()
    );
    let beside = async || {
        node.vm.sh("rm -f /run/enough").await?;
        let measured = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            let took = in_pod(node, neighbour, &small).await;
            node.vm.sh("touch /run/enough").await?;
            took
        };
        let (written, took) = tokio::join!(in_pod(node, limited, &writer), measured);
        written?;
        took.map(milliseconds)
    };
    let with_limit = beside().await?;
    modify(node, limited, &[("writeBytesPerSecond", "none")]).await?;
    let without = beside().await?;
    modify(node, limited, &[("writeBytesPerSecond", &RATE.to_string())]).await?;
    ensure!(without > 2.0 * with_limit, "{without:.1} ms without the limit, {with_limit:.1} ms with it");
    Ok(format!(
        "a small write of the neighbour took {alone:.1} ms alone, {with_limit:.1} ms beside the limited pod, and \
         {without:.1} ms without the limit"
    ))
}

/// A pod with two volumes loses the disk of one of them: the limits of the other one can be changed, and are found again
/// by a new process.
async fn lost_disk(node: &mut Node) -> Result<()> {
    let rate = RATE.to_string();
    let ask = Ask::mount("pvc-stays", "ext4").parameter("pool", "main").parameter("writeBytesPerSecond", &rate);
    let stays = start(node, ask, "cgroupfs").await?;
    let ask = Ask::mount("pvc-lost", "ext4").parameter("pool", "whole").parameter("writeBytesPerSecond", &rate);
    let lost = start(node, ask, "cgroupfs").await?;
    let both = || async { Ok(limits(node, &stays).await?.matches("wbps=8388608").count() == 2) };
    until("both have their limits", SOON, both).await?;
    node.vm.unplug("whole").await?;
    modify(node, &stays, &[("writeBytesPerSecond", "16Mi")]).await?;
    let changed = || async { Ok(limits(node, &stays).await?.contains("wbps=16777216")) };
    until("the limits of the other volume are changed", SOON, changed).await?;
    node.kill().await?;
    node.vm.sh(format!("echo -io >{BURSTABLE}/cgroup.subtree_control")).await?;
    node.serve().await?;
    let back = || async { Ok(limits(node, &stays).await?.contains("wbps=16777216")) };
    until("they are back after a restart", STARTED, back).await?;
    close(node, &stays.made).await?;
    close(node, &lost.made).await.context("the volume on the lost disk")?;
    retry(|| node.csi.delete(&stays.made.id)).await.map_err(Into::into)
}

/// The metrics show what each of the two pods writes, and that the limited one waits for it.
async fn measured(node: &Node, limited: &Used, free: &Used) -> Result<()> {
    let all = || async {
        let (_, text) = node.http("/metrics").await?;
        let series =
            |used: &Used| format!("quarry_volume_written_bytes_total{{pool=\"main\",volume=\"{}\"", used.made.ask.name);
        let are_all = [limited, free].iter().all(|used| text.contains(&series(used)));
        Ok(are_all && text.contains("quarry_volumes_not_measured 0"))
    };
    until("both volumes are measured", STARTED, all).await?;
    for (used, written) in [(limited, 32), (free, 64)] {
        let bytes = format!(
            "quarry_volume_written_bytes_total{{pool=\"main\",volume=\"{}\",pod_uid=\"{}\"}}",
            used.made.ask.name, used.pod
        );
        let waits = format!("quarry_pod_io_wait_seconds_total{{pod_uid=\"{}\",processes=\"some\"}}", used.pod);
        let before = (node.metric(&bytes).await?, node.metric(&waits).await?);
        let script = format!(
            "dd if=/dev/zero of={}/file bs=1M count={written} oflag=direct conv=notrunc status=none",
            used.made.target_in(&used.pod)
        );
        in_pod(node, used, &script).await?;
        let counted = node.metric(&bytes).await? - before.0;
        let waited = node.metric(&waits).await? - before.1;
        let asked = f64::from(written << 20);
        // The filesystem writes, too.
        ensure!((asked..asked * 1.2).contains(&counted), "{bytes} grew by {counted} instead of {asked}");
        // At the limit, 32 MiB take four seconds.
        let least = if used.pod == limited.pod { 2.0 } else { 0.0 };
        ensure!(waited > least, "{} waited for {waited} s", used.pod);
    }
    Ok(())
}

async fn modify(node: &Node, used: &Used, parameters: &[(&str, &str)]) -> Result<()> {
    retry(|| node.csi.modify(&used.made, parameters)).await.map_err(Into::into)
}

/// Without cgroup v2, a volume that requires its limits is not published, and another one is.
async fn required(node: &mut Node) -> Result<()> {
    node.with_arguments("--cgroups /run/nothing");
    node.kill().await?;
    node.serve().await?;
    for (limits, refuses) in [("required", true), ("preferred", false)] {
        let ask = Ask::mount(&format!("pvc-{limits}"), "ext4").parameter("pool", "main").parameter("limits", limits);
        let ask = ask.parameter("readIops", "100");
        let made = retry(|| node.csi.create(&ask)).await?;
        node.kubelet_folders(&made).await?;
        retry(|| node.csi.stage(&made)).await?;
        let answer = node.csi.publish(&made).await;
        if refuses {
            refused("required limits", answer, Code::FailedPrecondition, "there is no cgroup v2 at /run/nothing")?;
        } else {
            answer?;
            let shown = node.metric("quarry_io_limits_not_in_force").await?;
            ensure!(shown == 1.0, "{shown} volumes without their limits");
        }
        close(node, &made).await?;
        retry(|| node.csi.delete(&made.id)).await?;
    }
    Ok(())
}
