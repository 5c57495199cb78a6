//! Removes one of Quarry's logical volumes, and nothing else with it.

use std::time::Duration;

use quarry_lvm::{Discards, LogicalVolume, LvUuid, VolumeGroup, commands};
use quarry_volume::{Error, Reason, Result};

use super::LvmPool;
use crate::record::{Record, Tag};
use crate::{PoolSnapshot, PoolVolume};

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
        self.remove_with_discards(group, volume, Discards::AsConfigured).await
    }

    /// Like [`LvmPool::remove_volume`]; `discards` says what happens to the bytes in its extents.
    pub(super) async fn remove_with_discards(
        &self,
        group: &VolumeGroup,
        volume: &LogicalVolume,
        discards: Discards,
    ) -> Result<()> {
        check_removable(&self.name, group, volume)?;
        let parts: Vec<LvUuid> = group.parts_of(&volume.name).map(|part| part.uuid).collect();
        let removed = commands::remove(group, volume, discards).await;
        self.commit(group, removed).await?;
        let group = self.group().await?;
        if let Some(volume) = group.logical_volumes.iter().find(|found| found.uuid == volume.uuid) {
            // The selection for lvm excludes a volume that has got dependents since.
            check_removable(&self.name, &group, volume)?;
            return Err(Error::unavailable(format!(
                "pool {}: lvm did not remove {}/{}, because it was changed in the meantime: retry",
                self.name, group.name, volume.name
            )));
        }
        self.shared.idle.forget(volume.uuid);
        // Parts that an interrupted creation left next to the volume are not always removed with it.
        let stray = |part: &&LogicalVolume| part.parent.is_none() && parts.contains(&part.uuid);
        for part in group.logical_volumes.iter().filter(stray) {
            let removed = commands::remove(&group, part, discards).await;
            self.commit(&group, removed).await?;
        }
        Ok(())
    }
}

/// Checks that lvm would remove that volume now, and nothing else with it.
pub(super) fn check_removable(pool: &str, group: &VolumeGroup, volume: &LogicalVolume) -> Result<()> {
    if let Some(why) = group.operation_in_progress(volume) {
        return Err(Error::new(
            Reason::UnderWay,
            format!("pool {pool}: {}/{} cannot be removed now: {why}", group.name, volume.name),
        ));
    }
    let others = group.removed_with(volume);
    if others.is_empty() {
        return Ok(());
    }
    let snapshots: Vec<PoolSnapshot> =
        others.iter().filter_map(|other| super::snapshot::from_logical(group, other)).collect();
    crate::snapshot::check_none(&snapshots, &format!("pool {pool}: {}/{}", group.name, volume.name), "removed")?;
    // This version cannot read it, but it belongs to Quarry: do not advise to remove it.
    let newer: Vec<&LogicalVolume> = others.iter().copied().filter(|other| is_of_newer_quarry(other)).collect();
    let named = |others: &[&LogicalVolume]| {
        let name = |other: &&LogicalVolume| format!("{}/{} ({})", group.name, other.name, other.dependence(volume));
        quarry_volume::some_of(others.iter().map(name))
    };
    Err(Error::precondition(match newer.is_empty() {
        true => format!(
            "pool {pool}: {}/{} is not removed, because lvm would also remove volumes that Quarry did not create: {}; \
             remove or detach them first (lvremove, `lvconvert --splitcache`)",
            group.name,
            volume.name,
            named(&others)
        ),
        false => format!(
            "pool {pool}: {}/{} is not removed, because lvm would also remove what a newer Quarry created: {}; \
             upgrade Quarry on this node, and delete that first",
            group.name,
            volume.name,
            named(&newer)
        ),
    }))
}

/// How often, and after which pause, an open logical volume is looked at again: udev may read it for a moment.
const LOOKS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);

/// Fails if anything has the logical volume open: lvm would not remove it.
pub(super) async fn require_closed(pool: &str, group: &VolumeGroup, volume: &LogicalVolume) -> Result<()> {
    for _ in 0..LOOKS {
        if quarry_lvm::open_count(group.uuid, volume.uuid).is_none_or(|count| count == 0) {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(Error::new(
        Reason::InUse,
        format!("pool {pool}: {}/{} is not removed, because it is in use", group.name, volume.name),
    ))
}

/// Whether a newer Quarry created the logical volume: a volume or anything else.
fn is_of_newer_quarry(volume: &LogicalVolume) -> bool {
    volume.tags.iter().any(|tag| matches!(Record::parse(tag), Tag::Newer { .. } | Tag::NotVolume(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lvm::testing::uuid;

    /// The error for the removal of the volume `a` with a snapshot that has this tag.
    fn refusal(tag: &str) -> Error {
        let volume = |name: &str, tag: &str| LogicalVolume {
            name: name.into(),
            uuid: uuid(name),
            tags: vec![tag.to_owned()],
            ..LogicalVolume::default()
        };
        let origin = volume("a", "quarry1/s=ready/n=a/b=4096/a=m/f=ext4/l=l/p=x");
        let snapshot = LogicalVolume { origin: Some("a".into()), ..volume("s", tag) };
        let logical_volumes = vec![origin.clone(), snapshot];
        let group = VolumeGroup { name: "vg".into(), logical_volumes, ..VolumeGroup::default() };
        check_removable("p", &group, &origin).unwrap_err()
    }

    #[test]
    fn a_snapshot_of_quarrys_is_deleted_first() {
        let error = refusal("quarry2/k=snapshot/s=ready/n=snap-1/o=v1:abcdefghij:n:a/t=1/a=m/f=ext4");
        assert_eq!(error.reason, Reason::Precondition);
        assert!(error.message.contains("delete snap-1 first") && !error.message.contains("lvremove"), "{error}");
        let error = refusal("quarry2/k=snapshot/s=ready/n=b/o=v1:abcdefghij:n:a/t=1/a=m/f=ext4/i=1");
        assert_eq!(error.reason, Reason::UnderWay, "{error}");
    }

    /// An operator must not be advised to remove objects of a newer Quarry.
    #[test]
    fn dependents_of_a_newer_quarry_are_not_to_be_removed_by_hand() {
        for (tag, of_quarry) in [("x", false), ("quarry2/k=archive/n=s", true), ("quarry3/s=ready/n=s", true)] {
            let error = refusal(tag);
            assert_eq!(error.reason, Reason::Precondition);
            assert!(error.message.contains("vg/s (its snapshot)"), "{error}");
            assert_eq!(error.message.contains("lvremove"), !of_quarry, "{error}");
            assert_eq!(error.message.contains("a newer Quarry"), of_quarry, "{error}");
        }
    }
}
