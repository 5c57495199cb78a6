//! Finds one volume group on this host, and reports it using only its own devices.
//!
//! A name does not identify a volume group: a tenant can create one with any name in a raw block volume. So a
//! pool's volume group is searched for only on devices that cannot hold tenants' data (see [`crate::scan`]).
//! Once it is found, it is identified by its UUID. lvm gets access to its devices only.

use std::collections::BTreeSet;
use std::path::PathBuf;

use quarry_exec::Command;

use crate::host::{HostSettings, host_settings};
use crate::label::Label;
use crate::lookup::{Lookup, report};
use crate::scan::{Candidate, FIRST, LATER, Scan, candidates, scan};
use crate::settings::{Filter, Scope};
use crate::types::{PhysicalVolume, VolumeGroup};
use crate::{Error, PvUuid, VgUuid, vg_name_fits};

/// The maximum number of reports if each one names physical volumes that were not known before.
const ROUNDS: usize = 4;

/// Finds one volume group, and keeps track of it.
pub struct Locator {
    name: String,
    archives: u32,
    known: tokio::sync::Mutex<Known>,
}

/// The last scan, and what is known about the volume group since.
#[derive(Default)]
struct Known {
    /// `None` before the first scan.
    last_scan: Option<LastScan>,
    /// The volume group's UUID.
    uuid: Option<VgUuid>,
    /// The UUIDs that a volume group of that name had in earlier processes.
    used: BTreeSet<VgUuid>,
    /// Its physical volumes, from its last report.
    volumes: BTreeSet<PvUuid>,
}

/// One scan of the host's devices.
#[derive(Default)]
struct LastScan {
    /// The count of disks that appeared or disappeared, at that time.
    disks: u64,
    candidates: Vec<Candidate>,
    scan: Scan,
    host: HostSettings,
}

/// The devices of the volume group, and how to access them.
struct GroupLocation {
    /// Its current name.
    name: String,
    uuid: VgUuid,
    scope: Scope,
    /// Its devices that the devices file does not list.
    unlisted: Vec<PathBuf>,
}

impl Locator {
    /// For the volume group with that name; lvm's archive keeps `archives` files of it. `used`: the volume groups that
    /// earlier processes have found under that name.
    pub fn new(name: impl Into<String>, archives: u32, used: BTreeSet<VgUuid>) -> Self {
        let known = tokio::sync::Mutex::new(Known { used, ..Known::default() });
        Self { name: name.into(), archives, known }
    }

    /// The current state of the volume group, from one lvm process that opens only its devices.
    ///
    /// `disks` is a count of the disks that appeared or disappeared: if it has increased, all devices are
    /// scanned again.
    ///
    /// lvm takes the volume group's lock for reading: while a command that changes the group hangs, a report
    /// hangs, too, and is killed after 30 s.
    ///
    /// # Errors
    /// lvm could not be run or was killed, the name is invalid, or lvm's output is not a complete report. A
    /// missing volume group is a result, not an error.
    pub async fn report(&self, disks: u64) -> Result<Lookup, Error> {
        if !vg_name_fits(&self.name) {
            return Err(Error::Argument(format!("`{}` is not a valid name of a volume group", self.name)));
        }
        let mut known = self.known.lock().await;
        let mut fresh = known.scan_if_needed(disks).await?;
        let mut devices = None;
        for _ in 0..ROUNDS {
            let location = match known.locate(&self.name, self.archives) {
                Ok(location) => location,
                Err(lookup) if fresh => return Ok(lookup),
                Err(_) => {
                    known.scan_devices(disks).await?;
                    fresh = true;
                    continue;
                }
            };
            if devices.as_ref() == Some(&location.scope.devices) {
                break;
            }
            let lookup = report(&location.scope, &location.name).await?;
            let whole = known.remember(&location, &lookup);
            if whole || (fresh && known.devices_of(location.uuid) == location.scope.devices) {
                return Ok(finish(lookup, location, &known).await);
            }
            if !fresh {
                known.scan_devices(disks).await?;
                fresh = true;
            } else {
                devices = Some(location.scope.devices);
            }
        }
        Ok(Lookup::Unreadable("its physical volumes changed while they were read".to_owned()))
    }

    /// Whether this host has the same devices and settings of lvm as at the last report, so that the volume group can only
    /// be on the same devices. Lists them in sysfs. `disks` is as for [`Self::report`].
    pub async fn has_same_devices(&self, disks: u64) -> bool {
        let known = self.known.lock().await;
        known.last_scan.as_ref().is_some_and(|last_scan| last_scan.is_current(disks).unwrap_or(false))
    }
}

impl LastScan {
    /// Whether no device has appeared or disappeared since, and the host's settings are the same: a disk that a filter
    /// hides would be written off with the next change.
    fn is_current(&self, disks: u64) -> Result<bool, Error> {
        Ok(self.disks == disks && self.host.are_current() && self.candidates == list()?)
    }
}

impl Known {
    /// Scans the devices unless that was done since the last one appeared or disappeared. Returns whether it
    /// scanned.
    async fn scan_if_needed(&mut self, disks: u64) -> Result<bool, Error> {
        let needed = match &self.last_scan {
            None => true,
            Some(last_scan) => !last_scan.is_current(disks)?,
        };
        if needed {
            self.scan_devices(disks).await?;
        }
        Ok(needed)
    }

    async fn scan_devices(&mut self, disks: u64) -> Result<(), Error> {
        let candidates = list()?;
        let host = host_settings().await?;
        let patience = if self.last_scan.is_some() { LATER } else { FIRST };
        let mut scan = scan(&candidates, patience).await;
        if let Some(before) = &self.last_scan {
            // The same disk does not answer now: keep its previous label, so that lvm reports what is wrong
            // with it.
            let same = |device: &PathBuf| {
                let of = |list: &[Candidate]| list.iter().find(|candidate| candidate.device == *device).cloned();
                scan.unresponsive.contains(device) && of(&before.candidates) == of(&candidates)
            };
            let kept: Vec<_> = before.scan.labels.iter().filter(|(device, _)| same(device)).cloned().collect();
            scan.labels.extend(kept);
            scan.labels.sort_by(|one, other| one.0.cmp(&other.0));
        }
        self.last_scan = Some(LastScan { disks, candidates, scan, host });
        Ok(())
    }

    fn labels(&self) -> &[(PathBuf, Label)] {
        self.last_scan.as_ref().map_or(&[], |last_scan| &last_scan.scan.labels)
    }

    fn unresponsive(&self) -> &[PathBuf] {
        self.last_scan.as_ref().map_or(&[], |last_scan| &last_scan.scan.unresponsive)
    }

    /// The location of the volume group, or why it is unknown.
    fn locate(&self, name: &str, archives: u32) -> Result<GroupLocation, Lookup> {
        let uuid = self.group_uuid(name)?;
        let devices = self.devices_of(uuid);
        let unlisted = self.unlisted(uuid);
        if devices.is_empty() {
            return Err(Lookup::Unreadable(self.not_listed(&unlisted)));
        }
        let named = self.labels().iter().filter_map(|(_, label)| label.group.as_ref());
        let mut names = named.filter(|group| group.uuid == uuid).map(|group| group.name.as_str());
        let now = if names.clone().any(|found| found == name) { name } else { names.next().unwrap_or(name) };
        let locks = self.last_scan.as_ref().and_then(|last_scan| last_scan.host.locks.clone());
        let scope = Scope { subject: name.to_owned(), devices, filter: self.filter(), archives, locks };
        Ok(GroupLocation { name: now.to_owned(), uuid, scope, unlisted })
    }

    /// The filter for the group's devices.
    fn filter(&self) -> Filter {
        self.last_scan.as_ref().map_or_else(Filter::default, |last_scan| last_scan.host.our_filter())
    }

    /// The UUID of the volume group: the known one as long as any of its devices is visible.
    fn group_uuid(&self, name: &str) -> Result<VgUuid, Lookup> {
        let groups = || self.labels().iter().filter_map(|(device, label)| Some((device, label.group.as_ref()?)));
        if let Some(uuid) = self.uuid
            && groups().any(|(_, group)| group.uuid == uuid)
        {
            return Ok(uuid);
        }
        let named: BTreeSet<VgUuid> =
            groups().filter(|(_, group)| group.name == name).map(|(_, group)| group.uuid).collect();
        let one_of = |uuids: &BTreeSet<VgUuid>| uuids.iter().next().copied().filter(|_| uuids.len() == 1);
        // Another volume group of that name may be on a disk over a network, with the bytes of a tenant.
        let used = named.intersection(&self.used).copied().collect();
        if let Some(uuid) = one_of(&named).or_else(|| one_of(&used)) {
            return Ok(uuid);
        }
        match named.is_empty() {
            true if self.unresponsive().is_empty() => Err(Lookup::Missing),
            true => Err(Lookup::Unreadable(format!(
                "no readable disk holds it, and {} cannot be read now",
                join(self.unresponsive())
            ))),
            false => {
                let of = |uuid: &VgUuid| {
                    let devices = groups().filter(|(_, group)| group.uuid == *uuid).map(|(device, _)| device.clone());
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

    /// Whether a label belongs to that volume group, according to its own metadata or the last report.
    fn is_of(&self, label: &Label, uuid: VgUuid) -> bool {
        let reported = self.uuid == Some(uuid) && self.volumes.contains(&label.uuid);
        reported || label.group.as_ref().is_some_and(|group| group.uuid == uuid)
    }

    fn lists(&self, label: &Label) -> bool {
        let file = self.last_scan.as_ref().and_then(|last_scan| last_scan.host.file.as_ref());
        file.is_none_or(|file| file.lists(label.uuid))
    }

    /// The devices of that volume group that the host allows lvm to use.
    fn devices_of(&self, uuid: VgUuid) -> Vec<PathBuf> {
        let devices = self.labels().iter().filter(|(_, label)| self.is_of(label, uuid) && self.lists(label));
        devices.map(|(device, _)| device.clone()).collect()
    }

    /// The devices of that volume group that are not in the host's devices file.
    fn unlisted(&self, uuid: VgUuid) -> Vec<PathBuf> {
        let devices = self.labels().iter().filter(|(_, label)| self.is_of(label, uuid) && !self.lists(label));
        devices.map(|(device, _)| device.clone()).collect()
    }

    fn not_listed(&self, devices: &[PathBuf]) -> String {
        let file = self.last_scan.as_ref().and_then(|last_scan| last_scan.host.file.as_ref());
        let path = file.map_or_else(String::new, |file| format!(" {}", file.path.display()));
        format!(
            "{} is not in the devices file{path} of this host, so lvm does not use it; add it (lvmdevices --adddev \
             DEVICE)",
            join(devices)
        )
    }

    /// See [`every_disk`].
    fn every_disk(&self) -> (Scope, Vec<PathBuf>) {
        let listed = self.labels().iter().filter(|(_, label)| self.lists(label));
        let devices = listed.map(|(device, _)| device.clone()).collect();
        let failed = self.last_scan.as_ref().map_or(&[][..], |last_scan| &last_scan.scan.failed);
        let silent = self.unresponsive().iter().filter(|device| !failed.contains(device)).cloned();
        (Scope { devices, filter: self.filter(), ..Scope::default() }, silent.collect())
    }

    /// Notes in a report which missing physical volumes are on this host nevertheless, and which devices may hold them.
    fn mark_present(&self, group: &mut VolumeGroup) {
        let absent = |volume: &PhysicalVolume| volume.missing && volume.device.is_none();
        for volume in group.physical_volumes.iter_mut().filter(|volume| absent(volume)) {
            // The label of a device that does not answer is an earlier one.
            let readable = |(device, label): &&(PathBuf, Label)| {
                label.uuid == volume.uuid && !self.unresponsive().contains(device)
            };
            volume.hidden_at = self.labels().iter().find(readable).map(|(device, _)| device.clone());
        }
        let lost: Vec<PvUuid> =
            group.physical_volumes.iter().filter(|volume| absent(volume)).map(|pv| pv.uuid).collect();
        if lost.is_empty() {
            return;
        }
        let may_hold = |device: &&PathBuf| {
            let label = self.labels().iter().find(|(labelled, _)| labelled == *device);
            label.is_none_or(|(_, label)| lost.contains(&label.uuid))
        };
        let failed = self.last_scan.as_ref().map_or(&[][..], |last_scan| &last_scan.scan.failed);
        let candidates = self.unresponsive().iter().filter(may_hold).cloned();
        (group.failing, group.silent) = candidates.partition(|device| failed.contains(device));
    }

    /// Remembers the contents of a report. Returns whether it is the right volume group, with all its disks.
    fn remember(&mut self, location: &GroupLocation, lookup: &Lookup) -> bool {
        let Lookup::Found(group) = lookup else { return false };
        if group.uuid != location.uuid {
            return false;
        }
        self.uuid = Some(group.uuid);
        self.volumes = group.physical_volumes.iter().map(|volume| volume.uuid).collect();
        group.physical_volumes.iter().all(|volume| volume.device.is_some())
    }
}

/// Every physical volume of this host that the host allows lvm to use, and that cannot hold tenants' data. And the devices
/// that did not answer, which may be others.
///
/// # Errors
/// lvm cannot be run, or the devices cannot be listed.
pub(crate) async fn every_disk() -> Result<(Scope, Vec<PathBuf>), Error> {
    let mut known = Known::default();
    known.scan_devices(0).await?;
    Ok(known.every_disk())
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

/// Adds to a result why lvm does not use a disk of the volume group.
async fn finish(lookup: Lookup, location: GroupLocation, known: &Known) -> Lookup {
    match lookup {
        Lookup::Found(mut group) if group.uuid == location.uuid => {
            group.hidden = hidden(&group, &location, known).await;
            known.mark_present(&mut group);
            group.scope = location.scope;
            Lookup::Found(group)
        }
        Lookup::Found(group) => Lookup::Unreadable(format!(
            "its disks hold the volume group with UUID {}, but lvm reports UUID {}; see `vgs -o +vg_uuid`",
            location.uuid, group.uuid
        )),
        Lookup::Missing => match reasons_not_used(&location.scope.devices, &location.scope).await {
            reasons if reasons.is_empty() => Lookup::Missing,
            reasons => Lookup::Unreadable(reasons.join("; ")),
        },
        Lookup::Unreadable(why) => Lookup::Unreadable(why),
    }
}

/// Why physical volumes that count as missing are not used although their devices are present.
async fn hidden(group: &VolumeGroup, location: &GroupLocation, known: &Known) -> Vec<String> {
    let lost = |device: &PathBuf| {
        let label = known.labels().iter().find(|(found, _)| found == device).map(|(_, label)| &label.uuid);
        let volume = group.physical_volumes.iter().find(|volume| Some(&volume.uuid) == label);
        volume.is_some_and(|volume| volume.device.is_none())
    };
    let unlisted: Vec<PathBuf> = location.unlisted.iter().filter(|device| lost(device)).cloned().collect();
    let mut why: Vec<String> = unlisted.is_empty().then(Vec::new).unwrap_or_else(|| vec![known.not_listed(&unlisted)]);
    let shown: Vec<PathBuf> = location.scope.devices.iter().filter(|device| lost(device)).cloned().collect();
    why.extend(reasons_not_used(&shown, &location.scope).await);
    why
}

/// lvm's reasons for not using each of these devices.
async fn reasons_not_used(devices: &[PathBuf], scope: &Scope) -> Vec<String> {
    let mut why = Vec::new();
    for device in devices {
        let command = Command::query("lvm").subcommand("pvs").hidden_args(scope.settings()).arg(device);
        let message = match command.run().await {
            Ok(output) if output.success() => continue,
            Ok(output) => crate::error::one_line(&output.stderr),
            Err(error) => error.to_string(),
        };
        why.push(format!(
            "lvm does not use {}, which holds a part of the volume group: {message} (see devices/filter and \
             devices/global_filter in lvm.conf)",
            device.display()
        ));
    }
    why
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::devices_file;
    use crate::label::GroupId;
    use crate::uuid::testing::uuid;

    const A: &str = "aaaaaa-aaaa-aaaa-aaaa-aaaa-aaaa-aaaaaa";
    const B: &str = "bbbbbb-bbbb-bbbb-bbbb-bbbb-bbbb-bbbbbb";

    /// A physical volume: its device, the beginning of its UUID, and name and UUID of its group.
    type Volume<'a> = (&'a str, &'a str, Option<(&'a str, &'a str)>);

    /// A host with these physical volumes.
    fn host(volumes: &[Volume<'_>]) -> Known {
        let label = |(device, label, group): &Volume<'_>| {
            let group = group.map(|(name, label)| GroupId { name: name.to_owned(), uuid: uuid(label) });
            (PathBuf::from(device), Label { uuid: uuid(label), group, used: true })
        };
        let scan = Scan { labels: volumes.iter().map(label).collect(), ..Scan::default() };
        let last_scan = LastScan { scan, ..LastScan::default() };
        Known { last_scan: Some(last_scan), ..Known::default() }
    }

    fn location(known: &Known) -> (String, String, Vec<String>) {
        let Ok(location) = known.locate("vg0", 1) else { panic!("not found") };
        let devices = location.scope.devices.iter().map(|device| device.display().to_string()).collect();
        (location.name, location.uuid.to_string(), devices)
    }

    fn unreadable(known: &Known) -> String {
        match known.locate("vg0", 1) {
            Err(Lookup::Unreadable(why)) => why,
            Err(other) => panic!("{other:?}"),
            Ok(location) => panic!("{}", location.uuid),
        }
    }

    fn reported(group: &str, volumes: &[(&str, Option<&str>)]) -> Lookup {
        let volume = |(label, device): &(&str, Option<&str>)| PhysicalVolume {
            uuid: uuid(label),
            device: device.map(PathBuf::from),
            ..PhysicalVolume::default()
        };
        Lookup::Found(Box::new(VolumeGroup {
            name: "vg0".to_owned(),
            uuid: uuid(group),
            physical_volumes: volumes.iter().map(volume).collect(),
            ..VolumeGroup::default()
        }))
    }

    fn remember(known: &mut Known, lookup: &Lookup) -> bool {
        let Ok(location) = known.locate("vg0", 1) else { panic!("not found") };
        known.remember(&location, lookup)
    }

    #[test]
    fn only_the_groups_own_devices_are_used() {
        let known = host(&[
            ("/dev/vdb", "1", Some(("vg0", A))),
            ("/dev/vdc", "2", Some(("other", B))),
            ("/dev/vdd", "3", Some(("vg0", A))),
            ("/dev/vde", "4", None),
        ]);
        assert_eq!(location(&known), ("vg0".into(), A.into(), vec!["/dev/vdb".into(), "/dev/vdd".into()]));
        assert!(matches!(host(&[("/dev/vdc", "2", Some(("other", B)))]).locate("vg0", 1), Err(Lookup::Missing)));
    }

    #[test]
    fn two_groups_with_the_same_name_are_an_error_until_one_is_known() {
        let both = [("/dev/vdb", "1", Some(("vg0", A))), ("/dev/vdc", "2", Some(("vg0", B)))];
        let mut known = host(&both);
        let why = unreadable(&known);
        for part in [A, B, "/dev/vdb", "/dev/vdc", "vgrename"] {
            assert!(why.contains(part), "{why}");
        }
        // An earlier process has used one of them.
        known.used = BTreeSet::from([uuid(A), uuid("c")]);
        assert_eq!(location(&known).2, ["/dev/vdb"]);
        known.used = BTreeSet::from([uuid(A), uuid(B)]);
        assert_eq!(unreadable(&known), why, "both were used");
        known.used.clear();
        known.uuid = Some(uuid(A));
        assert_eq!(location(&known).2, ["/dev/vdb"]);
        // It was created again by hand: the known one does not exist any more, and the name belongs to a new
        // one.
        let mut anew = host(&both[1..]);
        anew.used.insert(uuid(A));
        assert_eq!(location(&anew).1, B);
        anew.uuid = Some(uuid(A));
        assert_eq!(location(&anew).1, B);
    }

    #[test]
    fn a_known_group_is_followed_when_it_is_renamed() {
        let mut known = host(&[("/dev/vdb", "1", Some(("new-name", A)))]);
        known.uuid = Some(uuid(A));
        assert_eq!(location(&known), ("new-name".into(), A.into(), vec!["/dev/vdb".into()]));
        let mut restarted = host(&[("/dev/vdb", "1", Some(("new-name", A)))]);
        restarted.used.insert(uuid(A));
        assert!(matches!(restarted.locate("vg0", 1), Err(Lookup::Missing)), "the configuration has a name");
        // The pool knows its commands by the name in the configuration.
        let Ok(location) = known.locate("vg0", 1) else { panic!("not found") };
        let group = VolumeGroup { name: location.name, scope: location.scope, ..VolumeGroup::default() };
        assert_eq!(crate::mutation::Mutation::new("lvremove", &group).subject(), "vg0");
    }

    #[test]
    fn physical_volumes_without_metadata_and_copies_are_found_by_uuid() {
        let mut known = host(&[
            ("/dev/vdb", "1", Some(("vg0", A))),
            ("/dev/vdc", "2", None),
            ("/dev/vdd", "1", Some(("vg0", A))),
            ("/dev/vde", "5", None),
        ]);
        assert_eq!(
            location(&known).2,
            ["/dev/vdb", "/dev/vdd"],
            "lvm gets access to a copy, and refuses to use either"
        );
        // lvm reports that the second physical volume is missing, because it had no access to it.
        assert!(!remember(&mut known, &reported(A, &[("1", Some("/dev/vdb")), ("2", None)])));
        assert_eq!(location(&known).2, ["/dev/vdb", "/dev/vdc", "/dev/vdd"]);
        assert!(remember(&mut known, &reported(A, &[("1", Some("/dev/vdb")), ("2", Some("/dev/vdc"))])));
        // It was removed by hand (vgreduce), so it is not opened any more.
        assert!(remember(&mut known, &reported(A, &[("1", Some("/dev/vdb"))])));
        assert_eq!(location(&known).2, ["/dev/vdb", "/dev/vdd"]);
        assert!(!remember(&mut known, &reported(B, &[("1", Some("/dev/vdb"))])), "another group");
        assert!(!remember(&mut known, &Lookup::Missing));
    }

    #[test]
    fn unlisted_devices_are_not_opened() {
        let mut known = host(&[("/dev/vdb", "1-1", Some(("vg0", A))), ("/dev/vdc", "2-2", Some(("vg0", A)))]);
        let set = |known: &mut Known, text: &str| {
            if let Some(last_scan) = &mut known.last_scan {
                last_scan.host.file = Some(devices_file(text));
            }
        };
        set(&mut known, "IDTYPE=devname IDNAME=/dev/vdb DEVNAME=/dev/vdb PVID=11000000000000000000000000000000");
        assert_eq!(location(&known).2, ["/dev/vdb"]);
        assert_eq!(known.unlisted(uuid(A)), [PathBuf::from("/dev/vdc")]);
        set(&mut known, "VERSION=1.1.1");
        let why = unreadable(&known);
        assert!(why.contains("/dev/vdb, /dev/vdc is not in the devices file /etc/lvm/devices/system.devices"), "{why}");
        assert!(!why.contains("does not exist"), "{why}");
    }

    #[test]
    fn a_device_that_does_not_answer_may_be_a_physical_volume() {
        let mut known = host(&[("/dev/vdb", "1", Some(("vg0", A))), ("/dev/vdc", "2", Some(("other", B)))]);
        if let Some(last_scan) = &mut known.last_scan {
            last_scan.scan.unresponsive.extend(["/dev/vdy", "/dev/vdz"].map(PathBuf::from));
            // It has answered, with an error.
            last_scan.scan.failed.push(PathBuf::from("/dev/vdy"));
        }
        let (scope, unresponsive) = known.every_disk();
        assert_eq!(scope.devices, ["/dev/vdb", "/dev/vdc"].map(PathBuf::from));
        assert_eq!(unresponsive, [PathBuf::from("/dev/vdz")]);
    }

    #[test]
    fn a_disk_that_is_there_is_not_lost() {
        let volumes = [("/dev/vdb", "1", Some(("vg0", A))), ("/dev/vdc", "2", None), ("/dev/vdd", "9", None)];
        let report = || match reported(A, &[("1", Some("/dev/vdb")), ("2", None), ("3", None)]) {
            Lookup::Found(mut group) => {
                group.physical_volumes.iter_mut().for_each(|volume| volume.missing = volume.device.is_none());
                group
            }
            other => panic!("{other:?}"),
        };
        let marked = |known: &Known| {
            let mut group = report();
            known.mark_present(&mut group);
            group
        };
        let paths = |devices: &[&str]| devices.iter().map(PathBuf::from).collect::<Vec<_>>();
        let mut known = host(&volumes);
        let group = marked(&known);
        let hidden_at: Vec<_> = group.physical_volumes.iter().map(|volume| volume.hidden_at.clone()).collect();
        assert_eq!(hidden_at, [None, Some("/dev/vdc".into()), None]);
        assert!(group.silent.is_empty() && group.failing.is_empty());
        // It stopped answering. So did one without a known label, one that holds something else, and one with errors.
        if let Some(last_scan) = &mut known.last_scan {
            last_scan.scan.unresponsive.extend(paths(&["/dev/vdc", "/dev/vdd", "/dev/vdy", "/dev/vdz"]));
            last_scan.scan.failed.extend(paths(&["/dev/vdy"]));
        }
        let group = marked(&known);
        assert!(group.physical_volumes.iter().all(|volume| volume.hidden_at.is_none()));
        assert_eq!((group.silent, group.failing), (paths(&["/dev/vdc", "/dev/vdz"]), paths(&["/dev/vdy"])));
        // Nothing is missing.
        let Lookup::Found(mut whole) = reported(A, &[("1", Some("/dev/vdb"))]) else { panic!() };
        known.mark_present(&mut whole);
        assert!(whole.silent.is_empty() && whole.failing.is_empty());
    }

    #[test]
    fn a_group_is_missing_only_if_every_disk_has_answered() {
        let mut known = host(&[]);
        if let Some(last_scan) = &mut known.last_scan {
            last_scan.scan.unresponsive.push(PathBuf::from("/dev/vdz"));
        }
        assert!(unreadable(&known).contains("/dev/vdz"));
    }
}
