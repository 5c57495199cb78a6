//! Calls that are killed before any of their effects, and what the calls of kubelet and the provisioner do
//! afterwards.

use quarry_volume::Reason;

use super::machine::{Content, Plan, Process};
use super::world::{Answer, Call, LIFE, Use, World};

/// What happens after a process was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// An mkfs that it started completes.
    MkfsCompletes,
    /// An mkfs that it started is killed too.
    MkfsEnds,
    /// The machine loses power.
    PowerCut,
}

const THEN: [Then; 3] = [Then::MkfsCompletes, Then::MkfsEnds, Then::PowerCut];

/// The worlds in which `call` was killed before each of its effects, after all calls before it in a volume's
/// life.
fn killed(usage: Use, call: Call) -> impl Iterator<Item = World> {
    let earlier: Vec<Call> = LIFE.into_iter().take_while(|other| *other != call).collect();
    (0..).map_while(move |before| {
        let world = World::after(usage, &earlier);
        match world.call_as(&Process::new(&world.machine, Plan::Killed { before }), call) {
            Answer::Killed => Some(world),
            Answer::Ok => None,
            Answer::Refused(error) => panic!("{call:?} of {usage:?}, killed before effect {before}: {error}"),
        }
    })
}

/// Ends what a process left running that was killed in `call`, so that a retry can succeed. While an mkfs
/// runs, nothing else writes to its device.
fn proceed(world: &World, call: Call, then: Then) {
    if world.machine.has_orphans() {
        let made = world.machine.state().made;
        world.refuses(Call::Stage, Reason::UnderWay);
        world.call(Call::Create);
        assert_eq!(world.machine.state().made, made, "a second mkfs");
    }
    match then {
        Then::MkfsCompletes => world.machine.end_orphans(true),
        Then::MkfsEnds => world.machine.end_orphans(false),
        Then::PowerCut => world.machine.cut_power(),
    }
    // The power cut undid the stage.
    if then == Then::PowerCut && call == Call::Publish {
        world.succeeds(Call::Stage);
    }
}

#[test]
fn a_retry_completes_a_killed_call() {
    for usage in Use::ALL {
        for call in LIFE {
            for then in THEN {
                for world in killed(usage, call) {
                    proceed(&world, call, then);
                    LIFE.into_iter().skip_while(|other| *other != call).for_each(|call| world.succeeds(call));
                    world.is_clean();
                }
            }
        }
    }
}

#[test]
fn all_calls_can_be_repeated_after_a_killed_one() {
    for usage in Use::ALL {
        for call in LIFE.into_iter().filter(|call| *call != Call::Delete) {
            for then in THEN {
                for world in killed(usage, call) {
                    proceed(&world, call, then);
                    for call in LIFE {
                        world.succeeds(call);
                        world.succeeds(call);
                    }
                    world.is_clean();
                }
            }
        }
    }
}

#[test]
fn any_two_calls_after_a_killed_one_do_no_harm() {
    for usage in [Use::MOUNT, Use::READ_ONLY_BLOCK] {
        for call in LIFE {
            for (first, second) in LIFE.iter().flat_map(|first| LIFE.iter().map(move |second| (*first, *second))) {
                for world in killed(usage, call) {
                    // `World` checks each answer, whatever it is.
                    world.call(first);
                    world.call(second);
                    world.machine.end_orphans(true);
                    [Call::Unpublish, Call::Unstage, Call::Delete].into_iter().for_each(|call| world.succeeds(call));
                    world.is_clean();
                }
            }
        }
    }
}

#[test]
fn a_retry_can_be_killed_too() {
    for usage in [Use::READ_ONLY_XFS, Use::BOTH, Use::READ_ONLY_BLOCK] {
        for call in LIFE {
            for then in THEN {
                let mut before = 0;
                while killed(usage, call).fold(false, |any, world| {
                    proceed(&world, call, then);
                    let retry = Process::new(&world.machine, Plan::Killed { before });
                    let again = matches!(world.call_as(&retry, call), Answer::Killed);
                    world.machine.end_orphans(then == Then::MkfsCompletes);
                    LIFE.into_iter().skip_while(|other| *other != call).for_each(|call| world.succeeds(call));
                    world.is_clean();
                    any || again
                }) {
                    before += 1;
                }
            }
        }
    }
}

/// The record still says `new`, but the device contains the user's data: an operator restored old metadata.
#[test]
fn data_under_an_old_record_is_kept() {
    let last = killed(Use::MOUNT, Call::Stage).filter(|world| {
        let disk = world.disk();
        !disk.ready && matches!(disk.bytes.content, Content::Filesystem { .. })
    });
    let mut worlds = 0;
    for world in last {
        world.machine.write_files(&world.id.volume);
        let before = world.disk().bytes;
        [Call::Create, Call::Stage, Call::Create].into_iter().for_each(|call| world.succeeds(call));
        assert_eq!(world.disk().bytes, before);
        worlds += 1;
    }
    assert!(worlds > 0);
}
