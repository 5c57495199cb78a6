//! Runs scenarios, some at once, and says how each ended.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt as _;

use crate::random::Random;
use crate::results::{Counts, Results};
use crate::scenarios;
use crate::slice::Slice;

/// What all scenarios of a run share.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Sweeps run whole.
    pub soak: bool,
    /// The part of the sweeps that is run in a soak; the whole otherwise.
    pub slice: Slice,
    /// The seed of every random choice.
    pub seed: u64,
}

/// What a scenario gets.
#[derive(Clone, Debug)]
pub struct Context {
    /// The scenario's name.
    pub name: &'static str,
    /// See [`Settings`].
    pub settings: Settings,
    counts: Arc<Mutex<Counts>>,
}

impl Context {
    /// A generator of this scenario's own, another one in each slice.
    pub fn random(&self) -> Random {
        let seed = self.settings.seed ^ (self.settings.slice.first() - 1) << 40;
        let mixed = self.name.bytes().fold(seed, |seed, byte| seed.rotate_left(7) ^ u64::from(byte));
        Random::new(mixed)
    }

    /// Counts what a sweep tried, under its name in the sums of a soak.
    pub fn count(&self, name: &'static str, number: usize) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(name).or_default() += number as u64;
    }

    /// Tells of progress in a long scenario.
    pub fn say(&self, text: impl std::fmt::Display) {
        println!("      {}: {text}", self.name);
    }
}

/// What a scenario reports when it has passed: a line of figures, perhaps empty.
pub type Passed = anyhow::Result<String>;
/// A scenario under way.
pub type Run = Pin<Box<dyn Future<Output = Passed> + Send>>;

/// One scenario.
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What it shows, in a sentence.
    pub about: &'static str,
    /// For how long it may run.
    pub limit: Duration,
    /// Starts it.
    pub run: fn(Context) -> Run,
}

/// How a scenario ended.
struct Ended {
    name: &'static str,
    result: Passed,
    took: Duration,
    counts: Counts,
}

/// Runs one scenario.
async fn one(scenario: Scenario, settings: Settings) -> Ended {
    let began = Instant::now();
    let counts = Arc::new(Mutex::new(Counts::new()));
    let context = Context { name: scenario.name, settings, counts: Arc::clone(&counts) };
    println!("start {}", scenario.name);
    // A soak is long by intention.
    let limit = if settings.soak { scenario.limit * 30 } else { scenario.limit };
    // A task of its own: a panic in one scenario does not end the others.
    let task = tokio::spawn((scenario.run)(context));
    let abort = task.abort_handle();
    let result = match tokio::time::timeout(limit, task).await {
        Ok(Ok(result)) => result,
        Ok(Err(join)) => Err(anyhow::anyhow!("it panicked: {join}")),
        Err(_) => {
            abort.abort();
            Err(anyhow::anyhow!("it did not end within {} s", limit.as_secs()))
        }
    };
    let counts = counts.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ended { name: scenario.name, result, took: began.elapsed(), counts }
}

/// The scenarios whose name contains one of `only` (all, if there are none). A slice of a soak has its part of each sweep,
/// and each scenario that is no sweep is in one slice.
fn choose(only: &[String], settings: Settings) -> anyhow::Result<Vec<Scenario>> {
    let chosen = scenarios::all()
        .into_iter()
        .filter(|scenario| only.is_empty() || only.iter().any(|part| scenario.name.contains(part.as_str())));
    let (sweeps, others): (Vec<_>, Vec<_>) = chosen.partition(|scenario| scenarios::SWEEPS.contains(&scenario.name));
    anyhow::ensure!(
        !sweeps.is_empty() || !others.is_empty(),
        "no scenario's name contains any of {only:?}; --list shows them"
    );
    let others = others.into_iter().enumerate().filter(|(index, _)| settings.slice.has(*index));
    Ok(sweeps.into_iter().chain(others.map(|(_, scenario)| scenario)).collect())
}

/// Runs the scenarios whose name contains one of `only` (all, if there are none), `jobs` at once; none begins after `end`.
/// Returns how many failed.
pub async fn run(
    only: &[String],
    jobs: usize,
    end: Option<Instant>,
    settings: Settings,
    commit: &str,
) -> anyhow::Result<usize> {
    let chosen = choose(only, settings)?;
    let Settings { seed, slice, .. } = settings;
    println!("running {} scenarios, {jobs} at once, seed {seed} (--seed {seed}), slice {slice}", chosen.len());
    // What is built once is built before the clock of any scenario runs.
    crate::node::prepare().await?;
    // A soak of some scenarios only is none to be added up.
    let mut results = (settings.soak && only.is_empty()).then(|| Results::begin(settings, commit)).transpose()?;

    let began = Instant::now();
    let total = chosen.len();
    // A scenario with several virtual nodes has the machine for itself: beside another one, neither gets anywhere.
    let (crowded, alone): (Vec<_>, Vec<_>) =
        chosen.into_iter().partition(|scenario| scenario.name.starts_with("cluster-"));
    let run = |scenario: Scenario| async move {
        if end.is_some_and(|end| Instant::now() > end) { Err(scenario.name) } else { Ok(one(scenario, settings).await) }
    };
    let alone = futures::stream::iter(alone).map(run).buffer_unordered(jobs);
    let crowded = futures::stream::iter(crowded).map(run).buffer_unordered(1);
    let ended = alone.chain(crowded);
    tokio::pin!(ended);

    let (mut passed, mut failures, mut left_out) = (0, Vec::new(), Vec::new());
    while let Some(ended) = ended.next().await {
        let Ended { name, result, took, counts } = match ended {
            Ok(ended) => ended,
            Err(name) => {
                left_out.push(name);
                continue;
            }
        };
        if let Some(results) = &mut results {
            results.add(name, result.is_ok(), took, &counts)?;
        }
        let done = passed + failures.len() + 1;
        match result {
            Ok(figures) => {
                passed += 1;
                println!("ok    {name} ({:.0} s, {done}/{total}) {figures}", took.as_secs_f64());
            }
            Err(error) => {
                println!("FAIL  {name} ({:.0} s, {done}/{total}): {error:?}", took.as_secs_f64());
                failures.push((name, error));
            }
        }
    }
    println!("\n{total} scenarios in {:.0} s, seed {seed}", began.elapsed().as_secs_f64());
    for (name, error) in &failures {
        println!("FAILED {name}: {error:#}");
    }
    if !left_out.is_empty() {
        println!("not run for lack of time: {}", left_out.join(", "));
    } else if let Some(results) = results {
        println!("kept in {}; `make soak-sums` adds the slices up", results.end(began.elapsed())?.display());
    }
    println!("scenarios: {passed} passed, {} failed, {} left out", failures.len(), left_out.len());
    Ok(failures.len())
}
