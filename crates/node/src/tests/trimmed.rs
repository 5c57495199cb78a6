//! Filesystems whose unused space is discarded: with a mount option, or at intervals.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quarry_transport::metrics::Metrics;
use quarry_volume::{AccessType, Agent as _, Condition, Discard, Filesystem, Volume};

use super::machine::{Plan, Process};
use super::world::{Call, SIZE, Use, World, staging};
use crate::Host;
use crate::trim::Trimmer;

const INTERVAL: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(50);
const STEP: u64 = 512 << 20;
const STEPS: [Range<u64>; 3] = [0..STEP, STEP..2 * STEP, 2 * STEP..3 * STEP];

const PERIODIC: Use = Use { discard: Some(Discard::Periodic), ..Use::MOUNT };

fn run<T>(paused: bool, test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(paused).build().unwrap().block_on(test)
}

/// A process that trims the volumes of that world.
fn process(world: &World) -> (Host, Trimmer) {
    let host = world.host(&Process::new(&world.machine, Plan::Lives));
    host.set_trim_interval("p", INTERVAL);
    (host.clone(), trimmer(&host, later(0)))
}

/// The trims of its first pool.
fn trimmer(host: &Host, started: SystemTime) -> Trimmer {
    Trimmer::new(host.clone(), Arc::clone(&host.pools()[0]), STEP, started)
}

/// The time so many intervals after the start. Within two of them, every volume is due.
fn later(intervals: u32) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000) + INTERVAL * intervals
}

fn trimmed(world: &World) -> Vec<Range<u64>> {
    world.machine.state().trimmed.clone()
}

/// The volume of that world as controllers see it.
async fn published(host: &Host, world: &World) -> Volume {
    let mut volume = host.get(&world.id, INTERVAL).await.unwrap();
    host.publisher().add_filesystem_problems(std::slice::from_mut(&mut volume));
    volume
}

fn staged(usage: Use) -> World {
    World::after(usage, &[Call::Create, Call::Stage])
}

#[test]
fn a_volume_is_mounted_with_the_option_of_its_class() {
    for (kind, discard, option) in [
        (Filesystem::Ext4, Some(Discard::Online), Some("discard")),
        (Filesystem::Xfs, Some(Discard::Online), Some("discard")),
        (Filesystem::Btrfs, Some(Discard::Online), Some("discard=async")),
        (Filesystem::Btrfs, Some(Discard::None), Some("nodiscard")),
        (Filesystem::Btrfs, Some(Discard::Periodic), None),
        (Filesystem::Ext4, Some(Discard::None), None),
        (Filesystem::Ext4, None, None),
    ] {
        let world = staged(Use { filesystem: Some(kind), discard, ..Use::MOUNT });
        let state = world.machine.state();
        let options = &state.at(&staging())[0].super_options;
        let found = options.iter().find(|word| word.contains("discard")).map(String::as_str);
        assert_eq!(found, option, "{kind} with {discard:?}");
    }
}

#[test]
fn unused_space_is_discarded_once_in_each_interval() {
    assert_eq!(3 * STEP, SIZE);
    for kind in Filesystem::ALL {
        let world = staged(Use { filesystem: Some(kind), ..PERIODIC });
        // Addresses of btrfs can be larger than its device, and its steps overlap.
        let all = match kind {
            Filesystem::Btrfs => vec![0..STEP, 0..2 * STEP, 0..3 * STEP, STEP..u64::MAX],
            Filesystem::Ext4 | Filesystem::Xfs => STEPS.to_vec(),
        };
        run(false, async {
            let (host, mut trimmer) = process(&world);
            trimmer.look(later(2)).await;
            trimmer.work().await;
            assert_eq!(trimmed(&world), all);
            for _ in 0..2 {
                trimmer.look(later(2)).await;
                trimmer.work().await;
            }
            assert_eq!(trimmed(&world), all, "it is not due again");
            trimmer.look(later(4)).await;
            trimmer.work().await;
            assert_eq!(trimmed(&world).len(), 2 * all.len());
            assert_eq!(host.trims().discarded(), 2000 * all.len() as u64);
        });
        assert_eq!(world.machine.state().violations, [""; 0]);
    }
}

/// Each start looks at the ten minutes before it, so no time is lost if a restart takes less.
#[test]
fn a_restart_misses_nothing() {
    const RESTART: Duration = Duration::from_secs(600);
    let world = staged(PERIODIC);
    run(false, async {
        let host = world.host(&Process::new(&world.machine, Plan::Lives));
        host.set_trim_interval("p", INTERVAL);
        // Two intervals without gaps.
        for number in 1..=12 {
            let started = later(0) + RESTART * number;
            let mut trimmer = trimmer(&host, started);
            trimmer.look(started).await;
            trimmer.work().await;
        }
        assert_eq!(trimmed(&world), [STEPS, STEPS].concat());
    });
}

#[test]
fn nothing_else_is_trimmed() {
    let unused: &[Call] = &[Call::Create, Call::Stage, Call::Unstage];
    let used: &[Call] = &[Call::Create, Call::Stage];
    for (usage, calls) in [
        (Use { discard: Some(Discard::None), ..PERIODIC }, used),
        (Use { discard: Some(Discard::Online), ..PERIODIC }, used),
        // Not in a thin pool.
        (Use { discard: None, ..PERIODIC }, used),
        (Use { filesystem: None, access: AccessType::Block, ..PERIODIC }, used),
        (PERIODIC, &[Call::Create]),
        (PERIODIC, unused),
    ] {
        let world = World::after(usage, calls);
        run(false, async {
            let (host, mut trimmer) = process(&world);
            trimmer.look(later(2)).await;
            trimmer.work().await;
            assert_eq!((trimmed(&world), host.trims().failures()), (vec![], 0), "{usage:?} after {calls:?}");
        });
    }
}

#[test]
fn an_unmount_stops_a_trim_after_its_step() {
    // A stage unmounts a filesystem that has failed, and mounts it again.
    for call in [Call::Unstage, Call::Unpublish, Call::Stage] {
        let world = World::after(PERIODIC, &[Call::Create, Call::Stage, Call::Publish]);
        if call != Call::Unpublish {
            world.succeeds(Call::Unpublish);
        }
        run(false, async {
            let (host, mut trimmer) = process(&world);
            trimmer.look(later(2)).await;
            world.machine.state().stalled = true;
            {
                let begun = async {
                    while world.machine.state().busy.is_empty() {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                };
                let unmount = async {
                    begun.await;
                    if call == Call::Stage {
                        world.machine.shut_down(&world.id.volume);
                    }
                    let unmount = world.send(&host, call);
                    tokio::pin!(unmount);
                    let early = tokio::time::timeout(SHORT, &mut unmount).await;
                    assert!(early.is_err(), "{call:?} did not wait: {early:?}");
                    world.machine.state().stalled = false;
                    unmount.await.unwrap();
                };
                tokio::join!(trimmer.work(), unmount);
            }
            assert_eq!(trimmed(&world), STEPS[..1]);
            // It continues where it stopped, or not at all.
            trimmer.work().await;
            trimmer.work().await;
            let expected = if call == Call::Unstage { &STEPS[..1] } else { &STEPS[..] };
            assert_eq!((trimmed(&world).as_slice(), host.trims().failures()), (expected, 0), "{call:?}");
        });
    }
}

#[test]
fn it_waits_for_changes_of_the_pool_and_of_the_volume() {
    let world = staged(PERIODIC);
    run(true, async {
        let (host, mut trimmer) = process(&world);
        world.machine.state().changing = true;
        trimmer.look(later(2)).await;
        trimmer.work().await;
        world.machine.state().changing = false;
        trimmer.look(later(2)).await;
        world.machine.state().changing = true;
        trimmer.work().await;
        assert_eq!(trimmed(&world), []);
        world.machine.state().changing = false;
        let endless =
            host.tasks().run(&world.id.volume, "grow", SHORT, |_| std::future::pending::<quarry_volume::Result<()>>());
        endless.await.unwrap_err();
        trimmer.work().await;
        assert_eq!(trimmed(&world), []);
        // The same volume in another process, in which no task is running.
        let (_, mut trimmer) = process(&world);
        trimmer.look(later(2)).await;
        trimmer.work().await;
        assert_eq!(trimmed(&world), STEPS);
    });
}

#[test]
fn a_failure_is_counted_and_tried_again_in_the_next_interval() {
    let world = staged(PERIODIC);
    run(false, async {
        let (host, mut trimmer) = process(&world);
        world.machine.state().fails = Some("trim");
        trimmer.look(later(2)).await;
        trimmer.work().await;
        trimmer.work().await;
        assert_eq!((trimmed(&world), host.trims().failures()), (vec![], 1));
        trimmer.look(later(4)).await;
        trimmer.work().await;
        assert_eq!((trimmed(&world), host.trims().failures()), (STEPS.to_vec(), 1));
        // A disk that does not support discards is no failure.
        world.machine.state().no_discards = true;
        trimmer.look(later(6)).await;
        trimmer.work().await;
        assert_eq!((host.trims().discarded(), host.trims().failures()), (3000, 1));
    });
}

#[test]
fn a_step_that_does_not_end_is_reported() {
    let world = staged(PERIODIC);
    run(true, async {
        let (host, mut trimmer) = process(&world);
        let metrics = Metrics::new();
        let _ = host.register(&metrics);
        trimmer.look(later(2)).await;
        world.machine.state().stalled = true;
        let reported = async {
            while host.problems().await.is_empty() {
                tokio::time::sleep(SHORT).await;
            }
            let problems = host.problems().await;
            let problem = "pool p: discarding a part of the unused space of volume v (discard: periodic) has taken 30";
            assert!(problems[0].starts_with(problem), "{problems:?}");
            let volume = published(&host, &world).await;
            assert!(volume.problem.contains("takes longer than 300 s"), "{volume:?}");
            assert_eq!(volume.condition, Condition::Other);
            let text = metrics.encode().unwrap();
            assert!(text.contains("quarry_trim_step_age_seconds{pool=\"p\",volume=\"v\"} 30"), "{text}");
            world.machine.state().stalled = false;
        };
        tokio::join!(trimmer.work(), reported);
        assert_eq!(trimmed(&world), STEPS);
        assert_eq!(host.problems().await, [""; 0]);
        assert_eq!(published(&host, &world).await.problem, "");
        assert!(!metrics.encode().unwrap().contains("quarry_trim_step_age_seconds{"));
    });
}

#[test]
fn a_volume_that_is_gone_is_forgotten() {
    let world = staged(PERIODIC);
    run(false, async {
        let (host, mut trimmer) = process(&world);
        world.machine.state().no_discards = true;
        trimmer.look(later(2)).await;
        trimmer.work().await;
        trimmer.look(later(2)).await;
        assert_eq!(trimmer.unsupported(), 1);
        world.send(&host, Call::Unstage).await.unwrap();
        world.send(&host, Call::Delete).await.unwrap();
        trimmer.look(later(2)).await;
        assert_eq!(trimmer.unsupported(), 0);
    });
}
