//! Queries about volume groups.

use std::time::Duration;

use quarry_exec::Command;

use crate::report::{COLUMNS, parse};
use crate::settings::Scope;
use crate::types::VolumeGroup;
use crate::{Error, PvUuid};

/// A report that takes longer is killed: a command that changes the volume group hangs, or one of its disks
/// does.
const DEADLINE: Duration = Duration::from_secs(30);

/// The result of a report about the volume group with one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// The complete volume group.
    Found(Box<VolumeGroup>),
    /// Every disk was read, and no volume group has that name.
    Missing,
    /// There may be one, but lvm did not open it: it is another host's, has a lock manager, is one of two
    /// with the same name … Contains lvm's messages.
    Unreadable(String),
}

/// A command that reports everything that Quarry needs about volume groups, from the devices of `scope` only.
pub(crate) fn full_report(scope: &Scope) -> Command {
    let mut command = Command::query("lvm").subcommand("fullreport").hidden_args(scope.settings());
    command = command.hidden_args(["--reportformat", "json", "--binary", "--units", "b", "--nosuffix", "--all"]);
    for (table, columns) in COLUMNS {
        command = command.hidden_args(["--configreport", table, "-o", columns]);
    }
    command
}

/// A consistent report of one volume group, from one lvm process that opens only the devices of `scope`.
pub(crate) async fn report(scope: &Scope, name: &str) -> Result<Lookup, Error> {
    let command = full_report(scope).deadline(DEADLINE).on(&scope.subject);
    let output = command.arg(name).run().await?;
    let unusable = |source| Error::Report {
        command: output.command.clone(),
        source,
        stderr: crate::error::one_line(&output.stderr),
    };
    let found = parse(&output.stdout).map_err(unusable)?;
    Ok(select_group(name, found, &output.stderr))
}

/// Finds the requested volume group in a report. lvm exits with 5 both for an exported and for a missing
/// volume group, so only its messages count.
fn select_group(name: &str, found: Vec<VolumeGroup>, stderr: &str) -> Lookup {
    match found.into_iter().find(|group| group.name == name) {
        Some(mut group) => {
            record_duplicates(&mut group, stderr);
            Lookup::Found(Box::new(group))
        }
        None => explain_absence(name, stderr),
    }
}

/// Reads from lvm's warnings which other devices hold a physical volume of the group. No column of the report
/// has that: it shows only the device that lvm prefers.
fn record_duplicates(group: &mut VolumeGroup, stderr: &str) {
    let unused = stderr.lines().filter_map(|line| {
        let (device, uuid) = line.trim().strip_prefix("WARNING: Not using device ")?.rsplit_once(" for PV ")?;
        Some((device, uuid.trim_end_matches('.').parse::<PvUuid>().ok()?))
    });
    for (device, uuid) in unused {
        if let Some(pv) = group.physical_volumes.iter_mut().find(|pv| pv.uuid == uuid) {
            pv.duplicates.push(device.into());
        }
    }
}

fn explain_absence(name: &str, stderr: &str) -> Lookup {
    let missing = format!("Volume group \"{name}\" not found");
    // After torn metadata (a power cut during lvm's own commit), lvm also says "not found", but it is unknown
    // whose metadata it was.
    let torn: Vec<&str> = stderr.lines().map(str::trim).filter(|line| is_torn(line)).collect();
    if !torn.is_empty() {
        let messages = torn.join("; ");
        return Lookup::Unreadable(format!("the metadata of some disks is damaged; see vgcfgrestore ({messages})"));
    }
    if stderr.lines().any(|line| line.trim() == missing) {
        return Lookup::Missing;
    }
    let about: Vec<&str> = stderr.lines().map(str::trim).filter(|line| line.contains(name)).collect();
    let messages = if about.is_empty() { stderr.trim().to_owned() } else { about.join("; ") };
    Lookup::Unreadable(if messages.is_empty() {
        "lvm did not report it, and gave no reason".to_owned()
    } else {
        messages
    })
}

/// Whether lvm says that a disk's copy of the metadata does not match its header.
fn is_torn(line: &str) -> bool {
    line.contains("bad metadata") || line.contains("failed to read metadata summary")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PhysicalVolume;
    use crate::uuid::testing::uuid;

    #[test]
    fn a_group_is_missing_only_if_lvm_says_so() {
        let stderr = "  Volume group \"a\" not found\n  Cannot process volume group a\n  \
                      Cannot access VG b with system ID other with local system ID this.";
        let group = || VolumeGroup { name: "c".to_owned(), ..VolumeGroup::default() };
        let found = |name: &str| select_group(name, vec![group()], stderr);
        assert_eq!(found("a"), Lookup::Missing);
        let Lookup::Unreadable(messages) = found("b") else { panic!("{:?}", found("b")) };
        assert_eq!(messages, "Cannot access VG b with system ID other with local system ID this.");
        assert!(matches!(found("c"), Lookup::Found(group) if group.name == "c"));
        assert!(matches!(found("d"), Lookup::Unreadable(_)));
        // A name that is a prefix of another one.
        assert!(matches!(select_group("a", vec![], "  Volume group \"ab\" not found"), Lookup::Unreadable(_)));
        assert!(matches!(select_group("a", vec![], ""), Lookup::Unreadable(messages) if !messages.is_empty()));
    }

    /// The messages of lvm 2.03.11 and 2.03.16.
    #[test]
    fn both_devices_of_a_duplicate_are_recorded() {
        let pv = |label: &str, device: &str| PhysicalVolume {
            uuid: uuid(label),
            device: Some(device.into()),
            ..PhysicalVolume::default()
        };
        let physical_volumes = vec![pv("a", "/dev/vdb"), pv("b", "/dev/vdc")];
        let group = VolumeGroup { name: "a".to_owned(), physical_volumes, ..VolumeGroup::default() };
        let (first, other): (PvUuid, PvUuid) = (uuid("a"), uuid("c"));
        let stderr = format!(
            "  WARNING: Not using device /dev/vdd for PV {first}.\n  WARNING: Not using device /dev/vde for PV \
             {other}.\n  WARNING: PV {first} prefers device /dev/vdb because device is used by LV."
        );
        let report = select_group("a", vec![group], &stderr);
        let Lookup::Found(group) = report else { panic!("{report:?}") };
        assert_eq!(group.physical_volumes[0].duplicates, [std::path::PathBuf::from("/dev/vdd")]);
        assert!(group.physical_volumes[1].duplicates.is_empty());
    }

    /// The messages of lvm 2.03.16 after a power cut that kept the header of its metadata and lost the text.
    #[test]
    fn torn_metadata_does_not_count_as_missing() {
        let stderr = "  WARNING: Checksum error on /dev/vdb at offset 4608.\n  \
                      WARNING: bad metadata text on /dev/vdb in mda1\n  \
                      WARNING: scanning /dev/vdb mda1 failed to read metadata summary.\n  \
                      Volume group \"a\" not found\n  Cannot process volume group a";
        let report = select_group("a", vec![], stderr);
        assert!(matches!(&report, Lookup::Unreadable(messages) if messages.contains("/dev/vdb")), "{report:?}");
    }
}
