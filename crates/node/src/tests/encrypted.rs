//! Encrypted raw volumes: killed calls, and stages that fail.

use quarry_encryption::Layer;
use quarry_volume::{AccessType, Encryption, Reason};

use super::killed::from;
use super::machine::{Plan, Process, node};
use super::world::{Answer, Call, LIFE, Use, World};

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
