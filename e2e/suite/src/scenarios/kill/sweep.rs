//! `kill -9` at every fault point of every step: before and after each program, mount, and write to a device.

use std::collections::{BTreeMap, VecDeque};

use anyhow::{Context as _, Result, ensure};

use super::{Course, Kill, KillResult, Life, Plan, Step};
use crate::csi::{Ask, MIB};
use crate::node::Node;
use crate::random::Random;
use crate::scenario::{Context, Passed};
use crate::slice::Slice;

const DISK: u64 = 400 << 20;

/// What becomes of one step of one kind of volume.
#[derive(Default)]
struct Figures {
    /// The points that it passes when nothing befalls it.
    exist: usize,
    /// The points still to be tried.
    ahead: VecDeque<u64>,
    /// Kills that happened.
    tried: usize,
    /// The point that is tried now.
    now: u64,
    /// Whether the sweep came to the step's end: it was answered before the point was reached.
    ended: bool,
}

/// The sweep over one kind of volume.
struct Sweep {
    steps: BTreeMap<Step, Figures>,
    /// The points that are tried of each step: all of this slice, or a sample.
    whole: Option<Slice>,
    random: Random,
    /// Kills in the repeated call.
    again: usize,
    given_up: usize,
}

impl Sweep {
    fn is_over(&self) -> bool {
        self.steps.values().all(|figures| if self.whole.is_some() { figures.ended } else { figures.ahead.is_empty() })
    }

    /// Chooses the points, once all are known.
    fn choose(&mut self, count: usize) {
        for figures in self.steps.values_mut() {
            figures.ahead = match self.whole {
                // Repeated until the step finishes before the point is reached.
                Some(slice) => VecDeque::from([slice.first()]),
                None => self.random.sample(count, figures.exist).into_iter().map(|index| index as u64 + 1).collect(),
            };
        }
    }
}

impl Plan for Sweep {
    fn kill(&mut self, step: Step, repeated: bool) -> Option<Kill> {
        if repeated {
            // Recovery itself is interrupted now and then.
            let exist = self.steps.get(&step)?.exist as u64;
            return (self.random.below(3) == 0).then(|| Kill::Point(1 + self.random.below(exist + 2)));
        }
        let figures = self.steps.get_mut(&step)?;
        figures.now = figures.ahead.pop_front()?;
        Some(Kill::Point(figures.now))
    }

    fn record(&mut self, step: Step, repeated: bool, result: &KillResult) {
        let Some(figures) = self.steps.get_mut(&step) else { return };
        match result {
            KillResult::Killed { .. } if repeated => self.again += 1,
            KillResult::Killed { .. } => {
                figures.tried += 1;
                figures.ahead.extend(self.whole.map(|slice| slice.after(figures.now)));
            }
            KillResult::Missed { .. } if repeated => {}
            KillResult::Missed { points } if self.whole.is_some() => {
                figures.ended = true;
                figures.exist = figures.exist.max(points.len());
            }
            // Background work passes points as well, and not the same each time: then another point is tried.
            KillResult::Missed { points } => {
                figures.exist = points.len();
                if figures.tried == 0 && figures.ahead.is_empty() && figures.exist > 0 {
                    figures.ahead.push_back(1 + self.random.below(figures.exist as u64));
                }
            }
        }
    }

    fn passed(&mut self, step: Step, points: Vec<String>) {
        let figures = self.steps.entry(step).or_default();
        figures.exist = figures.exist.max(points.len());
    }

    fn give_up(&mut self) -> bool {
        let up = self.random.below(3) == 0;
        self.given_up += usize::from(up);
        up
    }
}

pub async fn run(context: Context) -> Passed {
    let mut node = Node::start("kill-points", &[DISK, DISK]).await?;
    let kinds = [
        (Ask::mount("pvc-xfs", "xfs"), Course::Whole, 1),
        (Ask::block("pvc-block").size(8 * MIB), Course::Whole, 3),
        (Ask::mount("pvc-raid1", "ext4").parameter("layout", "raid1"), Course::Short, 5),
        (Ask::mount("pvc-ext4", "ext4"), Course::Whole, 3),
    ];
    sweep(&context, &mut node, kinds).await
}

/// The sweeps: what is created, the course of its life, and how many points of each step a sample tries.
pub async fn sweep<const N: usize>(context: &Context, node: &mut Node, kinds: [(Ask, Course, usize); N]) -> Passed {
    let mut random = context.random();
    let whole = context.settings.soak.then_some(context.settings.slice);
    let (mut tried, mut exist, mut again) = (0, 0, 0);
    for (ask, course, count) in kinds {
        let name = ask.name.clone();
        let mut sweep =
            Sweep { steps: BTreeMap::new(), whole, random: Random::new(random.next()), again: 0, given_up: 0 };
        live(node, &mut sweep, &ask, course).await.with_context(|| format!("{name}, undisturbed"))?;
        sweep.choose(count);
        let mut lives = 1;
        while !sweep.is_over() {
            live(node, &mut sweep, &ask, course).await?;
            lives += 1;
        }
        let mut line = Vec::new();
        for (step, figures) in &sweep.steps {
            // Staging a raw block volume only reads, and on its node it needs no expansion.
            let only_reads = matches!(step, Step::Stage | Step::StageAgain | Step::Unstage | Step::NodeExpand);
            let nothing_done = ask.is_block() && only_reads;
            ensure!(
                figures.exist > 0 || nothing_done,
                "{name}: {step} passed no fault point; was quarry built with them?"
            );
            // A slice may have none of a step's few points.
            let none = whole.is_some_and(|slice| slice.first() > figures.exist as u64);
            ensure!(figures.tried > 0 || figures.exist == 0 || none, "{name}: {step} was never interrupted");
            line.push(format!("{step} {}/{}", figures.tried, figures.exist));
            tried += figures.tried;
            exist += figures.exist;
        }
        again += sweep.again;
        context.count("kill points", sweep.steps.values().map(|figures| figures.tried).sum());
        context.count("kills in repeated calls", sweep.again);
        context.say(format_args!(
            "{name}, {lives} volumes: {}; {} more in repeated calls, {} abandoned",
            line.join(", "),
            sweep.again,
            sweep.given_up
        ));
    }
    Ok(format!("{tried} of {exist} kill points, {again} kills in repeated calls, 0 violations"))
}

async fn live(node: &mut Node, sweep: &mut Sweep, ask: &Ask, course: Course) -> Result<()> {
    Life::new(node, sweep, ask.clone()).take(course).await
}
