//! No mountinfo makes the parser panic, and no broken line hides a valid one.
#![no_main]

use libfuzzer_sys::fuzz_target;

const GOOD: &[u8] = b"36 22 253:3 / /staged rw,noatime shared:7 - xfs /dev/mapper/vg-lv rw";

fuzz_target!(|text: &[u8]| {
    let alone = quarry_mount::parse(text).len();
    let with: Vec<u8> = [text, b"\n", GOOD].concat();
    assert_eq!(quarry_mount::parse(&with).len(), alone + 1);
});
