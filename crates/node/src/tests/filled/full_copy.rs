//! Snapshots that are full copies: killed between any two effects, stopped, failed and lost.

use std::time::Duration;

use quarry_pool::SnapshotHealth;
use quarry_volume::{
    Agent as _, ContentSource, Error, Reason, SizeRange, Snapshot, SnapshotCondition, SnapshotMethod, VolumeSpec,
};

use super::super::killed::test_all;
use super::super::machine::Plan;
use super::super::world::{Answer, Call, SIZE, Use};
use super::world::{Filled, From, LONG, SNAPSHOT, Source, idle};
use crate::Host;

const MOMENT: Duration = Duration::from_millis(1);
/// The name of the snapshot that serves the copy.
const SERVING: &str = "for snapshot snap";

/// A source without a snapshot.
fn new(usage: Use, source: Source) -> Filled {
    Filled::without_snapshot(usage, From::FullCopy, source)
}

/// The first CreateSnapshot, in a process with that plan. It may answer before the copy is complete.
fn begin(filled: &Filled, plan: Plan) -> Answer {
    filled.call(plan, async |host| {
        while !host.create_snapshot(filled.snapshot(), LONG).await?.0.ready {
            tokio::time::sleep(MOMENT).await;
        }
        idle(&host).await;
        Ok(())
    })
}

/// The worlds in which the first CreateSnapshot was killed before each of its effects.
fn killed(usage: Use, source: Source) -> impl Iterator<Item = Filled> {
    (0..).map_while(move |before| {
        let filled = new(usage, source);
        match begin(&filled, Plan::Killed { before }) {
            Answer::Killed => Some(filled),
            Answer::Ok => None,
            Answer::Rejected(error) => panic!("{usage:?}, killed before effect {before}: {error}"),
        }
    })
}

/// The snapshot is complete, nothing serves it, and its source is independent of it.
fn is_complete(filled: &Filled, version: u64) {
    let context = || format!("{:?}", filled.world.effects());
    assert_eq!(filled.for_copy(), None, "{}", context());
    let record = filled.world.pool.record_of_snapshot(SNAPSHOT).unwrap();
    assert!(record.starts_with("quarry2/k=copy/s=ready/"), "{record}");
    let copy = filled.snapshot_disk().unwrap();
    assert!(
        copy.bytes == copy.durable && copy.bytes.version == version && !copy.active,
        "{:?}: {}",
        copy.bytes,
        context()
    );
}

#[test]
fn a_killed_copy_continues_and_keeps_its_instant() {
    test_all([Use::MOUNT, Use::BLOCK, Use::READ_ONLY_XFS], |usage| {
        let (mut begun, mut continued) = (0, 0);
        for (number, filled) in killed(usage, Source::Staged).enumerate() {
            let instant = filled.world.disk().bytes.version;
            // Nothing else tells the instant than the record of the copy.
            let is_answered = filled.world.pool.record_of_snapshot(SNAPSHOT).is_some();
            match number % 3 {
                0 => {}
                1 => filled.world.machine.cut_power(false),
                _ => filled.world.machine.cut_power(true),
            }
            filled.write();
            let now = filled.world.disk().bytes.version;
            filled.take();
            is_complete(&filled, if is_answered { instant } else { now });
            (begun, continued) = (begun + 1, continued + usize::from(is_answered));
            filled.created();
            filled.live_on();
        }
        assert!(begun - continued > 1 && continued > 4, "{usage:?}: {begun}, {continued}");
    });
}

#[test]
fn what_is_left_of_a_killed_copy_is_deleted() {
    let mut left = 0;
    for filled in killed(Use::MOUNT, Source::Staged) {
        left += usize::from(filled.for_copy().is_some());
        filled.on_host(async |host| {
            for _ in 0..2 {
                host.delete_snapshot(&filled.snapshot_id(), LONG).await.unwrap();
            }
        });
        assert!(filled.for_copy().is_none() && filled.snapshot_disk().is_none(), "{:?}", filled.world.effects());
        filled.live_on();
    }
    assert!(left > 4, "{left}");
}

/// The snapshot was never answered, and is never asked for again.
#[test]
fn a_snapshot_that_serves_nothing_is_removed() {
    let (mut removed, mut kept) = (0, 0);
    for filled in killed(Use::MOUNT, Source::Staged) {
        let (serving, copy) = (filled.for_copy(), filled.world.pool.record_of_snapshot(SNAPSHOT));
        let is_needed = copy.is_some_and(|record| record.contains("s=new"));
        if serving.is_none() {
            continue;
        }
        filled.on_host(async |host| {
            let _updates = host.watch().await.unwrap();
            for _ in 0..50 {
                tokio::time::sleep(MOMENT).await;
            }
            // The machine may be slow.
            for _ in 0..5000 {
                if !is_needed && filled.for_copy().is_some() {
                    tokio::time::sleep(MOMENT).await;
                }
            }
        });
        assert_eq!(filled.for_copy().is_some(), is_needed, "{:?}", filled.world.effects());
        (removed, kept) = (removed + usize::from(!is_needed), kept + usize::from(is_needed));
        filled.live_on();
    }
    assert!(removed > 1 && kept > 2, "{removed}, {kept}");
}

#[test]
fn the_source_of_a_complete_copy_is_free() {
    test_all(Use::ALL, |usage| {
        for source in [Source::NeverUsed, Source::Staged, Source::Unstaged] {
            let filled = new(usage, source);
            let version = filled.world.disk().bytes.version;
            filled.take();
            is_complete(&filled, version);
            let shown = filled.on_host(async |host| host.get_snapshot(&filled.snapshot_id(), LONG).await).unwrap();
            assert!(shown.ready && shown.method == SnapshotMethod::Copy && shown.created > 0, "{shown:?}");
            assert!(shown.copying.is_none() && shown.size == SIZE && shown.allocated == SIZE, "{shown:?}");
            // It grows, and is deleted, before a volume is restored.
            filled.on_host(async |host| {
                let size = SizeRange { required: 2 * SIZE, limit: None };
                host.expand(&filled.world.id, size, LONG).await.unwrap();
            });
            if source == Source::Staged {
                filled.unstage();
            }
            filled.world.succeeds(Call::Delete);
            filled.on_host(async |host| {
                host.create(filled.spec(), None, LONG).await.unwrap();
            });
            let copy = filled.copy().unwrap();
            assert!(copy.bytes == copy.durable && copy.bytes.version == version, "{:?}", copy.bytes);
            filled.delete();
            filled.on_host(async |host| host.delete_snapshot(&filled.snapshot_id(), LONG).await).unwrap();
            filled.world.is_clean();
        }
    });
}

/// While the copy makes no progress.
#[test]
fn an_incomplete_copy_is_shown_and_not_used() {
    let filled = new(Use::MOUNT, Source::Unstaged);
    filled.world.machine.state().stalled = true;
    filled.on_host(async |host| {
        let (taken, _) = host.create_snapshot(filled.snapshot(), LONG).await.unwrap();
        assert!(!taken.ready && taken.created > 0 && taken.size == SIZE, "{taken:?}");
        assert_eq!((taken.condition, taken.problem.as_str()), (SnapshotCondition::Healthy, ""));
        assert_eq!(taken.copying.map(|progress| (progress.copied, progress.total)), Some((0, SIZE)));
        // A second call finds the same one, and copies nothing twice.
        assert_eq!(host.create_snapshot(filled.snapshot(), LONG).await.unwrap().0, taken);
        // Nothing is restored from it, and its source stays.
        let error = host.create(filled.spec(), None, LONG).await.unwrap_err();
        assert!(error.reason == Reason::Unavailable && error.message.contains("is not complete"), "{error}");
        let error = host.delete(&filled.world.id, LONG).await.unwrap_err();
        assert!(error.reason == Reason::UnderWay && error.message.contains(SNAPSHOT), "{error}");
        let other = ContentSource::Volume(filled.world.id.clone());
        assert_eq!(host.copies().of(&other).unwrap().to_string(), "snapshot snap");
    });
    // Another process finds it interrupted: no task copies now.
    filled.on_host(async |host| {
        let error = host.delete(&filled.world.id, LONG).await.unwrap_err();
        assert!(error.reason == Reason::UnderWay && error.message.contains(SNAPSHOT), "{error}");
        let error = host.create(filled.spec(), None, LONG).await.unwrap_err();
        assert_eq!(error.reason, Reason::Unavailable, "{error}");
        // A deletion stops the copy.
        let (taken, _) = host.create_snapshot(filled.snapshot(), LONG).await.unwrap();
        assert!(!taken.ready, "{taken:?}");
        host.delete_snapshot(&taken.id, LONG).await.unwrap();
    });
    assert!(filled.for_copy().is_none() && filled.snapshot_disk().is_none());
    filled.live_on();
}

#[test]
fn a_snapshot_of_another_method_has_the_name() {
    for (from, other) in [(From::Snapshot, SnapshotMethod::Copy), (From::FullCopy, SnapshotMethod::Cow)] {
        let filled = Filled::new(Use::MOUNT, from, Source::Staged);
        let mut spec = filled.snapshot();
        spec.class.method = other;
        let error = filled.on_host(async |host| host.create_snapshot(spec, LONG).await).unwrap_err();
        assert!(error.reason == Reason::Exists && error.message.contains("method"), "{error}");
        filled.live_on();
    }
}

/// Calls CreateSnapshot until the copy is ready, or can never be. Returns that, and the errors. `None`: the last error is
/// final.
async fn taken_in_the_end(filled: &Filled, host: &Host) -> (Option<Snapshot>, Vec<Error>) {
    let mut errors = Vec::new();
    loop {
        match host.create_snapshot(filled.snapshot(), LONG).await {
            Ok((shown, _)) if shown.ready || shown.condition == SnapshotCondition::Invalid => {
                idle(host).await;
                return (Some(shown), errors);
            }
            Ok(_) => tokio::time::sleep(MOMENT).await,
            Err(error) => {
                errors.push(error.clone());
                if error.reason.is_final() {
                    return (None, errors);
                }
            }
        }
    }
}

#[test]
fn a_copy_whose_instant_is_lost_is_never_complete() {
    let mut lost = 0;
    for filled in killed(Use::MOUNT, Source::Staged) {
        let record = filled.world.pool.record_of_snapshot(SNAPSHOT);
        if filled.for_copy().is_none() || record.is_none_or(|record| !record.contains("s=new")) {
            continue;
        }
        filled.world.pool.set_snapshot_health(SERVING, SnapshotHealth::Invalid("it is full".to_owned()));
        filled.on_host(async |host| {
            for _ in 0..2 {
                let (shown, _) = host.create_snapshot(filled.snapshot(), LONG).await.unwrap();
                assert!(!shown.ready && shown.condition == SnapshotCondition::Invalid, "{shown:?}");
                assert!(shown.copying.is_none() && !shown.problem.is_empty(), "{shown:?}");
            }
            idle(&host).await;
        });
        assert_eq!(filled.for_copy(), None, "it only slows the source down");
        let error = filled.rejected(Reason::Precondition);
        assert!(error.message.contains("can no longer be read"), "{error}");
        lost += 1;
        filled.live_on();
    }
    assert!(lost > 4, "{lost}");
}

/// The disk goes away right after CreateSnapshot has found the copy, and comes back.
#[test]
fn a_copy_whose_disk_comes_back_continues() {
    let mut continued = 0;
    for filled in killed(Use::MOUNT, Source::Staged) {
        let record = filled.world.pool.record_of_snapshot(SNAPSHOT);
        if filled.for_copy().is_none() || record.is_none_or(|record| !record.contains("s=new")) {
            continue;
        }
        let instant = filled.world.disk().bytes.version;
        for away in [SERVING, SNAPSHOT] {
            filled.on_host(async |host| {
                let found = host.locate_snapshot(&filled.snapshot_id()).await.unwrap().unwrap();
                filled.world.pool.set_snapshot_health(away, SnapshotHealth::Lost("its disk is away".to_owned()));
                let error = host.continue_copy(found, false).await.err().unwrap();
                assert!(error.reason == Reason::Unavailable && error.message.contains("is away"), "{error}");
                idle(&host).await;
            });
            assert!(filled.for_copy().is_some(), "{away}: {:?}", filled.world.effects());
            filled.world.pool.set_snapshot_health(away, SnapshotHealth::Whole);
        }
        filled.write();
        filled.take();
        is_complete(&filled, instant);
        continued += 1;
        filled.live_on();
    }
    assert!(continued > 4, "{continued}");
}

/// The snapshot becomes full while it is copied.
#[test]
fn an_overflow_ends_a_running_copy() {
    let filled = new(Use::MOUNT, Source::Staged);
    filled.world.machine.state().stalled = true;
    filled.on_host(async |host| {
        assert!(!host.create_snapshot(filled.snapshot(), LONG).await.unwrap().0.ready);
        filled.world.pool.set_snapshot_health(SERVING, SnapshotHealth::Invalid("it is full".to_owned()));
        {
            let mut state = filled.world.machine.state();
            (state.stalled, state.fails) = (false, Some("copy"));
        }
        // It fails without a caller.
        idle(&host).await;
        let (shown, errors) = taken_in_the_end(&filled, &host).await;
        let shown = shown.unwrap();
        assert!(!shown.ready && shown.problem.contains("is lost"), "{shown:?}");
        assert!(errors.len() == 1 && errors[0].message.contains("is lost"), "{errors:?}");
    });
    assert_eq!(filled.for_copy(), None);
    filled.live_on();
}

/// What was read last may be of another instant. Between any two effects.
#[test]
fn an_overflow_during_the_copy_is_noticed() {
    test_all([Use::MOUNT, Use::BLOCK], |usage| {
        let (mut lost, mut completed) = (0, 0);
        for before in 0.. {
            let filled = new(usage, Source::Staged);
            let take = async |host: &Host| taken_in_the_end(&filled, host).await.0;
            let lose = async |_: &Host| {
                let is_taken = filled.for_copy().is_some_and(|record| record.contains("s=ready"));
                filled.world.pool.set_snapshot_health(SERVING, SnapshotHealth::Invalid("it is full".to_owned()));
                // Source and copy are activated before the bytes are copied, and the source is checked afterwards.
                let checks = filled.world.effects().iter().filter(|effect| *effect == "activate snapshot").count();
                (is_taken, checks)
            };
            let Some(((is_taken, checks), shown)) = filled.call_while(before, take, lose) else { break };
            // An error of the first call is final, and then nothing is left.
            assert_eq!(shown.is_some(), filled.world.pool.record_of_snapshot(SNAPSHOT).is_some());
            if is_taken {
                let is_ready = shown.is_some_and(|shown| shown.ready);
                assert_eq!(is_ready, checks == 3, "{:?}", filled.world.effects());
                (lost, completed) = (lost + usize::from(!is_ready), completed + usize::from(is_ready));
                assert_eq!(filled.for_copy(), None, "{:?}", filled.world.effects());
            }
            filled.live_on();
        }
        assert!(lost > 4 && completed >= 1, "{usage:?}: {lost}, {completed}");
    });
}

/// The one that ends first must not take the device away from the other.
#[test]
fn two_volumes_are_restored_from_a_copy_at_the_same_time() {
    for before in 0.. {
        let filled = Filled::new(Use::MOUNT, From::FullCopy, Source::Unstaged);
        let other = VolumeSpec { name: "other".to_owned(), ..filled.spec() };
        let restore = async |host: &Host| host.create(other, None, LONG).await.map(|(volume, _)| volume.id);
        let Some((id, restored)) = filled.create_while(before, restore) else { break };
        restored.unwrap();
        filled.is_complete();
        assert!(!filled.snapshot_disk().unwrap().active, "{:?}", filled.world.effects());
        filled.on_host(async |host| host.delete(&id.unwrap(), LONG).await).unwrap();
        filled.live_on();
    }
}

#[test]
fn a_copy_that_a_killed_restore_left_active_is_deactivated() {
    let mut active = 0;
    for before in 0.. {
        let filled = Filled::new(Use::MOUNT, From::FullCopy, Source::Staged);
        if !matches!(filled.create(Plan::Killed { before }), Answer::Killed) {
            break;
        }
        filled.delete();
        let is_active = || filled.snapshot_disk().unwrap().active;
        active += usize::from(is_active());
        filled.on_host(async |host| {
            let _updates = host.watch().await.unwrap();
            while is_active() {
                tokio::time::sleep(MOMENT).await;
            }
        });
        filled.live_on();
    }
    assert!(active > 2, "{active}");
}

#[test]
fn a_failed_copy_is_reported_once_and_continues() {
    let filled = new(Use::MOUNT, Source::Staged);
    filled.world.machine.state().stalled = true;
    filled.on_host(async |host| {
        assert!(!host.create_snapshot(filled.snapshot(), LONG).await.unwrap().0.ready);
        {
            let mut state = filled.world.machine.state();
            (state.stalled, state.fails) = (false, Some("copy"));
        }
        // It fails without a caller, and shows that.
        idle(&host).await;
        let failed = host.get_snapshot(&filled.snapshot_id(), LONG).await.unwrap();
        assert!(failed.problem.contains("fails as configured") && failed.copying.is_some(), "{failed:?}");
        let (shown, told) = taken_in_the_end(&filled, &host).await;
        let shown = shown.unwrap();
        assert!(told.len() == 1 && told[0].message.contains("fails as configured"), "{told:?}");
        assert!(shown.ready && shown.problem.is_empty(), "{shown:?}");
    });
    filled.created();
    filled.live_on();
}

/// The first call can still give up: no one knows of the snapshot.
#[test]
fn a_copy_that_fails_at_once_leaves_nothing() {
    let filled = new(Use::MOUNT, Source::Staged);
    filled.world.machine.state().fails = Some("copy");
    let error = filled.on_host(async |host| host.create_snapshot(filled.snapshot(), LONG).await).unwrap_err();
    assert_eq!(error.reason, Reason::Host, "{error}");
    assert!(filled.for_copy().is_none() && filled.snapshot_disk().is_none(), "{:?}", filled.world.effects());
    // There is no room for the copy besides the snapshot that serves it.
    let full = filled.world.pool.free()[0] - SIZE / (4 << 20) - 8;
    filled.world.pool.take_by_hand(0, full);
    let error = filled.on_host(async |host| host.create_snapshot(filled.snapshot(), LONG).await).unwrap_err();
    assert!(error.reason == Reason::NoSpace && error.message.contains("full copy"), "{error}");
    assert!(filled.for_copy().is_none() && filled.snapshot_disk().is_none(), "{:?}", filled.world.effects());
}

#[test]
#[should_panic(expected = "before the copy was flushed")]
fn a_missing_flush_is_noticed() {
    let _disabled = quarry_fault::disable("copy-flush");
    new(Use::MOUNT, Source::Staged).take();
}

/// The storage cannot be read either when the copy has failed.
#[test]
fn the_error_of_a_copy_is_not_replaced_by_that_of_a_later_question() {
    let filled = new(Use::MOUNT, Source::Staged);
    filled.on_host(async |host| {
        filled.world.machine.state().stalled = true;
        assert!(!host.create_snapshot(filled.snapshot(), LONG).await.unwrap().0.ready);
        filled.world.pool.set_unreadable(Some("its disk is away"));
        filled.world.machine.state().fails = Some("copy");
        filled.world.machine.state().stalled = false;
        idle(&host).await;
        filled.world.pool.set_unreadable(None);
        let error = host.create_snapshot(filled.snapshot(), LONG).await.unwrap_err();
        assert!(error.message.contains("the copy fails as configured"), "{error}");
    });
    filled.take();
}
