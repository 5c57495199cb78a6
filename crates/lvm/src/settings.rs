//! The lvm settings for Quarry's commands, and the devices that they may open.
//!
//! lvm reads the host's lvm.conf, which may contain anything. All settings that affect Quarry's parsing or
//! guarantees are pinned here, so that no line of that file changes what Quarry reads or does. Decisions of
//! the host are kept: which devices lvm may use (`devices/filter`, `devices/global_filter`, the devices
//! file), which volumes it may activate (`activation/volume_list`, `read_only_volume_list`), the system ID,
//! locks and lock managers, tuning of activation, whether the space of removed volumes is discarded
//! (`devices/issue_discards`), and where archives and backups of metadata are kept.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::udev;

/// How many files of a volume group lvm's archive keeps, unless the pool's configuration sets another number.
pub const ARCHIVES: u32 = 100;

/// Settings for every command, whatever lvm.conf says.
const PINNED: &[(&str, &str)] = &[
    // An older lvm does not know every key here. It prints a warning for each, or stops if lvm.conf sets
    // `abort_on_errors`.
    ("config/checks", "0"),
    ("config/abort_on_errors", "0"),
    // With one of these, a command succeeds without doing anything.
    ("global/test", "0"),
    ("global/activation", "1"),
    // Numbers in bytes, without a unit.
    ("global/units", "\"b\""),
    ("global/si_unit_consistency", "1"),
    ("global/suffix", "0"),
    // No messages between the lines of a report, none in another format, and all of them when a command
    // fails.
    ("log/verbose", "0"),
    ("log/silent", "0"),
    ("log/level", "0"),
    ("log/indent", "0"),
    ("log/prefix", "\"  \""),
    ("log/command_names", "0"),
    ("log/debug_classes", "[]"),
    ("log/report_command_log", "0"),
    // A log file would be written where Quarry runs, perhaps in a container, and writing to it may hang while
    // devices are suspended.
    ("log/file", "\"/dev/null\""),
    ("log/activation", "0"),
    // The format of reports.
    ("report/output_format", "\"basic\""),
    ("report/compact_output", "0"),
    ("report/compact_output_cols", "\"\""),
    ("report/aligned", "1"),
    ("report/buffered", "1"),
    ("report/headings", "1"),
    ("report/separator", "\" \""),
    ("report/list_item_separator", "\",\""),
    ("report/prefixes", "0"),
    ("report/quoted", "1"),
    ("report/columns_as_rows", "0"),
    ("report/binary_values_as_numeric", "1"),
    ("report/time_format", "\"%s\""),
    ("report/mark_hidden_devices", "1"),
    ("report/two_word_unknown_device", "0"),
    // A column that lvm does not know aborts a report.
    ("report/vgs_sort_full", "\"vg_name\""),
    ("report/pvs_sort_full", "\"pv_name\""),
    ("report/lvs_sort_full", "\"vg_name,lv_name\""),
    ("report/pvsegs_sort_full", "\"pv_uuid,pvseg_start\""),
    ("report/segs_sort_full", "\"lv_uuid,seg_start\""),
    ("report/vgs_cols_full", "\"vg_name\""),
    ("report/pvs_cols_full", "\"pv_name\""),
    ("report/lvs_cols_full", "\"lv_name\""),
    ("report/pvsegs_cols_full", "\"pvseg_start\""),
    ("report/segs_cols_full", "\"segtype\""),
    // Devices are selected by the filter that is passed together with these settings. lvm would rewrite the devices
    // file if the host name looked different to it.
    ("devices/dir", "\"/dev\""),
    ("devices/scan", "[\"/dev\"]"),
    ("devices/use_devicesfile", "0"),
    ("devices/device_ids_refresh", "0"),
    ("devices/scan_lvs", "0"),
    // Where the extents of a new physical volume begin: aligned to 1 MiB, or to what its disk prefers.
    ("devices/data_alignment", "0"),
    ("devices/default_data_alignment", "1"),
    ("devices/data_alignment_detection", "1"),
    ("devices/data_alignment_offset_detection", "1"),
    ("devices/md_chunk_alignment", "1"),
    // If two devices have the same physical volume, the operator decides which is the right one.
    ("devices/allow_changes_with_duplicate_pvs", "0"),
    // A new volume is hidden from udev until lvm has wiped it. That must find all signatures, in the metadata
    // of a raid as well.
    ("allocation/use_blkid_wiping", "1"),
    ("allocation/wipe_signatures_when_zeroing_new_lvs", "1"),
    ("allocation/zero_metadata", "1"),
    // lvm would start dmeventd where Quarry runs, in the container, where it ends with Quarry. Everything
    // that it would report about a raid is in the report. A host that runs dmeventd itself monitors the
    // volumes from the next boot on.
    ("activation/monitoring", "0"),
    // This flag shows that a creation was interrupted.
    ("activation/auto_set_activation_skip", "1"),
    ("activation/retry_deactivation", "1"),
    ("activation/use_linear_target", "1"),
    // Quarry itself watches and extends thin pools. From this percentage on, lvm would create no thin volumes.
    ("activation/thin_pool_autoextend_threshold", "100"),
    // Removed volumes would stay in the metadata until its area is full.
    ("metadata/record_lvs_history", "0"),
    // Every physical volume has the metadata, and keeps it.
    ("metadata/pvmetadatacopies", "1"),
    ("metadata/pvmetadataignore", "0"),
    ("metadata/vgmetadatacopies", "0"),
];

/// Where udevd does not run, lvm makes the device nodes itself.
const WITHOUT_UDEV: &[(&str, &str)] = &[("activation/udev_sync", "0"), ("activation/udev_rules", "0")];

/// The same for a command that only loads a new table into a device. It makes no nodes, and the host's udevd, which
/// may have made links to the device, keeps them. Without its rules, it would remove them.
const WITHOUT_WAITING: &[(&str, &str)] = &[("activation/udev_sync", "0"), ("activation/udev_rules", "1")];

/// Hints would leave out a disk that failed when they were written.
const WITHOUT_HINTS: &[(&str, &str)] = &[("devices/hints", "\"none\"")];

/// For a command that makes a disk a physical volume, or a part of a volume group: it drops the hints. With old ones, the
/// commands that an operator types would not see the disk.
const WITH_HINTS: &[(&str, &str)] = &[("devices/hints", "\"all\"")];

/// For a command that is run again because lvm could not write its archive.
const WITHOUT_ARCHIVE: &[(&str, &str)] = &[("backup/archive", "0"), ("backup/backup", "0")];

/// For a command that frees extents whose zeros the next command relies on. After a discard, a disk may return anything.
const WITHOUT_DISCARDS: &[(&str, &str)] = &[("devices/issue_discards", "0")];

/// Which of lvm's two filters selects our devices. A device must pass both, so the host's own one stays in
/// the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Filter {
    #[default]
    Global,
    /// Used if lvm.conf sets `devices/global_filter`.
    Other,
}

/// What a command does to the devices of volumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Devices {
    /// It may make and remove some.
    Change,
    /// It only loads new tables into them.
    Stay,
    /// It has nothing to do with volumes, but changes which disks are physical volumes.
    Disks,
}

/// Whether the extents that a command frees are discarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discards {
    /// As the host's `devices/issue_discards` says.
    AsConfigured,
    /// Never: what was written to the extents stays there.
    Never,
}

/// Whether a command writes to lvm's archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Archive {
    Written,
    Skipped,
}

/// Which devices the commands on one volume group may open, how much of its history they keep, and where lvm's locks
/// are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// What waits for the commands: the name of the volume group in the configuration, also after it was renamed by hand.
    pub(crate) subject: String,
    /// The devices of the volume group, including copies of them. No other device is opened.
    pub(crate) devices: Vec<PathBuf>,
    pub(crate) filter: Filter,
    /// How many files of the volume group lvm's archive keeps.
    pub(crate) archives: u32,
    /// The folder with lvm's locks, if lvm.conf sets it.
    pub(crate) locks: Option<PathBuf>,
}

impl Default for Scope {
    /// No devices at all.
    fn default() -> Self {
        Self { subject: String::new(), devices: Vec::new(), filter: Filter::default(), archives: ARCHIVES, locks: None }
    }
}

impl Scope {
    /// The same with more devices.
    #[must_use]
    pub(crate) fn with_devices(&self, more: &[PathBuf]) -> Self {
        let mut scope = self.clone();
        scope.devices.extend(more.iter().filter(|device| !self.devices.contains(device)).cloned());
        scope
    }

    /// The same with lvm's locks in that folder, as lvm.conf sets it.
    #[must_use]
    pub fn with_locks(self, folder: PathBuf) -> Self {
        Self { locks: Some(folder), ..self }
    }

    /// The arguments that pass the settings to a command.
    pub(crate) fn settings(&self) -> [String; 2] {
        self.settings_for(Devices::Change, Discards::AsConfigured, Archive::Written)
    }

    /// The same for a command that changes the volume group.
    pub(crate) fn settings_for(&self, devices: Devices, discards: Discards, archive: Archive) -> [String; 2] {
        let archive = match archive {
            Archive::Written => &[],
            Archive::Skipped => WITHOUT_ARCHIVE,
        };
        let discards = match discards {
            Discards::AsConfigured => &[],
            Discards::Never => WITHOUT_DISCARDS,
        };
        let udev = match devices {
            _ if udev::listening() => &[],
            Devices::Change | Devices::Disks => WITHOUT_UDEV,
            Devices::Stay => WITHOUT_WAITING,
        };
        let hints = if devices == Devices::Disks { WITH_HINTS } else { WITHOUT_HINTS };
        let mut settings = String::new();
        for (key, value) in PINNED.iter().chain(hints).chain(udev).chain(discards).chain(archive) {
            // Writing to a String cannot fail.
            let _ = write!(settings, "{key}={value} ");
        }
        let key = match self.filter {
            Filter::Global => "global_filter",
            Filter::Other => "filter",
        };
        let _ = write!(settings, "devices/{key}={} ", accepting(&self.devices));
        // lvm keeps the newest files of the group itself. Otherwise it would also keep all files younger than
        // that many days.
        let _ = write!(settings, "backup/retain_min={} backup/retain_days=0", self.archives);
        ["--config".to_owned(), settings]
    }
}

/// The filter that accepts these devices and rejects all others.
fn accepting(devices: &[PathBuf]) -> String {
    let accepted = devices.iter().map(|device| format!("\"a|^{}$|\",", pattern(device)));
    format!("[{}\"r|.*|\"]", accepted.collect::<String>())
}

/// The regular expression for this path.
fn pattern(device: &Path) -> String {
    let mut pattern = String::new();
    for character in device.to_string_lossy().chars() {
        match character {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '/' | '_' | '-' | '=' | '@' | ',' | '#' => pattern.push(character),
            // A character class needs no backslash, which would have a meaning in lvm's configuration syntax.
            other => {
                let _ = write!(pattern, "[{other}]");
            }
        }
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(scope: &Scope) -> String {
        scope.settings().join(" ")
    }

    #[test]
    fn a_command_sees_its_own_devices_and_no_other() {
        let devices = ["/dev/vdb", "/dev/mapper/mpatha.1+x"].map(PathBuf::from).into();
        let scope = Scope { devices, archives: 7, ..Scope::default() };
        let text = settings(&scope);
        assert!(text.contains(r#"devices/global_filter=["a|^/dev/vdb$|","a|^/dev/mapper/mpatha[.]1[+]x$|","r|.*|"]"#));
        assert!(!text.contains("devices/filter"), "the host's own filter stays");
        assert!(text.contains("backup/retain_min=7 backup/retain_days=0"));
        let other = settings(&Scope { filter: Filter::Other, ..scope });
        assert!(other.contains(r#"devices/filter=["a|^/dev/vdb$|","#) && !other.contains("global_filter"));
    }

    #[test]
    fn without_devices_nothing_is_opened() {
        assert!(settings(&Scope::default()).contains(r#"devices/global_filter=["r|.*|"]"#));
    }

    #[test]
    fn no_key_is_pinned_twice() {
        let keys: std::collections::BTreeSet<_> = PINNED.iter().map(|(key, _)| key).collect();
        assert_eq!(keys.len(), PINNED.len());
    }

    #[test]
    fn only_commands_that_make_no_devices_leave_them_to_udev() {
        let rules =
            |devices| Scope::default().settings_for(devices, Discards::AsConfigured, Archive::Written).join(" ");
        let (change, stay) = (rules(Devices::Change), rules(Devices::Stay));
        assert_eq!(change, Scope::default().settings().join(" "));
        if udev::listening() {
            assert_eq!(stay, change);
        } else {
            assert!(change.contains("activation/udev_sync=0 activation/udev_rules=0 "));
            assert_eq!(stay, change.replace("udev_rules=0", "udev_rules=1"));
        }
    }

    #[test]
    fn hints_are_used_only_to_drop_them() {
        let hints = |devices| {
            let text = Scope::default().settings_for(devices, Discards::AsConfigured, Archive::Written).join(" ");
            text.split(' ').filter(|word| word.starts_with("devices/hints=")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(hints(Devices::Change), r#"devices/hints="none""#);
        assert_eq!(hints(Devices::Stay), r#"devices/hints="none""#);
        assert_eq!(hints(Devices::Disks), r#"devices/hints="all""#);
    }

    #[test]
    fn a_command_without_an_archive_keeps_everything_else() {
        let [_, with] = Scope::default().settings();
        let [_, without] = Scope::default().settings_for(Devices::Change, Discards::AsConfigured, Archive::Skipped);
        assert!(!with.contains("backup/archive") && without.contains("backup/archive=0 backup/backup=0"));
        assert_eq!(without.replace("backup/archive=0 backup/backup=0 ", ""), with);
    }
}
