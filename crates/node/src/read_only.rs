//! Publishes raw block volumes read-only: each target has its own read-only mapping of the volume's device.
//!
//! A mapping's key consists of a hash of the volume ID and a hash of the target, so that the next call on the
//! volume finds what a killed process left: a publish completes it, an unpublish removes it, and any other
//! call removes it if it is mounted nowhere. While a mapping exists, the volume is in use.

use std::path::{Path, PathBuf};

use quarry_mount::{Device, Entry, READ_ONLY_UUID};
use quarry_volume::{Error, Reason, Result, VolumeId};
use uuid::{Uuid, uuid};

use crate::kernel::Mounts;

/// The namespace of the hashes in the keys.
const NAMESPACE: Uuid = uuid!("0c7d8a52-3f19-4c1e-9b57-64e2a1d0f8b3");

/// The prefix of the keys of all mappings of a volume.
fn prefix(id: &VolumeId) -> String {
    format!("{}-", Uuid::new_v5(&NAMESPACE, id.to_string().as_bytes()).simple())
}

/// The key of the mapping for that target.
fn key(id: &VolumeId, target: &Path) -> String {
    // This removes redundant slashes.
    let plain: PathBuf = target.components().collect();
    format!("{}{}", prefix(id), Uuid::new_v5(&NAMESPACE, plain.as_os_str().as_encoded_bytes()).simple())
}

/// Whether a device-mapper UUID belongs to a mapping of the volume.
pub(crate) fn is_of(uuid: &str, id: &VolumeId) -> bool {
    uuid.strip_prefix(READ_ONLY_UUID).is_some_and(|key| key.starts_with(&prefix(id)))
}

/// Whether the device `found` is the mapping for that target, and still maps the volume's device. It keeps its size when
/// the volume grows: its pod sees the new size when it is started again.
pub(crate) fn is_for(mounts: &dyn Mounts, found: Device, id: &VolumeId, target: &Path, device: Device) -> Result<bool> {
    let key = key(id, target);
    let mut mappings = mounts.read_only_mappings(&key)?.into_iter();
    let is_own = mappings.any(|mapping| mapping.key == key && mapping.device == found);
    Ok(is_own && mounts.is_read_only_mapping_of(found, device))
}

/// Publishes a read-only mapping of the device at the target. Removes the mapping if that fails.
pub(crate) fn publish(mounts: &dyn Mounts, id: &VolumeId, target: &Path, device: Device) -> Result<()> {
    let key = key(id, target);
    let node = mounts.map_read_only(device, &key)?;
    mounts.bind_device(&node, target).inspect_err(|_| {
        // If this fails, the next call removes the mapping. One that is published somewhere is kept.
        let _ = clean(mounts, id, None);
    })
}

/// Removes the mapping of a target that is already unmounted.
pub(crate) fn unpublish(mounts: &dyn Mounts, id: &VolumeId, target: &Path) -> Result<()> {
    mounts.unmap_read_only(&key(id, target))
}

/// Whether there are read-only mappings of the volume. Reads only the kernel's tables.
pub(crate) fn is_mapped(mounts: &dyn Mounts, id: &VolumeId) -> Result<bool> {
    Ok(!mounts.read_only_mappings(&prefix(id))?.is_empty())
}

/// Where the volume is published read-only.
pub(crate) fn publications(mounts: &dyn Mounts, id: &VolumeId) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for mapping in mounts.read_only_mappings(&prefix(id))? {
        entries.extend(mounts.publications_of_block(mapping.device)?);
    }
    Ok(entries)
}

/// Removes the mappings of the volume that are mounted nowhere, which killed processes left. Keeps the
/// mapping of the target `but`, and mappings that a program has open.
pub(crate) fn clean(mounts: &dyn Mounts, id: &VolumeId, but: Option<&Path>) -> Result<()> {
    let kept = but.map(|target| key(id, target));
    for mapping in mounts.read_only_mappings(&prefix(id))? {
        let published = !mounts.publications_of_block(mapping.device)?.is_empty();
        if published || kept.as_ref() == Some(&mapping.key) {
            continue;
        }
        tracing::info!(volume = %id, mapping = mapping.key, "removing a read-only mapping that is published nowhere");
        if let Err(error) = mounts.unmap_read_only(&mapping.key) {
            tracing::warn!(volume = %id, %error, "cannot remove an unused read-only mapping");
        }
    }
    Ok(())
}

/// Fails if the volume is published read-only anywhere. Removes mappings that are published nowhere first.
pub(crate) fn require_unpublished(mounts: &dyn Mounts, id: &VolumeId) -> Result<()> {
    clean(mounts, id, None)?;
    match publications(mounts, id)?.first() {
        None => Ok(()),
        Some(first) => Err(Error::new(
            Reason::InUse,
            format!("it is published read-only at {:?}; unpublish it first", first.target),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_depends_on_volume_and_target() {
        let id = |name: &str| format!("v1:aaaaaaaaaa:n:{name}").parse::<VolumeId>().unwrap();
        let (one, other) = (id("a"), id("b"));
        let at = |target: &str| key(&one, Path::new(target));
        assert_eq!(at("/pods/1/dev"), at("/pods//1/dev/"));
        assert_ne!(at("/pods/1/dev"), at("/pods/2/dev"));
        assert_ne!(at("/pods/1/dev"), key(&other, Path::new("/pods/1/dev")));
        let uuid = format!("{}{}", READ_ONLY_UUID, at("/pods/1/dev"));
        assert!(is_of(&uuid, &one) && !is_of(&uuid, &other) && !is_of("LVM-x", &one));
        // The kernel takes names and UUIDs of up to 127 bytes.
        assert!(uuid.len() < 128);
    }
}
