//! Thousands of nodes behind one controller: their cost, and whether everything still works.
//!
//! The nodes are real agents on simulated storage, each with its own address on the loopback network, all in
//! one process; the controller is another process, so that its memory can be measured; they use the product's
//! protocol over mutual TLS. The results are in `docs/scale.md`.
//!
//! `quarry-bench-scale` measures 500, 2,000 and 5,000 nodes and prints a table; it fails if memory per node
//! or the time of GetCapacity grows with the number of nodes. `--check` tests 200 nodes and measures nothing.

// A harness: where it fails, it panics.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(unreachable_pub)]

mod certificates;
mod check;
mod client;
mod controller;
mod measure;
mod nodes;
mod process;
mod table;

use std::path::PathBuf;

/// Everything that the processes of one measurement agree on.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    /// How many nodes.
    pub(crate) nodes: usize,
    /// How many volumes each has.
    pub(crate) volumes: usize,
    /// Where sockets and certificates are.
    pub(crate) directory: PathBuf,
}

const USAGE: &str = "quarry-bench-scale [--check] [--volumes PER-NODE] [NODES…]";
/// The default number of volumes per node.
const VOLUMES: usize = 20;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    quarry_transport::open_files::raise_limit().unwrap();
    match arguments.as_slice() {
        ["nodes", setting @ ..] => runtime.block_on(nodes::run(Setting::parse(setting))),
        ["controller", number, setting @ ..] => runtime.block_on(controller::run(number, Setting::parse(setting))),
        ["--check"] => runtime.block_on(check::run()),
        ["--volumes", volumes, numbers @ ..] => measured(&runtime, volumes.parse().expect(USAGE), numbers),
        numbers => measured(&runtime, VOLUMES, numbers),
    }
}

fn measured(runtime: &tokio::runtime::Runtime, volumes: usize, numbers: &[&str]) {
    let numbers: Vec<usize> = numbers.iter().map(|number| number.parse().expect(USAGE)).collect();
    let numbers = if numbers.is_empty() { vec![500, 2000, 5000] } else { numbers };
    runtime.block_on(measure::run(&numbers, volumes));
}

impl Setting {
    /// Reads what [`Setting::arguments`] wrote.
    fn parse(arguments: &[&str]) -> Self {
        let [nodes, volumes, directory] = arguments else { panic!("{USAGE}") };
        Self { nodes: nodes.parse().unwrap(), volumes: volumes.parse().unwrap(), directory: PathBuf::from(directory) }
    }

    /// The command-line options of a process.
    pub(crate) fn arguments(&self) -> [String; 3] {
        [self.nodes.to_string(), self.volumes.to_string(), self.directory.to_str().unwrap().to_owned()]
    }

    /// Where the certificates of a role are.
    pub(crate) fn certificates(&self, role: &str) -> PathBuf {
        self.directory.join(role)
    }

    /// The socket of a controller.
    pub(crate) fn socket(&self, controller: &str) -> PathBuf {
        self.directory.join(format!("controller-{controller}.sock"))
    }
}
