//! The record of a volume: docs/record-format.md. The records of other objects are in `scratch` and `snapshot`.
//!
//! On LVM it is a tag that is set by the `lvcreate` that creates the logical volume, so at no instant does a
//! Quarry volume exist without a record. The format is frozen by golden tests: readers of any version keep
//! unknown keys, and never change a record of a higher version.

mod scratch;
mod snapshot;
#[cfg(test)]
mod tests;
mod text;
mod thin;

use std::fmt;

use quarry_volume::{
    AccessTypes, ContentSource, Discard, Encryption, Filesystem, Gib, IoLimits, Layout, VolumeSpec, Wipe,
};
use uuid::Uuid;

pub use self::scratch::ScratchRecord;
pub use self::snapshot::{SnapshotKind, SnapshotRecord};
pub use self::thin::{ThinPoolPart, ThinPoolRecord};

/// The beginning of every record, of any version.
const MARK: &str = "quarry";
/// The version of the record of a complete volume.
pub const VERSION: u32 = 1;
/// The version of the record of an encrypted volume, and of a snapshot of one: an older Quarry must not use it as a plain
/// one.
const ENCRYPTED_VERSION: u32 = 3;
/// The version of the record of an encrypted volume that is being filled: an older Quarry must not prepare, use or delete
/// it.
const ENCRYPTED_FILLING_VERSION: u32 = 4;
/// The highest version of a record of a volume that this code can read.
pub(crate) const NEWEST: u32 = ENCRYPTED_FILLING_VERSION;
/// The maximum length of a record in bytes, for any name that CSI allows.
pub const MAX_RECORD: usize = 621;

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
    /// The layout on the disks. Linear in a thin pool, which has a layout of its own.
    pub layout: Layout,
    /// Whether it was created in a thin pool.
    pub thin: bool,
    /// The hash of the creation parameters.
    pub parameters: String,
    /// While a `new` volume is being zeroed, or a deleted one wiped: how much is done and flushed. While it is being
    /// filled: how much was copied.
    pub zeroed: Gib,
    /// How its data is wiped when it is deleted; `None`: the pool's mode. Only for whole disks.
    pub wipe: Option<Wipe>,
    /// The UUID of its filesystem, since the volume is `ready`. `None` before, without a filesystem, and for
    /// volumes that became `ready` when records did not have it; see [`crate::PoolVolume::filesystem_uuid`].
    pub filesystem_uuid: Option<Uuid>,
    /// Whether the signatures of previous owners were wiped, and that was flushed, before this record was
    /// written. Only for a `new` volume that is never shown raw, and only where no commit is needed for it.
    pub wiped: bool,
    /// What the volume was, or is still being, filled with.
    pub source: Option<ContentSource>,
    /// Whether that is still under way: its contents are not copied completely, or its filesystem does not have
    /// its own UUID yet. Only in state `new`.
    pub filling: bool,
    /// How much of the new space of a volume that may be shown raw is zeroed, while it is being expanded. Only for
    /// whole disks.
    pub expansion: Option<ExpansionProgress>,
    /// When the unused space of its filesystem is discarded, if its class sets that; see [`Record::discards`].
    pub discard: Option<Discard>,
    /// How fast the pods that use it may read and write.
    pub limits: IoLimits,
    /// Whether a pod may use it only where its limits are in force.
    pub requires_limits: bool,
    /// How it is encrypted. Then all sizes include [`Encryption::overhead`].
    pub encryption: Option<Encryption>,
    /// Keys of a later minor revision, kept unchanged.
    unknown: Vec<String>,
}

/// The progress of an expansion, in the record of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpansionProgress {
    /// The size that the volume will have, in bytes.
    pub size: u64,
    /// How much of the new space is zeroed and flushed, from its beginning.
    pub zeroed: Gib,
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
    /// The record of a snapshot of a volume. It is not a volume.
    Snapshot(Box<SnapshotRecord>),
    /// The record of a part of a thin pool that Quarry creates, or has created. It is not a volume.
    ThinPool(ThinPoolRecord),
    /// A record of a higher version on something that is not a volume, and that this code does not know: not
    /// listed, and no call changes it. Only its name and its space are taken.
    NotVolume(NotVolume),
    /// It begins like a record, but cannot be read.
    Broken {
        /// The problem.
        why: String,
    },
}

/// Something that a newer Quarry stored, and that is not a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotVolume {
    /// The version of its record.
    pub version: u32,
    /// Its kind, according to its record.
    pub kind: String,
}

impl fmt::Display for NotVolume {
    /// As text: "a \"archive\" of a newer Quarry (record version 2)".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a {:?} of a newer Quarry (record version {})", self.kind, self.version)
    }
}

impl Tag {
    /// What the tag is on, if that is not a volume. For storage that has neither scratch volumes, snapshots nor thin
    /// pools, those are unknown.
    #[must_use]
    pub fn not_volume(self) -> Option<NotVolume> {
        match self {
            Self::NotVolume(other) => Some(other),
            Self::Scratch(_) => Some(NotVolume { version: ScratchRecord::VERSION, kind: scratch::KIND.to_owned() }),
            Self::Snapshot(record) => Some(NotVolume { version: record.version(), kind: record.word().to_owned() }),
            Self::ThinPool(_) => Some(NotVolume { version: ThinPoolRecord::VERSION, kind: thin::KIND.to_owned() }),
            Self::Foreign | Self::Record(_) | Self::Newer { .. } | Self::Broken { .. } => None,
        }
    }

    /// The record of new space for a volume, if the tag is one.
    #[must_use]
    pub fn scratch(self) -> Option<ScratchRecord> {
        match self {
            Self::Scratch(scratch) => Some(scratch),
            _ => None,
        }
    }

    /// The record of a snapshot, if the tag is one.
    #[must_use]
    pub fn snapshot(self) -> Option<SnapshotRecord> {
        match self {
            Self::Snapshot(snapshot) => Some(*snapshot),
            _ => None,
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
            thin: false,
            parameters: spec.parameters_hash(),
            zeroed: Gib::NONE,
            wipe: spec.class.wipe,
            filesystem_uuid: None,
            wiped: false,
            source: spec.source.clone(),
            filling: spec.source.is_some(),
            expansion: None,
            discard: spec.discard(),
            limits: spec.class.limits,
            requires_limits: spec.class.requires_limits,
            encryption: spec.class.encryption,
            unknown: Vec::new(),
        }
    }

    /// The record of a new volume in a thin pool, which contains only zeros: if it is not filled from a source, nothing
    /// has to be zeroed or wiped.
    #[must_use]
    pub(crate) fn new_thin(spec: &VolumeSpec, size: u64) -> Self {
        let record = Self { thin: true, layout: Layout::Linear, ..Self::new(spec, size) };
        match (record.filling, record.access) {
            (true, _) => record,
            // Its header is still missing.
            (false, _) if record.encryption.is_some() => record.wiped(),
            (false, AccessTypes::Mount) => record.wiped(),
            (false, AccessTypes::Block) => record.ready(),
            // Its first use decides.
            (false, AccessTypes::Both) => record.zeroed(Gib::needed_for(size)),
        }
    }

    /// The same record of a volume that was created with the contents of its source. `filesystem_uuid`: the one that its
    /// filesystem gets next; `None` if it contains none.
    #[must_use]
    pub(crate) fn filled_at_once(&self, filesystem_uuid: Option<Uuid>) -> Self {
        Self { zeroed: Gib::needed_for(self.size), filesystem_uuid, ..self.clone() }
    }

    /// The same record while the volume is being expanded.
    #[must_use]
    pub(crate) fn expanding(&self, expansion: Option<ExpansionProgress>) -> Self {
        Self { expansion, ..self.clone() }
    }

    /// The same record of a volume that was expanded from `before` to `after` bytes, which are zeroed if it may be shown
    /// raw. If it was zeroed completely before, it is so now.
    #[must_use]
    pub(crate) fn expanded(&self, before: u64, after: u64) -> Self {
        let complete = self.zeroed > Gib::NONE && self.zeroed >= Gib::needed_for(before.min(self.size));
        let zeroed = if complete { Gib::needed_for(after) } else { self.zeroed };
        Self { zeroed, expansion: None, ..self.clone() }
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
        Self { state: State::Ready, zeroed: Gib::NONE, wiped: false, filling: false, ..self.clone() }
    }

    /// The same record of a volume whose source turned out to contain nothing: it is prepared like an empty one.
    #[must_use]
    pub fn filled_with_nothing(&self) -> Self {
        let nothing = Self { zeroed: Gib::NONE, filling: false, ..self.clone() };
        if self.encryption.is_some() {
            // Its first stage writes the header.
            return if self.thin { nothing.wiped() } else { nothing };
        }
        match (self.thin, self.access) {
            (false, _) => nothing,
            // It reads as zeros, as when it was created.
            (true, AccessTypes::Mount) => nothing.wiped(),
            (true, AccessTypes::Block | AccessTypes::Both) => nothing.zeroed(Gib::needed_for(self.size)),
        }
    }

    /// The same record in state `ready`, of a volume that has a filesystem with that UUID.
    #[must_use]
    pub fn ready_with(&self, filesystem_uuid: Uuid) -> Self {
        Self { filesystem_uuid: Some(filesystem_uuid), ..self.ready() }
    }

    /// The same record with these I/O limits.
    #[must_use]
    pub fn limited(&self, limits: IoLimits, required: bool) -> Self {
        Self { limits, requires_limits: required, ..self.clone() }
    }

    /// The same record of a volume whose unused space is discarded in that way.
    #[must_use]
    pub fn discarding(&self, discard: Option<Discard>) -> Self {
        Self { discard, ..self.clone() }
    }

    /// The same record with that zeroing progress.
    #[must_use]
    pub fn zeroed(&self, zeroed: Gib) -> Self {
        Self { zeroed, ..self.clone() }
    }

    /// How many bytes at the beginning contain only zeros, as far as it is recorded. 0 while the volume is being filled:
    /// then `zeroed` counts what was copied.
    #[must_use]
    pub fn zeroed_bytes(&self) -> u64 {
        if self.filling { 0 } else { self.zeroed.bytes() }
    }

    /// Whether it is used without being zeroed first: it is encrypted, and as long as it is new, so is its key. What a
    /// previous owner left reads as noise.
    #[must_use]
    pub fn needs_no_zeroes(&self) -> bool {
        self.encryption.is_some()
    }

    /// Whether its filesystem may have the UUID of another one on this host: it was copied together with its encryption,
    /// and its UUID cannot be changed without the passphrase. Such a volume is recognized by the UUID of its LUKS2 header.
    #[must_use]
    pub fn shares_filesystem_uuid(&self) -> bool {
        self.encryption.is_some() && self.source.is_some()
    }

    /// The size that its user had when it was created, in bytes.
    #[must_use]
    pub fn usable_size(&self) -> u64 {
        self.size.saturating_sub(self.overhead())
    }

    /// How many bytes of its storage its user does not have.
    #[must_use]
    pub fn overhead(&self) -> u64 {
        self.encryption.map_or(0, Encryption::overhead)
    }

    /// When the unused space of its filesystem is discarded. The default is `periodic` in a thin pool, which gets the
    /// space back, and `none` elsewhere and if the volume is encrypted: a discard shows where nothing is stored.
    #[must_use]
    pub fn discards(&self) -> Discard {
        match self.discard {
            _ if self.filesystem.is_none() => Discard::None,
            Some(discard) => discard,
            None if self.thin && self.encryption.is_none() => Discard::Periodic,
            None => Discard::None,
        }
    }

    /// How the volume differs from the requested one, for a sentence that ends with it; `None` if a retry
    /// of that request finds this volume (CSI `CreateVolume`, idempotency). Its size and pool are not compared, and neither
    /// are its mutable parameters.
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
        if self.encryption != spec.class.encryption {
            let kind = |encryption: Option<Encryption>| encryption.map_or("not encrypted", Encryption::as_str);
            return Some(format!("with encryption {}, not {}", kind(self.encryption), kind(spec.class.encryption)));
        }
        if self.source != spec.source {
            let contents = |source: &Option<ContentSource>| match source {
                None => "empty".to_owned(),
                Some(source) => format!("with the contents of {source}"),
            };
            return Some(format!("{}, not {}", contents(&self.source), contents(&spec.source)));
        }
        None
    }
}
