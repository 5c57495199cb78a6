//! The snapshots that the kernel has invalidated.
//!
//! The kernel notes that in the space of the snapshot. If it cannot, because the disk is missing or fails, the snapshot
//! counts as valid again when it is activated the next time: after a boot, or after its volume was deactivated. Then it
//! would show blocks that were written after its instant. So the node has a note of its own, on the host's filesystem.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quarry_lvm::kernel::Facts;
use quarry_lvm::{LvUuid, SnapshotStatus, VgUuid, VolumeGroup};

use crate::lvm::state_file;

const FILE: &str = "invalid-snapshots";
/// When it is written again after that failed.
const AGAIN: Duration = if cfg!(test) { Duration::ZERO } else { Duration::from_secs(60) };
/// The first line of the file.
const HEAD: &str = "# Snapshots whose contents are lost: the UUIDs of the volume group and of the logical volume";

/// The invalid snapshots of all volume groups.
pub(crate) struct InvalidSnapshots {
    file: PathBuf,
    state: Mutex<State>,
}

struct State {
    known: BTreeSet<(VgUuid, LvUuid)>,
    /// When the file could not be written, so that it does not have the same.
    failed: Option<Instant>,
}

impl InvalidSnapshots {
    /// Reads what earlier processes have noted in that folder.
    pub(crate) fn open(folder: &Path) -> Arc<Self> {
        let file = folder.join(FILE);
        let known = match fs::read(&file) {
            Ok(bytes) => parse(&String::from_utf8_lossy(&bytes), &file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeSet::new(),
            Err(error) => {
                // It is kept, because the next note would replace it.
                let kept = file.with_extension("unreadable");
                let kept = fs::rename(&file, &kept).map(|()| kept);
                let file = file.display();
                tracing::error!(
                    %file, %error, ?kept,
                    "cannot read which snapshots were lost: they may count as valid again; delete those whose disk was \
                     missing"
                );
                BTreeSet::new()
            }
        };
        Arc::new(Self { file, state: Mutex::new(State { known, failed: None }) })
    }

    /// Notes which snapshots of the volume group are invalid now. One that was is so forever, until it is removed.
    pub(crate) fn keep(&self, group: &VolumeGroup, facts: &mut Facts) {
        let mut state = self.state.lock();
        let mut known = state.known.clone();
        let invalid = facts.snapshots().filter(|(_, status)| *status == SnapshotStatus::Invalid);
        known.extend(invalid.map(|(volume, _)| (group.uuid, volume)));
        let exists = |volume: LvUuid| group.logical_volumes.iter().any(|found| found.uuid == volume);
        known.retain(|(of, volume)| *of != group.uuid || exists(*volume));
        for (_, volume) in known.iter().filter(|(of, _)| *of == group.uuid) {
            facts.set_snapshot(*volume, SnapshotStatus::Invalid);
        }
        let is_due = state.failed.is_some_and(|failed| failed.elapsed() >= AGAIN);
        if known == state.known && !is_due {
            return;
        }
        let stored = store(&self.file, &known);
        if let Err(error) = &stored
            && state.failed.is_none()
        {
            let file = self.file.display();
            tracing::error!(%file, %error, "cannot note that a snapshot is lost; it may count as valid after a boot");
        }
        *state = State { known, failed: stored.is_err().then(Instant::now) };
    }
}

fn parse(text: &str, file: &Path) -> BTreeSet<(VgUuid, LvUuid)> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let read = |line: &str| {
        let (group, volume) = line.split_once(' ')?;
        Some((group.parse().ok()?, volume.parse().ok()?))
    };
    let known = lines.filter_map(|line| {
        let known = read(line);
        if known.is_none() {
            tracing::warn!(file = %file.display(), line, "not a pair of UUIDs");
        }
        known
    });
    known.collect()
}

fn store(file: &Path, known: &BTreeSet<(VgUuid, LvUuid)>) -> io::Result<()> {
    let lines = known.iter().map(|(group, volume)| format!("{group} {volume}\n"));
    state_file::replace(file, &format!("{HEAD}\n{}", lines.collect::<String>()))
}

#[cfg(test)]
mod tests {
    use quarry_lvm::LogicalVolume;

    use super::super::super::testing::uuid;
    use super::*;

    const USED: SnapshotStatus = SnapshotStatus::Used(1);

    fn group(label: &str, volumes: &[&str]) -> VolumeGroup {
        let volume = |label: &&str| LogicalVolume { uuid: uuid(label), ..LogicalVolume::default() };
        let logical_volumes = volumes.iter().map(volume).collect();
        VolumeGroup { uuid: uuid(label), logical_volumes, ..VolumeGroup::default() }
    }

    /// What is known after the kernel has said that of the snapshot `s`.
    fn seen(invalid: &InvalidSnapshots, group: &VolumeGroup, said: Option<SnapshotStatus>) -> Option<SnapshotStatus> {
        let mut facts = Facts::default();
        if let Some(said) = said {
            facts.set_snapshot(uuid("s"), said);
        }
        invalid.keep(group, &mut facts);
        facts.snapshots().find(|(volume, _)| *volume == uuid::<LvUuid>("s")).map(|(_, status)| status)
    }

    #[test]
    fn a_snapshot_never_becomes_valid_again() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, other) = (group("vg", &["s", "other"]), group("other", &["s"]));
        let invalid = InvalidSnapshots::open(folder.path());
        assert_eq!(seen(&invalid, &ours, Some(USED)), Some(USED));
        assert!(!folder.path().join(FILE).exists(), "nothing is lost");
        assert_eq!(seen(&invalid, &ours, Some(SnapshotStatus::Invalid)), Some(SnapshotStatus::Invalid));
        for process in ["the same", "another"] {
            let invalid = if process == "the same" { &invalid } else { &InvalidSnapshots::open(folder.path()) };
            for said in [None, Some(USED)] {
                assert_eq!(seen(invalid, &ours, said), Some(SnapshotStatus::Invalid), "{process}");
                assert_eq!(seen(invalid, &other, said), said, "of another group, {process}");
            }
        }
        // It is removed.
        assert_eq!(seen(&invalid, &group("vg", &["other"]), None), None);
        assert_eq!(seen(&InvalidSnapshots::open(folder.path()), &ours, Some(USED)), Some(USED));
    }

    #[test]
    fn what_cannot_be_stored_is_stored_later() {
        let folder = tempfile::tempdir().unwrap();
        let (blocked, ours) = (folder.path().join("state"), group("vg", &["s"]));
        fs::write(&blocked, "not a folder").unwrap();
        let invalid = InvalidSnapshots::open(&blocked);
        for said in [SnapshotStatus::Invalid, USED] {
            assert_eq!(seen(&invalid, &ours, Some(said)), Some(SnapshotStatus::Invalid));
        }
        fs::remove_file(&blocked).unwrap();
        assert_eq!(seen(&invalid, &ours, Some(USED)), Some(SnapshotStatus::Invalid));
        assert_eq!(seen(&InvalidSnapshots::open(&blocked), &ours, Some(USED)), Some(SnapshotStatus::Invalid));
    }

    #[test]
    fn a_damaged_line_is_skipped() {
        let folder = tempfile::tempdir().unwrap();
        let (one, ours) = (uuid::<VgUuid>("vg"), group("vg", &["s"]));
        let text = format!("{HEAD}\n\n{one}\nx y\n{one} {}\n\u{0}\u{0}", uuid::<LvUuid>("s"));
        fs::write(folder.path().join(FILE), text).unwrap();
        assert_eq!(seen(&InvalidSnapshots::open(folder.path()), &ours, None), Some(SnapshotStatus::Invalid));
    }
}
