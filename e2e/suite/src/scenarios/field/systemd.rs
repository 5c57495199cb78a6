//! Hosts with systemd as the first process, and quarry in a container without udevd's socket: systemd follows
//! every device and mount by udev's events, and unmounts what is mounted from a device that it considers
//! gone.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use quarry_vm::{Config, Disk, Shape, System, Vm};

use crate::csi::{Ask, Made, retry};
use crate::node::{GROUP, Node};
use crate::scenario::{Context, Passed, Scenario};
use crate::scenarios::steps::{close, open, read, write};

/// All of them.
pub fn all() -> Vec<Scenario> {
    vec![Scenario {
        name: "systemd",
        about: "concurrent volumes and devices suspended under a mount: systemd unmounts nothing, links come and go",
        limit: Duration::from_secs(15 * 60),
        run: |context| Box::pin(run(context)),
    }]
}

/// How many volumes live in a soak.
const LIVES: usize = 200;
/// How many of them run at a time.
const AT_ONCE: usize = 8;
/// Without a soak none is born after this time.
const SAMPLE: Duration = Duration::from_secs(120);
/// When systemd must have finished its actions on a mount.
const LATER: Duration = Duration::from_secs(5);
/// How often a device is suspended under its mount.
const SUSPENSIONS: usize = 5;

async fn run(context: Context) -> Passed {
    let machine = Config::new("systemd")
        .system(System::Trixie)
        .disk(Disk::new("d1", 4 << 30))
        .shape(Shape { cpus: 2, ..Shape::default() });
    let mut node = Node::with_vm(Vm::start(machine).await?, 1).await?;
    node.in_pod().await?;
    node.serve().await?;

    let began = Instant::now();
    let born = |_: &usize| context.settings.soak || began.elapsed() < SAMPLE;
    let lived: Vec<usize> = stream::iter(0..LIVES)
        .map(async |index| if born(&index) { live(&node, index).await.map(|()| 1) } else { Ok(0) })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    let lived: usize = lived.iter().sum();
    ensure!(lived >= AT_ONCE, "only {lived} volumes lived");
    content(&node).await.context("after the volumes' lives")?;
    node.expect_empty().await?;

    context.say(format_args!("{lived} lives"));
    suspended(&node).await?;
    content(&node).await.context("after suspensions")?;
    node.expect_empty().await?;
    Ok(format!("{lived} volumes, {AT_ONCE} at a time; each filesystem suspended {SUSPENSIONS} times"))
}

/// The life of a volume, with checks of systemd's units for it.
async fn live(node: &Node, index: usize) -> Result<()> {
    let name = format!("life{index}");
    let ask = match index % 8 {
        1 => Ask::mount(&name, "xfs"),
        3 => Ask::mount(&name, "btrfs"),
        5 => Ask::block(&name),
        _ => Ask::mount(&name, "ext4"),
    };
    let made = retry(|| node.csi.create(&ask)).await?;
    open(node, &made).await?;
    let opened = Instant::now();
    write(node, &made).await?;
    node.vm.sh(links(&name)).await.with_context(|| format!("links to {name}"))?;
    tokio::time::sleep(LATER.saturating_sub(opened.elapsed())).await;
    mounted(node, &made).await?;
    read(node, &made).await?;
    close(node, &made).await?;
    retry(|| node.csi.delete(&made.id)).await?;
    let gone = format!(
        "for try in $(seq 100); do left=$(ls /dev/{GROUP} /dev/mapper /dev/disk/by-id 2>/dev/null | grep -w {name} || true); \
         test -n \"$left\" || exit 0; sleep 0.1; done; echo \"$left\" >&2; exit 1"
    );
    node.vm.sh(gone).await.with_context(|| format!("links to {name} after its deletion")).map(drop)
}

/// A script that waits until the links of a volume exist: lvm's own, and those of udev. lvm without udev
/// creates `/dev/mapper/…` as a device, not as a link, so only its number leads to the kernel's name.
fn links(name: &str) -> String {
    format!(
        "for try in $(seq 100); do device=dm-$((0x$(stat -L -c %T /dev/{GROUP}/{name}))); \
         test \"$(find /dev/disk/by-id -lname \"*/$device\" | wc -l)\" -lt 2 || exit 0; sleep 0.1; done; \
         ls -l /dev/{GROUP} /dev/disk/by-id >&2; exit 1"
    )
}

/// Fails unless a volume is mounted where it was staged and published.
async fn mounted(node: &Node, made: &Made) -> Result<()> {
    let places = if made.ask.is_block() { vec![made.target()] } else { vec![made.staging(), made.target()] };
    for place in places {
        let shown = node.vm.sh(format!("findmnt -n -o SOURCE,TARGET -M '{place}'")).await;
        shown.with_context(|| format!("{} is no longer mounted at {place}", made.id))?;
    }
    Ok(())
}

/// Devices are suspended, extended and reloaded under their mounts, while udev probes them.
async fn suspended(node: &Node) -> Result<()> {
    let mut all = Vec::new();
    for ask in Ask::each_filesystem("") {
        let made = retry(|| node.csi.create(&ask)).await?;
        open(node, &made).await?;
        write(node, &made).await?;
        all.push(made);
    }
    for made in &all {
        let name = &made.ask.name;
        let script = format!(
            "device=$(readlink -f /dev/{GROUP}/{name}); for turn in $(seq {SUSPENSIONS}); do \
             dmsetup suspend $device; udevadm trigger --action=change $device; sleep 0.3; dmsetup resume $device; \
             udevadm trigger --action=change $device; done; \
             lvextend -qq -L +4M {GROUP}/{name}; vgchange -qq --refresh {GROUP}; udevadm settle"
        );
        node.vm.sh(script).await.with_context(|| format!("suspending {name}"))?;
    }
    tokio::time::sleep(LATER).await;
    for made in &all {
        mounted(node, made).await?;
        read(node, made).await?;
        close(node, made).await?;
        retry(|| node.csi.delete(&made.id)).await?;
    }
    Ok(())
}

/// Fails if systemd has logged an error or unmounted something itself, or if a link is dangling.
async fn content(node: &Node) -> Result<()> {
    let script = "udevadm settle; systemctl list-units --all --state=failed --plain --no-legend; \
        journalctl --merge --quiet --output=cat | grep -iE \
        'bound to inactive unit|unmounting .*kubelet|failed (un)?mount|unit .*mount.* failed' || true; \
        find /dev/disk /dev/mapper -xtype l";
    let said = node.vm.sh(script).await?;
    ensure!(said.trim().is_empty(), "systemd is not content:\n{said}");
    Ok(())
}
