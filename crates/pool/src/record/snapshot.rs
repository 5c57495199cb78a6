//! The record of a snapshot. See docs/record-format.md, version 2.
//!
//! It has version 2 and a kind, so that a Quarry that knows only version 1 neither lists nor changes it. The format
//! is frozen by golden tests.

use std::fmt;

use quarry_volume::{AccessTypes, Filesystem, VolumeId, safe_name};
use uuid::Uuid;

use super::text::{
    decode, encode, is_written_as, parse_access, parse_state, parse_uuid, show_access, show_state, split,
};
use super::{MARK, Record, State};

/// The kind in these records.
pub(super) const KIND: &str = "snapshot";
/// The keys, in the order in which they are written: kind, state, name, origin, time, access types, filesystem, UUID
/// of the filesystem, for a clone, empty.
const KEYS: [&str; 10] = ["k", "s", "n", "o", "t", "a", "f", "u", "i", "e"];

/// The contents of the record of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRecord {
    /// `new`: it may not have the contents of an instant yet. `ready`: it has.
    pub state: State,
    /// The name in CreateSnapshot; for a snapshot that only serves to clone a volume, the name of the clone.
    pub name: String,
    /// The volume that it was taken from.
    pub source: VolumeId,
    /// Whether it only serves to clone a volume: it is not listed, and is removed when the clone is complete.
    pub for_clone: bool,
    /// When it was taken: seconds since 1970-01-01 UTC. 0 while it is `new`.
    pub created: u64,
    /// How the source may be used.
    pub access: AccessTypes,
    /// The filesystem of the source; `None` for raw block.
    pub filesystem: Option<Filesystem>,
    /// The UUID of that filesystem. `None` if the source had never been used: then it contains nothing.
    pub filesystem_uuid: Option<Uuid>,
    /// Whether the source had never been used, so that the snapshot contains nothing.
    pub empty: bool,
    /// Keys of a later minor revision, kept unchanged.
    unknown: Vec<String>,
}

impl SnapshotRecord {
    /// The version of these records.
    pub const VERSION: u32 = 2;

    /// The record of a snapshot that is still to be taken. `source` is the identifier of the volume, and `volume` its
    /// record. `filesystem_uuid`: that of its filesystem; `None` if it has none yet. A volume that is only for a
    /// filesystem and has none yet is empty. One that may be used raw never counts as empty.
    #[must_use]
    pub fn new(name: String, source: VolumeId, volume: &Record, filesystem_uuid: Option<Uuid>) -> Self {
        Self {
            state: State::New,
            name,
            source,
            for_clone: false,
            created: 0,
            access: volume.access,
            filesystem: volume.filesystem,
            filesystem_uuid,
            empty: filesystem_uuid.is_none() && volume.access == AccessTypes::Mount,
            unknown: Vec::new(),
        }
    }

    /// The same record of a snapshot that only serves to clone a volume.
    #[must_use]
    pub fn for_clone(&self) -> Self {
        Self { for_clone: true, ..self.clone() }
    }

    /// The same record of a snapshot that was taken at that time, in seconds since 1970-01-01 UTC.
    #[must_use]
    pub fn ready(&self, created: u64) -> Self {
        Self { state: State::Ready, created, ..self.clone() }
    }

    /// The name of the snapshot in its pool, where it is unique: [`crate::PoolSnapshot::name`]. One that only serves to
    /// clone a volume has no identifier, and a name that no other snapshot can have.
    #[must_use]
    pub fn id_name(&self) -> String {
        match self.for_clone {
            false => safe_name(&self.name),
            true => format!("for clone {}", safe_name(&self.name)),
        }
    }

    /// Reads the fields of a record of that version. `None` if it is of anything else, or of a newer format: only what
    /// this code would write in exactly this form is one.
    pub(super) fn read(version: u32, fields: &str) -> Option<Self> {
        if version != Self::VERSION {
            return None;
        }
        let (known, unknown) = split(KEYS, fields).ok()?;
        let [kind, state, name, source, created, access, filesystem, uuid, for_clone, empty] = known;
        if kind? != KIND {
            return None;
        }
        let snapshot = Self {
            state: parse_state(state?)?,
            name: decode(name?)?,
            source: source?.parse().ok()?,
            for_clone: for_clone.is_some(),
            created: created.map_or(Some(0), |text| text.parse().ok())?,
            access: parse_access(access?)?,
            filesystem: match filesystem {
                None => None,
                Some(name) => Some(name.parse().ok()?),
            },
            filesystem_uuid: match uuid {
                None => None,
                Some(digits) => Some(parse_uuid(digits)?),
            },
            empty: empty.is_some(),
            unknown,
        };
        is_written_as(&snapshot, version, fields).then_some(snapshot)
    }
}

impl fmt::Display for SnapshotRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (version, state, name) = (Self::VERSION, show_state(self.state), encode(&self.name));
        write!(f, "{MARK}{version}/k={KIND}/s={state}/n={name}/o={}", self.source)?;
        if self.created > 0 {
            write!(f, "/t={}", self.created)?;
        }
        write!(f, "/a={}", show_access(self.access))?;
        if let Some(filesystem) = self.filesystem {
            write!(f, "/f={filesystem}")?;
        }
        if let Some(uuid) = self.filesystem_uuid {
            write!(f, "/u={}", uuid.simple())?;
        }
        if self.for_clone {
            f.write_str("/i=1")?;
        }
        if self.empty {
            f.write_str("/e=1")?;
        }
        self.unknown.iter().try_for_each(|field| write!(f, "/{field}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use quarry_volume::StorageId;
    use uuid::uuid;

    use super::*;
    use crate::record::Tag;

    const UUID: Uuid = uuid!("b79cd4be-d8b3-5e16-ac2f-178919c3c36b");

    fn sample() -> SnapshotRecord {
        SnapshotRecord {
            state: State::New,
            name: "snapshot-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11".to_owned(),
            source: "v1:abcdefghij:node-1:pvc-1".parse().unwrap(),
            for_clone: false,
            created: 0,
            access: AccessTypes::Mount,
            filesystem: Some(Filesystem::Ext4),
            filesystem_uuid: Some(UUID),
            empty: false,
            unknown: Vec::new(),
        }
    }

    /// Golden: these records are on users' disks. They must never change.
    #[test]
    fn records_are_frozen() {
        let new = sample();
        let raw = SnapshotRecord {
            name: "größe/1 ".to_owned(),
            access: AccessTypes::Block,
            filesystem: None,
            filesystem_uuid: None,
            ..new.ready(1_795_000_000)
        };
        let empty = SnapshotRecord { filesystem_uuid: None, empty: true, ..raw.clone() };
        let empty = SnapshotRecord { access: AccessTypes::Both, filesystem: Some(Filesystem::Xfs), ..empty };
        for (record, text) in [
            (
                new.clone(),
                "quarry2/k=snapshot/s=new/n=snapshot-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11/o=v1:abcdefghij:node-1:pvc-1/a=m/f=ext4/u=b79cd4bed8b35e16ac2f178919c3c36b",
            ),
            (
                new.ready(1_795_000_000),
                "quarry2/k=snapshot/s=ready/n=snapshot-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11/o=v1:abcdefghij:node-1:pvc-1/t=1795000000/a=m/f=ext4/u=b79cd4bed8b35e16ac2f178919c3c36b",
            ),
            (raw, "quarry2/k=snapshot/s=ready/n=!M5ZMHNWDT5SS6MJA/o=v1:abcdefghij:node-1:pvc-1/t=1795000000/a=b"),
            (
                empty.for_clone(),
                "quarry2/k=snapshot/s=ready/n=!M5ZMHNWDT5SS6MJA/o=v1:abcdefghij:node-1:pvc-1/t=1795000000/a=mb/f=xfs/i=1/e=1",
            ),
        ] {
            assert_eq!(record.to_string(), text);
            assert_eq!(Record::parse(text), Tag::Snapshot(Box::new(record)));
        }
    }

    #[test]
    fn keys_of_a_later_revision_are_kept() {
        let text = format!("{}/q=a=b", sample());
        let snapshot = Record::parse(&text).snapshot().unwrap();
        assert_eq!(snapshot.to_string(), text);
        assert_eq!(snapshot.ready(7).to_string(), text.replace("s=new", "s=ready").replace("/a=m", "/t=7/a=m"));
    }

    /// Another form would be written back as another tag.
    #[test]
    fn only_records_in_the_form_that_is_written_are_of_a_snapshot() {
        let text = "quarry2/k=snapshot/s=new/n=a/o=v1:abcdefghij:n:v/a=m/f=ext4";
        assert!(matches!(Record::parse(text), Tag::Snapshot(_)));
        for other in [
            text.replace("quarry2", "quarry3"),
            text.replace("/a=m", "/t=0/a=m"),
            text.replace("/a=m", "/t=01/a=m"),
            text.replace("/a=m", "/t=-1/a=m"),
            text.replace("/a=m", "/a=m/a=m"),
            text.replace("/a=m", ""),
            text.replace("s=new", "s=old"),
            text.replace("/s=new/n=a", "/n=a/s=new"),
            text.replace("ext4", "ntfs"),
            text.replace("v1:abcdefghij:n:v", "s1:abcdefghij:n:v"),
            text.replace("/o=v1:abcdefghij:n:v", ""),
            format!("{text}/"),
            format!("{text}/i=0"),
            format!("{text}/e=0"),
            format!("{text}/e=1/i=1"),
            format!("{text}/u=B79CD4BED8B35E16AC2F178919C3C36B"),
        ] {
            assert!(matches!(Record::parse(&other), Tag::NotVolume(_)), "{other}");
        }
        assert_eq!(Record::parse(&text.replace("/k=snapshot", "")), Tag::Newer { version: 2 });
    }

    #[test]
    fn a_volume_that_was_never_used_has_an_empty_snapshot() {
        let source: VolumeId = "v1:abcdefghij:node-1:pvc-1".parse().unwrap();
        let record = |spec: &quarry_volume::VolumeSpec| Record::new(spec, 1 << 30);
        let mount = record(&quarry_volume::VolumeSpec::mount("a", 1 << 30, Filesystem::Ext4));
        let block = record(&quarry_volume::VolumeSpec::block("a", 1 << 30));
        let empty = |volume: &Record, uuid| SnapshotRecord::new("s".to_owned(), source.clone(), volume, uuid).empty;
        assert!(empty(&mount, None) && !empty(&mount, Some(UUID)) && !empty(&block, None));
    }

    #[test]
    fn the_snapshot_for_a_clone_has_a_name_of_its_own() {
        let plain = sample();
        let clone = plain.for_clone();
        assert_eq!(plain.id_name(), safe_name(&plain.name));
        assert_ne!(plain.id_name(), clone.id_name());
        assert_ne!(safe_name(&clone.id_name()), clone.id_name(), "no request leads to it");
    }

    proptest! {
        #[test]
        fn every_record_fits_and_round_trips(name in "\\PC{1,128}", node in "[a-z.-]{1,61}", created in any::<u64>(), filesystem in 0..Filesystem::ALL.len(), uuid in any::<Option<u128>>(), for_clone in any::<bool>(), empty in any::<bool>()) {
            let mut name = name;
            while name.len() > 128 { name.pop(); }
            let source = VolumeId { storage: StorageId::of("x"), node, volume: "v".repeat(48) };
            let record = SnapshotRecord {
                state: State::Ready,
                name,
                source,
                for_clone,
                created,
                access: AccessTypes::Both,
                filesystem: Some(Filesystem::ALL[filesystem]),
                filesystem_uuid: uuid.map(Uuid::from_u128),
                empty,
                ..sample()
            };
            let text = record.to_string();
            prop_assert!(text.len() <= crate::MAX_RECORD, "{} bytes", text.len());
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+.-/=!:&#".contains(&byte)));
            prop_assert_eq!(Record::parse(&text), Tag::Snapshot(Box::new(record)));
        }

        #[test]
        fn arbitrary_tags_do_not_panic(tag in "quarry2/k=snapshot/(s=new/)?(n=a/)?(o=v1:abcdefghij:n:v/)?\\PC{0,60}") {
            if let Tag::Snapshot(snapshot) = Record::parse(&tag) {
                prop_assert_eq!(snapshot.to_string(), tag);
            }
        }
    }
}
