//! Expands the volumes of a simulated pool, in the same steps as on a volume group.

use std::sync::Arc;

use quarry_volume::{Error, Gib, Reason, Result, SizeRange};

use super::{Inner, SimulatedDevice, snapshot};
use crate::pool::{Device, Expansion, NewSpace};
use crate::{PoolVolume, Record, ScratchRecord, SnapshotRecord};

/// The name under which the new space for a volume is reserved. No volume has such a name.
pub(super) fn scratch_of(volume: &str) -> String {
    format!("new space for {volume}")
}

/// See [`crate::Pool::reserve_expansion`].
pub(super) fn reserve(inner: &Arc<Inner>, volume: &PoolVolume, size: &SizeRange) -> Result<Option<Expansion>> {
    let mut disks = inner.disks();
    let current = inner.current(&disks, volume)?;
    let layout = current.record()?.layout;
    let name = scratch_of(&volume.name);
    if !current.needs_expansion(size)? {
        disks.remove(&name);
        return Ok(None);
    }
    inner.remove_interrupted_snapshots(&mut disks, volume, SnapshotRecord::serves);
    snapshot::check_none(&inner.name, &volume.name, &inner.snapshots_of(&disks, volume), "expanded")?;
    let target = current.expanded_size(size, inner.space(&disks).unit(&layout))?;
    let reserved = disks.get(&name).and_then(|slot| Record::parse(&slot.record).scratch());
    if reserved.is_none_or(|record| record.volume != current.uuid() || record.size != target) {
        disks.remove(&name);
        let extents = inner.extent.whole_in(target.saturating_sub(current.size));
        let most = disks.get(&volume.name).map(|slot| disks.most_more(slot, &layout)).unwrap_or_default();
        if extents > most {
            return Err(Error::new(
                Reason::SizeOutOfRange,
                format!(
                    "pool {} cannot expand volume {} to {target} bytes ({layout}): the largest size that is possible \
                     now is {} bytes",
                    inner.name,
                    volume.name,
                    current.size.saturating_add(inner.extent.bytes(most))
                ),
            ));
        }
        let record = ScratchRecord::new(current.uuid(), target).to_string();
        disks.reserve(&name, &volume.name, extents, &layout, (inner.extent, record));
    }
    let (size, record) = disks.get(&name).map(|slot| (slot.size, Record::parse(&slot.record))).unzip();
    let zeroed = record.and_then(crate::Tag::scratch).map(|record| record.zeroed).unwrap_or_default();
    let size = size.unwrap_or_default();
    let device = Device::Simulated(SimulatedDevice::new(inner, &name));
    // Which bytes were wiped is not simulated, so all of them are.
    let signature_places = vec![std::ops::Range { start: 0, end: size }];
    Ok(Some(Expansion { size: target, device: Some(NewSpace { device, size, signature_places, zeroed }) }))
}

impl Inner {
    /// The record of the space that is reserved for a volume.
    fn reserved(&self, disks: &super::Disks, volume: &PoolVolume) -> Result<ScratchRecord> {
        let slot = disks.get(&scratch_of(&volume.name));
        slot.and_then(|slot| Record::parse(&slot.record).scratch()).ok_or_else(|| {
            Error::unavailable(format!("pool {}: no space is reserved for volume {}: retry", self.name, volume.name))
        })
    }

    /// See [`crate::Pool::set_expansion_zeroed`].
    pub(super) fn set_expansion_zeroed(&self, volume: &PoolVolume, zeroed: Gib) -> Result<()> {
        let mut disks = self.disks();
        self.current(&disks, volume)?;
        let record = self.reserved(&disks, volume)?.zeroed(zeroed);
        disks.set_record(&scratch_of(&volume.name), record.to_string());
        Ok(())
    }

    /// See [`crate::Pool::expand`].
    pub(super) fn expand(&self, volume: &PoolVolume, expansion: &Expansion) -> Result<PoolVolume> {
        let mut disks = self.disks();
        let current = self.current(&disks, volume)?;
        if current.size >= expansion.size {
            disks.remove(&scratch_of(&volume.name));
            return Ok(current);
        }
        if self.reserved(&disks, volume)?.size != expansion.size {
            return Err(Error::unavailable(format!(
                "pool {}: the space that is reserved for volume {} is for another size: retry",
                self.name, volume.name
            )));
        }
        disks.join(&scratch_of(&volume.name), &volume.name, expansion.size);
        self.current(&disks, volume)
    }
}
