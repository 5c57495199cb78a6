//! Damaged claims and copies of disks: a volume keeps its name, and a second one never gets it.

use super::*;
use crate::Recorded;

/// Damage to the disk of a used volume, while no Quarry runs.
type Harm = (&'static str, fn(&Host, u64));

/// Simulates another program's tables: changes the type of the volume's partition at both ends.
fn retype(host: &Host, disk: u64) {
    for (header_at, entries_at) in [(512, 1024), (16 * MIB - 512, 16 * MIB - 512 - 16384)] {
        let (mut header, mut entries) = (host.peek(disk, header_at, 512), host.peek(disk, entries_at, 16384));
        entries[..16].fill(7);
        entries[128..144].fill(7);
        header[88..92].copy_from_slice(&crc32fast::hash(&entries).to_le_bytes());
        header[16..20].fill(0);
        let checksum = crc32fast::hash(&header[..92]);
        header[16..20].copy_from_slice(&checksum.to_le_bytes());
        host.poke(disk, header_at, &header);
        host.poke(disk, entries_at, &entries);
    }
}

const HARMS: [Harm; 6] = [
    ("its protective MBR is missing", |host, disk| host.poke(disk, 0, &[0; 512])),
    ("a boot sector", |host, disk| host.poke(disk, 446, &[0x80, 0, 2, 0, 0x83])),
    ("neither of its partition tables", |host, disk| {
        host.poke(disk, 512 + 30, &[0xa5; 4]);
        host.poke(disk, 16 * MIB - 512 + 30, &[0xa5; 4]);
    }),
    ("has overwritten a Quarry claim", retype),
    ("neither copy of its record", |host, disk| {
        host.poke(disk, MIB + 70, b"#");
        host.poke(disk, MIB + MIB / 2 + 70, b"#");
    }),
    ("a newer Quarry", |host, disk| {
        let mut slot = host.peek(disk, MIB, 4096);
        slot[8] = 9;
        let checksum = crc32fast::hash(&slot[..4092]);
        slot[4092..].copy_from_slice(&checksum.to_le_bytes());
        host.poke(disk, MIB, &slot);
    }),
];

/// A host with the used volume `a` on its first disk, and a free second one.
fn used() -> (Host, [u64; 2]) {
    let host = Host::default();
    let disks = [host.disk("vdb", 16), host.disk("vdc", 24)];
    run(async {
        let pool = start(&host, Wipe::None);
        let volume = pool.create(&spec("a", 1)).await.unwrap();
        pool.set_record(&volume, &volume.record().unwrap().ready()).await.unwrap();
    });
    (host, disks)
}

#[test]
fn a_damaged_claim_keeps_its_name_and_id_after_a_restart() {
    for (why, harm) in HARMS {
        let (host, [disk, other]) = used();
        harm(&host, disk);
        host.reboot();
        run(async {
            let pool = start(&host, Wipe::Zero);
            let volume = pool.volume("a").await.unwrap().unwrap();
            assert!(
                matches!(&volume.health, Health::Lost(said) if said.contains(why) && said.contains("vdb")),
                "{volume:?}"
            );
            assert_eq!(pool.volumes().await.unwrap().len(), 1, "it is listed");
            // For the same name, the volume is returned, or nothing is created.
            let asked = pool.find_requested("a").await;
            match &volume.record {
                Recorded::Here(_) => assert!(matches!(asked.unwrap().unwrap().health, Health::Lost(_)), "{why}"),
                _ => assert_eq!(asked.unwrap_err().reason, Reason::Unavailable, "{why}"),
            }
            let error = pool.create(&spec("a", 1)).await.unwrap_err();
            assert!(matches!(error.reason, Reason::Exists | Reason::Precondition), "{why}: {}", error.message);
            assert_eq!(pool.activate(&volume).await.unwrap_err().reason, Reason::Precondition, "{why}");
            assert_eq!(pool.remove(&volume).await.unwrap_err().reason, Reason::Unavailable, "{why}");
            // Nothing else is affected.
            assert!(pool.volume("b").await.unwrap().is_none());
            assert_eq!(pool.create(&spec("b", 1)).await.unwrap().size, 21 * MIB);
            let problems = pool.status().await.problems;
            assert!(problems.iter().any(|problem| problem.contains(why)), "{problems:?}");
        });
        assert_eq!(state_name(&host, other), "claimed");
    }
}

/// The disk is pulled after the damage was seen, not while it was intact.
#[test]
fn a_damaged_claim_keeps_its_name_when_its_disk_is_pulled() {
    let (host, [disk, _]) = used();
    host.poke(disk, 0, &[0; 512]);
    run(async {
        let pool = start(&host, Wipe::None);
        pool.volumes().await.unwrap();
        host.pull(disk);
        pool.uevents().count(true);
        assert_eq!(pool.create(&spec("a", 1)).await.unwrap_err().reason, Reason::Exists);
    });
}

/// A mounted volume can be measured and unmounted, whatever happened to the tables since.
#[test]
fn the_device_of_a_damaged_claim_is_found() {
    let (host, [disk, _]) = used();
    host.poke(disk, 446, &[0x80, 0, 2, 0, 0x83]);
    host.reboot();
    run(async {
        let pool = start(&host, Wipe::None);
        let volume = pool.volume("a").await.unwrap().unwrap();
        assert_eq!(pool.device(&volume).unwrap(), Some(PathBuf::from("/dev/vdb2")));
    });
}

/// A disk whose claim was erased by hand no longer blocks its name.
#[test]
fn a_damaged_claim_that_is_erased_frees_its_name() {
    let (host, [disk, _]) = used();
    host.poke(disk, 0, &[0; 512]);
    run(async {
        let pool = start(&host, Wipe::None);
        pool.volumes().await.unwrap();
        host.poke(disk, 0, &[0; 2 << 20]);
        host.poke(disk, 15 * MIB, &[0; 1 << 20]);
        pool.uevents().count_disk("vdb");
        pool.uevents().count(false);
        assert!(pool.volume("a").await.unwrap().is_none());
        pool.create(&spec("a", 1)).await.unwrap();
    });
}

#[test]
fn a_copy_makes_both_disks_unusable_and_both_are_named() {
    // The copy belongs to the pool, or to no pool; it is intact, or damaged.
    for (selected, damaged) in [(true, false), (false, false), (true, true), (false, true)] {
        let (host, [disk, _]) = used();
        let before = run(async { start(&host, Wipe::None).volume("a").await.unwrap().unwrap() });
        let copy = copy(&host, disk, "vdd");
        if damaged {
            host.poke(copy, 0, &[0; 512]);
        }
        if !selected {
            host.change(copy, |disk| disk.by_id.clear());
        }
        let images = [disk, copy].map(|disk| host.image(disk));
        run(async {
            let pool = start(&host, Wipe::None);
            let listed = pool.volumes().await.unwrap();
            assert!(matches!(&listed[0].health, Health::Lost(why) if why.contains("vdb and vdd")), "{listed:?}");
            let ready = before.record().unwrap().ready().zeroed(Gib(1));
            for error in [
                pool.volume("a").await.map(drop),
                pool.find_requested("a").await.map(drop),
                pool.create(&spec("a", 1)).await.map(drop),
                pool.activate(&before).await.map(drop),
                pool.set_record(&before, &ready).await,
                pool.remove(&before).await,
            ] {
                let error = error.unwrap_err();
                assert_eq!(error.reason, Reason::Unavailable, "{}", error.message);
                assert!(error.message.contains("vdb and vdd"), "{}", error.message);
            }
            let problems = pool.status().await.problems;
            assert!(problems.iter().any(|problem| problem.contains("vdb and vdd")), "{problems:?}");
        });
        assert!([disk, copy].map(|disk| host.image(disk)) == images, "it was written to");
        // When one is removed, the other one is the volume.
        host.pull(copy);
        run(async {
            let pool = start(&host, Wipe::None);
            assert_eq!(pool.volume("a").await.unwrap().unwrap().health, Health::Whole);
        });
    }
}

/// Both have the volume's partition, and it is unknown which one is mounted.
#[test]
fn the_device_of_a_volume_on_two_disks_is_not_guessed() {
    let (host, [disk, _]) = used();
    copy(&host, disk, "vdd");
    host.reboot();
    run(async {
        let pool = start(&host, Wipe::None);
        let volume = pool.volumes().await.unwrap().remove(0);
        let error = pool.device(&volume).unwrap_err();
        assert_eq!(error.reason, Reason::Unavailable);
        assert!(error.message.contains("vdb") && error.message.contains("vdd"), "{}", error.message);
    });
}

/// The disk was cloned and removed, and the clone's table was rewritten before the clone was seen without it.
/// Then putting back the first disk is not what the operator has to do.
#[test]
fn a_rewritten_copy_is_reported_when_its_source_is_gone() {
    let (host, [disk, _]) = used();
    run(async {
        let pool = start(&host, Wipe::None);
        pool.volumes().await.unwrap();
        let copy = copy(&host, disk, "vdd");
        host.pull(disk);
        host.poke(copy, 446, &[0x80, 0, 2, 0, 0x83]);
        pool.uevents().count(true);
        let lost = pool.volume("a").await.unwrap().unwrap();
        let Health::Lost(why) = &lost.health else { panic!("{lost:?}") };
        assert!(why.contains("vdd holds a damaged claim") && why.contains("quarry disks"), "{why}");
        assert!(!why.contains("put the disk back"), "{why}");
    });
}

/// The places of a claim are read one after another. Here, its release happens after the copies of the record
/// were read.
#[test]
fn a_claim_that_is_released_during_a_read_is_not_damaged() {
    let (host, [disk, _]) = used();
    let ClaimState::Claimed(claim) = found(&host, disk) else { panic!("not claimed") };
    let vdb = disk_of(&host, disk);
    host.before_read(disk, 0, move |host| claim::release(&Any(&*host.hold(&vdb).unwrap()), &claim).unwrap());
    run(async {
        let reading = start(&host, Wipe::None).read(None).await;
        assert_eq!(reading.state.problems, [""; 0]);
        assert!(matches!(&reading.volumes, Volumes::All(all) if all.is_empty()), "{:?}", reading.volumes);
    });
    assert_eq!(state_name(&host, disk), "nothing");
}

#[test]
fn a_claim_that_is_made_during_a_read_is_not_damaged() {
    let host = Host::default();
    let disk = host.disk("vdb", 16);
    let vdb = disk_of(&host, disk);
    let record = Record::new(&spec("a", 1), 13 * MIB).to_string();
    host.before_read(disk, 0, move |host| {
        claim::claim(&Any(&*host.hold(&vdb).unwrap()), "a", record.as_bytes()).unwrap();
    });
    run(async {
        let pool = start(&host, Wipe::None);
        assert_eq!(pool.status().await.problems, [""; 0]);
        assert_eq!(pool.volume("a").await.unwrap().unwrap().health, Health::Whole);
    });
}

/// Advice about tags of LVM does not help.
#[test]
fn the_advice_for_an_invalid_record_is_about_disks() {
    let (host, [disk, _]) = used();
    let ClaimState::Claimed(claim) = found(&host, disk) else { panic!("not claimed") };
    let device = host.write(&disk_of(&host, disk)).unwrap();
    claim::set_record(&Any(&*device), &claim, b"quarry1/s=ready").unwrap();
    run(async {
        let volume = start(&host, Wipe::None).volume("a").await.unwrap().unwrap();
        let error = volume.record().unwrap_err();
        assert_eq!(error.reason, Reason::Precondition);
        let advice = "so the volume is not changed: run `quarry disks` on this node, and see \"Repairing it\" in \
                      docs/disk-format.md";
        assert!(error.message.ends_with(advice) && !error.message.contains("tag"), "{}", error.message);
    });
}
