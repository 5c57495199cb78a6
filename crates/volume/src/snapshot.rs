//! Snapshots: their identifiers, what is requested, and what a node reports.
//!
//! An identifier is `s1:STORAGE:NODE:SNAPSHOT`, made like a [`VolumeId`]: Kubernetes keeps it in a
//! VolumeSnapshotContent's `snapshotHandle`. The format is frozen.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::id::{ForeignId, parts};
use crate::{CopyProgress, Error, Result, SnapshotCondition, StorageId, VolumeId};

/// The identifier of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SnapshotId {
    /// Which storage.
    pub storage: StorageId,
    /// Which node.
    pub node: String,
    /// The snapshot's name on that storage.
    pub snapshot: String,
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s1:{}:{}:{}", self.storage.as_str(), self.node, self.snapshot)
    }
}

impl FromStr for SnapshotId {
    type Err = ForeignId;

    fn from_str(text: &str) -> Result<Self, ForeignId> {
        let (storage, node, snapshot) = parts("s1", text)?;
        Ok(Self { storage, node, snapshot })
    }
}

/// How much space a copy-on-write snapshot may use for the blocks of its source that are overwritten later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CowSize {
    /// Enough for the whole source: the snapshot can never become full.
    #[default]
    Whole,
    /// That percentage of the source's size, 1 to 99. A full snapshot is lost.
    Percent(u8),
    /// That many bytes. A full snapshot is lost.
    Bytes(u64),
}

/// How a snapshot keeps its contents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SnapshotMethod {
    /// Copy-on-write: immediately, and dependent on its source.
    #[default]
    Cow,
    /// A full copy, made in the background from a copy-on-write snapshot that is removed afterwards. Then it depends on
    /// nothing.
    Copy,
}

/// The parameters of a VolumeSnapshotClass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotParameters {
    /// How the contents are kept.
    pub method: SnapshotMethod,
    /// The space for overwritten blocks; for a full copy, while it is being made.
    pub cow_size: CowSize,
}

/// The keys that a VolumeSnapshotClass may set.
pub const KNOWN_SNAPSHOT_PARAMETERS: [&str; 2] = ["method", "cowSize"];

impl SnapshotParameters {
    /// Parses the parameters of a CreateSnapshot request. Keys of the sidecars are ignored.
    ///
    /// # Errors
    /// `InvalidRequest` for an unknown key (the message lists the known ones) or an invalid value.
    pub fn parse(parameters: &BTreeMap<String, String>) -> Result<Self> {
        let mut parsed = Self::default();
        for (key, value) in parameters.iter().filter(|(key, _)| !key.starts_with(crate::parameters::SIDECAR_PREFIX)) {
            match key.as_str() {
                "method" => parsed.method = value.parse()?,
                "cowSize" => parsed.cow_size = value.parse()?,
                unknown => {
                    return Err(Error::invalid(format!(
                        "VolumeSnapshotClass parameter {unknown:?} is unknown; known parameters: {}",
                        KNOWN_SNAPSHOT_PARAMETERS.join(", ")
                    )));
                }
            }
        }
        Ok(parsed)
    }
}

impl SnapshotMethod {
    /// Its name in a VolumeSnapshotClass.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cow => "cow",
            Self::Copy => "copy",
        }
    }
}

impl FromStr for SnapshotMethod {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        [Self::Cow, Self::Copy].into_iter().find(|method| method.as_str() == text).ok_or_else(|| {
            Error::invalid(format!(
                "VolumeSnapshotClass parameter \"method\" is {text:?}: use cow (copy-on-write) or copy (a full copy)"
            ))
        })
    }
}

impl fmt::Display for SnapshotMethod {
    /// As in a VolumeSnapshotClass.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for CowSize {
    type Err = Error;

    /// Parses `20%` or a size such as `10Gi`.
    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::invalid(format!(
                "VolumeSnapshotClass parameter \"cowSize\" is {text:?}: use a percentage of the source's size, such \
                 as 20%, or a size, such as 10Gi"
            ))
        };
        let size = match text.strip_suffix('%') {
            // Rust's parser accepts a sign.
            Some(percent) if percent.starts_with('+') => return Err(wrong()),
            Some(percent) => match percent.parse::<u8>() {
                Ok(100) => Self::Whole,
                Ok(percent @ 1..=99) => Self::Percent(percent),
                _ => return Err(wrong()),
            },
            None => Self::Bytes(crate::parse_size(text).ok().filter(|bytes| *bytes > 0).ok_or_else(wrong)?),
        };
        Ok(size)
    }
}

impl fmt::Display for CowSize {
    /// As in a VolumeSnapshotClass.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => f.write_str("100%"),
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Bytes(bytes) => write!(f, "{bytes}"),
        }
    }
}

/// A snapshot to take: everything in CreateSnapshot, checked as far as possible without the storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotSpec {
    /// The requested name: unique, and the key of idempotency.
    pub name: String,
    /// The volume to take it from.
    pub source: VolumeId,
    /// The parameters of its VolumeSnapshotClass.
    pub class: SnapshotParameters,
}

/// What a new volume is filled with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ContentSource {
    /// The contents of a snapshot.
    Snapshot(SnapshotId),
    /// The current contents of another volume.
    Volume(VolumeId),
}

impl ContentSource {
    /// The storage that has the source.
    #[must_use]
    pub fn storage(&self) -> &StorageId {
        match self {
            Self::Snapshot(id) => &id.storage,
            Self::Volume(id) => &id.storage,
        }
    }

    /// The node that has the source.
    #[must_use]
    pub fn node(&self) -> &str {
        match self {
            Self::Snapshot(id) => &id.node,
            Self::Volume(id) => &id.node,
        }
    }
}

impl fmt::Display for ContentSource {
    /// The identifier of the source.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Snapshot(id) => id.fmt(f),
            Self::Volume(id) => id.fmt(f),
        }
    }
}

impl FromStr for ContentSource {
    type Err = ForeignId;

    fn from_str(text: &str) -> Result<Self, ForeignId> {
        text.parse().map(Self::Snapshot).or_else(|_| text.parse().map(Self::Volume))
    }
}

/// A snapshot, as reported by its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its identifier.
    pub id: SnapshotId,
    /// The name in the request that took it.
    pub name: String,
    /// The volume that it was taken from.
    pub source: VolumeId,
    /// The size of its source when it was taken, in bytes: a volume that is restored from it needs at least this.
    pub size: u64,
    /// The pool that it is in.
    pub pool: String,
    /// How it keeps its contents.
    pub method: SnapshotMethod,
    /// When it was taken: seconds since 1970-01-01 UTC. 0 if its contents are not those of one instant yet.
    pub created: u64,
    /// Whether a volume can be restored from it.
    pub ready: bool,
    /// The space that it uses on its storage, in bytes.
    pub allocated: u64,
    /// Its problem, for the operator. Empty if it is healthy.
    pub problem: String,
    /// The kind of the problem, for programs.
    pub condition: SnapshotCondition,
    /// How much of its source was copied; `None` if nothing is being copied.
    pub copying: Option<CopyProgress>,
}

impl Snapshot {
    /// A healthy snapshot, not complete yet, of which only the identifier and the source are known.
    #[must_use]
    pub fn new(id: SnapshotId, source: VolumeId) -> Self {
        Self {
            name: id.snapshot.clone(),
            id,
            source,
            size: 0,
            pool: String::new(),
            method: SnapshotMethod::Cow,
            created: 0,
            ready: false,
            allocated: 0,
            problem: String::new(),
            condition: SnapshotCondition::Healthy,
            copying: None,
        }
    }

    /// The name of its state, for people: `new`, `copying`, `ready`, `invalid` or `lost`.
    #[must_use]
    pub fn state_name(&self) -> &'static str {
        match (self.condition, self.ready) {
            (SnapshotCondition::Invalid, _) => "invalid",
            (SnapshotCondition::DiskMissing, _) => "lost",
            (_, true) => "ready",
            (_, false) if self.copying.is_some() => "copying",
            (_, false) => "new",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Reason;

    /// Golden: identifiers are stored in users' etcd. They must never change.
    #[test]
    fn identifiers_are_frozen() {
        let id = SnapshotId {
            storage: StorageId::of("Zr3Ot2-MsTU-yPvW-5Ttd-gaYN-WeYT-vP8EJt"),
            node: "worker-1.example.org".to_owned(),
            snapshot: "snapshot-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11".to_owned(),
        };
        let text = "s1:d5hwhwt27w:worker-1.example.org:snapshot-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11";
        assert_eq!(id.to_string(), text);
        assert_eq!(text.parse(), Ok(id.clone()));
        assert_eq!(text.parse(), Ok(ContentSource::Snapshot(id)));
        assert_eq!(text.replace("s1:", "v1:").parse::<SnapshotId>(), Err(ForeignId));
        let volume = text.replace("s1:", "v1:");
        assert_eq!(volume.parse(), Ok(ContentSource::Volume(volume.parse().unwrap())));
    }

    #[test]
    fn identifiers_of_other_drivers_are_rejected() {
        for text in ["", "s1", "s1:::", "s2:aaaaaaaaaa:n:s", "s1:aaaaaaaaaa:n:s:x", "s1:aaaaaaaaaa:n:../s", "0001-0011"]
        {
            assert_eq!(text.parse::<SnapshotId>(), Err(ForeignId), "{text:?}");
        }
    }

    #[test]
    fn the_space_of_a_snapshot_is_a_share_or_a_size() {
        let parse = |text: &str| {
            SnapshotParameters::parse(&BTreeMap::from([("cowSize".to_owned(), text.to_owned())]))
                .map(|parameters| parameters.cow_size)
        };
        assert_eq!(parse("100%").unwrap(), CowSize::Whole);
        assert_eq!(parse("1%").unwrap(), CowSize::Percent(1));
        assert_eq!(parse("10Gi").unwrap(), CowSize::Bytes(10 << 30));
        for size in [CowSize::Whole, CowSize::Percent(7), CowSize::Bytes(4097)] {
            assert_eq!(parse(&size.to_string()).unwrap(), size);
        }
        for text in ["", "%", "0%", "101%", "-1%", "+5%", "x", "-1", "0", "0Gi", "9999999Pi"] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.reason, Reason::InvalidRequest, "{text}");
        }
        assert_eq!(SnapshotParameters::parse(&BTreeMap::new()).unwrap().cow_size, CowSize::Whole);
    }

    #[test]
    fn the_method_is_cow_unless_the_class_sets_it() {
        let parse = |text: &str| {
            SnapshotParameters::parse(&BTreeMap::from([("method".to_owned(), text.to_owned())]))
                .map(|parameters| parameters.method)
        };
        for method in [SnapshotMethod::Cow, SnapshotMethod::Copy] {
            assert_eq!(parse(&method.to_string()).unwrap(), method);
        }
        assert_eq!(SnapshotParameters::parse(&BTreeMap::new()).unwrap().method, SnapshotMethod::Cow);
        for text in ["", "Copy", "magic"] {
            let error = parse(text).unwrap_err();
            assert!(error.reason == Reason::InvalidRequest && error.message.contains("cow"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn the_longest_parts_fit_and_come_back(node in "[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?", snapshot in "[a-zA-Z0-9+_.][a-zA-Z0-9+_.-]{0,47}", identity in ".{0,60}") {
            let id = SnapshotId { storage: StorageId::of(&identity), node, snapshot };
            let text = id.to_string();
            prop_assert!(text.len() <= crate::MAX_ID);
            prop_assert_eq!(text.parse::<SnapshotId>().unwrap(), id.clone());
            prop_assert_eq!(text.parse::<ContentSource>().unwrap(), ContentSource::Snapshot(id));
            prop_assert_eq!(text.parse::<VolumeId>(), Err(ForeignId));
        }

        #[test]
        fn no_text_makes_a_parser_panic(text in ".{0,200}|[0-9]{0,30}[%kMGTPi]{0,3}") {
            let _ = text.parse::<SnapshotId>();
            let _ = text.parse::<ContentSource>();
            if let Ok(size) = text.parse::<CowSize>() {
                prop_assert_eq!(size.to_string().parse::<CowSize>().unwrap(), size);
            }
        }
    }

    #[test]
    fn an_unknown_parameter_is_rejected() {
        let parameters = BTreeMap::from([("way".to_owned(), "magic".to_owned())]);
        let error = SnapshotParameters::parse(&parameters).unwrap_err();
        assert!(error.message.contains("method, cowSize"), "{error}");
        let own = BTreeMap::from([("csi.storage.k8s.io/volumesnapshot/name".to_owned(), "a".to_owned())]);
        SnapshotParameters::parse(&own).unwrap();
    }
}
