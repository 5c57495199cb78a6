//! Asking lvm about volume groups.

use std::collections::BTreeMap;
use std::time::Duration;

use quarry_exec::Command;

use crate::commands::settings;
use crate::report::{COLUMNS, parse};
use crate::types::VolumeGroup;
use crate::{Error, vg_name_fits};

/// What a report found in place of one volume group's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// The volume group, completely.
    Found(Box<VolumeGroup>),
    /// lvm looked at every disk it may look at, and there is none of that name.
    Missing,
    /// There may be one, but lvm did not open it: another host's, a lock manager's, one of two of the same name …
    /// lvm's words.
    Unreadable(String),
}

/// An answer for each volume group asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    groups: BTreeMap<String, Lookup>,
}

impl Report {
    /// What was found under that name; `Missing` for one that was not asked about.
    #[must_use]
    pub fn get(&self, name: &str) -> &Lookup {
        self.groups.get(name).unwrap_or(&Lookup::Missing)
    }
}

/// One consistent picture of the named volume groups, from one lvm process.
///
/// It takes each volume group's lock for reading: while a command that changes one hangs, a report about it hangs too,
/// and is killed after 30 s. Ask about one volume group at a time where another must not wait for it.
///
/// # Errors
/// lvm could not be run or was killed, a name is none, or what it wrote is no report or not whole. That a volume group
/// is missing is an answer, not an error.
pub async fn report(names: &[&str]) -> Result<Report, Error> {
    report_within(names, Duration::from_secs(30)).await
}

async fn report_within(names: &[&str], deadline: Duration) -> Result<Report, Error> {
    if names.is_empty() {
        // Without names lvm would report all there are, other people's included.
        return Ok(Report { groups: BTreeMap::new() });
    }
    if let Some(name) = names.iter().find(|name| !vg_name_fits(name)) {
        return Err(Error::Argument(format!("`{name}` cannot be the name of a volume group of ours")));
    }
    let mut command =
        Command::query("lvm").arg("fullreport").unshown(settings()).deadline(deadline).on(names.join(","));
    command = command.unshown(["--reportformat", "json", "--binary", "--units", "b", "--nosuffix", "--all"]);
    for (table, columns) in COLUMNS {
        command = command.unshown(["--configreport", table, "-o", columns]);
    }
    let output = command.args(names.iter().copied()).run().await?;
    let unusable = |source| Error::Report { command: output.command.clone(), source, stderr: output.stderr.clone() };
    let found = parse(&output.stdout).map_err(unusable)?;
    Ok(sort_out(names, found, &output.stderr))
}

/// Matches what was found with what was asked. lvm ends with 5 for an exported volume group as for a missing one, so
/// only its words count.
fn sort_out(names: &[&str], found: Vec<VolumeGroup>, stderr: &str) -> Report {
    let mut found: BTreeMap<String, VolumeGroup> = found.into_iter().map(|group| (group.name.clone(), group)).collect();
    let answer = |name: &&str| {
        let lookup = match found.remove(*name) {
            Some(mut group) => {
                name_duplicates(&mut group, stderr);
                Lookup::Found(Box::new(group))
            }
            None => absent(name, stderr),
        };
        ((*name).to_owned(), lookup)
    };
    Report { groups: names.iter().map(answer).collect() }
}

/// Takes from lvm's warnings which other devices hold a physical volume of the group. No column of the report says so: it
/// shows the one device that lvm prefers.
fn name_duplicates(group: &mut VolumeGroup, stderr: &str) {
    let unused = stderr.lines().filter_map(|line| {
        let (device, uuid) = line.trim().strip_prefix("WARNING: Not using device ")?.rsplit_once(" for PV ")?;
        Some((device, uuid.trim_end_matches('.')))
    });
    for (device, uuid) in unused {
        if let Some(pv) = group.physical_volumes.iter_mut().find(|pv| pv.uuid == uuid) {
            pv.duplicates.push(device.into());
        }
    }
}

fn absent(name: &str, stderr: &str) -> Lookup {
    let missing = format!("Volume group \"{name}\" not found");
    // Torn metadata (a power cut within lvm's own commit) makes lvm say "not found", too: whose it was is not known.
    let torn: Vec<&str> = stderr.lines().map(str::trim).filter(|line| is_torn(line)).collect();
    if !torn.is_empty() {
        let words = torn.join("; ");
        return Lookup::Unreadable(format!("there are disks whose metadata is damaged, see vgcfgrestore ({words})"));
    }
    if stderr.lines().any(|line| line.trim() == missing) {
        return Lookup::Missing;
    }
    let about: Vec<&str> = stderr.lines().map(str::trim).filter(|line| line.contains(name)).collect();
    let words = if about.is_empty() { stderr.trim().to_owned() } else { about.join("; ") };
    Lookup::Unreadable(if words.is_empty() { "lvm did not report it, and did not say why".to_owned() } else { words })
}

/// Whether lvm says that a disk's copy of the metadata is not what its header promises.
fn is_torn(line: &str) -> bool {
    line.contains("bad metadata") || line.contains("failed to read metadata summary")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PhysicalVolume;

    #[test]
    fn absence_must_be_said() {
        let stderr = "  Volume group \"a\" not found\n  Cannot process volume group a\n  \
                      Cannot access VG b with system ID other with local system ID this.";
        let group = VolumeGroup { name: "c".to_owned(), ..VolumeGroup::default() };
        let report = sort_out(&["a", "b", "c", "d"], vec![group], stderr);
        assert_eq!(report.get("a"), &Lookup::Missing);
        let Lookup::Unreadable(words) = report.get("b") else { panic!("{report:?}") };
        assert_eq!(words, "Cannot access VG b with system ID other with local system ID this.");
        assert!(matches!(report.get("c"), Lookup::Found(group) if group.name == "c"));
        assert!(matches!(report.get("d"), Lookup::Unreadable(_)));
        // A name that is the beginning of another's.
        assert!(matches!(sort_out(&["a"], vec![], "  Volume group \"ab\" not found").get("a"), Lookup::Unreadable(_)));
        assert!(matches!(sort_out(&["a"], vec![], "").get("a"), Lookup::Unreadable(words) if !words.is_empty()));
    }

    /// As lvm 2.03.11 and 2.03.16 put it.
    #[test]
    fn both_devices_of_a_duplicate_are_known() {
        let pv = |uuid: &str, device: &str| PhysicalVolume {
            uuid: uuid.to_owned(),
            device: Some(device.into()),
            ..PhysicalVolume::default()
        };
        let physical_volumes = vec![pv("aaaaaa-1", "/dev/vdb"), pv("bbbbbb-2", "/dev/vdc")];
        let group = VolumeGroup { name: "a".to_owned(), physical_volumes, ..VolumeGroup::default() };
        let stderr = "  WARNING: Not using device /dev/vdd for PV aaaaaa-1.\n  \
                      WARNING: Not using device /dev/vde for PV cccccc-3.\n  \
                      WARNING: PV aaaaaa-1 prefers device /dev/vdb because device is used by LV.";
        let report = sort_out(&["a"], vec![group], stderr);
        let Lookup::Found(group) = report.get("a") else { panic!("{report:?}") };
        assert_eq!(group.physical_volumes[0].duplicates, [std::path::PathBuf::from("/dev/vdd")]);
        assert!(group.physical_volumes[1].duplicates.is_empty());
    }

    /// As lvm 2.03.16 put it after a power cut that kept the header of its metadata and lost the text.
    #[test]
    fn torn_metadata_is_no_absence() {
        let stderr = "  WARNING: Checksum error on /dev/vdb at offset 4608.\n  \
                      WARNING: bad metadata text on /dev/vdb in mda1\n  \
                      WARNING: scanning /dev/vdb mda1 failed to read metadata summary.\n  \
                      Volume group \"a\" not found\n  Cannot process volume group a";
        let report = sort_out(&["a"], vec![], stderr);
        assert!(matches!(report.get("a"), Lookup::Unreadable(words) if words.contains("/dev/vdb")), "{report:?}");
    }
}
