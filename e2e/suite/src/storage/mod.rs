//! The storage of a node's pool `main`, as the host's own tools report it, never Quarry's.

mod disks;
mod expect;
mod group;
mod thin;

use std::time::Duration;

use anyhow::Result;

pub use disks::{WholeDisks, partition};
pub use group::{GROUP, Group};
pub use thin::ThinPool;

/// A kind of storage. Its scripts run in the guest.
pub trait Storage: Send + Sync {
    /// The pool's configuration without its name: one pair of YAML.
    fn section(&self) -> String;

    /// A script that creates the storage on these devices.
    fn make(&self, devices: &[String]) -> String;

    /// A script that prints everything on the storage, foreign or not. [`Self::read`] parses it.
    fn look(&self) -> String;

    /// Everything on the storage. An empty list: nothing.
    ///
    /// # Errors
    /// `printed` is not the output of [`Self::look`].
    fn read(&self, printed: &str) -> Result<Vec<Stored>>;

    /// The device of a volume, as a word of a shell script. `name`: as in CreateVolume, if the storage
    /// accepts it unchanged.
    fn device(&self, name: &str) -> String;

    /// A script that writes a former tenant's bytes where the next small volume will be, and leaves nothing
    /// else.
    fn dirty(&self) -> String;

    /// A script that fails if the storage itself, or what says which volumes there are, is damaged.
    fn check(&self) -> String;

    /// How long remnants may exist after a deletion was answered OK. The volume is gone at once.
    fn cleanup_time(&self) -> Duration;

    /// Whether remnants of a creation that was interrupted before there was a volume may exist until the next
    /// creation.
    fn keeps_halves(&self) -> bool;

    /// What exists besides a volume of this layout and belongs to it: so many [`Stored`].
    fn parts(&self, layout: &str) -> usize;

    /// The names of the mapped devices that belong to the storage itself, as a regular expression of `grep -E`.
    fn own_devices(&self) -> &'static str {
        "none"
    }
}

/// Something on the storage.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its description, for readers of a failure.
    pub text: String,
    /// The volume that it is, if it is one.
    pub volume: Option<Volume>,
}

/// A volume on the storage.
#[derive(Clone, Debug)]
pub struct Volume {
    /// Its size in bytes.
    pub size: i64,
    /// Its record.
    pub record: String,
}

/// What was found, a line each.
pub fn listed(found: &[Stored]) -> String {
    found.iter().map(|found| found.text.as_str()).collect::<Vec<_>>().join("\n")
}
