//! Finding one volume group on this host, and reporting it from its own devices alone.
//!
//! A name does not say which volume group is meant: a tenant can write one of any name into a raw block volume. So a
//! pool's volume group is looked for on the devices that cannot hold tenants' bytes (see [`crate::scan`]), and once it is
//! found it is the one with that UUID. lvm is shown its devices and no other.

use std::collections::BTreeSet;
use std::path::PathBuf;

use quarry_exec::Command;

use crate::host::{HostDevices, host_devices};
use crate::label::Label;
use crate::lookup::{Lookup, report};
use crate::scan::{Candidate, FIRST, LATER, Scan, candidates, scan};
use crate::settings::{Filter, Scope};
use crate::types::VolumeGroup;
use crate::{Error, vg_name_fits};

/// How often a report is repeated because it named physical volumes that had not been looked for.
const ROUNDS: usize = 4;

/// Finds one volume group, again and again.
pub struct Locator {
    name: String,
    archives: u32,
    known: tokio::sync::Mutex<Known>,
}

/// What the last look said, and what is known of the volume group since.
#[derive(Default)]
struct Known {
    /// None before the first look.
    looked: Option<Looked>,
    /// The volume group's UUID.
    uuid: Option<String>,
    /// The UUIDs of its physical volumes, as its last report named them.
    volumes: BTreeSet<String>,
}

/// One look through the devices of the host.
struct Looked {
    /// The count of disks that came or went, at that time.
    disks: u64,
    candidates: Vec<Candidate>,
    scan: Scan,
    host: HostDevices,
}

/// Where the volume group lies.
struct GroupLocation {
    /// Its name now.
    name: String,
    uuid: String,
    scope: Scope,
    /// Devices of it that the devices file does not list.
    unlisted: Vec<PathBuf>,
}

impl Locator {
    /// For the volume group of that name, of which lvm's archive is to keep that many files.
    pub fn new(name: impl Into<String>, archives: u32) -> Self {
        Self { name: name.into(), archives, known: tokio::sync::Mutex::default() }
    }

    /// The volume group as it is, from one lvm process that opens its devices alone.
    ///
    /// `disks` is a count of the disks that came or went: when it has risen, all devices are looked through anew.
    ///
    /// It takes the volume group's lock for reading: while a command that changes it hangs, a report hangs too, and is
    /// killed after 30 s.
    ///
    /// # Errors
    /// lvm could not be run or was killed, the name is not valid, or lvm's output is not a complete report. A missing
    /// volume group is an answer, not an error.
    pub async fn report(&self, disks: u64) -> Result<Lookup, Error> {
        if !vg_name_fits(&self.name) {
            return Err(Error::Argument(format!("`{}` is not a valid name of a volume group", self.name)));
        }
        let mut known = self.known.lock().await;
        let mut fresh = known.look_if_needed(disks).await?;
        let mut devices = None;
        for _ in 0..ROUNDS {
            let place = match known.place(&self.name, self.archives) {
                Ok(place) => place,
                Err(lookup) if fresh => return Ok(lookup),
                Err(_) => {
                    known.look(disks).await?;
                    fresh = true;
                    continue;
                }
            };
            if devices.as_ref() == Some(&place.scope.devices) {
                break;
            }
            let lookup = report(&place.scope, &place.name).await?;
            let whole = known.learn(&place, &lookup);
            if whole || (fresh && known.devices_of(&place.uuid) == place.scope.devices) {
                return Ok(finish(lookup, place, &known).await);
            }
            if !fresh {
                known.look(disks).await?;
                fresh = true;
            } else {
                devices = Some(place.scope.devices);
            }
        }
        Ok(Lookup::Unreadable("its physical volumes changed while they were read".to_owned()))
    }
}

impl Known {
    /// Looks through the devices where that was not done since one came or went; tells whether it was done.
    async fn look_if_needed(&mut self, disks: u64) -> Result<bool, Error> {
        let needed = match &self.looked {
            None => true,
            Some(looked) => looked.disks != disks || looked.candidates != list()?,
        };
        if needed {
            self.look(disks).await?;
        }
        Ok(needed)
    }

    async fn look(&mut self, disks: u64) -> Result<(), Error> {
        let candidates = list()?;
        let host = host_devices().await?;
        let patience = if self.looked.is_some() { LATER } else { FIRST };
        let mut scan = scan(&candidates, patience).await;
        if let Some(before) = &self.looked {
            // The same disk does not answer now: what it said before holds, and lvm is to say what is wrong with it.
            let same = |device: &PathBuf| {
                let of = |list: &[Candidate]| list.iter().find(|candidate| candidate.device == *device).cloned();
                scan.silent.contains(device) && of(&before.candidates) == of(&candidates)
            };
            let kept: Vec<_> = before.scan.labels.iter().filter(|(device, _)| same(device)).cloned().collect();
            scan.labels.extend(kept);
            scan.labels.sort_by(|one, other| one.0.cmp(&other.0));
        }
        self.looked = Some(Looked { disks, candidates, scan, host });
        Ok(())
    }

    fn labels(&self) -> &[(PathBuf, Label)] {
        self.looked.as_ref().map_or(&[], |looked| &looked.scan.labels)
    }

    fn silent(&self) -> &[PathBuf] {
        self.looked.as_ref().map_or(&[], |looked| &looked.scan.silent)
    }

    /// Where the volume group lies, or why that cannot be said.
    fn place(&self, name: &str, archives: u32) -> Result<GroupLocation, Lookup> {
        let uuid = self.which(name)?;
        let devices = self.devices_of(&uuid);
        let unlisted = self.unlisted(&uuid);
        if devices.is_empty() {
            return Err(Lookup::Unreadable(self.not_listed(&unlisted)));
        }
        let named = self.labels().iter().filter_map(|(_, label)| label.group.as_ref());
        let mut names = named.filter(|group| group.uuid == uuid).map(|group| group.name.as_str());
        let now = if names.clone().any(|found| found == name) { name } else { names.next().unwrap_or(name) };
        let scope = Scope { devices, filter: self.filter(), archives };
        Ok(GroupLocation { name: now.to_owned(), uuid, scope, unlisted })
    }

    /// The filter that names our devices. Where the host's lvm.conf sets both, `devices/global_filter` stays.
    fn filter(&self) -> Filter {
        match self.looked.as_ref().is_some_and(|looked| looked.host.global_filter) {
            true => Filter::Other,
            false => Filter::Global,
        }
    }

    /// The UUID of the volume group: the known one for as long as anything of it can be seen.
    fn which(&self, name: &str) -> Result<String, Lookup> {
        let groups = || self.labels().iter().filter_map(|(device, label)| Some((device, label.group.as_ref()?)));
        if let Some(uuid) = &self.uuid
            && groups().any(|(_, group)| group.uuid == *uuid)
        {
            return Ok(uuid.clone());
        }
        let named: BTreeSet<&str> =
            groups().filter(|(_, group)| group.name == name).map(|(_, group)| group.uuid.as_str()).collect();
        let mut found = named.iter();
        match (found.next(), found.next()) {
            (Some(only), None) => Ok((*only).to_owned()),
            (None, _) if self.silent().is_empty() => Err(Lookup::Missing),
            (None, _) => Err(Lookup::Unreadable(format!(
                "no readable disk holds it, and {} cannot be read now",
                join(self.silent())
            ))),
            _ => {
                let of = |uuid: &&str| {
                    let devices = groups().filter(|(_, group)| group.uuid == **uuid).map(|(device, _)| device.clone());
                    format!("{uuid} on {}", join(&devices.collect::<Vec<_>>()))
                };
                let each: Vec<String> = named.iter().map(of).collect();
                Err(Lookup::Unreadable(format!(
                    "there are {} volume groups of that name: {}; rename the one that does not belong to this pool \
                     (vgrename UUID NEW-NAME)",
                    named.len(),
                    each.join(", ")
                )))
            }
        }
    }

    /// Whether a label is of that volume group, by its own metadata or by the last report.
    fn is_of(&self, label: &Label, uuid: &str) -> bool {
        let reported = self.uuid.as_deref() == Some(uuid) && self.volumes.contains(&label.uuid);
        reported || label.group.as_ref().is_some_and(|group| group.uuid == uuid)
    }

    fn lists(&self, label: &Label) -> bool {
        let file = self.looked.as_ref().and_then(|looked| looked.host.file.as_ref());
        file.is_none_or(|file| file.lists(&label.uuid))
    }

    /// The devices of that volume group that the host lets lvm use.
    fn devices_of(&self, uuid: &str) -> Vec<PathBuf> {
        let ours = self.labels().iter().filter(|(_, label)| self.is_of(label, uuid) && self.lists(label));
        ours.map(|(device, _)| device.clone()).collect()
    }

    /// The devices of that volume group that the host's devices file keeps lvm off.
    fn unlisted(&self, uuid: &str) -> Vec<PathBuf> {
        let ours = self.labels().iter().filter(|(_, label)| self.is_of(label, uuid) && !self.lists(label));
        ours.map(|(device, _)| device.clone()).collect()
    }

    fn not_listed(&self, devices: &[PathBuf]) -> String {
        let file = self.looked.as_ref().and_then(|looked| looked.host.file.as_ref());
        let path = file.map_or_else(String::new, |file| format!(" {}", file.path.display()));
        format!(
            "{} is not in the devices file{path} of this host, so lvm does not use it; add it (lvmdevices --adddev \
             DEVICE)",
            join(devices)
        )
    }

    /// Remembers what a report said; tells whether it is the volume group, with all its disks.
    fn learn(&mut self, place: &GroupLocation, lookup: &Lookup) -> bool {
        let Lookup::Found(group) = lookup else { return false };
        if group.uuid != place.uuid {
            return false;
        }
        self.uuid = Some(group.uuid.clone());
        self.volumes = group.physical_volumes.iter().map(|volume| volume.uuid.clone()).collect();
        group.physical_volumes.iter().all(|volume| volume.device.is_some())
    }
}

/// Every physical volume of this host that the host lets lvm use, and that cannot hold tenants' bytes.
///
/// # Errors
/// lvm cannot be run, or the devices cannot be listed.
pub(crate) async fn every_disk() -> Result<Scope, Error> {
    let mut known = Known::default();
    known.look(0).await?;
    let listed = known.labels().iter().filter(|(_, label)| known.lists(label));
    let devices = listed.map(|(device, _)| device.clone()).collect();
    Ok(Scope { devices, filter: known.filter(), ..Scope::default() })
}

/// The candidates, with this crate's error type.
fn list() -> Result<Vec<Candidate>, Error> {
    candidates().map_err(|source| Error::Read {
        action: "list the devices in",
        path: PathBuf::from("/sys/block"),
        source,
    })
}

fn join(devices: &[PathBuf]) -> String {
    devices.iter().map(|device| device.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Adds to an answer why lvm does not use a disk of the volume group.
async fn finish(lookup: Lookup, place: GroupLocation, known: &Known) -> Lookup {
    match lookup {
        Lookup::Found(mut group) if group.uuid == place.uuid => {
            group.hidden = hidden(&group, &place, known).await;
            group.scope = place.scope;
            Lookup::Found(group)
        }
        Lookup::Found(group) => Lookup::Unreadable(format!(
            "its disks hold the volume group with UUID {}, but lvm reports UUID {}; see `vgs -o +vg_uuid`",
            place.uuid, group.uuid
        )),
        Lookup::Missing => match refused(&place.scope.devices, &place.scope).await {
            words if words.is_empty() => Lookup::Missing,
            words => Lookup::Unreadable(words.join("; ")),
        },
        Lookup::Unreadable(why) => Lookup::Unreadable(why),
    }
}

/// Why physical volumes that count as missing are not used though their devices are there.
async fn hidden(group: &VolumeGroup, place: &GroupLocation, known: &Known) -> Vec<String> {
    let lost = |device: &PathBuf| {
        let label = known.labels().iter().find(|(found, _)| found == device).map(|(_, label)| &label.uuid);
        let volume = group.physical_volumes.iter().find(|volume| Some(&volume.uuid) == label);
        volume.is_some_and(|volume| volume.device.is_none())
    };
    let unlisted: Vec<PathBuf> = place.unlisted.iter().filter(|device| lost(device)).cloned().collect();
    let mut why: Vec<String> = unlisted.is_empty().then(Vec::new).unwrap_or_else(|| vec![known.not_listed(&unlisted)]);
    let shown: Vec<PathBuf> = place.scope.devices.iter().filter(|device| lost(device)).cloned().collect();
    why.extend(refused(&shown, &place.scope).await);
    why
}

/// lvm's words on each of these devices, none of which it uses.
async fn refused(devices: &[PathBuf], scope: &Scope) -> Vec<String> {
    let mut why = Vec::new();
    for device in devices {
        let command = Command::query("lvm").subcommand("pvs").hidden_args(scope.settings()).arg(device);
        let words = match command.run().await {
            Ok(output) if output.success() => continue,
            Ok(output) => crate::error::one_line(&output.stderr),
            Err(error) => error.to_string(),
        };
        why.push(format!(
            "lvm does not use {}, which holds a part of the volume group: {words} (see devices/filter and \
             devices/global_filter in lvm.conf)",
            device.display()
        ));
    }
    why
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PhysicalVolume;
    use crate::host::testing::devices_file;
    use crate::label::GroupId;

    const A: &str = "aaaaaa-aaaa-aaaa-aaaa-aaaa-aaaa-aaaaaa";
    const B: &str = "bbbbbb-bbbb-bbbb-bbbb-bbbb-bbbb-bbbbbb";

    /// A physical volume: device, its UUID, and name and UUID of its group.
    type Volume<'a> = (&'a str, &'a str, Option<(&'a str, &'a str)>);

    /// A host with these physical volumes.
    fn host(volumes: &[Volume<'_>]) -> Known {
        let label = |(device, uuid, group): &Volume<'_>| {
            let group = group.map(|(name, uuid)| GroupId { name: name.to_owned(), uuid: uuid.to_owned() });
            (PathBuf::from(device), Label { uuid: (*uuid).to_owned(), group })
        };
        let scan = Scan { labels: volumes.iter().map(label).collect(), silent: Vec::new() };
        let looked = Looked { disks: 0, candidates: Vec::new(), scan, host: HostDevices::default() };
        Known { looked: Some(looked), ..Known::default() }
    }

    fn place(known: &Known) -> (String, String, Vec<String>) {
        let Ok(place) = known.place("vg0", 1) else { panic!("not found") };
        let devices = place.scope.devices.iter().map(|device| device.display().to_string()).collect();
        (place.name, place.uuid, devices)
    }

    fn unreadable(known: &Known) -> String {
        match known.place("vg0", 1) {
            Err(Lookup::Unreadable(why)) => why,
            Err(other) => panic!("{other:?}"),
            Ok(place) => panic!("{}", place.uuid),
        }
    }

    fn reported(uuid: &str, volumes: &[(&str, Option<&str>)]) -> Lookup {
        let volume = |(uuid, device): &(&str, Option<&str>)| PhysicalVolume {
            uuid: (*uuid).to_owned(),
            device: device.map(PathBuf::from),
            ..PhysicalVolume::default()
        };
        Lookup::Found(Box::new(VolumeGroup {
            name: "vg0".to_owned(),
            uuid: uuid.to_owned(),
            physical_volumes: volumes.iter().map(volume).collect(),
            ..VolumeGroup::default()
        }))
    }

    fn learn(known: &mut Known, lookup: &Lookup) -> bool {
        let Ok(place) = known.place("vg0", 1) else { panic!("not found") };
        known.learn(&place, lookup)
    }

    #[test]
    fn the_devices_are_those_of_one_group() {
        let known = host(&[
            ("/dev/vdb", "1", Some(("vg0", A))),
            ("/dev/vdc", "2", Some(("other", B))),
            ("/dev/vdd", "3", Some(("vg0", A))),
            ("/dev/vde", "4", None),
        ]);
        assert_eq!(place(&known), ("vg0".into(), A.into(), vec!["/dev/vdb".into(), "/dev/vdd".into()]));
        assert!(matches!(host(&[("/dev/vdc", "2", Some(("other", B)))]).place("vg0", 1), Err(Lookup::Missing)));
    }

    #[test]
    fn two_groups_of_the_name_are_an_error_until_one_is_known() {
        let both = [("/dev/vdb", "1", Some(("vg0", A))), ("/dev/vdc", "2", Some(("vg0", B)))];
        let mut known = host(&both);
        let why = unreadable(&known);
        for part in [A, B, "/dev/vdb", "/dev/vdc", "vgrename"] {
            assert!(why.contains(part), "{why}");
        }
        known.uuid = Some(A.to_owned());
        assert_eq!(place(&known).2, ["/dev/vdb"]);
        // Made anew by hand: the known one is nowhere, and the name is another's now.
        let mut anew = host(&both[1..]);
        anew.uuid = Some(A.to_owned());
        assert_eq!(place(&anew).1, B);
    }

    #[test]
    fn a_known_group_is_followed_when_it_is_renamed() {
        let mut known = host(&[("/dev/vdb", "1", Some(("new-name", A)))]);
        known.uuid = Some(A.to_owned());
        assert_eq!(place(&known), ("new-name".into(), A.into(), vec!["/dev/vdb".into()]));
    }

    #[test]
    fn physical_volumes_without_metadata_and_copies_come_by_their_uuid() {
        let mut known = host(&[
            ("/dev/vdb", "1", Some(("vg0", A))),
            ("/dev/vdc", "2", None),
            ("/dev/vdd", "1", Some(("vg0", A))),
            ("/dev/vde", "5", None),
        ]);
        assert_eq!(place(&known).2, ["/dev/vdb", "/dev/vdd"], "a copy is shown to lvm, which refuses to choose");
        // lvm says that the second physical volume is missing, and was not shown it.
        assert!(!learn(&mut known, &reported(A, &[("1", Some("/dev/vdb")), ("2", None)])));
        assert_eq!(place(&known).2, ["/dev/vdb", "/dev/vdc", "/dev/vdd"]);
        assert!(learn(&mut known, &reported(A, &[("1", Some("/dev/vdb")), ("2", Some("/dev/vdc"))])));
        // Taken out by hand (vgreduce): it is not opened any more.
        assert!(learn(&mut known, &reported(A, &[("1", Some("/dev/vdb"))])));
        assert_eq!(place(&known).2, ["/dev/vdb", "/dev/vdd"]);
        assert!(!learn(&mut known, &reported(B, &[("1", Some("/dev/vdb"))])), "another group");
        assert!(!learn(&mut known, &Lookup::Missing));
    }

    #[test]
    fn what_the_devices_file_does_not_list_is_not_opened() {
        let mut known = host(&[("/dev/vdb", "1-1", Some(("vg0", A))), ("/dev/vdc", "2-2", Some(("vg0", A)))]);
        let set = |known: &mut Known, text: &str| {
            if let Some(looked) = &mut known.looked {
                looked.host.file = Some(devices_file(text));
            }
        };
        set(&mut known, "IDTYPE=devname IDNAME=/dev/vdb DEVNAME=/dev/vdb PVID=11");
        assert_eq!(place(&known).2, ["/dev/vdb"]);
        assert_eq!(known.unlisted(A), [PathBuf::from("/dev/vdc")]);
        set(&mut known, "VERSION=1.1.1");
        let why = unreadable(&known);
        assert!(why.contains("/dev/vdb, /dev/vdc is not in the devices file /etc/lvm/devices/system.devices"), "{why}");
        assert!(!why.contains("does not exist"), "{why}");
    }

    #[test]
    fn absence_is_said_when_every_disk_has_answered() {
        let mut known = host(&[]);
        if let Some(looked) = &mut known.looked {
            looked.scan.silent.push(PathBuf::from("/dev/vdz"));
        }
        assert!(unreadable(&known).contains("/dev/vdz"));
    }
}
