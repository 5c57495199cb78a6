//! Golden: the bytes of a claim on a disk of 16 MiB. They were computed from the UEFI specification by
//! another program, in another language. They must never change.

use super::*;

struct Golden {
    sector_size: u32,
    primary: &'static str,
    backup: &'static str,
    entries: &'static str,
}

const GOLDEN: [Golden; 2] = [
    Golden {
        sector_size: 512,
        primary: "4546492050415254000001005c0000000e6b9355000000000100000000000000ff7f0000000000002200000000000000\
         de7f000000000000a876f0c9e08b075796806de0ac06dcbf020000000000000080000000800000005234b924",
        backup: "4546492050415254000001005c000000b03a65ac00000000ff7f00000000000001000000000000002200000000000000\
         de7f000000000000a876f0c9e08b075796806de0ac06dcbfdf7f00000000000080000000800000005234b924",
        entries: "1b3e95a70fd18c41ac8aa0e6afe8d458833eae790761e855a3911f199b210c5f0008000000000000ff0f000000000000\
         00000000000000007100750061007200720079002d006d00650074006100640061007400610000000000000000000000\
         000000000000000000000000000000000000000000000000000000000000000090e89748582bb94284ed933a631248d1\
         ccc0c263f4b51758917c4c8691f8a1420010000000000000ff7700000000000000000000000000007100750061007200\
         720079002d0076006f006c0075006d006500000000000000000000000000000000000000000000000000000000000000\
         00000000000000000000000000000000",
    },
    Golden {
        sector_size: 4096,
        primary: "4546492050415254000001005c0000001b87b9ee000000000100000000000000ff0f0000000000000600000000000000\
         fa0f000000000000a876f0c9e08b075796806de0ac06dcbf020000000000000080000000800000000cb80911",
        backup: "4546492050415254000001005c0000008b1bd04d00000000ff0f00000000000001000000000000000600000000000000\
         fa0f000000000000a876f0c9e08b075796806de0ac06dcbffb0f00000000000080000000800000000cb80911",
        entries: "1b3e95a70fd18c41ac8aa0e6afe8d458833eae790761e855a3911f199b210c5f0001000000000000ff01000000000000\
         00000000000000007100750061007200720079002d006d00650074006100640061007400610000000000000000000000\
         000000000000000000000000000000000000000000000000000000000000000090e89748582bb94284ed933a631248d1\
         ccc0c263f4b51758917c4c8691f8a1420002000000000000ff0e00000000000000000000000000007100750061007200\
         720079002d0076006f006c0075006d006500000000000000000000000000000000000000000000000000000000000000\
         00000000000000000000000000000000",
    },
];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn tables_are_frozen() {
    for golden in GOLDEN {
        let (disk, _) = claimed(golden.sector_size);
        let sector = u64::from(golden.sector_size);
        let last = 16 * MIB - sector;
        for (header_at, header, entries_at) in
            [(sector, golden.primary, 2 * sector), (last, golden.backup, last - 16384)]
        {
            let bytes = disk.peek(header_at, golden.sector_size as usize);
            assert_eq!(hex(&bytes[..92]), header);
            assert!(bytes[92..].iter().all(|byte| *byte == 0));
            let bytes = disk.peek(entries_at, 16384);
            assert_eq!(hex(&bytes[..256]), golden.entries);
            assert!(bytes[256..].iter().all(|byte| *byte == 0));
        }
    }
}

#[test]
fn the_protective_mbr_is_frozen() {
    for (size, sector_size, sectors) in [
        (16 * MIB, 512, [0xff, 0x7f, 0, 0]),
        (16 * MIB, 4096, [0xff, 0x0f, 0, 0]),
        // The 32-bit field reaches its limit at 2 TiB.
        (2 << 40, 512, [0xff, 0xff, 0xff, 0xff]),
        (3 << 40, 512, [0xff, 0xff, 0xff, 0xff]),
        (3 << 40, 4096, [0xff, 0xff, 0xff, 0x2f]),
    ] {
        let disk = Double::new(size, sector_size, Before::Noise(1));
        claim(&disk, NAME, NEW).unwrap();
        let mut expected = vec![0; sector_size as usize];
        expected[446..458].copy_from_slice(&[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0]);
        expected[458..462].copy_from_slice(&sectors);
        expected[510..512].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(disk.peek(0, sector_size as usize), expected);
    }
}

/// The slot's own bytes are frozen by the test in its module. This checks the contents for a new claim, and
/// the offsets of both copies.
#[test]
fn the_slots_are_frozen() {
    for sector_size in [512, 4096] {
        let (disk, claim) = claimed(sector_size);
        assert_eq!((claim.offset, claim.length, claim.sequence), (2 * MIB, 13 * MIB, 1));
        let first = disk.peek(MIB, 4096);
        assert_eq!(disk.peek(MIB + MIB / 2, 4096), first);
        assert_eq!(&first[..16], b"QUARRYDK\x01\0\0\0\x01\0\0\0");
        assert_eq!(first[16..24], 1_u64.to_le_bytes());
        assert_eq!(first[24..32], (16 * MIB / u64::from(sector_size)).to_le_bytes());
        assert_eq!(first[32..36], sector_size.to_le_bytes());
        assert_eq!(first[36..40], (NEW.len() as u32).to_le_bytes());
        assert_eq!(first[40..56], claim.identity.disk.0.to_bytes_le());
        assert_eq!(&first[64..64 + NEW.len()], NEW);
    }
}

/// The rest of the metadata partition is zeroed, whatever a former owner left there.
#[test]
fn the_metadata_partition_is_cleared_of_old_data() {
    let disk = Double::new(16 * MIB, 512, Before::Noise(7));
    claim(&disk, NAME, NEW).unwrap();
    for (from, to) in [(MIB + 4096, MIB + MIB / 2), (MIB + MIB / 2 + 4096, 2 * MIB)] {
        assert!(disk.peek(from, (to - from) as usize).iter().all(|byte| *byte == 0));
    }
    assert!(disk.peek(2 * MIB, 4096).iter().any(|byte| *byte != 0), "the volume's bytes are not touched");
}
