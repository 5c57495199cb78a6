//! Runs scenarios, some at once, and says how each ended.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use futures::StreamExt as _;

use crate::random::Random;
use crate::scenarios;

/// What all scenarios of a run share.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Sweeps run whole.
    pub soak: bool,
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
}

impl Context {
    /// A generator of this scenario's own.
    pub fn random(&self) -> Random {
        let mixed = self.name.bytes().fold(self.settings.seed, |seed, byte| seed.rotate_left(7) ^ u64::from(byte));
        Random::new(mixed)
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

/// Runs one scenario.
async fn one(scenario: Scenario, settings: Settings) -> (&'static str, Passed, Duration) {
    let began = Instant::now();
    let context = Context { name: scenario.name, settings };
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
    (scenario.name, result, began.elapsed())
}

/// Runs the scenarios whose name contains one of `only` (all, if there are none), `jobs` at once; none begins after `end`.
/// Returns how many failed.
pub async fn run(only: &[String], jobs: usize, end: Option<Instant>, settings: Settings) -> anyhow::Result<usize> {
    let chosen: Vec<Scenario> = scenarios::all()
        .into_iter()
        .filter(|scenario| only.is_empty() || only.iter().any(|part| scenario.name.contains(part.as_str())))
        .collect();
    anyhow::ensure!(!chosen.is_empty(), "no scenario's name contains any of {only:?}; --list shows them");
    println!("running {} scenarios, {jobs} at once, seed {} (--seed {})", chosen.len(), settings.seed, settings.seed);
    // What is built once is built before the clock of any scenario runs.
    crate::node::prepare().await?;

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
    let results = alone.chain(crowded);
    tokio::pin!(results);

    let (mut passed, mut failures, mut left_out) = (0, Vec::new(), Vec::new());
    while let Some(ended) = results.next().await {
        let (name, result, took) = match ended {
            Ok(ended) => ended,
            Err(name) => {
                left_out.push(name);
                continue;
            }
        };
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
    println!("\n{} scenarios in {:.0} s, seed {}", total, began.elapsed().as_secs_f64(), settings.seed);
    for (name, error) in &failures {
        println!("FAILED {name}: {error:#}");
    }
    if !left_out.is_empty() {
        println!("not run for lack of time: {}", left_out.join(", "));
    }
    println!("scenarios: {passed} passed, {} failed", failures.len());
    Ok(failures.len())
}
