//! The record of a scratch volume: the new space for a volume that is being expanded, which is cleaned before it
//! joins the volume. See docs/record-format.md, version 2.
//!
//! It has version 2 and a kind, so that a Quarry that knows only version 1 neither lists nor changes it. The format
//! is frozen by golden tests.

use std::fmt;

use quarry_volume::Gib;

use crate::record::MARK;

/// The version of these records.
pub(crate) const VERSION: u32 = 2;
/// The kind in these records.
pub(crate) const KIND: &str = "expansion";

/// The contents of the record of a scratch volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScratchRecord {
    /// The volume that is being expanded: [`crate::PoolVolume::uuid`].
    pub volume: String,
    /// The size that the volume will have, in bytes.
    pub size: u64,
    /// How much of the scratch volume is zeroed and flushed.
    pub zeroed: Gib,
    /// Keys of a later minor revision, kept unchanged.
    unknown: Vec<String>,
}

impl ScratchRecord {
    /// The record of new space with which the volume that has this UUID will have `size` bytes.
    pub(crate) fn new(volume: String, size: u64) -> Self {
        Self { volume, size, zeroed: Gib::NONE, unknown: Vec::new() }
    }

    /// The same record with that zeroing progress.
    pub(crate) fn zeroed(&self, zeroed: Gib) -> Self {
        Self { zeroed, ..self.clone() }
    }

    /// Reads the fields of a record of that version. `None` if it is of anything else, or of a newer format.
    pub(crate) fn read(version: u32, fields: &str) -> Option<Self> {
        if version != VERSION {
            return None;
        }
        let mut known = [None; 4];
        let mut unknown = Vec::new();
        for field in fields.split('/') {
            let (key, value) = field.split_once('=')?;
            match ["k", "v", "b", "z"].iter().position(|candidate| *candidate == key) {
                None => unknown.push(field.to_owned()),
                Some(index) => {
                    let place = known.get_mut(index)?;
                    if place.replace(value).is_some() {
                        return None;
                    }
                }
            }
        }
        let [kind, volume, size, zeroed] = known;
        if kind? != KIND {
            return None;
        }
        let number = |text: &str| text.parse::<u64>().ok().filter(|number| number.to_string() == text);
        Some(Self {
            volume: volume.filter(|volume| !volume.is_empty())?.to_owned(),
            size: number(size?)?,
            zeroed: match zeroed {
                None => Gib::NONE,
                // 0 is never written: another form would be written back as another tag.
                Some(text) => Gib(number(text).filter(|zeroed| *zeroed > 0)?),
            },
            unknown,
        })
    }
}

impl fmt::Display for ScratchRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{MARK}{VERSION}/k={KIND}/v={}/b={}", self.volume, self.size)?;
        if self.zeroed > Gib::NONE {
            write!(f, "/z={}", self.zeroed)?;
        }
        self.unknown.iter().try_for_each(|field| write!(f, "/{field}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Record, Tag};

    const VOLUME: &str = "Hn2pJr-dU4e-7cBb-KwQd-0Rxn-Zk9V-LmYt3s";

    /// Golden: these records are on users' disks. They must never change.
    #[test]
    fn records_are_frozen() {
        let record = ScratchRecord::new(VOLUME.to_owned(), 20 << 30);
        for (record, text) in [
            (record.clone(), "quarry2/k=expansion/v=Hn2pJr-dU4e-7cBb-KwQd-0Rxn-Zk9V-LmYt3s/b=21474836480"),
            (record.zeroed(Gib(64)), "quarry2/k=expansion/v=Hn2pJr-dU4e-7cBb-KwQd-0Rxn-Zk9V-LmYt3s/b=21474836480/z=64"),
        ] {
            assert_eq!(record.to_string(), text);
            assert_eq!(Record::parse(text), Tag::Scratch(record));
        }
        let longest = ScratchRecord::new(VOLUME.to_owned(), u64::MAX).zeroed(Gib(u64::MAX)).to_string();
        assert!(longest.len() <= crate::MAX_RECORD);
    }

    #[test]
    fn keys_of_a_later_revision_are_kept() {
        let text = format!("quarry2/k=expansion/v={VOLUME}/b=1/q=a=b");
        let scratch = Record::parse(&text).scratch().unwrap();
        assert_eq!(scratch.to_string(), text);
        assert_eq!(scratch.zeroed(Gib(2)).to_string(), text.replace("/q", "/z=2/q"));
    }

    #[test]
    fn only_whole_records_of_this_version_are_of_a_scratch_volume() {
        for other in [
            "quarry3/k=expansion/v=x/b=1",
            "quarry2/k=expansion",
            "quarry2/k=expansion/v=x",
            "quarry2/k=expansion/v=/b=1",
            "quarry2/k=expansion/v=x/b=-1",
            "quarry2/k=expansion/v=x/b=01",
            "quarry2/k=expansion/v=x/b=1/z=0",
            "quarry2/k=expansion/v=x/b=1/b=2",
            "quarry2/k=expansion/v=x/b=1/",
            "quarry2/k=snapshot/v=x/b=1",
        ] {
            assert!(matches!(Record::parse(other), Tag::NotVolume(_)), "{other}");
        }
        assert_eq!(Record::parse("quarry2/v=x/b=1"), Tag::Newer { version: 2 });
        assert!(matches!(Record::parse("quarry1/k=expansion/v=x/b=1"), Tag::Broken { .. }));
    }
}
