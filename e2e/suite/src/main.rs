//! The tests on real LVM, disks, mounts and power cuts, in virtual nodes.
//!
//! Each scenario starts its own virtual nodes and drives the real `quarry` binary in them by real CSI calls.
//! `make test` runs all of them, with a seeded sample of the long sweeps; `make soak` runs the full sweeps,
//! or slices of them.
// A test that fails an assumption panics there, with its reason.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
// One program: what its modules share is as public as it gets.
#![allow(unreachable_pub)]

mod cluster;
mod controller;
mod csi;
mod guests;
mod node;
mod notes;
mod random;
mod results;
mod runner;
mod scenario;
mod scenarios;
mod slice;
mod storage;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;

use crate::guests::Guests;
use crate::slice::Slice;

/// Runs the tests that need virtual nodes.
#[derive(Debug, Parser)]
struct Args {
    /// Only scenarios whose name contains one of these.
    only: Vec<String>,
    /// Run the sweeps whole instead of a sample.
    #[arg(long)]
    soak: bool,
    /// Only this slice of the soak, such as 3/12: the third of twelve. Its results are stored in target/soak.
    #[arg(long, requires = "soak")]
    slice: Option<Slice>,
    /// Prints what the slices that were run add up to, and runs nothing.
    #[arg(long)]
    sums: bool,
    /// The seed of every random choice instead of the commit's; printed with each run.
    #[arg(long)]
    seed: Option<u64>,
    /// The guests that they run in: bookworm, trixie or both. When not given: both in a soak, else QUARRY_VM_GUEST,
    /// else one by the seed. A scenario that needs one guest runs in no other.
    #[arg(long)]
    guest: Option<Guests>,
    /// How many scenarios run at a time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// How many minutes after the start a scenario may still start; those left out are named.
    #[arg(long)]
    within: Option<u64>,
    /// Lists the scenarios.
    #[arg(long)]
    list: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    if args.list {
        for scenario in scenarios::all() {
            let only =
                scenarios::only_in(scenario.name).map_or_else(String::new, |guest| format!(" (only in {guest})"));
            println!("{:28} {}{only}", scenario.name, scenario.about);
        }
        return Ok(ExitCode::SUCCESS);
    }
    if args.sums {
        return Ok(if results::sums()? == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let commit = random::commit().await;
    let seed = args.seed.unwrap_or_else(|| random::seed_of(&commit));
    let end = args.within.map(|minutes| Instant::now() + Duration::from_secs(60 * minutes));
    let guests = args.guest.map_or_else(|| Guests::unless_given(args.soak, seed), Ok)?;
    let settings = scenario::Settings { soak: args.soak, slice: args.slice.unwrap_or(Slice::WHOLE), seed, guests };
    println!("commit {commit}");
    let failed = runner::run(&args.only, args.jobs.max(1), end, settings, &commit).await?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
