//! Takes snapshots of thin volumes. They are there at once, share their blocks with the volume, and do not depend on it.

use quarry_lvm::commands::thin::{CreateThinSnapshot, create_thin_snapshot};
use quarry_volume::{Error, Reason, Result};

use super::super::LvmPool;
use super::super::snapshot::{from_logical, name_for};
use super::same_storage;
use crate::{Health, PoolSnapshot, PoolVolume, SnapshotKind, SnapshotRecord, ThinPoolConfig};

impl LvmPool {
    /// See [`crate::Pool::take_snapshot`]. The caller holds the pool lock.
    pub(in crate::lvm) async fn take_thin_snapshot(
        &self,
        config: &ThinPoolConfig,
        volume: &PoolVolume,
        record: &SnapshotRecord,
    ) -> Result<PoolSnapshot> {
        if record.kind == SnapshotKind::ForCopy {
            return Err(Error::invalid(format!(
                "pool {} is a thin pool, and a snapshot in it does not depend on its volume: remove the parameter method \
                 (copy) from the VolumeSnapshotClass",
                self.name
            )));
        }
        let group = self.group().await?;
        let (current, source) = self.current(&group, volume)?;
        self.check_complete(&group)?;
        crate::snapshot::check_filled(&self.name, &current)?;
        crate::snapshot::check_unchanged(&self.name, volume, &current)?;
        if let Some(why) = group.operation_in_progress(source) {
            return Err(Error::new(
                Reason::UnderWay,
                format!("pool {}: a snapshot of volume {} cannot be taken now: {why}", self.name, current.name),
            ));
        }
        if let Health::Lost(why) | Health::Incomplete(why) = &current.health {
            return Err(Error::precondition(format!(
                "pool {}: no snapshot of volume {} can be taken: {why}",
                self.name, current.name
            )));
        }
        let (wanted, name) = (record.id_name(), name_for(&record.id_name()));
        self.check_new_snapshot(&group, &current, &wanted, &name)?;
        let extents = group.extent_size.needed_for(source.size);
        self.check_room(&group, config, extents, &format!("a snapshot of volume {}", current.name))?;
        let tag = record.to_string();
        let request = CreateThinSnapshot { source, name: &name, tag: &tag, writable: false };
        let made = create_thin_snapshot(&group, &request).await;
        let created = crate::snapshot::now();
        self.commit_new(&group, &name, &tag, made).await?;
        self.make_thin_ready(&current, &name, record, created).await.map_err(Error::not_final)
    }

    /// Checks the snapshot that lvm has just made, and makes its record `ready`.
    async fn make_thin_ready(
        &self,
        volume: &PoolVolume,
        name: &str,
        record: &SnapshotRecord,
        created: u64,
    ) -> Result<PoolSnapshot> {
        let group = self.group().await?;
        let (_, source) = self.current(&group, volume)?;
        let (before, after) = (record.to_string(), record.ready(created).to_string());
        let made = group.logical_volume(name).filter(|made| {
            made.tags.contains(&before)
                && made.size == source.size
                && made.origin.as_deref() == Some(&source.name)
                && same_storage(&group, made, &volume.storage)
        });
        let Some(made) = made else {
            return Err(Error::unavailable(format!(
                "pool {}: lvm created {}/{name}, but it is not a thin snapshot of volume {}; retry",
                self.name, group.name, volume.name
            )));
        };
        let group = self.replace_tag(&group, made, &before, &after).await?;
        let taken = group.logical_volume(name).and_then(|made| from_logical(&group, made));
        let taken = taken.filter(|taken| taken.record.to_string() == after);
        taken.ok_or_else(|| {
            Error::unavailable(format!("{}/{name} was created, but was changed in the meantime; retry", group.name))
        })
    }
}
