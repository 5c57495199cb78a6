//! Tests of the pool on disks made of files: which disks it claims, which it never claims, and what a kill
//! leaves.

mod cuts;
mod damaged;
mod double;
mod expanded;
mod hang;
mod list;
mod lost;
mod newer;
mod not_free;
mod selection;

use std::future::Future;
use std::sync::Arc;

use quarry_disk::claim::{self, ClaimState};
use quarry_disk::{Criteria, How, Selector, Sizes, State as Disk};
use quarry_volume::{AccessTypes, CowSize, Filesystem, Gib, Layout, Parameters, Reason, SizeRange, VolumeSpec};

use self::double::{Host, SIGNATURE};
use super::create::VOLUME_OFFSET;
use super::disks::{Any, Disks as _};
use super::*;
use crate::{Health, SnapshotRecord, State};

const MIB: u64 = 1 << 20;

fn selector(by_id: &str) -> Selector {
    let include = Criteria { by_id: Some(vec![by_id.parse().unwrap()]), ..Criteria::default() };
    Selector::new(include, Criteria::default()).unwrap()
}

/// A process that serves the pool `whole`, which has all disks of the host.
fn start(host: &Host, wipe: Wipe) -> DiskPool {
    start_of(host, wipe, "whole", &[("whole", "x-*")])
}

fn start_of(host: &Host, wipe: Wipe, name: &str, pools: &[(&str, &str)]) -> DiskPool {
    let selectors: Arc<[_]> = pools.iter().map(|(name, by_id)| ((*name).to_owned(), selector(by_id))).collect();
    DiskPool::over(Arc::new(host.clone()), name.to_owned(), wipe, selectors, Uevents::default())
}

fn spec(name: &str, mib: u64) -> VolumeSpec {
    VolumeSpec::block(name, mib * MIB)
}

/// Runs a process; when it returns, the process and everything that it had started is gone.
fn run<T>(work: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_time().build().unwrap().block_on(work)
}

/// What the kernel knows about a disk, by its number.
fn disk_of(host: &Host, number: u64) -> quarry_disk::Disk {
    host.find().unwrap().disks.into_iter().find(|disk| disk.number.minor == 16 * number).unwrap()
}

/// The claim state of a disk, by its number.
fn found(host: &Host, number: u64) -> ClaimState {
    claim::read(&Any(&*host.read(&disk_of(host, number)).unwrap())).unwrap()
}

fn state_name(host: &Host, number: u64) -> &'static str {
    match found(host, number) {
        ClaimState::Nothing => "nothing",
        ClaimState::Claimed(_) => "claimed",
        ClaimState::HalfClaimed(_) => "half",
        ClaimState::Releasing(_) => "releasing",
        _ => "else",
    }
}

/// Adds a copy of a disk of 16 MiB, and returns its number.
fn copy(host: &Host, disk: u64, name: &str) -> u64 {
    let copy = host.disk(name, 16);
    host.poke(copy, 0, &host.image(disk));
    copy
}

/// Waits until no release is running.
async fn releases_done(pool: &DiskPool) {
    for _ in 0..2000 {
        let view = pool.inner.view().await.unwrap();
        let releasing = view.disks.iter().any(|seen| matches!(seen.raw.found, Ok(ClaimState::Releasing(_))));
        if !releasing {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("a release does not finish: {:?}", pool.inner.releases.problems());
}

#[test]
fn the_smallest_fitting_disk_is_claimed() {
    let host = Host::default();
    let [large, small, middle] = [("vdb", 40), ("vdc", 16), ("vdd", 24)].map(|(name, mib)| host.disk(name, mib));
    run(async {
        let pool = start(&host, Wipe::None);
        let state = pool.status().await;
        let capacity = state.space.capacity(&Layout::Linear);
        assert_eq!((capacity.available, capacity.largest), ((37 + 13 + 21) * MIB, 37 * MIB));
        assert_eq!((state.size, state.problems.len()), ((37 + 13 + 21) * MIB, 0));
        assert_eq!(pool.size_of(&spec("a", 14)).await.unwrap(), 21 * MIB);
        let volume = pool.create(&spec("a", 14)).await.unwrap();
        assert_eq!(volume.size, 21 * MIB);
        assert_eq!(volume.record().unwrap().state, State::New);
        let ClaimState::Claimed(claim) = found(&host, middle) else { panic!("not claimed") };
        assert_eq!((claim.offset, claim.length), (VOLUME_OFFSET, 21 * MIB));
        assert_eq!([state_name(&host, small), state_name(&host, large)], ["nothing", "nothing"]);
        assert_eq!(pool.create(&spec("a", 14)).await.unwrap_err().reason, Reason::Exists);
        // The size must be within the limit.
        let size = SizeRange { required: 0, limit: Some(12 * MIB) };
        let error = pool.create(&VolumeSpec { size, ..spec("b", 1) }).await.unwrap_err();
        assert_eq!(error.reason, Reason::NoSpace);
        for part in ["vdc (13Mi), vdb (37Mi)", "vdd volume a", "at most 12582912"] {
            assert!(error.message.contains(part), "{}", error.message);
        }
        assert_eq!(pool.create(&spec("c", 0)).await.unwrap().size, 13 * MIB);
        assert_eq!(pool.status().await.space.capacity(&Layout::Linear).available, 37 * MIB);
        for layout in [Layout::Striped { stripes: 2, stripe_size: 65536 }, Layout::Raid1 { mirrors: 1 }] {
            let error = pool.create(&spec("d", 1).with_layout(layout)).await.unwrap_err();
            assert_eq!(error.reason, Reason::NoSpace, "{}", error.message);
        }
    });
}

#[test]
fn the_pool_supports_what_it_reports() {
    let host = Host::default();
    host.disk("vdb", 40);
    run(async {
        let pool = start(&host, Wipe::None);
        let state = pool.status().await;
        assert!(!state.capabilities.unique_storage, "every node derives the same from the name");
        for layout in [Layout::Linear, Layout::Striped { stripes: 2, stripe_size: 65536 }, Layout::Raid1 { mirrors: 1 }]
        {
            for wipe in [None].into_iter().chain(Wipe::ALL.map(Some)) {
                let mut wanted = spec("a", 1).with_layout(layout);
                wanted.class.wipe = wipe;
                let supported = pool.supports(&wanted);
                assert_eq!(supported.is_ok(), layout == Layout::Linear, "{wanted:?}");
                assert_eq!(supported.is_ok(), state.capacity(&wanted.class).largest > 0, "{wanted:?}");
                let Err(error) = supported else { continue };
                assert_eq!(error.reason, Reason::NoSpace);
                assert_eq!(
                    error.message,
                    format!(
                        "pool whole: a volume in this pool is one whole disk, so layout {layout} is not supported: \
                         remove the layout from the StorageClass"
                    )
                );
                assert_eq!(pool.create(&wanted).await.unwrap_err().message, error.message);
            }
        }
        let storage = pool.storage().await.unwrap();
        assert!(pool.may_be_active(&storage, "a") && !pool.may_be_active(&StorageId::of("whole"), "a"));
    });
}

#[test]
fn a_volume_is_created_used_and_removed() {
    let host = Host::default();
    let disk = host.disk("vdb", 16);
    run(async {
        let pool = start(&host, Wipe::Zero);
        let volume = pool.create(&spec("a", 10)).await.unwrap();
        let reading = pool.read(None).await;
        let Volumes::All(volumes) = reading.volumes else { panic!("no volumes reported") };
        assert_eq!((volumes.len(), reading.state.volumes), (1, 1));
        assert!(matches!(pool.read(Some(reading.mark)).await.volumes, Volumes::Same));
        assert_eq!(pool.activate(&volume).await.unwrap().node().unwrap(), PathBuf::from("/dev/vdb2"));
        assert_eq!(pool.device(&volume).unwrap(), Some(PathBuf::from("/dev/vdb2")));

        let ready = volume.record().unwrap().ready();
        pool.set_record(&volume, &ready).await.unwrap();
        assert!(matches!(pool.read(Some(reading.mark)).await.volumes, Volumes::All(_)), "another record");
        let stale = pool.set_record(&volume, &volume.record().unwrap().zeroed(Gib(1))).await.unwrap_err();
        assert_eq!(stale.reason, Reason::Unavailable);
        let now = pool.find_requested("a").await.unwrap().unwrap();
        assert_eq!(now.record().unwrap().state, State::Ready);
        assert_eq!(now.storage, pool.storage().await.unwrap());

        // Three kinds of use; each of them is enough.
        host.open_partition(disk, true);
        assert_eq!(pool.remove(&now).await.unwrap_err().reason, Reason::InUse);
        host.open_partition(disk, false);
        host.set_held(disk, true);
        assert_eq!(pool.remove(&now).await.unwrap_err().reason, Reason::InUse);
        host.set_held(disk, false);
        host.set_use(disk, How::Published { at: "/pods/a".into() });
        let error = pool.remove(&now).await.unwrap_err();
        assert!(error.reason == Reason::InUse && error.message.contains("/pods/a"), "{}", error.message);
        host.change(disk, |disk| disk.uses.clear());
        let ClaimState::Claimed(claim) = found(&host, disk) else { panic!("it was in use") };
        assert_eq!(claim.record, ready.to_string().as_bytes());

        host.poke(disk, claim.offset + 5 * MIB, b"secret");
        pool.activate(&now).await.unwrap();
        pool.remove(&now).await.unwrap();
        assert!(pool.volume("a").await.unwrap().is_none());
        releases_done(&pool).await;
        assert_eq!(host.peek(disk, claim.offset + 5 * MIB, 6), [0; 6]);
        assert_eq!(state_name(&host, disk), "nothing");
        assert_eq!(pool.disks().await.unwrap()[0].state, Disk::Free);
        assert_eq!(pool.disks().await.unwrap()[0].wiping, None);
        assert_eq!(pool.remove(&now).await.unwrap_err().reason, Reason::Unavailable, "it is gone");
    });
}

#[test]
fn the_smallest_disk_that_fits_the_filesystem_is_claimed() {
    let host = Host::default();
    let [small, large] = [("vdb", 16), ("vdc", 40)].map(|(name, mib)| host.disk(name, mib));
    run(async {
        let pool = start(&host, Wipe::None);
        let ext4 =
            |size| VolumeSpec { access: AccessTypes::Mount, filesystem: Some(Filesystem::Ext4), size, ..spec("a", 1) };
        let wanted = ext4(SizeRange { required: MIB, limit: None });
        assert_eq!(pool.size_of(&wanted).await.unwrap(), 37 * MIB);
        // A limit below the filesystem's minimum cannot be met by another disk or another node either.
        let limited = ext4(SizeRange { required: MIB, limit: Some(13 * MIB) });
        for error in [pool.size_of(&limited).await.map(drop), pool.create(&limited).await.map(drop)] {
            let error = error.unwrap_err();
            assert_eq!(error.reason, Reason::SizeOutOfRange, "{}", error.message);
        }
        assert_eq!(pool.create(&wanted).await.unwrap().size, 37 * MIB);
        // If no disk is large enough, another node may have one.
        let error = pool.create(&VolumeSpec { name: "b".to_owned(), ..wanted }).await.unwrap_err();
        assert_eq!(error.reason, Reason::NoSpace, "{}", error.message);
    });
    assert_eq!([state_name(&host, small), state_name(&host, large)], ["nothing", "claimed"]);
}

/// A volume was zeroed completely, and then got a filesystem from an interrupted stage.
#[test]
fn data_of_mkfs_is_wiped_although_the_volume_was_zeroed() {
    let host = Host::default();
    let disk = host.disk("vdb", 40);
    run(async {
        let pool = start(&host, Wipe::Zero);
        let both = VolumeSpec { access: AccessTypes::Both, filesystem: Some(Filesystem::Ext4), ..spec("a", 1) };
        let volume = pool.create(&both).await.unwrap();
        pool.set_record(&volume, &volume.record().unwrap().zeroed(Gib(1))).await.unwrap();
        let volume = pool.volume("a").await.unwrap().unwrap();
        for at in [1024, 20 * MIB] {
            host.poke(disk, VOLUME_OFFSET + at, b"mkfs");
        }
        pool.remove(&volume).await.unwrap();
        releases_done(&pool).await;
        assert_eq!([1024, 20 * MIB].map(|at| host.peek(disk, VOLUME_OFFSET + at, 4)), [[0; 4]; 2]);
    });
}

#[test]
fn a_whole_disk_says_why_it_has_no_snapshots() {
    let host = Host::default();
    host.disk("vdb", 16);
    run(async {
        let pool = start(&host, Wipe::None);
        let volume = pool.create(&spec("a", 1)).await.unwrap();
        let source = "v1:abcdefghij:n:a".parse().unwrap();
        let record = SnapshotRecord::new("s".to_owned(), source, volume.record().unwrap(), None);
        let reading = pool.read(None).await;
        assert!(!reading.state.capabilities.snapshots && reading.snapshots.is_empty(), "what it reports agrees");
        let error = pool.take_snapshot(&volume, &record, CowSize::Whole).await.unwrap_err();
        assert_eq!(error.reason, Reason::Unsupported);
        assert!(error.message.contains("whole disk, which has no space beside its volume"), "{error}");
    });
}

/// While a volume is being filled, the progress in its record counts copied bytes, not zeros.
#[test]
fn data_that_was_copied_is_wiped_when_the_copy_is_given_up() {
    let host = Host::default();
    let disk = host.disk("vdb", 200 << 10);
    run(async {
        let pool = start(&host, Wipe::Zero);
        let filled = spec("a", 1).filled_from("s1:abcdefghij:n:s".parse().unwrap());
        let volume = pool.create(&filled).await.unwrap();
        assert!(volume.record().unwrap().filling);
        let copied = volume.record().unwrap().zeroed(Gib(128));
        pool.set_record(&volume, &copied).await.unwrap();
        let volume = pool.volume("a").await.unwrap().unwrap();
        assert_eq!(volume.record().unwrap(), &copied);
        for at in [0, 1 << 30, 127 << 30] {
            host.poke(disk, VOLUME_OFFSET + at, b"copy");
        }
        pool.remove(&volume).await.unwrap();
        releases_done(&pool).await;
        assert_eq!([0, 1 << 30, 127 << 30].map(|at| host.peek(disk, VOLUME_OFFSET + at, 4)), [[0; 4]; 3]);
    });
}

/// As long as the partition is open, the kernel keeps the cached pages of the whole disk.
#[test]
fn unused_partitions_do_not_stay_open() {
    let host = Host::default();
    let disk = host.disk("vdb", 16);
    run(async {
        let pool = start(&host, Wipe::None);
        let volume = pool.create(&spec("a", 1)).await.unwrap();
        assert_eq!(host.open_and_dropped(disk), (1, 2), "the pages read before and by the probe are dropped");
        pool.activate(&volume).await.unwrap();
        assert!(pool.inner.opened.take_unstaged(volume.disk().unwrap()).is_some(), "only its preparation requested it");
        // From here on, each request is a stage, also the first one after the partition was closed.
        pool.activate(&volume).await.unwrap();
        assert!(pool.inner.opened.take_unstaged(volume.disk().unwrap()).is_none(), "it is staged");
        // It is staged again while its unstage is being completed.
        let unstaged = Instant::now();
        pool.activate(&volume).await.unwrap();
        pool.activate(&volume).await.unwrap();
        pool.deactivate(&volume, unstaged).await.unwrap();
        assert_eq!(host.open_and_dropped(disk).0, 1);
        pool.deactivate(&volume, Instant::now()).await.unwrap();
        assert_eq!(host.open_and_dropped(disk), (0, 3));
        pool.deactivate(&volume, Instant::now()).await.unwrap();
        assert_eq!(pool.activate(&volume).await.unwrap().node().unwrap(), PathBuf::from("/dev/vdb2"));
    });
}

#[test]
fn a_class_can_set_its_own_wipe_mode() {
    const SECRET: u64 = VOLUME_OFFSET + 6 * MIB;
    for (pool, class, stays) in
        [(Wipe::Zero, Some(Wipe::None), true), (Wipe::None, Some(Wipe::Zero), false), (Wipe::None, None, true)]
    {
        let host = Host::default();
        let disk = host.disk("vdb", 32);
        run(async {
            let pool = start(&host, pool);
            let volume = pool
                .create(&VolumeSpec { class: Parameters { wipe: class, ..Parameters::default() }, ..spec("a", 1) })
                .await
                .unwrap();
            host.poke(disk, SECRET, b"secret");
            pool.remove(&volume).await.unwrap();
            releases_done(&pool).await;
            assert_eq!(host.peek(disk, SECRET, 6) == b"secret", stays, "{class:?}");
            assert_eq!(pool.disks().await.unwrap()[0].state, Disk::Free);
        });
    }
}

#[test]
fn data_of_a_former_volume_with_the_same_name_is_not_adopted() {
    let host = Host::default();
    let disk = host.disk("vdb", 16);
    run(async {
        let pool = start(&host, Wipe::None);
        let volume = pool.create(&spec("a", 10)).await.unwrap();
        host.poke(disk, VOLUME_OFFSET + 1024, b"a filesystem's superblock");
        pool.remove(&volume).await.unwrap();
        assert_eq!(state_name(&host, disk), "nothing", "there is nothing to wipe");
        assert_eq!(host.peek(disk, VOLUME_OFFSET + 1024, 1), [0], "the places of signatures are zeroed");
        host.poke(disk, VOLUME_OFFSET + 1024, b"a filesystem's superblock");
        let again = pool.create(&spec("a", 10)).await.unwrap();
        assert_eq!(again.uuid(), volume.uuid(), "so the filesystem gets the same UUID");
        assert_eq!(host.peek(disk, VOLUME_OFFSET + 1024, 25), [0; 25]);
    });
}

#[test]
fn each_free_disk_is_claimed_exactly_once() {
    for (disks, volumes) in [(1, 2), (10, 20)] {
        let host = Host::default();
        for index in 0..disks {
            host.disk(&format!("vd{index}"), 16);
        }
        run(async {
            let pool = Arc::new(start(&host, Wipe::None));
            let create = |index: usize| {
                let pool = Arc::clone(&pool);
                tokio::spawn(async move { pool.create(&spec(&format!("v{index}"), 5)).await })
            };
            let mut made = 0;
            for task in (0..volumes).map(create).collect::<Vec<_>>() {
                match task.await.unwrap() {
                    Ok(_) => made += 1,
                    Err(error) => assert_eq!(error.reason, Reason::NoSpace, "{}", error.message),
                }
            }
            assert_eq!(made, disks);
            assert_eq!(pool.volumes().await.unwrap().len(), disks);
        });
    }
}

#[test]
fn scanning_again_starts_no_program() {
    let host = Host::default();
    host.disk("vdb", 16);
    host.disk("vdc", 16);
    run(async {
        let pool = start(&host, Wipe::None);
        pool.status().await;
        let before = host.probes();
        assert_eq!(before, 2);
        for _ in 0..3 {
            if let Some(kept) = &mut pool.inner.memory().seen {
                kept.at -= 2 * FRESH;
            }
            pool.status().await;
        }
        assert_eq!(host.probes(), before);
        // An event may come from a program that wrote to a disk: only that disk is read.
        host.poke(1, SIGNATURE.0, SIGNATURE.1);
        pool.uevents().count_disk("vdb");
        pool.uevents().count(false);
        assert_eq!(pool.status().await.space.available(), 13 * MIB);
        assert_eq!(host.probes(), before + 1);
    });
}
