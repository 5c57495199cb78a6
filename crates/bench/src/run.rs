//! The rounds: the same phases, in the same order, with the same concurrency, for the driver and the floor.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Instant, SystemTime};

use futures::StreamExt as _;

use crate::directory::Directory;
use crate::driver::{Driver, Identity};
use crate::floor::Floor;
use crate::phase::{self, LeftOut};
use crate::statistics::{Sample, Series, Sum, What};
use crate::system::{Failure, INTERRUPTED, Kind, Place, Retries, System};
use crate::{Phase, Plan, Stop};

/// The results of a run.
#[derive(Clone, Debug)]
pub struct Results {
    /// The options of the run.
    pub plan: Plan,
    /// The ID that all names of the run carry.
    pub run: String,
    /// When it began.
    pub started: SystemTime,
    /// The driver.
    pub driver: Identity,
    /// The phases of every round, in order.
    pub steps: Vec<Phase>,
    /// The phases that are not measured.
    pub left_out: Vec<LeftOut>,
    /// The phases for which the floor has no commands.
    pub floor_left_out: Vec<LeftOut>,
    /// The figures.
    pub series: Vec<Series>,
    /// What the clean-up could not remove or left alone, with the reason.
    pub left_behind: Vec<String>,
    /// Whether it was stopped before the end.
    pub interrupted: bool,
}

impl Results {
    /// Whether everything was measured without an error, and nothing is left behind.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        !self.interrupted && self.left_behind.is_empty() && self.series.iter().all(|series| series.errors.is_empty())
    }
}

/// What a run is about to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// A line for people.
    pub text: String,
    /// How many of the measured phases are done, over all rounds.
    pub done: usize,
    /// The number of measured phases of a complete run.
    pub all: usize,
}

/// Measures. `progress` is called before each step.
///
/// # Errors
/// Nothing could be measured: options that contradict each other, a driver that does not answer or cannot
/// create volumes, a floor without its programs. What fails later is part of the results.
pub async fn run(plan: &Plan, stop: &Stop, progress: &(dyn Fn(Step) + Sync)) -> anyhow::Result<Results> {
    plan.check()?;
    let run: String = std::iter::repeat_with(|| fastrand::char('a'..='z')).take(10).collect();
    let driver = Driver::connect(plan, stop).await?;
    let (steps, left_out) = phase::steps(&driver.abilities, &plan.without);
    let floor = match &plan.floor {
        Some(lvm) => Some(Floor::open(plan, lvm, &run, &steps, stop).await?),
        None => None,
    };
    let directory = Directory::create(&plan.work_dir, &run)?;
    let of_driver = steps.iter().filter(|phase| driver.has(**phase)).count();
    let of_floor = floor.as_ref().map_or(0, |floor| steps.iter().filter(|phase| floor.has(**phase)).count());
    let mut rounds = Rounds {
        plan,
        stop,
        progress,
        done: 0,
        all: plan.concurrency.len() * plan.rounds * (of_driver + of_floor),
        steps: &steps,
        directory: &directory,
        run: &run,
        began: Instant::now(),
        series: BTreeMap::new(),
        left_behind: Vec::new(),
    };
    let started = SystemTime::now();
    rounds.all(&driver, floor.as_ref()).await;
    let (series, mut left_behind) = (rounds.series.into_values().collect(), rounds.left_behind);
    if let Some(floor) = &floor {
        left_behind.extend(floor.remaining().await.unwrap_or_else(|error| vec![format!("{error:#}")]));
    }
    left_behind.extend(driver.left_alone());
    left_behind.extend(directory.remove());
    let floor_left_out = |floor: &Floor| {
        let distinct: BTreeSet<Phase> = steps.iter().copied().collect();
        let out = |phase| floor.left_out(phase).map(|reason| LeftOut { phase, reason: reason.to_owned() });
        distinct.into_iter().filter_map(out).collect()
    };
    Ok(Results {
        plan: plan.clone(),
        run: run.clone(),
        started,
        driver: driver.identity.clone(),
        floor_left_out: floor.as_ref().map(floor_left_out).unwrap_or_default(),
        steps,
        left_out,
        series,
        left_behind,
        interrupted: stop.stop.is_cancelled(),
    })
}

/// The number of the round before the first one, which is not measured: programs that run for the first time are
/// read from the disk, and a driver may fill its caches.
const WARM_UP: usize = 0;

/// The order of the series in reports.
type Key = (usize, What, Kind);

struct Rounds<'a> {
    plan: &'a Plan,
    stop: &'a Stop,
    progress: &'a (dyn Fn(Step) + Sync),
    /// The measured phases that are done, and all of them.
    done: usize,
    all: usize,
    steps: &'a [Phase],
    directory: &'a Directory,
    run: &'a str,
    began: Instant,
    series: BTreeMap<Key, Series>,
    left_behind: Vec<String>,
}

/// What is known about one volume of a round.
#[derive(Default)]
struct Note {
    /// A phase failed: the volume is not used any more.
    failed: bool,
    times: BTreeMap<Phase, Sample>,
}

/// How one call ended.
struct Ended {
    sample: Sample,
    result: Result<(), Failure>,
    retries: Retries,
}

/// The volumes of a round.
struct Batch<S: System> {
    states: Vec<S::Volume>,
    notes: Vec<Note>,
    places: Vec<Place>,
}

impl Rounds<'_> {
    /// All rounds. In every second one, the floor comes first.
    async fn all(&mut self, driver: &Driver, floor: Option<&Floor>) {
        let mut background = match self.batch(driver, "background", self.plan.background) {
            Ok(background) => background,
            Err(left) => return self.left_behind.push(left),
        };
        if self.plan.background > 0 {
            let most = self.plan.concurrency.iter().copied().max().unwrap_or(1);
            self.say(format!("creating {} volumes that are not measured", self.plan.background));
            self.phase(driver, Phase::Create, most, &mut background, false).await;
        }
        // With fewer volumes than asked for, the figures would be about something else.
        if background.notes.iter().all(|note| !note.failed) {
            self.measure(driver, floor).await;
        }
        self.clean(driver, self.plan.concurrency.iter().copied().max().unwrap_or(1), background).await;
    }

    async fn measure(&mut self, driver: &Driver, floor: Option<&Floor>) {
        if self.plan.warm_up {
            // With one volume, this number matters only for the place of the errors in the report.
            let at_once = self.plan.concurrency.first().copied().unwrap_or(1);
            if !self.both(driver, floor, at_once, WARM_UP).await {
                return;
            }
        }
        // All numbers at once in each round: the figures that are compared are from about the same time.
        for round in 1..=self.plan.rounds {
            for at_once in &self.plan.concurrency {
                if !self.both(driver, floor, *at_once, round).await {
                    return;
                }
            }
        }
    }

    /// One round of each system. `false` if the run has to end.
    async fn both(&mut self, driver: &Driver, floor: Option<&Floor>, at_once: usize, round: usize) -> bool {
        let floor_first = round != WARM_UP && round.is_multiple_of(2);
        for turn in [floor_first, !floor_first] {
            let useful = match (turn, floor) {
                (false, _) => self.round(driver, at_once, round).await,
                (true, Some(floor)) => self.round(floor, at_once, round).await,
                (true, None) => true,
            };
            if !useful || self.stop.stop.is_cancelled() {
                return false;
            }
        }
        true
    }

    /// One round of one system. `false` if no volume was created: further rounds would be the same.
    async fn round<S: System>(&mut self, system: &S, at_once: usize, round: usize) -> bool {
        let (kind, measured) = (system.kind(), round != WARM_UP);
        let volumes = if measured { self.plan.volumes } else { 1 };
        let mut batch = match self.batch(system, &format!("{kind}-{at_once}-{round}"), volumes) {
            Ok(batch) => batch,
            Err(left) => {
                self.left_behind.push(left);
                return false;
            }
        };
        let mut useful = true;
        for phase in self.steps.iter().copied().filter(|phase| system.has(*phase)) {
            self.say(match measured {
                true => format!("round {round} of {}, {at_once} at once, {kind}: {phase}", self.plan.rounds),
                false => format!("warm-up, {kind}: {phase}"),
            });
            self.phase(system, phase, at_once, &mut batch, measured).await;
            self.done += usize::from(measured);
            useful &= phase != Phase::Create || batch.notes.iter().any(|note| !note.failed);
            if self.stop.stop.is_cancelled() || !useful {
                break;
            }
            if let Err(error) = system.settle(phase, &mut batch.states).await {
                let failure = Failure { code: "CHECK".to_owned(), message: format!("{error:#}") };
                self.series(kind, at_once, What::Phase(phase)).fail(failure);
                break;
            }
            if self.ends_use(phase) {
                self.wait().await;
            }
        }
        if measured {
            self.add_sums(system, at_once, &batch.notes);
        }
        self.clean(system, at_once, batch).await;
        useful
    }

    /// Whether the volumes are in use before this phase, and not after it.
    fn ends_use(&self, phase: Phase) -> bool {
        phase == Phase::Unstage || (phase == Phase::Unpublish && !self.steps.contains(&Phase::Unstage))
    }

    /// Lets the system finish what it still does after its answers. Both systems get the same wait.
    async fn wait(&self) {
        tokio::select! {
            () = tokio::time::sleep(self.plan.settle) => {}
            () = self.stop.stop.cancelled() => {}
        }
    }

    fn say(&self, text: String) {
        (self.progress)(Step { text, done: self.done, all: self.all });
    }

    fn batch<S: System>(&self, system: &S, part: &str, volumes: usize) -> Result<Batch<S>, String> {
        let name = |index: usize| format!("bench-{}-{part}-{index:04}", self.run);
        let places: Vec<Place> =
            (0..volumes).map(|index| self.directory.place(name(index))).collect::<Result<_, _>>()?;
        Ok(Batch {
            states: places.iter().cloned().map(|place| system.volume(place)).collect(),
            notes: places.iter().map(|_| Note::default()).collect(),
            places,
        })
    }

    /// One phase of all volumes that did not fail before.
    async fn phase<S: System>(
        &mut self,
        system: &S,
        phase: Phase,
        at_once: usize,
        batch: &mut Batch<S>,
        measured: bool,
    ) {
        let (began, stop) = (self.began, self.stop);
        let usable = batch.states.iter_mut().zip(&mut batch.notes).filter(|(_, note)| !note.failed);
        let calls = futures::stream::iter(usable).map(|(state, note)| async move {
            if stop.stop.is_cancelled() {
                return None;
            }
            let (at, started, mut retries) = (began.elapsed(), Instant::now(), Retries::new());
            let result = system.perform(phase, state, &mut retries).await;
            let sample = Sample { at, took: started.elapsed() };
            note.failed = result.is_err();
            if result.is_ok() {
                note.times.insert(phase, sample);
            }
            Some(Ended { sample, result, retries })
        });
        let started = Instant::now();
        let ended: Vec<Ended> = calls.buffer_unordered(at_once).filter_map(std::future::ready).collect().await;
        let wall = started.elapsed();
        if !measured && ended.iter().all(|ended| ended.result.is_ok()) {
            return;
        }
        let series = self.series(system.kind(), at_once, What::Phase(phase));
        if measured {
            series.wall += wall;
        }
        for Ended { sample, result, retries } in ended {
            match result {
                Ok(()) if measured => series.samples.push(sample),
                Ok(()) => continue,
                Err(failure) if failure.code == INTERRUPTED => {}
                Err(failure) => series.fail(failure),
            }
            for (reason, times) in retries {
                *series.retries.entry(reason).or_default() += times;
            }
        }
    }

    fn series(&mut self, kind: Kind, at_once: usize, what: What) -> &mut Series {
        self.series.entry((at_once, what, kind)).or_insert_with(|| Series::new(kind, at_once, what))
    }

    /// Adds up phases of the same volume.
    fn add_sums<S: System>(&mut self, system: &S, at_once: usize, notes: &[Note]) {
        for sum in Sum::ALL {
            let done = |phase: &&Phase| self.steps.contains(phase) && system.has(**phase);
            let phases: Vec<Phase> = sum.phases().iter().filter(done).copied().collect();
            let ends = phases.last().copied().is_some_and(|last| Some(last) == sum.phases().last().copied());
            if phases.len() < 2 || !ends {
                continue;
            }
            let times = |note: &Note| phases.iter().map(|phase| note.times.get(phase).copied()).collect();
            let samples = notes.iter().filter_map(times).map(|samples: Vec<Sample>| Sample {
                at: samples.first().map(|first| first.at).unwrap_or_default(),
                took: samples.iter().map(|sample| sample.took).sum(),
            });
            let samples: Vec<Sample> = samples.collect();
            self.series(system.kind(), at_once, What::Sum(sum)).samples.extend(samples);
        }
    }

    /// Undoes what is left of a round, also after a failure or an interruption.
    async fn clean<S: System>(&mut self, system: &S, at_once: usize, mut batch: Batch<S>) {
        let cleaning = batch.states.iter_mut().map(|state| system.clean(state));
        let left: Vec<Vec<String>> = futures::stream::iter(cleaning).buffer_unordered(at_once).collect().await;
        self.left_behind.extend(left.into_iter().flatten());
        self.left_behind.extend(batch.places.iter().flat_map(|place| self.directory.remove_place(place)));
    }
}
