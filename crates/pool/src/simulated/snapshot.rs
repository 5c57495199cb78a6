//! The snapshots of a simulated pool, in the same steps as on a volume group.

use quarry_lvm::cow_extents;
use quarry_volume::{CowSize, Error, Layout, Reason, Result, SnapshotMethod, StorageId};

use super::Inner;
use super::disks::{Disks, Slot};
use crate::key::VolumeKey;
use crate::record::State;
use crate::{PoolSnapshot, PoolVolume, Record, SnapshotHealth, SnapshotKind, SnapshotRecord};

/// Where a snapshot with that name is stored. No volume has such a name.
pub(super) fn stored_as(snapshot: &str) -> String {
    format!("snapshot {snapshot}")
}

/// Rejects a change of a volume that has these snapshots.
pub(super) fn check_none(pool: &str, volume: &str, snapshots: &[PoolSnapshot], what: &str) -> Result<()> {
    crate::snapshot::check_none(snapshots, &format!("pool {pool}: volume {volume}"), what)
}

impl Inner {
    /// The snapshot in a slot; `None` if something else is in it.
    fn describe_snapshot(&self, disks: &Disks, slot: &Slot) -> Option<PoolSnapshot> {
        let record = Record::parse(&slot.record).snapshot()?;
        let health = match (&slot.damage, record.state, record.kind) {
            (Some(damage), _, _) => SnapshotHealth::clone(damage),
            (None, State::New, SnapshotKind::Copy { .. }) if !record.empty => {
                let serving = disks.get(&stored_as(&record.of_kind(SnapshotKind::ForCopy).id_name()));
                match serving.and_then(|serving| self.describe_snapshot(disks, serving)).map(|serving| serving.health) {
                    Some(SnapshotHealth::Whole) => SnapshotHealth::Whole,
                    Some(SnapshotHealth::Lost(why)) => SnapshotHealth::Lost(why),
                    _ => SnapshotHealth::Invalid("the snapshot that it was copied from is lost".to_owned()),
                }
            }
            (None, State::New, SnapshotKind::Cow | SnapshotKind::ForClone | SnapshotKind::ForCopy) => {
                SnapshotHealth::Incomplete("its creation was interrupted".to_owned())
            }
            (None, State::New | State::Ready, _) => SnapshotHealth::Whole,
        };
        Some(PoolSnapshot {
            name: record.id_name(),
            storage: StorageId::of(&self.uuid),
            key: VolumeKey::Simulated { storage: self.uuid.clone(), number: slot.number },
            size: slot.size,
            allocated: self.extent.bytes(slot.allocated()),
            record,
            health,
        })
    }

    /// All snapshots.
    pub(super) fn snapshots(&self, disks: &Disks) -> Vec<PoolSnapshot> {
        disks.volumes().filter_map(|(_, slot)| self.describe_snapshot(disks, slot)).collect()
    }

    /// The copy-on-write snapshots of a volume.
    pub(super) fn snapshots_of(&self, disks: &Disks, volume: &PoolVolume) -> Vec<PoolSnapshot> {
        let mut snapshots = self.snapshots(disks);
        snapshots.retain(|snapshot| {
            snapshot.record.source.volume == volume.name && snapshot.record.method() == SnapshotMethod::Cow
        });
        snapshots
    }

    /// Removes those copy-on-write snapshots of a volume whose creation was interrupted, and which are chosen.
    pub(super) fn remove_interrupted_snapshots(
        &self,
        disks: &mut Disks,
        volume: &PoolVolume,
        which: fn(&SnapshotRecord) -> bool,
    ) {
        let mut left = self.snapshots_of(disks, volume);
        left.retain(|snapshot| matches!(snapshot.health, SnapshotHealth::Incomplete(_)) && which(&snapshot.record));
        for snapshot in left {
            disks.remove(&stored_as(&snapshot.name));
        }
    }

    /// The current state of a snapshot.
    fn current_snapshot(&self, disks: &Disks, snapshot: &PoolSnapshot) -> Result<PoolSnapshot> {
        let current = disks.get(&stored_as(&snapshot.name)).and_then(|slot| self.describe_snapshot(disks, slot));
        current.filter(|current| current.key == snapshot.key).ok_or_else(|| {
            Error::unavailable(format!("snapshot {} is no longer in pool {}: retry", snapshot.name, self.name))
        })
    }

    /// Checks that a snapshot can be read.
    pub(super) fn usable_snapshot(&self, disks: &Disks, snapshot: &PoolSnapshot) -> Result<()> {
        self.current_snapshot(disks, snapshot)?.check_whole(&self.name)
    }

    /// The first step of [`crate::Pool::take_snapshot`].
    pub(super) fn take_snapshot(&self, volume: &PoolVolume, record: &SnapshotRecord, size: CowSize) -> Result<()> {
        let mut disks = self.disks();
        let current = self.current(&disks, volume)?;
        crate::snapshot::check_filled(&self.name, &current)?;
        crate::snapshot::check_unchanged(&self.name, volume, &current)?;
        let name = record.id_name();
        if disks.get(&stored_as(&name)).is_some() {
            return Err(Error::new(Reason::Exists, format!("pool {}: snapshot {name} already exists", self.name)));
        }
        let extents = cow_extents(self.extent, current.size, size);
        if !disks.take_snapshot(&stored_as(&name), &volume.name, extents, record.to_string()) {
            return Err(Error::new(
                Reason::NoSpace,
                format!(
                    "pool {}: a snapshot of volume {} needs {} bytes on the disks of the volume, which do not have \
                     that much free space",
                    self.name,
                    volume.name,
                    self.extent.bytes(extents)
                ),
            ));
        }
        Ok(())
    }

    /// The second step of [`crate::Pool::take_snapshot`].
    pub(super) fn set_snapshot_ready(&self, name: &str) -> Result<PoolSnapshot> {
        let mut disks = self.disks();
        let gone = || Error::unavailable(format!("snapshot {name} is no longer in pool {}: retry", self.name));
        let record = disks.get(&stored_as(name)).and_then(|slot| Record::parse(&slot.record).snapshot());
        let ready = record.ok_or_else(gone)?.ready(crate::snapshot::now());
        disks.set_record(&stored_as(name), ready.to_string());
        disks.get(&stored_as(name)).and_then(|slot| self.describe_snapshot(&disks, slot)).ok_or_else(gone)
    }

    /// See [`crate::Pool::create_copy`].
    pub(super) fn create_copy(&self, record: &SnapshotRecord, from: &PoolSnapshot) -> Result<PoolSnapshot> {
        let mut disks = self.disks();
        let name = stored_as(&record.id_name());
        if disks.get(&name).is_some() {
            return Err(Error::new(Reason::Exists, format!("pool {}: {name} already exists", self.name)));
        }
        let (extents, largest) =
            (self.extent.needed_for(from.size), self.space(&disks).largest(&Layout::Linear).extents);
        if extents > largest {
            return Err(Error::new(
                Reason::NoSpace,
                format!("pool {}: a full copy needs {} bytes, which are not free", self.name, from.size),
            ));
        }
        disks.create(&name, extents, &Layout::Linear, from.size, record.to_string());
        let made = disks.get(&name).and_then(|slot| self.describe_snapshot(&disks, slot));
        made.ok_or_else(|| Error::host("a simulated copy has vanished"))
    }

    /// See [`crate::Pool::set_snapshot_record`].
    pub(super) fn set_snapshot_record(&self, snapshot: &PoolSnapshot, record: &SnapshotRecord) -> Result<()> {
        let mut disks = self.disks();
        if self.current_snapshot(&disks, snapshot)?.record != snapshot.record {
            return Err(Error::precondition(format!("the record of snapshot {} was changed; retry", snapshot.name)));
        }
        disks.set_record(&stored_as(&snapshot.name), record.to_string());
        Ok(())
    }

    /// See [`crate::Pool::remove_snapshot`].
    pub(super) fn remove_snapshot(&self, snapshot: &PoolSnapshot) -> Result<()> {
        let mut disks = self.disks();
        self.current_snapshot(&disks, snapshot)?;
        disks.remove(&stored_as(&snapshot.name));
        Ok(())
    }
}
