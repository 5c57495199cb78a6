//! No tag makes the record parser panic, and what it read is written back unchanged.
#![no_main]

use libfuzzer_sys::fuzz_target;
use quarry_pool::{Record, Tag};

fuzz_target!(|text: &str| {
    if let Tag::Record(record) = Record::parse(text) {
        assert_eq!(Record::parse(&record.to_string()), Tag::Record(record));
    }
});
