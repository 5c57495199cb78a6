//! The tests on real LVM, disks, mounts and power cuts, in virtual nodes.
//!
//! Each scenario has virtual nodes of its own and drives the real `quarry` binary in them by real CSI calls. `make test`
//! runs all of them, the long sweeps as a seeded sample; `make soak` runs the sweeps whole.
// A test that meets the unexpected ends there, with its reason.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
// One program: what its modules share is as public as it gets.
#![allow(unreachable_pub)]

mod cluster;
mod controller;
mod csi;
mod node;
mod random;
mod runner;
mod scenarios;
mod storage;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;

/// Runs the tests that need virtual nodes.
#[derive(Debug, Parser)]
struct Args {
    /// Only scenarios whose name contains one of these.
    only: Vec<String>,
    /// Run the sweeps whole instead of a sample.
    #[arg(long)]
    soak: bool,
    /// The seed of every random choice; printed with each run.
    #[arg(long)]
    seed: Option<u64>,
    /// How many scenarios run at once.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// How many minutes after the start a scenario may begin; those left out are named.
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
            println!("{:28} {}", scenario.name, scenario.about);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let seed = args.seed.unwrap_or_else(random::fresh_seed);
    let end = args.within.map(|minutes| Instant::now() + Duration::from_secs(60 * minutes));
    let settings = runner::Settings { soak: args.soak, seed };
    let failed = runner::run(&args.only, args.jobs.max(1), end, settings).await?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
