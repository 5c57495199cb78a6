//! The simulated pool behaves as the tests that use it expect.

// Test helpers may panic like tests.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::time::Duration;

use proptest::prelude::*;
use quarry_pool::{
    Device, Failure, Operation, Pool, SimulatedPool, SnapshotHealth, SnapshotKind, SnapshotRecord, State,
};
use quarry_volume::{CowSize, Gib, Layout, Reason, SizeRange, VolumeId, VolumeSpec, Wipe};

const EXTENT: u64 = 4 << 20;

fn spec(name: &str, size: u64, layout: Layout) -> VolumeSpec {
    VolumeSpec::block(name, size).with_layout(layout)
}

fn pool(disks: &[u64]) -> SimulatedPool {
    SimulatedPool::new("p", EXTENT, disks.to_vec(), Duration::ZERO)
}

fn now<T>(future: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().expect("runtime").block_on(future)
}

#[test]
fn a_volume_is_created_changed_and_removed() {
    let pool = pool(&[10, 10]);
    now(async {
        let made = pool.create(&spec("a", EXTENT, Layout::Linear)).await.unwrap();
        let again = pool.create(&spec("a", EXTENT, Layout::Linear)).await.unwrap_err();
        assert_eq!(again.reason, Reason::Exists);
        pool.set_record(&made, &made.record().unwrap().ready()).await.unwrap();
        let found = pool.find_requested("a").await.unwrap().unwrap();
        assert_eq!(found.record().unwrap().state, State::Ready);
        let stale = pool.set_record(&made, &made.record().unwrap().zeroed(Gib(1))).await.unwrap_err();
        assert_eq!(stale.reason, Reason::Precondition, "the record has changed since");
        pool.remove(&found).await.unwrap();
        assert_eq!(pool.free(), [10, 10]);
        let next = pool.create(&spec("a", EXTENT, Layout::Linear)).await.unwrap();
        assert_ne!(next.uuid(), made.uuid());
        assert_eq!(pool.remove(&made).await.unwrap_err().reason, Reason::Unavailable, "another one of that name");
    });
}

#[test]
fn a_volume_is_expanded_with_space_that_was_reserved() {
    let pool = pool(&[10, 10]);
    let size = |extents: u64| SizeRange { required: extents * EXTENT, limit: None };
    now(async {
        let volume = pool.create(&spec("a", 2 * EXTENT, Layout::Linear)).await.unwrap();
        assert!(pool.reserve_expansion(&volume, &size(2)).await.unwrap().is_none());
        let first = pool.reserve_expansion(&volume, &size(4)).await.unwrap().unwrap();
        assert_eq!((first.size, pool.free()), (4 * EXTENT, vec![10, 6]));
        pool.set_expansion_zeroed(&volume, Gib(3)).await.unwrap();
        let again = pool.reserve_expansion(&volume, &size(4)).await.unwrap().unwrap();
        assert_eq!(again.device.unwrap().zeroed, Gib(3), "the same space");
        // Another size needs other space.
        let second = pool.reserve_expansion(&volume, &size(5)).await.unwrap().unwrap();
        assert_eq!((second.device.as_ref().unwrap().zeroed, pool.free()), (Gib::NONE, vec![10, 5]));
        assert_eq!(pool.expand(&volume, &first).await.unwrap_err().reason, Reason::Unavailable);
        // It is not a volume, but it uses space.
        assert_eq!((pool.names(), pool.status().await.volumes), (vec!["a".to_owned()], 1));
        let expanded = pool.expand(&volume, &second).await.unwrap();
        assert_eq!((expanded.size, expanded.uuid()), (5 * EXTENT, volume.uuid()));
        assert_eq!(expanded.record().unwrap().size, 2 * EXTENT, "its size at creation");
        assert_eq!(pool.expand(&volume, &second).await.unwrap().size, 5 * EXTENT, "idempotent");
        let error = pool.reserve_expansion(&expanded, &size(21)).await.unwrap_err();
        assert_eq!(error.reason, Reason::SizeOutOfRange);
        assert!(error.message.contains(&format!("is {} bytes", 20 * EXTENT)), "{error}");
        pool.reserve_expansion(&expanded, &size(20)).await.unwrap().unwrap();
        assert_eq!(pool.free(), [0, 0]);
        // What is not needed any more is released, and a removal releases everything.
        assert!(pool.reserve_expansion(&expanded, &size(5)).await.unwrap().is_none());
        assert_eq!(pool.free(), [10, 5]);
        pool.reserve_expansion(&expanded, &size(20)).await.unwrap().unwrap();
        pool.remove(&expanded).await.unwrap();
        assert_eq!(pool.free(), [10, 10]);
    });
}

#[test]
fn it_supports_what_it_reports() {
    let pool = pool(&[10, 10]);
    now(async {
        let state = pool.status().await;
        for layout in [Layout::Linear, Layout::Striped { stripes: 2, stripe_size: 65536 }, Layout::Raid1 { mirrors: 1 }]
        {
            for wipe in [None].into_iter().chain(Wipe::ALL.map(Some)) {
                let mut wanted = spec("a", EXTENT, layout);
                wanted.class.wipe = wipe;
                let supported = pool.supports(&wanted);
                assert_eq!(supported.is_ok(), wipe.is_none(), "{wanted:?}");
                assert_eq!(supported.is_ok(), state.capacity(&wanted.class).largest > 0, "{wanted:?}");
                let Err(error) = supported else { continue };
                assert_eq!(pool.create(&wanted).await.unwrap_err().message, error.message);
            }
        }
        assert_eq!(pool.begun(Operation::Create), 0);
    });
}

#[test]
fn failures_come_before_or_after_the_operation() {
    let pool = pool(&[10]);
    now(async {
        pool.fail_next(Operation::Create, Failure::Before);
        pool.fail_next(Operation::Create, Failure::After);
        assert!(pool.create(&spec("a", EXTENT, Layout::Linear)).await.is_err());
        assert_eq!(pool.names(), [""; 0]);
        assert!(pool.create(&spec("a", EXTENT, Layout::Linear)).await.is_err());
        assert_eq!(pool.names(), ["a"]);
        pool.set_unreadable(Some("no disks"));
        assert!(pool.volumes().await.unwrap_err().message.contains("no disks"));
        assert_eq!(pool.status().await.space.capacity(&Layout::Linear).largest, 0);
        pool.set_unreadable(None);
        pool.hang(true);
        assert!(tokio::time::timeout(Duration::from_secs(3600), pool.volumes()).await.is_err());
        pool.hang(false);
        assert_eq!(pool.volumes().await.unwrap().len(), 1);
    });
}

proptest! {
    /// Whatever was created before: the largest size that the pool reports can be created, and one unit more
    /// cannot.
    #[test]
    fn the_reported_size_can_be_created_and_nothing_larger(
        disks in prop::collection::vec(0_u64..40, 1..5),
        before in prop::collection::vec((1_u64..12, 0_usize..3), 0..8),
        kind in 0_usize..3,
    ) {
        let layouts = [Layout::Linear, Layout::Striped { stripes: 2, stripe_size: 65536 }, Layout::Raid1 { mirrors: 1 }];
        let pool = pool(&disks);
        let layout = layouts[kind];
        now(async {
            for (number, (extents, kind)) in before.into_iter().enumerate() {
                let _ = pool.create(&spec(&format!("v{number}"), extents * EXTENT, layouts[kind])).await;
            }
            let space = pool.status().await.space;
            let largest = space.capacity(&layout).largest;
            let more = pool.create(&spec("more", largest + 1, layout)).await.expect_err("it does not fit");
            assert_eq!(more.reason, Reason::NoSpace);
            if largest > 0 {
                assert_eq!(pool.create(&spec("largest", largest, layout)).await.expect("it fits").size, largest);
            }
            // The same for expansions: the error names the largest size.
            for volume in pool.volumes().await.expect("read") {
                let huge = SizeRange { required: 1 << 50, limit: None };
                let error = pool.reserve_expansion(&volume, &huge).await.expect_err("it does not fit");
                assert_eq!(error.reason, Reason::SizeOutOfRange);
                let most = error.message.rsplit(' ').nth(1).expect("a size").parse::<u64>().expect("a number");
                let size = |required| SizeRange { required, limit: None };
                let more = pool.reserve_expansion(&volume, &size(most + 1)).await.expect_err("it does not fit");
                assert_eq!(more.reason, Reason::SizeOutOfRange);
                let Some(new) = pool.reserve_expansion(&volume, &size(most)).await.expect("it fits") else { continue };
                assert_eq!(pool.expand(&volume, &new).await.expect("reserved").size, most);
            }
            for volume in pool.volumes().await.expect("read") {
                pool.remove(&volume).await.expect("removed");
            }
            assert_eq!(pool.free(), disks, "everything comes back");
        });
    }
}

fn record_of_snapshot(volume: &quarry_pool::PoolVolume, name: &str) -> SnapshotRecord {
    let source = VolumeId { storage: volume.storage.clone(), node: "n".to_owned(), volume: volume.name.clone() };
    SnapshotRecord::new(name.to_owned(), source, volume.record().expect("its record"), None)
}

#[test]
fn a_snapshot_keeps_the_contents_of_its_instant() {
    let pool = pool(&[10, 20]);
    now(async {
        let made = pool.create(&spec("a", 2 * EXTENT, Layout::Linear)).await.unwrap();
        pool.write_by_hand("a", 7);
        assert!(pool.status().await.capabilities.snapshots);
        let taken = pool.take_snapshot(&made, &record_of_snapshot(&made, "s"), CowSize::Whole).await.unwrap();
        assert_eq!((taken.name.as_str(), taken.size, taken.allocated), ("s", 2 * EXTENT, 3 * EXTENT));
        assert!(taken.record.state == State::Ready && taken.record.created > 0);
        assert_eq!(pool.free(), [5, 20], "on the disk of its source");
        // It is not a volume, and each reading has it.
        let reading = pool.read(None).await;
        assert_eq!((reading.state.volumes, pool.names().len()), (1, 1));
        assert_eq!(pool.read(Some(reading.mark)).await.snapshots, std::slice::from_ref(&taken));
        assert_eq!(pool.snapshot("s").await.unwrap(), Some(taken.clone()));
        let again = pool.take_snapshot(&made, &record_of_snapshot(&made, "s"), CowSize::Whole).await.unwrap_err();
        assert_eq!(again.reason, Reason::Exists);
        // Its contents are copied to another volume.
        pool.write_by_hand("a", 8);
        let target = pool.create(&spec("b", 3 * EXTENT, Layout::Linear)).await.unwrap();
        let (Device::Simulated(from), Device::Simulated(to)) =
            (pool.activate_snapshot(&taken).await.unwrap(), pool.activate(&target).await.unwrap())
        else {
            panic!("not simulated");
        };
        to.copy_from(&from, EXTENT..2 * EXTENT).await.unwrap();
        assert_eq!(pool.contents_of("b"), Some((0, 0)), "not from the beginning");
        to.copy_from(&from, 0..EXTENT).await.unwrap();
        assert_eq!(pool.contents_of("b"), Some((0, EXTENT)));
        to.copy_from(&from, EXTENT..2 * EXTENT).await.unwrap();
        assert_eq!(pool.contents_of("b"), Some((7, 2 * EXTENT)));
        pool.remove_snapshot(&taken).await.unwrap();
        assert_eq!(pool.remove_snapshot(&taken).await.unwrap_err().reason, Reason::Unavailable);
        assert_eq!(pool.snapshots().await.unwrap(), []);
    });
}

/// The record of a snapshot is made from what the volume was.
#[test]
fn no_snapshot_is_taken_of_a_volume_whose_record_has_changed() {
    let pool = pool(&[20]);
    now(async {
        let made = pool.create(&spec("a", EXTENT, Layout::Linear)).await.unwrap();
        pool.set_record(&made, &made.record().unwrap().ready()).await.unwrap();
        let error = pool.take_snapshot(&made, &record_of_snapshot(&made, "s"), CowSize::Whole).await.unwrap_err();
        assert!(error.reason == Reason::Unavailable && error.message.contains("retry"), "{error}");
        assert_eq!((pool.snapshots().await.unwrap(), pool.free()), (Vec::new(), vec![19]));
        let now = pool.volume("a").await.unwrap().unwrap();
        pool.take_snapshot(&now, &record_of_snapshot(&now, "s"), CowSize::Whole).await.unwrap();
    });
}

#[test]
fn a_volume_with_snapshots_is_neither_removed_nor_expanded() {
    let pool = pool(&[20]);
    let larger = SizeRange { required: 2 * EXTENT, limit: None };
    now(async {
        let made = pool.create(&spec("a", EXTENT, Layout::Linear)).await.unwrap();
        let clone = record_of_snapshot(&made, "c").of_kind(SnapshotKind::ForClone);
        pool.take_snapshot(&made, &clone, CowSize::Whole).await.unwrap();
        let error = pool.remove(&made).await.unwrap_err();
        assert!(error.reason == Reason::UnderWay && error.message.contains("while c is being cloned"), "{error}");
        let taken = pool.take_snapshot(&made, &record_of_snapshot(&made, "s"), CowSize::Whole).await.unwrap();
        for error in [pool.remove(&made).await.unwrap_err(), pool.reserve_expansion(&made, &larger).await.unwrap_err()]
        {
            assert!(error.reason == Reason::Precondition && error.message.contains("delete s first"), "{error}");
        }
        pool.set_snapshot_health("s", SnapshotHealth::Invalid("it is full".to_owned()));
        assert_eq!(pool.activate_snapshot(&taken).await.unwrap_err().reason, Reason::Precondition);
        for snapshot in pool.snapshots().await.unwrap() {
            pool.remove_snapshot(&snapshot).await.unwrap();
        }
        pool.remove(&made).await.unwrap();
        assert_eq!(pool.free(), [20]);
    });
}

#[test]
fn a_full_copy_needs_its_snapshot_until_it_is_ready() {
    let pool = pool(&[20]);
    now(async {
        let made = pool.create(&spec("a", 2 * EXTENT, Layout::Linear)).await.unwrap();
        let record = record_of_snapshot(&made, "s");
        let serving = pool.take_snapshot(&made, &record.of_kind(SnapshotKind::ForCopy), CowSize::Whole).await.unwrap();
        let record = serving.record.served_copy();
        assert!(record.state == State::New && record.created > 0);
        let mut copy = pool.create_copy(&record, &serving).await.unwrap();
        assert_eq!((copy.name.as_str(), copy.size, copy.allocated), ("s", 2 * EXTENT, 2 * EXTENT));
        assert_eq!(pool.create_copy(&record, &serving).await.unwrap_err().reason, Reason::Exists);
        let error = pool.remove(&made).await.unwrap_err();
        assert!(error.reason == Reason::UnderWay && error.message.contains("snapshot s is being copied"), "{error}");
        let copied = record.of_kind(SnapshotKind::Copy { copied: Gib(1) });
        pool.set_snapshot_record(&copy, &copied).await.unwrap();
        assert_eq!(pool.set_snapshot_record(&copy, &copied).await.unwrap_err().reason, Reason::Precondition);
        copy.record = copied;
        for (health, expected) in [
            (SnapshotHealth::Whole, "whole"),
            (SnapshotHealth::Lost("its disk".to_owned()), "lost"),
            (SnapshotHealth::Invalid("it is full".to_owned()), "invalid"),
        ] {
            pool.set_snapshot_health("for snapshot s", health);
            let found = match pool.snapshot("s").await.unwrap().unwrap().health {
                SnapshotHealth::Whole => "whole",
                SnapshotHealth::Lost(_) => "lost",
                SnapshotHealth::Invalid(_) => "invalid",
                SnapshotHealth::Incomplete(_) => "incomplete",
            };
            assert_eq!(found, expected);
        }
        assert_eq!(pool.activate_snapshot(&copy).await.unwrap_err().reason, Reason::Precondition);
        pool.set_snapshot_record(&copy, &copy.record.ready(7)).await.unwrap();
        // Nothing else is needed now.
        pool.remove_snapshot(&pool.snapshot("for snapshot s").await.unwrap().unwrap()).await.unwrap();
        pool.remove(&made).await.unwrap();
        let copy = pool.snapshot("s").await.unwrap().unwrap();
        assert!(copy.health == SnapshotHealth::Whole && copy.record.state == State::Ready, "{copy:?}");
        pool.activate_snapshot(&copy).await.unwrap();
        pool.remove_snapshot(&copy).await.unwrap();
        assert_eq!(pool.free(), [20]);
    });
}

#[test]
fn a_snapshot_that_was_interrupted_is_incomplete() {
    let pool = pool(&[20]);
    now(async {
        let made = pool.create(&spec("a", EXTENT, Layout::Linear)).await.unwrap();
        let record = record_of_snapshot(&made, "s");
        pool.fail_next(Operation::TakeSnapshot, Failure::Before);
        pool.take_snapshot(&made, &record, CowSize::Whole).await.unwrap_err();
        assert_eq!(pool.snapshots().await.unwrap(), []);
        pool.fail_next(Operation::SetRecord, Failure::Before);
        let error = pool.take_snapshot(&made, &record, CowSize::Whole).await.unwrap_err();
        assert!(!error.reason.is_final(), "{error}");
        let left = pool.snapshot("s").await.unwrap().unwrap();
        assert!(matches!(left.health, SnapshotHealth::Incomplete(_)) && left.record.state == State::New);
        pool.remove_snapshot(&left).await.unwrap();
        // If the request is never repeated, it prevents nothing.
        for kind in [SnapshotKind::Cow, SnapshotKind::ForClone, SnapshotKind::ForCopy] {
            let leave = async || {
                pool.fail_next(Operation::SetRecord, Failure::Before);
                pool.take_snapshot(&made, &record.of_kind(kind), CowSize::Whole).await.unwrap_err();
            };
            leave().await;
            pool.check_removable(&made).await.unwrap();
            assert_eq!(pool.snapshots().await.unwrap(), []);
            leave().await;
            let larger = SizeRange { required: 2 * EXTENT, limit: None };
            if kind == SnapshotKind::Cow {
                // It may have been handed out, if an operator restored older metadata.
                let error = pool.reserve_expansion(&made, &larger).await.unwrap_err();
                assert_eq!(error.reason, Reason::Precondition, "{error}");
                let left = pool.snapshot("s").await.unwrap().unwrap();
                pool.remove_snapshot(&left).await.unwrap();
            }
            assert!(pool.reserve_expansion(&made, &larger).await.unwrap().is_some());
            assert_eq!(pool.snapshots().await.unwrap(), []);
        }
        let large = spec("b", 10 * EXTENT, Layout::Linear);
        let large = pool.create(&large).await.unwrap();
        let error = pool.take_snapshot(&large, &record, CowSize::Whole).await.unwrap_err();
        assert_eq!(error.reason, Reason::NoSpace);
        pool.take_snapshot(&large, &record, CowSize::Percent(50)).await.unwrap();
    });
}
