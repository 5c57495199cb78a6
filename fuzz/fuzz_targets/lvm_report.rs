//! No lvm report makes the parser panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let _ = quarry_lvm::parse(text);
});
