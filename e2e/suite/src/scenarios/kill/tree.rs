//! `kill -9` of quarry and everything that it started, at instants within lvm and mkfs.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use super::{Course, Kill, KillResult, Life, Plan, Step};
use crate::csi::{self, Ask, MIB};
use crate::node::{GROUP, Node};
use crate::random::Random;
use crate::scenario::{Context, Passed};

const DISK: u64 = 400 << 20;

/// Kills within the programs that do the work.
struct Within {
    random: Random,
    /// For each step the point after which quarry and its children are killed, and roughly how long, in
    /// seconds, the rest of the step takes.
    markers: BTreeMap<Step, (String, f64)>,
    /// Kills by the last point passed before.
    by_point: BTreeMap<String, usize>,
    missed: usize,
}

impl Plan for Within {
    fn kill(&mut self, step: Step, repeated: bool) -> Option<Kill> {
        if repeated && self.random.below(3) > 0 {
            return None;
        }
        let (marker, seconds) = self.markers.get(&step)?;
        #[allow(clippy::cast_precision_loss, reason = "a choice among thousandths")]
        let delay = self.random.below(1000) as f64 / 1000.0 * seconds;
        Some(Kill::Tree { marker: marker.clone(), delay })
    }

    fn record(&mut self, _step: Step, _repeated: bool, result: &KillResult) {
        match result {
            KillResult::Killed { points } => {
                let last = points.last().map_or("nothing", String::as_str).to_owned();
                *self.by_point.entry(last).or_default() += 1;
            }
            KillResult::Missed { .. } => self.missed += 1,
        }
    }

    fn give_up(&mut self) -> bool {
        self.random.below(4) == 0
    }
}

/// The results of the kills of many lives.
#[derive(Default)]
pub struct TreeKills {
    /// Kills by the last point passed before.
    by_point: BTreeMap<String, usize>,
    missed: usize,
}

impl TreeKills {
    /// Kills that happened.
    pub fn kills(&self) -> usize {
        self.by_point.values().sum()
    }

    /// Kills that happened, and kills that came too late.
    pub fn figures(&self) -> Result<String> {
        let kills = self.kills();
        ensure!(kills > 0, "no kill happened in time");
        Ok(format!("{kills} trees killed, {} too late", self.missed))
    }

    /// After which points.
    pub fn within(&self) -> String {
        let within = self.by_point.iter().map(|(point, count)| format!("{count} after {point}"));
        within.collect::<Vec<_>>().join(", ")
    }

    /// A life with a kill in each of these steps, some time after quarry has passed the point.
    pub async fn live(
        &mut self,
        node: &mut Node,
        random: Random,
        ask: Ask,
        markers: BTreeMap<Step, (String, f64)>,
        course: Course,
    ) -> Result<()> {
        let name = ask.name.clone();
        let mut plan = Within { random, markers, by_point: BTreeMap::new(), missed: 0 };
        Life::new(node, &mut plan, ask).take(course).await.with_context(|| name)?;
        self.missed += plan.missed;
        for (point, count) in plan.by_point {
            *self.by_point.entry(point).or_default() += count;
        }
        Ok(())
    }
}

pub async fn run(context: Context) -> Passed {
    let mut node = Node::start("kill-tree", &[DISK, DISK]).await?;
    let mut random = context.random();
    // An lvm that does nothing takes this long here and now; the others are guessed from it.
    let began = Instant::now();
    node.vm.sh(format!("lvs {GROUP}")).await?;
    let unit = began.elapsed().as_secs_f64();
    let rounds = if context.settings.soak { 40 } else { 1 };
    let mut tree_kills = TreeKills::default();
    for round in 0..rounds {
        if !context.settings.slice.has(round) {
            continue;
        }
        for (ask, mkfs, course) in [
            (Ask::mount("pvc-raid1", "ext4").parameter("layout", "raid1"), "mkfs.ext4", Course::Short),
            (Ask::mount("pvc-raid1", "ext4").parameter("layout", "raid1"), "mkfs.ext4", Course::Short),
            (Ask::mount("pvc-ext4", "ext4"), "mkfs.ext4", Course::Whole),
            (Ask::block("pvc-block").size(8 * MIB), "lvm lvchange", Course::Whole),
            (Ask::mount("pvc-xfs", "xfs"), "mkfs.xfs", Course::Whole),
            (Ask::mount("pvc-btrfs", "btrfs"), "mkfs.btrfs", Course::Whole),
        ] {
            let raid = ask.name == "pvc-raid1";
            let within = |program: &str, units: f64| (format!("exec:{program}:before"), unit * units);
            let mut markers = BTreeMap::from([
                (Step::Create, within("lvm lvcreate", if raid { 4.0 } else { 1.4 })),
                (Step::Delete, within("lvm lvremove", if raid { 2.0 } else { 1.0 })),
            ]);
            if mkfs == "lvm lvchange" {
                // Zeroing and its note in the record are part of the creation.
                markers.insert(Step::Create, within(["lvm lvcreate", mkfs][round % 2], 1.4));
            } else {
                markers.insert(Step::Stage, within(mkfs, if mkfs == "mkfs.ext4" { 0.4 } else { 0.6 }));
            }
            tree_kills.live(&mut node, Random::new(random.next()), ask, markers, course).await?;
        }
    }
    context.count("trees killed", tree_kills.kills());
    suspended(&mut node).await.context("a device that a killed lvm left suspended")?;
    for layout in ["linear", "raid1"] {
        tableless(&mut node, layout)
            .await
            .with_context(|| format!("a {layout} device that a killed lvm left without a table"))?;
    }
    context.say(tree_kills.within());
    context.say(format_args!("an lvs took {unit:.2} s"));
    Ok(format!("{}, 1 suspended device resumed, 4 given their tables, 0 violations", tree_kills.figures()?))
}

/// lvm dies while a device is suspended: the next quarry resumes it, and the data is there.
async fn suspended(node: &mut Node) -> Result<()> {
    let mut nothing = Within { random: Random::new(0), markers: BTreeMap::new(), by_point: BTreeMap::new(), missed: 0 };
    let mut life = Life::new(node, &mut nothing, Ask::mount("pvc-suspended", "ext4"));
    for step in [Step::Create, Step::Stage, Step::Publish] {
        life.step_without_kill(step).await?;
    }
    life.write().await?;
    life.node.kill_tree().await?;
    let state = "cat /sys/block/dm-*/dm/suspended | sort -u";
    life.node.vm.sh(format!("dmsetup suspend --noflush --nolockfs {GROUP}-pvc--suspended")).await?;
    ensure!(life.node.vm.sh(state).await? == "1", "the test suspended nothing");
    life.node.serve().await?;
    ensure!(life.node.vm.sh(state).await? == "0", "still suspended\n{}", life.node.log_tail().await);
    csi::retry(|| life.node.csi.list()).await?;
    life.read().await?;
    for step in [Step::Unpublish, Step::Unstage, Step::Delete] {
        life.step_without_kill(step).await?;
    }
    life.node.expect_empty().await
}

/// lvm dies when the kernel has the volume's device but not yet its table: stage and delete continue as if it
/// had never existed.
async fn tableless(node: &mut Node, layout: &str) -> Result<()> {
    let mut nothing = Within { random: Random::new(0), markers: BTreeMap::new(), by_point: BTreeMap::new(), missed: 0 };
    let ask = Ask::mount("pvc-tableless", "ext4").parameter("layout", layout);
    let mut life = Life::new(node, &mut nothing, ask);
    life.step_without_kill(Step::Create).await?;
    for step in [Step::Stage, Step::Delete] {
        life.node.kill_tree().await?;
        let device = format!("{GROUP}-pvc--tableless");
        // The volume was deactivated after it was unstaged, if the kill came late enough.
        life.node.vm.sh(format!("lvchange --activate y {GROUP}/pvc-tableless")).await?;
        // A loaded table that is not yet resumed: the kernel shows the device, without a byte.
        let unfinished = format!(
            "dmsetup table {device} >/tmp/table; uuid=$(dmsetup info -c --noheadings -o uuid {device}); \
             dmsetup remove --retry {device}; dmsetup create {device} --notable --uuid $uuid; dmsetup load {device} /tmp/table"
        );
        life.node.vm.sh(unfinished).await?;
        // udev need not have created a link for it.
        let size = format!("cat $(dirname $(grep -lx {device} /sys/block/dm-*/dm/name))/../size");
        ensure!(life.node.vm.sh(size).await? == "0", "the test left the device its table");
        life.node.serve().await?;
        life.step_without_kill(step).await?;
        if step == Step::Stage {
            life.step_without_kill(Step::Unstage).await?;
        }
    }
    life.node.expect_empty().await
}
