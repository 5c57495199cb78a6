//! Tools that hang: a report is killed, a change keeps running, and neither blocks unrelated calls.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use quarry_vm::{Config, Disk, Vm};
use tonic::Code;

use crate::csi::{Ask, is_passing, refused, retry};
use crate::node::{Node, device};
use crate::scenario::{Context, Passed};

const DISK: u64 = 512 << 20;
/// Wraps lvm: a command waits while the file of its name in /run/hang contains one of its arguments. It
/// ignores SIGTERM, so it has to be killed.
pub const WRAPPER: &str = r#"#!/bin/sh
word=
if [ -e /run/hang/$1 ]; then read -r word < /run/hang/$1; fi
if [ -n "$word" ]; then
    case " $* " in
        *" $word "* | *" $word/"*)
            trap '' TERM
            echo $$ >> /run/hung-$1
            while [ -e /run/hang/$1 ]; do sleep 0.2; done
            trap - TERM
            ;;
    esac
fi
exec /usr/sbin/lvm "$@"
"#;
/// How long anything may take that the test waits for; far more than it should need.
const PATIENCE: Duration = Duration::from_secs(240);

pub async fn run(context: Context) -> Passed {
    let mut node = node("hung-tools").await?;
    node.serve().await?;
    let report = hung_report(&node).await.context("a report that hangs")?;
    context.say(&report);
    let change = hung_change(&node).await.context("a change that hangs")?;
    context.say(&change);
    node.stop().await?;
    missing_tool(&node).await.context("a tool that is missing")?;
    Ok(format!("{report}; {change}"))
}

/// Two disks, each a volume group and a pool: vg0 is `main`, vg1 is `other`. lvm is hidden by [`WRAPPER`].
pub async fn node(name: &str) -> Result<Node> {
    let config = Config::new(name).disk(Disk::new("d1", DISK)).disk(Disk::new("d2", DISK));
    let mut node = Node::with_vm(Vm::start(config).await?, 1).await?;
    node.vm.sh(format!("vgcreate -qq vg1 {}; mkdir -p /run/hang", device("d2"))).await?;
    node.vm.write("/opt/shadow/lvm", WRAPPER.as_bytes(), 0o755).await?;
    node.shadow_programs("/opt/shadow");
    // The scenarios with this node say when a report hangs.
    node.without_comparisons();
    node.configure(
        "pools:\n  - name: main\n    lvm: {volumeGroup: vg0}\n  - name: other\n    lvm: {volumeGroup: vg1}\n",
    )
    .await?;
    Ok(node)
}

/// The class of a pool.
pub fn class(pool: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("pool".to_owned(), pool.to_owned())])
}

fn ask(name: &str, pool: &str) -> Ask {
    Ask::mount(name, "ext4").parameter("pool", pool)
}

/// The commands that have hung, by their process numbers.
async fn hung(node: &Node, subcommand: &str) -> Result<Vec<String>> {
    let lines = node.vm.sh(format!("cat /run/hung-{subcommand} 2>/dev/null || true")).await?;
    Ok(lines.lines().map(str::to_owned).collect())
}

/// Waits until a command hangs, and says which.
pub async fn wait_hung(node: &Node, subcommand: &str) -> Result<String> {
    let began = Instant::now();
    loop {
        if let Some(pid) = hung(node, subcommand).await?.pop() {
            return Ok(pid);
        }
        ensure!(began.elapsed() < PATIENCE, "no {subcommand} was started\n{}", node.log_tail().await);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Waits until the pool reports free space, or none: while it cannot be read, nothing may be placed there.
async fn until_room(node: &Node, room: bool) -> Result<()> {
    let began = Instant::now();
    while (node.csi.capacity(&class("main")).await?.0 > 0) != room {
        ensure!(began.elapsed() < PATIENCE, "GetCapacity does not say so after {:?}", began.elapsed());
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    Ok(())
}

async fn hung_report(node: &Node) -> Result<String> {
    ensure!(node.csi.capacity(&class("main")).await?.0 > 0, "the pool has no capacity to begin with");
    // lvm is needed again once a disk has appeared.
    let appears = format!("echo add > /sys/class/block/$(basename $(readlink -f {}))/uevent", device("d2"));
    node.vm.sh(format!("echo vg0 > /run/hang/fullreport && {appears}")).await?;
    let began = Instant::now();
    let callers: Vec<_> = (0..3)
        .map(|number| {
            let csi = node.csi.clone();
            tokio::spawn(async move { csi.create(&ask(&format!("unread-{number}"), "main")).await })
        })
        .collect();
    wait_hung(node, "fullreport").await?;
    // Meanwhile the other pool works, and the state is reported.
    let made = node.csi.create(&ask("beside", "other")).await?;
    node.csi.delete(&made.id).await?;
    let lives = !callers.iter().any(tokio::task::JoinHandle::is_finished);
    let (status, text) = node.http("/readyz").await?;
    ensure!(status == 503, "/readyz answered {status} while a report hung: {text}");
    let pids = hung(node, "fullreport").await?;
    let waiting = !callers.iter().any(tokio::task::JoinHandle::is_finished);
    // Calls that arrive while it hangs share it. The next one starts only after it has timed out.
    ensure!(!waiting || pids.len() == 1, "three callers started {} reports", pids.len());
    let mut answers = Vec::new();
    for caller in callers {
        answers.push(caller.await?);
    }
    let took = began.elapsed();
    for answer in answers {
        refused("a create that has to wait for the report", answer, Code::Unavailable, "fullreport")?;
    }
    ensure!(took > Duration::from_secs(25), "the report was killed after {took:?}");
    node.vm
        .sh(format!("test ! -e /proc/{0} || grep -q 'State:.Z' /proc/{0}/status", pids[0]))
        .await
        .context("the report that hung was not killed")?;
    node.vm.sh("rm /run/hang/fullreport /run/hung-fullreport").await?;
    until_room(node, true).await.context("after the report was killed")?;
    wait_ready(node).await?;
    let beside = if lives { "with the other pool at work meanwhile" } else { "(too slow for other calls meanwhile)" };
    Ok(format!("hung report killed after {:.0} s {beside}", took.as_secs_f64()))
}

async fn hung_change(node: &Node) -> Result<String> {
    let kept = node.csi.create(&ask("kept", "main")).await?;
    node.kubelet_folders(&kept).await?;
    node.csi.stage(&kept).await?;
    node.vm.sh("echo vg0 > /run/hang/lvcreate").await?;
    let began = Instant::now();
    let first = node.csi.create_within(&ask("first", "main"), Duration::from_secs(4)).await;
    ensure!(first.as_ref().is_err_and(is_passing), "a create that hangs answered {first:?}");
    let pid = wait_hung(node, "lvcreate").await?;
    refused("the retry", node.csi.create(&ask("first", "main")).await, Code::Aborted, "in progress")?;
    // It waits for its turn on this volume group.
    let second = node.csi.create_within(&ask("second", "main"), Duration::from_secs(4)).await;
    ensure!(second.as_ref().is_err_and(is_passing), "a create behind it answered {second:?}");
    // Calls that need no change keep working, on this volume group too.
    node.csi.publish(&kept).await?;
    let mut lives = 0;
    loop {
        life(node, lives).await.context("on the other pool, during the hung change")?;
        lives += 1;
        let (status, text) = node.http("/readyz").await?;
        if status == 503 && text.contains("lvcreate") {
            break;
        }
        ensure!(began.elapsed() < PATIENCE, "/readyz answers {status} after {:?}: {text}", began.elapsed());
    }
    let seen = began.elapsed();
    ensure!(seen > Duration::from_secs(55), "overdue after {seen:?}");
    ensure!(node.metric("quarry_commands_overdue").await? == 1.0, "/metrics shows no overdue command");
    let age = node.metric("quarry_task_age_seconds{operation=\"create\",volume=\"first\"").await?;
    ensure!(age > 50.0, "/metrics gives the create the age {age}");
    // A real lvm would hold the volume group's lock, so reports hang too; and the cached state is no longer
    // valid.
    node.vm.sh("echo vg0 > /run/hang/fullreport && vgchange -qq --addtag again vg0").await?;
    node.vm.sh("sleep 1").await?;
    let asked = Instant::now();
    refused("create", node.csi.create(&ask("third", "main")).await, Code::Unavailable, "lvcreate")?;
    refused("delete", node.csi.delete(&kept.id).await, Code::Unavailable, "lvcreate")?;
    refused("the first one's retry", node.csi.create(&ask("first", "main")).await, Code::Aborted, "in progress")?;
    life(node, lives).await.context("on the other pool, once the change is overdue")?;
    lives += 1;
    node.csi.unpublish(&kept).await?;
    node.csi.unstage(&kept).await?;
    let quick = asked.elapsed();
    let reports = hung(node, "fullreport").await?;
    ensure!(reports.is_empty(), "{} reports were sent to wait behind the change that hangs", reports.len());
    let listed = node.csi.list().await?;
    ensure!(
        listed.iter().map(|volume| &volume.volume_id).eq([&kept.id]),
        "pool main is not readable, so its volumes are listed as they were known, and not {listed:?}"
    );
    until_room(node, false).await.context("while a change hangs")?;

    let alive =
        format!("grep -q 'PPid:.{}$' /proc/{pid}/status && ! grep -q 'State:.Z' /proc/{pid}/status", node.pid()?);
    node.vm.sh(alive).await.context("the change that hangs was killed")?;
    ensure!(hung(node, "lvcreate").await? == [pid], "another change was sent after the one that hangs");

    node.vm.sh("rm /run/hang/lvcreate /run/hang/fullreport").await?;
    let mut made = vec![kept];
    for name in ["first", "second", "third"] {
        let ask = ask(name, "main");
        made.push(retry(|| node.csi.create(&ask)).await.with_context(|| format!("{name}, once released"))?);
    }
    let list = node.contents().await?;
    for name in ["kept", "first", "second", "third"] {
        let count = list.lines().filter(|line| line.split(' ').next() == Some(name)).count();
        ensure!(count == 1, "{count} volumes {name}:\n{list}");
    }
    ensure!(list.lines().count() == 4, "more than requested:\n{list}");
    wait_ready(node).await?;
    ensure!(node.metric("quarry_commands_overdue").await? == 0.0, "/metrics still shows an overdue command");
    ensure!(node.metric("quarry_task_age_seconds").await? == 0.0, "/metrics still shows a task");
    for volume in made {
        node.csi.delete(&volume.id).await?;
    }
    node.expect_empty().await?;
    Ok(format!(
        "hung lvcreate shown after {:.0} s, {lives} lives on the other pool meanwhile, 5 calls rejected in {:.0} s",
        seen.as_secs_f64(),
        quick.as_secs_f64()
    ))
}

/// A volume's short life on the other pool.
async fn life(node: &Node, number: usize) -> Result<()> {
    let made = node.csi.create(&ask(&format!("beside-{number}"), "other")).await?;
    node.kubelet_folders(&made).await?;
    node.csi.stage(&made).await?;
    node.csi.publish(&made).await?;
    node.csi.unpublish(&made).await?;
    node.csi.unstage(&made).await?;
    node.csi.delete(&made.id).await?;
    Ok(())
}

async fn wait_ready(node: &Node) -> Result<()> {
    let began = Instant::now();
    loop {
        let (status, text) = node.http("/readyz").await?;
        if status == 200 {
            return Ok(());
        }
        if began.elapsed() > PATIENCE {
            bail!("/readyz answers {status}: {text}");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// A start without one of the tools fails at once and names it, and all others that are missing.
async fn missing_tool(node: &Node) -> Result<()> {
    node.vm.sh("mv /usr/sbin/mkfs.xfs /usr/sbin/hidden-1; mv /usr/sbin/dmsetup /usr/sbin/hidden-2").await?;
    let command =
        "/usr/local/bin/quarry standalone --config /etc/quarry/pools.yaml --endpoint unix:///run/quarry/x.sock";
    let output = node.vm.exec(quarry_vm::Command::sh(format!("exec {command}"))).await?;
    node.vm.sh("mv /usr/sbin/hidden-1 /usr/sbin/mkfs.xfs; mv /usr/sbin/hidden-2 /usr/sbin/dmsetup").await?;
    let words = output.error_text();
    ensure!(!output.exit.success(), "quarry started without mkfs.xfs: {words}");
    ensure!(words.contains("mkfs.xfs") && words.contains("dmsetup"), "the missing tools are not named: {words}");
    ensure!(!words.contains("mkfs.ext4"), "a tool that is there is called missing: {words}");
    Ok(())
}
