//! The metrics of a controller about its nodes, volumes and snapshots.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use quarry_controller::{Cluster, Fate};
use quarry_transport::metrics::Metrics;
use quarry_volume::{Condition, Snapshot, Volume};

use crate::support::{World, endpoint, until};

/// The samples of the metric `name` without its prefix `quarry_`, one per line.
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
fn samples(metrics: &Metrics, name: &str) -> Vec<String> {
    let text = metrics.encode().unwrap();
    let sample = |line: &str| {
        let rest = line.strip_prefix("quarry_")?.strip_prefix(name)?;
        rest.starts_with(['{', ' ']).then(|| rest.trim().to_owned())
    };
    text.lines().filter_map(sample).collect()
}

fn of(cluster: &Cluster) -> Metrics {
    let metrics = Metrics::new();
    cluster.register(&metrics);
    metrics
}

#[tokio::test]
async fn problems_of_volumes_are_counted_by_node_pool_and_kind() {
    let world = World::new(&[("a", 100), ("b", 100)]);
    let (cluster, _) = world.controller().await;
    let metrics = of(&cluster);
    let ill = |node: &str, name: &str, condition, problem: &str| {
        let volume = Volume::new(world.nodes[node].put(name, 1));
        world.nodes[node].report(&Volume { pool: "fast".into(), problem: problem.into(), condition, ..volume });
    };
    ill("a", "well", Condition::Healthy, "");
    ill("a", "one", Condition::DiskMissing, "its disk is missing");
    ill("a", "two", Condition::DiskMissing, "its disk is missing");
    ill("a", "three", Condition::Degraded, "a mirror is missing");
    ill("b", "four", Condition::Healthy, "of an old node, which reports no kind");
    let expected = [
        r#"{node="a",pool="fast",condition="degraded"} 1.0"#,
        r#"{node="a",pool="fast",condition="disk_missing"} 2.0"#,
        r#"{node="b",pool="fast",condition="other"} 1.0"#,
    ];
    until("all problems are counted", || samples(&metrics, "volume_problems") == expected).await;
    // What an unreachable node reported last may not be true any more.
    world.nodes["a"].cut();
    until("those of the lost node are not", || samples(&metrics, "volume_problems") == expected[2..]).await;
}

#[tokio::test]
async fn an_unreachable_node_is_named_with_its_age() {
    let world = World::new(&[("a", 100), ("b", 100)]);
    let (cluster, _) = world.controller().await;
    let metrics = of(&cluster);
    assert_eq!(samples(&metrics, "node_unreachable_seconds"), [""; 0]);
    world.nodes["b"].cut();
    let named = |least: f64| {
        let found = samples(&metrics, "node_unreachable_seconds");
        let age = |line: &String| line.strip_prefix(r#"{node="b"} "#)?.parse::<f64>().ok();
        matches!(found.as_slice(), [line] if age(line).is_some_and(|age| age >= least))
    };
    until("the node is named", || named(0.0)).await;
    until("its age grows", || named(0.1)).await;
}

#[tokio::test]
async fn orphaned_snapshots_are_counted_once_the_wanted_ones_are_known() {
    let world = World::new(&[("a", 100)]);
    let (cluster, _) = world.controller().await;
    let metrics = of(&cluster);
    let source = world.nodes["a"].put("v", 1);
    let put = |name: &str| {
        let (snapshot, _) = world.nodes["a"].put_snapshot(name, &source, 1);
        // Long ago: a young one is not an orphan yet.
        world.nodes["a"].report_snapshot(&Snapshot { created: 1_000, ..snapshot.clone() });
        snapshot.id.to_string()
    };
    let wanted = put("wanted");
    put("forgotten");
    until("the snapshots are known", || samples(&metrics, "snapshots").iter().any(|line| line.ends_with(" 2.0"))).await;
    assert_eq!(samples(&metrics, "orphan_snapshots"), [""; 0]);
    *world.snapshot_handles.lock().unwrap() = Some(HashSet::from([wanted]));
    until("the orphan is counted", || samples(&metrics, "orphan_snapshots") == ["1.0"]).await;
}

/// A counter that goes down counts as one that began again.
#[tokio::test(start_paused = true)]
async fn a_node_that_is_forgotten_keeps_its_part_of_the_connections() {
    let world = World::new(&[("a", 100), ("b", 100)]);
    let (cluster, _) = world.controller().await;
    let metrics = of(&cluster);
    world.nodes["b"].cut();
    let made = r#"{result="made"} 2.0"#.to_owned();
    until("both connected, and one failed", || {
        let counted = samples(&metrics, "connections_total");
        counted.contains(&made) && !counted.contains(&r#"{result="failed"} 0.0"#.to_owned())
    })
    .await;
    world.fates.lock().unwrap().insert("b".into(), Fate::Gone);
    world.roster.send_replace(Some(Arc::new([("a".to_owned(), endpoint("a"))].into())));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = samples(&metrics, "connections_total");
    tokio::time::sleep(Duration::from_secs(130)).await;
    assert_eq!(samples(&metrics, "nodes"), [r#"{state="up"} 1.0"#, r#"{state="down"} 0.0"#], "it was forgotten");
    assert_eq!(samples(&metrics, "connections_total"), before);
}
