//! What an idle connection costs: a controller has one to every node of a large cluster.

use std::sync::Arc;

use futures::{StreamExt as _, stream};
use quarry_agent::{AgentService, RemoteAgent, serve};
use quarry_transport::metrics::Metrics;
use quarry_volume::Agent as _;
use tokio::io::duplex;
use tokio_util::sync::CancellationToken;

use crate::common::{Fake, NODE, WAIT, id, story};

const PAIRS: usize = 2000;
/// Both ends of one connection, without TLS, in KiB: what was measured (65, not optimized) and a little more.
const BOUND: usize = 75;

/// Resident memory of this process, in KiB.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Alone in its process, or others' memory counts too:
/// `cargo test -p quarry-agent --test protocol idle -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "measures the memory of the process: to be run alone"]
async fn an_idle_connection_with_its_watch_is_small() {
    let fake = || Fake::watched(|| Ok(stream::iter(story()).chain(stream::pending()).boxed()));
    let service = AgentService::new(Arc::new(fake()));
    let (connect, connections) = tokio::sync::mpsc::channel(1);
    let incoming = tokio_stream::wrappers::ReceiverStream::new(connections).map(Ok::<_, std::io::Error>);
    tokio::spawn(async move { serve(incoming, service, &Metrics::new(), CancellationToken::new()).await });
    let mut kept = Vec::new();
    let mut before = 0;
    // One beforehand, for what is needed once.
    for number in 0..=PAIRS {
        if number == 1 {
            before = resident();
        }
        let (here, there) = duplex(4096);
        connect.send(there).await.unwrap();
        let agent = RemoteAgent::over(here, NODE).await.unwrap();
        let mut updates = agent.watch().await.unwrap();
        for _ in 0..3 {
            updates.next().await.unwrap().unwrap();
        }
        agent.get(&id("x"), WAIT).await.unwrap();
        kept.push((agent, updates));
    }
    let each = (resident() - before) / PAIRS;
    println!("{each} KiB for both ends of an idle connection with its watch");
    assert!(each <= BOUND, "{each} KiB");
}
