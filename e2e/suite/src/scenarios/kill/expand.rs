//! The same kills while a volume becomes larger: it gets its new size, keeps its bytes, shows no bytes of a former
//! owner, and nothing else is left.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use quarry_vm::{Config, Disk, Vm};
use tonic::Code;

use super::alone::{Undisturbed, When, begun, orphan, release, slow_at, slow_node};
use super::sweep::sweep;
use super::tree::TreeKills;
use super::{Course, Kill, KillResult, Life, Plan, Step, call_with_kill, expanded, forget_points, points};
use crate::csi::{Ask, MIB, Made, Use, refused, retry};
use crate::node::{GROUP, Node, device};
use crate::random::Random;
use crate::scenario::{Context, Passed};
use crate::scenarios::expand::parts::{data_parts, new_places};
use crate::scenarios::expand::{fills_device, only, plant};
use crate::scenarios::steps::until;

const DISK: u64 = 400 << 20;
/// Where the raw volumes are, and become larger.
const DIRTY: u64 = 64;

fn linear() -> Ask {
    Ask::mount("pvc-ext4", "ext4")
}

fn raw() -> Ask {
    Ask::block("pvc-block").size(8 * MIB)
}

fn raid1() -> Ask {
    Ask::mount("pvc-raid1", "xfs").parameter("layout", "raid1")
}

/// At every fault point.
pub async fn points_of_expansion(context: Context) -> Passed {
    let config = Config::new("kill-expand").disk(Disk::new("d1", DISK)).disk(Disk::new("d2", DISK));
    let vm = Vm::start(config).await?;
    for disk in ["d1", "d2"].map(device) {
        let script = format!("yes 'a former owner' | dd of={disk} bs=1M count={DIRTY} iflag=fullblock status=none");
        vm.sh(script).await?;
    }
    let mut node = Node::with_vm(vm, 2).await?;
    node.serve().await?;
    let kinds = [(raid1(), Course::Expanded, 2), (raw(), Course::Expanded, 2), (linear(), Course::Expanded, 3)];
    sweep(&context, &mut node, kinds).await
}

/// Within the programs that do the work, and while they outlive quarry.
pub async fn during(context: Context) -> Passed {
    let mut node = slow_node("kill-during-expansion").await?;
    let mut random = context.random();
    let trees = trees(&context, &mut node, &mut random).await?;
    let orphans = orphans(&context, &mut node, &mut random).await?;
    late(&mut node).await.context("an lvextend that outlives its quarry")?;
    context.count("programs that outlived quarry", orphans + 1);
    stale_table(&mut node).await.context("a device that a killed lvm left with its old size")?;
    let left = leftovers(&mut node).await.context("space that is still reserved after a kill")?;
    Ok(format!(
        "{trees}, {} orphans, 1 device with its old size, {left} reservations continued or removed",
        orphans + 1
    ))
}

/// Fails unless the open device of an encrypted volume, and a filesystem on it, have its size.
pub async fn opened_size(node: &Node, made: &Made) -> Result<()> {
    let target = made.target();
    let script = if made.ask.is_block() {
        format!("blockdev --getsize64 '{target}'")
    } else {
        format!(
            "blockdev --getsize64 $(findmnt -no SOURCE '{target}' | head -n 1); \
             test $(df --output=size -B1 '{target}' | tail -n 1) -gt {}",
            made.size * 6 / 10
        )
    };
    let size = node.vm.sh(script).await.context("the filesystem is too small")?;
    ensure!(size.trim() == made.size.to_string(), "{size} bytes instead of {}", made.size);
    Ok(())
}

impl<P: Plan> Life<'_, P> {
    /// From creation to deletion, expanded on the way.
    pub async fn expanded(&mut self) -> Result<()> {
        self.fill().await?;
        self.step(Step::Expand).await?;
        self.step(Step::NodeExpand).await?;
        if self.ask.is_block() {
            // All of it: the next volume becomes larger there.
            self.write().await?;
        }
        self.end().await
    }

    /// A published volume that holds data, and a former owner's signature where its end will be.
    pub async fn fill(&mut self) -> Result<()> {
        for step in [Step::Create, Step::Stage, Step::Publish] {
            self.step_without_kill(step).await?;
        }
        self.write().await?;
        if self.ask.is_block() || self.ask.is_encrypted() {
            return Ok(());
        }
        let made = self.made()?;
        let (parts, size) = (data_parts(self.node, made).await?, expanded(&self.ask));
        plant(self.node, &new_places(&parts, made.size, size)?, size).await
    }

    /// Its last steps.
    pub async fn end(&mut self) -> Result<()> {
        for step in [Step::Unpublish, Step::Unstage, Step::Delete] {
            self.step_without_kill(step).await?;
        }
        self.node.expect_empty().await
    }

    /// The interrupted expansion is never repeated: the volume is deleted, and nothing is left. Another one takes its
    /// place.
    pub async fn begin_again(&mut self, step: Step) -> Result<()> {
        self.end().await.context("deleted instead")?;
        self.fill().await?;
        if step == Step::NodeExpand {
            self.step_without_kill(Step::Expand).await?;
        }
        Ok(())
    }

    /// Fails unless every byte from before the expansion is there, and a raw volume has zeros after them.
    pub async fn check_data(&self) -> Result<()> {
        let target = self.made()?.target();
        let script = if self.ask.is_block() {
            let (name, old) = (&self.ask.name, self.ask.required);
            // The zeros are below the encryption.
            let raw = if self.ask.is_encrypted() { self.node.storage.device(name) } else { target.clone() };
            let end = old + self.ask.overhead();
            format!(
                "blockdev --flushbufs '{target}'; yes {name} | head -c {old} | cmp -n {old} - '{target}'; \
                 blockdev --flushbufs '{raw}'; more=$(($(blockdev --getsize64 '{raw}') - {end})); \
                 cmp -n $more -i {end}:0 '{raw}' /dev/zero"
            )
        } else {
            format!("seq 20000 | cmp - '{target}/file'")
        };
        self.node.vm.sh(script).await.map(drop).context("the data of an expanded volume is not what was written")
    }

    /// What holds when the volume is completely expanded.
    pub async fn check_expanded(&self) -> Result<()> {
        let made = self.made()?;
        self.check_data().await?;
        if self.ask.is_encrypted() {
            return opened_size(self.node, made).await;
        }
        fills_device(self.node, made).await?;
        match self.ask.usage {
            Use::Mount(filesystem) => only(self.node, made, filesystem).await,
            Use::Block => Ok(()),
        }
    }
}

async fn trees(context: &Context, node: &mut Node, random: &mut Random) -> Result<String> {
    // An lvm that does nothing takes this long here and now; the others are guessed from it.
    let began = Instant::now();
    node.vm.sh(format!("lvs {GROUP}")).await?;
    let unit = began.elapsed().as_secs_f64();
    let mut trees = TreeKills::default();
    for round in 0..if context.settings.soak { 40 } else { 1 } {
        if !context.settings.slice.has(round) {
            continue;
        }
        for ask in [linear(), raw(), raid1()] {
            let units = if ask.name == "pvc-raid1" { 3.0 } else { 1.4 };
            // The one that changes the volume more often than those of the reservation.
            let program = ["lvcreate", "lvremove", "lvextend", "lvextend"][usize::try_from(random.below(4))?];
            let markers = BTreeMap::from([(Step::Expand, (format!("exec:lvm {program}:before"), unit * units))]);
            trees.live(node, Random::new(random.next()), ask, markers, Course::Expanded).await?;
        }
    }
    context.count("trees killed", trees.kills());
    context.say(format_args!("{}; an lvs took {unit:.2} s", trees.within()));
    trees.figures()
}

/// Quarry alone is killed, and its lvm keeps running. Returns how often.
async fn orphans(context: &Context, node: &mut Node, random: &mut Random) -> Result<usize> {
    let mut orphans = 0;
    let kinds = [linear(), raid1(), raw()];
    let soak = context.settings.soak;
    let sample = usize::try_from(random.below(2))?;
    for (kind, ask) in kinds.into_iter().enumerate().filter(|(kind, _)| soak || *kind == sample) {
        for (index, when) in When::ALL.into_iter().enumerate() {
            let here =
                if soak { context.settings.slice.has(3 * kind + index) } else { random.below(3) == index as u64 };
            // A sample has at least one of each kind.
            if !here && (soak || index < 2) {
                continue;
            }
            let mut plan = Undisturbed;
            let mut life = Life::new(node, &mut plan, ask.clone());
            life.fill().await?;
            orphan(&mut life, Step::Expand, "lvextend", when).await?;
            orphans += 1;
            life.step_without_kill(Step::NodeExpand).await?;
            life.end().await?;
            context.say(format_args!("{}: orphans ({when:?})", ask.name));
            if !soak {
                break;
            }
        }
    }
    Ok(orphans)
}

/// While an orphaned lvextend waits for its turn, no other volume gets the extents that it is about to take.
async fn late(node: &mut Node) -> Result<()> {
    let mut plan = Undisturbed;
    let mut life = Life::new(node, &mut plan, linear());
    life.fill().await?;
    slow_at(life.node, "before", "held", "lvextend").await?;
    let (csi, made, size) = (life.node.csi.clone(), life.made()?.clone(), expanded(&life.ask));
    let under_way = tokio::spawn({
        let made = made.clone();
        async move { csi.expand(&made, size).await }
    });
    begun(life.node, "lvextend").await?;
    life.node.vm.sh("rm /run/slow/mode").await?;
    life.node.kill().await?;
    ensure!(under_way.await?.is_err(), "it was answered before quarry was killed");
    life.node.serve().await?;
    let csi = life.node.csi.clone();
    let other = csi.create(&Ask::mount("pvc-other", "ext4")).await;
    refused("create next to the orphan", other, Code::Aborted, "outlived")?;
    refused("expand next to the orphan", csi.expand(&made, size).await, Code::Aborted, "outlived")?;
    life.check_data().await?;
    release(life.node).await?;
    life.step_without_kill(Step::Expand).await?;
    life.step_without_kill(Step::NodeExpand).await?;
    life.end().await
}

/// lvm dies between its metadata and the kernel: the volume is larger, and its device is not yet.
async fn stale_table(node: &mut Node) -> Result<()> {
    for stage_again in [false, true] {
        let mut plan = Undisturbed;
        let mut life = Life::new(node, &mut plan, linear());
        life.fill().await?;
        let dm = format!("{GROUP}-pvc--ext4");
        life.node.vm.sh(format!("dmsetup table {dm} > /run/table")).await?;
        life.step_without_kill(Step::Expand).await?;
        life.node.kill_tree().await?;
        let back = format!("dmsetup suspend {dm}; dmsetup load {dm} /run/table; dmsetup resume {dm}");
        let size = life.node.vm.sh(format!("{back}; blockdev --getsize64 /dev/mapper/{dm}")).await?;
        ensure!(size.trim() == life.ask.required.to_string(), "the test left the device {size} bytes");
        life.node.serve().await?;
        life.check_data().await?;
        if stage_again {
            // The orchestrator got its answer: no other ControllerExpandVolume comes.
            for step in [Step::Unpublish, Step::Unstage, Step::StageAgain, Step::Publish] {
                life.step_without_kill(step).await?;
            }
            life.check_expanded().await.context("staged again")?;
        } else {
            life.step_without_kill(Step::Expand).await?;
        }
        life.step_without_kill(Step::NodeExpand).await?;
        life.end().await?;
    }
    Ok(())
}

/// Quarry is killed when space is reserved, and its caller never repeats that call. Returns how many ways were tried.
async fn leftovers(node: &mut Node) -> Result<usize> {
    let at = reserved_at(node).await?;
    let ways = ["another size", "the size that it has", "its volume is removed by hand"];
    for way in ways {
        let mut plan = Undisturbed;
        let mut life = Life::new(node, &mut plan, linear());
        life.fill().await?;
        let (ask, made) = (life.ask.clone(), life.made()?.clone());
        let killed = call_with_kill(life.node, Step::Expand, &ask, Some(&made), &Kill::Point(at)).await?;
        ensure!(matches!(killed, KillResult::Killed { .. }), "it was not killed");
        ensure!(reservations(life.node).await? == 1, "no space is reserved:\n{}", life.node.contents().await?);
        ensure!(life.node.csi.list().await?.len() == 1, "reserved space is listed as a volume");
        match way {
            "another size" => {
                let size = expanded(&ask) + 8 * MIB;
                let answer = retry(|| life.node.csi.expand(&made, size)).await.context(way)?;
                ensure!(answer.size == size, "{answer:?}");
                life.node.expect_only(&Made { size, ..made }).await.context(way)?;
                life.end().await?;
            }
            "the size that it has" => {
                let answer = retry(|| life.node.csi.expand(&made, made.size)).await.context(way)?;
                ensure!(answer.size == made.size, "{answer:?}");
                life.node.expect_only(&made).await.context(way)?;
                life.end().await?;
            }
            _ => {
                for step in [Step::Unpublish, Step::Unstage] {
                    life.step_without_kill(step).await?;
                }
                life.node.kill_tree().await?;
                life.node.vm.sh(format!("lvremove -qq -y {GROUP}/{}", ask.name)).await?;
                life.node.serve().await?;
                let node = &*life.node;
                let gone = || async move { Ok(node.found().await?.is_empty()) };
                until("the reservation is removed", Duration::from_secs(20), gone).await?;
                life.node.expect_empty().await?;
            }
        }
    }
    Ok(ways.len())
}

/// The number of the point after the reservation of an expansion.
async fn reserved_at(node: &mut Node) -> Result<u64> {
    let mut plan = Undisturbed;
    let mut life = Life::new(node, &mut plan, linear());
    life.fill().await?;
    forget_points(life.node, None).await?;
    life.step_without_kill(Step::Expand).await?;
    let points = points(life.node).await?;
    life.step_without_kill(Step::NodeExpand).await?;
    life.end().await?;
    let at = points.iter().position(|point| point == "exec:lvm lvcreate:after");
    Ok(at.with_context(|| format!("nothing was reserved: {points:?}"))? as u64 + 1)
}

/// How many reservations lvm shows.
async fn reservations(node: &Node) -> Result<usize> {
    Ok(node.contents().await?.lines().filter(|line| line.contains("quarry2/k=expansion/")).count())
}
