//! Calls that are killed before any of their effects, and what the calls of kubelet and the provisioner do
//! afterwards.

use quarry_volume::{AccessType, Filesystem, Reason};

use super::machine::{Content, Plan, Process};
use super::world::{Answer, Call, LIFE, Use, World};

/// What happens after a process was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// An mkfs that it started completes.
    MkfsCompletes,
    /// An mkfs that it started is killed too.
    MkfsEnds,
    /// The machine loses power, and everything that was not flushed.
    PowerCut,
    /// The machine loses power after it has written back what was not flushed.
    LatePowerCut,
}

/// The worlds in which `call` was killed before each of its effects, after all calls before it in a volume's
/// life.
fn killed(usage: Use, call: Call) -> impl Iterator<Item = World> {
    let earlier: Vec<Call> = LIFE.into_iter().take_while(|other| *other != call).collect();
    (0..).map_while(move |before| {
        let world = World::after(usage, &earlier);
        match world.call_as(&Process::new(&world.machine, Plan::Killed { before }), call) {
            Answer::Killed => Some(world),
            Answer::Ok => None,
            Answer::Rejected(error) => panic!("{call:?} of {usage:?}, killed before effect {before}: {error}"),
        }
    })
}

/// The worlds of [`killed`], with everything that can happen next, up to the point where a retry can succeed.
fn retriable(usage: Use, call: Call) -> impl Iterator<Item = (World, Then)> {
    [Then::MkfsCompletes, Then::MkfsEnds, Then::PowerCut, Then::LatePowerCut].into_iter().flat_map(move |then| {
        // Without an mkfs, the first two are the same; without data that is not flushed, the last two.
        let differs = move |world: &World| match then {
            Then::MkfsCompletes | Then::PowerCut => true,
            Then::MkfsEnds => world.machine.has_orphans(),
            Then::LatePowerCut => world.machine.has_unflushed_data(),
        };
        let worlds = killed(usage, call).filter(differs).map(move |world| {
            proceed(&world, call, then);
            (world, then)
        });
        // No retry succeeds on a damaged filesystem.
        worlds.filter(|(world, _)| !world.machine.has_damage())
    })
}

/// Ends what a process left running that was killed in `call`. While an mkfs runs, nothing else writes to its
/// device.
fn proceed(world: &World, call: Call, then: Then) {
    if world.machine.has_orphans() {
        let made = world.machine.state().made;
        world.rejects(Call::Stage, Reason::UnderWay);
        world.call(Call::Create);
        assert_eq!(world.machine.state().made, made, "a second mkfs");
    }
    match then {
        Then::MkfsCompletes => world.machine.end_orphans(true),
        Then::MkfsEnds => world.machine.end_orphans(false),
        Then::PowerCut => world.machine.cut_power(false),
        Then::LatePowerCut => world.machine.cut_power(true),
    }
    // The power cut undid the stage.
    if matches!(then, Then::PowerCut | Then::LatePowerCut) && call == Call::Publish {
        world.succeeds(Call::Stage);
    }
}

/// The calls in a volume's life, from `call` on.
pub(super) fn from(call: Call) -> impl Iterator<Item = Call> {
    LIFE.into_iter().skip_while(move |other| *other != call)
}

/// Tests every case on its own thread: most of the time is spent waiting for other threads.
pub(super) fn test_all<T: Send>(cases: impl IntoIterator<Item = T>, test: impl Fn(T) + Sync) {
    std::thread::scope(|scope| {
        for case in cases {
            scope.spawn(|| test(case));
        }
    });
}

/// These ways of use, each with every call.
fn with_calls(usages: impl IntoIterator<Item = Use>) -> impl Iterator<Item = (Use, Call)> {
    usages.into_iter().flat_map(|usage| LIFE.map(|call| (usage, call)))
}

#[test]
fn a_retry_completes_a_killed_call() {
    test_all(with_calls(Use::ALL), |(usage, call)| {
        for (world, _) in retriable(usage, call) {
            from(call).for_each(|call| world.succeeds(call));
            world.is_clean();
        }
    });
}

#[test]
fn a_publish_that_mounts_a_shut_down_filesystem_again_can_be_killed() {
    for before in 0.. {
        let world = World::after(Use::MOUNT, &[Call::Create, Call::Stage, Call::Publish, Call::Unpublish]);
        world.machine.shut_down(&world.id.volume);
        let answer = world.call_as(&Process::new(&world.machine, Plan::Killed { before }), Call::Publish);
        [Call::Unpublish, Call::Unstage].into_iter().for_each(|call| world.succeeds(call));
        from(Call::Stage).for_each(|call| world.succeeds(call));
        world.is_clean();
        match answer {
            Answer::Killed => {}
            Answer::Ok => {
                assert!(before > 1, "it had no effects to be killed before");
                return;
            }
            Answer::Rejected(error) => panic!("killed before effect {before}: {error}"),
        }
    }
}

#[test]
fn all_calls_can_be_repeated_after_a_killed_one() {
    // A deleted volume cannot be used again.
    let cases = with_calls(Use::ALL).filter(|(_, call)| *call != Call::Delete);
    test_all(cases, |(usage, call)| {
        for (world, _) in retriable(usage, call) {
            for call in LIFE {
                world.succeeds(call);
                world.succeeds(call);
            }
            world.is_clean();
        }
    });
}

#[test]
fn any_two_calls_after_a_killed_one_do_no_harm() {
    // A raw block volume differs from the publication on.
    let block = from(Call::Publish).map(|call| (Use::READ_ONLY_BLOCK, call));
    let cases = with_calls([Use::MOUNT]).chain(block).flat_map(|case| LIFE.map(|first| (case, first)));
    test_all(cases, |((usage, call), first)| {
        for second in LIFE {
            for world in killed(usage, call) {
                // `World` checks each answer, whatever it is.
                world.call(first);
                world.call(second);
                world.machine.end_orphans(true);
                [Call::Unpublish, Call::Unstage, Call::Delete].into_iter().for_each(|call| world.succeeds(call));
                world.is_clean();
            }
        }
    });
}

/// A raw block volume shows all bytes of its device, so it is staged only after a completed creation.
#[test]
fn a_volume_that_is_not_completely_zeroed_is_not_staged() {
    for usage in Use::ALL.into_iter().filter(|usage| usage.access == AccessType::Block) {
        let mut existed = 0;
        for world in killed(usage, Call::Create) {
            if world.pool.names().is_empty() {
                world.rejects(Call::Stage, Reason::NotFound);
                continue;
            }
            let message = world.rejects(Call::Stage, Reason::Precondition);
            assert!(message.contains("not completely zeroed"), "{message}");
            existed += 1;
        }
        assert!(existed > 2, "{usage:?}: the volume existed {existed} times");
    }
}

/// After a power cut, the superblock may be complete although other parts of the filesystem are missing.
#[test]
fn a_damaged_filesystem_is_neither_adopted_nor_made_again() {
    for usage in Use::ALL.into_iter().filter(|usage| usage.access == AccessType::Mount) {
        let mut damaged = 0;
        for world in killed(usage, Call::Stage) {
            world.machine.cut_power(true);
            if !world.machine.has_damage() {
                continue;
            }
            let (bytes, made) = (world.disk().bytes, world.machine.state().made);
            world.succeeds(Call::Create);
            let message = world.rejects(Call::Stage, Reason::Precondition);
            assert!(message.contains("is incomplete"), "{message}");
            let disk = world.disk();
            assert_eq!((disk.bytes, disk.ready, world.machine.state().made), (bytes, false, made));
            [Call::Unstage, Call::Delete].into_iter().for_each(|call| world.succeeds(call));
            world.is_clean();
            damaged += 1;
        }
        assert_eq!(damaged > 0, usage.filesystem == Some(Filesystem::Xfs), "{usage:?}: {damaged}");
    }
}

/// mkfs got an error from the disk, and so the next flush does not: Linux returns it once. What mkfs wrote is still cached.
#[test]
fn a_filesystem_that_is_only_in_memory_is_not_adopted() {
    for usage in Use::ALL.into_iter().filter(|usage| usage.access == AccessType::Mount) {
        let mut lost = 0;
        for world in killed(usage, Call::Stage) {
            world.machine.end_orphans(true);
            let ready = world.disk().ready;
            world.machine.state().lost_writes = true;
            if let Answer::Rejected(error) = world.call(Call::Stage)
                && error.message.contains("is not on the disk")
            {
                assert_eq!((error.reason, world.disk().ready, ready), (Reason::UnderWay, false, false));
                lost += 1;
            }
            world.machine.state().lost_writes = false;
            from(Call::Stage).for_each(|call| world.succeeds(call));
            world.is_clean();
        }
        assert!(lost > 0, "{usage:?}");
    }
}

/// The unpublish may never come, so a deletion removes the mapping too.
#[test]
fn a_mapping_that_a_killed_publish_left_does_not_prevent_a_deletion() {
    let mut mapped = 0;
    for world in killed(Use::READ_ONLY_BLOCK, Call::Publish) {
        mapped += usize::from(world.machine.state().is_mapped());
        [Call::Delete, Call::Unpublish].into_iter().for_each(|call| world.succeeds(call));
        world.is_clean();
    }
    assert!(mapped > 1, "{mapped}");
}

/// The disk of the volume came back with another device number.
#[test]
fn a_mapping_of_another_device_is_replaced() {
    let mut mapped = 0;
    for world in killed(Use::READ_ONLY_BLOCK, Call::Publish) {
        mapped += usize::from(world.machine.state().is_mapped());
        world.machine.renumber(&world.id.volume);
        from(Call::Publish).for_each(|call| world.succeeds(call));
        world.is_clean();
    }
    assert!(mapped > 1, "{mapped}");
}

#[test]
fn a_retry_can_be_killed_too() {
    test_all(with_calls([Use::READ_ONLY_XFS, Use::BOTH, Use::READ_ONLY_BLOCK]), |(usage, call)| {
        for before in 0.. {
            let mut any = false;
            for (world, then) in retriable(usage, call) {
                let retry = Process::new(&world.machine, Plan::Killed { before });
                any |= matches!(world.call_as(&retry, call), Answer::Killed);
                world.machine.end_orphans(then == Then::MkfsCompletes);
                from(call).for_each(|call| world.succeeds(call));
                world.is_clean();
            }
            if !any {
                break;
            }
        }
    });
}

/// The retry reads the device while the mkfs completes, so that two of its reads may differ. What the mkfs made
/// is never mistaken for foreign data.
#[test]
fn an_mkfs_that_completes_between_two_reads_of_a_retry_is_not_foreign_data() {
    for usage in [Use::MOUNT, Use::READ_ONLY_XFS, Use::BOTH] {
        let mut rejected = 0;
        for before_read in 0.. {
            let mut any = false;
            for world in killed(usage, Call::Stage).filter(|world| world.machine.has_orphans()) {
                let made = world.machine.state().made;
                let retry = Process::new(&world.machine, Plan::MkfsCompletes { before_read });
                match world.call_as(&retry, Call::Stage) {
                    Answer::Ok => {}
                    Answer::Rejected(error) if error.reason == Reason::UnderWay => rejected += 1,
                    other => panic!("{usage:?}, before read {before_read}: {other:?}"),
                }
                any |= !world.machine.has_orphans();
                world.machine.end_orphans(true);
                from(Call::Stage).for_each(|call| world.succeeds(call));
                assert_eq!(world.machine.state().made, made, "a second mkfs");
            }
            if !any {
                break;
            }
        }
        assert!(rejected > 0, "{usage:?}: no retry met the mkfs");
    }
}

/// The record still says `new`, but the device contains the user's data: an operator restored old metadata.
#[test]
fn data_under_an_old_record_is_kept() {
    let last = killed(Use::MOUNT, Call::Stage).filter(|world| {
        let disk = world.disk();
        !disk.ready && !disk.has_mkfs() && matches!(disk.bytes.content, Content::Filesystem { .. })
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
