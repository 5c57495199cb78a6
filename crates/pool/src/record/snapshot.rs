//! The record of a snapshot. See docs/record-format.md, versions 2 and 3.
//!
//! It has version 2 and a kind, so that a Quarry that knows only version 1 neither lists nor changes it. That of an
//! encrypted volume has version 3, so that no Quarry restores it as if it were not encrypted. The format is frozen by
//! golden tests.

use std::fmt;

use quarry_volume::{AccessTypes, Encryption, Filesystem, Gib, SnapshotMethod, VolumeId, safe_name};
use uuid::Uuid;

use super::text::{
    decode, encode, is_written_as, parse_access, parse_state, parse_uuid, show_access, show_state, split,
};
use super::{ENCRYPTED_VERSION, MARK, Record, State};

/// The kind in the records of copy-on-write snapshots.
const COW: &str = "snapshot";
/// The kind in the records of full copies. A Quarry that does not know it must not treat one as a copy-on-write
/// snapshot: it has no origin, and would count as damaged, or as left over.
const COPY: &str = "copy";
/// The keys, in the order in which they are written: kind, state, name, origin, time, access types, filesystem, UUID
/// of the filesystem, what it serves, empty, copied GiB, encryption of the source (only in version 3).
const KEYS: [&str; 12] = ["k", "s", "n", "o", "t", "a", "f", "u", "i", "e", "z", "x"];

/// What a snapshot is on its storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotKind {
    /// A copy-on-write snapshot that a client took.
    Cow,
    /// A copy-on-write snapshot that only serves to clone a volume. It is not listed, and is removed when the clone is
    /// complete.
    ForClone,
    /// A copy-on-write snapshot that only serves to make a full copy. It is not listed, and is removed when the copy is
    /// complete.
    ForCopy,
    /// A full copy, which needs nothing else once it is `ready`. While it is `new`, it is copied from the snapshot that
    /// serves it.
    Copy {
        /// How much is copied and flushed, while it is `new`.
        copied: Gib,
    },
}

/// The contents of the record of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRecord {
    /// What it is.
    pub kind: SnapshotKind,
    /// `new`: it may not have all the contents of an instant yet. `ready`: it has.
    pub state: State,
    /// The name in CreateSnapshot; for a snapshot that only serves to clone a volume, the name of the clone.
    pub name: String,
    /// The volume that it was taken from.
    pub source: VolumeId,
    /// When it was taken: seconds since 1970-01-01 UTC. 0 while it is `new`; a full copy has it from its creation on.
    pub created: u64,
    /// How the source may be used.
    pub access: AccessTypes,
    /// The filesystem of the source; `None` for raw block.
    pub filesystem: Option<Filesystem>,
    /// The UUID of that filesystem. `None` if the source had never been used: then it contains nothing.
    pub filesystem_uuid: Option<Uuid>,
    /// Whether the source had never been used, so that the snapshot contains nothing.
    pub empty: bool,
    /// How the source is encrypted. Then the snapshot contains its header, too.
    pub encryption: Option<Encryption>,
    /// Keys of a later minor revision, kept unchanged.
    unknown: Vec<String>,
}

/// The version of the record of a snapshot of a volume that is not encrypted.
const VERSION: u32 = 2;

impl SnapshotRecord {
    /// The version of this record.
    pub(crate) fn version(&self) -> u32 {
        if self.encryption.is_some() { ENCRYPTED_VERSION } else { VERSION }
    }

    /// How many bytes of the source its user does not have.
    #[must_use]
    pub fn overhead(&self) -> u64 {
        self.encryption.map_or(0, Encryption::overhead)
    }

    /// The record of a snapshot that is still to be taken. `source` is the identifier of the volume, and `volume` its
    /// record. `filesystem_uuid`: that of its filesystem; `None` if it has none yet. A volume that is only for a
    /// filesystem and has none yet is empty. One that may be used raw never counts as empty.
    #[must_use]
    pub fn new(name: String, source: VolumeId, volume: &Record, filesystem_uuid: Option<Uuid>) -> Self {
        Self {
            kind: SnapshotKind::Cow,
            state: State::New,
            name,
            source,
            created: 0,
            access: volume.access,
            filesystem: volume.filesystem,
            filesystem_uuid,
            empty: filesystem_uuid.is_none() && volume.access == AccessTypes::Mount,
            encryption: volume.encryption,
            unknown: Vec::new(),
        }
    }

    /// The same record of a snapshot of that kind.
    #[must_use]
    pub fn of_kind(&self, kind: SnapshotKind) -> Self {
        Self { kind, ..self.clone() }
    }

    /// The record of the full copy, still to be made, that the snapshot with this record serves.
    #[must_use]
    pub fn served_copy(&self) -> Self {
        Self { kind: SnapshotKind::Copy { copied: Gib::NONE }, state: State::New, ..self.clone() }
    }

    /// How it keeps its contents.
    #[must_use]
    pub fn method(&self) -> SnapshotMethod {
        match self.kind {
            SnapshotKind::Cow | SnapshotKind::ForClone | SnapshotKind::ForCopy => SnapshotMethod::Cow,
            SnapshotKind::Copy { .. } => SnapshotMethod::Copy,
        }
    }

    /// Whether it only serves to make something else: it is not listed, and no client ever gets its identifier.
    #[must_use]
    pub fn serves(&self) -> bool {
        matches!(self.kind, SnapshotKind::ForClone | SnapshotKind::ForCopy)
    }

    /// The same record of a snapshot that was taken at that time, in seconds since 1970-01-01 UTC.
    #[must_use]
    pub fn ready(&self, created: u64) -> Self {
        let kind = match self.kind {
            SnapshotKind::Copy { .. } => SnapshotKind::Copy { copied: Gib::NONE },
            other => other,
        };
        Self { kind, state: State::Ready, created, ..self.clone() }
    }

    /// The name of the snapshot in its pool, where it is unique: [`crate::PoolSnapshot::name`]. One that only serves
    /// something else has no identifier, and a name that no other snapshot can have.
    #[must_use]
    pub fn id_name(&self) -> String {
        let name = safe_name(&self.name);
        match self.kind {
            SnapshotKind::Cow | SnapshotKind::Copy { .. } => name,
            SnapshotKind::ForClone => format!("for clone {name}"),
            SnapshotKind::ForCopy => format!("for snapshot {name}"),
        }
    }

    /// The kind of the object in the record.
    pub(super) fn word(&self) -> &'static str {
        match self.kind {
            SnapshotKind::Cow | SnapshotKind::ForClone | SnapshotKind::ForCopy => COW,
            SnapshotKind::Copy { .. } => COPY,
        }
    }

    /// Reads the fields of a record of that version. `None` if it is of anything else, or of a newer format: only what
    /// this code would write in exactly this form is one.
    pub(super) fn read(version: u32, fields: &str) -> Option<Self> {
        if version != VERSION && version != ENCRYPTED_VERSION {
            return None;
        }
        let (known, unknown) = split(KEYS, fields).ok()?;
        let [kind, state, name, source, created, access, filesystem, uuid, serves, empty, copied, encryption] = known;
        let kind = match (kind?, serves, copied) {
            (COW, None, None) => SnapshotKind::Cow,
            (COW, Some("1"), None) => SnapshotKind::ForClone,
            (COW, Some("copy"), None) => SnapshotKind::ForCopy,
            (COPY, None, copied) => {
                SnapshotKind::Copy { copied: Gib(copied.map_or(Some(0), |text| text.parse().ok())?) }
            }
            _ => return None,
        };
        let snapshot = Self {
            kind,
            state: parse_state(state?)?,
            name: decode(name?)?,
            source: source?.parse().ok()?,
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
            encryption: match encryption {
                None => None,
                Some(word) => Some(word.parse().ok()?),
            },
            unknown,
        };
        is_written_as(&snapshot, version, fields).then_some(snapshot)
    }
}

impl fmt::Display for SnapshotRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (version, kind, state) = (self.version(), self.word(), show_state(self.state));
        let name = encode(&self.name);
        write!(f, "{MARK}{version}/k={kind}/s={state}/n={name}/o={}", self.source)?;
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
        match self.kind {
            SnapshotKind::ForClone => f.write_str("/i=1")?,
            SnapshotKind::ForCopy => f.write_str("/i=copy")?,
            SnapshotKind::Cow | SnapshotKind::Copy { .. } => {}
        }
        if self.empty {
            f.write_str("/e=1")?;
        }
        if let SnapshotKind::Copy { copied } = self.kind
            && copied > Gib::NONE
        {
            write!(f, "/z={copied}")?;
        }
        if let Some(encryption) = self.encryption {
            write!(f, "/x={encryption}")?;
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
            kind: SnapshotKind::Cow,
            state: State::New,
            name: "snapshot-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11".to_owned(),
            source: "v1:abcdefghij:node-1:pvc-1".parse().unwrap(),
            created: 0,
            access: AccessTypes::Mount,
            filesystem: Some(Filesystem::Ext4),
            filesystem_uuid: Some(UUID),
            empty: false,
            encryption: None,
            unknown: Vec::new(),
        }
    }

    /// A full copy of which so many GiB are copied.
    fn copy(copied: u64) -> SnapshotRecord {
        sample().of_kind(SnapshotKind::Copy { copied: Gib(copied) })
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
                empty.of_kind(SnapshotKind::ForClone),
                "quarry2/k=snapshot/s=ready/n=!M5ZMHNWDT5SS6MJA/o=v1:abcdefghij:node-1:pvc-1/t=1795000000/a=mb/f=xfs/i=1/e=1",
            ),
            (
                new.of_kind(SnapshotKind::ForCopy).ready(1_795_000_000),
                "quarry2/k=snapshot/s=ready/n=snapshot-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11/o=v1:abcdefghij:node-1:pvc-1/t=1795000000/a=m/f=ext4/u=b79cd4bed8b35e16ac2f178919c3c36b/i=copy",
            ),
            (
                SnapshotRecord { created: 1_795_000_000, ..copy(64) },
                "quarry2/k=copy/s=new/n=snapshot-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11/o=v1:abcdefghij:node-1:pvc-1/t=1795000000/a=m/f=ext4/u=b79cd4bed8b35e16ac2f178919c3c36b/z=64",
            ),
            (
                SnapshotRecord { empty: true, filesystem_uuid: None, ..copy(64).ready(1_795_000_000) },
                "quarry2/k=copy/s=ready/n=snapshot-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11/o=v1:abcdefghij:node-1:pvc-1/t=1795000000/a=m/f=ext4/e=1",
            ),
            (
                SnapshotRecord { encryption: Some(Encryption::Luks2), ..new.ready(1_795_000_000) },
                "quarry3/k=snapshot/s=ready/n=snapshot-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11/o=v1:abcdefghij:node-1:pvc-1/t=1795000000/a=m/f=ext4/u=b79cd4bed8b35e16ac2f178919c3c36b/x=luks2",
            ),
            (
                SnapshotRecord { created: 1_795_000_000, encryption: Some(Encryption::Luks2), ..copy(64) },
                "quarry3/k=copy/s=new/n=snapshot-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11/o=v1:abcdefghij:node-1:pvc-1/t=1795000000/a=m/f=ext4/u=b79cd4bed8b35e16ac2f178919c3c36b/z=64/x=luks2",
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
            format!("{text}/x=luks2"),
            format!("{}/x=luks9", text.replace("quarry2", "quarry3")),
            format!("{}/x=luks2", text.replace("quarry2", "quarry4")),
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
            format!("{text}/i=2"),
            format!("{text}/z=1"),
            format!("{}/i=1", text.replace("k=snapshot", "k=copy")),
            format!("{}/i=copy", text.replace("k=snapshot", "k=copy")),
            format!("{}/z=0", text.replace("k=snapshot", "k=copy")),
            format!("{}/z=01", text.replace("k=snapshot", "k=copy")),
            format!("{}/z=1/e=1", text.replace("k=snapshot", "k=copy")),
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
    fn a_snapshot_that_serves_something_has_a_name_of_its_own() {
        let plain = sample();
        assert_eq!(plain.id_name(), safe_name(&plain.name));
        // A copy takes the name of the snapshot.
        assert_eq!(plain.id_name(), copy(0).id_name());
        let [clone, copied] = [SnapshotKind::ForClone, SnapshotKind::ForCopy].map(|kind| plain.of_kind(kind).id_name());
        assert_ne!(clone, copied);
        for serving in [clone, copied] {
            assert_ne!(plain.id_name(), serving);
            assert_ne!(safe_name(&serving), serving, "no request leads to it");
        }
    }

    /// This is how a version before full copies reads one: it leaves it alone.
    #[test]
    fn a_full_copy_is_of_another_kind_than_a_snapshot() {
        for record in [copy(0), copy(7), copy(0).ready(1)] {
            assert!(record.to_string().starts_with("quarry2/k=copy/"), "{record}");
        }
        // It knew no other value of this key than 1.
        assert!(sample().of_kind(SnapshotKind::ForCopy).to_string().ends_with("/i=copy"));
    }

    proptest! {
        #[test]
        fn every_record_fits_and_round_trips(name in "\\PC{1,128}", node in "[a-z.-]{1,61}", created in any::<u64>(), filesystem in 0..Filesystem::ALL.len(), uuid in any::<Option<u128>>(), kind in 0..4_usize, copied in any::<u64>(), empty in any::<bool>(), encrypted in any::<bool>()) {
            let mut name = name;
            while name.len() > 128 { name.pop(); }
            let source = VolumeId { storage: StorageId::of("x"), node, volume: "v".repeat(48) };
            let kind = [
                SnapshotKind::Cow,
                SnapshotKind::ForClone,
                SnapshotKind::ForCopy,
                SnapshotKind::Copy { copied: Gib(copied) },
            ][kind];
            let record = SnapshotRecord {
                state: State::Ready,
                name,
                source,
                kind,
                created,
                access: AccessTypes::Both,
                filesystem: Some(Filesystem::ALL[filesystem]),
                filesystem_uuid: uuid.map(Uuid::from_u128),
                empty,
                encryption: encrypted.then_some(Encryption::Luks2),
                ..sample()
            };
            let text = record.to_string();
            prop_assert!(text.len() <= crate::MAX_RECORD, "{} bytes", text.len());
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+.-/=!:&#".contains(&byte)));
            prop_assert_eq!(Record::parse(&text), Tag::Snapshot(Box::new(record)));
        }

        #[test]
        fn arbitrary_tags_do_not_panic(tag in "quarry2/k=(snapshot|copy)/(s=new/)?(n=a/)?(o=v1:abcdefghij:n:v/)?\\PC{0,60}") {
            if let Tag::Snapshot(snapshot) = Record::parse(&tag) {
                prop_assert_eq!(snapshot.to_string(), tag);
            }
        }
    }
}
