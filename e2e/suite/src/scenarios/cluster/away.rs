//! An unreachable node is reported at once and blocks no other; when it returns, it has all its volumes.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tonic::Code;

use super::view;
use crate::cluster::{Cluster, PATIENCE, eventually};
use crate::controller::Controller;
use crate::csi::{Ask, Made, refused};
use crate::scenario::{Context, Passed};
use crate::scenarios::steps;

const DISK: u64 = 512 << 20;
/// An answer that waits for nothing arrives within this time, whatever the machine. The shortest timeout, for
/// a connection that is not accepted, is five seconds.
const AT_ONCE: Duration = Duration::from_secs(2);

pub async fn run(context: Context) -> Passed {
    let mut cluster = Cluster::start("away", &[DISK; 3]).await?;
    let mut controller = cluster.only_controller().await?;
    let made = controller.csi.create(&Ask::mount("kept", "ext4").on("n2")).await?;
    steps::open(cluster.of(&made)?, &made).await?;
    steps::write(cluster.of(&made)?, &made).await?;

    view::shows(&cluster.control, &controller, 3, None, &[&made]).await.context("the view of a healthy cluster")?;
    let cut = cut_off(&mut cluster, &controller, &made).await.context("a node that is cut off")?;
    context.say(&cut);
    let dead = power(&mut cluster, &controller, &made).await.context("a node without power")?;
    context.say(&dead);
    let plugin = restarted(&mut cluster, &controller, &made).await.context("a node plugin that is restarted")?;
    controller.csi.delete(&made.id).await?;
    cluster.expect_empty().await?;
    controller.stop().await?;
    Ok(format!("{cut}; {dead}; {plugin}"))
}

/// Every call for the second node is rejected at once, and the others keep working. Returns how long a
/// rejection took, and how long the same call to a healthy node.
async fn others_go_on(cluster: &Cluster, controller: &Controller, made: &Made) -> Result<(Duration, Duration)> {
    let csi = &controller.csi;
    let mut slowest = Duration::ZERO;
    for round in 0..3 {
        let began = Instant::now();
        refused("delete", csi.delete(&made.id).await, Code::Unavailable, "n2")?;
        slowest = slowest.max(began.elapsed());
        let began = Instant::now();
        let new = Ask::mount(&format!("new-{round}"), "ext4").on("n2");
        refused("create", csi.create(&new).await, Code::Unavailable, "n2")?;
        slowest = slowest.max(began.elapsed());
        let began = Instant::now();
        // The volume may exist on the unreachable node.
        let anywhere = Ask::mount(&format!("any-{round}"), "ext4");
        refused("create anywhere", csi.create(&anywhere).await, Code::Unavailable, "n2")?;
        slowest = slowest.max(began.elapsed());
    }
    ensure!(slowest < AT_ONCE, "a refusal took {slowest:?}");
    // The volumes of the node that is away are listed still.
    ensure!(csi.list().await?.iter().any(|volume| volume.volume_id == made.id), "its volumes are not listed");

    let other = csi.create(&Ask::mount("beside", "ext4").among(&["n1", "n3"])).await?;
    steps::open(cluster.of(&other)?, &other).await?;
    steps::close(cluster.of(&other)?, &other).await?;
    let began = Instant::now();
    csi.delete(&other.id).await?;
    let healthy = began.elapsed();
    csi.create(&Ask::mount("strict", "ext4").on("n3")).await.map(|made| made.id)?;
    let strict = csi.create(&Ask::mount("strict", "ext4").on("n3")).await?;
    csi.delete(&strict.id).await?;
    Ok((slowest, healthy))
}

async fn cut_off(cluster: &mut Cluster, controller: &Controller, made: &Made) -> Result<String> {
    cluster.nodes[1].vm.link(false).await?;
    // A call that is running when the link is cut ends with it.
    let began = Instant::now();
    let noticed = controller.connected(2).await?;
    let (refusal, healthy) = others_go_on(cluster, controller, made).await?;
    let shown = view::shows(&cluster.control, controller, 3, Some("n2"), &[made]).await;
    shown.context("the view of a node that is cut off")?;
    // Pods on a node that is cut off keep running.
    let node = cluster.of(made)?;
    steps::read(node, made).await?;
    steps::close(node, made).await?;
    steps::open(node, made).await?;
    steps::read(node, made).await?;
    // Its free space stays known for half a minute. Then it is unknown for a while: the node may be restarting.
    let class = Default::default();
    eventually("the free space of a node that is cut off is not known", PATIENCE, || async {
        let answer = controller.csi.capacity_of(Some("n2"), &class).await;
        Ok(answer.is_err_and(|status| status.code() == Code::Unavailable))
    })
    .await?;
    let silent = began.elapsed();
    ensure!(silent > Duration::from_secs(25), "not known {silent:?} after the link went");

    cluster.nodes[1].vm.link(true).await?;
    let back = controller.connected(3).await?;
    ensure!(controller.csi.capacity_of(Some("n2"), &class).await?.0 > 0, "no room although it is back");
    again(controller, made).await?;
    Ok(format!(
        "cut off: noticed after {:.0} s, rejected in {} ms (healthy: {} ms), back after {:.0} s",
        noticed.as_secs_f64(),
        refusal.as_millis(),
        healthy.as_millis(),
        back.as_secs_f64()
    ))
}

/// The node works as if nothing had been.
async fn again(controller: &Controller, made: &Made) -> Result<()> {
    let same = controller.csi.create(&made.ask).await?;
    ensure!(same.id == made.id, "asked again, it is {}, not {}", same.id, made.id);
    let new = controller.csi.create(&Ask::mount("back", "ext4").on("n2")).await?;
    controller.csi.delete(&new.id).await?;
    Ok(())
}

async fn power(cluster: &mut Cluster, controller: &Controller, made: &Made) -> Result<String> {
    let node = &mut cluster.nodes[1];
    node.vm.power_cut().await?;
    node.lost_power();
    let noticed = controller.connected(2).await?;
    let (refusal, _) = others_go_on(cluster, controller, made).await?;

    let node = &mut cluster.nodes[1];
    node.vm.boot_again().await?;
    node.serve().await?;
    let back = controller.connected(3).await?;
    again(controller, made).await?;
    let node = cluster.of(made)?;
    steps::open(node, made).await?;
    steps::read(node, made).await?;
    Ok(format!(
        "without power: noticed after {:.0} s, rejected in {} ms, connected {:.0} s after it served again",
        noticed.as_secs_f64(),
        refusal.as_millis(),
        back.as_secs_f64()
    ))
}

/// An update of the node plugin: stopped, and started again. Pods do not notice.
async fn restarted(cluster: &mut Cluster, controller: &Controller, made: &Made) -> Result<String> {
    let node = &mut cluster.nodes[1];
    node.stop().await?;
    let noticed = controller.connected(2).await?;
    // An agent that says good-bye is not waited for.
    ensure!(noticed < Duration::from_secs(10), "a node plugin that was stopped was noticed after {noticed:?}");
    refused("delete", controller.csi.delete(&made.id).await, Code::Unavailable, "n2")?;
    let node = &mut cluster.nodes[1];
    steps::read(node, made).await?;
    node.serve().await?;
    controller.connected(3).await?;
    let node = cluster.of(made)?;
    steps::read(node, made).await?;
    steps::close(node, made).await?;
    again(controller, made).await?;
    Ok(format!("stopped: noticed after {:.1} s", noticed.as_secs_f64()))
}
