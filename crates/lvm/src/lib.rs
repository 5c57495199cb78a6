//! Typed access to lvm2: reports, commands, errors, names, and capacity.
//!
//! lvm is run only as `lvm SUBCOMMAND` with an argument vector, through `quarry_exec`. A [`Locator`] finds a
//! volume group and reports everything about it with one process. Each function in [`commands`] is one
//! mutation. Each command opens only the devices of its own volume group ([`Scope`]), with Quarry's own
//! settings where they matter. This crate caches no report, and lvm decides each mutation under its own lock.
//! Pure functions are separate, and tested separately: [`parse`] (the report), [`classify`] (the errors),
//! [`capacity`], [`expansion`].

mod activation;
mod archive;
pub mod capacity;
pub mod commands;
mod dependents;
mod dm;
mod error;
pub mod expansion;
mod frozen;
mod header;
mod host;
pub mod kernel;
mod label;
mod locate;
mod lookup;
pub mod metadata;
mod mutation;
mod name;
mod nested;
mod places;
mod raid;
mod report;
mod scan;
mod search;
mod settings;
mod snapshot;
mod suspended;
mod thin;
mod types;
mod udev;
mod uuid;

pub use archive::archive_problem;
pub use dm::{device_number, folders_named, open_count};
pub use error::{Error, Kind, classify};
pub use frozen::{Frozen, frozen};
pub use header::{flush, label, label_uuid, metadata_fingerprint};
pub use label::{GroupId, Label};
pub use locate::Locator;
pub use lookup::Lookup;
pub use name::vg_name_fits;
pub use nested::release_nested_on;
pub use raid::{ImageState, RaidStatus, raid_status};
pub use report::{ParseError, parse};
pub use search::{ALL_VOLUME_GROUPS, AllVolumeGroups, all_volume_groups};
pub use settings::{ARCHIVES, Discards, Scope};
pub use snapshot::{CHUNK as COW_CHUNK, SnapshotStatus, cow_extents, never_full, snapshot_status};
pub use suspended::{Suspended, remove_stale, resume, stale_layers, suspended};
pub use thin::{ThinPoolMode, ThinPoolStatus, mapped_bytes, thin_pool_of_layer, thin_pool_status};
pub use types::{ExtentRange, LogicalVolume, PhysicalVolume, Used, VolumeGroup};
pub use uuid::{InvalidUuid, LvUuid, PvUuid, VgUuid, device_uuid, parse_device_uuid};
