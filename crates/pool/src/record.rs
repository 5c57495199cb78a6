//! The record of a volume: docs/record-format.md, version 1. (Version 2, for other objects, is in
//! [`crate::scratch`].)
//!
//! On LVM it is a tag that is set by the `lvcreate` that creates the logical volume, so at no instant does a
//! Quarry volume exist without a record. The format is frozen by golden tests: readers of any version keep
//! unknown keys, and never change a record of a higher version.

use std::fmt;

use data_encoding::BASE32_NOPAD;
use quarry_volume::{AccessTypes, Filesystem, Gib, Layout, VolumeSpec, Wipe};
use uuid::Uuid;

use crate::scratch::{self, ScratchRecord};

/// The beginning of every record, whatever its version.
pub(crate) const MARK: &str = "quarry";
/// The beginning of the field with the kind of the object, in a record of a higher version that is not of a
/// volume.
const KIND: &str = "k=";
/// The version that this code writes.
pub const VERSION: u32 = 1;
/// The maximum length of a record in bytes, for any name that CSI allows.
pub const MAX_RECORD: usize = 340;

/// The state of a volume. There are two states, and one rule: Quarry writes only to a `new` volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Created, but never used; wiping and mkfs are allowed.
    New,
    /// Its filesystem, or its zeroes, have been flushed. From now on its data belongs to the user.
    Ready,
}

/// The contents of a volume's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// `new` or `ready`.
    pub state: State,
    /// The name in CreateVolume.
    pub name: String,
    /// The size that it was created with, in bytes: the requested size, rounded to the units of the storage.
    pub size: u64,
    /// How the volume may be used.
    pub access: AccessTypes,
    /// The filesystem; `None` for raw block.
    pub filesystem: Option<Filesystem>,
    /// The layout on the disks.
    pub layout: Layout,
    /// The hash of the creation parameters.
    pub parameters: String,
    /// While a `new` volume is being zeroed, or a deleted one wiped: how much is done and flushed.
    pub zeroed: Gib,
    /// How its data is wiped when it is deleted; `None`: the pool's mode. Only for whole disks.
    pub wipe: Option<Wipe>,
    /// The UUID of its filesystem, since the volume is `ready`. `None` before, without a filesystem, and for
    /// volumes that became `ready` when records did not have it; see [`crate::PoolVolume::filesystem_uuid`].
    pub filesystem_uuid: Option<Uuid>,
    /// Whether the signatures of previous owners were wiped, and that was flushed, before this record was
    /// written. Only for a `new` volume that is never shown raw, and only where no commit is needed for it.
    pub wiped: bool,
    /// Keys of a later minor revision, kept unchanged.
    unknown: Vec<String>,
}

/// The meaning of a tag on a logical volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tag {
    /// Not a tag of Quarry's.
    Foreign,
    /// A record that this code can read and write.
    Record(Box<Record>),
    /// A record of a higher version on a volume: listed, unpublished and unstaged, but otherwise not touched.
    Newer {
        /// The version.
        version: u32,
    },
    /// The record of new space for a volume, which is reserved for its expansion. It is not a volume, and not
    /// listed.
    Scratch(ScratchRecord),
    /// A record of a higher version on something that is not a volume, and that this code does not know: not
    /// listed, and no call changes it. Only its name and its space are taken.
    NotVolume(NotVolume),
    /// It begins like a record, but cannot be read.
    Broken {
        /// The problem.
        why: String,
    },
}

/// Something that a newer Quarry stored, and that is not a volume: for example a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotVolume {
    /// The version of its record.
    pub version: u32,
    /// Its kind, according to its record.
    pub kind: String,
}

impl fmt::Display for NotVolume {
    /// As text: "a \"snapshot\" of a newer Quarry (record version 2)".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a {:?} of a newer Quarry (record version {})", self.kind, self.version)
    }
}

impl Tag {
    /// What the tag is on, if that is not a volume. For storage that never has scratch volumes, one is unknown.
    #[must_use]
    pub fn not_volume(self) -> Option<NotVolume> {
        match self {
            Self::NotVolume(other) => Some(other),
            Self::Scratch(_) => Some(NotVolume { version: scratch::VERSION, kind: scratch::KIND.to_owned() }),
            Self::Foreign | Self::Record(_) | Self::Newer { .. } | Self::Broken { .. } => None,
        }
    }

    /// The record of new space for a volume, if the tag is one.
    #[must_use]
    pub fn scratch(self) -> Option<ScratchRecord> {
        match self {
            Self::Scratch(scratch) => Some(scratch),
            Self::Foreign | Self::Record(_) | Self::NotVolume(_) | Self::Newer { .. } | Self::Broken { .. } => None,
        }
    }
}

impl Record {
    /// The record of a new volume.
    #[must_use]
    pub fn new(spec: &VolumeSpec, size: u64) -> Self {
        Self {
            state: State::New,
            name: spec.name.clone(),
            size,
            access: spec.access,
            filesystem: spec.filesystem,
            layout: spec.class.layout,
            parameters: spec.parameters_hash(),
            zeroed: Gib::NONE,
            wipe: spec.class.wipe,
            filesystem_uuid: None,
            wiped: false,
            unknown: Vec::new(),
        }
    }

    /// The same record of a volume whose signatures were wiped. For one that may be shown raw this says nothing:
    /// its bytes are zeroed.
    #[must_use]
    pub fn wiped(&self) -> Self {
        Self { wiped: !self.access.shows_bytes(), ..self.clone() }
    }

    /// The same record in state `ready`.
    #[must_use]
    pub fn ready(&self) -> Self {
        Self { state: State::Ready, zeroed: Gib::NONE, wiped: false, ..self.clone() }
    }

    /// The same record in state `ready`, of a volume that has a filesystem with that UUID.
    #[must_use]
    pub fn ready_with(&self, filesystem_uuid: Uuid) -> Self {
        Self { filesystem_uuid: Some(filesystem_uuid), ..self.ready() }
    }

    /// The same record with that zeroing progress.
    #[must_use]
    pub fn zeroed(&self, zeroed: Gib) -> Self {
        Self { zeroed, ..self.clone() }
    }

    /// How the volume differs from the requested one, for a sentence that ends with it; `None` if a retry
    /// of that request finds this volume (CSI `CreateVolume`, idempotency). Its size and pool are not compared.
    #[must_use]
    pub fn conflict(&self, spec: &VolumeSpec) -> Option<String> {
        if self.access != spec.access {
            return Some(format!("created for use as {}, not as {}", self.access, spec.access));
        }
        if self.filesystem != spec.filesystem {
            let name = |filesystem: Option<Filesystem>| filesystem.map_or("no filesystem", Filesystem::as_str);
            return Some(format!("with {}, not {}", name(self.filesystem), name(spec.filesystem)));
        }
        if self.layout != spec.class.layout {
            return Some(format!("{}, not {}", self.layout, spec.class.layout));
        }
        if self.parameters != spec.parameters_hash() {
            return Some("created with other mkfsOptions".to_owned());
        }
        if self.wipe != spec.class.wipe {
            let mode = |wipe: Option<Wipe>| wipe.map_or("set by the pool", Wipe::as_str);
            return Some(format!("with wipe mode {}, not {}", mode(self.wipe), mode(spec.class.wipe)));
        }
        None
    }

    /// Parses one tag.
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
            Ok(version) => Self::newer(version, fields),
            Err(_) => Self::newer(u32::MAX, fields),
        }
    }

    /// A record of a higher version. Unless it is of new space for a volume, only its kind is read.
    fn newer(version: u32, fields: &str) -> Tag {
        if let Some(scratch) = ScratchRecord::read(version, fields) {
            return Tag::Scratch(scratch);
        }
        match fields.split('/').find_map(|field| field.strip_prefix(KIND)) {
            Some(kind) => Tag::NotVolume(NotVolume { version, kind: kind.to_owned() }),
            None => Tag::Newer { version },
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
        let [state, name, size, access, filesystem, layout, parameters, zeroed, wipe, uuid, wiped] = known;
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
            None => Gib::NONE,
            Some(text) => Gib(text.parse().map_err(|_| bad("z", text))?),
        };
        let wipe = match wipe {
            None => None,
            Some(word) => Some(word.parse().map_err(|_| bad("w", word))?),
        };
        let filesystem_uuid = match uuid {
            None => None,
            Some(digits) => Some(parse_uuid(digits).ok_or_else(|| bad("u", digits))?),
        };
        let wiped = match wiped {
            None => false,
            Some("1") => true,
            Some(other) => return Err(bad("c", other)),
        };
        Ok(Self {
            state,
            name,
            size,
            access,
            filesystem,
            layout,
            parameters,
            zeroed,
            wipe,
            filesystem_uuid,
            wiped,
            unknown,
        })
    }
}

/// The keys of version 1, in the order in which they are written: state, name, requested bytes, access types,
/// filesystem, layout, hash of the parameters, zeroed GiB, wipe mode, UUID of the filesystem, wiped. A key that is
/// added later goes to the end, where a reader that does not know it keeps it.
const KEYS: [&str; 11] = ["s", "n", "b", "a", "f", "l", "p", "z", "w", "u", "c"];

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
        if self.zeroed > Gib::NONE {
            write!(f, "/z={}", self.zeroed)?;
        }
        if let Some(wipe) = self.wipe {
            write!(f, "/w={wipe}")?;
        }
        if let Some(uuid) = self.filesystem_uuid {
            write!(f, "/u={}", uuid.simple())?;
        }
        if self.wiped {
            f.write_str("/c=1")?;
        }
        for field in &self.unknown {
            write!(f, "/{field}")?;
        }
        Ok(())
    }
}

/// Encodes a name for a tag: unchanged if LVM allows all its characters in tags and it cannot be mistaken for
/// syntax, otherwise `!` and its base32.
fn encode(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'+' | b':');
    if !name.is_empty() && name.bytes().all(plain) {
        name.to_owned()
    } else {
        format!("!{}", BASE32_NOPAD.encode(name.as_bytes()))
    }
}

/// Parses a UUID in the only form in which it is written: 32 hexadecimal digits, in lower case.
fn parse_uuid(digits: &str) -> Option<Uuid> {
    Uuid::try_parse(digits).ok().filter(|uuid| uuid.simple().to_string() == digits)
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
    use uuid::uuid;

    fn sample() -> Record {
        Record {
            state: State::New,
            name: "pvc-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11".to_owned(),
            size: 10 << 30,
            access: AccessTypes::Mount,
            filesystem: Some(Filesystem::Ext4),
            layout: Layout::Linear,
            parameters: "abcdefghijklm".to_owned(),
            zeroed: Gib::NONE,
            wipe: None,
            filesystem_uuid: None,
            wiped: false,
            unknown: Vec::new(),
        }
    }

    const UUID: Uuid = uuid!("b79cd4be-d8b3-5e16-ac2f-178919c3c36b");

    // A tag of lvm has at most 1024 bytes.
    const _: () = assert!(MAX_RECORD <= 1024 && MAX_RECORD <= quarry_disk::claim::MAX_RECORD);

    /// Golden: these records are on users' disks. They must never change.
    #[test]
    fn records_are_frozen() {
        let record = sample();
        let block = Record {
            name: "größe/1 ".to_owned(),
            access: AccessTypes::Block,
            filesystem: None,
            layout: Layout::Striped { stripes: 2, stripe_size: 65536 },
            zeroed: Gib(64),
            ..sample()
        };
        let both = Record {
            state: State::Ready,
            access: AccessTypes::Both,
            filesystem: Some(Filesystem::Xfs),
            layout: Layout::Raid1 { mirrors: 1 },
            ..sample()
        };
        let disk = Record { zeroed: Gib(192), wipe: Some(Wipe::Discard), ..both.clone() };
        let disk = Record { layout: Layout::Linear, ..disk };
        let made = record.ready_with(UUID);
        let restored = Record { zeroed: Gib(10), filesystem_uuid: Some(UUID), ..record.clone() };
        let all = Record { wiped: true, ..restored.clone() };
        let clean = Record { wipe: Some(Wipe::None), ..record.wiped() };
        let erased = Record { filesystem_uuid: Some(UUID), ..disk.clone() };
        for (record, text) in [
            (
                made,
                "quarry1/s=ready/n=pvc-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11/b=10737418240/a=m/f=ext4/l=l/p=abcdefghijklm/u=b79cd4bed8b35e16ac2f178919c3c36b",
            ),
            (
                restored,
                "quarry1/s=new/n=pvc-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11/b=10737418240/a=m/f=ext4/l=l/p=abcdefghijklm/z=10/u=b79cd4bed8b35e16ac2f178919c3c36b",
            ),
            (
                clean,
                "quarry1/s=new/n=pvc-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11/b=10737418240/a=m/f=ext4/l=l/p=abcdefghijklm/w=none/c=1",
            ),
            (
                all,
                "quarry1/s=new/n=pvc-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11/b=10737418240/a=m/f=ext4/l=l/p=abcdefghijklm/z=10/u=b79cd4bed8b35e16ac2f178919c3c36b/c=1",
            ),
            (
                erased,
                "quarry1/s=ready/n=pvc-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11/b=10737418240/a=mb/f=xfs/l=l/p=abcdefghijklm/z=192/w=discard/u=b79cd4bed8b35e16ac2f178919c3c36b",
            ),
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
    fn a_request_that_differs_from_the_record_is_a_conflict() {
        let spec = VolumeSpec::mount("a", 1 << 30, Filesystem::Ext4);
        let record = Record::new(&spec, 1 << 30);
        assert_eq!(record.conflict(&spec), None);
        let mut discards = spec.clone();
        discards.class.wipe = Some(Wipe::Discard);
        let mut options = spec.clone();
        options.class.mkfs_options = "-m 0".to_owned();
        for (other, named) in [
            (VolumeSpec::block("a", 1 << 30), "a raw block device"),
            (VolumeSpec::mount("a", 1 << 30, Filesystem::Xfs), "xfs"),
            (spec.with_layout(Layout::Raid1 { mirrors: 1 }), "raid1"),
            (options, "mkfsOptions"),
            (discards, "discard"),
        ] {
            let conflict = record.conflict(&other).unwrap();
            assert!(conflict.contains(named), "{conflict}");
        }
    }

    #[test]
    fn keys_of_a_later_revision_are_kept() {
        let text = "quarry1/s=new/n=a/b=1/a=m/f=ext4/l=l/p=x/k=luks2/q=a=b";
        let Tag::Record(record) = Record::parse(text) else { panic!("not read") };
        assert_eq!(record.ready().to_string(), text.replace("s=new", "s=ready"));
    }

    #[test]
    fn foreign_newer_and_broken_tags_are_distinguished() {
        for foreign in ["", "db", "quarry", "quarry/s=new", "quarryx1/s=new", "quarry0/s=new"] {
            assert_eq!(Record::parse(foreign), Tag::Foreign, "{foreign:?}");
        }
        assert_eq!(Record::parse("quarry2/anything at all"), Tag::Newer { version: 2 });
        assert_eq!(Record::parse("quarry99999999999"), Tag::Newer { version: u32::MAX });
        assert_eq!(Record::parse("quarry3/s=frozen/ok=1/n=k=2"), Tag::Newer { version: 3 });
        for broken in [
            "quarry1",
            "quarry1/s=new",
            "quarry1/s=old/n=a/b=1/a=m/f=ext4/l=l/p=x",
            "quarry1/s=new/s=new/n=a/b=1/a=m/f=ext4/l=l/p=x",
            "quarry1/s=new/n=a/b=1/a=m/f=ntfs/l=l/p=x",
            "quarry1/s=new/n=a/b=1/a=m/l=l/p=x",
            "quarry1/s=new/n=a/b=-1/a=m/f=ext4/l=l/p=x",
            "quarry1/s=new/n=a/b=1/a=m/f=ext4/l=l/p=x/w=shred",
            "quarry1/s=new/n=a/b=1/a=m/f=ext4/l=l/p=x/c=0",
            "quarry1/s=ready/n=a/b=1/a=m/f=ext4/l=l/p=x/u=",
            "quarry1/s=ready/n=a/b=1/a=m/f=ext4/l=l/p=x/u=b79cd4bed8b35e16ac2f178919c3c36",
            // Another form would be written back as another tag.
            "quarry1/s=ready/n=a/b=1/a=m/f=ext4/l=l/p=x/u=B79CD4BED8B35E16AC2F178919C3C36B",
            "quarry1/s=ready/n=a/b=1/a=m/f=ext4/l=l/p=x/u=b79cd4be-d8b3-5e16-ac2f-178919c3c36b",
        ] {
            assert!(matches!(Record::parse(broken), Tag::Broken { .. }), "{broken:?}");
        }
    }

    /// Golden: a newer Quarry relies on older ones not to touch objects other than volumes.
    #[test]
    fn other_objects_than_volumes_are_recognized_in_every_higher_version() {
        let not_volume = |version, kind: &str| Tag::NotVolume(NotVolume { version, kind: kind.to_owned() });
        for (tag, found) in [
            ("quarry2/k=snapshot/s=ready/n=snap-1/o=v1:abc:node-1:pvc-1", not_volume(2, "snapshot")),
            ("quarry2/s=ready/n=snap-1/k=snapshot", not_volume(2, "snapshot")),
            ("quarry3/k=archive", not_volume(3, "archive")),
            ("quarry2/k=", not_volume(2, "")),
            ("quarry99999999999/k=x/y", not_volume(u32::MAX, "x")),
        ] {
            assert_eq!(Record::parse(tag), found, "{tag}");
        }
        // A record of version 1 is always a volume's: an older Quarry reads it as one.
        let volume = "quarry1/s=ready/n=a/b=1/a=m/f=ext4/l=l/p=x/k=snapshot";
        let Tag::Record(record) = Record::parse(volume) else { panic!("not read") };
        assert_eq!(record.to_string(), volume);
        let shown = Record::parse("quarry2/k=snapshot").not_volume().map(|other| other.to_string());
        assert_eq!(shown.as_deref(), Some("a \"snapshot\" of a newer Quarry (record version 2)"));
    }

    proptest! {
        #[test]
        fn every_name_fits_and_round_trips(name in "\\PC{1,128}", size in any::<i64>(), filesystem in 0..Filesystem::ALL.len(), zeroed in 0_u64..1 << 20, whole in any::<bool>(), uuid in any::<Option<u128>>(), wiped in any::<bool>()) {
            let mut name = name;
            while name.len() > 128 { name.pop(); }
            let record = Record {
                name,
                size: size.unsigned_abs(),
                filesystem: Some(Filesystem::ALL[filesystem]),
                access: AccessTypes::Both,
                // Only whole disks have a wipe mode, and those are linear.
                layout: if whole { Layout::Linear } else { Layout::Striped { stripes: 64, stripe_size: 4 << 20 } },
                wipe: whole.then_some(Wipe::Discard),
                zeroed: Gib(zeroed),
                filesystem_uuid: uuid.map(Uuid::from_u128),
                wiped,
                ..sample()
            };
            let text = record.to_string();
            prop_assert!(text.len() <= MAX_RECORD, "{} bytes", text.len());
            // The characters that LVM allows in tags, without a leading hyphen.
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+.-/=!:&#".contains(&byte)));
            prop_assert_eq!(Record::parse(&text), Tag::Record(Box::new(record)));
        }

        #[test]
        fn arbitrary_tags_do_not_panic(tag in "(quarry1?/?)?\\PC{0,80}") {
            if let Tag::Record(record) = Record::parse(&tag) {
                let text = record.to_string();
                prop_assert_eq!(Record::parse(&text), Tag::Record(record));
            }
        }
    }
}
