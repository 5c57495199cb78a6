//! No tag makes the reader of records panic, and what was read is written the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use quarry_pool::{Record, Tag};

fuzz_target!(|text: &str| {
    if let Tag::Record(record) = Record::parse(text) {
        assert_eq!(Record::parse(&record.to_string()), Tag::Record(record));
    }
});
