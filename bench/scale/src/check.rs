//! Checks a few hundred nodes with two controllers. It judges no times, except one: a change by one
//! controller soon reaches the other.

use std::time::{Duration, Instant};

use futures::future::join_all;
use tonic::Code;

use crate::client::Client;
use crate::nodes::{DISK, EXTENT, NARROW, VOLUME};
use crate::process::{self, Process};
use crate::{Setting, certificates};

const NODES: usize = 200;
const VOLUMES: usize = 10;
/// The additional volumes.
const SIZE: u64 = 1 << 30;
/// How many callers want a part of the last gigabyte, and how large a part.
const CALLERS: usize = 32;
const PART: u64 = 96 << 20;
/// By when the other controller must know: a second is promised; slow machines get more.
const SOON: Duration = Duration::from_secs(20);

/// Panics if a check fails.
pub(crate) async fn run() {
    process::check_limit(NODES, 2);
    let directory = tempfile::tempdir().unwrap();
    let setting = Setting { nodes: NODES, volumes: VOLUMES, directory: directory.path().to_owned() };
    certificates::make(&setting).await;
    let mut agents = Process::start(&["nodes"], &setting);
    assert_eq!(agents.answer().await, "ready");
    let mut controllers =
        [Process::start(&["controller", "1"], &setting), Process::start(&["controller", "2"], &setting)];
    for controller in &mut controllers {
        assert_eq!(controller.answer().await, "ready");
        controller.ask("go").await;
    }
    let mut clients = [Client::connect(&setting, "1").await, Client::connect(&setting, "2").await];
    let mut passed = 0;
    let mut pass = |what: &str| {
        println!("ok    {what}");
        passed += 1;
    };

    full_states(&mut clients, 0).await;
    pass("both controllers know every volume and every capacity");
    let slowest = created(&mut clients).await;
    pass(&format!("a creation shows in the next GetCapacity; in the other controller's after at most {slowest:.1?}"));
    for node in 0..NARROW {
        race(&clients, node).await;
    }
    pass(&format!("{CALLERS} callers race for the last gigabyte: as many as fit get it"));

    assert_eq!(agents.ask("stop").await, "stopped");
    for controller in &mut controllers {
        controller.ask("lost").await;
    }
    assert_eq!(agents.ask("start").await, "started");
    for controller in &mut controllers {
        controller.ask("back").await;
    }
    full_states(&mut clients, NODES + NARROW * fitting()).await;
    pass("all agents restarted at once: the controller has the full state again");
    println!("{passed} passed, 0 failed");
}

/// How many of the racers fit.
fn fitting() -> usize {
    usize::try_from((1 << 30) / PART).unwrap()
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap()
}

/// A node's free space after this many additional bytes were allocated.
fn free(more: u64) -> i64 {
    signed(2 * DISK * EXTENT - u64::try_from(VOLUMES).unwrap() * VOLUME - more)
}

/// Both know all volumes, `more` in addition to those of the beginning, and all capacities.
async fn full_states(clients: &mut [Client; 2], more: usize) {
    let mut lists = Vec::new();
    for client in clients {
        let volumes = client.volumes().await;
        assert_eq!(volumes.len(), NODES * VOLUMES + more);
        assert_eq!(volumes.values().filter(|size| **size == signed(VOLUME)).count(), NODES * VOLUMES);
        lists.push(volumes);
        for node in 0..NODES {
            assert_eq!(client.capacity("fast", node).await, free(if more > 0 { SIZE } else { 0 }), "node {node}");
        }
    }
    assert_eq!(lists[0], lists[1]);
}

/// Makes a volume on every node, through one controller and the other by turns. Returns how long it took at most until
/// the other one knew it.
async fn created(clients: &mut [Client; 2]) -> Duration {
    let mut slowest = Duration::ZERO;
    for node in 0..NODES {
        let [one, other] = clients;
        let (this, that) = if node % 2 == 0 { (one, other) } else { (other, one) };
        let volume = this.create(&format!("more-{node}"), SIZE, "fast", node).await.unwrap();
        assert_eq!(volume.capacity_bytes, signed(SIZE));
        let began = Instant::now();
        assert_eq!(this.capacity("fast", node).await, free(SIZE), "node {node}, through the same controller");
        while that.capacity("fast", node).await != free(SIZE) {
            assert!(began.elapsed() < SOON, "node {node}: the other controller does not learn of a creation");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        slowest = slowest.max(began.elapsed());
    }
    slowest
}

/// Callers of both controllers race for the pool that has one gigabyte.
async fn race(clients: &[Client; 2], node: usize) {
    let calls = (0..CALLERS).map(|caller| {
        let mut client = clients[caller % 2].clone();
        async move { client.create(&format!("racer-{node}-{caller}"), PART, "narrow", node).await }
    });
    let results = join_all(calls).await;
    let got = results.iter().filter(|result| result.is_ok()).count();
    assert_eq!(got, fitting(), "node {node}: {results:?}");
    for refused in results.into_iter().filter_map(Result::err) {
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    }
    let left = signed((1 << 30) - u64::try_from(fitting()).unwrap() * PART);
    for client in clients {
        let (mut client, began) = (client.clone(), Instant::now());
        while client.capacity("narrow", node).await != left {
            assert!(began.elapsed() < SOON, "node {node}: the free space is not {left}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
