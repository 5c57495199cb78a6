//! Creates and expands thin volumes.

use std::sync::Arc;

use quarry_lvm::commands::thin::{CreateThin, CreateThinSnapshot, create_thin, create_thin_snapshot, extend_thin};
use quarry_lvm::{LogicalVolume, LvUuid, VolumeGroup};
use quarry_volume::{Error, Extents, Reason, Result, SizeRange, VolumeSpec, safe_name};

use super::super::{LvmPool, name, volume};
use super::{closed, nearly_full, room, same_storage};
use crate::pool::{Contents, ContentsOf, CopiedFilesystem, Expansion};
use crate::{Health, PoolVolume, Record, ThinPoolConfig};

impl LvmPool {
    /// See [`crate::Pool::create`]. The caller holds the pool lock.
    pub(in crate::lvm) async fn create_thin_volume(
        &self,
        config: &ThinPoolConfig,
        spec: &VolumeSpec,
    ) -> Result<PoolVolume> {
        let group = self.group().await?;
        let (name, size) = self.check_new_volume(&group, config, spec)?;
        let (pool, extents) = (self.thin_pool_in(&group, config)?, group.extent_size.whole_in(size));
        if let Some(why) = spec.source.as_ref().and_then(|_| nearly_full(&group, pool, config, size)) {
            return Err(Error::new(
                Reason::NoSpace,
                format!("pool {} cannot hold a copy of {size} bytes: {why}", self.name),
            ));
        }
        let tag = Record::new_thin(spec, size).to_string();
        let request = CreateThin { pool, name: &name, extents, tag: &tag };
        let made = create_thin(&group, &request).await;
        self.commit_new(&group, &name, &tag, made).await?;
        self.created_thin_volume(&name, &tag).await.map(|(_, volume)| volume)
    }

    /// See [`crate::Pool::create_with_contents`]. The caller holds the pool lock.
    pub(in crate::lvm) async fn create_thin_copy(
        &self,
        config: &ThinPoolConfig,
        spec: &VolumeSpec,
        contents: &Contents<'_>,
    ) -> Result<Option<PoolVolume>> {
        let group = self.group().await?;
        let (storage, uuid) = match contents.of {
            ContentsOf::Snapshot(snapshot) => (&snapshot.storage, snapshot.logical()?.1),
            ContentsOf::Volume(volume) => (&volume.storage, volume.logical()?.1),
        };
        if *storage != self.storage_in(&group)? || spec.source.is_none() {
            return Ok(None);
        }
        let source = group.volumes().find(|found| found.uuid == uuid && same_storage(&group, found, storage));
        let Some(source) = source else {
            return Err(Error::unavailable(format!(
                "pool {}: the source was removed or changed in the meantime: retry",
                self.name
            )));
        };
        let (name, size) = self.check_new_volume(&group, config, spec)?;
        if size < source.size {
            return Ok(None);
        }
        let record = Record::new_thin(spec, size);
        let tag = record.to_string();
        let request = CreateThinSnapshot { source, name: &name, tag: &tag, writable: true };
        let made = create_thin_snapshot(&group, &request).await;
        self.commit_new(&group, &name, &tag, made).await?;
        let filled = self.complete_thin_copy(&name, &record, source.uuid, contents.filesystem).await;
        filled.map(Some).map_err(Error::not_final)
    }

    /// Checks the copy that lvm has just made of the source with that UUID, makes it as large as its record says, and marks
    /// its contents as complete. Until then, its creation counts as interrupted.
    async fn complete_thin_copy(
        &self,
        name: &str,
        record: &Record,
        source: LvUuid,
        filesystem: Option<CopiedFilesystem>,
    ) -> Result<PoolVolume> {
        let tag = record.to_string();
        let (mut group, made) = self.created_thin_volume(name, &tag).await?;
        if !is_copy_of(&group, self.current(&group, &made)?.1, source) {
            return Err(Error::unavailable(format!(
                "pool {}: lvm created {}/{name}, but its source was renamed, changed or removed in the meantime; retry",
                self.name, group.name
            )));
        }
        if made.size < record.size {
            let (_, logical) = self.current(&group, &made)?;
            let extended = extend_thin(&group, logical, group.extent_size.whole_in(record.size)).await;
            self.commit(&group, extended).await?;
            group = self.group().await?;
        }
        let (_, logical) = self.current(&group, &made)?;
        let uuid = filesystem.map(|filesystem| match filesystem {
            CopiedFilesystem::GetsNewUuid => made.filesystem_uuid(),
            CopiedFilesystem::Keeps(uuid) => uuid,
        });
        let filled = record.filled_at_once(uuid).to_string();
        self.replace_tag(&group, logical, &tag, &filled).await?;
        let (group, filled) = self.created_thin_volume(name, &filled).await?;
        let (_, logical) = self.current(&group, &filled)?;
        self.refresh_if_short(&group, logical).await?;
        Ok(filled)
    }

    /// The volume that lvm has just created with that tag.
    async fn created_thin_volume(&self, name: &str, tag: &str) -> Result<(Arc<VolumeGroup>, PoolVolume)> {
        let group = self.group().await.map_err(Error::not_final)?;
        let logical = group.volumes().find(|made| made.name == name && made.tags.iter().any(|found| found == tag));
        let made = logical.and_then(|logical| volume::from_logical(&group, logical)).ok_or_else(|| {
            Error::unavailable(format!("{}/{name} was created, but was removed in the meantime; retry", group.name))
        })?;
        Ok((group, made))
    }

    /// Checks that a volume can be created, and returns the name of its logical volume and its size.
    fn check_new_volume(
        &self,
        group: &VolumeGroup,
        config: &ThinPoolConfig,
        spec: &VolumeSpec,
    ) -> Result<(String, u64)> {
        let name = safe_name(&spec.name);
        let storage = volume::thin_storage_of(group.uuid, self.thin_pool_in(group, config)?.uuid);
        name::check_free_for_volume(&self.name, &storage, group, &name)?;
        let size = spec.size.choose(Self::unit(group, &spec.class.layout))?;
        self.check_room(group, config, group.extent_size.whole_in(size), &format!("a volume of {size} bytes"))?;
        self.check_complete(group)?;
        Ok((name, size))
    }

    /// Checks that the thin pool has room for that much more.
    ///
    /// # Errors
    /// `NoSpace`.
    pub(super) fn check_room(
        &self,
        group: &VolumeGroup,
        config: &ThinPoolConfig,
        extents: Extents,
        what: &str,
    ) -> Result<()> {
        let pool = self.thin_pool_in(group, config)?;
        let left = room(group, pool, config);
        let why = match closed(group, pool) {
            Some(why) => why,
            None if extents <= left => return Ok(()),
            None => format!(
                "its volumes and snapshots may have {} % of its size together, which leaves {} bytes; delete some, extend \
                 the thin pool, or set a higher ratio (overprovision)",
                config.overprovision,
                group.extent_size.bytes(left)
            ),
        };
        Err(Error::new(Reason::NoSpace, format!("pool {} cannot hold {what}: {why}", self.name)))
    }

    /// See [`crate::Pool::reserve_expansion`]: a thin volume needs no new space, only permission.
    pub(in crate::lvm) async fn check_thin_expansion(
        &self,
        config: &ThinPoolConfig,
        volume: &PoolVolume,
        size: &SizeRange,
    ) -> Result<Option<Expansion>> {
        let group = self.group().await?;
        let (current, logical) = self.current(&group, volume)?;
        current.record()?;
        if !current.needs_expansion(size)? {
            if super::super::device::is_smaller(&current)? {
                let _lock = self.lock().await?;
                self.refresh_if_short(&group, logical).await?;
            }
            return Ok(None);
        }
        self.check_complete(&group)?;
        self.check_thin_expandable(&group, &current, logical)?;
        let target = current.expanded_size(size, group.extent_size.0)?;
        self.check_room_to_expand(&group, config, &current, target)?;
        Ok(Some(Expansion { size: target, device: None }))
    }

    /// Checks that the thin pool has room for the volume with `target` bytes.
    ///
    /// # Errors
    /// `SizeOutOfRange`, with the largest size that is possible.
    fn check_room_to_expand(
        &self,
        group: &VolumeGroup,
        config: &ThinPoolConfig,
        volume: &PoolVolume,
        target: u64,
    ) -> Result<()> {
        let more = group.extent_size.needed_for(target.saturating_sub(volume.size));
        let room_for = self.check_room(group, config, more, &format!("volume {} with {target} bytes", volume.name));
        room_for.map_err(|error| {
            let pool = group.thin_pool(&config.name);
            let left = pool.filter(|pool| closed(group, pool).is_none()).map(|pool| room(group, pool, config));
            let largest = volume.size.saturating_add(group.extent_size.bytes(left.unwrap_or_default()));
            Error::new(
                Reason::SizeOutOfRange,
                format!("{}; the largest size that is possible now is {largest} bytes", error.message),
            )
        })
    }

    /// See [`crate::Pool::expand`].
    pub(in crate::lvm) async fn expand_thin_volume(
        &self,
        config: &ThinPoolConfig,
        volume: &PoolVolume,
        expansion: &Expansion,
    ) -> Result<PoolVolume> {
        let _lock = self.lock().await?;
        let group = self.group().await?;
        let (current, logical) = self.current(&group, volume)?;
        current.record()?;
        if current.size >= expansion.size {
            self.refresh_if_short(&group, logical).await?;
            return Ok(current);
        }
        self.check_complete(&group)?;
        self.check_thin_expandable(&group, &current, logical)?;
        // Something else may have taken the room since it was checked.
        self.check_room_to_expand(&group, config, &current, expansion.size)?;
        let extended = extend_thin(&group, logical, group.extent_size.needed_for(expansion.size)).await;
        self.commit(&group, extended).await?;
        let group = self.group().await?;
        let (current, logical) = self.current(&group, volume)?;
        self.refresh_if_short(&group, logical).await?;
        match current.size < expansion.size {
            true => Err(Error::unavailable(format!(
                "pool {}: volume {} was changed in the meantime: retry",
                self.name, current.name
            ))),
            false => Ok(current),
        }
    }

    fn check_thin_expandable(&self, group: &VolumeGroup, volume: &PoolVolume, logical: &LogicalVolume) -> Result<()> {
        let (pool, name) = (&self.name, &volume.name);
        if let Some(why) = group.operation_in_progress(logical) {
            return Err(Error::new(
                Reason::UnderWay,
                format!("pool {pool}: volume {name} cannot be expanded now: {why}"),
            ));
        }
        match &volume.health {
            Health::Lost(why) | Health::Incomplete(why) => Err(Error::unavailable(why.clone())),
            Health::Whole | Health::Degraded(_) => Ok(()),
        }
    }
}

/// Whether a thin volume was made from the one with that UUID. lvm got only its name, which an operator may have given to
/// another one before lvm took its lock.
fn is_copy_of(group: &VolumeGroup, made: &LogicalVolume, source: LvUuid) -> bool {
    let source = group.logical_volumes.iter().find(|found| found.uuid == source);
    source.is_some_and(|source| made.origin.as_deref() == Some(&source.name) && made.pool == source.pool)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lvm::testing::uuid;

    #[test]
    fn a_copy_is_one_of_its_source_by_uuid() {
        let thin = |name: &str, label: &str, pool: &str| LogicalVolume {
            name: name.into(),
            uuid: uuid(label),
            pool: Some(pool.into()),
            ..LogicalVolume::default()
        };
        let made = LogicalVolume { origin: Some("a".into()), ..thin("c", "made", "thin") };
        let copy_of = |logical_volumes: Vec<LogicalVolume>| {
            is_copy_of(&VolumeGroup { logical_volumes, ..VolumeGroup::default() }, &made, uuid("source"))
        };
        assert!(copy_of(vec![thin("a", "source", "thin"), thin("b", "other", "thin")]));
        // Another one got its name before lvm took its lock.
        assert!(!copy_of(vec![thin("a-old", "source", "thin"), thin("a", "other", "thin")]));
        assert!(!copy_of(vec![thin("a", "source", "another"), thin("b", "other", "thin")]));
        assert!(!copy_of(vec![thin("b", "other", "thin")]), "removed");
    }
}
