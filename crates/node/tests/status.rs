//! What a host reports about itself: its metrics, its problems, and whether it can serve calls.

// Helpers of tests may fail like tests.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{LONG, MIB, host, pool, spec};
use quarry_transport::metrics::Metrics;
use quarry_volume::Agent as _;
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn metrics_of_pools_are_those_of_the_last_refresh() {
    let (one, other) = (pool("p"), pool("q"));
    let host = host(&[&one, &other]);
    let metrics = Metrics::new();
    let refresh = host.register(&metrics);
    assert!(!metrics.encode().unwrap().contains("quarry_pool_volumes{"));
    host.create(spec("a", 40 * MIB), None, LONG).await.unwrap();
    refresh().await;
    let text = metrics.encode().unwrap();
    let lines = [
        "quarry_pool_size_bytes{pool=\"p\"} 1073741824",
        "quarry_pool_free_bytes{pool=\"p\"} 1031798784",
        "quarry_pool_largest_free_bytes{pool=\"p\"} 1031798784",
        "quarry_pool_volumes{pool=\"p\"} 1",
        "quarry_pool_volumes{pool=\"q\"} 0",
        "quarry_pool_healthy{pool=\"q\"} 1",
        "quarry_commands_overdue 0",
    ];
    for line in lines {
        let found = text.lines().any(|found| found.starts_with(line));
        assert!(found, "{line} is missing from\n{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hung_pool_is_a_problem_but_other_pools_still_serve() {
    let (well, ill) = (pool("p"), pool("ill"));
    let host = host(&[&ill, &well]);
    assert_eq!((host.unavailable().await, host.problems().await), (vec![], vec![]));
    ill.hang(true);
    let began = Instant::now();
    assert_eq!(host.unavailable().await, Vec::<String>::new());
    assert_eq!(began.elapsed(), Duration::ZERO, "one pool that answers is enough");
    let why = "pool ill: it did not answer within 3 s; see the log";
    assert_eq!(host.problems().await, [why]);
    let metrics = Metrics::new();
    host.register(&metrics)().await;
    let text = metrics.encode().unwrap();
    assert!(text.contains("quarry_pool_healthy{pool=\"ill\"} 0"), "{text}");
    assert!(text.contains("quarry_pool_healthy{pool=\"p\"} 1"), "{text}");

    well.set_unreadable(Some("its disk is gone"));
    let mut unavailable = host.unavailable().await;
    unavailable.sort_unstable();
    assert_eq!(unavailable.len(), 2, "{unavailable:?}");
    assert!(unavailable.contains(&why.to_owned()), "{unavailable:?}");
    assert!(unavailable.iter().any(|line| line.contains("its disk is gone")), "{unavailable:?}");
}
