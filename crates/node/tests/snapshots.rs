//! Snapshots and copies in simulated pools, as controllers see them.

// Helpers of tests may fail like tests.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod common;

use common::{EXTENT, Follower, LONG, MIB, block, host, pool, spec};
use quarry_pool::{Failure, Operation, Pool as _, SimulatedPool};
use quarry_volume::{
    Agent as _, COPY, ContentSource, CopyProgress, Reason, SNAPSHOT, SNAPSHOT_COPY, SnapshotMethod, SnapshotParameters,
    SnapshotSpec, VolumeId, VolumeSpec,
};
use std::time::Duration;

fn snapshot(name: &str, source: &VolumeId) -> SnapshotSpec {
    SnapshotSpec { name: name.to_owned(), source: source.clone(), class: SnapshotParameters::default() }
}

fn full_copy(name: &str, source: &VolumeId) -> SnapshotSpec {
    let class = SnapshotParameters { method: SnapshotMethod::Copy, ..SnapshotParameters::default() };
    SnapshotSpec { class, ..snapshot(name, source) }
}

#[tokio::test(start_paused = true)]
async fn a_follower_receives_snapshots() {
    let pool = pool("p");
    let host = host(&[&pool]);
    let (volume, _) = host.create(block("a", 40 * MIB), None, LONG).await.unwrap();
    let (before, _) = host.create_snapshot(snapshot("before", &volume.id), LONG).await.unwrap();
    let mut follower = Follower::of(&host).await;
    for capability in [SNAPSHOT, SNAPSHOT_COPY, COPY] {
        assert!(follower.greeting.capabilities.iter().any(|other| other == capability));
    }
    assert_eq!(follower.snapshots.values().collect::<Vec<_>>(), [&before]);

    // A snapshot and a volume of one name have nothing in common.
    let (taken, reply) = host.create_snapshot(snapshot("a", &volume.id), LONG).await.unwrap();
    assert_eq!((&reply.snapshots, reply.gone_snapshots.len(), reply.volumes.len()), (&vec![taken.clone()], 0, 0));
    assert!(taken.ready && taken.created > 0 && taken.size == 40 * MIB && taken.allocated >= 40 * MIB, "{taken:?}");
    assert_eq!(reply.pools, [pool.status().await]);
    assert_eq!(follower.receive().await, reply);
    assert_eq!(host.create_snapshot(snapshot("a", &volume.id), LONG).await.unwrap().1, reply, "found again");

    let reply = host.delete_snapshot(&taken.id, LONG).await.unwrap();
    assert_eq!((reply.snapshots.len(), &reply.gone_snapshots), (0, &vec![taken.id.clone()]));
    assert_eq!(follower.receive().await, reply);
    assert_eq!(follower.snapshots.values().collect::<Vec<_>>(), [&before]);
    // What cannot be read does not disappear.
    pool.set_unreadable(Some("as configured"));
    follower.until("that it is unreadable", |follower| !follower.pools["p"].problems.is_empty()).await;
    assert_eq!(follower.snapshots.len(), 1);
    assert_eq!(host.delete_snapshot(&before.id, LONG).await.unwrap_err().reason, Reason::Unavailable);
    pool.set_unreadable(None);
    host.delete_snapshot(&before.id, LONG).await.unwrap();
    host.delete(&volume.id, LONG).await.unwrap();
    follower
        .until("that everything is gone", |follower| follower.snapshots.is_empty() && follower.volumes.is_empty())
        .await;
    assert_eq!(pool.free(), [256]);
}

/// Fills a volume in `to` from a source in `from`, while operations fail.
#[tokio::test(start_paused = true)]
async fn a_failing_operation_leaves_a_copy_or_nothing() {
    use Operation::{Activate, Create, RemoveSnapshot, SetRecord, TakeSnapshot, Write};
    for operation in [Create, Activate, TakeSnapshot, Write, SetRecord, RemoveSnapshot] {
        for failure in [Failure::Before, Failure::After] {
            for clone in [true, false] {
                let (from, to) = (pool("from"), pool("p"));
                let host = host(&[&from, &to]);
                let (source, _) = host.create(block("a", 100 * MIB).in_pool("from"), None, LONG).await.unwrap();
                from.write_by_hand("a", 7);
                let content = match clone {
                    true => ContentSource::Volume(source.id.clone()),
                    false => {
                        let (taken, _) = host.create_snapshot(snapshot("s", &source.id), LONG).await.unwrap();
                        from.write_by_hand("a", 8);
                        ContentSource::Snapshot(taken.id)
                    }
                };
                let asked: VolumeSpec = block("b", 200 * MIB).filled_from(content.clone());
                for pool in [&from, &to] {
                    pool.fail_next(operation, failure);
                }
                let case = format!("{operation:?} fails {failure:?}, {content}");
                let mut attempts = 0;
                let volume = loop {
                    attempts += 1;
                    match host.create(asked.clone(), None, LONG).await {
                        Ok((volume, _)) => break volume,
                        Err(error) => assert!(attempts < 6 && !error.message.is_empty(), "{case}: {error}"),
                    }
                };
                assert!(volume.ready && volume.copying.is_none() && volume.source == Some(content.clone()), "{case}");
                assert_eq!(to.contents_of("b").unwrap().0, 7, "{case}");
                // If it could not be removed, that is tried again.
                if operation == RemoveSnapshot && clone {
                    tokio::time::sleep(LONG).await;
                }
                assert_eq!(from.record_of_snapshot("for clone b"), None, "{case}");
                assert_eq!((to.names(), to.free()), (vec!["b".to_owned()], vec![256 - 50]), "{case}");
                host.delete(&volume.id, LONG).await.unwrap();
                if let ContentSource::Snapshot(id) = &content {
                    // One that was planned may be left.
                    while host.delete_snapshot(id, LONG).await.is_err() {}
                }
                while host.delete(&source.id, LONG).await.is_err() {}
                assert_eq!((from.free(), to.free()), (vec![256], vec![256]), "{case}");
            }
        }
    }
}

/// The volume group of its source may lack a disk. A later volume of its name does not get the old contents.
#[tokio::test(start_paused = true)]
async fn a_clone_in_another_pool_is_deleted_although_what_served_it_cannot_be_removed() {
    let (from, to) = (pool("from"), pool("p"));
    let host = host(&[&from, &to]);
    let (source, _) = host.create(block("a", 100 * MIB).in_pool("from"), None, LONG).await.unwrap();
    from.write_by_hand("a", 7);
    let asked: VolumeSpec = block("b", 100 * MIB).filled_from(ContentSource::Volume(source.id.clone()));
    (0..20).for_each(|_| from.fail_next(Operation::RemoveSnapshot, Failure::Before));
    let (clone, _) = host.create(asked.clone(), None, LONG).await.unwrap();
    host.delete(&clone.id, LONG).await.unwrap();
    assert!(from.record_of_snapshot("for clone b").is_some() && to.names().is_empty());
    from.write_by_hand("a", 8);
    assert_eq!(host.create(asked.clone(), None, LONG).await.unwrap_err().reason, Reason::Unavailable);
    assert!(to.names().is_empty());
    from.forget_failures();
    host.create(asked, None, LONG).await.unwrap();
    assert_eq!((to.contents_of("b").unwrap().0, from.record_of_snapshot("for clone b")), (8, None));
}

/// Takes a full copy, while operations fail.
#[tokio::test(start_paused = true)]
async fn a_failing_operation_leaves_a_full_copy_or_nothing() {
    use Operation::{Activate, CreateCopy, RemoveSnapshot, SetRecord, TakeSnapshot, Write};
    for operation in [TakeSnapshot, CreateCopy, Activate, Write, SetRecord, RemoveSnapshot] {
        for failure in [Failure::Before, Failure::After] {
            let pool = pool("p");
            let host = host(&[&pool]);
            let (source, _) = host.create(block("a", 100 * MIB), None, LONG).await.unwrap();
            pool.write_by_hand("a", 7);
            pool.fail_next(operation, failure);
            let case = format!("{operation:?} fails {failure:?}");
            let mut attempts = 0;
            let taken = loop {
                attempts += 1;
                match host.create_snapshot(full_copy("s", &source.id), LONG).await {
                    Ok((taken, _)) if taken.ready => break taken,
                    Ok(_) => {}
                    Err(error) => assert!(!error.message.is_empty(), "{case}: {error}"),
                }
                assert!(attempts < 6, "{case}");
            };
            assert_eq!(pool.contents_of("snapshot s").unwrap().0, 7, "{case}");
            // If it could not be removed, that is tried again.
            if operation == RemoveSnapshot {
                tokio::time::sleep(LONG).await;
            }
            assert_eq!((pool.record_of_snapshot("for snapshot s"), pool.free()), (None, vec![256 - 50]), "{case}");
            host.delete(&source.id, LONG).await.unwrap();
            // One that was planned may be left.
            while host.delete_snapshot(&taken.id, LONG).await.is_err() {}
            assert_eq!(pool.free(), [256], "{case}");
        }
    }
}

/// A copy that failed, and was deleted, says nothing about a later one of its name.
#[tokio::test(start_paused = true)]
async fn the_error_of_a_deleted_full_copy_is_forgotten() {
    let pool = SimulatedPool::new("p", EXTENT, vec![1024], Duration::ZERO);
    let host = host(&[&pool]);
    let (source, _) = host.create(block("a", 640 * MIB), None, LONG).await.unwrap();
    pool.set_delay(Operation::Write, Duration::from_secs(10));
    let (taken, _) = host.create_snapshot(full_copy("s", &source.id), LONG).await.unwrap();
    pool.fail_next(Operation::Write, Failure::Before);
    tokio::time::sleep(Duration::from_secs(100)).await;
    let failed = host.get_snapshot(&taken.id, LONG).await.unwrap();
    assert!(failed.copying.is_some() && failed.problem.contains("Write fails as configured"), "{failed:?}");
    host.delete_snapshot(&taken.id, LONG).await.unwrap();
    let (taken, _) = host.create_snapshot(full_copy("s", &source.id), LONG).await.unwrap();
    assert!(taken.copying.is_some() && taken.problem.is_empty(), "{taken:?}");
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert!(host.create_snapshot(full_copy("s", &source.id), LONG).await.unwrap().0.ready);
}

#[tokio::test(start_paused = true)]
async fn the_error_of_a_copy_reaches_the_next_caller_and_what_was_copied_stays() {
    let pool = SimulatedPool::new("p", EXTENT, vec![1024], Duration::ZERO);
    let host = host(&[&pool]);
    let (source, _) = host.create(block("a", 640 * MIB), None, LONG).await.unwrap();
    let asked = block("b", 640 * MIB).filled_from(ContentSource::Volume(source.id));
    pool.set_delay(Operation::Write, Duration::from_secs(10));
    host.create(asked.clone(), None, Duration::from_secs(25)).await.unwrap_err();
    pool.fail_next(Operation::Write, Failure::Before);
    tokio::time::sleep(Duration::from_secs(100)).await;
    let error = host.create(asked.clone(), None, LONG).await.unwrap_err();
    assert!(error.reason == Reason::Unavailable && error.message.contains("Write fails as configured"), "{error}");
    assert_eq!(pool.names(), ["a", "b"]);
    let (copy, _) = host.create(asked, None, LONG).await.unwrap();
    assert!(copy.ready && copy.copying.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_complete_clone_is_answered_although_its_temporary_snapshot_cannot_be_removed() {
    let pool = pool("p");
    let host = host(&[&pool]);
    let (source, _) = host.create(block("a", 40 * MIB), None, LONG).await.unwrap();
    for _ in 0..3 {
        pool.fail_next(Operation::RemoveSnapshot, Failure::Before);
    }
    let asked = block("b", 40 * MIB).filled_from(ContentSource::Volume(source.id));
    let (copy, _) = host.create(asked, None, LONG).await.unwrap();
    assert!(copy.ready && copy.copying.is_none());
    assert!(pool.record_of_snapshot("for clone b").is_some());
    tokio::time::sleep(LONG).await;
    assert_eq!(pool.record_of_snapshot("for clone b"), None);
}

#[tokio::test(start_paused = true)]
async fn two_copies_transfer_bytes_at_the_same_time_and_others_wait() {
    let pool = SimulatedPool::new("p", EXTENT, vec![4096], Duration::ZERO);
    let host = host(&[&pool]);
    let (source, _) = host.create(block("a", 640 * MIB), None, LONG).await.unwrap();
    let asked = |name: &str| block(name, 640 * MIB).filled_from(ContentSource::Volume(source.id.clone()));
    pool.set_delay(Operation::Write, Duration::from_secs(10));
    let wait = Duration::from_secs(25);
    let mut errors = Vec::new();
    for name in ["b", "c", "d", "e"] {
        errors.push(host.create(asked(name), None, wait).await.unwrap_err());
    }
    for (error, words) in
        errors.iter().zip(["copied", "copied", "waits for 2 other copies", "waits for 2 other copies"])
    {
        assert!(error.reason == Reason::UnderWay && error.message.contains(words), "{error}");
    }
    // Their records, and the list of copies, protect the source.
    assert_eq!(host.delete(&source.id, LONG).await.unwrap_err().reason, Reason::UnderWay);
    // A deletion does not wait for a turn.
    let waiting = VolumeId { volume: "e".to_owned(), ..source.id.clone() };
    host.delete(&waiting, Duration::from_secs(1)).await.unwrap();
    for name in ["b", "c", "d"] {
        tokio::time::sleep(Duration::from_secs(120)).await;
        let (copy, _) = host.create(asked(name), None, LONG).await.unwrap();
        assert!(copy.ready && copy.copying.is_none(), "{name}");
    }
}

/// A copy on a disk that hangs keeps its turn for ever: copies into other pools go on.
#[tokio::test(start_paused = true)]
async fn copies_into_one_pool_do_not_stop_those_into_another() {
    let (hung, other) = (SimulatedPool::new("p", EXTENT, vec![4096], Duration::ZERO), pool("other"));
    let host = host(&[&hung, &other]);
    let (source, _) = host.create(block("a", 100 * MIB), None, LONG).await.unwrap();
    let asked = |name: &str| block(name, 100 * MIB).filled_from(ContentSource::Volume(source.id.clone()));
    hung.set_delay(Operation::Write, 1000 * LONG);
    for name in ["b", "c", "d"] {
        host.create(asked(name), None, Duration::from_secs(1)).await.unwrap_err();
    }
    let (copy, _) = host.create(asked("e").in_pool("other"), None, LONG).await.unwrap();
    assert!(copy.ready && copy.copying.is_none());
}

#[tokio::test(start_paused = true)]
async fn full_copies_wait_for_their_turn() {
    let pool = SimulatedPool::new("p", EXTENT, vec![4096], Duration::ZERO);
    let host = host(&[&pool]);
    let (source, _) = host.create(block("a", 640 * MIB), None, LONG).await.unwrap();
    pool.set_delay(Operation::Write, Duration::from_secs(10));
    let mut taken = Vec::new();
    for name in ["b", "c", "d", "e"] {
        let (copy, _) = host.create_snapshot(full_copy(name, &source.id), LONG).await.unwrap();
        assert_eq!((copy.ready, copy.copying), (false, Some(CopyProgress { copied: 0, total: 640 * MIB })), "{name}");
        taken.push(copy.id);
    }
    let tasks = host.tasks().list();
    assert_eq!(tasks.iter().filter(|task| task.progress.contains("waits for 2 other copies")).count(), 2, "{tasks:?}");
    // A deletion does not wait for a turn.
    host.delete_snapshot(&taken[3], Duration::from_secs(1)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(240)).await;
    for id in &taken[..3] {
        assert!(host.get_snapshot(id, LONG).await.unwrap().ready, "{id}");
    }
    host.delete(&source.id, LONG).await.unwrap();
}

/// The volume that is being filled is in a pool that does not answer when the source is to be deleted.
#[tokio::test(start_paused = true)]
async fn a_source_is_kept_for_a_copy_into_any_pool() {
    let (from, to) = (pool("from"), pool("p"));
    let host = host(&[&from, &to]);
    let (source, _) = host.create(block("a", 100 * MIB).in_pool("from"), None, LONG).await.unwrap();
    from.write_by_hand("a", 7);
    let (taken, _) = host.create_snapshot(snapshot("s", &source.id), LONG).await.unwrap();
    let asked = block("b", 100 * MIB).filled_from(ContentSource::Snapshot(taken.id.clone()));
    // Before the copy begins.
    from.set_delay(Operation::Activate, Duration::from_secs(60));
    host.create(asked.clone(), None, Duration::from_secs(1)).await.unwrap_err();
    to.set_delay(Operation::Read, Duration::from_secs(20));
    let error = host.delete_snapshot(&taken.id, LONG).await.unwrap_err();
    assert!(error.reason == Reason::UnderWay && error.message.contains("volume b is being filled"), "{error}");
    to.set_delay(Operation::Read, Duration::ZERO);
    tokio::time::sleep(Duration::from_secs(100)).await;
    host.create(asked, None, LONG).await.unwrap();
    assert_eq!(to.contents_of("b").unwrap().0, 7);
    host.delete_snapshot(&taken.id, LONG).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_was_never_used_is_copied_as_an_empty_one() {
    let pool = pool("p");
    let host = host(&[&pool]);
    let (source, _) = host.create(spec("a", 40 * MIB), None, LONG).await.unwrap();
    let asked = spec("b", 40 * MIB).filled_from(ContentSource::Volume(source.id));
    let (copy, _) = host.create(asked, None, LONG).await.unwrap();
    assert!(!copy.ready && copy.copying.is_none() && copy.source.is_some());
    assert_eq!((pool.bytes_of("b"), pool.begun(Operation::TakeSnapshot)), (Some((0, true)), 0));
}

#[tokio::test(start_paused = true)]
async fn the_progress_is_shown_and_outlives_the_caller() {
    let pool = SimulatedPool::new("p", EXTENT, vec![1024], Duration::ZERO);
    let host = host(&[&pool]);
    let (source, _) = host.create(block("a", 640 * MIB), None, LONG).await.unwrap();
    pool.set_delay(Operation::Write, Duration::from_secs(10));
    let asked = block("b", 640 * MIB).filled_from(ContentSource::Volume(source.id.clone()));
    let wait = Duration::from_secs(25);
    let error = host.create(asked.clone(), None, wait).await.unwrap_err();
    assert!(error.reason == Reason::UnderWay && error.message.contains("copied"), "{error}");
    let follower = Follower::of(&host).await;
    let copy = follower.volumes.values().find(|volume| volume.name == "b").unwrap();
    assert_eq!((copy.ready, copy.copying), (false, Some(CopyProgress { copied: 0, total: 640 * MIB })));
    // The snapshot that serves the clone is not shown.
    assert!(follower.snapshots.is_empty() && pool.record_of_snapshot("for clone b").is_some());
    let error = host.delete(&source.id, LONG).await.unwrap_err();
    assert!(error.reason == Reason::UnderWay && error.message.contains("volume b is being filled"), "{error}");
    tokio::time::sleep(Duration::from_secs(100)).await;
    let (copy, _) = host.create(asked, None, wait).await.unwrap();
    assert!(copy.ready && copy.copying.is_none());
}
