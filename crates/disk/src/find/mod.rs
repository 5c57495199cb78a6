//! The disks of a host, as sysfs and udev tell of them.
//!
//! Nothing is opened and no program is run here: the kernel's tables and udev's database are read, so a look costs
//! little and disturbs nobody. What lies on a disk is another question ([`crate::judge`]).
//!
//! A disk is described by facts of three sources, and where two of them know the same, the kernel's word is preferred,
//! because it is there from the first moment and is spelled alike on every host. udev alone knows the links in
//! `/dev/disk`, and the whole model of a SATA disk, which the kernel cuts after 16 letters.

mod disk;
mod error;
mod glob;
mod kinds;
mod names;
mod open;
mod paths;
mod select;
mod sysfs;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod transport;
mod udev;
mod uses;

use std::collections::HashMap;
use std::path::PathBuf;

pub use disk::{Disk, How, Udev, Use};
pub use error::Error;
pub use glob::{Glob, GlobError};
pub use kinds::why_no_disk;
pub use open::open;
pub(crate) use open::open_with;
pub use paths::{HostPaths, PathGlob, Paths};
pub use select::{Assignment, Conflict, Criteria, Selector, SelectorError, Sizes, Targets, Verdict, assign};
pub use transport::{Transport, UnknownTransport};

/// Where the host's tables are. Another host's, or a test's, may be put in their place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    /// sysfs: `/sys`.
    pub sys: PathBuf,
    /// The device nodes and udev's links: `/dev`.
    pub dev: PathBuf,
    /// udev's database lies below it: `/run`.
    pub run: PathBuf,
    /// Mounts and swap: `/proc`.
    pub proc: PathBuf,
}

impl Roots {
    /// The host that this process runs on. In a container `/dev` and `/run/udev` have to be the host's.
    #[must_use]
    pub fn host() -> Self {
        Self { sys: "/sys".into(), dev: "/dev".into(), run: "/run".into(), proc: "/proc".into() }
    }
}

/// What a look at a host found.
#[derive(Debug, Default)]
pub struct FoundDisks {
    /// Every whole disk, shorter names first and then by the alphabet: `sdz` stands before `sdaa`.
    pub disks: Vec<Disk>,
    /// Disks that are there, but of which the kernel says something that cannot be. One such disk must not take the
    /// others from an operator.
    pub failed: Vec<Error>,
}

/// Finds every whole disk of a host. Partitions, what is layered upon disks, and what stands for another disk (a path of
/// an NVMe device with several) are not listed: [`why_no_disk`]. A disk that vanishes while it is read is left out: the
/// kernel's event of that calls for another look.
///
/// # Errors
/// The tables as such cannot be read. Then nobody knows what is in use, and no disk may be called free.
pub fn find(roots: &Roots) -> Result<FoundDisks, Error> {
    let uses = uses::Uses::read(roots)?;
    let links = names::Links::read(roots);
    let mut found = FoundDisks::default();
    for name in sysfs::block_devices(roots)? {
        if why_no_disk(&name).is_some() {
            continue;
        }
        match sysfs::read(roots, &name, &uses, &links) {
            Ok(Some(disk)) => found.disks.push(disk),
            Ok(None) => {}
            Err(error) => found.failed.push(error),
        }
    }
    found.disks.sort_by(|a, b| (a.name.len(), &a.name).cmp(&(b.name.len(), &b.name)));
    note_twins(&mut found.disks);
    Ok(found)
}

/// Two disks with one world-wide name are one disk that the host reaches by two ways (or clones that somebody made
/// badly). What was read by one way may lie in memory, out of date, while the other writes: neither can be trusted.
fn note_twins(disks: &mut [Disk]) {
    let mut by_wwn: HashMap<String, Vec<String>> = HashMap::new();
    for disk in disks.iter() {
        if let Some(wwn) = &disk.wwn {
            by_wwn.entry(wwn.clone()).or_default().push(disk.name.clone());
        }
    }
    for disk in disks {
        let names = disk.wwn.as_ref().and_then(|wwn| by_wwn.get(wwn));
        disk.same_as = names.into_iter().flatten().filter(|name| **name != disk.name).cloned().collect();
    }
}
