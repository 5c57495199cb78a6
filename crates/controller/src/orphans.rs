//! Orphans: volumes that no PersistentVolume references, and snapshots that no VolumeSnapshotContent references.
//!
//! Causes: a node that was given up returned, such an object was removed by hand together with its
//! finalizer, or a cluster was rebuilt over old disks. An orphan may be the only copy of someone's data, so
//! Quarry lists orphans, and deletes one only when an operator asks for that one (`quarry orphans delete`).

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use quarry_volume::{Snapshot, Volume, VolumeId};

use crate::cluster::Cluster;
use crate::member::Member;

/// A volume is created before its PersistentVolume: a young volume is not an orphan yet.
pub(crate) const AGE: Duration = Duration::from_secs(5 * 60);

/// Whether no VolumeSnapshotContent references the snapshot, at that time. `wanted`: the handles of all. One that is
/// young, or was not taken completely, is not an orphan yet.
pub(crate) fn is_orphaned_snapshot(wanted: &HashSet<String>, snapshot: &Snapshot, now: SystemTime) -> bool {
    let created = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(snapshot.created));
    let age = created.and_then(|created| now.duration_since(created).ok()).unwrap_or_default();
    snapshot.created > 0 && age >= AGE && !wanted.contains(&snapshot.id.to_string())
}

impl Cluster {
    /// Up to `most` orphans after `after`, ordered by node and identifier, and whether there are more. `None`
    /// if the PersistentVolumes are not known (yet).
    #[must_use]
    pub fn orphans(&self, after: Option<&VolumeId>, most: usize) -> Option<(Vec<Volume>, bool)> {
        let wanted = self.inner.claims.handles()?;
        let mut page = Vec::new();
        for member in self.members() {
            if after.is_some_and(|after| member.name < after.node) {
                continue;
            }
            let memory = member.memory();
            let after = after.filter(|after| after.node == member.name);
            let rest = memory.older(AGE).filter(|volume| after.is_none_or(|after| volume.id > *after));
            for volume in rest.filter(|volume| !wanted.contains(&volume.id.to_string())) {
                if page.len() == most {
                    return Some((page, true));
                }
                page.push(volume.clone());
            }
        }
        Some((page, false))
    }

    /// The number of orphans; `None` as above.
    pub(crate) fn count_orphans(&self) -> Option<usize> {
        let wanted = self.inner.claims.handles()?;
        let of_member = |member: &Member| {
            member.memory().older(AGE).filter(|volume| !wanted.contains(&volume.id.to_string())).count()
        };
        Some(self.members().iter().map(|member| of_member(member)).sum())
    }

    /// The number of orphaned snapshots at that time; `None` if the VolumeSnapshotContents are not known (yet).
    pub(crate) fn count_orphaned_snapshots(&self, now: SystemTime) -> Option<usize> {
        let wanted = self.inner.claims.snapshot_handles()?;
        let of_member = |member: &Member| {
            member.memory().snapshots(None).filter(|snapshot| is_orphaned_snapshot(&wanted, snapshot, now)).count()
        };
        Some(self.members().iter().map(|member| of_member(member)).sum())
    }
}
