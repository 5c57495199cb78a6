//! Whether the name of a new volume is free in its volume group.

use quarry_lvm::VolumeGroup;
use quarry_volume::{Error, Reason, Result, StorageId};

use super::volume;
use crate::record::Tag;

/// Rejects the name of a new volume that a logical volume already has.
///
/// # Errors
/// `UnderWay` if it is a volume of that name in this pool: an earlier call has created it since the caller looked for it,
/// with an lvcreate that outlived its Quarry process. Otherwise those of [`check_free`].
pub(super) fn check_free_for_volume(pool: &str, storage: &StorageId, group: &VolumeGroup, name: &str) -> Result<()> {
    let found = group.logical_volume(name).and_then(|found| volume::from_logical(group, found));
    // In another pool of the volume group, a retry would find it there, or not at all.
    if found.is_some_and(|volume| volume.name == name && volume.storage == *storage && volume.record().is_ok()) {
        return Err(Error::new(
            Reason::UnderWay,
            format!("pool {pool}: an earlier call has just created {}/{name}; retry", group.name),
        ));
    }
    check_free(pool, group, name)
}

/// Rejects a name that a logical volume already has.
///
/// # Errors
/// `Precondition` if a volume or anything else of Quarry has it that this version cannot use; otherwise `Exists`.
pub(super) fn check_free(pool: &str, group: &VolumeGroup, name: &str) -> Result<()> {
    let Some(found) = group.logical_volume(name) else { return Ok(()) };
    // This version cannot read it, but it belongs to Quarry: do not advise to rename or remove it.
    if let Some(volume) = volume::from_logical(group, found) {
        volume.record()?;
    }
    if let Some(other) = volume::not_volume(found) {
        return Err(Error::precondition(format!(
            "pool {pool}: the name {}/{name} is taken by {other}, which is not a volume; upgrade Quarry on this node, \
             or request another name",
            group.name
        )));
    }
    if volume::record_on(found).scratch().is_some() {
        return Err(Error::new(
            Reason::Exists,
            format!(
                "pool {pool}: the name {}/{name} is taken by new space for a volume that is being expanded; request \
                 another name, or rename it by hand",
                group.name
            ),
        ));
    }
    if let Tag::ThinPool(part) = volume::record_on(found) {
        return Err(Error::new(
            Reason::Exists,
            format!(
                "pool {pool}: the name {}/{name} is taken by a part of thin pool {}; request another name",
                group.name, part.pool
            ),
        ));
    }
    if let Some(snapshot) = volume::record_on(found).snapshot() {
        return Err(Error::new(
            Reason::Exists,
            format!(
                "pool {pool}: the name {}/{name} is taken by snapshot {} of volume {}; request another name, or rename \
                 it by hand",
                group.name, snapshot.name, snapshot.source.volume
            ),
        ));
    }
    Err(Error::new(
        Reason::Exists,
        format!(
            "pool {pool}: {}/{name} already exists, but does not have this volume's record; rename or remove it by \
             hand",
            group.name
        ),
    ))
}

#[cfg(test)]
mod tests {
    use quarry_lvm::LogicalVolume;

    use super::*;

    /// The error for the name `a`, which a logical volume with this tag has.
    fn taken_by(tag: &str) -> Error {
        let volume = LogicalVolume { name: "a".into(), tags: vec![tag.to_owned()], ..LogicalVolume::default() };
        let group = VolumeGroup { name: "vg".into(), logical_volumes: vec![volume], ..VolumeGroup::default() };
        check_free("p", &group, "b").unwrap();
        check_free("p", &group, "a").unwrap_err()
    }

    #[test]
    fn a_volume_that_has_just_appeared_is_found_by_a_retry() {
        let volume = |name: &str, tag: &str| LogicalVolume {
            name: name.into(),
            tags: vec![tag.to_owned()],
            ..LogicalVolume::default()
        };
        let record = "quarry1/s=new/n=a/b=4096/a=m/f=ext4/l=l/p=x";
        // The second was renamed by hand, so its record is not that of volume `b`.
        let logical_volumes = vec![volume("a", record), volume("b", record), volume("c", "somebodys")];
        let group = VolumeGroup { name: "vg".into(), logical_volumes, ..VolumeGroup::default() };
        let own = volume::storage_of(group.uuid);
        let reason = |name: &str| check_free_for_volume("p", &own, &group, name).map_err(|error| error.reason);
        let other = volume::storage_of("o".repeat(32).parse().unwrap());
        let elsewhere = check_free_for_volume("p", &other, &group, "a").map_err(|error| error.reason);
        assert_eq!(elsewhere, Err(Reason::Exists), "it is in another pool of the volume group");
        assert_eq!(reason("a"), Err(Reason::UnderWay));
        assert_eq!(reason("b"), Err(Reason::Exists));
        assert_eq!(reason("c"), Err(Reason::Exists));
        assert_eq!(reason("d"), Ok(()));
    }

    #[test]
    fn a_taken_name_is_not_used_again() {
        for (tag, reason, words) in [
            ("somebodys", Reason::Exists, "rename or remove it by hand"),
            (
                "quarry2/k=archive/n=a",
                Reason::Precondition,
                "the name vg/a is taken by a \"archive\" of a newer Quarry",
            ),
            (
                "quarry2/k=snapshot/s=new/n=x/o=v1:abcdefghij:n:v/a=b",
                Reason::Exists,
                "is taken by snapshot x of volume v; request another name",
            ),
            ("quarry2/k=thin-pool/p=data/n=a", Reason::Exists, "is taken by a part of thin pool a"),
            ("quarry2/k=expansion/v=x/b=1", Reason::Exists, "is taken by new space for a volume"),
            ("quarry2/s=ready/n=a", Reason::Precondition, "written by a newer Quarry"),
            ("quarry1/s=old", Reason::Precondition, "is invalid"),
        ] {
            let error = taken_by(tag);
            assert_eq!(error.reason, reason, "{error}");
            assert!(error.message.contains(words), "{error}");
            assert_eq!(error.message.contains("remove it"), tag == "somebodys", "{error}");
        }
    }
}
