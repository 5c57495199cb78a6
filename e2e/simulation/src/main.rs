//! Simulated faults of the connections between controllers and nodes: thousands of runs, each derived from
//! its seed.
//!
//! A run has two controllers with their sidecars and three nodes. The code is the product's: `quarry_controller` on
//! one side, `quarry_node` on the other, `quarry_agent` between them. Simulated are the network and the time
//! (turmoil), the storage (`quarry_pool::SimulatedPool`), and what Kubernetes knows. Messages are late, held or lost,
//! links are cut one way or both, programs die with and without a word, machines are replaced, addresses change
//! hands, the right to choose is lost and its holder learns it late. In the end all is well again, and the storages
//! are looked through: see [`check`].
//!
//! `--runs N` runs N seeds, one process each. `--seed N` runs one and logs every event: the same seed gives
//! the same run. `--break name-lock` and `--break fence` disable a safeguard: if no run then finds the
//! violation, the simulation is useless, and that is a failure.

// A harness: where it fails, it panics.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(unreachable_pub)]

mod certificates;
mod check;
mod client;
mod copies;
mod determinism;
mod faults;
mod hosts;
mod many;
mod net;
mod run;
mod world;

use std::process::ExitCode;

const USAGE: &str = "quarry-simulation [--runs N] [--seed FIRST] [--break name-lock|fence]";

/// The safeguards that can be disabled.
const SAFEGUARDS: [&str; 2] = ["name-lock", "fence"];

/// The command-line options.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arguments {
    /// The number of seeds; a single one is logged in full.
    runs: Option<u64>,
    /// The first one.
    seed: Option<u64>,
    /// The disabled safeguard.
    without: Option<&'static str>,
    /// Whether this is the process of one seed.
    child: bool,
}

fn arguments() -> Result<Arguments, String> {
    let mut arguments = Arguments::default();
    let mut given = std::env::args().skip(1);
    while let Some(option) = given.next() {
        let mut value = || given.next().ok_or(format!("{option} needs a value"));
        let number = |text: String| text.parse().map_err(|_| format!("{text:?} is not a number"));
        match option.as_str() {
            "--runs" => arguments.runs = Some(number(value()?)?),
            "--seed" => arguments.seed = Some(number(value()?)?),
            "--break" => {
                let name = value()?;
                let known = SAFEGUARDS.into_iter().find(|known| *known == name);
                arguments.without =
                    Some(known.ok_or(format!("unknown safeguard {name:?}: expected one of {SAFEGUARDS:?}"))?);
            }
            "--child" => arguments.child = true,
            _ => return Err(format!("unknown option {option:?}: {USAGE}")),
        }
    }
    Ok(arguments)
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
    };
    match (arguments.seed, arguments.runs) {
        (Some(seed), None) => one(seed, &arguments),
        (first, runs) => many::run(first.unwrap_or(1), runs.unwrap_or(1000), arguments.without),
    }
}

/// One seed, in this process.
fn one(seed: u64, arguments: &Arguments) -> ExitCode {
    determinism::seed(seed);
    let _without = arguments.without.map(quarry_fault::disable);
    if !arguments.child {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).without_time().init();
    }
    let report = run::run(seed, !arguments.child);
    for violation in &report.violations {
        println!("{violation}");
    }
    let [bound, deleted, unmade] = report.ends;
    println!(
        "seed {seed}: {} violations; {} s simulated; {bound} volumes bound, {deleted} deleted, {unmade} without room; \
         {} orphans; digest {:016x}",
        report.violations.len(),
        report.simulated.as_secs(),
        report.orphans,
        report.digest
    );
    ExitCode::from(u8::from(!report.violations.is_empty()))
}
