//! The disks of a host, from sysfs and udev.
//!
//! This module does not open devices or run programs: it reads the kernel's tables and udev's database, so it
//! is cheap and disturbs nothing. One table is answered by the disk itself, the serial number of virtio disks: each of
//! them is asked once, with a time limit. [`crate::classify`] checks the contents of a disk.
//!
//! The facts come from three sources. If two of them have the same fact, the kernel's is preferred, because
//! it is there from the first moment and has the same spelling on every host. Only udev knows the links in
//! `/dev/disk`, and the whole model of a SATA disk, which the kernel truncates to 16 characters.

mod disk;
mod error;
mod glob;
mod kinds;
mod names;
mod open;
mod paths;
mod select;
mod serial;
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
pub use kinds::why_unsupported;
pub use open::open;
pub(crate) use open::open_with;
pub use paths::{HostPaths, PathGlob, Paths};
pub use select::{Assignment, Conflict, Criteria, Selector, SelectorError, Sizes, Targets, Verdict, assign};
pub use transport::{Transport, UnknownTransport};

/// Where the host's tables are. Another host or a test may replace them.
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
    /// The host that this process runs on. In a container, `/dev` and `/run/udev` must be the host's.
    #[must_use]
    pub fn host() -> Self {
        Self { sys: "/sys".into(), dev: "/dev".into(), run: "/run".into(), proc: "/proc".into() }
    }
}

/// The disks of a host.
#[derive(Debug, Default)]
pub struct FoundDisks {
    /// Every whole disk, shorter names first, then alphabetically: `sdz` comes before `sdaa`.
    pub disks: Vec<Disk>,
    /// Disks that exist, but with an unexpected value in the kernel's tables. One such disk must not hide the
    /// others.
    pub failed: Vec<Error>,
}

/// Finds every whole disk of a host. Partitions, layered devices and aliases of a disk (a path of an NVMe
/// device with several) are not listed: [`why_unsupported`]. A disk that vanishes while it is read is skipped:
/// the kernel's event for that triggers another read.
///
/// # Errors
/// The tables themselves cannot be read. Then it is unknown what is in use, and no disk may count as free.
pub fn find(roots: &Roots) -> Result<FoundDisks, Error> {
    let uses = uses::Uses::read(roots)?;
    let links = names::Links::read(roots);
    let mut found = FoundDisks::default();
    for name in sysfs::block_devices(roots)? {
        if why_unsupported(&name).is_some() {
            continue;
        }
        match sysfs::read(roots, &name, &uses, &links) {
            Ok(Some(disk)) => found.disks.push(disk),
            Ok(None) => {}
            Err(error) => found.failed.push(error),
        }
    }
    found.disks.sort_by(|a, b| (a.name.len(), &a.name).cmp(&(b.name.len(), &b.name)));
    find_duplicate_wwns(&mut found.disks);
    Ok(found)
}

/// Two disks with the same world-wide name are one disk with two paths (or badly made clones). Data read
/// through one path may be cached and stale while the other path writes: neither can be trusted.
fn find_duplicate_wwns(disks: &mut [Disk]) {
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
