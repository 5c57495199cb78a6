//! The storage of a node's pool `main`, as the host's own tools report it, never Quarry's.

mod disks;
mod expect;
mod group;

use std::time::Duration;

use anyhow::Result;

pub use disks::{WholeDisks, partition};
pub use group::{GROUP, Group};

/// A kind of storage. Its scripts run in the guest.
pub trait Storage: Send + Sync {
    /// The pool's configuration without its name: one pair of YAML.
    fn section(&self) -> String;

    /// A script that makes the storage of these devices.
    fn make(&self, devices: &[String]) -> String;

    /// A script that prints what lies there, whoever put it there. [`Self::read`] understands it.
    fn look(&self) -> String;

    /// Everything that lies there. Nothing at all: an empty list.
    ///
    /// # Errors
    /// When `printed` is not what [`Self::look`] prints.
    fn read(&self, printed: &str) -> Result<Vec<Found>>;

    /// The device of a volume, as a word of a shell script. `name`: as CreateVolume was given it, if the storage takes it as it is.
    fn device(&self, name: &str) -> String;

    /// A script that writes a former tenant's bytes where the next small volume will lie, and leaves nothing else.
    fn dirty(&self) -> String;

    /// A script that fails if the storage itself, or what says which volumes there are, is damaged.
    fn check(&self) -> String;

    /// For how long after a deletion was answered OK something may still lie there. Never a volume.
    fn settles(&self) -> Duration;

    /// Whether what a creation has left that was cut off before there was a volume may lie there until the next volume is made.
    fn keeps_halves(&self) -> bool;

    /// What lies there beside a volume of this layout and belongs to it: so many [`Found`].
    fn parts(&self, layout: &str) -> usize;
}

/// Something that lies on the storage.
#[derive(Clone, Debug)]
pub struct Found {
    /// What it is, for whoever reads a failure.
    pub text: String,
    /// The volume that it is, if it is one.
    pub volume: Option<Volume>,
}

/// A volume, as it lies there.
#[derive(Clone, Debug)]
pub struct Volume {
    /// Its size in bytes.
    pub size: i64,
    /// Its record.
    pub record: String,
}

/// What was found, a line each.
pub fn listed(found: &[Found]) -> String {
    found.iter().map(|found| found.text.as_str()).collect::<Vec<_>>().join("\n")
}
