//! The updates of a node: only state that was read, without delay, and without duplicates.

// Helpers of tests may fail like tests.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{EXTENT, Follower, LONG, MIB, block, host, pool, spec};
use quarry_pool::{Failure, Operation, Pool as _, SimulatedPool};
use quarry_volume::{Agent as _, Capacity, Layout, PoolState, Reason};
use tokio::time::Instant;

/// The free extents of each disk of a pool.
fn free(pool: &PoolState) -> Vec<u64> {
    pool.space.free.iter().map(|free| free.0).collect()
}

#[tokio::test(start_paused = true)]
async fn a_follower_receives_the_greeting_the_full_state_and_each_change() {
    let pool = pool("p");
    let host = host(&[&pool]);
    let (before, _) = host.create(spec("before", 40 * MIB), None, LONG).await.unwrap();
    let mut follower = Follower::of(&host).await;
    assert_eq!(follower.greeting.node, "node-1");
    assert_eq!(follower.greeting.instance, host.instance());
    assert_eq!(follower.volumes.values().collect::<Vec<_>>(), [&before]);
    assert_eq!(follower.pools["p"], pool.status().await);

    let (volume, reply) = host.create(spec("a", 100 * MIB), None, LONG).await.unwrap();
    assert_eq!((volume.pool.as_str(), volume.size, volume.ready), ("p", 100 * MIB, false));
    assert_eq!((reply.volumes.as_slice(), reply.gone.len()), ([volume.clone()].as_slice(), 0));
    assert_eq!(reply.pools, [pool.status().await]);
    let change = follower.receive().await;
    assert_eq!(change, reply, "the stream and the reply are the same");

    let reply = host.delete(&volume.id, LONG).await.unwrap();
    assert_eq!((reply.volumes.len(), reply.gone.as_slice()), (0, [volume.id.clone()].as_slice()));
    assert_eq!(follower.receive().await, reply);
    assert_eq!(follower.names(), ["before"]);
    // A repeated delete changes nothing and returns the same.
    assert_eq!(host.delete(&volume.id, LONG).await.unwrap(), reply);
    let (again, reply) = host.create(spec("before", 40 * MIB), None, LONG).await.unwrap();
    assert_eq!((again, reply.generation), (before, follower.generation));
}

#[tokio::test(start_paused = true)]
async fn the_figures_in_a_reply_are_exact() {
    let pool = SimulatedPool::new("p", EXTENT, vec![100, 60], Duration::from_millis(30));
    let host = host(&[&pool]);
    for (number, layout) in
        [Layout::Linear, Layout::Striped { stripes: 2, stripe_size: 65536 }, Layout::Raid1 { mirrors: 1 }]
            .into_iter()
            .enumerate()
    {
        let spec = spec(&format!("v{number}"), 80 * MIB).with_layout(layout);
        let (_, reply) = host.create(spec, None, LONG).await.unwrap();
        let mut expected = pool.free();
        expected.sort_by_key(|free| std::cmp::Reverse(*free));
        assert_eq!(free(&reply.pools[0]), expected, "{layout}");
    }
    // 20 on the smaller disk, 10 on each, 21 on each.
    assert_eq!(pool.free(), [69, 9]);
    let state = host.delete(&host.get(&ids(&host).await[0], LONG).await.unwrap().id, LONG).await.unwrap();
    let capacity = state.pools[0].space.capacity(&Layout::Linear);
    assert_eq!(capacity, Capacity { available: 98 * EXTENT, largest: 98 * EXTENT, smallest: EXTENT });
}

async fn ids(host: &quarry_node::Host) -> Vec<quarry_volume::VolumeId> {
    Follower::of(host).await.volumes.into_keys().collect()
}

#[tokio::test(start_paused = true)]
async fn a_restarted_agent_is_a_new_instance_with_the_same_state() {
    let pool = pool("p");
    let first = host(&[&pool]);
    first.create(spec("a", 40 * MIB), None, LONG).await.unwrap();
    let before = Follower::of(&first).await;
    let second = host(&[&pool]);
    let after = Follower::of(&second).await;
    assert_ne!(before.greeting.instance, after.greeting.instance);
    assert_eq!(before.greeting.boot_id, after.greeting.boot_id);
    assert!(after.generation > before.generation);
    assert_eq!(before.volumes, after.volumes);
    assert_eq!(before.pools, after.pools);
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_falls_behind_gets_the_full_state_again() {
    let pool = pool("p");
    let host = host(&[&pool]);
    let mut follower = Follower::of(&host).await;
    for number in 0..300 {
        let name = format!("v{number}");
        let (volume, _) = host.create(spec(&name, 20 * MIB), None, LONG).await.unwrap();
        if number % 10 > 0 {
            host.delete(&volume.id, LONG).await.unwrap();
        }
    }
    follower.until("all that is left", |follower| follower.volumes.len() == 30).await;
    assert_eq!(follower.full_states, 2);
    follower.until("the last state", |follower| follower.pools["p"].volumes == 30).await;
    let mut names = follower.names();
    names.sort();
    let mut truth = pool.names();
    truth.sort();
    assert_eq!(names, truth);
    // The changes continue from there.
    let (volume, reply) = host.create(spec("last", 20 * MIB), None, LONG).await.unwrap();
    assert_eq!(follower.receive().await, reply);
    assert!(follower.volumes.contains_key(&volume.id));
}

#[tokio::test(start_paused = true)]
async fn changes_from_outside_are_published_soon_after_a_uevent_and_otherwise_at_a_tick() {
    let pool = pool("p");
    let host = host(&[&pool]);
    let (a, _) = host.create(spec("a", 40 * MIB), None, LONG).await.unwrap();
    let mut follower = Follower::of(&host).await;

    let start = Instant::now();
    assert_eq!(pool.take_by_hand(0, 7), 7);
    let change = follower.receive().await;
    assert_eq!((free(&change.pools[0]), change.volumes.len()), (vec![239], 0));
    assert!(start.elapsed() <= Duration::from_secs(5), "{:?}", start.elapsed());

    let start = Instant::now();
    assert!(pool.remove_by_hand(&a.id.volume));
    pool.uevent();
    assert_eq!(follower.receive().await.gone, [a.id]);
    assert!(start.elapsed() <= Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_read_without_listeners_and_nothing_is_published_without_changes() {
    let pool = pool("p");
    let host = host(&[&pool]);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(pool.begun(Operation::Read), 0);

    let mut follower = Follower::of(&host).await;
    assert!(tokio::time::timeout(Duration::from_secs(60), follower.receive()).await.is_err(), "nothing changed");
    let reads = pool.begun(Operation::Read);
    assert!((12..=14).contains(&reads), "{reads} readings in a minute");

    drop(follower);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let reads = pool.begun(Operation::Read);
    pool.uevent();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(pool.begun(Operation::Read), reads);

    // The next follower gets what changed in between and what changes later.
    pool.take_by_hand(0, 6);
    let mut follower = Follower::of(&host).await;
    assert_eq!(free(&follower.pools["p"]), [250]);
    pool.take_by_hand(0, 50);
    assert_eq!(free(&follower.receive().await.pools[0]), [200]);
}

#[tokio::test(start_paused = true)]
async fn a_hanging_pool_is_published_as_unresponsive_and_delays_no_one() {
    let (good, bad) = (pool("p"), pool("bad"));
    let host = host(&[&good, &bad]);
    let in_bad = spec("x", 40 * MIB).in_pool("bad");
    let (x, _) = host.create(in_bad, None, LONG).await.unwrap();
    let mut follower = Follower::of(&host).await;
    let well = follower.pools["bad"].clone();

    bad.hang(true);
    let start = Instant::now();
    follower.until("that it hangs", |follower| !follower.pools["bad"].problems.is_empty()).await;
    assert!(start.elapsed() <= Duration::from_secs(10));
    let state = &follower.pools["bad"];
    assert!(state.problems[0].contains("is unresponsive"), "{state:?}");
    assert_eq!((&state.storage, state.volumes, state.size), (&well.storage, 1, well.size));
    assert_eq!(state.space.capacity(&Layout::Linear), Capacity::default());
    assert!(follower.volumes.contains_key(&x.id), "its volumes stay");

    // The other pool is neither late nor silent. (A creation looks for the name in every pool and waits 2 s
    // for a hanging one.)
    let start = Instant::now();
    let (_, reply) = host.create(spec("a", 40 * MIB), None, LONG).await.unwrap();
    assert_eq!(follower.receive().await, reply);
    assert!(start.elapsed() <= Duration::from_secs(3), "{:?}", start.elapsed());

    // A new follower does not wait forever while the pool hangs, and gets what is known.
    let start = Instant::now();
    let second = Follower::of(&host).await;
    assert!(start.elapsed() <= Duration::from_secs(4), "{:?}", start.elapsed());
    assert!(second.volumes.contains_key(&x.id) && !second.pools["bad"].problems.is_empty());

    // Only the name of a pool that was never read is known.
    let fresh = common::host(&[&good, &bad]);
    let third = Follower::of(&fresh).await;
    assert_eq!((third.names(), &third.pools["bad"].storage), (vec!["a".to_owned()], &None));
    assert!(!third.pools["bad"].problems.is_empty());

    bad.hang(false);
    follower.until("that it answers", |follower| follower.pools["bad"] == well).await;
    assert!(follower.volumes.contains_key(&x.id));
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_cannot_be_read_loses_no_volume() {
    let pool = pool("p");
    let host = host(&[&pool]);
    let (a, _) = host.create(spec("a", 40 * MIB), None, LONG).await.unwrap();
    let mut follower = Follower::of(&host).await;
    let well = follower.pools["p"].clone();

    pool.set_unreadable(Some("a disk is away"));
    pool.remove_by_hand(&a.id.volume);
    pool.uevent();
    let change = follower.receive().await;
    assert_eq!((change.gone.len(), change.volumes.len()), (0, 0));
    assert!(change.pools[0].problems[0].contains("a disk is away"));
    assert_eq!((&change.pools[0].storage, change.pools[0].volumes), (&well.storage, 1));
    assert_eq!(host.get(&a.id, LONG).await.unwrap_err().reason, Reason::Unavailable);
    // It is read again, but rarely: each reading may start a program.
    let before = pool.begun(Operation::Read);
    tokio::time::sleep(Duration::from_secs(300)).await;
    let looks = pool.begun(Operation::Read) - before;
    assert!((38..=45).contains(&looks), "{looks} readings in five minutes");

    pool.set_unreadable(None);
    assert_eq!(follower.receive().await.gone, [a.id], "now it was read completely");
}

#[tokio::test(start_paused = true)]
async fn a_change_by_quarry_is_published_even_if_the_pool_cannot_be_read_afterwards() {
    let pool = pool("p");
    let host = host(&[&pool]);
    let mut follower = Follower::of(&host).await;
    for operation in [Operation::Create, Operation::Remove] {
        pool.set_delay(operation, Duration::from_secs(2));
    }
    let blind = async |after: Duration| {
        tokio::time::sleep(after).await;
        pool.set_unreadable(Some("gone"));
        tokio::time::sleep(Duration::from_secs(1)).await;
        pool.set_unreadable(None);
    };
    let (made, ()) = tokio::join!(host.create(spec("a", 40 * MIB), None, LONG), blind(Duration::from_millis(1500)));
    let (a, reply) = made.unwrap();
    assert_eq!(reply.volumes.as_slice(), std::slice::from_ref(&a));
    assert!(!reply.pools[0].problems.is_empty(), "{reply:?}");
    follower.until("the volume", |follower| follower.volumes.get(&a.id) == Some(&a)).await;
    follower.until("that all is well", |follower| follower.pools["p"].problems.is_empty()).await;
    assert_eq!(follower.pools["p"], pool.status().await);
    assert_eq!(follower.names(), ["a"]);

    let (gone, ()) = tokio::join!(host.delete(&a.id, LONG), blind(Duration::from_millis(1500)));
    assert_eq!(gone.unwrap().gone, [a.id]);
    follower
        .until("that all is well", |follower| follower.volumes.is_empty() && follower.pools["p"].problems.is_empty())
        .await;
}

#[tokio::test(start_paused = true)]
async fn allocated_space_is_published_before_zeroing_ends() {
    let pool = SimulatedPool::new("p", EXTENT, vec![4096], Duration::ZERO);
    pool.set_delay(Operation::Write, Duration::from_secs(10));
    let host = host(&[&pool]);
    let mut follower = Follower::of(&host).await;
    let start = Instant::now();
    let making = tokio::spawn({
        let host = host.clone();
        async move { host.create(block("raw", 3 << 30), None, LONG).await }
    });
    let change = follower.receive().await;
    assert!(start.elapsed() < Duration::from_secs(10));
    assert_eq!((free(&change.pools[0]), change.volumes[0].ready), (vec![4096 - 768], false));
    let (volume, reply) = making.await.unwrap().unwrap();
    assert!(volume.ready && start.elapsed() >= Duration::from_secs(30));
    let change = follower.receive().await;
    // The pool has not changed, so the stream does not repeat it; the reply contains it anyway.
    assert_eq!((change.generation, change.pools.len(), &change.volumes), (reply.generation, 0, &reply.volumes));
    assert_eq!(reply.pools, [pool.status().await]);
    assert_eq!(pool.bytes_of(&volume.id.volume), Some((3 << 30, false)));
}

#[tokio::test(start_paused = true)]
async fn a_partial_creation_is_published_and_completed_by_the_retry() {
    let pool = pool("p");
    let host = host(&[&pool]);
    let mut follower = Follower::of(&host).await;
    for operation in [Operation::Create, Operation::Activate, Operation::Write] {
        for failure in [Failure::Before, Failure::After] {
            pool.fail_next(operation, failure);
            let name = format!("{operation:?}-{failure:?}");
            assert!(host.create(spec(&name, 40 * MIB), None, LONG).await.is_err());
            let (volume, _) = host.create(spec(&name, 40 * MIB), None, LONG).await.unwrap();
            assert!(pool.bytes_of(&volume.id.volume).unwrap().1, "{name} was wiped");
        }
    }
    follower.until("all six", |follower| follower.volumes.len() == 6).await;
    assert_eq!(pool.names().len(), 6);
    assert_eq!(pool.free(), [256 - 6 * 10]);
}

#[tokio::test(start_paused = true)]
async fn a_pool_is_not_read_during_a_change_by_quarry() {
    let pool = pool("p");
    let host = host(&[&pool]);
    let mut follower = Follower::of(&host).await;
    pool.set_delay(Operation::Create, Duration::from_secs(30));
    let making = tokio::spawn({
        let host = host.clone();
        async move { host.create(spec("a", 40 * MIB), None, LONG).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = pool.begun(Operation::Read);
    pool.uevent();
    pool.take_by_hand(0, 6);
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert_eq!(pool.begun(Operation::Read), before);
    let change = follower.receive().await;
    assert_eq!((free(&change.pools[0]), change.volumes.len()), (vec![240], 1));
    assert_eq!(making.await.unwrap().unwrap().1.generation, change.generation);
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_hangs_in_a_change_is_published_as_unresponsive() {
    let pool = pool("p");
    let host = host(&[&pool]);
    let mut follower = Follower::of(&host).await;
    pool.set_delay(Operation::Activate, Duration::from_secs(2));
    let wait = Duration::from_secs(1);
    assert!(host.create(block("a", 40 * MIB), None, wait).await.is_err());
    pool.hang(true);
    tokio::time::sleep(Duration::from_secs(2)).await;
    follower.until("that it hangs", |follower| !follower.pools["p"].problems.is_empty()).await;
    pool.hang(false);
    follower.until("the volume", |follower| follower.volumes.values().any(|volume| volume.ready)).await;
    assert_eq!(follower.pools["p"], pool.status().await);
}
