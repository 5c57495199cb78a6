//! `kill -9` of quarry only: the lvm or mkfs that it started keeps running, and the retry comes at once.
//!
//! Wrappers around the real programs make them slow: before they start, in the middle (stopped there), or
//! after their work. They log when they start and end, so that concurrent writers are detected.

use anyhow::{Context as _, Result, bail, ensure};
use tonic::Code;

use super::{KillResult, Life, Plan, Step, call};
use crate::csi::{self, Ask, FILESYSTEMS, MIB, refused};
use crate::node::Node;
use crate::random::Random;
use crate::scenario::{Context, Passed};

const DISK: u64 = 400 << 20;
const FOLDER: &str = "/opt/slow";
const STATE: &str = "/run/slow";

/// `mode` contains: when to be slow, for how many seconds, and which program (for lvm: which subcommand).
/// Instead of a number it may contain `held`: then for as long as the file of that name exists.
const WRAPPER: &str = r#"#!/bin/sh
name=${0##*/}
real=/usr/sbin/$name
what=$name
[ "$name" = lvm ] && what=$1
for last; do :; done
case "$what $last" in
    mkfs.*" /dev/"* | lvcreate* | lvremove* | lvchange* | lvextend*) ;;
    *) exec "$real" "$@" ;;
esac
when= seconds= wanted=
[ -e /run/slow/mode ] && read -r when seconds wanted < /run/slow/mode
[ "$what" = "$wanted" ] || when=
linger() {
    if [ "$seconds" = held ]; then
        while [ -e /run/slow/held ]; do sleep 0.1; done
    else
        sleep "$seconds"
    fi
}
echo "begin $what $$" >> /run/slow/log
case "$when" in
    before) linger; "$real" "$@"; code=$? ;;
    after) "$real" "$@"; code=$?; linger ;;
    midst)
        # A session of its own: when quarry dies, the kernel wakes what is stopped in the groups that it leaves behind.
        setsid "$real" "$@" & child=$!
        sleep 0.15
        kill -STOP $child 2>/dev/null
        linger
        kill -CONT $child 2>/dev/null
        wait $child; code=$? ;;
    *) "$real" "$@"; code=$? ;;
esac
echo "end $what $$" >> /run/slow/log
exit $code
"#;

/// When a program is slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    Before,
    Midst,
    After,
}

impl When {
    pub const ALL: [Self; 3] = [Self::Before, Self::Midst, Self::After];

    fn word(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::Midst => "midst",
            Self::After => "after",
        }
    }
}

/// Nothing else befalls these volumes.
pub struct Undisturbed;

impl Plan for Undisturbed {
    fn kill(&mut self, _step: Step, _repeated: bool) -> Option<super::Kill> {
        None
    }

    fn record(&mut self, _step: Step, _repeated: bool, _result: &KillResult) {}
}

/// A node whose programs can be slow.
pub async fn slow_node(name: &str) -> Result<Node> {
    let mut node = Node::bare(name, &[DISK, DISK]).await?;
    node.vm.sh(format!("mkdir -p {FOLDER} {STATE} && : > {STATE}/log")).await?;
    let programs = FILESYSTEMS.iter().map(|known| format!("mkfs.{}", known.name));
    for program in programs.chain(["lvm".to_owned()]) {
        node.vm.write(&format!("{FOLDER}/{program}"), WRAPPER.as_bytes(), 0o755).await?;
    }
    node.shadow_programs(FOLDER);
    node.serve().await?;
    Ok(node)
}

/// Kills only quarry while `program` works in `step`, repeats the call at once, and checks the result.
/// Returns how often the repeated call had to be retried.
pub async fn orphan(life: &mut Life<'_, Undisturbed>, step: Step, program: &str, when: When) -> Result<usize> {
    orphan_unchecked(life, step, program, when)
        .await
        .with_context(|| format!("{step} of {}, only quarry killed, {program} slow ({})", life.ask.name, when.word()))
}

async fn orphan_unchecked(life: &mut Life<'_, Undisturbed>, step: Step, program: &str, when: When) -> Result<usize> {
    if let Some(made) = &life.made {
        life.node.kubelet_folders(made).await?;
    }
    // mkfs stays until the repeated call has met it; lvm holds a lock that the next quarry needs to start.
    let mkfs = program.starts_with("mkfs");
    let linger = if mkfs { "held" } else { "5" };
    slow_at(life.node, when.word(), linger, program).await?;
    let (csi, ask, made) = (life.node.csi.clone(), life.ask.clone(), life.made.clone());
    let under_way = tokio::spawn(async move { call(&csi, step, &ask, made.as_ref()).await });
    begun(life.node, program).await?;
    life.node.vm.sh(format!("sleep 0.3; rm {STATE}/mode")).await?;
    life.node.kill().await?;
    ensure!(under_way.await?.is_err(), "it was answered before quarry was killed");
    life.node.serve().await?;

    let mut retried = 0;
    let answer = loop {
        match call(&life.node.csi, step, &life.ask, life.made.as_ref()).await {
            Ok(answer) => break answer,
            Err(status) if csi::is_passing(&status) && retried < 200 => {
                retried += 1;
                if retried == 3 {
                    life.node.vm.sh(format!("rm -f {STATE}/held")).await?;
                }
                tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            }
            Err(status) => bail!("the repeated call: {status}"),
        }
    };
    let log = life.node.vm.sh(format!("cat {STATE}/log")).await?;
    if let Some(made) = answer {
        life.made = Some(made);
    }
    if mkfs {
        let alive = two_at_once(&log)?;
        ensure!(!alive, "two writers: OK was answered while the orphaned {program} was at work:\n{log}");
        ensure!(retried >= 3, "the repeated call did not meet the orphan:\n{log}");
    }
    life.check(step).await?;
    // The orphan must not do harm later either.
    ended(life.node).await?;
    life.check(step).await.context("when the orphan had ended")?;
    Ok(retried)
}

/// Makes a program slow from now on: see [`WRAPPER`].
pub async fn slow_at(node: &Node, when: &str, seconds: &str, program: &str) -> Result<()> {
    let script = format!(": > {STATE}/log; touch {STATE}/held; echo {when} {seconds} {program} > {STATE}/mode");
    node.vm.sh(script).await.map(drop)
}

/// Waits until the program is at work.
pub async fn begun(node: &Node, program: &str) -> Result<()> {
    let script =
        format!("for i in $(seq 6000); do grep -q '^begin {program} ' {STATE}/log && exit; sleep 0.01; done; exit 1");
    node.vm.sh(script).await.map(drop).context("the program was not started")
}

/// Lets the orphan continue, and waits for its end.
pub async fn release(node: &Node) -> Result<()> {
    node.vm.sh(format!("rm -f {STATE}/held")).await?;
    ended(node).await
}

/// Waits until each program that began, according to the log, has ended. A program that began before the log was
/// emptied, such as the deactivation after an unstage, has only an end in it.
async fn ended(node: &Node) -> Result<()> {
    let all_ended = format!(
        "awk '/^begin/ {{ b[$2 $3] = 1 }} /^end/ {{ delete b[$2 $3] }} END {{ for (k in b) exit 1 }}' {STATE}/log"
    );
    let script = format!("for i in $(seq 600); do {all_ended} && exit; sleep 0.1; done; cat {STATE}/log >&2; exit 1");
    node.vm.sh(script).await.map(drop).context("the orphan never ended")
}

/// While an orphaned lvremove waits for its turn, nothing is changed that it could come after: neither its own volume
/// nor another one.
async fn late(node: &mut Node) -> Result<()> {
    let mut plan = Undisturbed;
    let mut life = Life::new(node, &mut plan, Ask::mount("pvc-late", "ext4"));
    life.step_without_kill(Step::Create).await?;
    slow_at(life.node, "before", "held", "lvremove").await?;
    let (csi, made) = (life.node.csi.clone(), life.made.clone().context("made")?);
    let id = made.id.clone();
    let under_way = tokio::spawn(async move { csi.delete(&id).await });
    begun(life.node, "lvremove").await?;
    life.node.vm.sh(format!("rm {STATE}/mode")).await?;
    life.node.kill().await?;
    ensure!(under_way.await?.is_err(), "it was answered before quarry was killed");
    life.node.serve().await?;
    let csi = life.node.csi.clone();
    refused("delete next to the orphan", csi.delete(&made.id).await, Code::Aborted, "outlived")?;
    let other = csi.create(&Ask::mount("pvc-other", "ext4")).await;
    refused("create next to the orphan", other, Code::Aborted, "outlived")?;
    release(life.node).await?;
    life.step_without_kill(Step::Delete).await?;
    life.step_without_kill(Step::Create).await?;
    life.check(Step::Create).await?;
    life.step_without_kill(Step::Delete).await?;
    life.node.expect_empty().await
}

/// Fails if two programs in the log ran at the same time; returns whether one still runs.
fn two_at_once(log: &str) -> Result<bool> {
    let mut at_work: Option<&str> = None;
    for line in log.lines() {
        match (line.split_once(' '), at_work) {
            (Some(("begin", who)), None) if who.starts_with("mkfs") => at_work = Some(who),
            (Some(("begin", who)), Some(other)) if who.starts_with("mkfs") => {
                bail!("two writers: {who} began while {other} was at work:\n{log}")
            }
            (Some(("end", who)), Some(other)) if who == other => at_work = None,
            _ => {}
        }
    }
    Ok(at_work.is_some())
}

pub async fn run(context: Context) -> Passed {
    let mut node = slow_node("kill-alone").await?;
    let mut random = context.random();
    let (mut orphans, mut retried) = (0, 0);
    let filesystems = FILESYSTEMS
        .iter()
        .map(|known| (Ask::mount(&format!("pvc-{}", known.name), known.name), Some(format!("mkfs.{}", known.name))));
    let others = [
        (Ask::mount("pvc-raid1", "ext4").parameter("layout", "raid1"), None),
        (Ask::block("pvc-block").size(8 * MIB), None),
    ];
    for (kind, (ask, mkfs)) in filesystems.chain(others).enumerate() {
        // A sample has one instant of each; a soak has all.
        let instants: Vec<[When; 3]> = if context.settings.soak {
            When::ALL.map(|when| [when; 3]).to_vec()
        } else {
            vec![[pick(&mut random), pick(&mut random), pick(&mut random)]]
        };
        for (index, [create, stage, delete]) in instants.into_iter().enumerate() {
            if !context.settings.slice.has(3 * kind + index) {
                continue;
            }
            let mut plan = Undisturbed;
            let mut life = Life::new(&mut node, &mut plan, ask.clone());
            let mut one = 0;
            // lvm's own part is swept with the layouts that differ, mkfs with the filesystems.
            if mkfs.is_none() || context.settings.soak {
                retried += orphan(&mut life, Step::Create, "lvcreate", create).await?;
                one += 1;
            } else {
                life.step_without_kill(Step::Create).await?;
            }
            if let Some(mkfs) = &mkfs {
                retried += orphan(&mut life, Step::Stage, mkfs, stage).await?;
                one += 1;
                life.step_without_kill(Step::Publish).await?;
                life.check_empty_volume().await?;
                life.write().await?;
                for step in [Step::Unpublish, Step::Unstage, Step::StageAgain, Step::Publish] {
                    life.step_without_kill(step).await?;
                }
                life.read().await?;
                for step in [Step::Unpublish, Step::Unstage] {
                    life.step_without_kill(step).await?;
                }
            }
            if mkfs.is_none() || context.settings.soak {
                retried += orphan(&mut life, Step::Delete, "lvremove", delete).await?;
                one += 1;
            } else {
                life.step_without_kill(Step::Delete).await?;
            }
            life.node.expect_empty().await?;
            orphans += one;
            context.say(format_args!("{}: {one} orphans ({create:?}, {stage:?}, {delete:?})", ask.name));
        }
    }
    late(&mut node).await.context("an lvremove that outlives its quarry and its volume")?;
    orphans += 1;
    context.count("programs that outlived quarry", orphans);
    Ok(format!("{orphans} orphans, {retried} retries, 0 violations"))
}

fn pick(random: &mut Random) -> When {
    match random.below(3) {
        0 => When::Before,
        1 => When::Midst,
        _ => When::After,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_writers_are_seen() {
        assert!(!two_at_once("begin mkfs.xfs 1\nend mkfs.xfs 1\nbegin mkfs.xfs 2\nend mkfs.xfs 2").unwrap());
        assert!(two_at_once("begin mkfs.xfs 1\nbegin lvchange 3\nend lvchange 3").unwrap());
        assert!(two_at_once("begin mkfs.xfs 1\nbegin mkfs.xfs 2\nend mkfs.xfs 1").is_err());
    }
}
