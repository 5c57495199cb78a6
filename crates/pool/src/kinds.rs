//! What callers ask about all kinds of pools at once: these questions have an answer even if the pool hangs,
//! was renamed, or is no longer configured. A new kind is added to each function.

use std::io;
use std::path::{Path, PathBuf};

use quarry_mount::Entry;
use quarry_volume::StorageId;

use crate::{PoolConfig, PoolKind, disk, lvm};

/// Every program that a node runs for pools of this configuration, with the package that contains it.
pub fn tools(configured: &[PoolConfig]) -> impl Iterator<Item = (&'static str, &'static str)> {
    let is_thin = |pool: &PoolConfig| matches!(&pool.kind, PoolKind::Lvm(config) if config.thin_pool.is_some());
    // Those of ordinary volumes are always needed. Whole disks need none of their own.
    lvm::TOOLS.into_iter().chain(configured.iter().any(is_thin).then_some(lvm::THIN_TOOL))
}

/// The node of the device of an active volume, if the kernel alone can show it: for the volume with that name
/// on the storage with that identity. Reads only the kernel's tables.
///
/// `None` proves nothing: the kernel names the storage and the volume of a device only for LVM, and only
/// while the volume has its own name. The partition of a whole disk is known to its pool alone.
///
/// # Errors
/// The kernel's tables cannot be read, or the device exists without a valid node.
pub fn device_in_kernel(storage: &StorageId, name: &str) -> io::Result<Option<PathBuf>> {
    Ok(lvm::active(storage, name)?.map(|active| active.node))
}

/// Removes from the kernel's device table all unused logical volumes that are built on a device above a pool's own, such
/// as the open device of an encrypted volume: a tenant can create a volume group there, which the host's udev activates.
/// `device`: its node. Nothing on any disk changes.
pub async fn release_nested_on(device: &Path) {
    if let Some(name) = device.file_name().and_then(|name| name.to_str()) {
        quarry_lvm::release_nested_on(name).await;
    }
}

/// Whether this can be a mount of a volume: of its filesystem, or of its device node. Ask this only if the
/// volume's device is unknown. `false` proves that the mount is not a volume; `true` proves nothing. Reads
/// only the kernel's tables.
#[must_use]
pub fn could_be_volume(entry: &Entry) -> bool {
    lvm::could_be_volume(entry) || disk::could_be_volume(entry)
}
