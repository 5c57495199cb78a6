//! Removes one of Quarry's logical volumes, and nothing else with it.

use quarry_lvm::{LogicalVolume, LvUuid, VolumeGroup, commands};
use quarry_volume::{Error, Reason, Result};

use super::LvmPool;
use crate::PoolVolume;

impl LvmPool {
    /// Rejects the removal of a volume that was renamed by hand, often in order to keep it.
    pub(super) fn check_not_renamed(&self, group: &VolumeGroup, volume: &PoolVolume) -> Result<()> {
        if volume.stored_as == volume.name {
            return Ok(());
        }
        Err(Error::unavailable(format!(
            "pool {}: volume {} is not removed, because it was renamed by hand to {}/{}, perhaps to keep it; rename \
             it back (`lvrename {} {} {}`), or remove it by hand",
            self.name, volume.name, group.name, volume.stored_as, group.name, volume.stored_as, volume.name
        )))
    }

    /// Removes a logical volume with its own parts. The caller holds the pool lock.
    ///
    /// # Errors
    /// `Precondition` if something else would be removed with it; `UnderWay` while lvm moves or converts it.
    /// In both cases, nothing was removed.
    pub(super) async fn remove_volume(&self, group: &VolumeGroup, volume: &LogicalVolume) -> Result<()> {
        self.check_removable(group, volume)?;
        let parts: Vec<LvUuid> = group.parts_of(&volume.name).map(|part| part.uuid).collect();
        let removed = commands::remove(group, volume).await;
        self.commit(group, removed).await?;
        let group = self.group().await?;
        if let Some(volume) = group.logical_volumes.iter().find(|found| found.uuid == volume.uuid) {
            // The selection for lvm excludes a volume that has got dependents since.
            self.check_removable(&group, volume)?;
            return Err(Error::unavailable(format!(
                "pool {}: lvm did not remove {}/{}, because it was changed in the meantime: retry",
                self.name, group.name, volume.name
            )));
        }
        // Parts that an interrupted creation left next to the volume are not always removed with it.
        let stray = |part: &&LogicalVolume| part.parent.is_none() && parts.contains(&part.uuid);
        for part in group.logical_volumes.iter().filter(stray) {
            let removed = commands::remove(&group, part).await;
            self.commit(&group, removed).await?;
        }
        Ok(())
    }

    /// Checks that lvm would remove that volume now, and nothing else with it.
    fn check_removable(&self, group: &VolumeGroup, volume: &LogicalVolume) -> Result<()> {
        if let Some(why) = group.operation_in_progress(volume) {
            return Err(Error::new(
                Reason::UnderWay,
                format!("pool {}: {}/{} cannot be removed now: {why}", self.name, group.name, volume.name),
            ));
        }
        let others = group.removed_with(volume);
        if others.is_empty() {
            return Ok(());
        }
        let named: Vec<String> = others
            .iter()
            .map(|other| format!("{}/{} ({})", group.name, other.name, other.dependence(volume)))
            .collect();
        Err(Error::precondition(format!(
            "pool {}: {}/{} is not removed, because lvm would also remove volumes that Quarry did not create: {}; \
             remove or detach them first (lvremove, `lvconvert --splitcache`)",
            self.name,
            group.name,
            volume.name,
            quarry_volume::some_of(named)
        )))
    }
}
