//! The settings of lvm that Quarry's commands are run with, and the devices that they may open.
//!
//! lvm reads the host's lvm.conf, which may hold anything. What our parsing and our promises rest on is pinned here, so
//! that no line of that file changes what Quarry reads or does. What is the host's own choice stays as it is: which
//! devices lvm may use (`devices/filter`, `devices/global_filter`, the devices file), which volumes it may activate
//! (`activation/volume_list`, `read_only_volume_list`), the system ID, locks and lock managers, tuning of activation,
//! and where archives and backups of metadata are kept.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::udev;

/// How many files of its volume group lvm's archive keeps unless a pool's configuration says otherwise.
pub const ARCHIVES: u32 = 100;

/// Keys that every command is given, whatever lvm.conf says.
const PINNED: &[(&str, &str)] = &[
    // An older lvm does not know every key here. It says so for each, or stops where lvm.conf has `abort_on_errors`.
    ("config/checks", "0"),
    ("config/abort_on_errors", "0"),
    // With one of these a command ends well and has done nothing.
    ("global/test", "0"),
    ("global/activation", "1"),
    // Numbers as bytes, without a unit.
    ("global/units", "\"b\""),
    ("global/si_unit_consistency", "1"),
    ("global/suffix", "0"),
    // No messages between the lines of a report, none in another form, and all of them when a command fails.
    ("log/verbose", "0"),
    ("log/silent", "0"),
    ("log/level", "0"),
    ("log/indent", "0"),
    ("log/prefix", "\"  \""),
    ("log/command_names", "0"),
    ("log/debug_classes", "[]"),
    ("log/report_command_log", "0"),
    // A log is written where we run, perhaps in a container, and while devices are suspended it may hang on them.
    ("log/file", "\"/dev/null\""),
    ("log/activation", "0"),
    // What a report looks like.
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
    // A column that lvm does not know ends a report.
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
    // The devices are those named by the filter that goes with this. The hints would leave out a disk that was ill when
    // they were written, and lvm would write the devices file anew where the name of the host looks another to it.
    ("devices/dir", "\"/dev\""),
    ("devices/scan", "[\"/dev\"]"),
    ("devices/hints", "\"none\""),
    ("devices/use_devicesfile", "0"),
    ("devices/device_ids_refresh", "0"),
    ("devices/scan_lvs", "0"),
    // Two devices with one physical volume: which is the right one is for the operator to say.
    ("devices/allow_changes_with_duplicate_pvs", "0"),
    // A new volume is hidden from udev until lvm has wiped it, which must find all there is, in the metadata of a raid
    // as well.
    ("allocation/use_blkid_wiping", "1"),
    ("allocation/wipe_signatures_when_zeroing_new_lvs", "1"),
    ("allocation/zero_metadata", "1"),
    // lvm would start dmeventd where we run, so in our container, where it dies with us. What it would say of a raid is
    // in the report. A host that runs dmeventd itself monitors the volumes from the next boot on.
    ("activation/monitoring", "0"),
    // By its flag a creation that was cut off is known.
    ("activation/auto_set_activation_skip", "1"),
    ("activation/retry_deactivation", "1"),
    ("activation/use_linear_target", "1"),
    // Removed volumes would stay in the metadata, until its area is full.
    ("metadata/record_lvs_history", "0"),
];

/// Where no udevd runs lvm makes the device nodes itself.
const WITHOUT_UDEV: &[(&str, &str)] = &[("activation/udev_sync", "0"), ("activation/udev_rules", "0")];

/// Given to a command that is run again because lvm could not write its archive.
const WITHOUT_ARCHIVE: &[(&str, &str)] = &[("backup/archive", "0"), ("backup/backup", "0")];

/// Which of lvm's two filters names our devices. A device must pass both, so the host's own stays in the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Filter {
    #[default]
    Global,
    /// Where lvm.conf sets `devices/global_filter`.
    Other,
}

/// What the commands on one volume group may open, and how much of its history they keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// The devices of the volume group, copies of them included; no other one is opened.
    pub(crate) devices: Vec<PathBuf>,
    pub(crate) filter: Filter,
    /// How many files of the volume group lvm's archive keeps.
    pub(crate) archives: u32,
}

impl Default for Scope {
    /// No device at all.
    fn default() -> Self {
        Self { devices: Vec::new(), filter: Filter::default(), archives: ARCHIVES }
    }
}

impl Scope {
    /// The arguments that give a command its settings.
    pub(crate) fn settings(&self) -> [String; 2] {
        self.with(&[])
    }

    /// The same for a command that leaves lvm's archive alone.
    pub(crate) fn settings_without_archive(&self) -> [String; 2] {
        self.with(WITHOUT_ARCHIVE)
    }

    fn with(&self, more: &[(&str, &str)]) -> [String; 2] {
        let udev = if udev::listening() { &[] } else { WITHOUT_UDEV };
        let mut settings = String::new();
        for (key, value) in PINNED.iter().chain(udev).chain(more) {
            // Writing to a String cannot fail.
            let _ = write!(settings, "{key}={value} ");
        }
        let key = match self.filter {
            Filter::Global => "global_filter",
            Filter::Other => "filter",
        };
        let _ = write!(settings, "devices/{key}={} ", accepting(&self.devices));
        // lvm keeps the newest files, and of its own group alone; files younger than that many days it would keep besides.
        let _ = write!(settings, "backup/retain_min={} backup/retain_days=0", self.archives);
        ["--config".to_owned(), settings]
    }
}

/// The list that accepts these devices and rejects every other.
fn accepting(devices: &[PathBuf]) -> String {
    let accepted = devices.iter().map(|device| format!("\"a|^{}$|\",", pattern(device)));
    format!("[{}\"r|.*|\"]", accepted.collect::<String>())
}

/// The regular expression that is this path.
fn pattern(device: &Path) -> String {
    let mut pattern = String::new();
    for character in device.to_string_lossy().chars() {
        match character {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '/' | '_' | '-' | '=' | '@' | ',' | '#' => pattern.push(character),
            // A class of one: it needs no backslash, which lvm's configuration would take for its own.
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
        let scope = Scope { devices, filter: Filter::Global, archives: 7 };
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
    fn a_command_without_an_archive_keeps_everything_else() {
        let [_, with] = Scope::default().settings();
        let [_, without] = Scope::default().settings_without_archive();
        assert!(!with.contains("backup/archive") && without.contains("backup/archive=0 backup/backup=0"));
        assert_eq!(without.replace("backup/archive=0 backup/backup=0 ", ""), with);
    }
}
