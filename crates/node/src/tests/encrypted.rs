//! Encrypted raw volumes: killed calls, stages that fail, and stages beside an expansion.

use std::time::Duration;

use quarry_encryption::{HEADER_SIZE, Layer};
use quarry_volume::{AccessType, Agent as _, Encryption, Reason, SnapshotParameters, SnapshotSpec};

use super::killed::from;
use super::machine::{Plan, Process, node};
use super::world::{Answer, Call, LIFE, SIZE, Use, World};

const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_millis(100);
const ENCRYPTED: Use = Use { encryption: Some(Encryption::Luks2), ..Use::BLOCK };

/// Makes a call. The checks of [`World`] are for volumes that are not encrypted.
fn call_as(world: &World, plan: Plan, call: Call) -> Answer {
    let answer = world.run(&Process::new(&world.machine, plan), call);
    let state = world.machine.state();
    assert_eq!(state.violations, [""; 0], "{call:?}: {answer:?} after {:?}", state.effects);
    answer
}

fn succeeds(world: &World, call: Call) {
    match call_as(world, Plan::Lives, call) {
        Answer::Ok => {}
        other => panic!("{call:?} ended with {other:?} after {:?}", world.effects()),
    }
}

fn rejects(world: &World, call: Call, reason: Reason) {
    match call_as(world, Plan::Lives, call) {
        Answer::Rejected(error) if error.reason == reason => {}
        other => panic!("{call:?} ended with {other:?} after {:?}", world.effects()),
    }
}

fn after(calls: &[Call]) -> World {
    let world = World::new(ENCRYPTED);
    calls.iter().for_each(|call| succeeds(&world, *call));
    world
}

fn layer(world: &World) -> Option<Layer> {
    world.machine.state().layer_on(&node(&world.id.volume))
}

/// Checks that the open device is as large as the one below it permits.
fn is_fitted(world: &World) {
    let size = layer(world).map(|layer| layer.size);
    assert_eq!(size, Some(world.disk().size - HEADER_SIZE), "{:?}", world.effects());
}

#[test]
fn an_encrypted_volume_can_be_killed_in_any_call() {
    for killed in LIFE {
        let earlier = LIFE.into_iter().take_while(|call| *call != killed).collect::<Vec<_>>();
        for before in 0.. {
            let world = after(&earlier);
            let ended = !matches!(call_as(&world, Plan::Killed { before }, killed), Answer::Killed);
            from(killed).for_each(|call| succeeds(&world, call));
            assert!(layer(&world).is_none(), "{:?}", world.effects());
            world.is_clean();
            if ended {
                break;
            }
        }
    }
}

/// After a final error, kubelet does not unstage it.
#[test]
fn a_stage_that_fails_finally_closes_what_an_earlier_one_opened() {
    let mut left_open = 0;
    for before in 0.. {
        let mut world = after(&[Call::Create]);
        if !matches!(call_as(&world, Plan::Killed { before }, Call::Stage), Answer::Killed) {
            break;
        }
        left_open += usize::from(layer(&world).is_some());
        // It is not made for this use.
        world.usage = Use { access: AccessType::Mount, ..ENCRYPTED };
        rejects(&world, Call::Stage, Reason::Precondition);
        assert!(layer(&world).is_none(), "{:?}", world.effects());
    }
    assert!(left_open > 0);
}

#[test]
fn a_stage_that_fails_finally_does_not_close_what_a_pod_uses() {
    for read_only in [false, true] {
        let usage = Use { read_only, ..ENCRYPTED };
        let mut world = World::new(usage);
        [Call::Create, Call::Stage, Call::Publish].into_iter().for_each(|call| succeeds(&world, call));
        world.usage.access = AccessType::Mount;
        rejects(&world, Call::Stage, Reason::Precondition);
        assert!(layer(&world).is_some(), "{:?}", world.effects());
        world.usage = usage;
        [Call::Unpublish, Call::Unstage, Call::Delete].into_iter().for_each(|call| succeeds(&world, call));
        world.is_clean();
    }
}

/// cryptsetup reads the size before the expansion, and makes the device after it.
#[test]
fn a_volume_that_grows_while_it_is_opened_has_its_new_size() {
    let mut grown = 0;
    for before in 0.. {
        let world = after(&[Call::Create]);
        let process = Process::new(&world.machine, Plan::Pauses { before });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let ended = runtime.block_on(async {
            let host = world.host(&process);
            let mut stage = std::pin::pin!(world.stage_on(&host));
            tokio::select! {
                () = process.paused() => {}
                staged = &mut stage => return staged.map(|()| true).unwrap(),
            }
            host.expand(&world.id, world.expanded_size(), LONG).await.unwrap();
            process.resume();
            stage.await.unwrap();
            false
        });
        is_fitted(&world);
        if ended {
            break;
        }
        assert!(world.disk().size > SIZE + HEADER_SIZE);
        grown += 1;
    }
    assert!(grown > 2, "{grown}");
}

/// Otherwise, its keys would be erased before the pool notices that its new space is open.
#[test]
fn a_deletion_changes_nothing_while_an_expansion_does_not_stop() {
    let world = after(&[Call::Create]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let host = world.host(&Process::new(&world.machine, Plan::Lives));
        world.machine.state().stalled = true;
        let expansion = host.expand(&world.id, world.expanded_size(), SHORT).await.unwrap_err();
        assert_eq!(expansion.reason, Reason::UnderWay, "{expansion}");
        let before = world.effects();
        let error = host.delete(&world.id, SHORT).await.unwrap_err();
        assert!(matches!(error.reason, Reason::TimedOut | Reason::UnderWay), "{error}");
        while host.tasks().is_running(&world.id.volume) {
            tokio::time::sleep(SHORT).await;
        }
        assert_eq!(world.effects(), before);
        world.machine.state().stalled = false;
        host.delete(&world.id, LONG).await.unwrap();
    });
    world.is_clean();
}

/// For a raw volume, no NodeExpandVolume comes that would repeat it.
#[test]
fn a_stage_that_cannot_fit_a_raw_volume_is_repeated() {
    let world = after(&[Call::Create, Call::Stage]);
    for call in [Call::Expand, Call::Stage] {
        world.machine.state().fails = Some("resize encrypted");
        let reason = if call == Call::Expand { Reason::Host } else { Reason::Unavailable };
        rejects(&world, call, reason);
    }
    succeeds(&world, Call::Stage);
    is_fitted(&world);
}

/// A published device is not closed, so an unstage that answers OK would leave the kernel the key.
#[test]
fn an_encrypted_volume_that_is_published_is_not_unstaged() {
    for usage in [ENCRYPTED, Use { read_only: true, ..ENCRYPTED }, Use { sysfs: false, ..ENCRYPTED }] {
        let world = World::new(usage);
        [Call::Create, Call::Stage, Call::Publish].into_iter().for_each(|call| succeeds(&world, call));
        rejects(&world, Call::Unstage, Reason::InUse);
        assert!(layer(&world).is_some());
        [Call::Unpublish, Call::Unstage].into_iter().for_each(|call| succeeds(&world, call));
        assert!(layer(&world).is_none());
    }
}

/// Its disk was pulled while it was mounted, and this process was started after that: no pool has the volume.
#[test]
fn a_volume_that_no_pool_has_is_not_deleted_while_its_open_device_is_used() {
    let world = after(&[Call::Create, Call::Stage, Call::Publish]);
    assert!(world.pool.remove_by_hand(&world.id.volume));
    let raw = node(&world.id.volume);
    world.machine.state().disks.remove(&raw);
    rejects(&world, Call::Delete, Reason::InUse);
}

/// Its CreateSnapshot was never answered, and is not repeated: nothing else would remove it.
#[test]
fn an_interrupted_snapshot_does_not_prevent_the_deletion() {
    let mut interrupted = 0;
    for before in 0.. {
        let world = after(&[Call::Create, Call::Stage, Call::Unstage]);
        let process = Process::new(&world.machine, Plan::Killed { before });
        let class = SnapshotParameters::default();
        let spec = SnapshotSpec { name: "snap".to_owned(), source: world.id.clone(), class };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let taken = runtime.block_on(async {
            let host = world.host(&process);
            tokio::select! {
                biased;
                () = process.death() => None,
                taken = host.create_snapshot(spec, LONG) => Some(taken.unwrap().0),
            }
        });
        match (taken, process.is_alive()) {
            (Some(taken), true) => {
                // One that is complete does.
                rejects(&world, Call::Delete, Reason::Precondition);
                assert!(taken.ready);
                break;
            }
            _ => interrupted += usize::from(world.pool.record_of_snapshot("snap").is_some()),
        }
        succeeds(&world, Call::Delete);
        world.is_clean();
    }
    assert!(interrupted > 0);
}
