//! Translates paths under `/dev` to kernel names.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use super::Roots;

/// The kernel name of the device at a path under `/dev`: `sda1` for `/dev/disk/by-uuid/…`. `None` for any
/// other path. If the path does not exist here, because this container's `/dev` lacks it, its last part is
/// taken as the name.
pub(super) fn device_name(roots: &Roots, path: &Path) -> Option<String> {
    let below = path.strip_prefix("/dev").ok().filter(|below| below.iter().next().is_some())?;
    let found = fs::canonicalize(roots.dev.join(below)).ok().and_then(|real| below_dev(roots, &real));
    kernel_spelling(&found.unwrap_or_else(|| below.to_owned()))
}

fn below_dev(roots: &Roots, real: &Path) -> Option<PathBuf> {
    let dev = fs::canonicalize(&roots.dev).ok()?;
    Some(real.strip_prefix(dev).ok()?.to_owned())
}

/// sysfs spells the slash in `/dev/cciss/c0d0` as an exclamation mark.
pub(super) fn kernel_spelling(below_dev: &Path) -> Option<String> {
    Some(below_dev.to_str()?.replace('/', "!"))
}

/// The path of a device's node, below `/dev`.
pub(super) fn node_spelling(name: &str) -> String {
    name.replace('!', "/")
}

/// udev's links to whole disks and partitions in `/dev/disk`.
#[derive(Debug, Default)]
pub(super) struct Links {
    by_id: HashMap<String, BTreeSet<String>>,
    by_path: HashMap<String, BTreeSet<String>>,
}

impl Links {
    /// Reads both folders. A missing folder has no links.
    pub(super) fn read(roots: &Roots) -> Self {
        Self { by_id: folder(roots, "by-id"), by_path: folder(roots, "by-path") }
    }

    /// The links in `by-id` and `by-path` to the device with that kernel name.
    pub(super) fn of(&self, name: &str) -> (BTreeSet<String>, BTreeSet<String>) {
        let of = |links: &HashMap<String, BTreeSet<String>>| links.get(name).cloned().unwrap_or_default();
        (of(&self.by_id), of(&self.by_path))
    }
}

fn folder(roots: &Roots, name: &str) -> HashMap<String, BTreeSet<String>> {
    let mut links: HashMap<String, BTreeSet<String>> = HashMap::new();
    for link in fs::read_dir(roots.dev.join("disk").join(name)).into_iter().flatten().flatten() {
        // A dangling link belongs to a disk that is gone.
        let target = fs::canonicalize(link.path()).ok().and_then(|real| below_dev(roots, &real));
        if let (Some(device), Ok(link)) =
            (target.and_then(|path| kernel_spelling(&path)), link.file_name().into_string())
        {
            links.entry(device).or_default().insert(link);
        }
    }
    links
}
