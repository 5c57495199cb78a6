//! Searches for a volume outside its own volume group, before a call reports that it does not exist.
//!
//! An operator may have made it a part of another volume, or moved its disks to another volume group. The
//! kernel knows which volumes are active, and lvm reports every volume group of the host. That reads every
//! disk, so it is done only for this purpose, and once for all concurrent callers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::MutexGuard;
use quarry_lvm::{AllVolumeGroups, VgUuid, VolumeGroup};
use quarry_volume::{Error, Result};
use tokio::sync::Mutex;

use super::{LvmPool, device, volume};
use crate::PoolVolume;

/// The result of a search, or why it failed.
type Groups = Result<Arc<AllVolumeGroups>, String>;

/// When the last search of this process started, and its result. Held during a search.
static SEARCH: Mutex<Option<(Instant, Groups)>> = Mutex::const_new(None);

impl LvmPool {
    fn seen(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.seen.lock()
    }

    /// Remembers the names of the volumes in a report.
    pub(super) fn remember(&self, volumes: &[PoolVolume]) {
        self.seen().extend(volumes.iter().map(|volume| volume.name.clone()));
    }

    /// Forgets a volume that was removed.
    pub(super) fn forget(&self, name: &str) {
        self.seen().remove(name);
    }

    /// Checks that a name which the volume group does not have can be used for a new volume. A volume that
    /// this process has seen there, and has not removed, may be elsewhere: a second volume with that name
    /// would have the same ID.
    pub(super) async fn check_unused(&self, name: &str) -> Result<()> {
        if !self.seen().contains(name) {
            return Ok(());
        }
        match self.search_elsewhere(name).await? {
            Some(place) => Err(Error::unavailable(format!("pool {}: volume {name} still exists: {place}", self.name))),
            None => {
                self.forget(name);
                Ok(())
            }
        }
    }

    /// See [`crate::Pool::find_elsewhere`].
    pub(super) async fn search_elsewhere(&self, name: &str) -> Result<Option<String>> {
        let group = self.group().await?;
        if let Some(part) = volume::hidden(&group, name) {
            return Ok(Some(format!(
                "it is now the part {} of {}/{}, because it was converted by hand with lvconvert",
                part.name,
                group.name,
                part.parent.as_deref().unwrap_or("another volume")
            )));
        }
        if let Some(path) = volume::converted(&group, name) {
            return Ok(Some(format!(
                "it is now {path}, which is not a thin volume any more: it was converted by hand"
            )));
        }
        let active = device::active(&self.storage_in(&group)?, name)
            .map_err(|error| Error::host(format!("finding devices of volume {name}: {error}")))?;
        if let Some(active) = active
            && !group.logical_volumes.iter().any(|volume| volume.uuid == active.uuid)
        {
            return Ok(Some(format!(
                "volume group {} no longer has it, but its device {} still exists: was older metadata restored? If \
                 the volume is not needed, remove the device (dmsetup remove)",
                group.name,
                active.node.display()
            )));
        }
        let place = match groups().await {
            Ok(found) => judge(&found, group.uuid, name, self.seen().contains(name)),
            Err(why) => Err(why),
        };
        let place = place.map_err(|why| {
            Error::unavailable(format!(
                "pool {}: volume {name} is not in volume group {}, and may be in another one that cannot be checked: \
                 {why}",
                self.name, group.name
            ))
        })?;
        Ok(place.map(|path| {
            format!(
                "its record is now on {path}: its disks were moved to another volume group (vgsplit, vgmerge?); move \
                 them back, or remove the logical volume or its record's tag by hand"
            )
        }))
    }
}

/// The logical volume with the record of that volume, in a volume group other than `own`. `seen`: whether the volume was
/// in its own volume group a while ago. Then it may be on what could not be read. A volume that was never there is not
/// looked for any further: a broken disk of something else would prevent its deletion for ever.
fn judge(found: &AllVolumeGroups, own: VgUuid, name: &str, seen: bool) -> Result<Option<String>, String> {
    match in_groups(&found.groups, own, name) {
        None if seen && !found.unread.is_empty() => {
            let silent: Vec<String> = found.unread.iter().map(|device| device.display().to_string()).collect();
            Err(format!("{} does not answer", silent.join(", ")))
        }
        place => Ok(place),
    }
}

/// The same, among those that could be read.
fn in_groups(groups: &[VolumeGroup], own: VgUuid, name: &str) -> Option<String> {
    let others = groups.iter().filter(|group| group.uuid != own && !on_loops(group));
    let mut volumes = others.flat_map(|group| group.logical_volumes.iter().map(move |volume| (group, volume)));
    let (group, volume) = volumes.find(|(_, volume)| {
        !volume.is_raid_part()
            && volume.tags.iter().filter_map(|tag| volume::name_in_tag(tag)).any(|found| found == name)
    })?;
    Some(format!("{}/{}", group.name, volume.name))
}

/// Whether a volume group is on loop devices: then it may be a tenant's, in a raw block volume, with
/// arbitrary contents.
fn on_loops(group: &VolumeGroup) -> bool {
    let on_loop = |device: &std::path::Path| device.as_os_str().as_encoded_bytes().starts_with(b"/dev/loop");
    group.physical_volumes.iter().filter_map(|volume| volume.device.as_deref()).any(on_loop)
}

/// All volume groups of the host, from a search that started after this call.
async fn groups() -> Groups {
    let came = Instant::now();
    let mut last = SEARCH.lock().await;
    if let Some((_, found)) = last.as_ref().filter(|(began, _)| *began >= came) {
        return found.clone();
    }
    let stuck = |command: &quarry_exec::Running| {
        command.overdue && command.subject.as_deref() == Some(quarry_lvm::ALL_VOLUME_GROUPS)
    };
    if let Some(command) = quarry_exec::running().iter().find(|command| stuck(command)) {
        // A disk hangs. One process that waits for it is enough.
        return Err(format!("`{}` has not finished: is a disk hanging?", command.command));
    }
    let began = Instant::now();
    let found = quarry_lvm::all_volume_groups().await.map(Arc::new).map_err(|error| error.to_string());
    *last = Some((began, found.clone()));
    found
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::testing::uuid;
    use super::*;
    use quarry_lvm::{LogicalVolume, PhysicalVolume};

    const RECORD: &str = "quarry1/s=ready/n=a/b=4096/a=m/f=ext4/l=l/p=x";

    fn group(name: &str, device: &str, volumes: &[(&str, &str)]) -> VolumeGroup {
        let volume = |(name, tag): &(&str, &str)| LogicalVolume {
            name: (*name).to_owned(),
            tags: vec![(*tag).to_owned()],
            ..LogicalVolume::default()
        };
        VolumeGroup {
            name: name.into(),
            uuid: uuid(name),
            physical_volumes: vec![PhysicalVolume { device: Some(device.into()), ..PhysicalVolume::default() }],
            logical_volumes: volumes.iter().map(volume).collect(),
            ..VolumeGroup::default()
        }
    }

    #[test]
    fn a_volume_that_was_seen_may_be_on_what_cannot_be_read() {
        let moved = group("split", "/dev/vdc", &[("a", RECORD)]);
        let judged = |groups: &[VolumeGroup], unread: &[&str], seen| {
            let unread = unread.iter().map(PathBuf::from).collect();
            judge(&AllVolumeGroups { groups: groups.to_vec(), unread }, uuid("vg0"), "a", seen)
        };
        let hangs = ["/dev/vdz"];
        assert_eq!(judged(&[], &hangs, true), Err("/dev/vdz does not answer".to_owned()));
        assert_eq!(judged(&[], &[], true), Ok(None));
        assert_eq!(judged(&[], &hangs, false), Ok(None));
        assert_eq!(judged(&[moved], &hangs, true), Ok(Some("split/a".to_owned())));
    }

    #[test]
    fn a_volume_is_found_by_its_record_in_another_group() {
        let own = group("vg0", "/dev/vdb", &[("a", RECORD)]);
        let split = group("split", "/dev/vdc", &[("other", "x"), ("parked", RECORD)]);
        let tenants = group("evil", "/dev/loop0", &[("a", RECORD)]);
        let find = |groups: &[VolumeGroup], name: &str| in_groups(groups, uuid("vg0"), name);
        assert_eq!(find(&[own.clone(), split.clone()], "a").as_deref(), Some("split/parked"));
        assert_eq!(find(&[own.clone(), tenants], "a"), None);
        assert_eq!(find(&[own, split], "parked"), None);
        let raid = group("split", "/dev/vdc", &[("a_rmeta_0", RECORD)]);
        assert_eq!(find(&[raid], "a"), None);
    }
}
