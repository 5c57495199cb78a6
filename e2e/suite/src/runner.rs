//! Runs scenarios, several at once, and reports their results.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use parking_lot::Mutex;
use quarry_vm::System;

use crate::notes::{self, Comparisons};
use crate::random::Random;
use crate::results::Results;
use crate::scenario::{Context, Counts, Passed, Scenario, Settings};
use crate::scenarios;

/// A scenario in one guest.
#[derive(Clone, Copy)]
struct Job {
    scenario: Scenario,
    guest: System,
    settings: Settings,
}

impl Job {
    fn label(&self) -> String {
        let name = self.scenario.name;
        if self.settings.guests.systems().len() > 1 { format!("{name} in {}", self.guest) } else { name.to_owned() }
    }
}

/// The result of a scenario.
struct Ended {
    label: String,
    result: Passed,
    took: Duration,
    counts: Counts,
    comparisons: Comparisons,
}

/// Runs one scenario.
async fn one(job: Job) -> Ended {
    let (Job { scenario, guest, settings }, label) = (job, job.label());
    let began = Instant::now();
    let counts = Arc::new(Mutex::new(Counts::new()));
    let context = Context { name: scenario.name, label: label.clone(), settings, counts: Arc::clone(&counts) };
    println!("start {label}");
    // A soak takes long on purpose.
    let limit = if settings.soak { scenario.limit * 30 } else { scenario.limit };
    // A task of its own: a panic in one scenario does not end the others.
    let comparisons = Arc::new(Mutex::new(Comparisons::default()));
    let task = tokio::spawn(notes::scope(Arc::clone(&comparisons), guest.scope((scenario.run)(context))));
    let abort = task.abort_handle();
    let mut result = match tokio::time::timeout(limit, task).await {
        Ok(Ok(result)) => result,
        Ok(Err(join)) => Err(anyhow::anyhow!("it panicked: {join}")),
        Err(_) => {
            abort.abort();
            Err(anyhow::anyhow!("it did not end within {} s", limit.as_secs()))
        }
    };
    let comparisons = std::mem::take(&mut *comparisons.lock());
    // It changes the volume group all the time, so it shows whether comparisons take place at all.
    if scenario.name == "changes-meanwhile" && comparisons.same == 0 && result.is_ok() {
        result = Err(anyhow::anyhow!("no volume group was compared with lvm's report"));
    }
    if !comparisons.different.is_empty() {
        let different = anyhow::anyhow!("{}", comparisons.different.join("\n"));
        result = Err(match result {
            Ok(_) => different,
            Err(error) => error.context(different),
        });
    }
    let counts = counts.lock().clone();
    Ended { label, result, took: began.elapsed(), counts, comparisons }
}

/// Whether a scenario was asked for: by its name, or by a part of several names that is not itself a name.
fn is_asked_for(scenario: &Scenario, only: &[String], all: &[Scenario]) -> bool {
    let asks = |part: &String| match all.iter().any(|other| other.name == part) {
        true => scenario.name == part,
        false => scenario.name.contains(part.as_str()),
    };
    only.is_empty() || only.iter().any(asks)
}

/// The scenarios that `only` asks for (all, if it is empty), in each guest. A slice of a soak contains its part of each
/// sweep; each other scenario is in one slice.
fn choose(only: &[String], settings: Settings) -> anyhow::Result<Vec<Job>> {
    let all = scenarios::all();
    let chosen = all.iter().filter(|scenario| is_asked_for(scenario, only, &all)).copied();
    let jobs = chosen.flat_map(|scenario| {
        let guests = settings.guests.admitted(scenarios::only_in(scenario.name), !only.is_empty());
        guests.systems().iter().map(move |guest| Job { scenario, guest: *guest, settings })
    });
    let (sweeps, others): (Vec<_>, Vec<_>) = jobs.partition(|job| scenarios::SWEEPS.contains(&job.scenario.name));
    anyhow::ensure!(
        !sweeps.is_empty() || !others.is_empty(),
        "no scenario's name contains any of {only:?}; --list shows them"
    );
    let others = others.into_iter().enumerate().filter(|(index, _)| settings.slice.has(*index));
    Ok(sweeps.into_iter().chain(others.map(|(_, job)| job)).collect())
}

/// Runs the scenarios whose name contains one of `only` (all, if it is empty), `jobs` at once; none starts
/// after `end`. Returns how many failed.
pub async fn run(
    only: &[String],
    jobs: usize,
    end: Option<Instant>,
    settings: Settings,
    commit: &str,
) -> anyhow::Result<usize> {
    let mut chosen = choose(only, settings)?;
    let Settings { seed, slice, guests, .. } = settings;
    if end.is_some() {
        // Another commit leaves out others.
        let first = Random::new(seed).below(chosen.len() as u64);
        chosen.rotate_left(usize::try_from(first).unwrap_or_default());
    }
    println!(
        "running {} scenarios, {jobs} at once, seed {seed} (--seed {seed}), guest {guests} (--guest {guests}), slice {slice}",
        chosen.len()
    );
    // One-time builds come before the clock of any scenario runs.
    crate::node::prepare().await?;
    // A run of selected scenarios does not count towards the sums.
    let mut results = (settings.soak && only.is_empty()).then(|| Results::begin(settings, commit)).transpose()?;

    let began = Instant::now();
    let total = chosen.len();
    // A scenario with several virtual nodes runs alone on the machine: next to another one, both are too slow.
    let (crowded, alone): (Vec<_>, Vec<_>) =
        chosen.into_iter().partition(|job| job.scenario.name.starts_with("cluster-"));
    let run = |job: Job| async move {
        if end.is_some_and(|end| Instant::now() > end) { Err(job.label()) } else { Ok(one(job).await) }
    };
    let alone = futures::stream::iter(alone).map(run).buffer_unordered(jobs);
    let crowded = futures::stream::iter(crowded).map(run).buffer_unordered(1);
    let ended = crowded.chain(alone);
    tokio::pin!(ended);

    let (mut passed, mut failures, mut left_out) = (0, Vec::new(), Vec::new());
    let mut compared = Comparisons::default();
    while let Some(ended) = ended.next().await {
        let Ended { label, result, took, counts, comparisons } = match ended {
            Ok(ended) => ended,
            Err(label) => {
                left_out.push(label);
                continue;
            }
        };
        if let Some(results) = &mut results {
            results.add(&label, result.is_ok(), took, &counts)?;
        }
        compared.add(comparisons);
        let done = passed + failures.len() + 1;
        match result {
            Ok(figures) => {
                passed += 1;
                println!("ok    {label} ({:.0} s, {done}/{total}) {figures}", took.as_secs_f64());
            }
            Err(error) => {
                println!("FAIL  {label} ({:.0} s, {done}/{total}): {error:?}", took.as_secs_f64());
                failures.push((label, error));
            }
        }
    }
    println!("\n{total} scenarios in {:.0} s, seed {seed}", began.elapsed().as_secs_f64());
    for (label, error) in &failures {
        println!("FAILED {label}: {error:#}");
    }
    if !left_out.is_empty() {
        println!("not run for lack of time: {}", left_out.join(", "));
    } else if let Some(results) = results {
        println!("kept in {}; `make soak-sums` adds the slices up", results.end(began.elapsed())?.display());
    }
    println!("volume groups read without lvm, and compared with lvm's report: {compared}");
    println!("scenarios: {passed} passed, {} failed, {} left out", failures.len(), left_out.len());
    Ok(failures.len())
}
