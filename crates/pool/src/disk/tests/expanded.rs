//! Volumes become larger after the hypervisor made their disks larger.

use quarry_disk::claim::Degraded;

use super::*;
use crate::{ExpansionProgress, PoolVolume};

const GIB: u64 = 1 << 30;
/// Somewhere in the space that joins the volume when a disk of 16 MiB gets 40 MiB.
const NEW: u64 = 30 * MIB;

fn size(required: u64) -> SizeRange {
    SizeRange { required, limit: None }
}

/// Creates the volume `a`, marks it as used, and writes to it. Then its disk becomes larger.
fn enlarged(host: &Host, spec: &VolumeSpec, mib: u64) {
    run(async {
        let pool = start(host, Wipe::None);
        let volume = pool.create(spec).await.unwrap();
        pool.set_record(&volume, &volume.record().unwrap().ready()).await.unwrap();
    });
    host.poke(1, VOLUME_OFFSET + 5 * MIB, b"data");
    host.resize(1, mib);
}

/// A host with a disk of 16 MiB, which became one of 40 MiB, and the volume on it.
fn prepared(spec: &VolumeSpec) -> Host {
    let host = Host::default();
    host.disk("vdb", 16);
    enlarged(&host, spec, 40);
    host
}

fn filesystem() -> VolumeSpec {
    VolumeSpec { access: AccessTypes::Mount, filesystem: Some(Filesystem::Ext4), ..spec("a", 1) }
}

/// What the node does.
async fn grow(pool: &DiskPool, required: u64) -> Result<PoolVolume> {
    let volume = pool.volume("a").await?.unwrap();
    let Some(expansion) = pool.reserve_expansion(&volume, &size(required)).await? else { return Ok(volume) };
    let space = expansion.device.clone().unwrap();
    let Device::Space(bytes) = space.device else { panic!("not a part of a disk") };
    if volume.record()?.access.shows_bytes() {
        let zeroed = space.zeroed.bytes();
        for from in (zeroed..space.size).step_by(GIB as usize) {
            bytes.zero(from..space.size.min(from + GIB))?;
            if from > zeroed && from % (64 * GIB) == 0 {
                bytes.flush()?;
                pool.set_expansion_zeroed(&volume, Gib(from / GIB)).await?;
            }
        }
    } else {
        space.signature_places.into_iter().try_for_each(|place| bytes.zero(place))?;
    }
    bytes.flush()?;
    pool.expand(&volume, &expansion).await
}

/// The volume's claim.
fn claim_of(host: &Host) -> claim::Claim {
    match found(host, 1) {
        ClaimState::Claimed(claim) => claim,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_volume_grows_only_after_its_disk_became_larger() {
    let host = Host::default();
    host.disk("vdb", 40);
    run(async {
        let pool = start(&host, Wipe::None);
        let volume = pool.create(&spec("a", 30)).await.unwrap();
        assert!(pool.reserve_expansion(&volume, &size(37 * MIB)).await.unwrap().is_none());
        let refused = async |required, limit, words: &str| {
            let error = pool.reserve_expansion(&volume, &SizeRange { required, limit }).await.unwrap_err();
            assert_eq!(error.reason, Reason::SizeOutOfRange);
            assert!(error.message.contains(words), "{error}");
        };
        let words = format!("only after its disk vdb became larger; {} bytes is the largest size", 37 * MIB);
        refused(38 * MIB, None, &words).await;
        host.resize(1, 60);
        let words = format!("its disk vdb has room for {} bytes, which is the largest size", 57 * MIB);
        refused(57 * MIB + 1, None, &words).await;
        refused(38 * MIB, Some(57 * MIB - 1), "so it would get all of its disk vdb").await;
        let expansion = pool.reserve_expansion(&volume, &size(37 * MIB + 1)).await.unwrap().unwrap();
        assert_eq!((expansion.size, expansion.device.unwrap().size), (57 * MIB, 20 * MIB));
    });
}

#[test]
fn the_new_space_is_clean_before_it_joins_the_volume() {
    for spec in [spec("a", 1), filesystem()] {
        let host = if spec.filesystem.is_some() {
            let host = Host::default();
            host.disk("vdb", 40);
            enlarged(&host, &spec, 80);
            host
        } else {
            prepared(&spec)
        };
        let (before, disk) = (claim_of(&host).length, disk_of(&host, 1).size);
        run(async {
            let pool = start(&host, Wipe::None);
            let volume = pool.volume("a").await.unwrap().unwrap();
            assert_eq!((volume.size, &volume.health), (before, &Health::Whole));
            let hints = pool.status().await.hints;
            assert!(hints.len() == 1 && hints[0].contains("the disk vdb became larger than its volume"), "{hints:?}");
            assert!(pool.disks().await.unwrap()[0].reason().unwrap().contains("request more than that for its claim"));
            assert_eq!(pool.activate(&volume).await.unwrap().node().unwrap(), PathBuf::from("/dev/vdb2"));
            assert_eq!(host.partition_length(1), before);

            let grown = grow(&pool, before + 1).await.unwrap();
            assert_eq!((grown.size, host.partition_length(1)), (disk - 3 * MIB, disk - 3 * MIB));
            assert_eq!(grown.record().unwrap().size, before, "the size at creation");
            assert_eq!(pool.status().await.hints, Vec::<String>::new());
            assert_eq!(pool.device(&grown).unwrap(), Some(PathBuf::from("/dev/vdb2")));
            assert!(pool.inner.opened.mark_used(grown.disk().unwrap()), "it stays open");
            assert!(grow(&pool, before + 1).await.is_ok_and(|again| again.size == grown.size), "again");
        });
        assert_eq!(host.peek(1, VOLUME_OFFSET + 5 * MIB, 4), b"data");
        let space = host.peek(1, VOLUME_OFFSET + before, (disk - MIB - VOLUME_OFFSET - before) as usize);
        let edge = 4 << 20;
        if spec.filesystem.is_none() {
            assert!(space.iter().all(|byte| *byte == 0));
        } else {
            let edges = space[..edge].iter().chain(&space[space.len() - edge..]);
            assert!(edges.copied().all(|byte| byte == 0));
            assert!(space[edge..space.len() - edge].iter().any(|byte| *byte != 0));
        }
        assert_eq!(claim_of(&host).degraded, []);
        host.reboot();
        assert_eq!(host.partition_length(1), disk - 3 * MIB, "the tables have it, too");
    }
}

/// Killed before each operation, and continued by another process: at once, after a power cut, or with a stage.
#[test]
fn an_expansion_killed_anywhere_is_completed() {
    let expand = |host: &Host| run(async { grow(&start(host, Wipe::None), 20 * MIB).await });
    let host = prepared(&spec("a", 1));
    let before = host.operations();
    expand(&host).unwrap();
    let total = host.operations() - before;
    assert!(total > 20);
    let mut seen = std::collections::BTreeSet::new();
    for (kill, restarts, stages) in
        (0..total).flat_map(|kill| [(kill, true, false), (kill, false, true), (kill, true, true)])
    {
        let host = prepared(&spec("a", 1));
        host.kill_after(kill);
        let killed = expand(&host);
        if restarts {
            host.reboot();
        }
        host.kill_after(usize::MAX);
        let claim = claim_of(&host);
        let harmless = [Degraded::Record, Degraded::BackupTable, Degraded::Extending];
        assert!(claim.degraded.iter().all(|what| harmless.contains(what)), "{:?}", claim.degraded);
        seen.insert((claim.length / MIB, claim.degraded.contains(&Degraded::Extending)));
        let is_clean = |host: &Host| host.peek(1, NEW, 6) == [0; 6] && host.peek(1, 39 * MIB - 8, 8) == [0; 8];
        assert!(claim.length == 13 * MIB || is_clean(&host), "killed before operation {kill}: not clean");
        run(async {
            let pool = start(&host, Wipe::None);
            let volume = pool.volume("a").await.unwrap().unwrap();
            if stages {
                pool.activate(&volume).await.unwrap();
                assert_eq!(host.partition_length(1), claim.length, "killed before operation {kill}");
                assert!(!claim_of(&host).degraded.contains(&Degraded::Extending));
            }
            // The volume is as large as the first answer said.
            assert!(killed.is_err() || volume.size == 37 * MIB);
            assert_eq!(grow(&pool, 20 * MIB).await.unwrap().size, 37 * MIB);
            pool.activate(&volume).await.unwrap();
        });
        assert_eq!(host.partition_length(1), 37 * MIB, "killed before operation {kill}");
        assert!(is_clean(&host) && host.peek(1, VOLUME_OFFSET + 5 * MIB, 4) == b"data");
        assert_eq!(claim_of(&host).degraded, [], "killed before operation {kill}");
    }
    assert_eq!(seen, [(13, false), (37, false), (37, true)].into());
}

#[test]
fn an_interrupted_long_expansion_continues_where_it_stopped() {
    let host = Host::default();
    host.disk("vdb", 16);
    enlarged(&host, &spec("a", 1), 200 << 10);
    let progress = |host: &Host| {
        let record = String::from_utf8(claim_of(host).record).unwrap();
        let crate::Tag::Record(record) = Record::parse(&record) else { panic!("{record}") };
        record.expansion
    };
    let target = (200 << 30) - 3 * MIB;
    // The first progress is stored, and the process is killed soon after.
    let first = (0..).find(|tries| {
        host.kill_after(60 + tries * 10);
        run(async { grow(&start(&host, Wipe::None), GIB).await }).unwrap_err();
        host.reboot();
        host.kill_after(usize::MAX);
        progress(&host).is_some()
    });
    assert!(first.is_some());
    let Some(ExpansionProgress { size: of, zeroed }) = progress(&host) else { panic!("no progress") };
    assert!(of == target && zeroed >= Gib(64), "{of} {zeroed}");
    let secret = VOLUME_OFFSET + 13 * MIB;
    // What is recorded as zeroed is not zeroed again.
    host.poke(1, secret, b"x");
    run(async {
        let pool = start(&host, Wipe::None);
        let volume = pool.volume("a").await.unwrap().unwrap();
        let again = pool.reserve_expansion(&volume, &size(GIB)).await.unwrap().unwrap();
        assert_eq!(again.device.unwrap().zeroed, zeroed);
        // For another size, all is zeroed.
        host.resize(1, 300 << 10);
        let error = pool.expand(&volume, &Expansion { size: target, device: None }).await.unwrap_err();
        assert_eq!(error.reason, Reason::Unavailable, "{error}");
        let larger = pool.reserve_expansion(&volume, &size(GIB)).await.unwrap().unwrap();
        assert_eq!((larger.size, larger.device.unwrap().zeroed), ((300 << 30) - 3 * MIB, Gib::NONE));
        assert_eq!(progress(&host), None);
        // A request for the size that it has forgets the progress.
        pool.set_expansion_zeroed(&volume, Gib(64)).await.unwrap();
        assert_eq!(progress(&host).unwrap().zeroed, Gib(64));
        assert!(pool.reserve_expansion(&volume, &size(MIB)).await.unwrap().is_none());
        assert_eq!(progress(&host), None);
        assert_eq!(grow(&pool, GIB).await.unwrap().size, (300 << 30) - 3 * MIB);
        assert_eq!(progress(&host), None);
    });
    assert_eq!(host.peek(1, secret, 1), [0]);
}

/// The disk becomes smaller and then as large as before, with other bytes.
#[test]
fn the_progress_of_an_expansion_is_forgotten_with_the_size_of_the_disk() {
    let host = prepared(&spec("a", 1));
    run(async {
        let pool = start(&host, Wipe::None);
        let volume = pool.volume("a").await.unwrap().unwrap();
        pool.set_expansion_zeroed(&volume, Gib(64)).await.unwrap();
        host.resize(1, 16);
        let error = pool.reserve_expansion(&volume, &size(20 * MIB)).await.unwrap_err();
        assert_eq!(error.reason, Reason::SizeOutOfRange);
        host.resize(1, 40);
        let expansion = pool.reserve_expansion(&volume, &size(20 * MIB)).await.unwrap().unwrap();
        assert_eq!(expansion.device.unwrap().zeroed, Gib::NONE);
    });
}

/// Only the bytes up to the size that was known before are clean.
#[test]
fn a_disk_that_becomes_larger_at_the_last_moment_is_not_taken_over() {
    let host = prepared(&spec("a", 1));
    run(async {
        let pool = start(&host, Wipe::None);
        let volume = pool.volume("a").await.unwrap().unwrap();
        let expansion = pool.reserve_expansion(&volume, &size(20 * MIB)).await.unwrap().unwrap();
        let Device::Space(space) = expansion.device.clone().unwrap().device else { panic!("not a part of a disk") };
        space.zero(0..24 * MIB).unwrap();
        drop(space);
        host.before_write(|host| host.resize(1, 60));
        let error = pool.expand(&volume, &expansion).await.unwrap_err();
        assert!(error.reason == Reason::Unavailable && error.message.contains("its size has changed"), "{error}");
        assert_eq!(claim_of(&host).length, 13 * MIB);
        drop(expansion);
        assert_eq!(grow(&pool, 20 * MIB).await.unwrap().size, 57 * MIB);
    });
    let space = host.peek(1, VOLUME_OFFSET + 13 * MIB, 44 << 20);
    assert!(space.iter().all(|byte| *byte == 0));
}

#[test]
fn only_one_process_cleans_new_space() {
    let host = prepared(&spec("a", 1));
    run(async {
        let pool = start(&host, Wipe::None);
        let volume = pool.volume("a").await.unwrap().unwrap();
        let first = pool.reserve_expansion(&volume, &size(20 * MIB)).await.unwrap();
        let error = pool.reserve_expansion(&volume, &size(20 * MIB)).await.unwrap_err();
        assert_eq!(error.reason, Reason::UnderWay);
        drop(first);
        pool.reserve_expansion(&volume, &size(20 * MIB)).await.unwrap().unwrap();
    });
}

#[test]
fn a_claim_without_its_first_table_is_not_extended() {
    let host = prepared(&spec("a", 1));
    host.poke(1, 512 + 20, b"#");
    run(async {
        let error = grow(&start(&host, Wipe::None), 20 * MIB).await.unwrap_err();
        assert_eq!(error.reason, Reason::Unavailable);
        assert!(error.message.contains("the start of its disk vdb is repaired"), "{error}");
    });
    assert_eq!(host.peek(1, NEW, 6), b"secret");
}

/// A volume for either access that was created, and never used.
#[test]
fn a_volume_that_was_never_used_stays_zeroed_and_is_wiped_completely() {
    let host = Host::default();
    host.disk("vdb", 40);
    run(async {
        let pool = start(&host, Wipe::Zero);
        let both = VolumeSpec { access: AccessTypes::Both, ..filesystem() };
        let volume = pool.create(&both).await.unwrap();
        pool.set_record(&volume, &volume.record().unwrap().zeroed(Gib(1))).await.unwrap();
        host.resize(1, 2 << 10);
        let grown = grow(&pool, GIB).await.unwrap();
        assert_eq!((grown.size, grown.record().unwrap().zeroed), ((2 << 30) - 3 * MIB, Gib(2)));
        // A filesystem from an interrupted stage.
        host.poke(1, VOLUME_OFFSET + 20 * MIB, b"mkfs");
        pool.remove(&grown).await.unwrap();
        releases_done(&pool).await;
        assert_eq!(host.peek(1, VOLUME_OFFSET + 20 * MIB, 4), [0; 4]);
    });
}
