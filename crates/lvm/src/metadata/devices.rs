//! The devices of a volume group in the kernel: which logical volumes are active, open or suspended, and what raids
//! and thin pools say about themselves. Metadata does not have that.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use crate::dm;
use crate::{RaidStatus, ThinPoolMode, ThinPoolStatus, VgUuid};

/// A device-mapper device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The kernel's number.
    pub number: (u32, u32),
    /// Whether it is open or mounted, or other devices are built on it.
    pub open: bool,
    /// Whether I/O on it blocks.
    pub suspended: bool,
    /// The type and the status line of its target. `None` if it has several targets.
    pub status: Option<(String, String)>,
}

/// The devices of a volume group, by their UUIDs in the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Devices(BTreeMap<String, Device>);

impl FromIterator<(String, Device)> for Devices {
    fn from_iter<T: IntoIterator<Item = (String, Device)>>(devices: T) -> Self {
        Self(devices.into_iter().collect())
    }
}

impl Devices {
    /// Asks the kernel. Opens no device, but the status of a thin pool may wait for the pool's disks.
    ///
    /// # Errors
    /// `/sys/block` cannot be read, or device-mapper does not answer about a device that is there.
    pub fn of(group: VgUuid) -> io::Result<Self> {
        devices_in(Path::new("/sys/block"), group, dm::describe)
    }

    pub(crate) fn get(&self, uuid: &str) -> Option<&Device> {
        self.0.get(uuid)
    }
}

fn devices_in(block: &Path, group: VgUuid, describe: impl Fn(&str) -> Option<dm::State>) -> io::Result<Devices> {
    let mut found = Vec::new();
    for (folder, uuid) in dm::devices_in(block, group)? {
        let state = describe(&uuid);
        // A device that disappears meanwhile is not active.
        let (number, suspended) = (dm::attribute(&folder, "dev")?, dm::attribute(&folder, "dm/suspended")?);
        let (Some(number), Some(suspended)) = (number, suspended) else { continue };
        let number = number.split_once(':').and_then(|(major, minor)| major.parse().ok().zip(minor.parse().ok()));
        let (Some(number), Some(state)) = (number, state) else {
            return Err(io::Error::other(format!("device-mapper does not describe {uuid}")));
        };
        let suspended = suspended == "1";
        found.push((uuid, Device { number, open: state.open_count > 0, suspended, status: state.status }));
    }
    Ok(found.into_iter().collect())
}

impl Device {
    /// What a raid says about itself. `None` for other devices.
    pub(crate) fn raid(&self) -> Option<RaidStatus> {
        let (kind, line) = self.status.as_ref()?;
        (kind == "raid").then(|| line.parse().ok())?
    }

    /// What a thin pool says about itself. `None` for other devices.
    pub(crate) fn thin_pool(&self) -> Option<ThinPoolStatus> {
        let (kind, line) = self.status.as_ref()?;
        (kind == "thin-pool").then(|| line.parse().ok())?
    }
}

/// lvm's words for the problem of a thin pool.
pub(crate) fn thin_pool_health(status: &ThinPoolStatus) -> &'static str {
    match status.mode {
        ThinPoolMode::Writable => "",
        ThinPoolMode::OutOfDataSpace => "out_of_data",
        ThinPoolMode::ReadOnly => "metadata_read_only",
        ThinPoolMode::Failed => "failed",
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::uuid::device_prefix;
    use crate::uuid::testing::uuid;

    #[test]
    fn only_devices_of_the_group_are_described() {
        let block = tempfile::tempdir().unwrap();
        let (group, other): (VgUuid, VgUuid) = (uuid("a"), uuid("b"));
        let volume = "x".repeat(32);
        let device = |node: &str, uuid: &str, suspended: &str| {
            let folder = block.path().join(node);
            fs::create_dir_all(folder.join("dm")).unwrap();
            fs::write(folder.join("dm/uuid"), format!("{uuid}\n")).unwrap();
            fs::write(folder.join("dm/suspended"), format!("{suspended}\n")).unwrap();
            fs::write(folder.join("dev"), "253:7\n").unwrap();
        };
        let own = format!("{}{volume}", device_prefix(group));
        device("dm-0", &own, "1");
        device("dm-1", &format!("{own}-real"), "0");
        device("dm-2", &format!("{}{volume}", device_prefix(other)), "0");
        fs::create_dir(block.path().join("vda")).unwrap();
        let status = Some(("raid".to_owned(), "raid1 2 AA 1/1 idle 0 0 -".to_owned()));
        let describe = |asked: &str| Some(dm::State { open_count: u32::from(asked == own), status: status.clone() });
        let found = devices_in(block.path(), group, describe).unwrap();
        assert_eq!(found.0.len(), 2);
        assert_eq!(
            found.get(&own),
            Some(&Device { number: (253, 7), open: true, suspended: true, status: status.clone() })
        );
        let layer = found.get(&format!("{own}-real")).unwrap();
        assert!(!layer.open && !layer.suspended && layer.raid().is_some() && layer.thin_pool().is_none());
        assert!(devices_in(block.path(), group, |_| None).is_err(), "the kernel does not answer");
    }
}
