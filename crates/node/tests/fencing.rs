//! Names, fencing tokens and races: no interleaving creates a volume twice or beyond the capacity.

// Helpers of tests may fail like tests.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{EXTENT, LONG, MIB, host, pool, spec};
use futures::future::join_all;
use quarry_node::Host;
use quarry_pool::{Operation, SimulatedPool};
use quarry_volume::{Agent as _, FencingToken, NameLookup, Parameters, Reason, StorageId, VolumeId, VolumeSpec};

fn token(host: &Host, fence: u64) -> Option<FencingToken> {
    Some(FencingToken { fence, instance: host.instance().to_owned() })
}

#[tokio::test(start_paused = true)]
async fn a_stale_fencing_token_is_rejected() {
    let pool = pool("p");
    let host = host(&[&pool]);
    let found = host.find("a", 7, LONG).await.unwrap();
    assert_eq!(found, NameLookup { instance: host.instance().to_owned(), volume: None });
    assert_eq!(host.find("a", 6, LONG).await.unwrap_err().reason, Reason::Unavailable);
    let late = host.create(spec("a", 40 * MIB), token(&host, 6), LONG).await.unwrap_err();
    assert_eq!(late.reason, Reason::Unavailable);
    let (a, _) = host.create(spec("a", 40 * MIB), token(&host, 7), LONG).await.unwrap();
    assert_eq!(host.find("a", 7, LONG).await.unwrap().volume, Some(a));
    // A creation raises the fence too.
    host.create(spec("b", 40 * MIB), token(&host, 9), LONG).await.unwrap();
    assert_eq!(host.find("b", 8, LONG).await.unwrap_err().reason, Reason::Unavailable);
    // A request that allows only one node has no fencing token.
    host.create(spec("c", 40 * MIB), None, LONG).await.unwrap();
    assert_eq!(pool.names(), ["a", "b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn a_token_from_before_a_restart_of_the_agent_is_rejected() {
    let pool = pool("p");
    let before = host(&[&pool]);
    before.find("a", 3, LONG).await.unwrap();
    let after = host(&[&pool]);
    let error = after.create(spec("a", 40 * MIB), token(&before, 3), LONG).await.unwrap_err();
    assert_eq!(error.reason, Reason::Unavailable);
    assert!(error.message.contains("restarted"), "{error}");
    assert_eq!(pool.names(), [""; 0]);
    after.create(spec("a", 40 * MIB), token(&after, 3), LONG).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_being_created_or_deleted_is_not_reported_as_free() {
    let pool = pool("p");
    pool.set_delay(Operation::Create, Duration::from_secs(8));
    pool.set_delay(Operation::Remove, Duration::from_secs(8));
    let host = host(&[&pool]);
    let short = Duration::from_secs(1);
    let error = host.create(spec("a", 40 * MIB), token(&host, 1), short).await.unwrap_err();
    assert_eq!(error.reason, Reason::TimedOut, "the caller's wait ends and the work continues");
    assert_eq!(host.find("a", 2, LONG).await.unwrap_err().reason, Reason::UnderWay);
    assert_eq!(host.find("b", 2, LONG).await.unwrap().volume, None);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let a = host.find("a", 2, LONG).await.unwrap().volume.expect("it was made");
    assert_eq!(host.delete(&a.id, short).await.unwrap_err().reason, Reason::TimedOut);
    assert_eq!(host.find("a", 2, LONG).await.unwrap_err().reason, Reason::UnderWay);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(host.find("a", 2, LONG).await.unwrap().volume, None);
}

#[tokio::test(start_paused = true)]
async fn a_name_is_free_only_if_every_pool_was_read() {
    let (p, q) = (pool("p"), pool("q"));
    let host = host(&[&p, &q]);
    let (a, _) = host.create(spec("a", 40 * MIB), None, LONG).await.unwrap();
    q.set_unreadable(Some("a disk is away"));
    assert_eq!(host.find("b", 1, LONG).await.unwrap_err().reason, Reason::Unavailable);
    assert_eq!(host.find("a", 1, LONG).await.unwrap().volume, Some(a.clone()), "it was seen");
    q.set_unreadable(None);
    q.hang(true);
    let wait = Duration::from_secs(2);
    assert_eq!(host.find("b", 1, wait).await.unwrap_err().reason, Reason::TimedOut);
    p.hang(true);
    assert_eq!(host.get(&a.id, wait).await.unwrap_err().reason, Reason::TimedOut);
}

/// One controller creates the volume; another one is elected and looks for the name, each at its own time.
/// Returns whether the second one does not find the volume although the first one creates it: then it would
/// create a second one elsewhere.
async fn doubled(create_at: u64, find_at: u64) -> bool {
    let pool = SimulatedPool::new("p", EXTENT, vec![256], Duration::from_millis(8));
    pool.set_delay(Operation::Read, Duration::from_millis(4));
    let host = host(&[&pool]);
    let asked = host.find("a", 1, LONG).await.unwrap();
    assert_eq!(asked.volume, None);
    let first = async {
        tokio::time::sleep(Duration::from_millis(create_at)).await;
        host.create(spec("a", 40 * MIB), token(&host, 1), LONG).await
    };
    let second = async {
        tokio::time::sleep(Duration::from_millis(find_at)).await;
        host.find("a", 2, LONG).await
    };
    let (made, found) = tokio::join!(first, second);
    let there = !pool.names().is_empty();
    assert_eq!(made.is_ok(), there, "{made:?}");
    there && found.is_ok_and(|found| found.volume.is_none())
}

/// The pairs of times that lead to a duplicate.
async fn doubles() -> Vec<(u64, u64)> {
    let mut doubles = Vec::new();
    for create_at in 0..30 {
        for find_at in 0..30 {
            if doubled(create_at, find_at).await {
                doubles.push((create_at, find_at));
            }
        }
    }
    doubles
}

#[tokio::test(start_paused = true)]
async fn an_old_and_a_new_elected_controller_never_both_succeed() {
    assert_eq!(doubles().await, []);
}

#[tokio::test(start_paused = true)]
async fn without_the_fence_both_can_succeed() {
    let _without = quarry_fault::disable("fence");
    assert_ne!(doubles().await, []);
}

#[tokio::test(start_paused = true)]
async fn without_the_lock_on_the_name_both_can_succeed() {
    let _without = quarry_fault::disable("name-lock");
    assert_ne!(doubles().await, []);
}

#[tokio::test(start_paused = true)]
async fn concurrent_creations_succeed_only_as_far_as_space_allows() {
    let pool = SimulatedPool::new("p", EXTENT, vec![128, 128], Duration::from_millis(20));
    let host = host(&[&pool]);
    let racing = (0..40).map(|number| host.create(spec(&format!("v{number}"), 100 * MIB), None, LONG));
    let (made, refused): (Vec<_>, Vec<_>) = join_all(racing).await.into_iter().partition(Result::is_ok);
    // 25 extents each, of 256.
    assert_eq!((made.len(), pool.names().len()), (10, 10));
    assert!(refused.iter().all(|error| error.as_ref().is_err_and(|error| error.reason == Reason::NoSpace)));
    assert_eq!(pool.free().iter().sum::<u64>(), 6);
    // The state in every reply counts the reply's own volume.
    let mut counted: Vec<_> = made.iter().flatten().map(|(_, change)| change.pools[0].volumes).collect();
    counted.sort_unstable();
    assert!(counted.iter().zip(1..).all(|(volumes, least)| *volumes >= least), "{counted:?}");
}

#[tokio::test(start_paused = true)]
async fn identical_concurrent_calls_create_one_volume() {
    let pool = SimulatedPool::new("p", EXTENT, vec![256], Duration::from_millis(20));
    let host = host(&[&pool]);
    let calls = join_all((0..20).map(|_| host.create(spec("a", 40 * MIB), None, LONG))).await;
    assert_eq!(calls.iter().filter(|call| call.is_ok()).count(), 1);
    let refused = calls.iter().filter_map(|call| call.as_ref().err());
    assert!(refused.into_iter().all(|error| error.reason == Reason::UnderWay));
    assert!(host.create(spec("a", 40 * MIB), None, LONG).await.is_ok());
    assert_eq!((pool.names().len(), pool.free()), (1, vec![246]));
}

#[tokio::test(start_paused = true)]
async fn the_node_checks_options_again() {
    let pool = pool("p");
    let host = host(&[&pool]);
    for spec in [with_options(spec("a", 40 * MIB), "-F"), with_options(common::block("a", 40 * MIB), "-m 0")] {
        assert_eq!(host.create(spec, None, LONG).await.unwrap_err().reason, Reason::InvalidRequest);
    }
    assert_eq!(pool.names(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_thousand_volumes_are_published() {
    let pool = |number: usize| {
        let pool = SimulatedPool::new("p", EXTENT, vec![20_000], Duration::ZERO).with_uuid(format!("uuid-{number}"));
        assert_eq!(pool.fill(&spec(&format!("v{number}"), 40 * MIB), 1000), 1000);
        pool
    };
    let pools: Vec<_> = (0..100).map(pool).collect();
    let hosts: Vec<_> = pools
        .iter()
        .enumerate()
        .map(|(number, pool)| Host::new(format!("node-{number}"), vec![Arc::new(pool.clone())]))
        .collect();
    let followers = join_all(hosts.iter().map(common::Follower::of)).await;
    assert_eq!(followers.iter().map(|follower| follower.volumes.len()).sum::<usize>(), 100_000);
}

#[tokio::test(start_paused = true)]
async fn a_delete_does_not_stop_a_creation_on_another_storage_and_waits_only_once() {
    let pool = pool("p");
    let host = host(&[&pool]);
    let (b, _) = host.create(spec("b", 40 * MIB), None, LONG).await.unwrap();
    let a = VolumeId { volume: "a".into(), ..b.id };
    let short = Duration::from_secs(1);
    pool.set_delay(Operation::Create, Duration::from_secs(4));
    pool.set_delay(Operation::Remove, Duration::from_secs(8));
    assert_eq!(host.create(spec("a", 40 * MIB), None, short).await.unwrap_err().reason, Reason::TimedOut);

    let began = tokio::time::Instant::now();
    let elsewhere = VolumeId { storage: StorageId::of("elsewhere"), ..a.clone() };
    assert_eq!(host.delete(&elsewhere, LONG).await.unwrap_err().reason, Reason::UnderWay);
    assert_eq!(began.elapsed(), Duration::ZERO, "it did not wait for the creation");

    // The creation ends three seconds from now, and the removal eight seconds later.
    let wait = Duration::from_secs(5);
    assert_eq!(host.delete(&a, wait).await.unwrap_err().reason, Reason::TimedOut);
    assert_eq!(began.elapsed(), wait, "both waits together take no longer than the caller's wait");
    host.delete(&a, LONG).await.unwrap_err();
    tokio::time::sleep(Duration::from_secs(10)).await;
    host.delete(&a, LONG).await.unwrap();
    assert_eq!(pool.names(), ["b"]);
}

fn with_options(spec: VolumeSpec, mkfs_options: &str) -> VolumeSpec {
    VolumeSpec { class: Parameters { mkfs_options: mkfs_options.to_owned(), ..spec.class }, ..spec }
}
