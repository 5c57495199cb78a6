//! Objects of a newer Quarry, after a rollback: its volumes are listed but not changed; other objects are not
//! listed either.

// Helpers of tests may fail like tests.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod common;

use common::{Follower, LONG, MIB, host, pool, spec};
use quarry_pool::{Operation, SimulatedPool};
use quarry_volume::{Agent as _, Condition, Reason, VolumeId};

/// A pool whose volume `a` got this record from a newer Quarry, with the volume's ID.
async fn with_record(record: &str) -> (SimulatedPool, VolumeId) {
    let pool = pool("p");
    let (volume, _) = host(&[&pool]).create(spec("a", 40 * MIB), None, LONG).await.unwrap();
    assert!(pool.set_record_by_hand("a", record));
    (pool, volume.id)
}

/// How often anything was changed.
fn changes(pool: &SimulatedPool) -> Vec<u64> {
    let all = [Operation::Create, Operation::SetRecord, Operation::Remove, Operation::Activate, Operation::Write];
    all.map(|operation| pool.begun(operation)).to_vec()
}

#[tokio::test(start_paused = true)]
async fn a_volume_of_a_newer_quarry_is_shown_and_not_changed() {
    let (pool, id) = with_record("quarry2/s=frozen/n=a").await;
    let (host, before) = (host(&[&pool]), changes(&pool));
    let follower = Follower::of(&host).await;
    let listed = &follower.volumes[&id];
    assert_eq!((listed.condition, listed.ready, listed.access), (Condition::RecordUnreadable, true, None));
    assert!(listed.problem.contains("written by a newer Quarry"), "{}", listed.problem);
    assert_eq!(&host.get(&id, LONG).await.unwrap(), listed);
    // A controller that may choose between nodes must not create the volume on another one.
    assert_eq!(host.find("a", 1, LONG).await.unwrap().volume.map(|volume| volume.id), Some(id.clone()));
    let created = host.create(spec("a", 40 * MIB), None, LONG).await.map(drop);
    for error in [created, host.delete(&id, LONG).await.map(drop)] {
        let error = error.unwrap_err();
        assert_eq!(error.reason, Reason::Precondition, "{error}");
        assert!(error.message.contains("newer Quarry"), "{error}");
    }
    assert_eq!((changes(&pool), pool.free()), (before, vec![246]));
}

/// Its name in another pool of the node is taken, too.
#[tokio::test(start_paused = true)]
async fn the_name_of_a_volume_of_a_newer_quarry_is_not_used_in_another_pool() {
    let (pool, _) = with_record("quarry2/s=frozen/n=a").await;
    let other = common::pool("other");
    let error = host(&[&pool, &other]).create(spec("a", 40 * MIB).in_pool("other"), None, LONG).await.unwrap_err();
    assert_eq!((error.reason, other.begun(Operation::Create)), (Reason::Precondition, 0), "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_a_volume_is_not_shown_and_not_changed() {
    let (pool, id) = with_record("quarry2/k=snapshot/s=ready/n=a/o=v1:abcdefghij:node-1:b").await;
    let (host, before) = (host(&[&pool]), changes(&pool));
    let follower = Follower::of(&host).await;
    assert_eq!(follower.names(), [""; 0]);
    assert_eq!(host.get(&id, LONG).await.unwrap_err().reason, Reason::NotFound);
    assert_eq!(host.find("a", 1, LONG).await.unwrap().volume, None);
    // There is no such volume, so there is nothing to delete; what has its name stays.
    host.delete(&id, LONG).await.unwrap();
    assert_eq!((changes(&pool), pool.free()), (before.clone(), vec![246]));
    let error = host.create(spec("a", 40 * MIB), None, LONG).await.unwrap_err();
    assert_eq!(error.reason, Reason::Precondition, "{error}");
    let (_, begun) = (host.create(spec("b", 40 * MIB), None, LONG).await.unwrap(), pool.begun(Operation::Remove));
    assert_eq!((pool.free(), begun), (vec![236], 0));
    assert!(pool.record_of("a").is_some_and(|record| record.starts_with("quarry2/k=snapshot/")));
}
