//! Claims with a record of a newer Quarry: of a volume, or of something else.

use super::super::list::list;
use super::*;
use crate::Recorded;
use crate::disk::disks::Disks;

const VOLUME: &str = "quarry2/s=ready/n=a";
const ARCHIVE: &str = "quarry2/k=archive/s=ready/n=a/o=v1:abcdefghij:node-1:b";

/// A host whose first disk, with the used volume `a`, got this record from a newer Quarry; its second disk is
/// free. Also returns the volume as it was.
fn with_record(record: &str) -> (Host, [u64; 2], PoolVolume) {
    let host = Host::default();
    let disks = [host.disk("vdb", 16), host.disk("vdc", 24)];
    let before = run(async {
        let pool = start(&host, Wipe::None);
        let volume = pool.create(&spec("a", 1)).await.unwrap();
        pool.set_record(&volume, &volume.record().unwrap().ready()).await.unwrap();
        pool.volume("a").await.unwrap().unwrap()
    });
    set_record(&host, disks[0], record);
    host.reboot();
    (host, disks, before)
}

/// Replaces the record of the volume on a disk.
fn set_record(host: &Host, disk: u64, record: &str) {
    let ClaimState::Claimed(claim) = found(host, disk) else { panic!("not claimed") };
    claim::set_record(&Any(&*host.write(&disk_of(host, disk)).unwrap()), &claim, record.as_bytes()).unwrap();
}

/// Neither may change anything, regardless of the request. `reason`: why the removal is refused of what was a
/// volume when the caller read it.
async fn refuse_changes(pool: &DiskPool, before: &PoolVolume, reason: Reason) {
    let ready = before.record().unwrap().ready().zeroed(Gib(1));
    let error = pool.create(&spec("a", 1)).await.unwrap_err();
    assert_eq!(error.reason, Reason::Precondition, "{}", error.message);
    assert!(error.message.contains("newer Quarry"), "{}", error.message);
    // The caller reads it again, and then gets the reason.
    let error = pool.set_record(before, &ready).await.unwrap_err();
    assert_eq!(error.reason, Reason::Unavailable, "{}", error.message);
    let error = pool.remove(before).await.unwrap_err();
    assert_eq!(error.reason, reason, "{}", error.message);
    pool.deactivate(before, Instant::now()).await.unwrap();
}

#[test]
fn a_volume_of_a_newer_quarry_is_listed_and_found_by_both_its_names() {
    let (host, [disk, other], before) = with_record(VOLUME);
    let image = host.image(disk);
    run(async {
        let pool = start(&host, Wipe::Zero);
        let listed = pool.volumes().await.unwrap();
        assert_eq!((listed.len(), &listed[0].record), (1, &Recorded::Newer(2)));
        // Its own name, and the one under which it is listed: a call for either must not find nothing.
        for name in ["a", listed[0].name.as_str()] {
            let volume = pool.volume(name).await.unwrap().unwrap();
            assert_eq!(volume.record, Recorded::Newer(2), "{name}");
            assert_eq!(pool.remove(&volume).await.unwrap_err().reason, Reason::Precondition);
        }
        assert_eq!(pool.find_requested("a").await.unwrap().map(|volume| volume.record), Some(Recorded::Newer(2)));
        refuse_changes(&pool, &before, Reason::Precondition).await;
        assert_eq!(pool.create(&spec("b", 1)).await.unwrap().size, 21 * MIB);
    });
    assert!(host.image(disk) == image, "it was written to");
    assert_eq!(state_name(&host, other), "claimed");
}

/// The release was started by a process that knew the record, and was killed before the wipe.
#[test]
fn a_release_with_a_record_that_cannot_be_read_is_completed_with_zeroes() {
    const SECRET: u64 = VOLUME_OFFSET + 6 * MIB;
    let mut other = spec("b", 1);
    other.class.wipe = Some(Wipe::None);
    let of_another = Record::new(&other, 1).to_string();
    for record in [VOLUME, ARCHIVE, "quarry1/s=ready/n=a/b=1/a=b/l=l/p=x/w=shred", "no record", &of_another] {
        for mode in [Wipe::None, Wipe::Discard, Wipe::Zero] {
            let (host, [disk, _], _) = with_record(record);
            host.set_discards(disk);
            host.poke(disk, SECRET, b"secret");
            let ClaimState::Claimed(claim) = found(&host, disk) else { panic!("not claimed") };
            claim::begin_release(&Any(&*host.hold(&disk_of(&host, disk)).unwrap()), &claim).unwrap();
            let zeroed = host.zeroed();
            run(async { releases_done(&start(&host, mode)).await });
            assert_eq!(
                (state_name(&host, disk), host.peek(disk, SECRET, 6)),
                ("nothing", vec![0; 6]),
                "{record} {mode}"
            );
            // In one range: where a disk is discarded, only the places of signatures are zeroed.
            assert_eq!(host.zeroed() - zeroed, 1, "{record}, {mode}");
        }
    }
}

#[test]
fn an_archive_of_a_newer_quarry_is_not_a_volume_but_keeps_its_disk_and_its_name() {
    let (host, [disk, other], before) = with_record(ARCHIVE);
    let image = host.image(disk);
    run(async {
        let pool = start(&host, Wipe::Zero);
        let reading = pool.read(None).await;
        assert!(matches!(reading.volumes, Volumes::All(volumes) if volumes.is_empty()));
        assert_eq!((reading.state.volumes, reading.state.problems.len()), (0, 0));
        assert_eq!(reading.state.space.capacity(&Layout::Linear).available, 21 * MIB, "only the other disk");
        let hint = &reading.state.hints[0];
        assert!(hint.contains("the disk vdb holds a \"archive\" of a newer Quarry"), "{hint}");
        for name in ["a", before.disk().unwrap().to_string().as_str()] {
            assert!(pool.volume(name).await.unwrap().is_none(), "{name}");
        }
        assert!(pool.find_requested("a").await.unwrap().is_none());
        // It was a volume when the caller read it. It is an archive now.
        refuse_changes(&pool, &before, Reason::Unavailable).await;
        let listed = pool.disks().await.unwrap();
        assert!(matches!(&listed[0].state, Disk::Claimed { .. }), "{:?}", listed[0].state);
        assert!(listed[0].reason().is_some_and(|why| why.contains("archive")), "{:?}", listed[0].reason());
        assert_eq!(pool.create(&spec("b", 1)).await.unwrap().size, 21 * MIB);
        assert_eq!(pool.create(&spec("c", 1)).await.unwrap_err().reason, Reason::NoSpace);
    });
    assert!(host.image(disk) == image, "it was written to");
    assert_eq!(state_name(&host, other), "claimed");
}

#[test]
fn an_archive_on_a_disk_outside_the_pool_is_not_a_volume_either() {
    // The disk belongs to another pool, or to none.
    for pools in [&[("whole", "x-vdc"), ("other", "x-vdb")][..], &[("whole", "x-vdc")]] {
        let (host, [disk, _], _) = with_record(ARCHIVE);
        let image = host.image(disk);
        run(async {
            let pool = start_of(&host, Wipe::Zero, "whole", pools);
            let reading = pool.read(None).await;
            assert!(matches!(reading.volumes, Volumes::All(volumes) if volumes.is_empty()));
            assert_eq!((reading.state.problems, reading.state.hints), (vec![], vec![]), "it uses no space here");
            assert!(pool.volume("a").await.unwrap().is_none(), "there is nothing to delete");
            // A claim of this name would have the GUIDs of the archive.
            let error = pool.create(&spec("a", 1)).await.unwrap_err();
            assert_eq!(error.reason, Reason::Precondition, "{}", error.message);
            assert!(error.message.contains("the disk vdb holds a \"archive\""), "{}", error.message);
            pool.create(&spec("b", 1)).await.unwrap();
        });
        assert!(host.image(disk) == image, "it was written to");
    }
}

#[test]
fn a_copy_of_an_archive_is_not_a_volume_either() {
    let (host, [disk, _], before) = with_record(ARCHIVE);
    let copy = copy(&host, disk, "vdd");
    run(async {
        let pool = start(&host, Wipe::Zero);
        let state = pool.status().await;
        assert_eq!(state.problems, [""; 0]);
        let [hint] = state.hints.as_slice() else { panic!("{:?}", state.hints) };
        assert!(hint.starts_with("the disks vdb and vdd hold a \"archive\" of a newer Quarry"), "{hint}");
        assert!(pool.volume("a").await.unwrap().is_none(), "there is nothing to delete");
        assert_eq!(pool.create(&spec("a", 1)).await.unwrap_err().reason, Reason::Precondition);
        let disks: Arc<dyn Disks> = Arc::new(host.clone());
        let listed = list(&disks, None, true).await.unwrap();
        let notes: Vec<&String> = listed.disks.iter().flat_map(|disk| &disk.notes).collect();
        let note = "two disks hold a \"archive\" of a newer Quarry (record version 2): vdb and vdd; one is a copy of \
                    the other, or both are one disk with two paths";
        assert_eq!(notes, [note, note]);
    });
    // One of two copies is a volume: nothing shows which one is right.
    set_record(&host, copy, &before.record().unwrap().to_string());
    run(async {
        let pool = start(&host, Wipe::Zero);
        for error in [pool.volume("a").await.map(drop), pool.create(&spec("a", 1)).await.map(drop)] {
            let error = error.unwrap_err();
            assert_eq!(error.reason, Reason::Unavailable, "{}", error.message);
            assert!(error.message.contains("two disks hold volume a: vdb and vdd"), "{}", error.message);
        }
    });
}

/// A newer Quarry makes an archive of the volume while this one runs.
#[test]
fn a_volume_that_became_an_archive_is_not_missing() {
    for numbered in [true, false] {
        let host = Host::default();
        let disk = host.disk("vdb", 16);
        if !numbered {
            host.change(disk, |disk| disk.sequence = None);
        }
        run(async {
            let pool = start(&host, Wipe::None);
            pool.create(&spec("a", 1)).await.unwrap();
            pool.volumes().await.unwrap();
            set_record(&host, disk, ARCHIVE);
            pool.uevents().count_disk("vdb");
            pool.uevents().count(false);
            let found = pool.volume("a").await.unwrap();
            if numbered {
                assert!(found.is_none(), "{found:?}");
                return;
            }
            // The kernel cannot say that it is the same disk.
            let Some(PoolVolume { health: Health::Lost(why), .. }) = &found else { panic!("{found:?}") };
            assert!(why.contains("now the disk vdb holds a \"archive\"") && !why.contains("put the disk"), "{why}");
        });
    }
}
