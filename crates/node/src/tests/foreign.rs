//! Foreign data on the device of a volume, and foreign mounts in its place.

use quarry_volume::{AccessType, Filesystem, Reason};

use super::machine::{Content, Plan, Process};
use super::world::{Answer, Call, LIFE, Use, World, staging, target};

/// The ways of use with a filesystem.
fn with_filesystem() -> impl Iterator<Item = Use> {
    Use::ALL.into_iter().filter(|usage| usage.access == AccessType::Mount)
}

/// Checks that nothing touches the foreign data until the volume is deleted.
fn stays_foreign(world: &World) {
    let check = || assert_eq!(world.disk().bytes.content, Content::Foreign, "{:?}", world.effects());
    check();
    world.rejects(Call::Stage, Reason::Precondition);
    check();
    world.rejects(Call::Publish, Reason::Precondition);
    check();
    world.succeeds(Call::Unpublish);
    world.succeeds(Call::Unstage);
    check();
    world.succeeds(Call::Delete);
    world.is_clean();
}

/// How many effects a call has after all calls before it.
fn effects_of(usage: Use, call: Call) -> usize {
    let earlier: Vec<Call> = LIFE.into_iter().take_while(|other| *other != call).collect();
    let world = World::after(usage, &earlier);
    let before = world.effects().len();
    world.succeeds(call);
    world.effects().len() - before
}

#[test]
fn foreign_data_is_never_formatted() {
    for usage in with_filesystem() {
        let (mut met, mut lost) = (0, 0);
        for before in 0..effects_of(usage, Call::Stage) {
            let world = World::after(usage, &[Call::Create]);
            let earlier = world.effects().len();
            let process = Process::new(&world.machine, Plan::Foreign { before });
            let answer = world.call_as(&process, Call::Stage);
            if !process.met_foreign_data() {
                // The device was claimed: nothing foreign writes to it.
                assert!(matches!(answer, Answer::Ok), "{answer:?} after {:?}", world.effects());
            } else if usage.filesystem == Some(Filesystem::Ext4) && world.effects()[earlier + before] == "start mkfs" {
                // Quarry has released its claim, and mkfs does not have its own yet. mkfs.ext4 does not look at what
                // appeared in between; the others reject it.
                assert!(matches!(answer, Answer::Ok), "{answer:?} after {:?}", world.effects());
                lost += 1;
            } else {
                assert!(matches!(answer, Answer::Rejected(_)), "{answer:?} after {:?}", world.effects());
                stays_foreign(&world);
                met += 1;
            }
        }
        assert!(met > 2, "{usage:?} met foreign data {met} times");
        assert_eq!(lost, usize::from(usage.filesystem == Some(Filesystem::Ext4)), "{usage:?}");
    }
}

#[test]
fn foreign_data_after_a_killed_stage_is_never_formatted() {
    for usage in with_filesystem() {
        let mut met = 0;
        for before in 0..effects_of(usage, Call::Stage) {
            for completes in [true, false] {
                let world = World::after(usage, &[Call::Create]);
                let killed = Process::new(&world.machine, Plan::Killed { before });
                assert!(matches!(world.call_as(&killed, Call::Stage), Answer::Killed));
                world.machine.end_orphans(completes);
                if world.machine.write_foreign() {
                    stays_foreign(&world);
                    met += 1;
                }
            }
        }
        assert!(met > 2, "{usage:?} met foreign data {met} times");
    }
}

#[test]
fn foreign_data_on_a_used_volume_is_never_formatted() {
    for usage in with_filesystem() {
        let calls = [Call::Create, Call::Stage, Call::Publish, Call::Unpublish, Call::Unstage];
        let world = World::after(Use { read_only: true, ..usage }, &calls);
        assert!(world.machine.write_foreign());
        // A repeated CreateVolume does not wipe a volume that was used.
        world.succeeds(Call::Create);
        stays_foreign(&world);
    }
}

#[test]
fn a_volume_is_not_staged_over_a_foreign_mount() {
    for usage in with_filesystem() {
        let world = World::after(usage, &[Call::Create]);
        let foreign = world.machine.mount_foreign(&staging());
        let message = world.rejects(Call::Stage, Reason::Precondition);
        assert!(message.contains("nothing was changed"), "{message}");
        let state = world.machine.state();
        assert_eq!((state.at(&staging()), state.made), (vec![foreign], 0));
    }
}

#[test]
fn only_the_volume_itself_is_published() {
    for usage in with_filesystem() {
        let world = World::after(usage, &[Call::Create, Call::Stage, Call::Unstage]);
        world.machine.mount_foreign(&staging());
        let message = world.rejects(Call::Publish, Reason::Precondition);
        assert!(message.contains("it is not staged at"), "{message}");
    }
}

#[test]
fn a_volume_is_not_published_over_a_foreign_mount() {
    for usage in Use::ALL {
        let world = World::after(usage, &[Call::Create, Call::Stage]);
        let foreign = world.machine.mount_foreign(&target());
        world.rejects(Call::Publish, Reason::Precondition);
        let state = world.machine.state();
        assert_eq!(state.at(&target()), [foreign]);
        assert!(!state.has_mappings(), "{:?}", state.effects);
    }
}

#[test]
fn a_foreign_mount_is_never_unmounted() {
    for usage in Use::ALL {
        for known in [true, false] {
            let world = World::after(usage, &[Call::Create, Call::Stage]);
            // If neither the kernel nor the pool can say which device the volume is, the type of the device
            // still shows that this is not a volume.
            world.pool.set_unreadable((!known).then_some("as configured"));
            for (call, place) in [(Call::Unpublish, target()), (Call::Unstage, staging())] {
                world.machine.state().mounts.retain(|entry| entry.target != place);
                let foreign = world.machine.mount_foreign(&place);
                let message = world.rejects(call, Reason::Precondition);
                assert!(message.contains("which is not this volume"), "{message}");
                assert_eq!(world.machine.state().at(&place), [foreign]);
            }
        }
    }
}

/// Only the topmost mount can be seen at its path.
#[test]
fn a_foreign_mount_below_that_of_a_volume_is_never_unmounted() {
    for usage in Use::ALL {
        for known in [true, false] {
            let world = World::after(usage, &[Call::Create, Call::Stage, Call::Publish]);
            world.pool.set_unreadable((!known).then_some("as configured"));
            for (call, place) in [(Call::Unpublish, target()), (Call::Unstage, staging())] {
                let foreign = world.machine.mount_foreign(&place);
                world.machine.state().mounts.rotate_right(1);
                let before = world.machine.state().at(&place);
                let answer = world.run(&Process::new(&world.machine, Plan::Lives), call);
                match answer {
                    Answer::Rejected(error) if error.reason == Reason::Precondition => {
                        assert!(error.message.contains("which is not this volume"), "{error}");
                    }
                    other => panic!("{call:?} of {usage:?} ended with {other:?}"),
                }
                assert_eq!(world.machine.state().at(&place), before);
                world.machine.state().mounts.retain(|entry| entry.id != foreign.id);
                world.run(&Process::new(&world.machine, Plan::Lives), call);
                assert_eq!(world.machine.state().at(&place), []);
            }
        }
    }
}

/// A stage that mounts a failed filesystem again unmounts it first.
#[test]
fn a_foreign_mount_below_a_failed_filesystem_is_never_unmounted() {
    let world = World::after(Use::MOUNT, &[Call::Create, Call::Stage]);
    world.machine.shut_down(&world.id.volume);
    world.machine.mount_foreign(&staging());
    world.machine.state().mounts.rotate_right(1);
    let before = world.machine.state().at(&staging());
    match world.run(&Process::new(&world.machine, Plan::Lives), Call::Stage) {
        Answer::Rejected(error) => assert!(error.message.contains("which is not this volume"), "{error}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(world.machine.state().at(&staging()), before);
}
