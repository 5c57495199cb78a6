//! Controllers are killed at bad moments, and several get the same call: the result is one volume, or none.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::cluster::{Cluster, PATIENCE};
use crate::controller::Controller;
use crate::csi::{Ask, Made, is_passing};
use crate::node::Node;
use crate::scenario::{Context, Passed};
use crate::scenarios::hung_tools::{WRAPPER, wait_hung};

/// The first node has more, and is chosen.
const SIZES: [u64; 2] = [1 << 30, 512 << 20];
/// Two controllers of one host, of which one decides where there is a choice.
const CHOOSER: &str = "--chooser /run/quarry/chooser";
/// A caller that does not wait for what hangs.
const SHORT: Duration = Duration::from_secs(4);

pub async fn run(context: Context) -> Passed {
    let mut cluster = Cluster::bare("controllers", &SIZES).await?;
    cluster.issue().await?;
    for index in 0..SIZES.len() {
        cluster.deliver(&cluster.nodes[index]).await?;
        let node = &mut cluster.nodes[index];
        node.vm.sh("mkdir -p /run/hang").await?;
        node.vm.write("/opt/shadow/lvm", WRAPPER.as_bytes(), 0o755).await?;
        node.shadow_programs("/opt/shadow");
        node.serve().await?;
    }
    let mut one = cluster.controller(1, CHOOSER).await?;
    let mut two = cluster.controller(2, CHOOSER).await?;
    one.connected(2).await?;
    two.connected(2).await?;
    for strict in [true, false] {
        let what = if strict { "one node" } else { "a choice" };
        killed(&cluster, &mut one, &mut two, strict).await.with_context(|| format!("{what}: killed in between"))?;
        // The elected controller was killed; the other one is elected now, and then this one again.
        killed(&cluster, &mut two, &mut one, strict).await.with_context(|| format!("{what}: the other one killed"))?;
    }
    context.say("killed in between: one volume each time");
    let rounds: Vec<usize> = if context.settings.soak { (0..60).collect() } else { vec![0, 1] };
    let rounds: Vec<usize> = rounds.into_iter().filter(|round| context.settings.slice.has(*round)).collect();
    for round in &rounds {
        for strict in [true, false] {
            at_once(&cluster, &one, &two, &format!("same-{round}-{strict}"), strict).await?;
        }
    }
    let mut random = context.random();
    for round in &rounds {
        // Both within the time that a create takes.
        let after = Duration::from_millis(random.below(1500));
        let strict = random.below(2) == 0;
        let (killed, other) = if random.below(2) == 0 { (&mut one, &two) } else { (&mut two, &one) };
        let name = format!("kill-{round}");
        killed_after(&cluster, killed, other, &name, strict, after)
            .await
            .with_context(|| format!("{name}, strict: {strict}, killed after {after:?}"))?;
    }
    let rounds = rounds.len();
    context.count("controllers killed", 4 + 2 * rounds);
    cluster.expect_empty().await?;
    one.stop().await?;
    two.stop().await?;
    Ok(format!("4 kills during a change that hung, {rounds} at seeded instants, {} calls at once", 2 * rounds))
}

fn ask(name: &str, strict: bool) -> Ask {
    let ask = Ask::mount(name, "ext4");
    if strict { ask.on("n1") } else { ask.among(&["n1", "n2"]) }
}

async fn hang(node: &Node, subcommand: &str) -> Result<()> {
    node.vm.sh(format!("rm -f /run/hung-{subcommand}; echo vg0 > /run/hang/{subcommand}")).await.map(drop)
}

async fn release(node: &Node, subcommand: &str) -> Result<()> {
    node.vm.sh(format!("rm /run/hang/{subcommand}")).await.map(drop)
}

/// A call that is repeated until it is done, for at most [`PATIENCE`].
async fn until_done<T, F: Future<Output = Result<T, tonic::Status>>>(mut call: impl FnMut() -> F) -> Result<T> {
    let began = Instant::now();
    loop {
        match call().await {
            Err(status) if is_passing(&status) && began.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            other => return other.map_err(Into::into),
        }
    }
}

/// A controller is killed while the node creates the volume for it, and the other one gets the retry; the
/// same for the delete.
async fn killed(cluster: &Cluster, first: &mut Controller, other: &mut Controller, strict: bool) -> Result<()> {
    let node = &cluster.nodes[0];
    let ask = ask("once", strict);
    hang(node, "lvcreate").await?;
    let call = {
        let (csi, ask) = (first.csi.clone(), ask.clone());
        tokio::spawn(async move { csi.create(&ask).await })
    };
    wait_hung(node, "lvcreate").await?;
    first.kill().await?;
    ensure!(call.await?.is_err(), "the call was answered by a controller that was killed");
    let meanwhile = other.csi.create_within(&ask, SHORT).await;
    ensure!(meanwhile.as_ref().is_err_and(is_passing), "during the first attempt: {meanwhile:?}");
    release(node, "lvcreate").await?;
    let made = until_done(|| other.csi.create(&ask)).await?;
    ensure!(made.node == "n1", "it was being made on n1, and is on {}", made.node);
    one_only(cluster, &made).await?;
    first.serve().await?;
    first.connected(2).await?;

    hang(node, "lvremove").await?;
    let call = {
        let (csi, id) = (first.csi.clone(), made.id.clone());
        tokio::spawn(async move { csi.delete(&id).await })
    };
    wait_hung(node, "lvremove").await?;
    first.kill().await?;
    ensure!(call.await?.is_err(), "the call was answered by a controller that was killed");
    let deleting = tokio::time::timeout(SHORT, other.csi.delete(&made.id)).await;
    ensure!(
        deleting.as_ref().map_or(true, |answer| answer.as_ref().is_err_and(is_passing)),
        "during the first delete: {deleting:?}"
    );
    release(node, "lvremove").await?;
    until_done(|| other.csi.delete(&made.id)).await?;
    let left = cluster.holders("once").await?;
    ensure!(left.is_empty(), "left on {left:?}");
    first.serve().await?;
    first.connected(2).await.map(drop)
}

async fn one_only(cluster: &Cluster, made: &Made) -> Result<()> {
    let holders = cluster.holders(&made.ask.name).await?;
    ensure!(holders == [made.node.clone()], "{} is on {}, but is stored on {holders:?}", made.id, made.node);
    Ok(())
}

/// Both get the same call at the same instant.
async fn at_once(cluster: &Cluster, one: &Controller, two: &Controller, name: &str, strict: bool) -> Result<()> {
    let ask = ask(name, strict);
    let (first, second) = tokio::join!(one.csi.create(&ask), two.csi.create(&ask));
    for answer in [&first, &second] {
        ensure!(answer.as_ref().map_or_else(is_passing, |_| true), "{name}: {answer:?}");
    }
    let answered: Vec<&Made> = [&first, &second].into_iter().filter_map(|answer| answer.as_ref().ok()).collect();
    ensure!(!answered.is_empty(), "{name}: neither was done: {first:?} {second:?}");
    let made = until_done(|| either(one, two, &ask)).await?;
    ensure!(answered.iter().all(|answer| answer.id == made.id), "{name}: {answered:?}, and then {made:?}");
    one_only(cluster, &made).await?;
    let (first, second) = tokio::join!(one.csi.delete(&made.id), two.csi.delete(&made.id));
    for answer in [first, second] {
        ensure!(answer.as_ref().map_or_else(is_passing, |()| true), "deleting {name}: {answer:?}");
    }
    until_done(|| two.csi.delete(&made.id)).await?;
    let left = cluster.holders(name).await?;
    ensure!(left.is_empty(), "{name} is left on {left:?}");
    Ok(())
}

/// The elected controller, or the other.
async fn either(one: &Controller, two: &Controller, ask: &Ask) -> Result<Made, tonic::Status> {
    match one.csi.create(ask).await {
        Err(status) if is_passing(&status) => two.csi.create(ask).await,
        other => other,
    }
}

/// One is killed this long after the call arrived, and the other gets the retry at once.
async fn killed_after(
    cluster: &Cluster,
    killed: &mut Controller,
    other: &Controller,
    name: &str,
    strict: bool,
    after: Duration,
) -> Result<()> {
    let ask = ask(name, strict);
    let call = {
        let (csi, ask) = (killed.csi.clone(), ask.clone());
        tokio::spawn(async move { csi.create(&ask).await })
    };
    tokio::time::sleep(after).await;
    killed.kill().await?;
    let before = call.await?;
    let made = until_done(|| other.csi.create(&ask)).await?;
    ensure!(before.as_ref().map_or(true, |before| before.id == made.id), "{before:?}, and then {made:?}");
    one_only(cluster, &made).await?;
    killed.serve().await?;
    killed.connected(2).await?;
    let call = {
        let (csi, id) = (killed.csi.clone(), made.id.clone());
        tokio::spawn(async move { csi.delete(&id).await })
    };
    tokio::time::sleep(after / 2).await;
    killed.kill().await?;
    let _ = call.await?;
    until_done(|| other.csi.delete(&made.id)).await?;
    let left = cluster.holders(name).await?;
    ensure!(left.is_empty(), "left on {left:?}");
    killed.serve().await?;
    killed.connected(2).await.map(drop)
}
