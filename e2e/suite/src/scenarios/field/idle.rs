//! A volume that is not staged has no device: the devices below the volume group can be closed, and nothing
//! on the host sees a device that no pod uses.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use quarry_vm::{Config, Disk, Vm};

use super::room::inactive;
use crate::csi::{Ask, Made};
use crate::node::{FAULTS, GROUP, Node, device};
use crate::scenario::{Context, Passed};
use crate::scenarios::steps::{close, open, read, write};

/// How often a restage is measured each way.
const RESTAGES: usize = 8;

pub async fn run(context: Context) -> Passed {
    let vm = Vm::start(Config::new("idle-inactive").disk(Disk::new("d1", 256 << 20))).await?;
    let mut node = Node::with_vm(vm, 0).await?;
    node.vm
        .sh(format!("head -c 32 /dev/urandom > /run/key; {}; vgcreate -qq {GROUP} /dev/mapper/lower", opened()))
        .await?;
    node.serve().await?;
    let made = node.csi.create(&Ask::mount("idle", "ext4")).await?;

    can_be_closed(&node, &made).await.context("the devices below an unstaged volume")?;
    stays_while_open(&node, &made).await.context("a volume that another program has open")?;
    killed(&mut node, &made).await.context("killed while it deactivates")?;
    at_once(&node, &made).await.context("staged again at once")?;
    let with = restages(&node, &made, true).await.context("restaging")?;
    node.keep_active().await?;
    node.stop().await?;
    node.serve().await?;
    let without = restages(&node, &made, false).await.context("restaging without deactivation")?;
    node.vm
        .sh(format!("sleep 3; test -e /dev/mapper/{GROUP}-idle"))
        .await
        .context("deactivated although configured not to")?;
    context.say(format!("a restage takes {with:.0?} with deactivation and {without:.0?} without"));

    node.vm.sh(format!("lvchange -qq -an {GROUP}/idle")).await?;
    node.csi.delete(&made.id).await.context("deleting an inactive volume")?;
    let left = node.contents().await?;
    ensure!(left.is_empty(), "left behind:\n{left}");
    Ok(format!("a restage takes {:.2} times as long", with.as_secs_f64() / without.as_secs_f64()))
}

fn opened() -> String {
    let disk = device("d1");
    format!("cryptsetup open --type plain --cipher aes-xts-plain64 --key-size 256 --key-file /run/key {disk} lower")
}

async fn can_be_closed(node: &Node, made: &Made) -> Result<()> {
    open(node, made).await?;
    write(node, made).await?;
    close(node, made).await?;
    inactive(node, made).await?;
    node.vm.sh("cryptsetup close lower").await.context("closing the encrypted disk")?;
    node.vm.sh(format!("{}; udevadm settle", opened())).await?;
    open(node, made).await?;
    read(node, made).await?;
    close(node, made).await?;
    inactive(node, made).await
}

async fn stays_while_open(node: &Node, made: &Made) -> Result<()> {
    open(node, made).await?;
    node.vm.sh(format!("(exec 3</dev/mapper/{GROUP}-idle; echo held > /run/held; sleep 1000) >/dev/null 2>&1 & echo $! > /run/holder")).await?;
    node.vm.wait_paths(vec!["/run/held".to_owned()], true, Duration::from_secs(30)).await?;
    close(node, made).await?;
    tokio::time::sleep(Duration::from_secs(8)).await;
    node.vm.sh(format!("test -e /dev/mapper/{GROUP}-idle")).await.context("it was taken from its user")?;
    node.vm.sh("pkill -P $(cat /run/holder) || true; kill $(cat /run/holder) || true").await?;
    // It goes after the next unstage.
    open(node, made).await?;
    close(node, made).await?;
    inactive(node, made).await
}

/// Killed right before and right after lvm's command, and at whatever else is passed meanwhile.
async fn killed(node: &mut Node, made: &Made) -> Result<()> {
    node.vm.sh(format!("rm -f {FAULTS}/log")).await?;
    open(node, made).await?;
    node.vm.sh(format!("> {FAULTS}/log")).await?;
    close(node, made).await?;
    inactive(node, made).await?;
    let points = node.vm.sh(format!("cat {FAULTS}/log")).await?;
    let of_lvm: Vec<usize> = points
        .lines()
        .enumerate()
        .filter(|(_, point)| point.contains("lvchange"))
        .map(|(number, _)| number + 1)
        .collect();
    ensure!(!of_lvm.is_empty(), "no command deactivated it:\n{points}");
    for number in of_lvm {
        open(node, made).await?;
        node.vm.sh(format!("echo {number} > {FAULTS}/kill-at")).await?;
        // The answer may come before the kill.
        let _ = node.csi.unpublish(made).await;
        let _ = node.csi.unstage(made).await;
        node.wait_for_end().await.with_context(|| format!("at point {number} of\n{points}"))?;
        node.vm.sh(format!("rm {FAULTS}/kill-at")).await?;
        node.serve().await?;
        close(node, made).await?;
        open(node, made).await?;
        read(node, made).await?;
        close(node, made).await?;
        inactive(node, made).await?;
    }
    Ok(())
}

/// The median time of an unstage and a stage together; between them the volume becomes `idle`, or the guest rests as
/// long.
async fn restages(node: &Node, made: &Made, idle: bool) -> Result<Duration> {
    node.kubelet_folders(made).await?;
    node.csi.stage(made).await?;
    let mut times = Vec::new();
    for _ in 0..RESTAGES {
        let began = Instant::now();
        node.csi.unstage(made).await?;
        let unstaged = began.elapsed();
        if idle {
            inactive(node, made).await?;
        } else {
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        let began = Instant::now();
        node.csi.stage(made).await?;
        times.push(unstaged + began.elapsed());
    }
    node.csi.unstage(made).await?;
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

/// A pod that returns at once: its volume is staged, whatever the state of the deactivation.
async fn at_once(node: &Node, made: &Made) -> Result<()> {
    node.kubelet_folders(made).await?;
    for number in 0..2 * RESTAGES {
        node.csi.stage(made).await.with_context(|| format!("stage {number}"))?;
        node.csi.publish(made).await.with_context(|| format!("publish {number}"))?;
        read(node, made).await?;
        node.csi.unpublish(made).await?;
        node.csi.unstage(made).await?;
        // From before lvm starts until after it has exited.
        tokio::time::sleep(Duration::from_millis(40 * number as u64)).await;
    }
    inactive(node, made).await
}
