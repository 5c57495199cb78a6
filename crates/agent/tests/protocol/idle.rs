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
/// Both ends of one connection, without TLS, in KiB.
const BOUND: usize = 60;

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
    let (metrics, stop) = (Metrics::new(), CancellationToken::new());
    let mut kept = Vec::new();
    let mut before = 0;
    // One beforehand, for what is needed once.
    for number in 0..=PAIRS {
        if number == 1 {
            before = resident();
        }
        let (here, there) = duplex(4096);
        let incoming = stream::iter([Ok::<_, std::io::Error>(there)]).chain(stream::pending());
        let (service, metrics, stop) = (service.clone(), metrics.clone(), stop.clone());
        tokio::spawn(async move { serve(incoming, service, &metrics, stop).await });
        let agent = RemoteAgent::over(here, NODE).await.unwrap();
        let mut news = agent.watch().await.unwrap();
        for _ in 0..3 {
            news.next().await.unwrap().unwrap();
        }
        agent.get(&id("x"), WAIT).await.unwrap();
        kept.push((agent, news));
    }
    let each = (resident() - before) / PAIRS;
    println!("{each} KiB for both ends of an idle connection with its watch");
    assert!(each <= BOUND, "{each} KiB");
}
