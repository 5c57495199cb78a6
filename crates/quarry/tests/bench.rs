//! The real binary measures the real controller, whose agent's storage is simulated.
#![allow(clippy::disallowed_types)] // quarry-exec is under test here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod controller;

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use controller::{Controller, QUARRY, agent, until_up};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

async fn controller_with_a_node() -> Controller {
    let directory = tempfile::tempdir().unwrap();
    let address = agent("worker-1", 1, &directory.path().join("certificates")).await;
    let controller = Controller::start(directory, &[("worker-1", address)]);
    until_up(&controller, 1).await;
    controller
}

/// `quarry bench` of the controller; more options can be added.
fn bench(controller: &Controller) -> Command {
    let directory = controller.directory.path();
    let mut command = Command::new(QUARRY);
    command.args(["bench", "--param", "pool=fast", "--controller"]).arg(directory.join("csi.sock"));
    command.arg("--work-dir").arg(directory.join("work"));
    command.args(["--without", "expand,snapshot", "--size", "16Mi", "--volumes", "5"]);
    command
}

/// The volumes that are there: the one of the agent, and what a run left behind.
async fn volumes(controller: &Controller) -> usize {
    controller.json("volumes").await["volumes"].as_array().unwrap().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_controller_is_measured() {
    let controller = controller_with_a_node().await;
    let plots = controller.directory.path().join("plots");
    let mut command = bench(&controller);
    command.args(["--concurrency", "1,5", "--rounds", "2", "--output", "json", "--plot"]).arg(&plots);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let results: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(results["phases"], serde_json::json!(["create", "delete"]), "no node is served");
    for row in results["results"].as_array().unwrap() {
        assert_eq!((row["latency_ms"]["count"].as_u64(), &row["errors"]), (Some(10), &serde_json::json!({})), "{row}");
    }
    for plot in ["concurrency.svg", "time.svg"] {
        assert!(std::fs::read_to_string(plots.join(plot)).unwrap().contains("\ncreate\n"), "{plot}");
    }
    assert_eq!(volumes(&controller).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_run_cleans_up() {
    let controller = controller_with_a_node().await;
    let mut command = bench(&controller);
    command.args(["--concurrency", "5", "--rounds", "1000000"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let run = move || {
        let mut process = command.spawn().unwrap();
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut lines = lines.map(Result::unwrap).filter(|line| line.starts_with("round "));
        // The second round is in progress.
        lines.find(|line| line.contains("round 2 of")).unwrap();
        kill(Pid::from_raw(process.id().try_into().unwrap()), Signal::SIGINT).unwrap();
        // Read until the end, so that the process can write.
        let _rest = lines.count();
        process.wait_with_output().unwrap()
    };
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("\nInterrupted: ") && !text.contains("Left behind"), "{text}");
    assert_eq!(volumes(&controller).await, 1);
    assert_eq!(std::fs::read_dir(controller.directory.path().join("work")).unwrap().count(), 0);
}
