//! The devices of a volume group in the kernel: which logical volumes are active, open or suspended, and what raids
//! and thin pools say about themselves. Metadata does not have that.

use std::collections::BTreeMap;
use std::io;

use crate::dm;
use crate::uuid::parse_layer_uuid;
use crate::{LvUuid, RaidStatus, ThinPoolMode, ThinPoolStatus, VgUuid};

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

/// The devices of logical volumes: for each volume its own device and its layers, by the ends of their UUIDs in the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Devices(BTreeMap<(VgUuid, LvUuid), Vec<(String, Device)>>);

impl FromIterator<(String, Device)> for Devices {
    /// From the devices with their UUIDs in the kernel. Those of no logical volume are left out.
    fn from_iter<T: IntoIterator<Item = (String, Device)>>(devices: T) -> Self {
        let mut found = Self::default();
        for (uuid, device) in devices {
            if let Some((group, volume, end)) = parse_layer_uuid(&uuid) {
                found.0.entry((group, volume)).or_default().push((end.to_owned(), device));
            }
        }
        found
    }
}

impl Devices {
    /// Asks the kernel. Opens no device, but the status of a thin pool may wait for the pool's disks.
    ///
    /// # Errors
    /// Device-mapper does not answer.
    pub fn of(group: VgUuid) -> io::Result<Self> {
        Ok(dm::described(group)?.into_iter().map(|state| (state.uuid.clone(), Device::from(state))).collect())
    }

    /// The device of a logical volume, or its layer whose UUID ends so.
    pub(crate) fn get(&self, group: VgUuid, volume: LvUuid, end: &str) -> Option<&Device> {
        self.0.get(&(group, volume))?.iter().find(|(found, _)| found == end).map(|(_, device)| device)
    }
}

impl From<dm::State> for Device {
    fn from(state: dm::State) -> Self {
        let dm::State { number, open_count, suspended, status, .. } = state;
        Self { number, open: open_count > 0, suspended, status }
    }
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
