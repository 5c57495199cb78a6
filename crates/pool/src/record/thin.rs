//! The record of a part of a thin pool: the volumes with its data and its metadata, before lvm makes a pool of them. It
//! shows which half-made pools are Quarry's own. See docs/record-format.md, version 2.

use std::fmt;

use super::MARK;
use super::text::{decode, encode, is_written_as, split};

/// The kind in these records.
pub(super) const KIND: &str = "thin-pool";
/// The keys, in the order in which they are written: kind, part, name of the pool.
const KEYS: [&str; 3] = ["k", "p", "n"];

/// A part of a thin pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThinPoolPart {
    /// The volume with the data. The pool gets its name.
    Data,
    /// The volume with the metadata.
    Metadata,
}

/// The contents of the record of a part of a thin pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThinPoolRecord {
    /// Which part it is.
    pub part: ThinPoolPart,
    /// The name of the pool.
    pub pool: String,
    /// Keys of a later minor revision, kept unchanged.
    unknown: Vec<String>,
}

impl ThinPoolRecord {
    /// The version of these records.
    pub const VERSION: u32 = 2;

    /// The record of a part of the pool with that name.
    pub(crate) fn new(part: ThinPoolPart, pool: &str) -> Self {
        Self { part, pool: pool.to_owned(), unknown: Vec::new() }
    }

    /// Reads the fields of a record of that version. `None` if it is of anything else, or of a newer format: only what
    /// this code would write in exactly this form is one.
    pub(super) fn read(version: u32, fields: &str) -> Option<Self> {
        if version != Self::VERSION {
            return None;
        }
        let ([kind, part, pool], unknown) = split(KEYS, fields).ok()?;
        if kind? != KIND {
            return None;
        }
        let part = match part? {
            "data" => ThinPoolPart::Data,
            "metadata" => ThinPoolPart::Metadata,
            _ => return None,
        };
        let record = Self { part, pool: decode(pool?)?, unknown };
        is_written_as(&record, version, fields).then_some(record)
    }
}

impl fmt::Display for ThinPoolRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = match self.part {
            ThinPoolPart::Data => "data",
            ThinPoolPart::Metadata => "metadata",
        };
        write!(f, "{MARK}{}/k={KIND}/p={part}/n={}", Self::VERSION, encode(&self.pool))?;
        self.unknown.iter().try_for_each(|field| write!(f, "/{field}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{NotVolume, Record, Tag};

    /// Golden: these records are on users' disks. They must never change.
    #[test]
    fn records_are_frozen() {
        for (part, text) in [
            (ThinPoolPart::Data, "quarry2/k=thin-pool/p=data/n=thin-1"),
            (ThinPoolPart::Metadata, "quarry2/k=thin-pool/p=metadata/n=thin-1"),
        ] {
            let record = ThinPoolRecord::new(part, "thin-1");
            assert_eq!(record.to_string(), text);
            assert_eq!(Record::parse(text), Tag::ThinPool(record));
        }
        let later = "quarry2/k=thin-pool/p=data/n=thin-1/x=y";
        assert!(matches!(Record::parse(later), Tag::ThinPool(record) if record.to_string() == later));
    }

    #[test]
    fn another_form_is_of_a_newer_quarry() {
        for text in [
            "quarry2/k=thin-pool/p=spare/n=a",
            "quarry2/k=thin-pool/n=a/p=data",
            "quarry2/k=thin-pool/p=data",
            "quarry3/k=thin-pool/p=data/n=a",
        ] {
            let Tag::NotVolume(NotVolume { kind, .. }) = Record::parse(text) else { panic!("{text}") };
            assert_eq!(kind, KIND);
        }
    }
}
