//! Certificates on the wire: which peers are accepted, wrong clocks, and a rotation of the authority without
//! an outage.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures::future::{join_all, try_join_all};
use quarry_vm::Forward;
use tonic::Code;

use super::wire::{Certificate, For, authority, leaf, preface, served, served_plainly};
use crate::cluster::{CERTIFICATES, Cluster, PATIENCE, eventually, mount_secret};
use crate::controller::Controller;
use crate::csi::{Ask, refused};
use crate::node::{AGENT, LOG, Node, TLS};
use crate::scenario::{Context, Passed};

const DISK: u64 = 512 << 20;
/// In how many seconds every node has a new certificate. A quarter of an hour where kubelet brings it.
const PROPAGATION: u64 = 15;
const HOUR: i64 = 3600;
/// A rotation takes two phases, each a few seconds longer than [`PROPAGATION`] here.
const ROTATION: Duration = Duration::from_secs(300);

pub async fn run(context: Context) -> Passed {
    let mut cluster = Cluster::bare("certificates", &[DISK; 3]).await?;
    let mut controllers = begin(&mut cluster).await.context("three controllers at once, and no authority")?;
    context.say("three controllers created one authority");
    let mut third = controllers.pop().context("three controllers")?;
    third.stop().await?;
    clocks(&mut cluster, &controllers).await.context("clocks that are off")?;
    let cases = foreign_clients(&cluster).await.context("clients of a node")?;
    context.say(&cases);
    impostors(&mut cluster, &controllers[0]).await.context("nodes that are not what they say")?;
    context.say("impostors are not used");
    let rotation = rotated(&mut cluster, &mut controllers).await.context("a rotation of the authority")?;
    for controller in &mut controllers {
        controller.stop().await?;
    }
    cluster.expect_empty().await?;
    Ok(format!("{cases}; {rotation}"))
}

/// Three controllers start at the same instant without any certificates; the nodes get the certificates that
/// they issued.
async fn begin(cluster: &mut Cluster) -> Result<Vec<Controller>> {
    let arguments = arguments();
    let controllers = try_join_all((1..=3).map(|number| cluster.controller(number, &arguments))).await?;
    let shown = "there is a certificate for the nodes";
    eventually(shown, PATIENCE, || async { Ok(!cluster.certificates("show").await?.contains("missing")) }).await?;
    let files = cluster.issued("node").await?;
    let first = issuer(cluster).await?;
    try_join_all(cluster.nodes.iter_mut().map(async |node| {
        mount_secret(&node.vm, TLS, &files).await?;
        node.serve().await
    }))
    .await?;
    for connected in join_all(controllers.iter().map(|controller| controller.connected(3))).await {
        connected?;
    }
    // One that starts later finds the same.
    ensure!(issuer(cluster).await?.certificate == first.certificate, "the authority was created twice");
    ensure!(cluster.issued("node").await? == files, "the nodes' certificate was issued twice");
    Ok(controllers)
}

/// The authority with its key.
async fn issuer(cluster: &Cluster) -> Result<Certificate> {
    let folder = format!("{CERTIFICATES}/authority/..data");
    let certificate = cluster.control.read(&format!("{folder}/tls.crt")).await?;
    let key = cluster.control.read(&format!("{folder}/tls.key")).await?;
    Ok(Certificate { certificate, key })
}

/// What was issued for a role.
async fn issued(cluster: &Cluster, role: &str) -> Result<Certificate> {
    let mut files = cluster.issued(role).await?;
    let mut take = |name| files.remove(name).with_context(|| format!("the {role}'s {name} is missing"));
    Ok(Certificate { certificate: take("tls.crt")?, key: take("tls.key")? })
}

/// One node's clock is ten minutes ahead, one's ten minutes behind.
async fn clocks(cluster: &mut Cluster, controllers: &[Controller]) -> Result<()> {
    for (index, seconds) in [(0, 600), (1, -600)] {
        let node = &mut cluster.nodes[index];
        node.stop().await?;
        node.vm.move_clock(seconds).await?;
        node.serve().await?;
    }
    for controller in controllers {
        controller.connected(3).await?;
        for node in ["n1", "n2"] {
            let made = controller.csi.create(&Ask::mount("clocks", "ext4").on(node)).await?;
            controller.csi.delete(&made.id).await?;
        }
    }
    Ok(())
}

/// What a client shows.
enum Shows {
    Bytes(&'static [u8]),
    Nothing,
    This(Certificate),
}

async fn foreign_clients(cluster: &Cluster) -> Result<String> {
    // The node with the right clock.
    let node = cluster.node("n3")?;
    let there = node.vm.forward(format!("127.0.0.1:{AGENT}").parse()?).await?;
    let (ours, theirs) = (issuer(cluster).await?, authority()?);
    let good = issued(cluster, "controller").await?;
    ensure!(served(&there, Some(&good)).await?, "the controller's own certificate is refused");
    ensure!(
        served(&there, Some(&leaf(&ours, For::Controller, -HOUR, HOUR)?)).await?,
        "a controller's certificate that was made here is refused, so the others prove nothing"
    );
    let cases = [
        ("HTTP/2 without TLS", Shows::Bytes(preface()), "plain_text"),
        ("garbage", Shows::Bytes(&[0xff; 64]), "plain_text"),
        ("silence", Shows::Bytes(&[]), "time_out"),
        ("the beginning of a handshake", Shows::Bytes(&[22, 3, 1]), "time_out"),
        ("no certificate", Shows::Nothing, "no_certificate"),
        ("the nodes' certificate", Shows::This(issued(cluster, "node").await?), "wrong_role"),
        ("another name", Shows::This(leaf(&ours, For::OtherClient, -HOUR, HOUR)?), "wrong_role"),
        ("expired", Shows::This(leaf(&ours, For::Controller, -2 * HOUR, -HOUR)?), "expired"),
        ("not valid yet", Shows::This(leaf(&ours, For::Controller, HOUR, 2 * HOUR)?), "expired"),
        ("another authority", Shows::This(leaf(&theirs, For::Controller, -HOUR, HOUR)?), "unknown_authority"),
    ];
    let count = cases.len();
    for (what, shows, reason) in &cases {
        refuses(node, &there, shows, reason).await.with_context(|| format!("a client with {what}"))?;
    }
    // Everybody else was served meanwhile.
    ensure!(served(&there, Some(&good)).await?, "the controller's certificate is rejected afterwards");
    // Each reason once from this peer, however often it came.
    for reason in ["plain_text", "time_out", "no_certificate", "wrong_role", "expired", "unknown_authority"] {
        let lines = node.vm.sh(format!("grep 'rejected a connection' {LOG} | grep -c '{reason}' || true")).await?;
        ensure!(lines.trim() == "1", "{reason} was logged {lines} times");
    }
    Ok(format!("{count} kinds of foreign clients rejected, counted and logged once"))
}

/// It is rejected twice, and counted.
async fn refuses(node: &Node, there: &Forward, shows: &Shows, reason: &str) -> Result<()> {
    let sample = format!("quarry_refused_connections_total{{reason=\"{reason}\"}}");
    let before = node.metric(&sample).await?;
    let all_before = node.metric("quarry_refused_connections_total").await?;
    for _ in 0..2 {
        let served = match shows {
            Shows::Bytes(bytes) => served_plainly(there, bytes).await?,
            Shows::Nothing => served(there, None).await?,
            Shows::This(certificate) => served(there, Some(certificate)).await?,
        };
        ensure!(!served, "it is served");
    }
    eventually("the refusals are counted", PATIENCE, || async { Ok(node.metric(&sample).await? >= before + 2.0) })
        .await?;
    let more = node.metric("quarry_refused_connections_total").await? - all_before;
    ensure!((more - 2.0).abs() < 0.1, "two refusals were counted as {more}");
    Ok(())
}

/// A node that shows a wrong certificate is not talked to; with the right one it is, without a restart.
async fn impostors(cluster: &mut Cluster, controller: &Controller) -> Result<()> {
    let good = cluster.issued("node").await?;
    let (ours, theirs) = (issuer(cluster).await?, authority()?);
    let cases = [
        ("another authority's", leaf(&theirs, For::Node, -HOUR, HOUR)?),
        ("the controller's", issued(cluster, "controller").await?),
        ("an expired one", leaf(&ours, For::Node, -2 * HOUR, -HOUR)?),
    ];
    for (what, bad) in cases {
        let node = &mut cluster.nodes[2];
        node.stop().await?;
        let mut files = good.clone();
        files.insert("tls.crt", bad.certificate);
        files.insert("tls.key", bad.key);
        mount_secret(&node.vm, TLS, &files).await?;
        node.serve().await?;
        let about = || format!("a node with {what} certificate");
        let failed = || async { controller.metric("quarry_connections_total{result=\"failed\"}").await };
        let before = failed().await?;
        eventually("the controller tried", PATIENCE, || async { Ok(failed().await? >= before + 2.0) })
            .await
            .with_context(about)?;
        ensure!(controller.up().await? == 2, "{} is used", about());
        let answer = controller.csi.create(&Ask::mount("nowhere", "ext4").on("n3")).await;
        refused(&about(), answer, Code::Unavailable, "certificate")?;
        mount_secret(&cluster.nodes[2].vm, TLS, &good).await?;
        controller.connected(3).await.with_context(about)?;
    }
    Ok(())
}

/// The authority is replaced during calls while controllers start and stop. One node is off for all of it.
async fn rotated(cluster: &mut Cluster, controllers: &mut Vec<Controller>) -> Result<String> {
    cluster.nodes[2].stop().await?;
    for controller in controllers.iter() {
        controller.connected(2).await?;
    }
    let (old_authority, old_leaf) = (issuer(cluster).await?, issued(cluster, "controller").await?);
    let mut second = controllers.pop().context("two controllers")?;
    let first = controllers.first().context("two controllers")?;
    let began = Instant::now();
    let (calls, restarts, deliveries) = {
        let cluster: &Cluster = cluster;
        let (mut calls, mut restarts, mut deliveries) = (0, 0, 0);
        let rotation = async {
            cluster.certificates("rotate").await?;
            eventually("the rotation is over", ROTATION, || async {
                let shown = cluster.certificates("show").await?;
                // The authority reaches its final state first; the certificates that trust only the new one
                // follow.
                let steady = shown.contains("phase steady") && !shown.contains("renewed");
                Ok(steady && issuer(cluster).await?.certificate != old_authority.certificate)
            })
            .await
        };
        tokio::select! {
            done = rotation => done.map(drop)?,
            failed = kubelet(cluster, &mut deliveries) => bail!("bringing certificates: {failed:?}"),
            failed = calls_go_on(first, &mut calls) => bail!("a call after {:?}: {failed:?}", began.elapsed()),
            failed = restarted(&mut second, &mut restarts) => bail!("after {:?}: {failed:?}", began.elapsed()),
        }
        (calls, restarts, deliveries)
    };
    let took = began.elapsed();
    // The last change completes the rotation, and is distributed below.
    ensure!(deliveries >= 2 * 2, "a rotation changes the nodes' certificate twice on its way: {deliveries} deliveries");
    // Certificates of the old authority are rejected once the nodes have the final one.
    for index in 0..2 {
        cluster.deliver(&cluster.nodes[index]).await?;
    }
    let there = cluster.nodes[0].vm.forward(format!("127.0.0.1:{AGENT}").parse()?).await?;
    eventually("the old controller's certificate is refused", PATIENCE, || async {
        Ok(!served(&there, Some(&old_leaf)).await?)
    })
    .await?;
    ensure!(served(&there, Some(&issued(cluster, "controller").await?)).await?, "the new one is refused too");

    // The second may have been dropped between its end and its start.
    drop(second);
    let second = cluster.controller(4, &arguments()).await?;
    cluster.deliver(&cluster.nodes[2]).await?;
    cluster.nodes[2].serve().await?;
    let back = first.connected(3).await?;
    second.connected(3).await?;
    for volume in first.csi.list().await? {
        first.csi.delete(&volume.volume_id).await?;
    }
    controllers.push(second);
    Ok(format!(
        "rotation in {:.0} s with {calls} calls and {restarts} controllers started, none failed; a node that was off was \
         back after {:.0} s",
        took.as_secs_f64(),
        back.as_secs_f64()
    ))
}

/// The controllers' arguments.
fn arguments() -> String {
    format!("--chooser /run/quarry/chooser --certificate-settle {PROPAGATION} --clocks-apart 3")
}

/// Brings every change of the nodes' certificate to the nodes that are on, until something fails.
async fn kubelet(cluster: &Cluster, deliveries: &mut usize) -> Result<()> {
    let mut last = cluster.issued("node").await?;
    loop {
        let now = cluster.issued("node").await?;
        if now != last {
            for node in &cluster.nodes[..2] {
                mount_secret(&node.vm, TLS, &now).await?;
                *deliveries += 1;
            }
            last = now;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// Makes and deletes volumes, until a call fails.
async fn calls_go_on(controller: &Controller, calls: &mut usize) -> Result<()> {
    loop {
        for node in ["n1", "n2"] {
            let made = controller.csi.create(&Ask::mount(&format!("during-{node}"), "ext4").on(node)).await?;
            controller.csi.delete(&made.id).await?;
            *calls += 2;
        }
    }
}

/// Restarts a controller until it does not reach the nodes: each handshake uses the certificates that are
/// current at that moment.
async fn restarted(controller: &mut Controller, restarts: &mut usize) -> Result<()> {
    loop {
        controller.stop().await?;
        controller.serve().await?;
        let took = controller.connected(2).await?;
        ensure!(took < Duration::from_secs(20), "a controller that was started reached the nodes after {took:?}");
        *restarts += 1;
    }
}
