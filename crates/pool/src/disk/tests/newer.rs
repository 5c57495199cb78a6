//! Claims with a record of a newer Quarry: of a volume, or of something else.

use super::*;
use crate::Recorded;

const VOLUME: &str = "quarry2/s=ready/n=a";
const SNAPSHOT: &str = "quarry2/k=snapshot/s=ready/n=a/o=v1:abcdefghij:node-1:b";

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

/// Neither may change anything, regardless of the request.
async fn refuse_changes(pool: &DiskPool, before: &PoolVolume) {
    let ready = before.record().unwrap().ready().zeroed(Gib(1));
    let error = pool.create(&spec("a", 1)).await.unwrap_err();
    assert_eq!(error.reason, Reason::Precondition, "{}", error.message);
    assert!(error.message.contains("newer Quarry"), "{}", error.message);
    assert!(pool.set_record(before, &ready).await.is_err());
    assert!(pool.remove(before).await.is_err());
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
        refuse_changes(&pool, &before).await;
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
    for record in [VOLUME, SNAPSHOT, "quarry1/s=ready/n=a/b=1/a=b/l=l/p=x/w=shred", "no record", &of_another] {
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
fn a_snapshot_of_a_newer_quarry_is_not_a_volume_but_keeps_its_disk_and_its_name() {
    let (host, [disk, other], before) = with_record(SNAPSHOT);
    let image = host.image(disk);
    run(async {
        let pool = start(&host, Wipe::Zero);
        let reading = pool.read(None).await;
        assert!(matches!(reading.volumes, Volumes::All(volumes) if volumes.is_empty()));
        assert_eq!((reading.state.volumes, reading.state.problems.len()), (0, 0));
        assert_eq!(reading.state.space.capacity(&Layout::Linear).available, 21 * MIB, "only the other disk");
        let hint = &reading.state.hints[0];
        assert!(hint.contains("the disk vdb holds a \"snapshot\" of a newer Quarry"), "{hint}");
        for name in ["a", before.disk().unwrap().to_string().as_str()] {
            assert!(pool.volume(name).await.unwrap().is_none(), "{name}");
        }
        assert!(pool.find_requested("a").await.unwrap().is_none());
        refuse_changes(&pool, &before).await;
        let listed = pool.disks().await.unwrap();
        assert!(matches!(&listed[0].state, Disk::Claimed { .. }), "{:?}", listed[0].state);
        assert!(listed[0].reason().is_some_and(|why| why.contains("snapshot")), "{:?}", listed[0].reason());
        assert_eq!(pool.create(&spec("b", 1)).await.unwrap().size, 21 * MIB);
        assert_eq!(pool.create(&spec("c", 1)).await.unwrap_err().reason, Reason::NoSpace);
    });
    assert!(host.image(disk) == image, "it was written to");
    assert_eq!(state_name(&host, other), "claimed");
}
