//! The cache of a volume group while its disks hang, change and fail. These tests need no lvm: the report is
//! given.

use std::collections::BTreeSet;
use std::path::Path;

use quarry_lvm::PhysicalVolume;

use super::super::disks::double::FakeDisks;
use super::super::testing::uuid;
use super::*;

/// The cache of a volume group on one device, after a report.
async fn reported(name: &str, device: &Path, disks: &LvmDisks) -> Arc<Cache> {
    let cache = Cache::new(name, Locator::new(name, 1, BTreeSet::new()), Uevents::default(), disks.clone());
    let carrying = PhysicalVolume { device: Some(device.to_owned()), metadata_areas: 1, ..PhysicalVolume::default() };
    let group = VolumeGroup { uuid: uuid(name), physical_volumes: vec![carrying], ..VolumeGroup::default() };
    let fingerprints = disks.fingerprints(group.metadata_devices()).await.expect("it answers");
    {
        let mut state = cache.state();
        state.storage = Some(storage_of(group.uuid));
        state.seen = Some(CachedReport {
            view: View::Found(Arc::new(group), 1),
            fingerprints,
            changes: 0,
            counts: EventCounts::default(),
            checked: Instant::now(),
            lost: None,
        });
    }
    cache
}

/// As if the last check of the disks were too old.
fn age(cache: &Cache) {
    let mut state = cache.state();
    let seen = state.seen.as_mut().expect("seen");
    seen.checked = seen.checked.checked_sub(2 * FRESH).expect("an earlier instant");
}

#[tokio::test]
async fn a_hanging_disk_affects_one_thread_and_its_own_group() {
    let io = Arc::new(FakeDisks::default());
    let disks = LvmDisks::over(Arc::clone(&io) as _, Duration::from_secs(1));
    let (bad, good) = (Path::new("/dev/vdb"), Path::new("/dev/vdc"));
    let (bad_cache, good_cache) = (reported("ill", bad, &disks).await, reported("well", good, &disks).await);
    io.change(|state| {
        state.hanging.insert(bad.to_owned());
        state.begun.clear();
    });
    age(&bad_cache);

    // All callers arrive at once: one reads the disk, and the others get its result.
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..500 {
        let bad_cache = Arc::clone(&bad_cache);
        callers.spawn(async move { bad_cache.view().await });
    }
    for view in callers.join_all().await {
        let View::Absent(why) = view else { panic!("the group is reported as usable") };
        assert!(why.contains("volume group ill cannot be read: disk /dev/vdb has not answered a read for"), "{why}");
    }
    // Then nothing waits for the disk or runs lvm any more, not even after one of Quarry's own changes, or
    // when a disk appears or disappears.
    bad_cache.invalidate();
    let began = Instant::now();
    for _ in 0..500 {
        assert!(matches!(bad_cache.view().await, View::Absent(_)));
    }
    assert!(began.elapsed() < Duration::from_secs(10), "each waited: {:?}", began.elapsed());
    assert_eq!(io.change(|state| (state.running, state.begun.len())), (1, 1), "one thread, one read");
    assert_eq!(bad_cache.overdue().expect("overdue").disk, "/dev/vdb");
    assert_eq!(bad_cache.last_storage(), Some(storage_of(uuid("ill"))), "the storage is still known");

    for _ in 0..100 {
        age(&good_cache);
        assert!(matches!(good_cache.view().await, View::Found(..)), "the other group does not notice");
    }
    assert_eq!(good_cache.unresponsive(Duration::ZERO), []);
}

#[tokio::test]
async fn a_disk_that_answers_again_is_used_again() {
    let io = Arc::new(FakeDisks::default());
    let disks = LvmDisks::over(Arc::clone(&io) as _, Duration::from_secs(1));
    let device = Path::new("/dev/vdb");
    let cache = reported("vg", device, &disks).await;
    io.change(|state| state.hanging.insert(device.to_owned()));
    age(&cache);
    assert!(matches!(cache.cached().await, Some(View::Absent(_))));

    io.change(|state| state.hanging.clear());
    while cache.overdue().is_some() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(matches!(cache.cached().await, Some(View::Found(..))));

    // The disk was changed in the meantime, or fails: only lvm can report the current state.
    age(&cache);
    io.change(|state| state.generations.insert(device.to_owned(), 1));
    assert!(cache.cached().await.is_none());
    io.change(|state| {
        state.generations.clear();
        state.failing.insert(device.to_owned());
    });
    assert!(cache.cached().await.is_none());
}

#[tokio::test]
async fn a_hanging_flush_is_named_and_ends_the_wait() {
    let io = Arc::new(FakeDisks::default());
    let disks = LvmDisks::over(Arc::clone(&io) as _, Duration::from_secs(1));
    let device = Path::new("/dev/vdb");
    let cache = reported("vg", device, &disks).await;
    io.change(|state| state.hanging.insert(device.to_owned()));
    let View::Found(group, _) = cache.cached().await.expect("young") else { panic!("absent") };
    for _ in 0..3 {
        let [(of, flushed)] = cache.flush(&group).await.try_into().expect("one disk");
        let unresponsive = flushed.expect_err("it hangs");
        assert_eq!((of.as_path(), unresponsive.request), (device, "flush"));
    }
    assert_eq!(cache.overdue().expect("overdue").request, "flush");
    assert_eq!(io.change(|state| state.running), 1);
    io.change(|state| state.hanging.clear());
}
