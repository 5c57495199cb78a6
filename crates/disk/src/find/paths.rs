//! Patterns of paths: a folder of links, a device node, udev's links.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use quarry_mount::Device;

use super::{Glob, GlobError};

/// A pattern of absolute paths. Each part between slashes is a pattern of its own: `/mnt/disks/*`,
/// `/dev/disk/by-path/pci-0000:03:00.0-*`. It matches the block devices at these paths, after following
/// links. A link to a partition matches that partition, not its disk; paths to anything else are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathGlob {
    text: String,
    parts: Vec<Glob>,
}

/// The files of the host, as far as path patterns need them. Tests substitute their own.
pub trait Paths {
    /// The names in a folder; empty if the folder does not exist.
    fn names_in(&self, folder: &Path) -> Vec<String>;
    /// The number of the block device at a path, after following links.
    fn device(&self, path: &Path) -> Option<Device>;
}

/// The files as this process sees them. In a container, a folder of links must be mounted at its own path.
#[derive(Clone, Copy, Debug)]
pub struct HostPaths;

impl Paths for HostPaths {
    fn names_in(&self, folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    fn device(&self, path: &Path) -> Option<Device> {
        Device::of_node(path)
    }
}

impl FromStr for PathGlob {
    type Err = GlobError;

    fn from_str(text: &str) -> Result<Self, GlobError> {
        let wrong = |why| GlobError { text: text.to_owned(), why };
        let below = text.strip_prefix('/').ok_or_else(|| wrong("the path must be absolute"))?;
        let mut parts = Vec::new();
        for part in below.split('/') {
            match part {
                "" => return Err(wrong("the path has an empty component: remove the duplicate or trailing slash")),
                "." | ".." => return Err(wrong("the path must not contain . or ..")),
                "**" => return Err(wrong("** is not supported: write one * for each folder")),
                part => parts.push(part.parse().map_err(|error: GlobError| wrong(error.why))?),
            }
        }
        Ok(Self { text: text.to_owned(), parts })
    }
}

impl PathGlob {
    /// The numbers of all block devices that match now.
    pub fn devices(&self, paths: &impl Paths) -> HashSet<Device> {
        let mut found = vec![PathBuf::from("/")];
        for part in &self.parts {
            found = found.iter().flat_map(|folder| step(paths, folder, part)).collect();
        }
        found.iter().filter_map(|path| paths.device(path)).collect()
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

fn step(paths: &impl Paths, folder: &Path, part: &Glob) -> Vec<PathBuf> {
    if let Some(name) = part.literal() {
        return vec![folder.join(name)];
    }
    let mut names = paths.names_in(folder);
    // As in a shell, hidden names must be matched explicitly.
    names.retain(|name| part.matches(name) && (part.begins_with_dot() || !name.starts_with('.')));
    names.iter().map(|name| folder.join(name)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Paths, and the devices that they point to.
    struct Fake(BTreeMap<&'static str, Option<u64>>);

    impl Paths for Fake {
        fn names_in(&self, folder: &Path) -> Vec<String> {
            let below = self.0.keys().filter_map(|path| Path::new(path).strip_prefix(folder).ok());
            let names: std::collections::BTreeSet<_> = below.filter_map(|path| path.iter().next()).collect();
            names.into_iter().map(|name| name.to_str().unwrap().to_owned()).collect()
        }

        fn device(&self, path: &Path) -> Option<Device> {
            self.0.get(path.to_str().unwrap()).copied().flatten().map(|minor| Device { major: 8, minor })
        }
    }

    fn minors(glob: &str) -> Vec<u64> {
        let fake = Fake(BTreeMap::from([
            ("/mnt/disks/a", Some(16)),
            ("/mnt/disks/b", Some(32)),
            ("/mnt/disks/.hidden", Some(48)),
            ("/mnt/disks/readme", None),
            ("/mnt/more/a", Some(64)),
            ("/dev/sdb", Some(16)),
            ("/dev/sdb1", Some(17)),
        ]));
        let devices = glob.parse::<PathGlob>().unwrap().devices(&fake);
        let mut minors: Vec<u64> = devices.into_iter().map(|device| device.minor).collect();
        minors.sort_unstable();
        minors
    }

    #[test]
    fn patterns_match_the_targets_of_links() {
        assert_eq!(minors("/mnt/disks/*"), [16, 32]);
        assert_eq!(minors("/mnt/disks/.*"), [48]);
        assert_eq!(minors("/mnt/*/a"), [16, 64]);
        assert_eq!(minors("/mnt/disks/[bc]"), [32]);
        assert_eq!(minors("/dev/sdb"), [16]);
        assert_eq!(minors("/dev/sdb*"), [16, 17]);
        assert_eq!(minors("/mnt/disks"), [0; 0]);
        assert_eq!(minors("/none/*"), [0; 0]);
    }

    #[test]
    fn invalid_path_patterns_are_rejected() {
        for (text, why) in [
            ("mnt/*", "absolute"),
            ("", "absolute"),
            ("/", "empty component"),
            ("/mnt//a", "empty component"),
            ("/mnt/", "empty component"),
            ("/mnt/../dev/*", ".."),
            ("/mnt/**", "**"),
            ("/mnt/[a", "no matching ]"),
        ] {
            let error = text.parse::<PathGlob>().unwrap_err().to_string();
            assert!(error.contains(why) && error.contains(text), "{text:?}: {error}");
        }
    }

    #[test]
    fn links_on_a_real_filesystem_are_followed() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), "").unwrap();
        std::os::unix::fs::symlink("nowhere", folder.path().join("dangling")).unwrap();
        let mut names = HostPaths.names_in(folder.path());
        names.sort_unstable();
        assert_eq!(names, ["dangling", "file"]);
        assert_eq!(HostPaths.device(&folder.path().join("file")), None, "a regular file is not a device");
        assert_eq!(HostPaths.device(&folder.path().join("dangling")), None);
        assert_eq!(HostPaths.names_in(&folder.path().join("file")), [""; 0]);
    }
}
