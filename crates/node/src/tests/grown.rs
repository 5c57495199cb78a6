//! Volumes that grow: killed between any two effects, in any order of the calls, and while the new space is zeroed.

use std::time::Duration;

use quarry_volume::{AccessType, Agent as _, Condition, Filesystem, Reason, Result, SizeRange};

use super::killed::{from, test_all};
use super::machine::{Plan, Process};
use super::world::{Answer, Call, EXPANDED, SIZE, Use, World, staging};
use crate::agent::{DELETE, EXPAND, new_space};
use crate::grow::Grow;

const GIB: u64 = 1 << 30;
const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_millis(100);

/// What happens after a process was killed.
const THEN: [Option<bool>; 3] = [None, Some(false), Some(true)];

/// The worlds in which `call` was killed before each of its effects after `earlier`; then, if set, the power failed.
fn killed(usage: Use, earlier: &[Call], call: Call, power: Option<bool>) -> impl Iterator<Item = World> {
    let earlier = earlier.to_vec();
    (0..).map_while(move |before| {
        let world = World::after(usage, &earlier);
        match world.call_as(&Process::new(&world.machine, Plan::Killed { before }), call) {
            Answer::Killed => {}
            Answer::Ok => return None,
            Answer::Rejected(error) => panic!("{call:?} of {usage:?}, killed before effect {before}: {error}"),
        }
        world.machine.end_orphans(true);
        if let Some(written_back) = power {
            world.machine.cut_power(written_back);
        }
        Some(world)
    })
}

/// The rest of a volume's life, from its stage on. Each call may have been made before.
fn live_on(world: &World) {
    from(Call::Stage).take(2).for_each(|call| world.succeeds(call));
    world.succeeds(Call::Expand);
    if world.usage.access == AccessType::Block && world.usage.read_only {
        // Its mapping keeps its size, and kubelet repeats its calls.
        world.rejects(Call::Grow, Reason::Precondition);
        from(Call::Stage).take(2).for_each(|call| world.succeeds(call));
    } else {
        world.succeeds(Call::Grow);
    }
    [Call::Unpublish, Call::Unstage, Call::Stage].into_iter().for_each(|call| world.succeeds(call));
    assert_eq!(world.disk().size, EXPANDED);
    [Call::Unstage, Call::Delete].into_iter().for_each(|call| world.succeeds(call));
    world.is_clean();
}

/// The points in a volume's life at which it is expanded.
fn points() -> impl Iterator<Item = (Use, &'static [Call])> {
    let points: [&[Call]; 4] = [
        &[Call::Create],
        &[Call::Create, Call::Stage],
        &[Call::Create, Call::Stage, Call::Publish],
        &[Call::Create, Call::Stage, Call::Publish, Call::Unpublish, Call::Unstage],
    ];
    Use::ALL.into_iter().flat_map(move |usage| points.map(|point| (usage, point)))
}

#[test]
fn a_retry_completes_a_killed_expansion() {
    test_all(points(), |(usage, point)| {
        for power in THEN {
            let mut worlds = 0;
            for world in killed(usage, point, Call::Expand, power) {
                world.succeeds(Call::Expand);
                live_on(&world);
                worlds += 1;
            }
            assert!(worlds >= 4, "{usage:?} after {point:?} was killed {worlds} times");
        }
    });
}

#[test]
fn a_killed_expansion_needs_no_retry() {
    test_all(points(), |(usage, point)| {
        for power in THEN {
            for world in killed(usage, point, Call::Expand, power) {
                live_on(&world);
            }
            for world in killed(usage, point, Call::Expand, power) {
                let end = [Call::Unpublish, Call::Unstage, Call::Delete];
                end.into_iter().for_each(|call| world.succeeds(call));
                world.is_clean();
            }
        }
    });
}

#[test]
fn a_killed_growth_is_completed_by_any_later_call_that_compares() {
    let usages = Use::ALL.into_iter().filter(|usage| usage.access == AccessType::Mount);
    let calls = [Call::Grow, Call::Stage];
    test_all(usages.flat_map(|usage| calls.map(|call| (usage, call))), |(usage, call)| {
        let earlier = match call {
            Call::Grow => vec![Call::Create, Call::Stage, Call::Publish, Call::Expand],
            _ => vec![Call::Create, Call::Stage, Call::Unstage, Call::Expand],
        };
        for power in THEN {
            let mut partly = 0;
            for world in killed(usage, &earlier, call, power) {
                partly += usize::from((SIZE + 1..EXPANDED).contains(&world.disk().bytes.filesystem));
                if power.is_some() {
                    world.succeeds(Call::Stage);
                    assert_eq!(world.disk().bytes.filesystem, EXPANDED);
                }
                world.succeeds(call);
                live_on(&world);
            }
            assert_eq!(partly, 1, "{usage:?}, {call:?}");
        }
    });
}

#[test]
fn any_two_calls_after_a_killed_expansion_do_no_harm() {
    let calls = [Call::Create, Call::Stage, Call::Publish, Call::Unpublish, Call::Unstage, Call::Expand, Call::Grow];
    let point = [Call::Create, Call::Stage, Call::Publish];
    let usages = [Use::MOUNT, Use::BOTH, Use::BLOCK, Use::READ_ONLY_BLOCK];
    let cases = usages.into_iter().flat_map(|usage| calls.map(|first| (usage, first)));
    test_all(cases, |(usage, first)| {
        for second in calls {
            for world in killed(usage, &point, Call::Expand, None) {
                // `World` checks each answer, whatever it is.
                world.call(first);
                world.call(second);
                let end = [Call::Unpublish, Call::Unstage, Call::Delete];
                end.into_iter().for_each(|call| world.succeeds(call));
                world.is_clean();
            }
        }
    });
}

/// The size of the device that is published.
fn published_size(world: &World) -> Option<u64> {
    let state = world.machine.state();
    let shown = state.at(&world.target).first().and_then(|entry| state.node_device(entry));
    shown.and_then(|number| state.mapped_size(number))
}

/// kubelet repeats the call after its restart.
#[test]
fn a_mapping_keeps_its_size_until_it_is_published_again() {
    let usage = Use::READ_ONLY_BLOCK;
    let world = World::after(usage, &[Call::Create, Call::Stage, Call::Publish, Call::Expand]);
    let effects = world.effects();
    world.succeeds(Call::Publish);
    assert_eq!((world.effects(), published_size(&world)), (effects, Some(SIZE)));
    [Call::Unpublish, Call::Publish].into_iter().for_each(|call| world.succeeds(call));
    assert_eq!(published_size(&world), Some(EXPANDED));
}

/// The disk came back with another device number. The mapping of the old one is useless, but another volume could get its
/// number if it were removed.
#[test]
fn a_published_mapping_of_another_device_is_kept() {
    let world = World::after(Use::READ_ONLY_BLOCK, &[Call::Create, Call::Stage, Call::Publish]);
    world.machine.renumber(&world.id.volume);
    let effects = world.effects();
    let message = world.rejects(Call::Publish, Reason::Precondition);
    assert!(message.contains("published at \"/kubelet/target\""), "{message}");
    assert_eq!(world.effects(), effects);
    [Call::Unpublish, Call::Publish].into_iter().for_each(|call| world.succeeds(call));
}

#[test]
fn a_retry_for_another_size_replaces_the_reserved_space() {
    for usage in [Use::MOUNT, Use::BLOCK] {
        for world in killed(usage, &[Call::Create, Call::Stage], Call::Expand, None) {
            let size = EXPANDED + (if world.disk().size == EXPANDED { 0 } else { 2 * GIB });
            world.expanded.set(size);
            world.succeeds(Call::Expand);
            assert_eq!(world.disk().size, size);
            // It is never made smaller.
            world.expanded.set(SIZE);
            world.succeeds(Call::Expand);
            assert_eq!(world.disk().size, size);
            world.succeeds(Call::Unstage);
            world.succeeds(Call::Delete);
            world.is_clean();
        }
    }
}

#[test]
fn stored_progress_is_not_zeroed_again() {
    let zeroes = |world: &World| world.effects().iter().filter(|effect| *effect == "zero").count();
    let mut continued = 0;
    for before in 60..80 {
        let world = World::after(Use::BLOCK, &[Call::Create]);
        world.expanded.set(SIZE + 66 * GIB);
        let created = zeroes(&world);
        match world.call_as(&Process::new(&world.machine, Plan::Killed { before }), Call::Expand) {
            Answer::Killed => {}
            other => panic!("{other:?}"),
        }
        world.machine.cut_power(false);
        let stored = world.machine.state().reserved.values().any(|reserved| reserved.zeroed.0 == 64);
        world.succeeds(Call::Expand);
        if stored {
            assert!(zeroes(&world) - created <= 68, "{:?}", world.effects());
            continued += 1;
        }
        if continued > 2 {
            return;
        }
    }
    panic!("progress was stored before {continued} kills");
}

/// Runs work on one host for the volume of a world.
fn on_host<T>(world: &World, work: impl AsyncFnOnce(crate::Host) -> T) -> T {
    let process = Process::new(&world.machine, Plan::Lives);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let result = runtime.block_on(async { work(world.host(&process)).await });
    assert_eq!(world.machine.state().violations, [""; 0]);
    result
}

#[test]
fn a_volume_is_used_as_before_while_its_new_space_is_zeroed() {
    let world = World::after(Use::BLOCK, &[Call::Create, Call::Stage, Call::Publish]);
    world.machine.state().stalled = true;
    on_host(&world, async |host| {
        let expansion = host.expand(&world.id, world.expanded_size(), SHORT).await.unwrap_err();
        assert_eq!(expansion.reason, Reason::UnderWay, "{expansion}");
        assert!(expansion.message.contains("zeroed 0.0 of 2.5 GiB"), "{expansion}");
        host.unpublish(&world.id.to_string(), world.target.clone(), LONG).await.unwrap();
        host.unstage(&world.id.to_string(), staging(), LONG).await.unwrap();
        host.deactivate_now(&world.id, std::time::Instant::now()).await;
        assert!(!world.disk().active, "not deactivated");
        let again = host.expand(&world.id, world.expanded_size(), SHORT).await.unwrap_err();
        assert_eq!(again.reason, Reason::UnderWay, "{again}");
        world.machine.state().stalled = false;
        while let Err(error) = host.expand(&world.id, world.expanded_size(), LONG).await {
            assert_eq!(error.reason, Reason::UnderWay, "{error}");
            tokio::time::sleep(SHORT).await;
        }
    });
    [Call::Stage, Call::Publish].into_iter().for_each(|call| world.succeeds(call));
    assert_eq!(world.disk().size, EXPANDED);
}

#[test]
fn a_deletion_stops_an_expansion_and_releases_its_space() {
    let world = World::after(Use::BLOCK, &[Call::Create]);
    // More than is zeroed before the deletion is made.
    world.expanded.set(SIZE + 100_000 * GIB);
    on_host(&world, async |host| {
        let expansion = host.expand(&world.id, world.expanded_size(), SHORT).await.unwrap_err();
        assert_eq!(expansion.reason, Reason::UnderWay, "{expansion}");
        host.delete(&world.id, LONG).await.unwrap();
    });
    world.is_clean();
}

#[test]
fn an_expansion_that_begins_together_with_a_deletion_reserves_nothing() {
    let world = World::after(Use::BLOCK, &[Call::Create]);
    on_host(&world, async |host| {
        let deletion = host.tasks().run(&world.id.volume, DELETE, SHORT, |_| std::future::pending::<Result<()>>());
        assert_eq!(deletion.await.unwrap_err().reason, Reason::TimedOut);
        let before = world.effects();
        let (expanding, id, size) = (host.clone(), world.id.clone(), world.expanded_size());
        let work = |handle| async move { expanding.expand_now(&id, size, handle).await.map(drop) };
        let subject = new_space(&world.id);
        let expansion = host.tasks().run(&subject, EXPAND, LONG, work);
        let error = expansion.await.unwrap_err();
        assert_eq!((error.reason, world.effects()), (Reason::UnderWay, before), "{error}");
    });
}

/// A thin pool notices it only now.
#[test]
fn a_pool_without_space_for_the_zeros_is_no_room_for_the_expansion() {
    let world = World::after(Use::BLOCK, &[Call::Create]);
    world.machine.state().is_full = true;
    let message = world.rejects(Call::Expand, Reason::SizeOutOfRange);
    assert!(message.contains("No space left on device"), "{message}");
    world.machine.state().is_full = false;
    world.succeeds(Call::Expand);
}

#[test]
fn a_filesystem_that_cannot_grow_is_staged_and_the_problem_is_shown() {
    let earlier = [Call::Create, Call::Stage, Call::Publish, Call::Unpublish, Call::Unstage, Call::Expand];
    let world = World::after(Use::MOUNT, &earlier);
    on_host(&world, async |host| {
        let grow = || Grow { id: world.id.clone(), path: staging(), size: world.expanded_size() };
        let problem = async || {
            let mut volume = host.get(&world.id, LONG).await.unwrap();
            host.publisher().add_filesystem_problems(std::slice::from_mut(&mut volume));
            (volume.condition, volume.problem)
        };
        world.machine.state().fails = Some("grow");
        world.stage_on(&host).await.unwrap();
        let (condition, text) = problem().await;
        assert_eq!(condition, Condition::Other);
        assert!(text.contains("cannot grow the ext4 filesystem"), "{text}");
        // A check of the filesystem does not remove it.
        host.stats(&world.id, &staging()).await.unwrap();
        assert_eq!(problem().await.0, Condition::Other);

        world.machine.state().fails = Some("grow");
        let error = host.grow_filesystem(grow(), LONG).await.unwrap_err();
        assert_eq!(error.reason, Reason::Host);
        assert!(error.message.contains("cannot grow the ext4 filesystem"), "{error}");
        assert_eq!(host.grow_filesystem(grow(), LONG).await.unwrap(), EXPANDED);
        assert_eq!(problem().await, (Condition::Healthy, String::new()));
    });
}

#[test]
fn a_volume_grows_only_where_it_is_mounted_writable() {
    let calls = [Call::Create, Call::Stage, Call::Publish, Call::Expand];
    for usage in [Use::READ_ONLY_XFS, Use::READ_ONLY_BLOCK] {
        let world = World::after(usage, &calls);
        on_host(&world, async |host| {
            let grow = |path| Grow { id: world.id.clone(), path, size: SizeRange::default() };
            let error = host.grow_filesystem(grow(world.target.clone()), LONG).await.unwrap_err();
            assert_eq!(error.reason, Reason::Precondition);
            assert!(error.message.contains("read-only"), "{error}");
            let error = host.grow_filesystem(grow("/elsewhere".into()), LONG).await.unwrap_err();
            assert_eq!(error.reason, Reason::NotFound, "{error}");
        });
    }
    for usage in Use::ALL.into_iter().filter(|usage| !usage.read_only) {
        let world = World::after(usage, &calls);
        on_host(&world, async |host| {
            let grow = |required, limit| {
                let size = SizeRange { required, limit };
                host.grow_filesystem(Grow { id: world.id.clone(), path: world.target.clone(), size }, LONG)
            };
            let error = grow(EXPANDED + 1, None).await.unwrap_err();
            assert_eq!(error.reason, Reason::Unavailable);
            assert!(error.message.contains(&format!("has {EXPANDED} bytes, but {} are", EXPANDED + 1)), "{error}");
            assert_eq!(grow(0, Some(EXPANDED - 1)).await.unwrap_err().reason, Reason::SizeOutOfRange);
            assert_eq!(grow(EXPANDED, Some(EXPANDED)).await.unwrap(), EXPANDED);
        });
        assert_eq!(world.disk().bytes.filesystem == EXPANDED, usage.access == AccessType::Mount);
    }
}

#[test]
fn a_dead_filesystem_does_not_grow() {
    let world = World::after(Use::MOUNT, &[Call::Create, Call::Stage, Call::Publish, Call::Expand]);
    world.machine.shut_down(&world.id.volume);
    let message = world.rejects(Call::Grow, Reason::Precondition);
    assert!(message.contains("shut its filesystem down"), "{message}");
    assert_eq!(world.disk().bytes.filesystem, SIZE);
}

#[test]
fn an_expanded_volume_is_created_again_with_its_old_size() {
    for usage in [Use::MOUNT, Use::BLOCK, Use { filesystem: Some(Filesystem::Btrfs), ..Use::MOUNT }] {
        let world = World::after(usage, &[Call::Create, Call::Expand, Call::Create]);
        live_on(&world);
    }
}
