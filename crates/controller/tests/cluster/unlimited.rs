//! The reports about volumes whose I/O limits are not in force.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use quarry_volume::{StorageId, Volume, VolumeId};

use crate::support::World;

#[tokio::test(start_paused = true)]
async fn limits_that_are_not_in_force_are_reported_once_for_each_change() {
    let world = World::new(&[("a", 200)]);
    let (_, service) = world.controller().await;
    let node = &world.nodes["a"];
    let report = |name: &str, why: &str| {
        let id = VolumeId { storage: StorageId::of("a"), node: "a".to_owned(), volume: name.to_owned() };
        node.report(&Volume { limits_problem: why.to_owned(), ..Volume::new(id) });
    };
    let reported = async || {
        tokio::time::sleep(Duration::from_secs(65)).await;
        let mut all = std::mem::take(&mut *world.unlimited.lock().unwrap());
        all.sort();
        all.into_iter().map(|(name, why)| format!("{name}: {why}")).collect::<Vec<_>>()
    };
    report("v", "");
    assert_eq!(reported().await, [""; 0]);
    report("v", "no cgroup");
    report("w", "no cgroup");
    assert_eq!(reported().await, ["v: no cgroup", "w: no cgroup"]);
    assert_eq!(reported().await, [""; 0], "it was reported");
    report("v", "no io.max");
    assert_eq!(reported().await, ["v: no io.max"]);
    report("v", "");
    assert_eq!(reported().await, [""; 0]);
    // What the API rejects is tried again.
    world.rejects_events.store(true, SeqCst);
    report("v", "no io.max");
    assert!(reported().await.len() >= 2);
    world.rejects_events.store(false, SeqCst);
    assert_eq!(reported().await, ["v: no io.max"]);
    // A node without cgroups does not flood the API.
    for number in 100..125 {
        report(&format!("x-{number}"), "no cgroup");
    }
    let first = reported().await.len();
    assert!(first < 25, "{first} in about a minute");
    assert_eq!(first + reported().await.len(), 25);
    drop(service);
}

/// The events of some volumes may be rejected for ever, for example because their namespace is being deleted.
#[tokio::test(start_paused = true)]
async fn volumes_whose_reports_are_rejected_do_not_keep_others_from_being_reported() {
    let world = World::new(&[("a", 200)]);
    world.rejects_events.store(true, SeqCst);
    let (_cluster, _service) = world.controller().await;
    for number in 100..125 {
        let id = VolumeId { storage: StorageId::of("a"), node: "a".to_owned(), volume: format!("x-{number}") };
        world.nodes["a"].report(&Volume { limits_problem: "no cgroup".to_owned(), ..Volume::new(id) });
    }
    tokio::time::sleep(Duration::from_secs(95)).await;
    let attempts: Vec<_> = world.unlimited.lock().unwrap().iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(attempts.len(), 30, "no more than ten at a time");
    assert_eq!(attempts.into_iter().collect::<BTreeSet<_>>().len(), 25);
}
