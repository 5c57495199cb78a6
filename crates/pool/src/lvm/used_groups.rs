//! Which volume groups the pools have used.
//!
//! The configuration has only a name, and a volume group of the same name may be on another disk of the host, which a
//! tenant can write to: a disk over a network. After a restart, this note tells them apart.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use quarry_lvm::VgUuid;

use super::state_file;

const FILE: &str = "used-volume-groups";
/// The first line of the file.
const HEAD: &str = "# Volume groups that pools have used: the name in the configuration, and the UUID";

/// The volume groups that this process and earlier ones have used.
pub(crate) struct UsedGroups {
    file: PathBuf,
    /// The name in the configuration, and the UUID.
    known: Mutex<BTreeSet<(String, VgUuid)>>,
    /// Those that were found although others are known, and nothing was changed in them yet.
    doubted: Mutex<BTreeSet<VgUuid>>,
}

impl UsedGroups {
    /// Reads what earlier processes have noted in that folder. Without it, two volume groups of one name are not told
    /// apart, which is reported when it happens.
    pub(crate) fn open(folder: &Path) -> Arc<Self> {
        let file = folder.join(FILE);
        let known = match fs::read_to_string(&file) {
            Ok(text) => parse(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeSet::new(),
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "cannot read which volume groups were used");
                BTreeSet::new()
            }
        };
        Arc::new(Self { file, known: Mutex::new(known), doubted: Mutex::default() })
    }

    /// The volume groups that were used under that name.
    pub(crate) fn of(&self, name: &str) -> BTreeSet<VgUuid> {
        self.known.lock().iter().filter(|(used, _)| used == name).map(|(_, uuid)| *uuid).collect()
    }

    /// Notes that the volume group was found, if no other one is known: another one may be there by mistake, while the
    /// disks of the right one are missing. Blocks if it was not known.
    pub(crate) fn found(&self, name: &str, uuid: VgUuid) {
        let others = self.of(name);
        if others.is_empty() {
            self.keep(name, uuid);
        } else if !others.contains(&uuid) && self.doubted.lock().insert(uuid) {
            tracing::warn!(
                volume_group = name, %uuid, ?others,
                "a volume group of this name has another UUID than before; if it was not created anew, its disks are \
                 missing, and this is not the right one"
            );
        }
    }

    /// Notes that a pool has changed the volume group, so that volumes may be in it. Blocks if it was not known.
    pub(crate) fn keep(&self, name: &str, uuid: VgUuid) {
        let mut known = self.known.lock();
        if !known.insert((name.to_owned(), uuid)) {
            return;
        }
        let lines = known.iter().map(|(name, uuid)| format!("{name} {uuid}\n"));
        if let Err(error) = state_file::replace(&self.file, &format!("{HEAD}\n{}", lines.collect::<String>())) {
            tracing::warn!(file = %self.file.display(), %error, "cannot note which volume group is used");
        }
    }
}

/// A line that is not a name and a UUID is left out.
fn parse(text: &str) -> BTreeSet<(String, VgUuid)> {
    let read = |line: &str| {
        let (name, uuid) = line.split_once(' ')?;
        Some((name.to_owned(), uuid.parse().ok()?))
    };
    text.lines().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::uuid;
    use super::*;

    #[test]
    fn what_was_used_is_known_to_the_next_process() {
        let folder = tempfile::tempdir().unwrap();
        let used = UsedGroups::open(folder.path());
        assert!(used.of("vg").is_empty());
        used.found("vg", uuid("1"));
        used.found("other", uuid("2"));
        // It may be somebody else's, until the pool has changed something in it.
        used.found("vg", uuid("3"));
        assert_eq!(UsedGroups::open(folder.path()).of("vg"), BTreeSet::from([uuid("1")]));
        used.keep("vg", uuid("3"));
        for used in [used, UsedGroups::open(folder.path())].map(|used| used.of("vg")) {
            assert_eq!(used, BTreeSet::from([uuid("1"), uuid("3")]));
        }
    }

    #[test]
    fn a_damaged_file_is_read_as_far_as_possible() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), format!("{HEAD}\n\nvg\nvg x\nvg {}\n", uuid::<VgUuid>("1"))).unwrap();
        let used = UsedGroups::open(folder.path());
        assert_eq!(used.of("vg"), BTreeSet::from([uuid("1")]));
        let nowhere = folder.path().join(FILE).join("folder");
        UsedGroups::open(&nowhere).keep("vg", uuid("1"));
    }
}
