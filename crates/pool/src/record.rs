//! The record that lies with every volume: docs/record-format.md, version 1.
//!
//! On LVM it is one tag, given to the very `lvcreate` that makes the logical volume, so that no instant exists at which
//! a volume of ours is on the disk without saying what it is. The format is frozen by golden tests: readers of any
//! version keep the keys they do not know, and a record of a higher version is never changed.

use std::fmt;

use data_encoding::BASE32_NOPAD;
use quarry_volume::{AccessTypes, Filesystem, Layout, Wipe};

/// What every record begins with, whatever its version.
const MARK: &str = "quarry";
/// The version that this code writes.
pub const VERSION: u32 = 1;
/// The longest record, in bytes, for any name that CSI admits.
pub const MAX_RECORD: usize = 300;

/// Where in its life a volume is. There are two states, and one rule: only a `new` volume may be written by us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Carved. Nobody has used it; wiping and mkfs are allowed.
    New,
    /// Its filesystem, or its zeroes, have been flushed. From now on its bytes are the user's.
    Ready,
}

/// What stands in the record of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// `new` or `ready`.
    pub state: State,
    /// The name that CreateVolume was given.
    pub name: String,
    /// The size that it was created with, in bytes: the requested size, rounded to the units of the storage.
    pub size: u64,
    /// What the volume was made for.
    pub access: AccessTypes,
    /// Its filesystem; `None` for raw block.
    pub filesystem: Option<Filesystem>,
    /// How it lies on the disks.
    pub layout: Layout,
    /// Hash of the creation parameters.
    pub parameters: String,
    /// While a `new` volume is being zeroed, or a deleted one wiped: how many GiB are done and flushed.
    pub zeroed: u64,
    /// What becomes of its bytes when it is deleted; the pool's own way if `None`. Only of a whole disk.
    pub wipe: Option<Wipe>,
    /// Keys of a later minor revision, kept as they came.
    unknown: Vec<String>,
}

/// What a tag on a logical volume says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tag {
    /// Somebody else's tag.
    Foreign,
    /// A record that this code can read and write.
    Record(Box<Record>),
    /// A record of a higher version: listed, unpublished and unstaged, otherwise left alone.
    Newer {
        /// Its version.
        version: u32,
    },
    /// It begins like a record of ours, but it cannot be read.
    Broken {
        /// What is wrong with it.
        why: String,
    },
}

impl Record {
    /// The record of a volume that is about to be carved.
    #[must_use]
    pub fn new(spec: &quarry_volume::VolumeSpec, size: u64) -> Self {
        Self {
            state: State::New,
            name: spec.name.clone(),
            size,
            access: spec.access,
            filesystem: spec.filesystem,
            layout: spec.class.layout,
            parameters: spec.parameters_hash(),
            zeroed: 0,
            wipe: spec.class.wipe,
            unknown: Vec::new(),
        }
    }

    /// The same record in state `ready`.
    #[must_use]
    pub fn ready(&self) -> Self {
        Self { state: State::Ready, zeroed: 0, ..self.clone() }
    }

    /// The same record with its zeroing progress, in GiB.
    #[must_use]
    pub fn zeroed(&self, zeroed: u64) -> Self {
        Self { zeroed, ..self.clone() }
    }

    /// Reads one tag.
    #[must_use]
    pub fn parse(tag: &str) -> Tag {
        let Some(rest) = tag.strip_prefix(MARK) else { return Tag::Foreign };
        let (version, fields) = rest.split_once('/').unwrap_or((rest, ""));
        if version.is_empty() || !version.bytes().all(|byte| byte.is_ascii_digit()) {
            return Tag::Foreign;
        }
        match version.parse::<u32>() {
            Ok(VERSION) => match Self::read(fields) {
                Ok(record) => Tag::Record(Box::new(record)),
                Err(why) => Tag::Broken { why },
            },
            Ok(0) => Tag::Foreign,
            Ok(version) => Tag::Newer { version },
            Err(_) => Tag::Newer { version: u32::MAX },
        }
    }

    fn read(fields: &str) -> Result<Self, String> {
        let mut known = [None; KEYS.len()];
        let mut unknown = Vec::new();
        for field in fields.split('/') {
            let (key, value) = field.split_once('=').ok_or_else(|| format!("field {field:?} has no value"))?;
            match KEYS.iter().position(|candidate| *candidate == key).and_then(|index| known.get_mut(index)) {
                Some(Some(_)) => return Err(format!("key {key:?} appears twice")),
                Some(slot) => *slot = Some(value),
                None => unknown.push(field.to_owned()),
            }
        }
        let [state, name, size, access, filesystem, layout, parameters, zeroed, wipe] = known;
        let missing = |key: &str| format!("key {key:?} is missing");
        let bad = |key: &str, value: &str| format!("key {key:?} has the value {value:?}");
        let state = match state.ok_or_else(|| missing("s"))? {
            "new" => State::New,
            "ready" => State::Ready,
            other => return Err(bad("s", other)),
        };
        let name = name.ok_or_else(|| missing("n"))?;
        let name = decode(name).ok_or_else(|| bad("n", name))?;
        let size = size.ok_or_else(|| missing("b"))?;
        let size = size.parse().map_err(|_| bad("b", size))?;
        let access = match access.ok_or_else(|| missing("a"))? {
            "m" => AccessTypes::Mount,
            "b" => AccessTypes::Block,
            "mb" => AccessTypes::Both,
            other => return Err(bad("a", other)),
        };
        let filesystem = match filesystem {
            None => None,
            Some(name) => Some(name.parse().map_err(|_| bad("f", name))?),
        };
        if filesystem.is_none() && access != AccessTypes::Block {
            return Err(missing("f"));
        }
        let layout = layout.ok_or_else(|| missing("l"))?;
        let layout = Layout::from_code(layout).ok_or_else(|| bad("l", layout))?;
        let parameters = parameters.ok_or_else(|| missing("p"))?.to_owned();
        let zeroed = match zeroed {
            None => 0,
            Some(text) => text.parse().map_err(|_| bad("z", text))?,
        };
        let wipe = match wipe {
            None => None,
            Some(word) => Some(word.parse().map_err(|_| bad("w", word))?),
        };
        Ok(Self { state, name, size, access, filesystem, layout, parameters, zeroed, wipe, unknown })
    }
}

/// The keys of version 1, in the order in which they are written: state, name, bytes asked, access types, filesystem,
/// layout, parameters' hash, GiB zeroed, way to wipe.
const KEYS: [&str; 9] = ["s", "n", "b", "a", "f", "l", "p", "z", "w"];

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::New => "new",
            State::Ready => "ready",
        };
        let access = match self.access {
            AccessTypes::Mount => "m",
            AccessTypes::Block => "b",
            AccessTypes::Both => "mb",
        };
        write!(f, "{MARK}{VERSION}/s={state}/n={}/b={}/a={access}", encode(&self.name), self.size)?;
        if let Some(filesystem) = self.filesystem {
            write!(f, "/f={filesystem}")?;
        }
        write!(f, "/l={}/p={}", self.layout.code(), self.parameters)?;
        if self.zeroed > 0 {
            write!(f, "/z={}", self.zeroed)?;
        }
        if let Some(wipe) = self.wipe {
            write!(f, "/w={wipe}")?;
        }
        for field in &self.unknown {
            write!(f, "/{field}")?;
        }
        Ok(())
    }
}

/// A name as it can stand in a tag: as it is where LVM's tag alphabet admits it and it cannot be mistaken for syntax,
/// otherwise `!` and its base32.
fn encode(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'+' | b':');
    if !name.is_empty() && name.bytes().all(plain) {
        name.to_owned()
    } else {
        format!("!{}", BASE32_NOPAD.encode(name.as_bytes()))
    }
}

fn decode(text: &str) -> Option<String> {
    match text.strip_prefix('!') {
        Some(coded) => String::from_utf8(BASE32_NOPAD.decode(coded.as_bytes()).ok()?).ok(),
        None => Some(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Record {
        Record {
            state: State::New,
            name: "pvc-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11".to_owned(),
            size: 10 << 30,
            access: AccessTypes::Mount,
            filesystem: Some(Filesystem::Ext4),
            layout: Layout::Linear,
            parameters: "abcdefghijklm".to_owned(),
            zeroed: 0,
            wipe: None,
            unknown: Vec::new(),
        }
    }

    /// Golden: these stand on people's disks. They may never change.
    #[test]
    fn records_are_frozen() {
        let record = sample();
        let block = Record {
            name: "größe/1 ".to_owned(),
            access: AccessTypes::Block,
            filesystem: None,
            layout: Layout::Striped { stripes: 2, stripe_size: 65536 },
            zeroed: 64,
            ..sample()
        };
        let both = Record {
            state: State::Ready,
            access: AccessTypes::Both,
            filesystem: Some(Filesystem::Xfs),
            layout: Layout::Raid1 { mirrors: 1 },
            ..sample()
        };
        let disk = Record { zeroed: 192, wipe: Some(Wipe::Discard), ..both.clone() };
        let disk = Record { layout: Layout::Linear, ..disk };
        for (record, text) in [
            (
                disk,
                "quarry1/s=ready/n=pvc-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11/b=10737418240/a=mb/f=xfs/l=l/p=abcdefghijklm/z=192/w=discard",
            ),
            (
                record,
                "quarry1/s=new/n=pvc-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11/b=10737418240/a=m/f=ext4/l=l/p=abcdefghijklm",
            ),
            (block, "quarry1/s=new/n=!M5ZMHNWDT5SS6MJA/b=10737418240/a=b/l=s2.65536/p=abcdefghijklm/z=64"),
            (
                both,
                "quarry1/s=ready/n=pvc-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11/b=10737418240/a=mb/f=xfs/l=r1.1/p=abcdefghijklm",
            ),
        ] {
            assert_eq!(record.to_string(), text);
            assert_eq!(Record::parse(text), Tag::Record(Box::new(record)));
        }
    }

    #[test]
    fn keys_of_a_later_revision_are_kept() {
        let text = "quarry1/s=new/n=a/b=1/a=m/f=ext4/l=l/p=x/k=luks2/q=a=b";
        let Tag::Record(record) = Record::parse(text) else { panic!("not read") };
        assert_eq!(record.ready().to_string(), text.replace("s=new", "s=ready"));
    }

    #[test]
    fn what_is_not_ours_newer_or_broken_is_told_apart() {
        for foreign in ["", "db", "quarry", "quarry/s=new", "quarryx1/s=new", "quarry0/s=new"] {
            assert_eq!(Record::parse(foreign), Tag::Foreign, "{foreign:?}");
        }
        assert_eq!(Record::parse("quarry2/anything at all"), Tag::Newer { version: 2 });
        assert_eq!(Record::parse("quarry99999999999"), Tag::Newer { version: u32::MAX });
        for broken in [
            "quarry1",
            "quarry1/s=new",
            "quarry1/s=old/n=a/b=1/a=m/f=ext4/l=l/p=x",
            "quarry1/s=new/s=new/n=a/b=1/a=m/f=ext4/l=l/p=x",
            "quarry1/s=new/n=a/b=1/a=m/f=ntfs/l=l/p=x",
            "quarry1/s=new/n=a/b=1/a=m/l=l/p=x",
            "quarry1/s=new/n=a/b=-1/a=m/f=ext4/l=l/p=x",
            "quarry1/s=new/n=a/b=1/a=m/f=ext4/l=l/p=x/w=shred",
        ] {
            assert!(matches!(Record::parse(broken), Tag::Broken { .. }), "{broken:?}");
        }
    }

    proptest! {
        #[test]
        fn every_name_fits_and_comes_back(name in "\\PC{1,128}", size in any::<i64>(), filesystem in 0_usize..3, zeroed in 0_u64..1 << 20, whole in any::<bool>()) {
            let mut name = name;
            while name.len() > 128 { name.pop(); }
            let record = Record {
                name,
                size: size.unsigned_abs(),
                filesystem: Some(Filesystem::ALL[filesystem]),
                access: AccessTypes::Both,
                // A way to wipe is a whole disk's, and that is linear.
                layout: if whole { Layout::Linear } else { Layout::Striped { stripes: 64, stripe_size: 4 << 20 } },
                wipe: whole.then_some(Wipe::Discard),
                zeroed,
                ..sample()
            };
            let text = record.to_string();
            prop_assert!(text.len() <= MAX_RECORD, "{} bytes", text.len());
            // LVM's tag alphabet, and no hyphen first.
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+.-/=!:&#".contains(&byte)));
            prop_assert_eq!(Record::parse(&text), Tag::Record(Box::new(record)));
        }

        #[test]
        fn no_tag_makes_the_reader_panic(tag in "(quarry1?/?)?\\PC{0,80}") {
            if let Tag::Record(record) = Record::parse(&tag) {
                let text = record.to_string();
                prop_assert_eq!(Record::parse(&text), Tag::Record(record));
            }
        }
    }
}
