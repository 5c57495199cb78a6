//! On which physical volumes each logical volume is.

use std::collections::{BTreeMap, BTreeSet};

use crate::types::VolumeGroup;
use crate::{LvUuid, PvUuid};

impl VolumeGroup {
    /// Adds to each logical volume the physical volumes with its extents, through all its parts.
    pub(crate) fn connect_disks(&mut self) {
        let mut places: BTreeMap<LvUuid, BTreeSet<PvUuid>> = BTreeMap::new();
        for pv in &self.physical_volumes {
            for used in &pv.used {
                places.entry(used.volume).or_default().insert(pv.uuid);
            }
        }
        let names: BTreeMap<LvUuid, String> =
            self.logical_volumes.iter().map(|volume| (volume.uuid, volume.name.clone())).collect();
        for (uuid, disks) in places {
            // From the part with the extents up to all volumes that contain it. The limit is more than lvm nests, and
            // ends a cycle.
            let mut name = names.get(&uuid).cloned();
            for _ in 0..8 {
                let Some(current) = name.take() else { break };
                let Some(volume) = self.logical_volumes.iter_mut().find(|volume| volume.name == current) else { break };
                volume.physical_volumes.extend(&disks);
                name.clone_from(&volume.parent);
            }
        }
    }
}
