//! What the disks cannot show about the volume groups that Quarry makes.
//!
//! A disk gets its label before it belongs to a volume group. If Quarry is killed in between, only this note
//! distinguishes the label from that of a disk that an operator took out of the volume group, or prepared for another
//! one. And if all disks of a volume group are gone, only this note shows that it existed: a second one of the same name
//! would be in its way when they come back.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use quarry_lvm::{PvUuid, VgUuid};

use crate::lvm::state_file;

const FILE: &str = "volume-groups";
/// The first line of the file.
const HEAD: &str = "# Volume groups that Quarry makes of disks. \"group NAME UUID\": it exists. \"disk NAME UUID\": a disk is \
                    being added to it.";
/// How many disks are remembered for a volume group: more than are added at once.
const MOST: usize = 256;

/// The notes about all volume groups. They are on the host's filesystem, and survive a boot.
pub(crate) struct GroupNotes {
    file: PathBuf,
    /// `Err`: why the file cannot be used.
    state: Mutex<Result<State, String>>,
}

/// The notes by the names of the volume groups.
type State = BTreeMap<String, Notes>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Notes {
    /// The UUID of the volume group when it was last seen.
    group: Option<VgUuid>,
    /// The physical volumes that are being added, the oldest first.
    adding: Vec<PvUuid>,
}

impl GroupNotes {
    /// Reads what earlier processes have noted in that folder.
    pub(crate) fn open(folder: &Path) -> Arc<Self> {
        let file = folder.join(FILE);
        let state = match fs::read_to_string(&file) {
            Ok(text) => parse(&text).map_err(|line| format!("line {line:?} is invalid")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(State::new()),
            Err(error) => Err(error.to_string()),
        };
        Arc::new(Self { file, state: Mutex::new(state) })
    }

    /// The UUID of the volume group with that name when it was last seen, and the physical volumes that are being added
    /// to it.
    ///
    /// # Errors
    /// The file cannot be used: what it says is not known.
    pub(super) fn of(&self, group: &str) -> Result<(Option<VgUuid>, Vec<PvUuid>), String> {
        let state = self.state.lock();
        let known = state.as_ref().map_err(|why| self.unusable(why))?;
        Ok(known.get(group).map(|notes| (notes.group, notes.adding.clone())).unwrap_or_default())
    }

    /// Notes that the volume group exists.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn exists(&self, group: &str, uuid: VgUuid) -> Result<(), String> {
        self.change(group, |notes| notes.group = Some(uuid))
    }

    /// Notes that a physical volume is about to be made.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn begin(&self, group: &str, disk: PvUuid) -> Result<(), String> {
        self.change(group, |notes| {
            notes.adding.push(disk);
            let surplus = notes.adding.len().saturating_sub(MOST);
            notes.adding.drain(..surplus);
        })
    }

    /// Notes that a physical volume belongs to the volume group, or does not exist.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn end(&self, group: &str, disk: PvUuid) -> Result<(), String> {
        self.change(group, |notes| notes.adding.retain(|adding| *adding != disk))
    }

    /// The path of the file.
    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    fn change(&self, group: &str, change: impl FnOnce(&mut Notes)) -> Result<(), String> {
        let mut state = self.state.lock();
        let known = state.as_ref().map_err(|why| self.unusable(why))?;
        let mut next = known.clone();
        change(next.entry(group.to_owned()).or_default());
        if next != *known {
            state_file::replace(&self.file, &text(&next)).map_err(|error| self.unusable(&error.to_string()))?;
            *state = Ok(next);
        }
        Ok(())
    }

    fn unusable(&self, why: &str) -> String {
        format!("{} cannot be used: {why}; correct or remove it, and restart the node plugin", self.file.display())
    }
}

fn text(state: &State) -> String {
    let mut text = format!("{HEAD}\n");
    for (name, Notes { group, adding }) in state {
        text.extend(group.iter().map(|uuid| format!("group {name} {uuid}\n")));
        text.extend(adding.iter().map(|uuid| format!("disk {name} {uuid}\n")));
    }
    text
}

/// Parses the file, or returns the first invalid line.
fn parse(text: &str) -> Result<State, String> {
    let mut state = State::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let invalid = || line.to_owned();
        let [kind, name, uuid] = line.split(' ').collect::<Vec<_>>().try_into().map_err(|_| invalid())?;
        let notes = state.entry(name.to_owned()).or_default();
        match kind {
            "group" => notes.group = Some(uuid.parse().map_err(|_| invalid())?),
            "disk" => notes.adding.push(uuid.parse().map_err(|_| invalid())?),
            _ => return Err(invalid()),
        }
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::uuid;
    use super::*;

    #[test]
    fn notes_survive_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let notes = GroupNotes::open(folder.path());
        assert_eq!(notes.of("vg"), Ok((None, vec![])));
        let (one, two): (PvUuid, PvUuid) = (uuid("1"), uuid("2"));
        notes.begin("vg", one).unwrap();
        notes.begin("vg", two).unwrap();
        notes.begin("other", two).unwrap();
        assert_eq!(GroupNotes::open(folder.path()).of("vg"), Ok((None, vec![one, two])));
        notes.exists("vg", uuid("vg")).unwrap();
        notes.end("vg", one).unwrap();
        notes.end("vg", one).unwrap();
        for notes in [&notes, &GroupNotes::open(folder.path())] {
            assert_eq!(notes.of("vg"), Ok((Some(uuid("vg")), vec![two])));
            assert_eq!(notes.of("other"), Ok((None, vec![two])));
        }
    }

    #[test]
    fn without_a_usable_file_nothing_is_known() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["group vg x\n", "group vg\n", "what vg iCdcNV-Xnn6-CTAq-VGGi-yevS-3Z0i-Ad7ElT\n", "\0\0\0"] {
            fs::write(folder.path().join(FILE), text).unwrap();
            let notes = GroupNotes::open(folder.path());
            assert!(notes.of("vg").unwrap_err().contains("volume-groups cannot be used"), "{text:?}");
            assert!(notes.begin("vg", uuid("1")).is_err());
            assert_eq!(fs::read_to_string(folder.path().join(FILE)).unwrap(), text, "it is kept");
        }
        let blocked = folder.path().join("blocked");
        fs::write(&blocked, "not a folder").unwrap();
        assert!(GroupNotes::open(&blocked).begin("vg", uuid("1")).is_err());
    }

    #[test]
    fn the_oldest_disks_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let notes = GroupNotes::open(folder.path());
        for number in 0..=MOST {
            notes.begin("vg", uuid(&format!("x{number:03}"))).unwrap();
        }
        let (_, adding) = notes.of("vg").unwrap();
        assert_eq!((adding.len(), adding[0]), (MOST, uuid("x001")));
    }
}
