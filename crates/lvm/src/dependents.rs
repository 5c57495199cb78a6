//! What lvm would remove together with a logical volume, and what prevents its removal.
//!
//! `lvremove` also removes everything that depends on a volume: its snapshots, the volumes of a pool, a cache
//! and the cache's pool. With `-y` it does not ask. Only a volume's own parts may be removed with it, so
//! dependents are looked for first.

use std::collections::BTreeSet;

use crate::types::{LogicalVolume, VolumeGroup};

/// The suffixes of a volume's own parts, after the volume's name: images, their metadata, and the layers that
/// integrity and caching add below it. The data and metadata of a pool are not included: those may have been
/// volumes.
const PARTS: [&str; 9] = ["rimage", "rmeta", "mimage", "mlog", "corig", "wcorig", "iorig", "imeta", "extracted"];
/// The prefix of lvm's temporary volumes while it moves extents.
const MOVING: &str = "pvmove";

impl VolumeGroup {
    /// The logical volumes that lvm would remove together with this one, without its own parts. They were
    /// created, or attached to it, outside Quarry.
    #[must_use]
    pub fn removed_with(&self, volume: &LogicalVolume) -> Vec<&LogicalVolume> {
        let mut doomed = BTreeSet::from([volume.name.as_str()]);
        loop {
            let more: Vec<&str> = self
                .logical_volumes
                .iter()
                .filter(|other| !doomed.contains(other.name.as_str()) && self.is_removed_with(other, &doomed))
                .map(|other| other.name.as_str())
                .collect();
            if more.is_empty() {
                break;
            }
            doomed.extend(more);
        }
        let others = self.logical_volumes.iter().filter(|other| other.uuid != volume.uuid);
        others.filter(|other| doomed.contains(other.name.as_str()) && !is_part(&other.name, &volume.name)).collect()
    }

    /// Whether lvm removes `other` when it removes the volumes in `doomed`.
    fn is_removed_with(&self, other: &LogicalVolume, doomed: &BTreeSet<&str>) -> bool {
        let among = |name: &Option<String>| name.as_deref().is_some_and(|name| doomed.contains(name));
        // A snapshot of a thin volume is independent of its origin; any other snapshot is lost without it.
        let needs_origin =
            |name: &String| self.logical_volume(name).is_none_or(|origin| !origin.segment_types.contains("thin"));
        // A cache is removed with the cached volume.
        let caches = || {
            let cached = |volume: &LogicalVolume| {
                volume.pool.as_deref() == Some(&other.name)
                    && volume.segment_types.iter().any(|kind| kind.contains("cache"))
            };
            doomed.iter().filter_map(|name| self.logical_volume(name)).any(cached)
        };
        !other.name.starts_with(MOVING)
            && (among(&other.parent)
                || among(&other.pool)
                || (among(&other.origin) && other.origin.as_ref().is_some_and(needs_origin))
                || caches())
    }

    /// A description of what lvm is doing to a logical volume that prevents removing or changing it now.
    #[must_use]
    pub fn operation_in_progress(&self, volume: &LogicalVolume) -> Option<String> {
        if !volume.locked && !self.parts_of(&volume.name).any(|part| part.locked) {
            return None;
        }
        let moving = self.logical_volumes.iter().find(|other| other.internal && other.name.starts_with(MOVING));
        Some(match moving {
            Some(moving) => format!(
                "pvmove is moving extents of volume group {} ({}); wait until it has finished (`pvmove` without \
                 arguments resumes an interrupted one, `pvmove --abort` aborts it)",
                self.name, moving.name
            ),
            None => format!(
                "lvm is converting or merging {}/{}; wait until lvconvert has \
                             finished",
                self.name, volume.name
            ),
        })
    }
}

impl LogicalVolume {
    /// The relation of this volume to the one that it would be removed with, as text.
    #[must_use]
    pub fn dependence(&self, on: &LogicalVolume) -> &'static str {
        if self.origin.as_deref() == Some(&on.name) {
            "its snapshot"
        } else if self.pool.as_deref() == Some(&on.name) {
            "a volume in it"
        } else if on.segment_types.iter().any(|kind| kind.contains("cache")) {
            "its cache"
        } else {
            "a former volume that is now a part of it"
        }
    }
}

/// Whether a logical volume with this name is a part that lvm made for the volume.
fn is_part(name: &str, of: &str) -> bool {
    let own =
        |part: &str| PARTS.contains(&part) || (!part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
    name.strip_prefix(of).and_then(|rest| rest.strip_prefix('_')).is_some_and(|rest| rest.split('_').all(own))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uuid::testing::uuid;

    fn lv(name: &str, kind: &str) -> LogicalVolume {
        LogicalVolume {
            name: name.into(),
            uuid: uuid(name),
            segment_types: BTreeSet::from([kind.to_owned()]),
            ..LogicalVolume::default()
        }
    }

    fn part(name: &str, parent: &str) -> LogicalVolume {
        LogicalVolume { internal: true, parent: Some(parent.into()), ..lv(name, "linear") }
    }

    fn snapshot(name: &str, origin: &str, kind: &str) -> LogicalVolume {
        LogicalVolume { origin: Some(origin.into()), ..lv(name, kind) }
    }

    fn in_pool(name: &str, pool: &str, kind: &str) -> LogicalVolume {
        LogicalVolume { pool: Some(pool.into()), ..lv(name, kind) }
    }

    fn removed(first: LogicalVolume, rest: Vec<LogicalVolume>) -> Vec<(String, &'static str)> {
        let group =
            VolumeGroup { logical_volumes: std::iter::once(first).chain(rest).collect(), ..VolumeGroup::default() };
        let volume = &group.logical_volumes[0];
        group.removed_with(volume).iter().map(|other| (other.name.clone(), other.dependence(volume))).collect()
    }

    #[test]
    fn own_parts_are_removed_with_a_volume() {
        let parts = ["a_rimage_0", "a_rmeta_0", "a_rimage_1", "a_rmeta_1"].map(|name| part(name, "a"));
        let layers = [part("a_rimage_0_iorig", "a_rimage_0"), part("a_rimage_0_imeta", "a_rimage_0")];
        let others = [lv("b", "linear"), lv("a_b", "linear"), snapshot("s", "b", "linear")];
        let rest = parts.into_iter().chain(layers).chain(others).collect();
        assert_eq!(removed(lv("a", "raid1"), rest), []);
    }

    #[test]
    fn dependents_of_a_volume_are_named() {
        let named = |name: &str, what| vec![(name.to_owned(), what)];
        let snap = vec![snapshot("s", "a", "linear")];
        assert_eq!(removed(lv("a", "linear"), snap), named("s", "its snapshot"));
        // lvm's names for what it hides: fast_cvol is the operator's volume `fast`.
        let cache = vec![part("fast_cvol", "a"), part("a_wcorig", "a")];
        assert_eq!(removed(in_pool("a", "fast_cvol", "writecache"), cache), named("fast_cvol", "its cache"));
        let cache = vec![LogicalVolume { parent: None, ..part("fast_cpool", "") }, part("a_corig", "a")];
        assert_eq!(removed(in_pool("a", "fast_cpool", "cache"), cache), named("fast_cpool", "its cache"));
        // A cache whose name only begins like that of one of its parts.
        let cache = vec![part("a_mine_cvol", "a"), part("a_corig", "a")];
        assert_eq!(removed(in_pool("a", "a_mine_cvol", "cache"), cache), named("a_mine_cvol", "its cache"));
        // An external origin of thin volumes.
        let thin =
            vec![LogicalVolume { origin: Some("a".into()), ..in_pool("t", "pool", "thin") }, lv("pool", "thin-pool")];
        assert_eq!(removed(lv("a", "linear"), thin), named("t", "its snapshot"));
        // A volume that was converted into a pool: the pool's metadata may have been a volume before.
        let pool =
            vec![part("a_tdata", "a"), part("a_tmeta", "a"), in_pool("t", "a", "thin"), snapshot("x", "t", "thin")];
        let names: Vec<String> = removed(lv("a", "thin-pool"), pool).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["a_tdata", "a_tmeta", "t"]);
    }

    #[test]
    fn indirect_dependents_are_found() {
        let chain = vec![snapshot("s", "a", "linear"), in_pool("inner", "s", "vdo")];
        let names: Vec<String> = removed(lv("a", "linear"), chain).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["s", "inner"]);
    }

    #[test]
    fn a_thin_volume_is_removed_without_its_pool_and_its_snapshots() {
        let rest =
            vec![lv("pool", "thin-pool"), LogicalVolume { origin: Some("a".into()), ..in_pool("s", "pool", "thin") }];
        assert_eq!(removed(in_pool("a", "pool", "thin"), rest), []);
    }

    #[test]
    fn moves_and_conversions_are_detected() {
        let locked = |name: &str| LogicalVolume { locked: true, ..lv(name, "linear") };
        let moving = LogicalVolume { internal: true, ..lv("pvmove0", "mirror") };
        let group = |volumes: Vec<LogicalVolume>| VolumeGroup { logical_volumes: volumes, ..VolumeGroup::default() };
        let first = |group: &VolumeGroup| group.operation_in_progress(&group.logical_volumes[0]);
        assert_eq!(first(&group(vec![lv("a", "linear"), moving.clone()])), None);
        let moved = group(vec![locked("a"), LogicalVolume { parent: Some("a".into()), ..moving.clone() }]);
        assert!(first(&moved).is_some_and(|why| why.contains("pvmove0")));
        assert_eq!(moved.removed_with(&moved.logical_volumes[0]), Vec::<&LogicalVolume>::new());
        assert!(first(&group(vec![locked("a")])).is_some_and(|why| why.contains("lvconvert")));
        let part = LogicalVolume { locked: true, ..part("a_rimage_0", "a") };
        assert!(first(&group(vec![lv("a", "raid1"), part, moving])).is_some_and(|why| why.contains("pvmove")));
    }
}
