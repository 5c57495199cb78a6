//! The claim states of damaged disks.

use uuid::{Uuid, uuid};

use super::*;

const SIZE: u64 = 16 * MIB;
const LINUX: Uuid = uuid!("0fc63daf-8483-4772-8e79-3d69d8477de4");

/// Changes the table with its header at `header_at` and its entries at `entries_at`, and corrects its
/// checksums.
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

/// The offsets of the backup header and its entries.
pub(super) fn backup(sector_size: u32) -> (u64, u64) {
    let header = SIZE - u64::from(sector_size);
    (header, header - 16384)
}

/// Writes another program's table over Quarry's, at both ends.
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
            // Whatever the damage, the volume's name stays taken.
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
fn a_claim_without_mbr_is_half_made_only_if_it_was_never_used() {
    for sector_size in [512, 4096] {
        let (disk, new) = claimed(sector_size);
        disk.poke(0, &[0; 512]);
        assert!(matches!(read(&disk).unwrap(), ClaimState::HalfClaimed(half) if half.identity == new.identity));
        let (disk, _) = ready(sector_size);
        disk.poke(0, &[0; 512]);
        damaged(&disk, "has not been released");
        // This holds even if the tables are erased as well, which is what `wipefs` does.
        disk.poke(u64::from(sector_size), &[0; 8]);
        damaged(&disk, "has not been released");
        disk.poke(backup(sector_size).0, &[0; 8]);
        damaged(&disk, "has not been released");
    }
}

#[test]
fn one_intact_table_is_enough() {
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
fn one_slot_is_enough_and_none_is_damage() {
    for sector_size in [512, 4096] {
        let (disk, claim) = ready(sector_size);
        disk.poke(MIB + 70, b"#");
        assert_eq!(degraded(&disk), [Degraded::Record]);
        // Writing the same record again repairs it.
        let ClaimState::Claimed(seen) = read(&disk).unwrap() else { panic!("not claimed") };
        let repaired = set_record(&disk, &seen, READY).unwrap();
        assert_eq!(repaired, claim);
        disk.poke(MIB + 70, b"#");
        disk.poke(MIB + MIB / 2, b"#");
        damaged(&disk, "neither copy of its record");
        // The same without the MBR: a disk with only a Quarry table must not be claimed.
        disk.poke(0, &[0; 512]);
        damaged(&disk, "neither copy of its record");
    }
}

#[test]
fn slots_of_different_claims_are_damage() {
    let (disk, _) = ready(512);
    let foreign = Double::new(SIZE, 512, Before::Zeros);
    claim(&foreign, OTHER, READY).unwrap();
    disk.poke(MIB, &foreign.peek(MIB, 4096));
    damaged(&disk, "different claims");
    // A slot of another claim next to tables of this one is damage, too.
    disk.poke(MIB + MIB / 2, &foreign.peek(MIB, 4096));
    damaged(&disk, "do not match the claim");
}

#[test]
fn a_newer_version_is_reported() {
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
fn a_resized_disk_keeps_its_volume() {
    for sector_size in [512, 4096] {
        let (disk, _) = ready(sector_size);
        disk.attach(SIZE + 5 * MIB, sector_size);
        assert_eq!(degraded(&disk), []);
        assert!(matches!(read(&disk).unwrap(), ClaimState::Claimed(claim) if claim.capacity == 18 * MIB));
        // The backup table is found without the primary one.
        disk.poke(u64::from(sector_size), &[0; 512]);
        assert_eq!(degraded(&disk), [Degraded::PrimaryTable]);

        let (disk, _) = ready(sector_size);
        let less = SIZE - 8 * 4096;
        disk.attach(less, sector_size);
        assert_eq!(degraded(&disk), [Degraded::BackupTable, Degraded::Shrunk { then: SIZE, now: less }]);
        disk.attach(SIZE - 2 * MIB, sector_size);
        damaged(&disk, "smaller");
    }
}

#[test]
fn a_backup_table_moved_to_the_new_end_is_found() {
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
    assert_eq!(degraded(&disk), []);
    // It is also found after the disk has grown once more.
    disk.attach(grown + MIB, 512);
    assert_eq!(degraded(&disk), []);
    release(&disk, &claim).unwrap();
    assert_eq!(read(&disk).unwrap(), ClaimState::Nothing);
    disk.attach(grown, 512);
    assert_eq!(read(&disk).unwrap(), ClaimState::Nothing);
}

#[test]
fn a_claim_with_another_sector_size_is_recognized_but_not_used() {
    for (then, now) in [(512, 4096), (4096, 512), (512, 8192)] {
        let (disk, claim) = ready(then);
        disk.attach(SIZE, now);
        match read(&disk).unwrap() {
            ClaimState::OtherSectorSize { claim: found, now: reported } => {
                assert_eq!((&found, reported), (&claim, now));
            }
            other => panic!("{other:?}"),
        }
        let (disk, _) = claimed(then);
        disk.poke(0, &[0; 512]);
        disk.attach(SIZE, now);
        assert!(matches!(read(&disk).unwrap(), ClaimState::OtherSectorSize { .. }));
        // Without its slots, the claim is still recognized.
        disk.poke(MIB, b"#");
        disk.poke(MIB + MIB / 2, b"#");
        damaged(&disk, "neither copy of its record");
    }
}

#[test]
fn a_claim_overwritten_by_another_program_is_foreign_or_damaged() {
    for sector_size in [512, 4096] {
        let sector = u64::from(sector_size);
        let over = |disk: &Double, what: &str| match read(disk).unwrap() {
            ClaimState::Foreign { what: found, .. } => assert!(found.contains(what), "{found}"),
            other => panic!("{other:?}"),
        };
        for used in [true, false] {
            let make = || if used { ready(sector_size).0 } else { claimed(sector_size).0 };
            // A foreign GPT, with and without its MBR, and with Quarry's slots overwritten.
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
            // Foreign partitions next to Quarry's, in one table or in both; a longer volume; a table with an
            // invalid header and another GUID.
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
                // A changed name or attribute does not matter.
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
fn a_foreign_gpt_header_is_found_at_all_four_places() {
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
        // A hybrid MBR is not a protective one.
        disk.poke(466, &[0x83]);
        assert_eq!(read(&disk).unwrap(), foreign("a boot sector or a DOS partition table"));
    }
}

#[test]
fn an_unreadable_place_is_an_error() {
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
        // One table of a claim may be unreadable, but no slot, because it could be the newer one.
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

    /// Whatever is overwritten in any place that a reader checks, it does not panic, and a used disk never
    /// looks free or half-claimed.
    #[test]
    fn no_damage_makes_a_used_disk_free(
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
                let _ = ClaimState::Damaged(damaged).repairs(std::path::Path::new("/dev/vdb"));
            }
            // Without slots, the remnants look foreign, or the disk looks empty.
            ClaimState::Foreign { .. } | ClaimState::Nothing => proptest::prop_assert!(both_slots_hit),
            other => proptest::prop_assert!(false, "{other:?}"),
        }
    }
}

/// Operators write these bytes as docs/disk-format.md describes.
#[test]
fn a_lost_mbr_can_be_restored_by_hand() {
    for sector_size in [512, 4096] {
        let (disk, claim) = ready(sector_size);
        disk.poke(0, &[0; 512]);
        damaged(&disk, "");
        disk.poke(446, b"\0\0\x02\0\xee\xff\xff\xff\x01\0\0\0\xff\xff\xff\xff");
        disk.poke(510, b"\x55\xaa");
        assert_eq!(read(&disk).unwrap(), ClaimState::Claimed(claim));
    }
}
