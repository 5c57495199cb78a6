//! Full copies: linear logical volumes that depend on nothing once they are complete.

use quarry_lvm::commands::{self, CreateLv};
use quarry_lvm::{LogicalVolume, VolumeGroup, capacity};
use quarry_volume::{Error, Layout, Reason, Result};

use super::super::{LvmPool, name, volume};
use super::{all_on, from_logical, name_for};
use crate::record::State;
use crate::{PoolSnapshot, SnapshotHealth, SnapshotKind, SnapshotRecord};

/// The state of a full copy. While it is `new`, it needs the snapshot that serves it.
pub(super) fn health(group: &VolumeGroup, logical: &LogicalVolume, record: &SnapshotRecord) -> SnapshotHealth {
    if logical.lacks(group) {
        let shown = format!("{}/{}", group.name, logical.name);
        return SnapshotHealth::Lost(format!("{shown} has extents on a physical volume that is missing"));
    }
    // A source that was never used contains nothing.
    if record.state == State::Ready || record.empty {
        return SnapshotHealth::Whole;
    }
    let serving = record.of_kind(SnapshotKind::ForCopy).id_name();
    let is_serving = |other: &&LogicalVolume| {
        let found = volume::other_record_on(other).snapshot();
        found.is_some_and(|found| found.kind == SnapshotKind::ForCopy && found.id_name() == serving)
    };
    let serving = group.volumes().find(is_serving).and_then(|found| from_logical(group, found));
    match serving.map(|serving| serving.health) {
        Some(SnapshotHealth::Whole) => SnapshotHealth::Whole,
        Some(SnapshotHealth::Lost(why)) => SnapshotHealth::Lost(why),
        Some(SnapshotHealth::Invalid(_) | SnapshotHealth::Incomplete(_)) | None => SnapshotHealth::Invalid(
            "it can never be complete, because the short-lived snapshot that it was being copied \
                 from became full, was removed by hand, or lost its disk: delete it, and take another one, with a \
                 larger cowSize if it became full"
                .to_owned(),
        ),
    }
}

impl LvmPool {
    /// See [`crate::Pool::create_copy`]. The caller holds the pool lock.
    pub(in crate::lvm) async fn create_space_for_copy(
        &self,
        record: &SnapshotRecord,
        from: &PoolSnapshot,
    ) -> Result<PoolSnapshot> {
        let group = self.group().await?;
        let (wanted, name, tag) = (record.id_name(), name_for(&record.id_name()), record.to_string());
        if let Some(other) = all_on(&group, &from.storage).into_iter().find(|other| other.name == wanted) {
            return Err(Error::new(
                Reason::Exists,
                format!("pool {}: snapshot {} already exists", self.name, other.record.name),
            ));
        }
        name::check_free(&self.name, &group, &name)?;
        let extents = group.extent_size.needed_for(from.size);
        let (_, serving) = self.current_snapshot(&group, from)?;
        let source = serving.origin.as_deref().and_then(|origin| group.logical_volume(origin));
        let Some(pvs) = capacity::choose(&group, &Layout::Linear, extents, self.config.reserve, source) else {
            let largest = capacity::largest(&group, &Layout::Linear, self.config.reserve);
            let withheld = capacity::withheld(&group);
            let why = largest.reason.iter().chain(&withheld).map(|why| format!("; {why}")).collect::<String>();
            return Err(Error::new(
                Reason::NoSpace,
                format!(
                    "pool {}: a full copy of volume {} needs {} bytes, besides the space of the snapshot that it is \
                     copied from, and {} are free{why}",
                    self.name, record.source.volume, from.size, largest.bytes
                ),
            ));
        };
        let request = CreateLv { name: name.clone(), extents, layout: Layout::Linear, tags: vec![tag.clone()], pvs };
        let made = commands::create(&group, &request).await;
        self.commit_new(&group, &name, &tag, made).await?;
        let group = self.group().await.map_err(Error::not_final)?;
        let made = group.logical_volume(&name).and_then(|made| from_logical(&group, made));
        made.filter(|made| made.record.to_string() == tag && made.size == from.size).ok_or_else(|| {
            Error::unavailable(format!(
                "pool {}: lvm created {}/{name}, but it was changed or removed in the meantime; retry",
                self.name, group.name
            ))
        })
    }

    /// See [`crate::Pool::set_snapshot_record`]. The caller holds the pool lock.
    pub(in crate::lvm) async fn replace_snapshot_record(
        &self,
        snapshot: &PoolSnapshot,
        record: &SnapshotRecord,
    ) -> Result<()> {
        let (before, after) = (snapshot.record.to_string(), record.to_string());
        if before == after {
            return Ok(());
        }
        let group = self.group().await?;
        let (current, found) = self.current_snapshot(&group, snapshot)?;
        if current.record != snapshot.record {
            return Err(Error::unavailable(format!(
                "the record of snapshot {} was changed by another process in the meantime; retry",
                snapshot.name
            )));
        }
        self.check_complete(&group)?;
        self.replace_tag(&group, found, &before, &after).await.map(drop)
    }
}
