//! Asking lvm about volume groups.

use std::time::Duration;

use quarry_exec::Command;

use crate::Error;
use crate::report::{COLUMNS, parse};
use crate::settings::Scope;
use crate::types::VolumeGroup;

/// A report that takes longer is killed: a command that changes the volume group hangs, or a disk of it does.
const DEADLINE: Duration = Duration::from_secs(30);

/// What a report found in place of one volume group's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// The volume group, completely.
    Found(Box<VolumeGroup>),
    /// Every disk was read, and no volume has that name.
    Missing,
    /// There may be one, but lvm did not open it: another host's, a lock manager's, one of two of the same name …
    /// lvm's words.
    Unreadable(String),
}

/// A report with everything that we read of volume groups, from the devices of `scope` alone.
pub(crate) fn full_report(scope: &Scope) -> Command {
    let mut command = Command::query("lvm").subcommand("fullreport").hidden_args(scope.settings());
    command = command.hidden_args(["--reportformat", "json", "--binary", "--units", "b", "--nosuffix", "--all"]);
    for (table, columns) in COLUMNS {
        command = command.hidden_args(["--configreport", table, "-o", columns]);
    }
    command
}

/// A consistent picture of one volume group, from one lvm process that opens the devices of `scope` alone.
pub(crate) async fn report(scope: &Scope, name: &str) -> Result<Lookup, Error> {
    let command = full_report(scope).deadline(DEADLINE).on(name);
    let output = command.arg(name).run().await?;
    let unusable = |source| Error::Report {
        command: output.command.clone(),
        source,
        stderr: crate::error::one_line(&output.stderr),
    };
    let found = parse(&output.stdout).map_err(unusable)?;
    Ok(sort_out(name, found, &output.stderr))
}

/// Finds in a report what was asked for. lvm ends with 5 for an exported volume group as for a missing one, so only its
/// words count.
fn sort_out(name: &str, found: Vec<VolumeGroup>, stderr: &str) -> Lookup {
    match found.into_iter().find(|group| group.name == name) {
        Some(mut group) => {
            name_duplicates(&mut group, stderr);
            Lookup::Found(Box::new(group))
        }
        None => absent(name, stderr),
    }
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
        return Lookup::Unreadable(format!("the metadata of some disks is damaged; see vgcfgrestore ({words})"));
    }
    if stderr.lines().any(|line| line.trim() == missing) {
        return Lookup::Missing;
    }
    let about: Vec<&str> = stderr.lines().map(str::trim).filter(|line| line.contains(name)).collect();
    let words = if about.is_empty() { stderr.trim().to_owned() } else { about.join("; ") };
    Lookup::Unreadable(if words.is_empty() { "lvm did not report it, and gave no reason".to_owned() } else { words })
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
        let group = || VolumeGroup { name: "c".to_owned(), ..VolumeGroup::default() };
        let found = |name: &str| sort_out(name, vec![group()], stderr);
        assert_eq!(found("a"), Lookup::Missing);
        let Lookup::Unreadable(words) = found("b") else { panic!("{:?}", found("b")) };
        assert_eq!(words, "Cannot access VG b with system ID other with local system ID this.");
        assert!(matches!(found("c"), Lookup::Found(group) if group.name == "c"));
        assert!(matches!(found("d"), Lookup::Unreadable(_)));
        // A name that is the beginning of another's.
        assert!(matches!(sort_out("a", vec![], "  Volume group \"ab\" not found"), Lookup::Unreadable(_)));
        assert!(matches!(sort_out("a", vec![], ""), Lookup::Unreadable(words) if !words.is_empty()));
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
        let report = sort_out("a", vec![group], stderr);
        let Lookup::Found(group) = report else { panic!("{report:?}") };
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
        let report = sort_out("a", vec![], stderr);
        assert!(matches!(&report, Lookup::Unreadable(words) if words.contains("/dev/vdb")), "{report:?}");
    }
}
