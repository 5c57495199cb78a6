//! Disks that hang or return errors for a while.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use quarry_proto::csi::v1 as csi;
use quarry_vm::{Command, Config, Disk, Fault, Vm};
use tonic::{Code, Request, Status};

use crate::csi::{Ask, Made, refused};
use crate::node::{Node, device};
use crate::scenario::{Context, Passed, Scenario};
use crate::scenarios::hung_tools::class;
use crate::scenarios::steps::{close, open, until};

const DISK: u64 = 512 << 20;
/// How many calls are made while a disk hangs.
const CALLS: usize = 10_000;
/// The same in a sample.
const FEWER_CALLS: usize = 2_000;
/// The number of volumes in parallel.
const VOLUMES: usize = 8;
/// How many calls are measured on a healthy node.
const MEASURED: usize = 500;
/// How much longer a call may take next to a hung disk than without it.
const FACTOR: f64 = 2.0;
/// The timeout after which quarry gives up on a disk, plus some time for an emulated processor.
const PATIENCE: Duration = Duration::from_secs(30);
/// How soon a recovered disk has to be used again.
const SOON: Duration = Duration::from_secs(10);

/// All of them.
pub fn all() -> Vec<Scenario> {
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    vec![
        Scenario {
            name: "hung-disk",
            about: "one disk hangs: ten thousand calls on other volumes take their usual time and leak no thread",
            limit: minutes(20),
            run: |context| Box::pin(hung(context)),
        },
        Scenario {
            name: "hung-flush",
            about: "a disk hangs in a flush: reported, no capacity, changes are rejected at once, and it recovers",
            limit: minutes(12),
            run: |_| Box::pin(hung_flush()),
        },
        Scenario {
            name: "ill-disk",
            about: "a disk returns errors for a while: back within ten seconds, without a restart, with few processes",
            limit: minutes(12),
            run: |_| Box::pin(ill()),
        },
    ]
}

/// Pool `main` on disk d1, pool `ill` on disk d2, and disk d3 in no pool.
async fn node(name: &str) -> Result<Node> {
    let config = ["d1", "d2", "d3"].iter().fold(Config::new(name), |config, disk| config.disk(Disk::new(*disk, DISK)));
    let node = Node::with_vm(Vm::start(config).await?, 1).await?;
    node.vm.sh(format!("vgcreate -qq vg1 {}", device("d2"))).await?;
    node.configure("pools:\n  - name: main\n    lvm: {volumeGroup: vg0}\n  - name: ill\n    lvm: {volumeGroup: vg1}\n")
        .await?;
    Ok(node)
}

fn ask(name: &str, pool: &str) -> Ask {
    Ask::mount(name, "ext4").parameter("pool", pool)
}

async fn hung(context: Context) -> Passed {
    let mut node = node("hung-disk").await?;
    node.serve().await?;
    let ill = node.csi.create(&ask("ill", "ill")).await?;
    open(&node, &ill).await?;
    let mut well = Vec::new();
    for number in 0..VOLUMES {
        let made = node.csi.create(&ask(&format!("well-{number}"), "main")).await?;
        open(&node, &made).await?;
        well.push(made);
    }
    let calls_before = many(&node, &well, None, MEASURED).await?;
    let life_before = lives(&node, "before").await?;

    node.vm.set_fault("d2", Fault::Hang)?;
    // Some ask the pool that hangs before it is known to.
    let early = tokio::spawn({
        let (csi, ill) = (node.csi.clone(), ill.clone());
        async move {
            let early = (0..20).map(|_| stats(&csi, &ill, PATIENCE));
            futures::future::join_all(early).await
        }
    });
    until("/readyz names pool and disk", PATIENCE, || async {
        let (status, text) = node.http("/readyz").await?;
        Ok(status == 503 && text.contains("pool ill") && text.contains("has not answered a read"))
    })
    .await?;
    until("no room is offered on it", PATIENCE, || async { Ok(node.csi.capacity(&class("ill")).await?.0 == 0) })
        .await?;
    // They may answer from what the kernel has in memory; what counts is that they end.
    early.await?;
    let (threads, stuck) = threads(&node).await?;

    let number = if context.settings.soak { CALLS } else { FEWER_CALLS };
    let calls = many(&node, &well, Some(&ill), number).await?;
    let (threads_after, stuck_after) = self::threads(&node).await?;
    context.say(format!("{number} calls: {threads} threads, then {threads_after}; stuck {stuck}, then {stuck_after}"));
    ensure!(stuck_after <= stuck && stuck <= 2, "threads that wait for the disk: {stuck}, then {stuck_after}");
    // The number of the runtime's idle threads depends on concurrent calls, not on their total.
    ensure!(threads_after <= threads + VOLUMES, "{threads} threads, and {threads_after} after {number} calls");
    let life = lives(&node, "while").await.context("volumes of the other pool")?;
    reported_as_hung(&node).await?;
    disks_end(&mut node).await?;

    node.vm.set_fault("d2", Fault::None)?;
    until("the disk is used again", SOON, || async {
        Ok(node.csi.capacity(&class("ill")).await?.0 > 0 && node.http("/readyz").await?.0 == 200)
    })
    .await?;
    stats(&node.csi, &ill, PATIENCE).await?;
    // Other guests start and stop next to this one, so the baseline is measured before and after. The slower one
    // counts.
    let calls_usual = calls_before.max(many(&node, &well, None, MEASURED).await?);
    let life_usual = life_before.max(lives(&node, "after").await?);
    let (call_ratio, life_ratio) = (ratio(calls, calls_usual), ratio(life, life_usual));
    ensure!(call_ratio <= FACTOR, "a call took {calls_usual:?}, and {calls:?} next to a hung disk");
    ensure!(life_ratio <= FACTOR, "a volume's life took {life_usual:?}, and {life:?} next to a hung disk");
    for made in well.iter().chain([&ill]) {
        close(&node, made).await?;
        node.csi.delete(&made.id).await?;
    }
    Ok(format!(
        "{number} calls, {:.2} times as long each; a volume's life {:.2} times; threads {threads} and {threads_after}",
        call_ratio, life_ratio
    ))
}

/// How a hung disk is reported.
async fn reported_as_hung(node: &Node) -> Result<()> {
    let path = node.vm.sh(format!("readlink -f {}", device("d2"))).await?;
    let (_, ready) = node.http("/readyz").await?;
    ensure!(ready.contains("pool ill") && ready.contains(path.trim()), "/readyz does not name {path}: {ready}");
    ensure!(!ready.contains("pool main"), "/readyz blames the other pool: {ready}");
    let (healthy, text) = node.http("/healthz").await?;
    ensure!(healthy == 200, "/healthz asks for a restart, which heals no disk: {text}");
    let silent = node.metric("quarry_disk_silent_seconds{pool=\"ill\"").await?;
    ensure!(silent > 1.0, "the metric of a disk that hangs is {silent}");
    ensure!(node.metric("quarry_pool_largest_free_bytes{pool=\"ill\"").await? == 0.0, "the metrics offer room");
    ensure!(node.metric("quarry_pool_healthy{pool=\"main\"").await? == 1.0, "the other pool is reported as ill");
    Ok(())
}

/// `quarry disks` ends although one disk of a pool and an unused one hang, and its reader does not wait
/// either.
async fn disks_end(node: &mut Node) -> Result<()> {
    node.vm.set_fault("d3", Fault::Hang)?;
    let script = "quarry disks 2>&1 | cat";
    let output = node.vm.exec(Command::new(["bash", "-c", script]).timeout(Duration::from_secs(120))).await;
    node.vm.set_fault("d3", Fault::None)?;
    let text = output.context("`quarry disks` does not end")?.text();
    let unread = node.vm.sh(format!("basename $(readlink -f {})", device("d3"))).await?;
    let row = text.lines().find(|line| line.starts_with(unread.trim()));
    ensure!(row.is_some_and(|row| row.contains("not answer")), "{unread} is not reported as unresponsive:\n{text}");
    Ok(())
}

/// Makes calls on healthy volumes, one at a time on each, and a few on one whose disk hangs; returns the
/// median duration of the former.
async fn many(node: &Node, well: &[Made], ill: Option<&Made>, count: usize) -> Result<Duration> {
    let each = well.iter().map(|well| async move {
        let mut took = Vec::new();
        for number in 0..count / VOLUMES {
            let began = Instant::now();
            match number % 4 {
                0 => stats(&node.csi, well, PATIENCE).await?,
                1 => node.csi.capacity(&class("main")).await.map(drop)?,
                2 => node.csi.list().await.map(drop)?,
                _ => node.csi.stage(well).await?,
            }
            took.push(began.elapsed());
            if let Some(ill) = ill.filter(|_| number.is_multiple_of(10)) {
                let began = Instant::now();
                let _ = stats(&node.csi, ill, PATIENCE).await;
                // A name of this one's own: a second call for the same name gets ABORTED.
                let answer = node.csi.create(&ask(&format!("refused-{}", well.ask.name), "ill")).await;
                refused("a change in the pool that hangs", answer, Code::Unavailable, "has not answered")?;
                ensure!(began.elapsed() < PATIENCE, "calls on the disk that hangs took {:?}", began.elapsed());
            }
        }
        Ok(took)
    });
    let took: Vec<Vec<Duration>> = futures::future::try_join_all(each).await?;
    median(took.into_iter().flatten().collect())
}

/// Makes, uses and deletes some volumes in pool `main`; the median of how long each took.
async fn lives(node: &Node, when: &str) -> Result<Duration> {
    let mut took = Vec::new();
    for number in 0..3 {
        let began = Instant::now();
        let made = node.csi.create(&ask(&format!("life-{when}-{number}"), "main")).await?;
        open(node, &made).await?;
        close(node, &made).await?;
        node.csi.delete(&made.id).await?;
        took.push(began.elapsed());
    }
    median(took)
}

fn median(mut took: Vec<Duration>) -> Result<Duration> {
    took.sort();
    took.get(took.len() / 2).copied().context("nothing was measured")
}

fn ratio(after: Duration, before: Duration) -> f64 {
    after.as_secs_f64() / before.as_secs_f64()
}

/// The number of quarry's threads, and of those that wait for a disk, while none can finish.
async fn threads(node: &Node) -> Result<(usize, usize)> {
    // Threads that have nothing to do end after ten seconds.
    tokio::time::sleep(Duration::from_secs(12)).await;
    let states = node.vm.sh(format!("cat /proc/{}/task/*/stat | sed 's/.*) //; s/ .*//'", node.pid()?)).await?;
    Ok((states.lines().count(), states.lines().filter(|state| *state == "D").count()))
}

async fn stats(csi: &crate::csi::Csi, made: &Made, patience: Duration) -> Result<(), Status> {
    let mut request = Request::new(csi::NodeGetVolumeStatsRequest {
        volume_id: made.id.clone(),
        volume_path: made.target(),
        staging_target_path: made.staging(),
    });
    request.set_timeout(patience);
    csi.node().node_get_volume_stats(request).await.map(drop)
}

async fn hung_flush() -> Passed {
    let mut node = node("hung-flush").await?;
    node.serve().await?;
    ensure!(node.csi.capacity(&class("ill")).await?.0 > 0, "the pool has no capacity to begin with");
    node.vm.set_fault("d2", Fault::HangAtFlush)?;
    let path = node.vm.sh(format!("readlink -f {}", device("d2"))).await?;
    let first = node.csi.create(&ask("first", "ill")).await;
    refused("a change that cannot be flushed", first, Code::Unavailable, path.trim())?;
    let began = Instant::now();
    for name in ["first", "second"] {
        let later = node.csi.create(&ask(name, "ill")).await;
        refused("a change after it", later, Code::Unavailable, path.trim())?;
    }
    ensure!(began.elapsed() < PATIENCE / 2, "later changes waited for {:?}", began.elapsed());
    until("no room is offered", SOON, || async { Ok(node.csi.capacity(&class("ill")).await?.0 == 0) }).await?;
    let (status, ready) = node.http("/readyz").await?;
    ensure!(
        status == 503 && ready.contains("pool ill") && ready.contains("has not answered a flush"),
        "/readyz: {status} {ready}"
    );
    let beside = node.csi.create(&ask("beside", "main")).await.context("a change in the other pool")?;
    node.csi.delete(&beside.id).await?;

    node.vm.set_fault("d2", Fault::None)?;
    until("the pool has recovered", SOON, || async { Ok(node.csi.capacity(&class("ill")).await?.0 > 0) }).await?;
    let made = crate::csi::retry(|| async { node.csi.create(&ask("first", "ill")).await }).await?;
    node.csi.delete(&made.id).await?;
    let left = node.contents().await?;
    ensure!(left.is_empty(), "left behind:\n{left}");
    Ok(String::new())
}

async fn ill() -> Passed {
    let mut node = Node::start("ill-disk", &[DISK, DISK]).await?;
    let made = node.csi.create(&Ask::mount("here", "ext4")).await?;
    let all = class("main");
    let mut slowest = Duration::ZERO;
    for round in 0..3 {
        node.vm.set_fault("d2", Fault::Errors)?;
        until("the illness shows", PATIENCE, || async { Ok(node.csi.capacity(&all).await?.0 == 0) }).await?;
        if round == 2 {
            // Nothing depends on what this process has seen, nor on what lvm noted down.
            node.stop().await?;
            node.serve().await?;
            until("it shows again", PATIENCE, || async { Ok(node.csi.capacity(&all).await?.0 == 0) }).await?;
        }
        let reports = async || -> Result<u64> {
            Ok(node.commands_started().await?.get("lvm fullreport").copied().unwrap_or_default())
        };
        let before = reports().await?;
        tokio::time::sleep(Duration::from_secs(20)).await;
        let asked = reports().await? - before;
        ensure!(asked <= 1, "{asked} reports within 20 s while a disk fails and nothing changes");
        node.vm.set_fault("d2", Fault::None)?;
        let began = Instant::now();
        until("the disk is found again", SOON, || async { Ok(node.csi.capacity(&all).await?.0 > 0) }).await?;
        slowest = slowest.max(began.elapsed());
        let (status, text) = node.http("/readyz").await?;
        if status != 200 {
            bail!("/readyz after the disk has recovered: {status} {text}");
        }
    }
    node.csi.delete(&made.id).await?;
    node.expect_empty().await?;
    Ok(format!("3 times, the slowest found after {:.1} s", slowest.as_secs_f64()))
}
