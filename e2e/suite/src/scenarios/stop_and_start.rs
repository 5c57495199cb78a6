//! Startup and shutdown of the process: the errors of a failed start, the effect of a missing volume group,
//! and that SIGTERM, at any moment, ends it in time and loses nothing.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use quarry_vm::{Command, Config, Disk, Throttle, Vm};
use tonic::{Code, Status};

use crate::csi::{Ask, MIB, is_passing, refused, retry};
use crate::node::{Node, SOCKET, device};
use crate::scenario::{Context, Passed};
use crate::scenarios::hung_tools::{WRAPPER, class, wait_hung};

const GIB: u64 = 1 << 30;
/// How long SIGTERM may take: 20 s for running calls, and the shutdown.
const END: Duration = Duration::from_secs(25);
/// More than anything here needs.
const PATIENCE: Duration = Duration::from_secs(120);
const POOLS: &str =
    "pools:\n  - name: main\n    lvm: {volumeGroup: vg0}\n  - name: late\n    lvm: {volumeGroup: vg1}\n";

pub async fn run(_: Context) -> Passed {
    let config = Config::new("stop-and-start").disk(Disk::new("d1", 4 * GIB)).disk(Disk::new("d2", GIB));
    let mut node = Node::with_vm(Vm::start(config).await?, 1).await?;
    wrong_configurations(&node).await.context("a wrong configuration")?;
    node.configure(POOLS).await?;
    node.vm.sh("mkdir -p /run/hang").await?;
    node.vm.write("/opt/shadow/lvm", WRAPPER.as_bytes(), 0o755).await?;
    node.shadow_programs("/opt/shadow");
    node.serve().await?;
    late_group(&node).await.context("a volume group that comes late")?;
    sockets(&mut node).await.context("the socket")?;
    let zeroing = stop_while_zeroing(&mut node).await.context("SIGTERM while a volume is zeroed")?;
    let change = stop_while_changing(&mut node).await.context("SIGTERM while lvm hangs")?;
    let stayed = stay_while_changing(&mut node).await.context("SIGTERM to a container while lvm works")?;
    node.expect_empty().await?;
    Ok(format!(
        "ended {:.1} s after SIGTERM while zeroing, {:.1} s while lvm hung, {:.1} s as a container's first process",
        zeroing.as_secs_f64(),
        change.as_secs_f64(),
        stayed.as_secs_f64()
    ))
}

/// Each mistake stops the startup and is reported with file, line and key.
async fn wrong_configurations(node: &Node) -> Result<()> {
    let good = "pools:\n  - name: main\n    lvm:\n      volumeGroup: vg0\n";
    let wrong = [
        (format!("{good}      resreve: 1Gi\n"), 5, "resreve"),
        (format!("{good}      reserve: lots\n"), 5, "reserve"),
        (format!("{good}  - name: main\n    lvm: {{volumeGroup: vg1}}\n"), 5, "name"),
        (format!("{good}  - name: two\n    lvm: {{volumeGroup: vg0}}\n"), 6, "volumeGroup"),
        ("pools: []\n".to_owned(), 1, "pools"),
    ];
    for (text, line, key) in wrong {
        node.vm.write("/root/wrong.yaml", text.as_bytes(), 0o644).await?;
        let output = start_another(node, "/root/wrong.yaml", "/run/wrong.sock").await?;
        let words = output.error_text();
        ensure!(!output.exit.success(), "quarry started with\n{text}");
        let named = words.contains(&format!("/root/wrong.yaml:{line}")) && words.contains(key);
        ensure!(named, "line {line} and {key} are not named: {words}\n{text}");
    }
    let output = start_another(node, "/root/none.yaml", "/run/wrong.sock").await?;
    ensure!(output.error_text().contains("/root/none.yaml"), "the missing file is not named");
    node.vm.sh("test ! -e /run/wrong.sock").await.map(drop)
}

/// Runs a second quarry that is expected to exit at once.
async fn start_another(node: &Node, config: &str, socket: &str) -> Result<quarry_vm::Output> {
    let command = format!("exec /usr/local/bin/quarry standalone --config {config} --endpoint unix://{socket}");
    node.vm.exec(Command::sh(command).timeout(PATIENCE)).await
}

/// One pool's volume group does not exist yet: the other pool serves, and this one as soon as it can.
async fn late_group(node: &Node) -> Result<()> {
    let made = node.csi.create(&Ask::mount("early", "ext4").parameter("pool", "main")).await?;
    let late = Ask::mount("late", "ext4").parameter("pool", "late");
    refused("a create in the pool that is away", node.csi.create(&late).await, Code::Unavailable, "vg1")?;
    ensure!(node.csi.capacity(&class("late")).await? == (0, 0), "a pool that is away has room");
    let (status, text) = node.http("/readyz").await?;
    ensure!(status == 503 && text.contains("late") && text.contains("vg1"), "/readyz answered {status}: {text}");
    let probe = node.csi.identity().probe(quarry_proto::csi::v1::ProbeRequest::default()).await?.into_inner();
    ensure!(probe.ready != Some(false), "one pool is away, and Probe says that nothing works");
    ensure!(node.csi.list().await?.len() == 1, "the volumes of the other pool are not listed");

    node.vm.sh(format!("vgcreate -qq vg1 {}", device("d2"))).await?;
    let began = Instant::now();
    loop {
        let asked = began.elapsed();
        if node.csi.capacity(&class("late")).await?.0 > 0 {
            break;
        }
        ensure!(asked < Duration::from_secs(10), "the volume group is not seen {asked:?} after vgcreate");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let second = node.csi.create(&late).await?;
    let (status, text) = node.http("/readyz").await?;
    ensure!(status == 200, "/readyz answered {status}: {text}");
    node.csi.delete(&second.id).await?;
    node.csi.delete(&made.id).await?;
    Ok(())
}

/// A dead process's socket is replaced, a living one's is not.
async fn sockets(node: &mut Node) -> Result<()> {
    let output = start_another(node, "/etc/quarry/pools.yaml", SOCKET).await?;
    let words = output.error_text();
    ensure!(!output.exit.success() && words.contains("another process answers"), "a second quarry said: {words}");
    node.csi.list().await.context("the first quarry, after a second one was started")?;
    node.kill().await?;
    node.vm.sh(format!("test -S {SOCKET}")).await.context("the socket of the killed process is gone")?;
    node.serve().await?;
    node.csi.list().await?;
    Ok(())
}

async fn stop_while_zeroing(node: &mut Node) -> Result<Duration> {
    // Foreign bytes, at the place of the last chunks.
    let disk = device("d1");
    node.vm.sh(format!("yes somebodys | dd of={disk} bs=1M seek=2300 count=4 iflag=fullblock oflag=direct")).await?;
    // 1 GiB, the largest piece that is zeroed at once, takes 10 s.
    let slow = Throttle { bytes_per_second: GIB / 10, ..Throttle::default() };
    node.vm.set_throttle("d1", slow).await?;
    let ask = Ask::block("large").size(2560 * MIB).parameter("pool", "main");
    let creating = {
        let (csi, ask) = (node.csi.clone(), ask.clone());
        tokio::spawn(async move { csi.create(&ask).await })
    };
    let began = Instant::now();
    while node.metric("quarry_task_age_seconds{operation=\"create\"").await? == 0.0 {
        ensure!(began.elapsed() < PATIENCE && !creating.is_finished(), "no creation is under way");
    }
    // It reports progress as soon as it has some: the volume is allocated first.
    loop {
        match node.csi.create(&ask).await {
            Err(status) if status.code() == Code::Aborted && status.message().contains(" of 2.5 GiB") => break,
            Err(status) if status.code() == Code::Aborted => {}
            other => anyhow::bail!("create again answered {other:?}"),
        }
        ensure!(began.elapsed() < PATIENCE && !creating.is_finished(), "no progress is reported");
        node.vm.sh("sleep 0.5").await?;
    }
    let csi = node.csi.clone();
    let (ended, refused_then) = tokio::join!(node.terminate(), async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        csi.list().await
    });
    let (took, exit) = ended?;
    ensure!(exit.success(), "quarry ended with {exit} after SIGTERM\n{}", node.log_tail().await);
    ensure!(took <= END, "quarry ended {took:?} after SIGTERM");
    ensure!(refused_then.is_err(), "a new call was accepted after SIGTERM");
    let first = creating.await?;
    refused("the create that was under way", first, Code::Aborted, "was stopped")?;
    node.vm.sh(format!("test ! -e {SOCKET}")).await.context("the socket is left behind")?;

    node.vm.set_throttle("d1", Throttle::default()).await?;
    node.serve().await?;
    let listed = node.csi.list().await?;
    ensure!(listed.len() == 1, "after the restart: {listed:?}");
    let made = retry(|| node.csi.create(&ask)).await?;
    ensure!(made.id == listed[0].volume_id && node.csi.list().await?.len() == 1, "the retry created another volume");
    node.kubelet_folders(&made).await?;
    node.csi.stage(&made).await?;
    node.csi.publish(&made).await?;
    // The physical volume's data starts 1 MiB into the disk.
    let script = format!(
        "dd if='{}' bs=1M skip=2290 count=20 iflag=direct status=none | cmp -n 20971520 - /dev/zero",
        made.target()
    );
    node.vm.sh(script).await.context("foreign bytes are visible")?;
    node.csi.unpublish(&made).await?;
    node.csi.unstage(&made).await?;
    node.csi.delete(&made.id).await?;
    Ok(took)
}

/// An lvm that changes something is not killed at the end either; the next start copes with it.
async fn stop_while_changing(node: &mut Node) -> Result<Duration> {
    node.vm.sh("echo vg0 > /run/hang/lvcreate").await?;
    let ask = Ask::mount("hung", "ext4").parameter("pool", "main");
    let creating = {
        let (csi, ask) = (node.csi.clone(), ask.clone());
        tokio::spawn(async move { csi.create(&ask).await })
    };
    let pid = wait_hung(node, "lvcreate").await?;
    let (took, exit) = node.terminate().await?;
    ensure!(exit.success(), "quarry ended with {exit} after SIGTERM\n{}", node.log_tail().await);
    ensure!(took <= END, "quarry ended {took:?} after SIGTERM");
    let first = creating.await?;
    // The end of the process cuts its connection: for this client that is an unknown error.
    let cut_off = |status: &Status| is_passing(status) || status.code() == Code::Unknown;
    ensure!(first.as_ref().is_err_and(cut_off), "the create under way answered {first:?}");
    let alive = format!("test -e /proc/{pid} && ! grep -q 'State:.Z' /proc/{pid}/status");
    node.vm.sh(alive).await.context("the lvm that hangs was killed")?;
    // Released at the moment of the retry: both run concurrently, and lvm's lock decides.
    node.serve().await?;
    node.vm.sh("rm /run/hang/lvcreate").await?;
    let made = retry(|| node.csi.create(&ask)).await?;
    node.vm.sh(format!("for i in $(seq 600); do test -e /proc/{pid} || exit 0; sleep 0.1; done; exit 1")).await?;
    let list = node.contents().await?;
    ensure!(list.lines().count() == 1, "after both have ended:\n{list}");
    node.kubelet_folders(&made).await?;
    node.csi.stage(&made).await?;
    node.csi.unstage(&made).await?;
    node.csi.delete(&made.id).await?;
    Ok(took)
}

/// As a container's first process it would kill the lvm when it exits: it stays until the lvm has finished.
async fn stay_while_changing(node: &mut Node) -> Result<Duration> {
    // Longer than quarry stays for its own sake.
    const WORK: Duration = Duration::from_secs(27);
    node.stop().await?;
    node.first_process(true);
    node.serve().await?;
    node.vm.sh("rm -f /run/hung-lvcreate; echo vg0 > /run/hang/lvcreate").await?;
    let ask = Ask::mount("stayed", "ext4").parameter("pool", "main");
    let creating = {
        let (csi, ask) = (node.csi.clone(), ask.clone());
        tokio::spawn(async move { csi.create(&ask).await })
    };
    wait_hung(node, "lvcreate").await?;
    let vm = node.vm.guest();
    let released = tokio::spawn(async move {
        tokio::time::sleep(WORK).await;
        vm.sh("rm /run/hang/lvcreate").await
    });
    let (took, exit) = node.terminate().await?;
    released.await??;
    ensure!(exit.success(), "quarry ended with {exit} after SIGTERM\n{}", node.log_tail().await);
    ensure!(took >= WORK && took < WORK + END, "quarry ended {took:?} after SIGTERM, the lvm after {WORK:?}");
    // Cut off, but not in the midst of its work.
    ensure!(creating.await?.is_err(), "a create was answered after SIGTERM");
    let list = node.contents().await?;
    ensure!(list.lines().count() == 1 && list.contains("stayed"), "what lvm created while quarry stayed:\n{list}");
    node.first_process(false);
    node.serve().await?;
    let made = retry(|| node.csi.create(&ask)).await?;
    node.csi.delete(&made.id).await?;
    Ok(took)
}
