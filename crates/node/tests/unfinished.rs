//! Creations that fail after the volume was created: the caller retries, or the volume is removed.

// Helpers of tests may fail like tests.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod common;

use common::{Follower, LONG, MIB, block, host, pool, spec};
use quarry_pool::{Failure, Operation};
use quarry_volume::{Agent as _, Reason, VolumeSpec};

/// Each operation of a creation fails once, before and after it takes effect, with and without a working
/// removal.
#[tokio::test(start_paused = true)]
async fn an_error_is_final_only_if_nothing_is_left() {
    let kinds: [fn(&str, u64) -> VolumeSpec; 2] = [spec, block];
    for kind in kinds {
        for operation in [Operation::Create, Operation::Activate, Operation::Write, Operation::SetRecord] {
            for failure in [Failure::Before, Failure::After] {
                for removable in [true, false] {
                    let pool = pool("p");
                    let host = host(&[&pool]);
                    pool.fail_next(operation, failure);
                    if !removable {
                        pool.fail_next(Operation::Remove, Failure::Before);
                    }
                    let asked = kind("a", 40 * MIB);
                    let Err(error) = host.create(asked.clone(), None, LONG).await else {
                        // A volume for a filesystem has no record to change.
                        assert!(operation == Operation::SetRecord && asked.filesystem.is_some());
                        continue;
                    };
                    let case = format!("{operation:?} fails {failure:?}: {error}");
                    assert_eq!(error.reason.is_final(), pool.names().is_empty(), "{case}");
                    assert!(removable || operation == Operation::Create || !pool.names().is_empty(), "{case}");
                    // The caller's retry completes the volume.
                    host.create(asked, None, LONG).await.unwrap_or_else(|error| panic!("{case}; then {error}"));
                    assert_eq!((pool.names(), pool.free()), (vec!["a".to_owned()], vec![246]), "{case}");
                }
            }
        }
    }
}

/// A volume that an earlier call created is not removed: it may be in use by now.
#[tokio::test(start_paused = true)]
async fn a_volume_of_an_earlier_call_is_kept() {
    let pool = pool("p");
    let before = host(&[&pool]);
    pool.fail_next(Operation::Create, Failure::After);
    before.create(spec("a", 40 * MIB), None, LONG).await.unwrap_err();
    pool.fail_next(Operation::Write, Failure::Before);
    let error = host(&[&pool]).create(spec("a", 40 * MIB), None, LONG).await.unwrap_err();
    assert_eq!((error.reason, pool.begun(Operation::Remove)), (Reason::Unavailable, 0), "{error}");
    assert_eq!(pool.names(), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_volume_of_another_size_is_still_a_conflict() {
    let pool = pool("p");
    let host = host(&[&pool]);
    host.create(spec("a", 40 * MIB), None, LONG).await.unwrap();
    let error = host.create(spec("a", 400 * MIB), None, LONG).await.unwrap_err();
    assert_eq!(error.reason, Reason::Exists, "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_unprepared_volume_shows_its_problem_until_it_is_prepared() {
    let pool = pool("p");
    let host = host(&[&pool]);
    let mut follower = Follower::of(&host).await;
    pool.fail_next(Operation::Write, Failure::Before);
    pool.fail_next(Operation::Remove, Failure::Before);
    host.create(spec("a", 40 * MIB), None, LONG).await.unwrap_err();
    let problem =
        |follower: &Follower| follower.volumes.values().map(|volume| volume.problem.clone()).collect::<Vec<_>>();
    follower
        .until("the problem", |follower| problem(follower).iter().any(|why| why.contains("its creation failed")))
        .await;
    assert!(problem(&follower)[0].contains("Write fails as configured"), "{:?}", problem(&follower));
    host.create(spec("a", 40 * MIB), None, LONG).await.unwrap();
    follower.until("that it is prepared", |follower| problem(follower) == [""]).await;
    // A later volume of the same name does not show the problem.
    pool.fail_next(Operation::Write, Failure::Before);
    pool.fail_next(Operation::Remove, Failure::Before);
    host.create(spec("b", 40 * MIB), None, LONG).await.unwrap_err();
    follower.until("the second problem", |follower| problem(follower).iter().any(|why| !why.is_empty())).await;
    assert!(pool.remove_by_hand("b"));
    follower.until("that it is gone", |follower| follower.volumes.len() == 1).await;
    host.create(spec("b", 40 * MIB), None, LONG).await.unwrap();
    follower.until("the new one", |follower| problem(follower) == ["", ""]).await;
}
