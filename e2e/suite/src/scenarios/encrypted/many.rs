//! After a reboot, many encrypted volumes are opened within the memory that docs/encryption.md asks for.

use std::time::Instant;

use futures::future::try_join_all;
use quarry_vm::{Config, PowerCut, Shape, Vm};

use super::*;
use crate::scenarios::steps::{read, write};

/// The memory limit of the node plugin, as the docs say, and one that is too small for a passphrase.
const LIMIT: &str = "192M";
const TOO_LITTLE: &str = "48M";
const GROUP_OF_PLUGIN: &str = "/sys/fs/cgroup/quarry";
/// How many calls are made at once.
const AT_ONCE: usize = 10;

/// The scenario.
pub async fn many(context: Context) -> Passed {
    let count = if context.settings.soak { 200 } else { 12 };
    let machine = Config::new("encrypted-many").disk(Disk::new("d1", 12 << 30));
    let mut node = Node::with_vm(Vm::start(machine.shape(Shape { cpus: 2, ..Shape::default() })).await?, 1).await?;
    node.in_cgroup();
    limited(&mut node).await?;
    // For each fifth, the derivation of a key from the passphrase needs much memory.
    let ask =
        |at: usize| Ask::mount(&format!("pvc-{at}"), "ext4").encrypted(if at % 5 == 1 { PASSPHRASE } else { KEY });
    let asks: Vec<Ask> = (0..count).map(ask).collect();
    let mut all = Vec::new();
    for some in asks.chunks(AT_ONCE) {
        all.extend(try_join_all(some.iter().map(|ask| used_once(&node, ask))).await?);
        if all.len().is_multiple_of(50) {
            context.say(format_args!("{} volumes were used", all.len()));
        }
    }
    context.say(format_args!("{count} volumes were used once"));
    node.vm.sh("sync").await?;
    node.vm.power_cut_with(PowerCut::LoseAll).await?;
    node.lost_power();
    node.vm.boot_again().await?;
    limited(&mut node).await.context("after the reboot")?;
    too_little(&node, &all[1]).await.context("too little memory")?;

    let began = Instant::now();
    for some in all.chunks(AT_ONCE) {
        try_join_all(some.iter().map(|made| opened(&node, made))).await?;
    }
    let took = began.elapsed().as_secs();
    let peak = node.vm.sh(format!("cat {GROUP_OF_PLUGIN}/memory.peak")).await?.trim().parse::<u64>()? >> 20;
    ensure!(kills(&node).await? == 0, "the kernel killed processes: {LIMIT} is not enough");
    for made in &all {
        read(&node, made).await?;
    }
    for some in all.chunks(AT_ONCE) {
        try_join_all(some.iter().map(|made| ended(&node, made))).await?;
    }
    node.expect_empty().await?;
    Ok(format!(
        "{count} volumes opened after a reboot, {AT_ONCE} at once, in {took} s, with at most {peak} MiB of {LIMIT}"
    ))
}

/// Starts quarry with the memory limit.
async fn limited(node: &mut Node) -> Result<()> {
    let script = format!(
        "echo +memory >/sys/fs/cgroup/cgroup.subtree_control; mkdir -p {GROUP_OF_PLUGIN}; \
         echo {LIMIT} >{GROUP_OF_PLUGIN}/memory.max"
    );
    node.vm.sh(script).await?;
    node.serve().await
}

/// Stages and publishes a volume, with nothing but the two calls: its folders are still there.
async fn opened(node: &Node, made: &Made) -> Result<()> {
    retry(|| node.csi.stage(made)).await.with_context(|| format!("staging {}", made.id))?;
    retry(|| node.csi.publish(made)).await.with_context(|| format!("publishing {}", made.id))
}

async fn used_once(node: &Node, ask: &Ask) -> Result<Made> {
    let made = retry(|| node.csi.create(ask)).await?;
    open(node, &made).await?;
    write(node, &made).await?;
    close(node, &made).await?;
    Ok(made)
}

async fn ended(node: &Node, made: &Made) -> Result<()> {
    close(node, made).await?;
    retry(|| node.csi.delete(&made.id)).await.map_err(Into::into)
}

/// How many processes of the plugin the kernel killed because of the limit, since the last call.
async fn kills(node: &Node) -> Result<u64> {
    let script = format!(
        "now=$(sed -n 's/^oom_kill //p' {GROUP_OF_PLUGIN}/memory.events); \
         echo $((now - $(cat /run/oom-kills 2>/dev/null || echo 0))); echo $now >/run/oom-kills"
    );
    Ok(node.vm.sh(script).await?.trim().parse()?)
}

/// cryptsetup is killed: the call fails, says so, and changes nothing.
async fn too_little(node: &Node, made: &Made) -> Result<()> {
    node.kubelet_folders(made).await?;
    node.vm.sh(format!("echo {TOO_LITTLE} >{GROUP_OF_PLUGIN}/memory.max")).await?;
    let answer = node.csi.stage(made).await;
    ensure!(kills(node).await? > 0, "nothing was killed: this test could not fail ({answer:?})");
    refused("too little memory", answer, Code::Internal, "signal")?;
    node.vm.sh(format!("echo {LIMIT} >{GROUP_OF_PLUGIN}/memory.max")).await.map(drop)
}
