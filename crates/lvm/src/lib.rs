//! Typed lvm2: reports, commands, errors, names, and how much fits where.
//!
//! lvm is driven through its one binary, `lvm SUBCOMMAND`, with an argument vector, and through the one door to other
//! programs. A [`Locator`] finds a volume group and asks everything about it in one process; each function of [`commands`]
//! is one mutation. Each command opens the devices of its own volume group alone ([`Scope`]), with Quarry's own settings
//! that matter. No report is cached here, and lvm under its own lock decides each mutation. What is pure stands apart and is
//! tested apart: [`parse`] (the report), [`classify`] (the errors), [`capacity`].

mod activation;
mod archive;
pub mod capacity;
pub mod commands;
mod dependents;
mod dm;
mod error;
mod header;
mod host;
pub mod kernel;
mod label;
mod locate;
mod lookup;
mod mutation;
mod name;
mod nested;
mod raid;
mod report;
mod scan;
mod search;
mod settings;
mod suspended;
mod types;
mod udev;

pub use archive::archive_problem;
pub use dm::open_count;
pub use error::{Error, Kind, classify};
pub use header::{flush, hyphenated, label_uuid, metadata_fingerprint};
pub use locate::Locator;
pub use lookup::Lookup;
pub use name::vg_name_fits;
pub use raid::{ImageState, RaidStatus, raid_status};
pub use report::{ParseError, parse};
pub use search::{EVERYWHERE, everywhere};
pub use settings::{ARCHIVES, Scope};
pub use suspended::{Suspended, resume, suspended};
pub use types::{LogicalVolume, PhysicalVolume, Used, VolumeGroup, mapper_path};
