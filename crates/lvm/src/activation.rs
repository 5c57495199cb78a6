//! The lists in the host's lvm.conf that limit what lvm activates: `activation/volume_list` and
//! `activation/read_only_volume_list`.
//!
//! The host decides which volumes may be active, but lvm reports little about it: an activation that
//! volume_list forbids counts as a success. So the kernel is asked for the result, and lvm.conf for the
//! reason.

use std::fs;
use std::path::PathBuf;

use crate::host::configured;
use crate::{LogicalVolume, VolumeGroup, dm};

/// The kernel's device of a logical volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Device {
    Missing,
    ReadOnly,
    Writable,
}

/// Why a volume that lvm should have activated is not active, or is read-only. `None` if lvm.conf is not the
/// reason.
pub(crate) async fn refusal(group: &VolumeGroup, volume: &LogicalVolume) -> Option<String> {
    let mapped = group.mapper_path(&volume.name);
    let mapped = mapped.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let folders = dm::folders_named(|name| name == mapped).unwrap_or_default();
    let key = match device(&folders, mapped) {
        Device::Writable => return None,
        // As it was created.
        Device::ReadOnly if volume.origin.is_some() => return None,
        Device::Missing => "volume_list",
        Device::ReadOnly => "read_only_volume_list",
    };
    lists().await.into_iter().find(|(found, _)| found == key).map(|(key, value)| {
        let what = if key == "volume_list" { "does not let lvm activate it" } else { "has lvm activate it read-only" };
        format!("activation/{key} in lvm.conf of this host {what} ({key}={value}); change that list, then retry")
    })
}

/// A description of the lists in lvm.conf that may be the reason; empty if lvm.conf sets no list.
pub(crate) async fn describe_lists() -> String {
    let each =
        lists().await.into_iter().map(|(key, value)| format!("; this host's lvm.conf sets activation/{key}={value}"));
    each.collect()
}

/// Reads the merged configuration: otherwise, lvm would only show our own `--config`.
async fn lists() -> Vec<(String, String)> {
    match configured(&["activation"]).await {
        Ok(text) => parse(&text),
        Err(error) => {
            tracing::warn!(%error, "cannot read from lvm.conf which volumes may be activated");
            Vec::new()
        }
    }
}

fn parse(text: &str) -> Vec<(String, String)> {
    let settings = text.lines().filter_map(|line| line.trim().split_once('='));
    let lists = settings.filter(|(key, _)| matches!(*key, "volume_list" | "read_only_volume_list"));
    lists.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// The device with that name, whose folder in sysfs is one of these.
fn device(folders: &[PathBuf], mapped: &str) -> Device {
    for folder in folders {
        let read = |file: &str| fs::read_to_string(folder.join(file)).map(|text| text.trim().to_owned()).ok();
        if read("dm/name").as_deref() == Some(mapped) {
            return if read("ro").as_deref() == Some("1") { Device::ReadOnly } else { Device::Writable };
        }
    }
    Device::Missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_volume_lists_are_read() {
        let text = "activation \
                    {\n\tvolume_list=[\"other\"]\n\tread_only_volume_list=\"vg0/a\"\n\tauto_activation_volume_list=[]\n}\n";
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(parse(text), [pair("volume_list", "[\"other\"]"), pair("read_only_volume_list", "\"vg0/a\"")]);
        assert!(parse("  Configuration node activation not found").is_empty());
    }

    #[test]
    fn the_kernel_shows_the_result_of_an_activation() {
        let block = tempfile::tempdir().expect("folder");
        let add = |node: &str, name: &str, ro: &str| {
            let folder = block.path().join(node);
            fs::create_dir_all(folder.join("dm")).expect("folder");
            fs::write(folder.join("dm/name"), format!("{name}\n")).expect("file");
            fs::write(folder.join("ro"), format!("{ro}\n")).expect("file");
        };
        add("dm-0", "vg--0-a--1", "0");
        add("dm-1", "vg--0-b", "1");
        fs::create_dir(block.path().join("vda")).expect("folder");
        let folders = ["vda", "dm-0", "dm-1"].map(|node| block.path().join(node));
        let found = ["vg--0-a--1", "vg--0-b", "vg--0-c"].map(|name| device(&folders, name));
        assert_eq!(found, [Device::Writable, Device::ReadOnly, Device::Missing]);
    }
}
