//! No tag makes the record parser panic, and what it read is written back unchanged.
#![no_main]

use libfuzzer_sys::fuzz_target;
use quarry_pool::{Record, Tag};

fuzz_target!(|text: &str| {
    match Record::parse(text) {
        Tag::Record(record) => assert_eq!(Record::parse(&record.to_string()), Tag::Record(record)),
        Tag::Snapshot(snapshot) => assert_eq!(snapshot.to_string(), text),
        Tag::ThinPool(part) => assert_eq!(part.to_string(), text),
        _ => {}
    }
});
