//! `make bench`: measures the calls of Quarry in a virtual node beside the bare commands that an operator would type,
//! and writes `bench/RESULTS.md` and its plots.
//!
//! Times depend on the machine, so the results are ratios of one run: `quarry bench` takes turns between Quarry and the
//! commands, in the same guest, on the same disks.

// One program: what its modules share is as public as it gets.
#![allow(unreachable_pub)]
// What is missing in JSON is null.
#![allow(clippy::indexing_slicing)]

mod calls;
mod data_path;
mod life;
mod log;
mod memory;
mod node;
mod results;
mod timeline;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use quarry_vm::install_tools;

use crate::node::Node;
use crate::results::Results;

const USAGE: &str = "quarry-bench-node [--quick] [--into DIRECTORY]";

/// What to do.
struct Arguments {
    /// Few volumes, to see whether everything works; the figures mean nothing.
    quick: bool,
    /// Where RESULTS.md and the plots are written.
    into: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Result<Arguments> {
    let mut arguments = Arguments { quick: false, into: Path::new(env!("CARGO_MANIFEST_DIR")).join("..") };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--quick" => arguments.quick = true,
            "--into" => arguments.into = words.next().context(USAGE)?.into(),
            _ => bail!("{word}: {USAGE}"),
        }
    }
    Ok(arguments)
}

async fn run() -> Result<()> {
    let Arguments { quick, into } = arguments()?;
    std::fs::create_dir_all(into.join("plots")).with_context(|| format!("cannot create {}", into.display()))?;
    install_tools().await?;
    let began = Instant::now();
    say("building quarry for the guest, with the profile `release` (the first time 5 to 15 minutes) …");
    let mut node = Node::start().await?;
    let mut results = Results::new(&node, quick).await?;

    say("one volume's life: processes and times of each step");
    node.serve("debug").await?;
    results.lives = life::lives(&node).await?;
    say("changes by others between the calls");
    results.foreign = calls::foreign(&node, if quick { 2 } else { 15 }).await?;
    results.memory.push(memory::at(&mut node, 0).await?);
    results.write(&into, began)?;
    for part in calls::parts(quick) {
        results.parts.push(calls::measure(&node, &part, &into).await?);
        results.write(&into, began)?;
    }
    say("fio on a volume, on a bare logical volume and on another disk");
    results.data_path = data_path::measure(&node, if quick { 1 } else { 3 }).await?;
    let mut there = 0;
    let counts @ [_, most] = if quick { [3, 6] } else { [100, 1000] };
    for count in counts {
        say(&format!("{count} volumes are there"));
        calls::background(&node, there, count).await?;
        there = count;
        results.parts.push(calls::measure(&node, &calls::with_background(count, quick), &into).await?);
        if count == most {
            node.serve("debug").await?;
            results.lives.push(life::life_beside(&node, count).await?);
        }
        results.memory.push(memory::at(&mut node, count).await?);
        results.write(&into, began)?;
    }
    for life in &results.lives {
        life.draw(&into)?;
    }
    results.complete = true;
    let path = results.write(&into, began)?;
    say(&format!("{} was written, after {} minutes", path.display(), results.took.as_secs() / 60));
    Ok(())
}

/// Shows progress.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "bench: {line}");
}

/// The middle one; of an even number, the mean of the two.
fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    let half = figures.len() / 2;
    match (figures.get(half.wrapping_sub(1)), figures.get(half)) {
        (Some(below), Some(above)) if figures.len().is_multiple_of(2) => f64::midpoint(*below, *above),
        (_, Some(middle)) => *middle,
        _ => f64::NAN,
    }
}

/// How long a command in the guest may take: the longest part takes half an hour under emulation.
const PATIENCE: Duration = Duration::from_secs(2 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]).to_string(), "2");
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]).to_string(), "2.5");
        assert!(median(vec![]).is_nan());
    }
}
