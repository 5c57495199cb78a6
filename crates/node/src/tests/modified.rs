//! Volumes whose mutable parameters change: `discard`, alone and together with the limits, which `limited` tests.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quarry_volume::{Agent as _, Discard, IoLimits, MutableParameters, Rate, Reason};

use super::machine::{KUBELET, Kind, Plan, Process};
use super::world::{Answer, Call, Use, World};
use crate::Host;
use crate::trim::Trimmer;

const SOON: Duration = Duration::from_secs(10);
const INTERVAL: Duration = Duration::from_secs(3600);
/// A whole filesystem takes three.
const STEP: u64 = 512 << 20;
const NEVER: Use = Use { discard: Some(Discard::None), ..Use::MOUNT };
const PERIODIC: Use = Use { discard: Some(Discard::Periodic), ..Use::MOUNT };
const USED: [Call; 3] = [Call::Create, Call::Stage, Call::Publish];

fn discard(discard: Discard) -> MutableParameters {
    MutableParameters { discard: Some(discard), ..MutableParameters::default() }
}

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(test)
}

/// A process that trims the volumes of that world.
fn process(world: &World) -> (Host, Trimmer) {
    let host = world.host(&Process::new(&world.machine, Plan::Lives));
    host.set_trim_interval("p", INTERVAL);
    let trimmer = Trimmer::new(host.clone(), host.pools()[0].clone(), STEP, later(0));
    (host, trimmer)
}

/// The time so many intervals after the start. Within two of them, every volume is due.
fn later(intervals: u32) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000) + INTERVAL * intervals
}

fn trims(world: &World) -> usize {
    world.machine.state().trimmed.len()
}

#[test]
fn a_filesystem_in_use_is_trimmed_from_now_on_or_not_any_more() {
    let world = World::after(NEVER, &USED);
    run(async {
        let (host, mut trimmer) = process(&world);
        trimmer.look(later(2)).await;
        trimmer.work().await;
        assert_eq!(trims(&world), 0);
        host.modify(&world.id, discard(Discard::Periodic), SOON).await.unwrap();
        assert!(world.record().ends_with("/d=periodic"), "{}", world.record());
        trimmer.look(later(4)).await;
        trimmer.work().await;
        assert_eq!(trims(&world), 3);
        // Queued, and changed before its turn.
        trimmer.look(later(6)).await;
        host.modify(&world.id, discard(Discard::None), SOON).await.unwrap();
        trimmer.work().await;
        trimmer.look(later(8)).await;
        trimmer.work().await;
        assert_eq!((trims(&world), host.trims().failures()), (3, 0));
    });
}

#[test]
fn a_trim_that_is_running_stops_after_its_step() {
    for (mode, steps) in [(Discard::None, 1), (Discard::Online, 1), (Discard::Periodic, 3)] {
        let world = World::after(PERIODIC, &USED);
        run(async {
            let (host, mut trimmer) = process(&world);
            trimmer.look(later(2)).await;
            world.machine.state().stalled = true;
            let changed = async {
                while world.machine.state().busy.is_empty() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                // It does not wait for the step.
                host.modify(&world.id, discard(mode), SOON).await.unwrap();
                world.machine.state().stalled = false;
            };
            tokio::join!(trimmer.work(), changed);
            trimmer.work().await;
            assert_eq!((trims(&world), host.trims().failures()), (steps, 0), "{mode}");
            // A rollback: the next time is that of the schedule.
            host.modify(&world.id, discard(Discard::Periodic), SOON).await.unwrap();
            trimmer.look(later(4)).await;
            trimmer.work().await;
            assert_eq!(trims(&world), steps + 3, "{mode}");
        });
    }
}

#[test]
fn a_trim_that_waits_for_a_change_of_its_pool_is_stopped() {
    let world = World::after(PERIODIC, &USED);
    run(async {
        let (host, mut trimmer) = process(&world);
        trimmer.look(later(2)).await;
        world.machine.state().changing = true;
        let changed = async {
            while host.trims().list().is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            host.modify(&world.id, discard(Discard::None), SOON).await.unwrap();
            world.machine.state().changing = false;
        };
        tokio::join!(trimmer.work(), changed);
        assert_eq!((trims(&world), host.trims().failures()), (0, 0));
    });
}

#[test]
fn a_pool_that_cannot_be_read_is_trimmed_later() {
    let world = World::after(PERIODIC, &USED);
    run(async {
        let (_, mut trimmer) = process(&world);
        trimmer.look(later(2)).await;
        world.pool.set_unreadable(Some("as configured"));
        trimmer.work().await;
        assert_eq!(trims(&world), 0);
        world.pool.set_unreadable(None);
        trimmer.work().await;
        assert_eq!(trims(&world), 3);
    });
}

/// The limits and `discard` are one change: whatever is killed, the record has both or neither.
#[test]
fn a_change_of_all_attributes_can_be_killed_anywhere() {
    let mut killed = 0;
    for before in 0.. {
        let world = World::after(NEVER, &USED);
        let parameters = [(Rate::ReadIops.parameter(), "9"), ("discard", "periodic")];
        let parameters = parameters.map(|(key, value)| (key.to_owned(), value.to_owned()));
        world.changes.set(MutableParameters::parse(&parameters.into()).unwrap());
        let answer = world.call_as(&Process::new(&world.machine, Plan::Killed { before }), Call::Modify);
        let record = world.record();
        let (old, new) = (record.ends_with("/d=none"), record.ends_with("/d=periodic/r=0.0.9.0"));
        assert!(new || old, "{record}");
        world.succeeds(Call::Modify);
        assert!(world.record().ends_with("/d=periodic/r=0.0.9.0"), "{}", world.record());
        match answer {
            Answer::Killed => killed += 1,
            Answer::Ok => {
                assert!(new, "{record}");
                break;
            }
            Answer::Rejected(error) => panic!("{error}"),
        }
    }
    assert!(killed >= 1, "only {killed} kills");
}

#[test]
fn a_raw_block_volume_is_not_changed_at_all() {
    let world = World::after(Use::BLOCK, &USED);
    let before = world.record();
    let parameters = [(Rate::ReadIops.parameter(), "9"), ("discard", "none")];
    let parameters = parameters.map(|(key, value)| (key.to_owned(), value.to_owned()));
    world.changes.set(MutableParameters::parse(&parameters.into()).unwrap());
    let message = world.rejects(Call::Modify, Reason::InvalidRequest);
    assert!(message.contains("raw block volume cannot have \"discard: none\""), "{message}");
    assert_eq!(world.record(), before);
}

/// Its VolumeAttributesClass may have changed since the first call. Once a pod uses it, only ControllerModifyVolume changes
/// it.
#[test]
fn a_repeated_create_changes_discard_until_a_pod_uses_the_volume() {
    let mut world = World::after(NEVER, &[Call::Create]);
    world.usage = PERIODIC;
    world.succeeds(Call::Create);
    assert!(world.record().ends_with("/d=periodic"), "{}", world.record());
    world.succeeds(Call::Stage);
    world.target = pod_target(&world);
    world.succeeds(Call::Publish);
    world.usage = NEVER;
    world.succeeds(Call::Create);
    assert!(world.record().ends_with("/d=periodic"), "{}", world.record());
}

/// A target that names a pod.
fn pod_target(world: &World) -> PathBuf {
    let target = format!("{KUBELET}/pods/0b5ae1c6-6f0a-4d3e-9c1a-6f1d2b3c4d5e/volumes/kubernetes.io~csi/pvc-1/mount");
    let target = PathBuf::from(target);
    for parent in target.ancestors().skip(1).filter(|path| path.starts_with(KUBELET)) {
        world.machine.state().paths.insert(parent.to_owned(), Kind::Directory);
    }
    target
}

/// Only a change of limits needs cgroups.
#[test]
fn a_host_without_cgroups_changes_discard_of_a_volume_that_requires_limits() {
    let usage = Use { limits: IoLimits::new([None, None, Some(5), None]), requires_limits: true, ..NEVER };
    let world = World::after(usage, &[Call::Create, Call::Stage]);
    world.changes.set(discard(Discard::Periodic));
    world.succeeds(Call::Modify);
    assert!(world.record().ends_with("/d=periodic/r=0.0.5.0!"), "{}", world.record());
}
