//! Volumes that are filled from snapshots and from other volumes: killed between any two effects, with sources that
//! change or vanish, and while the copy runs.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use quarry_pool::{Operation, SnapshotHealth};
use quarry_volume::{
    AccessType, AccessTypes, Agent as _, ContentSource, Error, Filesystem, Reason, SizeRange, VolumeId, VolumeSpec,
};

use self::world::{COPY, Filled, From, LONG, SNAPSHOT, Source};
use super::killed::test_all;
use super::machine::{Plan, Process};
use super::world::{Answer, Call, SIZE, Use, World, staging};
use crate::Host;
use crate::agent::CREATE;

mod full_copy;
mod meanwhile;
mod world;

const SHORT: Duration = Duration::from_millis(100);
const MIB: u64 = 1 << 20;

/// All sources that can be copied.
const SOURCES: [(From, Source); 11] = [
    (From::Snapshot, Source::NeverUsed),
    (From::Snapshot, Source::Staged),
    (From::Snapshot, Source::Unstaged),
    (From::FullCopy, Source::NeverUsed),
    (From::FullCopy, Source::Staged),
    (From::FullCopy, Source::Unstaged),
    (From::Volume, Source::NeverUsed),
    (From::Volume, Source::Staged),
    (From::Volume, Source::Unstaged),
    (From::Offline, Source::NeverUsed),
    (From::Offline, Source::Unstaged),
];

/// Tests every way of use, on its own thread, with every source.
fn test_all_sources(test: impl Fn(Use, From, Source) + Sync) {
    test_all(Use::ALL, |usage| SOURCES.into_iter().for_each(|(from, source)| test(usage, from, source)));
}

#[test]
fn a_copy_is_complete_and_has_a_uuid_of_its_own() {
    test_all_sources(|usage, from, source| {
        for size in [SIZE, SIZE + 700 * MIB] {
            let mut filled = Filled::new(usage, from, source);
            filled.size = size;
            filled.created();
            assert_eq!(filled.copy().unwrap().size, size);
            // A retry finds it.
            let effects = filled.world.effects().len();
            filled.created();
            let repeated = filled.world.effects().len() - effects;
            assert!(repeated == 0 || source == Source::NeverUsed, "{:?}", filled.world.effects());
            // Also while the source is mounted.
            filled.on_host(async |host| filled.stage_on(&host).await).unwrap();
            let copy = filled.copy().unwrap();
            assert!(usage.access == AccessType::Block || copy.bytes.filesystem == size, "not grown");
            filled.on_host(async |host| filled.unstage_on(&host).await).unwrap();
            filled.live_on();
        }
    });
}

/// What happens after a kill, before the creation is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Retry,
    PowerCut,
    LatePowerCut,
    /// A pod writes to the source.
    SourceIsUsed,
}

/// The worlds in which the creation of the copy was killed before each of its effects.
fn killed(usage: Use, from: From, source: Source, size: u64) -> impl Iterator<Item = Filled> {
    (0..).map_while(move |before| {
        let mut filled = Filled::new(usage, from, source);
        filled.size = size;
        match filled.create(Plan::Killed { before }) {
            Answer::Killed => Some(filled),
            Answer::Ok => None,
            Answer::Rejected(error) => panic!("{usage:?} from {from:?}, killed before effect {before}: {error}"),
        }
    })
}

#[test]
fn a_retry_completes_a_killed_copy() {
    let then = [Then::Retry, Then::PowerCut, Then::LatePowerCut, Then::SourceIsUsed];
    // Each source has each kill point with one of them, and together the sources have all.
    let first = AtomicUsize::new(0);
    test_all_sources(|usage, from, source| {
        let first = first.fetch_add(1, Ordering::Relaxed);
        let mut worlds = 0;
        for filled in killed(usage, from, source, SIZE + 700 * MIB) {
            match then[(first + worlds) % then.len()] {
                Then::Retry => {}
                Then::PowerCut => filled.world.machine.cut_power(false),
                Then::LatePowerCut => filled.world.machine.cut_power(true),
                Then::SourceIsUsed => filled.write(),
            }
            filled.created();
            filled.live_on();
            worlds += 1;
        }
        assert!(worlds >= 3, "{usage:?} from {from:?} was killed {worlds} times");
    });
}

#[test]
fn a_killed_copy_is_deleted_with_the_snapshot_that_serves_it() {
    test_all_sources(|usage, from, source| {
        let mut served = 0;
        for filled in killed(usage, from, source, SIZE) {
            served += usize::from(filled.for_clone().is_some());
            filled.live_on();
        }
        // A raw block volume is ready as soon as it exists.
        let expected = from == From::Volume && (source != Source::NeverUsed || usage.filesystem.is_none());
        assert_eq!(served > 3, expected, "{usage:?} from {from:?}: {served}");
    });
}

#[test]
fn a_killed_snapshot_is_taken_again() {
    test_all([Use::MOUNT, Use::BLOCK, Use::READ_ONLY_XFS], |usage| {
        let mut worlds = 0;
        for before in 0.. {
            let filled = Filled::without_snapshot(usage, From::Snapshot, Source::Staged);
            let take =
                |plan| filled.call(plan, async |host| host.create_snapshot(filled.snapshot(), LONG).await.map(drop));
            if !matches!(take(Plan::Killed { before }), Answer::Killed) {
                break;
            }
            let exists = filled.world.pool.record_of_snapshot(SNAPSHOT);
            // Nothing is filled from it before it is complete.
            let error = filled.rejected(if exists.is_some() { Reason::Unavailable } else { Reason::NotFound });
            assert!(error.message.contains("is not complete") || exists.is_none(), "{error}");
            assert!(filled.copy().is_none());
            filled.write();
            assert!(matches!(take(Plan::Lives), Answer::Ok));
            filled.created();
            filled.live_on();
            worlds += 1;
        }
        assert!(worlds >= 2, "{worlds}");
    });
}

#[test]
fn a_snapshot_is_found_again_and_its_name_is_not_used_twice() {
    let filled = Filled::new(Use::MOUNT, From::Snapshot, Source::Staged);
    filled.on_host(async |host| {
        let effects = filled.world.effects().len();
        let (snapshot, _) = host.create_snapshot(filled.snapshot(), LONG).await.unwrap();
        assert_eq!(snapshot, host.get_snapshot(&filled.snapshot_id(), LONG).await.unwrap());
        assert!(snapshot.ready && snapshot.size == SIZE && snapshot.source == filled.world.id);
        assert_eq!(filled.world.effects().len(), effects);
        let other = VolumeSpec::block("other", SIZE).in_pool("p");
        let (other, _) = host.create(other, None, LONG).await.unwrap();
        let mut spec = filled.snapshot();
        spec.source = other.id.clone();
        assert_eq!(host.create_snapshot(spec.clone(), LONG).await.unwrap_err().reason, Reason::Exists);
        host.delete(&other.id, LONG).await.unwrap();
        spec.name = "another".to_owned();
        assert_eq!(host.create_snapshot(spec, LONG).await.unwrap_err().reason, Reason::NotFound);
        // A volume with snapshots is not deleted.
        host.unpublish(&filled.world.id.to_string(), filled.world.target.clone(), LONG).await.unwrap();
        host.unstage(&filled.world.id.to_string(), staging(), LONG).await.unwrap();
        let error = host.delete(&filled.world.id, LONG).await.unwrap_err();
        assert!(error.reason == Reason::Precondition && error.message.contains(SNAPSHOT), "{error}");
        for _ in 0..2 {
            host.delete_snapshot(&filled.snapshot_id(), LONG).await.unwrap();
        }
        let gone = host.get_snapshot(&filled.snapshot_id(), LONG).await.unwrap_err();
        assert_eq!(gone.reason, Reason::NotFound);
    });
}

#[test]
fn a_volume_that_cannot_be_filled_is_not_created() {
    for from in [From::Snapshot, From::FullCopy, From::Volume, From::Offline] {
        let filled = Filled::new(Use::MOUNT, from, Source::Unstaged);
        let rejects = |reason: Reason, change: &dyn Fn(&mut VolumeSpec)| {
            let mut spec = filled.spec();
            change(&mut spec);
            let effects = filled.world.effects();
            let error = filled.on_host(async |host| host.create(spec, None, LONG).await).unwrap_err();
            assert_eq!(error.reason, reason, "{error}");
            assert_eq!(filled.world.effects(), effects, "{error}");
        };
        rejects(Reason::SizeOutOfRange, &|spec| spec.size = SizeRange { required: SIZE - 4 * MIB, limit: None });
        rejects(Reason::InvalidRequest, &|spec| spec.access = AccessTypes::Both);
        rejects(Reason::InvalidRequest, &|spec| spec.filesystem = Some(Filesystem::Xfs));
        rejects(Reason::InvalidRequest, &|spec| (spec.access, spec.filesystem) = (AccessTypes::Block, None));
        rejects(Reason::NotFound, &|spec| spec.source = Some(gone(&filled)));
        rejects(Reason::NoSpace, &|spec| {
            let elsewhere = VolumeId { node: "node-2".to_owned(), ..filled.world.id.clone() };
            spec.source = Some(ContentSource::Volume(elsewhere));
        });
        // A volume of this name with other contents.
        filled.created();
        rejects(Reason::Exists, &|spec| spec.source = None);
        let copy = filled.on_host(async |host| host.get(&filled.id(), LONG).await).unwrap();
        assert_eq!((copy.source, copy.copying), (Some(filled.source()), None));
        filled.live_on();
    }
}

/// The identifier of a source that does not exist.
fn gone(filled: &Filled) -> ContentSource {
    format!("{}-gone", filled.source()).parse().unwrap()
}

#[test]
fn a_copy_whose_source_is_gone_is_removed() {
    test_all([Use::MOUNT, Use::BLOCK, Use::BOTH], |usage| {
        let (mut removed, mut completed) = (0, 0);
        for filled in killed(usage, From::Snapshot, Source::Staged, SIZE) {
            // Outside Quarry.
            assert!(filled.world.pool.remove_by_hand(&format!("snapshot {SNAPSHOT}")));
            filled.world.machine.state().disks.remove(&super::machine::snapshot_node(SNAPSHOT));
            match filled.create(Plan::Lives) {
                // Everything was copied.
                Answer::Ok => completed += 1,
                Answer::Rejected(error) if error.reason == Reason::NotFound => {
                    assert!(filled.copy().is_none(), "{:?}", filled.world.effects());
                    removed += 1;
                }
                other => panic!("{other:?}"),
            }
            filled.live_on();
        }
        assert!(removed > 4 && completed >= 1, "{usage:?}: {removed}, {completed}");
    });
}

/// In a thin pool, only the copy finds that. It must not stay: it uses what space there was.
#[test]
fn a_copy_for_which_the_pool_has_no_space_is_removed() {
    test_all([Use::MOUNT, Use::BLOCK], |usage| {
        for from in [From::Snapshot, From::FullCopy, From::Volume, From::Offline] {
            for before in 0.. {
                let filled = Filled::new(usage, from, Source::Unstaged);
                let first = filled.world.effects().len();
                filled.world.machine.state().is_full = true;
                let (error, ended) = match filled.create(Plan::Killed { before }) {
                    // The claim was deleted meanwhile.
                    Answer::Killed if before % 2 == 0 => {
                        filled.live_on();
                        continue;
                    }
                    Answer::Killed => (filled.rejected(Reason::NoSpace), false),
                    Answer::Rejected(error) => {
                        // So it was also killed between the failure and the removal.
                        let effects = &filled.world.effects()[first..];
                        let [copied, removed] =
                            ["copy", "remove"].map(|name| effects.iter().rposition(|at| at == name));
                        assert!(copied.is_some() && copied < removed, "{effects:?}");
                        (error, true)
                    }
                    Answer::Ok => panic!("it has no space"),
                };
                assert_eq!(error.reason, Reason::NoSpace, "{error}");
                assert!(error.message.contains("pool p") && error.message.contains("was removed"), "{error}");
                assert!(filled.copy().is_none() && filled.for_clone().is_none(), "{:?}", filled.world.effects());
                filled.world.machine.state().is_full = false;
                filled.created();
                filled.live_on();
                if ended {
                    break;
                }
            }
        }
    });
}

#[test]
fn an_overflown_snapshot_fills_nothing() {
    let filled = Filled::new(Use::MOUNT, From::Snapshot, Source::Staged);
    filled.world.pool.set_snapshot_health(SNAPSHOT, SnapshotHealth::Invalid("it is full".to_owned()));
    let error = filled.rejected(Reason::Precondition);
    assert!(error.message.contains("it is full"), "{error}");
    assert!(filled.copy().is_none());
    let shown = filled.on_host(async |host| host.get_snapshot(&filled.snapshot_id(), LONG).await).unwrap();
    assert!(!shown.ready && shown.problem == "it is full");
    filled.live_on();
}

#[test]
fn a_volume_without_snapshots_is_cloned_only_while_it_is_unused() {
    for usage in [Use::MOUNT, Use::BLOCK] {
        let filled = match usage.filesystem {
            Some(_) => Filled::new(usage, From::Offline, Source::Staged),
            None => {
                // Only its publication uses it.
                let filled = Filled::new(usage, From::Offline, Source::NeverUsed);
                filled.world.succeeds(Call::Publish);
                filled
            }
        };
        let error = filled.rejected(Reason::Precondition);
        assert!(error.message.contains("while no pod uses it: stop its pods"), "{error}");
        assert!(filled.copy().is_none());
        filled.unstage();
        filled.created();
        filled.live_on();
    }
}

/// Nothing of the copy can be used, because the source may have other contents now.
#[test]
fn an_interrupted_copy_of_a_volume_that_is_in_use_again_is_removed() {
    let (mut removed, mut completed) = (0, 0);
    for filled in killed(Use::MOUNT, From::Offline, Source::Unstaged, SIZE) {
        filled.world.succeeds(Call::Stage);
        match filled.create(Plan::Lives) {
            Answer::Ok => completed += 1,
            Answer::Rejected(error) if error.reason == Reason::Precondition => {
                assert!(filled.copy().is_none(), "{:?}", filled.world.effects());
                removed += 1;
            }
            other => panic!("{other:?}"),
        }
        filled.live_on();
    }
    assert!(removed > 4 && completed >= 1, "{removed}, {completed}");
}

/// While the copy makes no progress.
#[test]
fn nothing_uses_a_copy_or_removes_its_source_before_it_is_complete() {
    for from in [From::Snapshot, From::FullCopy, From::Volume, From::Offline] {
        let filled = Filled::new(Use::MOUNT, from, Source::Unstaged);
        filled.world.machine.state().stalled = true;
        filled.on_host(async |host| {
            let under_way = |error: Error| {
                assert_eq!(error.reason, Reason::UnderWay, "{error}");
                error.message
            };
            let error = under_way(host.create(filled.spec(), None, SHORT).await.unwrap_err());
            assert!(error.contains("copied 0 of"), "{error}");
            let size = SizeRange { required: 2 * SIZE, limit: None };
            under_way(host.expand(&filled.id(), size, LONG).await.unwrap_err());
            let copy = host.get(&filled.id(), LONG).await.unwrap();
            assert!(copy.copying.is_some() && !copy.ready, "{copy:?}");
            let error = match from {
                From::Snapshot | From::FullCopy => host.delete_snapshot(&filled.snapshot_id(), LONG).await.unwrap_err(),
                From::Volume | From::Offline => host.delete(&filled.world.id, LONG).await.unwrap_err(),
            };
            assert!(under_way(error).contains(COPY));
            // A deletion stops the copy.
            host.delete(&filled.id(), LONG).await.unwrap();
        });
        assert!(filled.copy().is_none() && filled.for_clone().is_none());
        filled.live_on();
    }
}

/// No task is in progress.
#[test]
fn nothing_uses_an_interrupted_copy_or_removes_its_source() {
    for from in [From::Snapshot, From::FullCopy, From::Volume, From::Offline] {
        let mut interrupted = 0;
        for filled in killed(Use::MOUNT, from, Source::Unstaged, SIZE) {
            if !filled.record().starts_with("quarry2/") {
                continue;
            }
            filled.on_host(async |host| {
                let size = SizeRange { required: 2 * SIZE, limit: None };
                let expansion = host.expand(&filled.id(), size, LONG).await.unwrap_err();
                let stage = filled.stage_on(&host).await.unwrap_err();
                let deletion = match from {
                    From::Snapshot | From::FullCopy => {
                        host.delete_snapshot(&filled.snapshot_id(), LONG).await.unwrap_err()
                    }
                    From::Volume | From::Offline => host.delete(&filled.world.id, LONG).await.unwrap_err(),
                };
                for error in [expansion, stage, deletion] {
                    assert_eq!(error.reason, Reason::UnderWay, "{error}");
                    assert!(error.message.contains("copied"), "{error}");
                }
            });
            interrupted += 1;
            filled.live_on();
        }
        assert!(interrupted > 4, "{from:?}: {interrupted}");
    }
}

#[test]
fn a_snapshot_that_no_clone_needs_is_removed() {
    let mut left = 0;
    for filled in killed(Use::MOUNT, From::Volume, Source::Staged, SIZE) {
        if filled.for_clone().is_none() {
            continue;
        }
        // The clone was removed outside Quarry.
        filled.world.pool.remove_by_hand(COPY);
        filled.world.machine.state().disks.remove(&super::machine::node(COPY));
        filled.on_host(async |host| {
            let _updates = host.watch().await.unwrap();
            while filled.world.pool.record_of_snapshot(&format!("for clone {COPY}")).is_some() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        left += 1;
        filled.live_on();
    }
    assert!(left > 4, "{left}");
}

/// The clone may be in the pool that hangs, and its name would be held until that answers.
#[test]
fn a_snapshot_that_no_clone_needs_is_removed_although_a_disk_hangs() {
    let Some(filled) = killed(Use::MOUNT, From::Volume, Source::Staged, SIZE).find(|it| it.for_clone().is_some())
    else {
        panic!("no snapshot was left")
    };
    filled.world.pool.remove_by_hand(COPY);
    filled.world.machine.state().disks.remove(&super::machine::node(COPY));
    filled.on_host(async |host| {
        filled.world.machine.state().disk_hangs = true;
        assert!(host.clean_up_after_copies(&host.pools()[0], None).await);
        assert!(filled.for_clone().is_none());
    });
    filled.live_on();
}

/// What cannot be repeated keeps a deletion or the end of the process waiting no longer than necessary.
#[test]
fn a_copy_that_is_asked_to_stop_does_not_begin_what_cannot_be_repeated() {
    let mut stopped = 0;
    for before in 0.. {
        let filled = Filled::new(Use::MOUNT, From::Volume, Source::Staged);
        let first = filled.world.effects().len() + before;
        let volume = filled.id().volume;
        let stop = async |host: &Host| host.tasks().stop(&volume, CREATE, Duration::ZERO).await;
        let Some(((), created)) = filled.create_while(before, stop) else { break };
        let effects = filled.world.effects();
        // Directly before it, the record says that it begins.
        let begun = effects[first..].iter().position(|effect| effect == "start to set UUID");
        assert!(begun.is_none_or(|after| after <= 1), "{:?}", &effects[first..]);
        if let Err(error) = created {
            assert_eq!(error.reason, Reason::UnderWay, "{error}");
            stopped += usize::from(effects[first..].iter().any(|effect| effect == "recover"));
        }
        filled.created();
        filled.live_on();
    }
    assert!(stopped > 0);
}

/// Each failed search for such snapshots would otherwise be repeated by one more task, for as long as the pool is away.
#[test]
fn a_pool_that_cannot_be_read_is_searched_by_one_task() {
    let world = World::new(Use::MOUNT);
    let process = Process::new(&world.machine, Plan::Lives);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let host = world.host(&process);
        let reads_in_an_hour = async || {
            let before = world.pool.begun(Operation::Read);
            tokio::time::sleep(Duration::from_secs(3600)).await;
            world.pool.begun(Operation::Read) - before
        };
        world.pool.set_unreadable(Some("its disk is away"));
        host.clean_up_after_copies_later();
        let of_one = reads_in_an_hour().await;
        (0..10).for_each(|_| host.clean_up_after_copies_later());
        let of_all = reads_in_an_hour().await;
        assert!(of_one > 50 && of_all <= of_one + 2, "{of_one}, {of_all}");
        // It ends, and a later call begins another one.
        world.pool.set_unreadable(None);
        assert!(reads_in_an_hour().await > 0);
        assert_eq!(reads_in_an_hour().await, 0);
        host.clean_up_after_copies_later();
        assert!(reads_in_an_hour().await > 0);
    });
}

/// The snapshot of an earlier clone of the same name has older contents.
#[test]
fn a_new_clone_does_not_use_the_snapshot_of_an_earlier_one() {
    for filled in killed(Use::MOUNT, From::Volume, Source::Staged, SIZE) {
        filled.world.pool.remove_by_hand(COPY);
        filled.world.machine.state().disks.remove(&super::machine::node(COPY));
        filled.write();
        filled.created();
        assert_eq!(filled.copy().unwrap().bytes.version, filled.world.disk().bytes.version);
        filled.live_on();
    }
}

#[test]
#[should_panic(expected = "a copy became ready that is not complete")]
fn a_missing_change_of_the_uuid_is_noticed() {
    let _disabled = quarry_fault::disable("copy-uuid");
    Filled::new(Use::MOUNT, From::Volume, Source::Staged).created();
}

#[test]
#[should_panic(expected = "not zeroed")]
fn a_tail_with_old_bytes_is_noticed() {
    let mut filled = Filled::new(Use::BLOCK, From::Volume, Source::Staged);
    filled.size = 2 * SIZE;
    let _disabled = quarry_fault::disable("copy-tail");
    filled.created();
}
