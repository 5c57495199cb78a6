//! What the disks cannot show about the volume groups that Quarry makes.
//!
//! A disk gets its label before it belongs to a volume group. If Quarry is killed in between, only this note
//! distinguishes the label from that of a disk that an operator took out of the volume group, or prepared for another
//! one. And if all disks of a volume group are gone, only this note shows that it existed: a second one of the same name
//! would be in its way when they come back.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use parking_lot::Mutex;
use quarry_lvm::{PvUuid, VgUuid};

use crate::lvm::state_file;

const FILE: &str = "volume-groups";
/// The first line of the file.
const HEAD: &str = "# Volume groups that Quarry makes of disks. \"group NAME UUID\": it exists. \"disk NAME UUID DISK\": a \
                    disk is being added to it.";
/// How many disks are remembered for a volume group: more than are added at once.
const MOST: usize = 256;

/// The notes about all volume groups. They are on the host's filesystem, and survive a boot.
///
/// Only one process has them at a time, and only that one makes volume groups: another one could take what this one is
/// doing for an interrupted attempt.
pub(crate) struct GroupNotes {
    file: PathBuf,
    /// `None` until they were read, which needs the lock.
    state: Mutex<Option<State>>,
}

/// The notes, with the lock on them.
struct State {
    groups: Groups,
    _lock: Flock<File>,
}

/// The notes by the names of the volume groups.
type Groups = BTreeMap<String, Notes>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Notes {
    /// The UUID of the volume group when it was last seen.
    group: Option<VgUuid>,
    /// The physical volumes that are being added, the oldest first.
    adding: Vec<Adding>,
}

/// A physical volume that is being added.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Adding {
    uuid: PvUuid,
    /// A name of its disk that does not change.
    disk: Option<String>,
}

impl GroupNotes {
    /// The notes in that folder. They are read when they are needed. Every function may block.
    pub(crate) fn open(folder: &Path) -> Arc<Self> {
        Arc::new(Self { file: folder.join(FILE), state: Mutex::new(None) })
    }

    /// The UUID of the volume group with that name when it was last seen, and the physical volumes that are being added
    /// to it.
    ///
    /// # Errors
    /// Another process has the notes, or the file cannot be used: what it says is not known.
    pub(super) fn of(&self, group: &str) -> Result<(Option<VgUuid>, Vec<PvUuid>), String> {
        let mut state = self.state.lock();
        let State { groups, .. } = self.read(&mut state)?;
        let uuids = |notes: &Notes| notes.adding.iter().map(|adding| adding.uuid).collect();
        Ok(groups.get(group).map(|notes| (notes.group, uuids(notes))).unwrap_or_default())
    }

    /// Notes that the volume group exists.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn exists(&self, group: &str, uuid: VgUuid) -> Result<(), String> {
        self.change(group, |notes| notes.group = Some(uuid))
    }

    /// Notes that a physical volume is about to be made. `disk`: a name of the disk that does not change, if it has one.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn begin(&self, group: &str, uuid: PvUuid, disk: Option<&str>) -> Result<(), String> {
        self.change(group, |notes| {
            notes.adding.push(Adding { uuid, disk: disk.map(str::to_owned) });
            let surplus = notes.adding.len().saturating_sub(MOST);
            notes.adding.drain(..surplus);
        })
    }

    /// Notes that physical volumes belong to the volume group, or do not exist. What was noted earlier about the same disks
    /// is obsolete as well: a power cut can undo an unflushed label, and then the disk gets another one.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn end(&self, group: &str, disks: &[PvUuid]) -> Result<(), String> {
        self.change(group, |notes| {
            let is_one = |adding: &Adding| disks.contains(&adding.uuid);
            let same: Vec<String> =
                notes.adding.iter().filter(|adding| is_one(adding)).filter_map(|adding| adding.disk.clone()).collect();
            let is_same = |adding: &Adding| adding.disk.as_ref().is_some_and(|disk| same.contains(disk));
            notes.adding.retain(|adding| !is_one(adding) && !is_same(adding));
        })
    }

    /// The path of the file.
    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    fn change(&self, group: &str, change: impl FnOnce(&mut Notes)) -> Result<(), String> {
        let mut state = self.state.lock();
        let state = self.read(&mut state)?;
        let mut next = state.groups.clone();
        change(next.entry(group.to_owned()).or_default());
        if next != state.groups {
            state_file::replace(&self.file, &text(&next)).map_err(|error| self.unusable(&error.to_string()))?;
            state.groups = next;
        }
        Ok(())
    }

    /// Takes the lock and reads the file, unless this process has done so.
    fn read<'a>(&self, state: &'a mut Option<State>) -> Result<&'a mut State, String> {
        if state.is_none() {
            let lock = self.take_lock()?;
            let groups = match fs::read_to_string(&self.file) {
                Ok(text) => parse(&text).map_err(|line| self.unusable(&format!("line {line:?} is invalid")))?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => Groups::new(),
                Err(error) => return Err(self.unusable(&error.to_string())),
            };
            *state = Some(State { groups, _lock: lock });
        }
        // It was just set.
        state.as_mut().ok_or_else(|| self.unusable("it was not read"))
    }

    /// Locks a file beside the notes, which are replaced with every change.
    fn take_lock(&self) -> Result<Flock<File>, String> {
        let path = self.file.with_extension("lock");
        let opened = fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))
            .and_then(|()| File::options().write(true).create(true).truncate(false).open(&path));
        let file = opened.map_err(|error| self.unusable(&format!("opening {}: {error}", path.display())))?;
        Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            Errno::EWOULDBLOCK => format!(
                "another process of Quarry makes the volume groups of this host: it holds the lock on {}",
                path.display()
            ),
            errno => self.unusable(&format!("locking {}: {errno}", path.display())),
        })
    }

    fn unusable(&self, why: &str) -> String {
        format!("{} cannot be used: {why}; correct or remove it", self.file.display())
    }
}

fn text(state: &Groups) -> String {
    let mut text = format!("{HEAD}\n");
    for (name, Notes { group, adding }) in state {
        text.extend(group.iter().map(|uuid| format!("group {name} {uuid}\n")));
        for Adding { uuid, disk } in adding {
            let disk = disk.as_ref().map_or_else(String::new, |disk| format!(" {disk}"));
            text += &format!("disk {name} {uuid}{disk}\n");
        }
    }
    text
}

/// Parses the file, or returns the first invalid line.
fn parse(text: &str) -> Result<Groups, String> {
    let mut state = Groups::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let invalid = || line.to_owned();
        match *line.split(' ').collect::<Vec<_>>() {
            ["group", name, uuid] => {
                state.entry(name.to_owned()).or_default().group = Some(uuid.parse().map_err(|_| invalid())?);
            }
            ["disk", name, uuid, ref disk @ ..] if disk.len() <= 1 => {
                let disk = disk.first().map(|disk| (*disk).to_owned());
                let adding = Adding { uuid: uuid.parse().map_err(|_| invalid())?, disk };
                state.entry(name.to_owned()).or_default().adding.push(adding);
            }
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
        notes.begin("vg", one, Some("virtio-d1")).unwrap();
        notes.begin("vg", two, None).unwrap();
        notes.begin("other", two, None).unwrap();
        drop(notes);
        let notes = GroupNotes::open(folder.path());
        assert_eq!(notes.of("vg"), Ok((None, vec![one, two])));
        notes.exists("vg", uuid("vg")).unwrap();
        notes.end("vg", &[one]).unwrap();
        notes.end("vg", &[one]).unwrap();
        assert_eq!(notes.of("vg"), Ok((Some(uuid("vg")), vec![two])));
        drop(notes);
        let notes = GroupNotes::open(folder.path());
        assert_eq!(notes.of("vg"), Ok((Some(uuid("vg")), vec![two])));
        assert_eq!(notes.of("other"), Ok((None, vec![two])));
    }

    #[test]
    fn only_one_process_has_the_notes() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (GroupNotes::open(folder.path()), GroupNotes::open(folder.path()));
        first.of("vg").unwrap();
        assert!(second.of("vg").unwrap_err().contains("another process"));
        assert!(second.begin("vg", uuid("1"), None).is_err());
        drop(first);
        second.begin("vg", uuid("1"), None).unwrap();
    }

    #[test]
    fn without_a_usable_file_nothing_is_known() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["group vg x\n", "group vg\n", "what vg iCdcNV-Xnn6-CTAq-VGGi-yevS-3Z0i-Ad7ElT\n", "\0\0\0"] {
            fs::write(folder.path().join(FILE), text).unwrap();
            let notes = GroupNotes::open(folder.path());
            assert!(notes.of("vg").unwrap_err().contains("volume-groups cannot be used"), "{text:?}");
            assert!(notes.begin("vg", uuid("1"), None).is_err());
            assert_eq!(fs::read_to_string(folder.path().join(FILE)).unwrap(), text, "it is kept");
        }
        let blocked = folder.path().join("blocked");
        fs::write(&blocked, "not a folder").unwrap();
        assert!(GroupNotes::open(&blocked).begin("vg", uuid("1"), None).is_err());
    }

    #[test]
    fn what_was_noted_earlier_about_the_same_disk_is_obsolete() {
        let folder = tempfile::tempdir().unwrap();
        let notes = GroupNotes::open(folder.path());
        for (label, disk) in [("1", Some("d1")), ("2", Some("d2")), ("3", None), ("4", Some("d1")), ("5", None)] {
            notes.begin("vg", uuid(label), disk).unwrap();
        }
        notes.end("vg", &[uuid("4"), uuid("5")]).unwrap();
        assert_eq!(
            notes.of("vg"),
            Ok((None, vec![uuid("2"), uuid("3")])),
            "an unnamed disk is not known to be the same"
        );
        drop(notes);
        let notes = GroupNotes::open(folder.path());
        notes.begin("vg", uuid("6"), Some("d2")).unwrap();
        notes.end("vg", &[uuid("6")]).unwrap();
        assert_eq!(notes.of("vg"), Ok((None, vec![uuid("3")])), "the name of the disk is in the file");
    }

    #[test]
    fn the_oldest_disks_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let notes = GroupNotes::open(folder.path());
        for number in 0..=MOST {
            notes.begin("vg", uuid(&format!("x{number:03}")), None).unwrap();
        }
        let (_, adding) = notes.of("vg").unwrap();
        assert_eq!((adding.len(), adding[0]), (MOST, uuid("x001")));
    }
}
