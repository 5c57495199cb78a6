//! What a volume is: the types that controller and node share.
//!
//! This crate does no I/O. The controller does not know how a host allocates volumes, so everything that both
//! sides must agree on (names, identifiers, sizes, access, errors) is in this crate.

mod access;
mod agent;
mod discard;
mod encryption;
mod error;
mod filesystem;
mod health;
mod id;
mod layout;
mod limits;
mod mutable;
mod name;
mod options;
mod parameters;
mod size;
mod snapshot;
mod space;
mod text;
mod units;
mod unreachable;
mod wipe;

pub use access::{AccessMode, AccessType, AccessTypes, Capability, DEFAULT_FILESYSTEM, Usage};
pub use agent::{
    Agent, COPY, Capacity, Change, CopyProgress, DISCARD, ENCRYPTION, EXPAND, FencingToken, Greeting, LIMITS,
    MODIFY_DISCARD, NameLookup, PoolCapabilities, PoolState, SNAPSHOT, SNAPSHOT_COPY, ThinUse, Update, UpdateStream,
    Volume,
};
pub use discard::{Discard, UnknownDiscard};
pub use encryption::{Encryption, UnknownEncryption};
pub use error::{Error, Reason, Result};
pub use filesystem::{Filesystem, UnknownFilesystem};
pub use health::{Condition, SnapshotCondition};
pub use id::{ForeignId, MAX_ID, MAX_NODE, MAX_VOLUME, StorageId, VolumeId, is_of_later_version};
pub use layout::Layout;
pub use limits::{IoLimits, LimitChanges, Rate};
pub use mutable::MutableParameters;
pub use name::{is_plain_name, safe_name};
pub use options::{MakeOptions, MountOptions, OptionError, check_options};
pub use parameters::{
    KNOWN as KNOWN_PARAMETERS, MKFS_OPTIONS, ON_NODE_LOSS, Parameters, RELEASE, VolumeSpec, parameters_hash,
};
pub use size::{DEFAULT_SIZE, SizeRange, parse_size, show_size};
pub use snapshot::{
    ContentSource, CowSize, KNOWN_SNAPSHOT_PARAMETERS, Snapshot, SnapshotId, SnapshotMethod, SnapshotParameters,
    SnapshotSpec,
};
pub use space::{Largest, Placement, Space};
pub use text::{human_duration, plural, printable, printable_lines, some_of, with_causes};
pub use units::{ExtentSize, Extents, Gib};
pub use unreachable::Unreachable;
pub use wipe::{UnknownWipe, Wipe};
