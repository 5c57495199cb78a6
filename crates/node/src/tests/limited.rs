//! Volumes with I/O limits, and the cgroups of the pods that use them, which are plain files here.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use quarry_pool::{Failure, Operation};
use quarry_volume::{AccessType, Agent as _, IoLimits, MutableParameters, Rate, Reason, Update, Volume, VolumeId};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::machine::{KUBELET, Kind, Plan, Process};
use super::world::{Answer, Call, Use, World};
use crate::Host;
use crate::limits::Limited;

pub(super) const UID: &str = "0b5ae1c6-6f0a-4d3e-9c1a-6f1d2b3c4d5e";
const LIMITS: IoLimits = IoLimits::new([Some(1 << 20), None, None, Some(7)]);
pub(super) const LIMITED: Use = Use { limits: LIMITS, ..Use::MOUNT };
const SOON: Duration = Duration::from_secs(10);

/// A world in which these calls succeeded, with cgroup v2, and with a volume that is published for a pod next.
pub(super) fn world(usage: Use, calls: &[Call]) -> (World, TempDir) {
    let cgroups = tempfile::tempdir().unwrap();
    std::fs::write(cgroups.path().join("cgroup.controllers"), "cpu io memory\n").unwrap();
    std::fs::create_dir_all(cgroups.path().join("kubepods/burstable")).unwrap();
    let mut world = World::new(usage);
    world.cgroups = cgroups.path().to_owned();
    let target = match usage.access {
        AccessType::Mount => format!("{KUBELET}/pods/{UID}/volumes/kubernetes.io~csi/pvc-1/mount"),
        AccessType::Block => format!("{KUBELET}/plugins/kubernetes.io/csi/volumeDevices/publish/pvc-1/{UID}"),
    };
    world.target = PathBuf::from(target);
    for parent in world.target.ancestors().skip(1).filter(|path| path.starts_with(KUBELET)) {
        world.machine.state().paths.insert(parent.to_owned(), Kind::Directory);
    }
    calls.iter().for_each(|call| world.succeeds(*call));
    (world, cgroups)
}

/// Makes the cgroup of the pod, and returns the file with its limits.
pub(super) fn cgroup(cgroups: &TempDir) -> PathBuf {
    let pod = cgroups.path().join(format!("kubepods/burstable/pod{UID}"));
    // As in the kernel, a cgroup never appears without its files.
    let hidden = cgroups.path().join("hidden");
    std::fs::create_dir(&hidden).unwrap();
    std::fs::write(hidden.join("io.max"), "").unwrap();
    std::fs::rename(&hidden, &pod).unwrap();
    pod.join("io.max")
}

fn text(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap()
}

/// The line for the volume's device.
fn line(world: &World, limits: &str) -> String {
    format!("{} {limits}", world.disk().number)
}

fn changes(pairs: &[(Rate, &str)]) -> MutableParameters {
    let parameters = pairs.iter().map(|(rate, value)| (rate.parameter().to_owned(), (*value).to_owned()));
    MutableParameters::parse(&parameters.collect()).unwrap()
}

/// All four limits with that value.
pub(super) fn limits_in(value: &str) -> MutableParameters {
    changes(&Rate::ALL.map(|rate| (rate, value)))
}

pub(super) fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

pub(super) fn host(world: &World) -> Host {
    world.host(&Process::new(&world.machine, Plan::Lives))
}

/// Waits until the file has this text.
pub(super) async fn becomes(file: &Path, wanted: &str) {
    let same = async {
        while text(file) != wanted {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let ended = tokio::time::timeout(SOON, same).await;
    assert!(ended.is_ok(), "{:?} instead of {wanted:?}", text(file));
}

#[test]
fn a_published_volume_has_its_limits_and_an_unpublished_one_has_none() {
    for usage in [LIMITED, Use { limits: LIMITS, ..Use::BLOCK }, Use { limits: LIMITS, ..Use::READ_ONLY_BLOCK }] {
        let (world, cgroups) = world(usage, &[Call::Create, Call::Stage]);
        let file = cgroup(&cgroups);
        run(async {
            let host = host(&world);
            world.send(&host, Call::Publish).await.unwrap();
            assert_eq!(text(&file), line(&world, "rbps=1048576 wbps=max riops=max wiops=7"), "{usage:?}");
            assert_eq!(host.get(&world.id, SOON).await.unwrap().limits, LIMITS);
            world.send(&host, Call::Unpublish).await.unwrap();
            assert_eq!(text(&file), line(&world, "rbps=max wbps=max riops=max wiops=max"), "{usage:?}");
        });
        world.succeeds(Call::Unstage);
        world.succeeds(Call::Delete);
    }
}

#[test]
fn a_volume_without_limits_needs_no_cgroups() {
    let (world, cgroups) = world(Use::MOUNT, &[Call::Create, Call::Stage]);
    let file = cgroup(&cgroups);
    run(async {
        let host = host(&world);
        world.send(&host, Call::Publish).await.unwrap();
        assert_eq!((text(&file).as_str(), host.limits().pods()), ("", Vec::new()));
    });
}

/// kubelet does not unpublish after a final error.
#[test]
fn a_failed_publish_leaves_no_limits() {
    let (mut world, cgroups) = world(LIMITED, &[Call::Create, Call::Stage]);
    let file = cgroup(&cgroups);
    world.succeeds(Call::Publish);
    let published = world.target.clone();
    // Another target is one too many for a volume with this access mode.
    world.target = PathBuf::from(format!("{KUBELET}/pods/other/volumes/kubernetes.io~csi/pvc-1/mount"));
    for parent in world.target.ancestors().skip(1).filter(|path| path.starts_with(KUBELET)) {
        world.machine.state().paths.insert(parent.to_owned(), Kind::Directory);
    }
    run(async {
        let host = host(&world);
        assert_eq!(world.send(&host, Call::Publish).await.unwrap_err().reason, Reason::Precondition);
        assert_eq!(host.limits().pods(), [""; 0]);
    });
    assert_eq!(text(&file), line(&world, "rbps=1048576 wbps=max riops=max wiops=7"));
    world.target = published;
}

/// A write that fails causes a notification, too.
#[test]
fn a_cgroup_that_cannot_be_written_is_shown_and_not_tried_all_the_time() {
    let (world, cgroups) = world(LIMITED, &[Call::Create, Call::Stage]);
    let file = cgroup(&cgroups);
    run(async {
        let (host, stopping) = (host(&world), CancellationToken::new());
        let kept = tokio::spawn(host.clone().keep_limits(stopping.clone()));
        world.send(&host, Call::Publish).await.unwrap();
        let lost = VolumeId { volume: "lost".to_owned(), ..world.id.clone() };
        let device = "1:1".parse().unwrap();
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        host.limits().register(UID, Limited { id: &lost, pool: "p", device }, LIMITS);
        assert!(host.limits().enforce(UID, device).await.is_err());
        let (count, why) = host.limits().not_in_force().remove("p").unwrap();
        assert_eq!(count, 2, "{why}");
        assert!(host.limits().has_just_failed(UID));
        stopping.cancel();
        kept.await.unwrap();
    });
}

/// Controllers write an event about it.
#[test]
fn controllers_learn_that_the_limits_of_a_volume_are_not_in_force_and_that_they_are_again() {
    let (world, cgroups) = world(LIMITED, &[Call::Create, Call::Stage]);
    let file = cgroup(&cgroups);
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    run(async {
        let (host, stopping) = (host(&world), CancellationToken::new());
        let kept = tokio::spawn(host.clone().keep_limits(stopping.clone()));
        let mut updates = host.watch().await.unwrap();
        let mut problem = async |wanted: &str| {
            let learned = async {
                while let Some(update) = updates.next().await {
                    let (Update::FullState(change) | Update::Change(change)) = update.unwrap() else { continue };
                    let of = |volume: &Volume| volume.limits_problem.clone();
                    if change
                        .volumes
                        .iter()
                        .map(of)
                        .any(|why| why.contains(wanted) && why.is_empty() == wanted.is_empty())
                    {
                        return;
                    }
                }
            };
            // The pool is read again every five seconds in any case.
            tokio::time::timeout(SOON / 4, learned).await.unwrap_or_else(|_| panic!("{wanted:?} was not published"));
        };
        // From now on, the storage does not change.
        problem("").await;
        world.send(&host, Call::Publish).await.unwrap();
        problem("io.max: ").await;
        std::fs::remove_dir(&file).unwrap();
        std::fs::write(&file, "").unwrap();
        host.limits().enforce(UID, world.disk().number).await.unwrap();
        problem("").await;
        stopping.cancel();
        kept.await.unwrap();
    });
}

#[test]
fn a_pod_that_gets_its_cgroup_later_gets_the_limits_with_it() {
    let (world, cgroups) = world(LIMITED, &[Call::Create, Call::Stage]);
    run(async {
        let (host, stopping) = (host(&world), CancellationToken::new());
        let kept = tokio::spawn(host.clone().keep_limits(stopping.clone()));
        world.send(&host, Call::Publish).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let file = cgroup(&cgroups);
        let wanted = line(&world, "rbps=1048576 wbps=max riops=max wiops=7");
        becomes(&file, &wanted).await;
        // Another program removes them.
        std::fs::write(&file, line(&world, "rbps=max wbps=max riops=max wiops=max")).unwrap();
        becomes(&file, &wanted).await;
        stopping.cancel();
        kept.await.unwrap();
    });
}

#[test]
fn a_restarted_plugin_brings_the_limits_of_running_pods_into_force() {
    for usage in [LIMITED, Use { limits: LIMITS, ..Use::READ_ONLY_BLOCK }] {
        let (world, cgroups) = world(usage, &[Call::Create, Call::Stage]);
        let file = cgroup(&cgroups);
        world.succeeds(Call::Publish);
        std::fs::write(&file, "").unwrap();
        run(async {
            let stopping = CancellationToken::new();
            let kept = tokio::spawn(host(&world).keep_limits(stopping.clone()));
            becomes(&file, &line(&world, "rbps=1048576 wbps=max riops=max wiops=7")).await;
            stopping.cancel();
            kept.await.unwrap();
        });
    }
}

/// kubelet repeats the call, and has made the cgroup by then.
#[test]
fn a_volume_that_requires_its_limits_waits_for_the_cgroup_of_its_pod() {
    let (world, cgroups) = world(Use { requires_limits: true, ..LIMITED }, &[Call::Create, Call::Stage]);
    run(async {
        let host = host(&world);
        let error = world.send(&host, Call::Publish).await.unwrap_err();
        assert_eq!(error.reason, Reason::Unavailable, "{error}");
        assert!(error.message.contains("has no cgroup yet") && host.limits().pods().is_empty(), "{error}");
        let file = cgroup(&cgroups);
        world.send(&host, Call::Publish).await.unwrap();
        assert_eq!(text(&file), line(&world, "rbps=1048576 wbps=max riops=max wiops=7"));
    });
}

/// The record has the limits, and a staged volume is published although its pool cannot be read.
#[test]
fn a_pool_that_can_be_read_again_gives_its_volumes_their_limits() {
    let (world, cgroups) = world(LIMITED, &[Call::Create, Call::Stage]);
    let file = cgroup(&cgroups);
    world.pool.set_unreadable(Some("as configured"));
    run(async {
        let host = host(&world);
        world.send(&host, Call::Publish).await.unwrap();
        assert_eq!(text(&file), "");
        world.pool.set_unreadable(None);
        becomes(&file, &line(&world, "rbps=1048576 wbps=max riops=max wiops=7")).await;
        world.send(&host, Call::Unpublish).await.unwrap();
        assert_eq!(text(&file), line(&world, "rbps=max wbps=max riops=max wiops=max"));
    });
}

/// A pod has the limits of each of its volumes, and loses only those of the one that is unpublished.
#[test]
fn two_volumes_in_one_pod_have_their_own_limits() {
    let (world, cgroups) = world(LIMITED, &[Call::Create, Call::Stage]);
    let file = cgroup(&cgroups);
    run(async {
        let host = host(&world);
        world.send(&host, Call::Publish).await.unwrap();
        let other = VolumeId { volume: "other".to_owned(), ..world.id.clone() };
        let device = "8:77".parse().unwrap();
        host.limits().register(UID, Limited { id: &other, pool: "p", device }, LIMITS);
        // Plain files have only the last line that was written.
        host.limits().enforce(UID, device).await.unwrap();
        assert_eq!(text(&file), "8:77 rbps=1048576 wbps=max riops=max wiops=7");
        let both = format!("{}\n{}", text(&file), line(&world, "rbps=1048576 wbps=max riops=max wiops=7"));
        std::fs::write(&file, both).unwrap();
        world.send(&host, Call::Unpublish).await.unwrap();
        assert_eq!(text(&file), line(&world, "rbps=max wbps=max riops=max wiops=max"));
        assert_eq!(host.limits().pods(), [UID]);
        host.limits().withdraw(UID, &other).await;
        assert_eq!(host.limits().pods(), [""; 0]);
    });
}

#[test]
fn changed_limits_hold_for_running_pods() {
    let (world, cgroups) = world(Use::MOUNT, &[Call::Create, Call::Stage]);
    let file = cgroup(&cgroups);
    world.succeeds(Call::Publish);
    let modify = |pairs: &[(Rate, &str)]| {
        // A new process knows nothing but the record and the mounts.
        run(async { host(&world).modify(&world.id, changes(pairs), SOON).await.unwrap().0.limits })
    };
    assert_eq!(modify(&[(Rate::WriteBytes, "64Ki"), (Rate::ReadIops, "9")]).get(Rate::WriteBytes), Some(64 << 10));
    assert_eq!(text(&file), line(&world, "rbps=max wbps=65536 riops=9 wiops=max"));
    assert!(world.record().ends_with("/r=0.65536.9.0"), "{}", world.record());
    modify(&[(Rate::WriteBytes, "none")]);
    assert_eq!(text(&file), line(&world, "rbps=max wbps=max riops=9 wiops=max"));
    assert!(modify(&[(Rate::ReadIops, "none")]).is_none());
    assert_eq!(text(&file), line(&world, "rbps=max wbps=max riops=max wiops=max"));
    assert!(!world.record().contains("/r="), "{}", world.record());
    world.succeeds(Call::Unpublish);
}

/// After a kill, the next process brings into force what the record says, and a retry succeeds.
#[test]
fn a_change_of_limits_can_be_killed_anywhere() {
    let mut killed = 0;
    for (value, record, limits) in [
        ("9", "/r=1048576.0.9.7", "rbps=1048576 wbps=max riops=9 wiops=7"),
        ("none", "/r=1048576.0.0.7", "rbps=1048576 wbps=max riops=max wiops=7"),
        ("none", "", "rbps=max wbps=max riops=max wiops=max"),
    ] {
        for before in 0.. {
            // Without a record, all are removed.
            let others = (!record.is_empty()).then_some(1 << 20);
            let usage = Use { limits: IoLimits::new([others, None, Some(5), others.map(|_| 7)]), ..Use::MOUNT };
            let (world, cgroups) = world(usage, &[Call::Create, Call::Stage]);
            let file = cgroup(&cgroups);
            world.succeeds(Call::Publish);
            world.changes.set(changes(&[(Rate::ReadIops, value)]));
            let answer = world.call_as(&Process::new(&world.machine, Plan::Killed { before }), Call::Modify);
            let is_changed =
                if record.is_empty() { !world.record().contains("/r=") } else { world.record().ends_with(record) };
            let before_change = if record.is_empty() {
                "rbps=max wbps=max riops=5 wiops=max"
            } else {
                "rbps=1048576 wbps=max riops=5 wiops=7"
            };
            let wanted = if is_changed { limits } else { before_change };
            if !record.is_empty() || !is_changed {
                // What is in the cgroup is only the record's.
                std::fs::write(&file, "").unwrap();
            }
            run(async {
                let stopping = CancellationToken::new();
                let kept = tokio::spawn(host(&world).keep_limits(stopping.clone()));
                becomes(&file, &line(&world, wanted)).await;
                stopping.cancel();
                kept.await.unwrap();
            });
            world.succeeds(Call::Modify);
            assert_eq!(world.record().contains("/r="), !record.is_empty(), "{}", world.record());
            assert!(world.record().ends_with(record), "{}", world.record());
            assert_eq!(text(&file), line(&world, limits));
            match answer {
                Answer::Killed => killed += 1,
                Answer::Ok => break,
                Answer::Rejected(error) => panic!("{error}"),
            }
        }
    }
    assert!(killed >= 2, "only {killed} kills");
}

#[test]
fn required_limits_that_cannot_be_in_force_prevent_the_publish() {
    let required = Use { requires_limits: true, ..LIMITED };
    // No cgroup v2.
    for (usage, refused) in [(required, true), (LIMITED, false)] {
        let (world, cgroups) = world(usage, &[Call::Create, Call::Stage]);
        std::fs::remove_file(cgroups.path().join("cgroup.controllers")).unwrap();
        if refused {
            let message = world.rejects(Call::Publish, Reason::Precondition);
            assert!(message.contains("\"limits: required\"") && message.contains("cgroup v2"), "{message}");
            assert!(!world.machine.state().exists(&world.target));
            let error = run(host(&world).modify(&world.id, changes(&[(Rate::ReadIops, "9")]), SOON)).unwrap_err();
            assert_eq!(error.reason, Reason::Precondition, "{error}");
            assert!(world.record().ends_with("/r=1048576.0.0.7!"), "{}", world.record());
        } else {
            run(async {
                let host = host(&world);
                world.send(&host, Call::Publish).await.unwrap();
                let hint = host.limits().hint("p").unwrap();
                assert!(hint.contains("1 volume in use are not in force: v: there is no cgroup v2 at"), "{hint}");
                assert_eq!(host.limits().hint("other"), None);
                world.send(&host, Call::Unpublish).await.unwrap();
                assert_eq!(host.limits().hint("p"), None);
            });
        }
    }
    // A target that is not a pod's.
    let mut world = World::new(required);
    [Call::Create, Call::Stage].into_iter().for_each(|call| world.succeeds(call));
    world.rejects(Call::Publish, Reason::Precondition);
    world.usage.requires_limits = false;
    world.succeeds(Call::Create);
    world.succeeds(Call::Publish);
}

#[test]
fn a_repeated_create_has_the_limits_of_the_last_request() {
    let (mut world, _cgroups) = world(LIMITED, &[Call::Create]);
    world.usage.limits = IoLimits::new([None, None, Some(3), None]);
    world.succeeds(Call::Create);
    assert!(world.record().contains("/r=0.0.3.0"), "{}", world.record());
    world.succeeds(Call::Stage);
    assert!(world.record().contains("/r=0.0.3.0"), "{}", world.record());
}

/// The kernel lets a write to `io.max` wait for the I/O of a disk, and a disk can hang. A named pipe does the same.
#[test]
fn a_write_that_hangs_delays_only_its_own_pod() {
    for requires_limits in [false, true] {
        let (world, cgroups) = world(Use { requires_limits, ..LIMITED }, &[Call::Create, Call::Stage]);
        let file = cgroup(&cgroups);
        std::fs::remove_file(&file).unwrap();
        nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
        run(async {
            let host = host(&world);
            let other = cgroups.path().join("kubepods/burstable/podother");
            std::fs::create_dir(&other).unwrap();
            std::fs::write(other.join("io.max"), "").unwrap();
            let (volume, device) =
                (VolumeId { volume: "other".to_owned(), ..world.id.clone() }, "1:1".parse().unwrap());
            let of_other = async {
                // While the other write hangs.
                tokio::time::sleep(Duration::from_millis(200)).await;
                let began = Instant::now();
                host.limits().register("other", Limited { id: &volume, pool: "p", device }, LIMITS);
                host.limits().enforce("other", device).await.unwrap();
                assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
            };
            let (published, ()) = tokio::join!(world.send(&host, Call::Publish), of_other);
            if requires_limits {
                let error = published.unwrap_err();
                assert_eq!(error.reason, Reason::Unavailable, "{error}");
                assert!(error.message.contains("a disk of the pod may hang"), "{error}");
            } else {
                published.unwrap();
                let (count, why) = host.limits().not_in_force().remove("p").unwrap();
                assert!(count == 1 && why.contains("a disk of the pod may hang"), "{why}");
            }
            let began = Instant::now();
            world.send(&host, Call::Unpublish).await.unwrap();
            assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
            assert_eq!(host.limits().pods(), [UID, "other"]);
            // The disk answers again.
            let hung = cgroups.path().join("hung");
            std::fs::rename(&file, &hung).unwrap();
            std::fs::write(&file, line(&world, "rbps=1048576 wbps=max riops=max wiops=7")).unwrap();
            drop(std::fs::OpenOptions::new().write(true).open(&hung).unwrap());
            becomes(&file, &line(&world, "rbps=max wbps=max riops=max wiops=max")).await;
        });
    }
}

/// The record keeps limits that are still in force.
#[test]
fn limits_that_cannot_be_removed_stay_in_the_record() {
    let (world, cgroups) = world(LIMITED, &[Call::Create, Call::Stage]);
    let file = cgroup(&cgroups);
    run(async {
        let host = host(&world);
        world.send(&host, Call::Publish).await.unwrap();
        let before = world.record();
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        let error = host.modify(&world.id, limits_in("none"), SOON).await.unwrap_err();
        assert_eq!(error.reason, Reason::Unavailable, "{error}");
        assert!(error.message.contains("its limits cannot be removed"), "{error}");
        assert_eq!(world.record(), before);
        std::fs::remove_dir(&file).unwrap();
        std::fs::write(&file, line(&world, "rbps=1048576 wbps=max riops=max wiops=7")).unwrap();
        host.modify(&world.id, limits_in("none"), SOON).await.unwrap();
        assert_eq!(text(&file), line(&world, "rbps=max wbps=max riops=max wiops=max"));
        assert!(!world.record().contains("/r="), "{}", world.record());
    });
}

/// The record is the last that loses them.
#[test]
fn limits_that_cannot_be_removed_from_the_record_are_in_force_again() {
    let (world, cgroups) = world(LIMITED, &[Call::Create, Call::Stage]);
    let file = cgroup(&cgroups);
    run(async {
        let host = host(&world);
        world.send(&host, Call::Publish).await.unwrap();
        let before = (world.record(), text(&file));
        world.pool.fail_next(Operation::SetRecord, Failure::Before);
        host.modify(&world.id, limits_in("none"), SOON).await.unwrap_err();
        becomes(&file, &before.1).await;
        assert_eq!((world.record(), host.limits().pods()), (before.0, vec![UID.to_owned()]));
        host.modify(&world.id, limits_in("none"), SOON).await.unwrap();
        assert_eq!(text(&file), line(&world, "rbps=max wbps=max riops=max wiops=max"));
    });
}

/// The look-up of its limits was waiting for the pool.
#[test]
fn a_volume_that_was_unpublished_before_its_pool_could_be_read_gets_no_limits() {
    let (world, cgroups) = world(LIMITED, &[Call::Create, Call::Stage]);
    let file = cgroup(&cgroups);
    world.pool.set_unreadable(Some("as configured"));
    run(async {
        let host = host(&world);
        for _ in 0..2 {
            world.send(&host, Call::Publish).await.unwrap();
            world.send(&host, Call::Unpublish).await.unwrap();
        }
        world.pool.set_unreadable(None);
        // The pool is read again after a second, and after two.
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert_eq!(text(&file), "");
        assert_eq!(host.limits().pods(), [""; 0]);
        world.send(&host, Call::Publish).await.unwrap();
        assert_eq!(text(&file), line(&world, "rbps=1048576 wbps=max riops=max wiops=7"));
    });
}

/// The disk of the volume does not answer when the publish begins, and answers before it has mounted anything.
#[test]
fn a_publish_that_left_its_limits_to_a_look_up_gets_them() {
    let (world, cgroups) = world(LIMITED, &[Call::Create, Call::Stage]);
    let file = cgroup(&cgroups);
    run(async {
        // Before it makes the target.
        let process = Process::new(&world.machine, Plan::Pauses { before: 0 });
        let host = world.host(&process);
        world.machine.state().disk_hangs = true;
        let during = async {
            process.paused().await;
            assert_eq!(host.limits().pods(), [""; 0]);
            world.machine.state().disk_hangs = false;
            // The look-up begins after a second at the latest.
            tokio::time::sleep(Duration::from_secs(2)).await;
            process.resume();
        };
        let (published, ()) = tokio::join!(world.send(&host, Call::Publish), during);
        published.unwrap();
        becomes(&file, &line(&world, "rbps=1048576 wbps=max riops=max wiops=7")).await;
    });
}

/// Another call on the volume is running when its limits are looked up, at the start or later.
#[test]
fn limits_that_could_not_be_set_up_are_set_up_later() {
    for at_start in [true, false] {
        let (world, cgroups) = world(LIMITED, &[Call::Create, Call::Stage]);
        let file = cgroup(&cgroups);
        if at_start {
            world.succeeds(Call::Publish);
            std::fs::write(&file, "").unwrap();
        }
        run(async {
            let (host, stopping) = (host(&world), CancellationToken::new());
            if !at_start {
                world.pool.set_unreadable(Some("as configured"));
                world.send(&host, Call::Publish).await.unwrap();
                assert_eq!(text(&file), "");
            }
            let (release, released) = tokio::sync::oneshot::channel::<()>();
            let (tasks, name) = (host.tasks().clone(), world.id.volume.clone());
            let running = tokio::spawn(async move {
                let work = |_| async move { Ok(released.await.is_ok()) };
                tasks.run(&name, "stage", SOON, work).await
            });
            tokio::task::yield_now().await;
            world.pool.set_unreadable(None);
            let kept = at_start.then(|| tokio::spawn(host.clone().keep_limits(stopping.clone())));
            // It is looked up after a second at the latest.
            tokio::time::sleep(Duration::from_millis(1500)).await;
            assert_eq!(text(&file), "");
            release.send(()).unwrap();
            assert!(running.await.unwrap().unwrap());
            becomes(&file, &line(&world, "rbps=1048576 wbps=max riops=max wiops=7")).await;
            world.send(&host, Call::Unpublish).await.unwrap();
            stopping.cancel();
            if let Some(kept) = kept {
                kept.await.unwrap();
            }
        });
    }
}
