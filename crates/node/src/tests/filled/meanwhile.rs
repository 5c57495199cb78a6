//! What happens to the source between any two effects of a copy.

use quarry_pool::SnapshotHealth;
use quarry_volume::{Agent as _, Error, Filesystem, Reason, Result, SizeRange};

use super::super::killed::test_all;
use super::super::machine::{Content, snapshot_node};
use super::super::world::{Call, EXPANDED, SIZE, Use};
use super::world::{COPY, Filled, From, LONG, SNAPSHOT, Source};
use crate::Host;

/// Makes these calls for the source, up to the first that fails.
async fn make(filled: &Filled, host: &Host, calls: &[Call]) -> Result<()> {
    for call in calls {
        filled.world.send(host, *call).await?;
    }
    Ok(())
}

/// A pod begins to use the source, and writes to it.
async fn used(filled: &Filled, host: &Host) -> Result<()> {
    make(filled, host, &[Call::Stage, Call::Publish]).await?;
    if !filled.world.usage.read_only {
        match filled.world.disk().bytes.content {
            Content::Filesystem { .. } => filled.write(),
            _ => filled.world.machine.write_raw(&filled.world.id.volume),
        }
    }
    Ok(())
}

fn is_under_way(error: &Error) -> bool {
    error.reason == Reason::UnderWay
}

/// Lets a pod begin to use the source of an offline copy between any two effects. Returns how often it had to wait, and
/// how often the copy was rejected.
fn use_offline_source(usage: Use) -> (usize, usize) {
    let (mut waited, mut rejected) = (0, 0);
    for before in 0.. {
        let filled = Filled::new(usage, From::Offline, Source::Unstaged);
        let earlier = filled.world.disk().bytes.version;
        let Some((pod, copy)) = filled.create_while(before, async |host| used(&filled, host).await) else {
            filled.live_on();
            break;
        };
        match (pod, copy) {
            // The pod came first.
            (Ok(()), Err(error)) => {
                assert!(error.reason == Reason::Precondition || is_under_way(&error), "{error}");
                rejected += 1;
            }
            // It came after the copy was complete.
            (Ok(()), Ok(())) => assert_eq!(filled.copy().unwrap().bytes.version, earlier),
            (Err(error), Ok(())) => {
                assert!(is_under_way(&error) && error.message.contains("is being filled from it"), "{error}");
                waited += 1;
            }
            (pod, copy) => panic!("{usage:?}: {pod:?}, {copy:?} after {:?}", filled.world.effects()),
        }
        // The pod can begin, and end; then the copy can be made.
        filled.on_host(async |host| used(&filled, &host).await).unwrap();
        filled.unstage();
        filled.created();
        filled.live_on();
    }
    (waited, rejected)
}

#[test]
fn a_source_without_snapshots_is_not_used_while_it_is_copied() {
    let block_of_both = Use { both: true, filesystem: Some(Filesystem::Ext4), ..Use::BLOCK };
    test_all([Use::BLOCK, Use::READ_ONLY_BLOCK, block_of_both, Use::MOUNT], |usage| {
        let (waited, rejected) = use_offline_source(usage);
        assert!(waited > 3 && rejected > 0, "{usage:?}: {waited}, {rejected}");
    });
}

#[test]
#[should_panic(expected = "copied a device while a pod may use it")]
fn a_use_of_a_source_without_snapshots_is_noticed() {
    let _disabled = quarry_fault::disable("copy-offline");
    use_offline_source(Use::BLOCK);
}

#[test]
fn a_source_without_snapshots_keeps_its_size_while_it_is_copied() {
    test_all([Use::BLOCK, Use::MOUNT], |usage| {
        let (mut waited, mut expanded) = (0, 0);
        for before in 0.. {
            let mut filled = Filled::new(usage, From::Offline, Source::Unstaged);
            filled.size = EXPANDED;
            let size = SizeRange { required: EXPANDED, limit: None };
            let expand = async |host: &Host| host.expand(&filled.world.id, size, LONG).await.map(drop);
            let Some((expansion, copy)) = filled.create_while(before, expand) else {
                filled.live_on();
                break;
            };
            copy.unwrap();
            match expansion {
                Ok(()) => expanded += 1,
                Err(error) => {
                    assert!(is_under_way(&error), "{error}");
                    waited += 1;
                }
            }
            filled.created();
            filled.live_on();
        }
        assert!(waited > 3 && expanded > 1, "{usage:?}: {waited}, {expanded}");
    });
}

/// What was read last may be of another instant.
#[test]
fn a_snapshot_whose_contents_are_lost_during_the_copy_fills_nothing() {
    test_all([Use::MOUNT, Use::BLOCK], |usage| {
        let (mut removed, mut completed) = (0, 0);
        for before in 0.. {
            let filled = Filled::new(usage, From::Snapshot, Source::Staged);
            let lose = async |_: &Host| {
                filled.world.pool.set_snapshot_health(SNAPSHOT, SnapshotHealth::Invalid("it is full".to_owned()));
                // It is checked before and after the copy.
                filled.world.effects().iter().filter(|effect| *effect == "activate snapshot").count()
            };
            let Some((checks, copy)) = filled.create_while(before, lose) else { break };
            match copy {
                Ok(()) => {
                    assert_eq!(checks, 2, "{:?}", filled.world.effects());
                    completed += 1;
                }
                Err(error) => {
                    assert!(checks < 2 && error.message.contains("it is full"), "{error}");
                    // If the last check failed, a retry removes the volume.
                    if filled.copy().is_some() {
                        filled.rejected(Reason::Precondition);
                    }
                    assert!(filled.copy().is_none());
                    removed += 1;
                }
            }
            filled.live_on();
        }
        assert!(removed > 4 && completed >= 1, "{usage:?}: {removed}, {completed}");
    });
}

/// It was damaged already in the source.
#[test]
fn a_copy_whose_filesystem_cannot_be_used_is_removed() {
    for (step, words) in [("recover", "Structure needs cleaning"), ("set UUID", "as configured")] {
        for from in [From::Snapshot, From::Volume] {
            let filled = Filled::new(Use::MOUNT, from, Source::Staged);
            filled.world.machine.state().fails = Some(step);
            let error = filled.rejected(Reason::Precondition);
            assert!(error.message.contains(words), "{error}");
            assert!(filled.copy().is_none() && filled.for_clone().is_none(), "{:?}", filled.world.effects());
            filled.created();
            filled.live_on();
        }
    }
}

/// If it is encrypted, a deletion erases its keys before it removes it, and what is taken of it meanwhile has none.
#[test]
fn a_volume_is_not_deleted_while_a_snapshot_of_it_is_taken() {
    for from in [From::Snapshot, From::FullCopy] {
        let mut waited = 0;
        for before in 0.. {
            let filled = Filled::without_snapshot(Use::MOUNT, from, Source::Unstaged);
            let take = async |host: &Host| host.create_snapshot(filled.snapshot(), LONG).await.map(drop);
            let delete = async |host: &Host| host.delete(&filled.world.id, LONG).await.map(drop);
            let Some((deleted, taken)) = filled.call_while(before, take, delete) else { break };
            taken.unwrap();
            match deleted {
                // A full copy was complete already.
                Ok(()) => assert!(from == From::FullCopy && filled.snapshot_disk().is_some_and(|copy| copy.ready)),
                Err(error) => {
                    assert!(is_under_way(&error), "{error}");
                    waited += usize::from(error.message.contains("snapshot snap is being taken of it"));
                }
            }
        }
        assert!(waited > 1, "{from:?}: {waited}");
    }
}

/// What is recorded about its contents is that of the volume whose contents it has.
#[test]
fn a_snapshot_of_a_volume_that_is_just_used_first_is_not_empty() {
    for from in [From::Snapshot, From::FullCopy] {
        let mut changed = 0;
        for before in 0.. {
            let filled = Filled::without_snapshot(Use::MOUNT, from, Source::NeverUsed);
            let take = async |host: &Host| host.create_snapshot(filled.snapshot(), LONG).await.map(drop);
            let Some((used, taken)) = filled.call_while(before, take, async |host| used(&filled, host).await) else {
                break;
            };
            used.unwrap();
            if let Err(error) = taken {
                assert!(error.reason == Reason::Unavailable && error.message.contains("retry"), "{error}");
                changed += 1;
            }
            // A retry takes it, and what is restored has what the snapshot has.
            filled.take();
            let is_empty = filled.world.pool.record_of_snapshot(SNAPSHOT).is_some_and(|record| record.contains("/e="));
            let has_data = filled.snapshot_disk().unwrap().bytes.version > 0;
            assert!(!(is_empty && has_data), "{from:?}: {:?}", filled.world.effects());
            filled.on_host(async |host| host.create(filled.spec(), None, LONG).await.map(drop)).unwrap();
            filled.live_on();
        }
        assert!(changed > 0, "{from:?}");
    }
}

#[test]
fn a_source_is_not_deleted_while_a_volume_is_created_that_shares_its_contents() {
    for from in [From::Snapshot, From::Volume] {
        let mut waited = 0;
        for before in 0.. {
            let filled = Filled::new(Use::BLOCK, from, Source::Unstaged);
            filled.world.shares.set(true);
            let at = filled.world.effects().len() + before;
            let delete = async |host: &Host| match from {
                From::Volume => host.delete(&filled.world.id, LONG).await.map(drop),
                _ => host.delete_snapshot(&filled.snapshot_id(), LONG).await.map(drop),
            };
            let Some((deleted, created)) = filled.create_while(before, delete) else { break };
            created.unwrap();
            let is_before = filled.world.effects().get(at).is_some_and(|effect| effect == "create with contents");
            match deleted {
                Ok(()) => assert!(!is_before, "{:?}", filled.world.effects()),
                Err(error) => assert!(is_under_way(&error), "{error}"),
            }
            waited += usize::from(is_before);
        }
        assert_eq!(waited, 1, "{from:?}");
    }
}

#[test]
fn a_source_that_no_pod_uses_is_inactive_afterwards() {
    test_all([Use::MOUNT, Use::BLOCK, Use { sysfs: false, ..Use::MOUNT }], |usage| {
        for from in [From::Snapshot, From::Volume, From::Offline] {
            let filled = Filled::without_snapshot(usage, from, Source::Unstaged);
            filled.world.snapshots.set(from != From::Offline);
            filled.world.deactivate();
            if from == From::Snapshot {
                filled.on_host(async |host| host.create_snapshot(filled.snapshot(), LONG).await.map(drop)).unwrap();
            }
            filled.created();
            if from == From::Snapshot {
                filled.on_host(async |host| host.delete_snapshot(&filled.snapshot_id(), LONG).await.map(drop)).unwrap();
            }
            assert!(!filled.world.disk().active, "{from:?}: {:?}", filled.world.effects());
            filled.live_on();
        }
    });
}

/// A published raw block volume need not be open.
#[test]
fn a_source_that_a_pod_uses_stays_active() {
    for from in [From::Snapshot, From::Volume] {
        for before in 0.. {
            let filled = Filled::new(Use::BLOCK, from, Source::Staged);
            let name = if from == From::Snapshot { SNAPSHOT.to_owned() } else { format!("for clone {COPY}") };
            // Outside Quarry.
            let remove = async |_: &Host| {
                filled.world.pool.remove_by_hand(&format!("snapshot {name}"));
                filled.world.machine.state().disks.remove(&snapshot_node(&name));
            };
            let ended = filled.create_while(before, remove).is_none();
            assert!(filled.world.disk().active, "{from:?}: {:?}", filled.world.effects());
            if ended {
                break;
            }
            filled.delete();
            filled.unstage();
        }
    }
}

#[test]
fn a_copy_without_a_requested_size_has_that_of_its_source() {
    for from in [From::Volume, From::Offline] {
        let mut filled = Filled::new(Use::MOUNT, from, Source::Unstaged);
        filled.size = 0;
        filled.created();
        assert_eq!(filled.copy().unwrap().size, SIZE);
        // A retry finds it, although its source has grown since.
        filled.world.succeeds(Call::Expand);
        filled.created();
        if from == From::Offline {
            filled.delete();
            filled.created();
            assert_eq!(filled.copy().unwrap().size, EXPANDED);
        }
        let mut limited = filled.spec();
        (limited.name, limited.size.limit) = ("other".to_owned(), Some(SIZE));
        let error = filled.on_host(async |host| host.create(limited, None, LONG).await).unwrap_err();
        assert_eq!(error.reason, Reason::SizeOutOfRange, "{error}");
        filled.live_on();
    }
}
