//! What is found on disks to which something happened.

use uuid::{Uuid, uuid};

use super::*;

const SIZE: u64 = 16 * MIB;
const LINUX: Uuid = uuid!("0fc63daf-8483-4772-8e79-3d69d8477de4");

/// Changes a table at `header_at`, whose entries are at `entries_at`, and makes its checksums right again.
pub(super) fn forge(disk: &Double, header_at: u64, entries_at: u64, change: impl FnOnce(&mut [u8], &mut [u8])) {
    let mut header = disk.peek(header_at, 512);
    let mut entries = disk.peek(entries_at, 16384);
    change(&mut header, &mut entries);
    header[88..92].copy_from_slice(&crc32fast::hash(&entries).to_le_bytes());
    header[16..20].fill(0);
    let checksum = crc32fast::hash(&header[..92]);
    header[16..20].copy_from_slice(&checksum.to_le_bytes());
    disk.poke(header_at, &header);
    disk.poke(entries_at, &entries);
}

/// Where the backup header and its entries lie.
pub(super) fn backup(sector_size: u32) -> (u64, u64) {
    let header = SIZE - u64::from(sector_size);
    (header, header - 16384)
}

/// Another program's table, over ours, at both ends.
pub(super) fn repartition(disk: &Double, sector_size: u32) {
    let sector = u64::from(sector_size);
    for (header_at, entries_at) in [(sector, 2 * sector), backup(sector_size)] {
        forge(disk, header_at, entries_at, |header, entries| {
            header[56..72].fill(0x77);
            entries[..16].copy_from_slice(&LINUX.to_bytes_le());
            entries[128..256].fill(0);
        });
    }
}

fn damaged(disk: &Double, part: &str) {
    match read(disk).unwrap() {
        ClaimState::Damaged(damaged) => {
            let why = damaged.damage.to_string();
            assert!(why.contains(part), "{why}");
            // Whatever happened to it, its volume's name stays taken.
            assert!(damaged.identities().contains(&Identity::of(NAME)), "{damaged:?}");
        }
        other => panic!("{other:?}"),
    }
}

fn foreign(what: &'static str) -> ClaimState {
    ClaimState::Foreign { what, over: None }
}

fn degraded(disk: &Double) -> Vec<Degraded> {
    match read(disk).unwrap() {
        ClaimState::Claimed(claim) => {
            assert_eq!(claim.record, READY);
            assert_eq!((claim.offset, claim.length), (2 * MIB, 13 * MIB));
            claim.degraded
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_lost_mbr_is_half_a_claim_only_if_nobody_has_used_it() {
    for sector_size in [512, 4096] {
        let (disk, new) = claimed(sector_size);
        disk.poke(0, &[0; 512]);
        assert!(matches!(read(&disk).unwrap(), ClaimState::HalfClaimed(half) if half.identity == new.identity));
        let (disk, _) = ready(sector_size);
        disk.poke(0, &[0; 512]);
        damaged(&disk, "has not been released");
        // Not even where the tables are gone as well, as `wipefs` leaves it.
        disk.poke(u64::from(sector_size), &[0; 8]);
        damaged(&disk, "has not been released");
        disk.poke(backup(sector_size).0, &[0; 8]);
        damaged(&disk, "has not been released");
    }
}

#[test]
fn one_table_is_enough() {
    for sector_size in [512, 4096] {
        let sector = u64::from(sector_size);
        for at in [sector, sector + 60, 2 * sector + 40] {
            let (disk, _) = ready(sector_size);
            disk.poke(at, &[0xa5; 4]);
            assert_eq!(degraded(&disk), [Degraded::PrimaryTable]);
        }
        let (header, entries) = backup(sector_size);
        for at in [header, header + 60, entries + 40] {
            let (disk, _) = ready(sector_size);
            disk.poke(at, &[0xa5; 4]);
            assert_eq!(degraded(&disk), [Degraded::BackupTable]);
            disk.poke(sector + 30, &[0xa5; 4]);
            damaged(&disk, "");
        }
    }
}

#[test]
fn a_slot_is_enough_and_none_is_not() {
    for sector_size in [512, 4096] {
        let (disk, claim) = ready(sector_size);
        disk.poke(MIB + 70, b"#");
        assert_eq!(degraded(&disk), [Degraded::Record]);
        // The same record again mends it.
        let ClaimState::Claimed(seen) = read(&disk).unwrap() else { panic!("not claimed") };
        let mended = set_record(&disk, &seen, READY).unwrap();
        assert_eq!(mended, claim);
        disk.poke(MIB + 70, b"#");
        disk.poke(MIB + MIB / 2, b"#");
        damaged(&disk, "neither copy of its record");
        // And without its MBR likewise: a table of ours alone is not for taking.
        disk.poke(0, &[0; 512]);
        damaged(&disk, "neither copy of its record");
    }
}

#[test]
fn slots_of_two_claims_are_no_claim() {
    let (disk, _) = ready(512);
    let stranger = Double::new(SIZE, 512, Before::Zeros);
    claim(&stranger, OTHER, READY).unwrap();
    disk.poke(MIB, &stranger.peek(MIB, 4096));
    damaged(&disk, "different claims");
    // Nor is one slot of another claim beside tables of this one.
    disk.poke(MIB + MIB / 2, &stranger.peek(MIB, 4096));
    damaged(&disk, "do not match the claim");
}

#[test]
fn a_later_version_is_told() {
    for slot in [MIB, MIB + MIB / 2] {
        let (disk, _) = ready(512);
        let mut bytes = disk.peek(slot, 4096);
        bytes[8] = 3;
        let checksum = crc32fast::hash(&bytes[..4092]);
        bytes[4092..].copy_from_slice(&checksum.to_le_bytes());
        disk.poke(slot, &bytes);
        assert_eq!(read(&disk).unwrap(), ClaimState::Newer { version: 3, named: vec![Identity::of(NAME)] });
    }
}

#[test]
fn a_disk_of_another_size_keeps_its_volume() {
    for sector_size in [512, 4096] {
        let (disk, _) = ready(sector_size);
        disk.attach(SIZE + 5 * MIB, sector_size);
        assert_eq!(degraded(&disk), [Degraded::Resized { then: SIZE, now: SIZE + 5 * MIB }]);
        // The backup is found without the primary.
        disk.poke(u64::from(sector_size), &[0; 512]);
        let resized = Degraded::Resized { then: SIZE, now: SIZE + 5 * MIB };
        assert_eq!(degraded(&disk), [Degraded::PrimaryTable, resized]);

        let (disk, _) = ready(sector_size);
        let less = SIZE - 8 * 4096;
        disk.attach(less, sector_size);
        assert_eq!(degraded(&disk), [Degraded::BackupTable, Degraded::Resized { then: SIZE, now: less }]);
        disk.attach(SIZE - 2 * MIB, sector_size);
        damaged(&disk, "smaller");
    }
}

#[test]
fn a_backup_that_another_program_moved_to_the_new_end_is_found() {
    let (disk, claim) = ready(512);
    let grown = SIZE + MIB;
    disk.attach(grown, 512);
    let last = grown / 512 - 1;
    let entries = disk.peek(1024, 16384);
    disk.poke(grown - 512 - 16384, &entries);
    disk.poke(grown - 512, &disk.peek(SIZE - 512, 512));
    forge(&disk, grown - 512, grown - 512 - 16384, |header, _| {
        header[24..32].copy_from_slice(&last.to_le_bytes());
        header[72..80].copy_from_slice(&(last - 32).to_le_bytes());
    });
    forge(&disk, 512, 1024, |header, _| header[32..40].copy_from_slice(&last.to_le_bytes()));
    disk.poke(SIZE - 512 - 16384, &[0; 16384 + 512]);
    assert_eq!(degraded(&disk), [Degraded::Resized { then: SIZE, now: grown }]);
    // It is found where the disk has grown once more.
    disk.attach(grown + MIB, 512);
    assert_eq!(degraded(&disk), [Degraded::Resized { then: SIZE, now: grown + MIB }]);
    release(&disk, &claim).unwrap();
    assert_eq!(read(&disk).unwrap(), ClaimState::Nothing);
    disk.attach(grown, 512);
    assert_eq!(read(&disk).unwrap(), ClaimState::Nothing);
}

#[test]
fn behind_another_adapter_it_is_known_and_not_used() {
    for (then, now) in [(512, 4096), (4096, 512), (512, 8192)] {
        let (disk, claim) = ready(then);
        disk.attach(SIZE, now);
        match read(&disk).unwrap() {
            ClaimState::OtherSectorSize { claim: found, now: told } => {
                assert_eq!((&found, told), (&claim, now));
            }
            other => panic!("{other:?}"),
        }
        let (disk, _) = claimed(then);
        disk.poke(0, &[0; 512]);
        disk.attach(SIZE, now);
        assert!(matches!(read(&disk).unwrap(), ClaimState::OtherSectorSize { .. }));
        // Without its slots it is none the less ours.
        disk.poke(MIB, b"#");
        disk.poke(MIB + MIB / 2, b"#");
        damaged(&disk, "neither copy of its record");
    }
}

#[test]
fn what_other_programs_wrote_over_it_is_not_ours() {
    for sector_size in [512, 4096] {
        let sector = u64::from(sector_size);
        let over = |disk: &Double, what: &str| match read(disk).unwrap() {
            ClaimState::Foreign { what: found, .. } => assert!(found.contains(what), "{found}"),
            other => panic!("{other:?}"),
        };
        for used in [true, false] {
            let make = || if used { ready(sector_size).0 } else { claimed(sector_size).0 };
            // A GPT of its own, with and without its MBR, and with our slots overwritten.
            let disk = make();
            repartition(&disk, sector_size);
            over(&disk, "a GPT partition table");
            disk.poke(0, &[0; 512]);
            over(&disk, "a GPT partition table");
            disk.poke(MIB, b"#");
            disk.poke(MIB + MIB / 2, b"#");
            over(&disk, "a GPT partition table");
            disk.poke(sector, &[0; 8]);
            over(&disk, "a GPT partition table");
            disk.poke(backup(sector_size).0 + 20, b"#");
            over(&disk, "remnants of a GPT partition table");
            // A DOS partition table.
            let disk = make();
            disk.poke(446, &[0x80, 0, 2, 0, 0x83]);
            damaged(&disk, "a boot sector or a DOS partition table");
            // Partitions of its own beside ours, in one table or in both; a volume made longer; a table with no sound
            // header and another's GUID.
            for place in [(sector, 2 * sector), backup(sector_size)] {
                let disk = make();
                forge(&disk, place.0, place.1, |_, entries| entries[256..272].copy_from_slice(&LINUX.to_bytes_le()));
                damaged(&disk, "has changed its partition tables");
                let disk = make();
                forge(&disk, place.0, place.1, |_, entries| entries[168] ^= 1);
                damaged(&disk, "has changed its partition tables");
                let disk = make();
                forge(&disk, place.0, place.1, |_, entries| entries[..16].copy_from_slice(&[9; 16]));
                damaged(&disk, "has changed its partition tables");
                // A name or an attribute is nobody's concern.
                let disk = make();
                forge(&disk, place.0, place.1, |_, entries| entries[176..190].fill(0x41));
                assert!(matches!(read(&disk).unwrap(), ClaimState::Claimed(claim) if claim.degraded.is_empty()));
            }
            let disk = make();
            disk.poke(0, &[0; 512]);
            disk.poke(sector + 56, &[9; 16]);
            damaged(&disk, "do not match the claim");
        }
    }
}

#[test]
fn a_disk_of_others_is_theirs_at_all_four_places() {
    for now in [512, 4096] {
        for at in [512, 4096, SIZE - 512, SIZE - 4096] {
            let disk = Double::new(SIZE, now, Before::Zeros);
            disk.poke(at, b"EFI PART");
            assert_eq!(read(&disk).unwrap(), foreign("remnants of a GPT partition table"));
            assert!(matches!(claim(&disk, NAME, NEW), Err(Error::Unexpected { .. })));
        }
        let disk = Double::new(SIZE, now, Before::Noise(3));
        assert_eq!(read(&disk).unwrap(), ClaimState::Nothing);
        disk.poke(510, &[0x55, 0xaa]);
        assert_eq!(read(&disk).unwrap(), foreign("a boot sector or a DOS partition table"));
        disk.poke(446, &[0; 64]);
        disk.poke(450, &[0xee, 0, 0, 0, 1]);
        assert!(matches!(read(&disk).unwrap(), ClaimState::Foreign { what, .. } if what.contains("protective MBR")));
        // A hybrid is none.
        disk.poke(466, &[0x83]);
        assert_eq!(read(&disk).unwrap(), foreign("a boot sector or a DOS partition table"));
    }
}

#[test]
fn what_cannot_be_read_is_not_nothing() {
    for sector_size in [512, 4096] {
        let sector = u64::from(sector_size);
        let (header, _) = backup(sector_size);
        let pieces = [0, sector / 512, header / 512, MIB / 512, (MIB + MIB / 2) / 512 + 7];
        for piece in pieces {
            let disk = Double::new(SIZE, sector_size, Before::Zeros);
            disk.bad.borrow_mut().insert(piece);
            assert!(matches!(read(&disk), Err(Error::Io { .. })), "piece {piece}");
            assert!(matches!(claim(&disk, NAME, NEW), Err(Error::Io { .. })));
        }
        // One table of a claim may be lost so; no slot may, for it could be the newer one.
        let (disk, _) = ready(sector_size);
        disk.bad.borrow_mut().insert(sector / 512);
        assert_eq!(degraded(&disk), [Degraded::PrimaryTable]);
        disk.bad.borrow_mut().insert(header / 512);
        assert!(matches!(read(&disk), Err(Error::Io { .. })));
        let (disk, _) = ready(sector_size);
        disk.bad.borrow_mut().insert(MIB / 512 + 7);
        assert!(matches!(read(&disk), Err(Error::Io { .. })));
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    /// Whatever is written wherever a reader looks, it does not panic, and what was in use is never taken for free or for
    /// half a claim.
    #[test]
    fn no_damage_sets_a_used_disk_free(
        places in proptest::collection::vec((0_usize..8, 0_u64..600, proptest::collection::vec(proptest::prelude::any::<u8>(), 1..64)), 1..6),
        large in proptest::prelude::any::<bool>(),
    ) {
        let sector_size = if large { 4096 } else { 512 };
        let (disk, _) = ready(sector_size);
        let (header, entries) = backup(sector_size);
        let bases = [0, u64::from(sector_size), 2 * u64::from(sector_size), MIB, MIB + 3500, MIB + MIB / 2, entries, header - 600];
        for (base, offset, bytes) in &places {
            disk.poke(bases[*base] + offset, bytes);
        }
        let both_slots_hit = places.iter().any(|(base, ..)| [3, 4].contains(base)) && places.iter().any(|(base, ..)| *base == 5);
        match read(&disk).unwrap() {
            ClaimState::Claimed(claim) => proptest::prop_assert_eq!(claim.record, READY),
            ClaimState::Damaged(damaged) => {
                proptest::prop_assert!(damaged.identities().contains(&Identity::of(NAME)) || both_slots_hit);
                let _ = ClaimState::Damaged(damaged).mends(std::path::Path::new("/dev/vdb"));
            }
            // Without slots the ruins are nobody's, or nothing.
            ClaimState::Foreign { .. } | ClaimState::Nothing => proptest::prop_assert!(both_slots_hit),
            other => proptest::prop_assert!(false, "{other:?}"),
        }
    }
}

/// docs/disk-format.md tells operators to write these bytes.
#[test]
fn a_lost_mbr_can_be_put_back_by_hand() {
    for sector_size in [512, 4096] {
        let (disk, claim) = ready(sector_size);
        disk.poke(0, &[0; 512]);
        damaged(&disk, "");
        disk.poke(446, b"\0\0\x02\0\xee\xff\xff\xff\x01\0\0\0\xff\xff\xff\xff");
        disk.poke(510, b"\x55\xaa");
        assert_eq!(read(&disk).unwrap(), ClaimState::Claimed(claim));
    }
}
