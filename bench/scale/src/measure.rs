//! Measures the cost of a number of nodes.

use std::time::{Duration, Instant};

use quarry_agent::{Dial as _, TlsDial};
use quarry_transport::tls;

use crate::client::Client;
use crate::process::{self, Process};
use crate::table::{self, Row, Spread};
use crate::{Setting, certificates, nodes};

/// How many times GetCapacity is called in each round; the best round counts, because others may use the
/// processors.
const QUESTIONS: usize = 5000;
const ROUNDS: usize = 5;
/// How many volumes are created each way.
const CREATIONS: usize = 500;
/// The size of each.
const SIZE: u64 = 64 << 20;
/// What a call may take before something is wrong.
const WAIT: Duration = Duration::from_secs(50);

/// Measures each number of nodes, prints the table, and exits with failure if a limit is exceeded.
pub(crate) async fn run(numbers: &[usize], volumes: usize) {
    let mut rows = Vec::new();
    for nodes in numbers {
        eprintln!("{nodes} nodes …");
        rows.push(one(*nodes, volumes).await);
    }
    table::print(&rows);
    let wrong = table::judge(&rows);
    for wrong in &wrong {
        println!("FAIL  {wrong}");
    }
    println!("{} passed, {} failed", u8::from(wrong.is_empty()), wrong.len());
    if !wrong.is_empty() {
        std::process::exit(1);
    }
}

async fn one(nodes: usize, volumes: usize) -> Row {
    process::check_limit(nodes, 2);
    let directory = tempfile::tempdir().unwrap();
    let setting = Setting { nodes, volumes, directory: directory.path().to_owned() };
    certificates::make(&setting).await;
    let mut agents = Process::start(&["nodes"], &setting);
    assert_eq!(agents.answer().await, "ready");
    let mut controller = Process::start(&["controller", "1"], &setting);
    assert_eq!(controller.answer().await, "ready");
    let empty = controller.memory();
    let start = controller.ask("go").await.parse().unwrap();
    let mut client = Client::connect(&setting, "1").await;
    let memory = controller.memory();

    let capacity = capacity(&mut client, nodes).await;
    let (routed, direct) = create(&mut client, &setting).await;

    assert_eq!(agents.ask("stop").await, "stopped");
    controller.ask("lost").await;
    let began = Instant::now();
    assert_eq!(agents.ask("start").await, "started");
    controller.ask("back").await;
    let back = began.elapsed().as_secs_f64();
    Row { nodes, volumes: nodes * volumes, memory, empty, start, back, capacity, routed, direct }
}

/// GetCapacity of one node after the other.
async fn capacity(client: &mut Client, nodes: usize) -> Spread {
    let mut best: Option<Spread> = None;
    for round in 0..ROUNDS {
        let mut times = Vec::with_capacity(QUESTIONS);
        for question in 0..QUESTIONS {
            // Volumes created one after the other are not adjacent in memory.
            let node = (question * 7919 + round) % nodes;
            let began = Instant::now();
            client.capacity("fast", node).await;
            times.push(began.elapsed());
        }
        let spread = Spread::of(times);
        if best.is_none_or(|best| spread.p99 < best.p99) {
            best = Some(spread);
        }
    }
    best.unwrap()
}

/// CreateVolume through the controller and of the agent itself, on one node after the other. Each of the two comes
/// first in every second turn.
async fn create(client: &mut Client, setting: &Setting) -> (Spread, Spread) {
    let dial = TlsDial::new(tls::Connector::new(tls::files::watch(setting.certificates("controller"))));
    let (mut routed, mut direct) = (Vec::new(), Vec::new());
    for turn in 0..CREATIONS {
        let node = (turn * 7919) % setting.nodes;
        let (name, address) = (nodes::name(node), nodes::address(node).to_string());
        let agent = loop {
            match dial.dial(&name, &address).await {
                Ok(agent) => break agent,
                // The certificates are read in the background.
                Err(_) if turn == 0 => tokio::time::sleep(Duration::from_millis(50)).await,
                Err(error) => panic!("{error}"),
            }
        };
        // A connection that has been used, as the controller's.
        agent.find("missing", 0, WAIT).await.unwrap();
        // What comes second finds the agent's code and data in the processor's caches: take turns.
        for is_direct in [turn % 2 == 1, turn % 2 == 0] {
            if is_direct {
                let spec = nodes::spec(format!("direct-{turn}"), SIZE, "fast");
                let began = Instant::now();
                agent.create(spec, None, WAIT).await.unwrap();
                direct.push(began.elapsed());
            } else {
                let name = format!("routed-{turn}");
                let began = Instant::now();
                client.create(&name, SIZE, "fast", node).await.unwrap();
                routed.push(began.elapsed());
            }
        }
    }
    (Spread::of(routed), Spread::of(direct))
}
