//! Runs many seeds, one process each, as many at once as there are processors.

use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use futures::{StreamExt as _, stream};

/// How long one run may take.
const DEADLINE: Duration = Duration::from_secs(300);
/// How many failing seeds are printed.
const SHOWN: usize = 5;
/// The interval of progress messages, in runs.
const PROGRESS: u64 = 100;
/// How many seeds are run twice, because both runs must be the same.
const REPEATED: u64 = 12;
/// What the violations say that a safeguard is there for: two volumes of one name, or none.
const UNSAFE: [&str; 4] = [" was answered with ", ", and there are ", "does not exist", "has lost"];

/// What one seed came to.
struct Outcome {
    seed: u64,
    failed: bool,
    /// What its process wrote.
    said: String,
}

/// Runs `runs` seeds from `first`. With a disabled safeguard a violation must be found.
pub(crate) fn run(first: u64, runs: u64, without: Option<&'static str>) -> ExitCode {
    let began = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        // One seed alone may not reach the code that differs.
        for seed in first..first + runs.min(REPEATED) {
            same_again(seed).await;
        }
    });
    let found = runtime.block_on(all(first, runs, without));
    let took = began.elapsed().as_secs();
    let passed = match without {
        None => {
            println!("simulation: {runs} runs in {took} s, violations in {}", found.len());
            found.is_empty()
        }
        Some(name) => {
            match found.first() {
                Some(outcome) => println!(
                    "simulation without {name}: found by seed {} ({} runs tried, {took} s)",
                    outcome.seed,
                    outcome.seed - first + 1
                ),
                None => println!("simulation without {name}: {runs} runs have found nothing: they test nothing"),
            }
            !found.is_empty()
        }
    };
    println!("{} passed, {} failed", u8::from(passed), u8::from(!passed));
    ExitCode::from(u8::from(!passed))
}

/// A seed that shows something is of no use unless it shows it again.
async fn same_again(seed: u64) {
    let (one, other) = tokio::join!(child(seed, None), child(seed, None));
    assert_eq!(one.said, other.said, "seed {seed} does not give the same run twice");
}

/// The seeds that failed; with a disabled safeguard, the first that finds the violation.
async fn all(first: u64, runs: u64, without: Option<&'static str>) -> Vec<Outcome> {
    let parallel = std::thread::available_parallelism().map_or(2, usize::from);
    let mut outcomes = stream::iter(first..first + runs).map(|seed| child(seed, without)).buffered(parallel);
    let mut failed = Vec::new();
    let mut done = 0;
    while let Some(outcome) = outcomes.next().await {
        done += 1;
        if done % PROGRESS == 0 {
            println!("  {done} of {runs} runs, violations in {}", failed.len());
        }
        if !outcome.failed {
            continue;
        }
        if without.is_some() {
            let unsafe_line = |line: &&str| UNSAFE.iter().any(|sign| line.contains(sign));
            if let Some(line) = outcome.said.lines().find(unsafe_line) {
                println!("  {line}");
                return vec![outcome];
            }
            continue;
        }
        if failed.len() < SHOWN {
            println!("  a violation; `--seed {}` shows how:", outcome.seed);
            outcome.said.lines().for_each(|line| println!("    {line}"));
        }
        failed.push(outcome);
    }
    failed
}

async fn child(seed: u64, without: Option<&'static str>) -> Outcome {
    static PROGRAM: OnceLock<String> = OnceLock::new();

    let program = PROGRAM.get_or_init(|| std::env::current_exe().unwrap().to_str().unwrap().to_owned());
    let mut command = quarry_exec::Command::query(program).args(["--child", "--seed"]).arg(seed.to_string());
    if let Some(name) = without {
        command = command.args(["--break", name]);
    }
    match command.deadline(DEADLINE).run().await {
        Ok(output) => {
            let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), output.stderr);
            Outcome { seed, failed: !output.success(), said }
        }
        Err(error) => Outcome { seed, failed: true, said: format!("the run did not end: {error}") },
    }
}
