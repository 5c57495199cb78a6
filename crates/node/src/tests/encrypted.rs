//! Encrypted raw volumes.

use quarry_encryption::Layer;
use quarry_volume::Encryption;

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
