//! How much can still be created in a thin pool.

use quarry_lvm::{LogicalVolume, ThinPoolMode, VolumeGroup, capacity};
use quarry_volume::Extents;

use super::NEARLY_FULL;
use crate::ThinPoolConfig;

/// From this use of the metadata on, in percent, nothing is created. When it is full, the pool must be repaired offline,
/// and writes that were reported as done may be lost.
pub(super) const METADATA_RESERVE: u8 = 75;
/// From this use of the metadata on, in percent, the operator gets a hint.
pub(super) const METADATA_WARNING: u8 = 65;

/// The size of all volumes and snapshots in the thin pool together, also of those that are not Quarry's.
pub(super) fn virtual_extents(group: &VolumeGroup, pool: &LogicalVolume) -> Extents {
    let sizes = group.thin_volumes_in(&pool.name).map(|volume| group.extent_size.needed_for(volume.size));
    sizes.fold(Extents::NONE, Extents::and)
}

/// Whether the volumes and snapshots in the thin pool could fill it.
pub(super) fn is_overcommitted(group: &VolumeGroup, pool: &LogicalVolume) -> bool {
    virtual_extents(group, pool) > group.extent_size.whole_in(pool.size)
}

/// The extents that the ratio in the configuration leaves for new volumes and snapshots, and for larger volumes.
pub(super) fn room(group: &VolumeGroup, pool: &LogicalVolume, config: &ThinPoolConfig) -> Extents {
    let bytes = u128::from(pool.size) * u128::from(config.overprovision) / 100;
    let permitted = group.extent_size.whole_in(u64::try_from(bytes).unwrap_or(u64::MAX));
    permitted.without(virtual_extents(group, pool))
}

/// Why nothing can be created in the thin pool now, and no volume in it can become larger.
pub(super) fn closed(group: &VolumeGroup, pool: &LogicalVolume) -> Option<String> {
    let path = format!("{}/{}", group.name, pool.name);
    if let Some(why) = capacity::closed(group).or_else(|| broken(group, pool)) {
        return Some(why);
    }
    if pool.zeroes != Some(true) {
        return Some(format!(
            "thin pool {path} does not zero new blocks, so that a volume could show the data of another: switch that on \
             (`lvchange --zero y {path}`)"
        ));
    }
    if pool.chunk_size == 0 || !group.extent_size.0.is_multiple_of(pool.chunk_size) {
        return Some(format!(
            "thin pool {path} has chunks of {} bytes, and sizes are multiples of the extents of {} bytes: use chunks of \
             which an extent is a multiple (chunkSize when the pool is created)",
            pool.chunk_size, group.extent_size.0
        ));
    }
    let Some(status) = pool.thin_pool else {
        return Some(format!(
            "thin pool {path} is not active, so that nothing is known about its use: activate it (`lvchange --activate y \
             {path}`)"
        ));
    };
    if status.mode == ThinPoolMode::OutOfDataSpace {
        return Some(format!(
            "thin pool {path} is full: extend it (`lvextend --size +SIZE {path}`), or delete volumes and snapshots in it"
        ));
    }
    (status.metadata_percent() >= METADATA_RESERVE).then(|| {
        format!(
            "thin pool {path} uses {} % of its metadata, and the rest is reserved for the volumes in it: extend it \
             (`lvextend --poolmetadatasize +SIZE {path}`), or delete volumes and snapshots in it",
            status.metadata_percent()
        )
    })
}

/// Why a copy with at most this many bytes is not made in the thin pool now: unlike an empty volume, it takes space at
/// once. With much free space, it is tried nevertheless, because most of it may be zeros, which take none.
pub(super) fn nearly_full(
    group: &VolumeGroup,
    pool: &LogicalVolume,
    config: &ThinPoolConfig,
    bytes: u64,
) -> Option<String> {
    // Otherwise, the copy could wait for an extension that only the copy would cause.
    let limit = config.extend.map_or(NEARLY_FULL, |extend| extend.at.max(NEARLY_FULL));
    let percent = pool.thin_pool.map(|status| status.data_percent()).filter(|percent| *percent >= limit)?;
    let free = pool.size / 100 * u64::from(100_u8.saturating_sub(percent));
    let path = format!("{}/{}", group.name, pool.name);
    (bytes > free).then(|| {
        format!(
            "thin pool {path} uses {percent} % of its data, and when it is full, all volumes in it fail: extend it \
             (`lvextend --size +SIZE {path}`), or delete volumes and snapshots in it"
        )
    })
}

/// Why the kernel does not write to the thin pool any more, and how it is repaired.
pub(super) fn broken(group: &VolumeGroup, pool: &LogicalVolume) -> Option<String> {
    let status = pool.thin_pool?;
    let path = format!("{}/{}", group.name, pool.name);
    let why = match status.mode {
        ThinPoolMode::Failed => "has failed",
        ThinPoolMode::ReadOnly => "has become read-only",
        _ if status.needs_check => "must be checked",
        ThinPoolMode::Writable | ThinPoolMode::OutOfDataSpace => return None,
    };
    Some(format!(
        "thin pool {path} {why}, because its metadata is full or damaged, or a disk failed: see the kernel log; end all \
         pods that use its volumes, deactivate the volumes and the pool (`lvchange --activate n`), repair it (`lvconvert \
         --repair {path}`), extend its metadata if that was full (`lvextend --poolmetadatasize +SIZE {path}`), activate \
         it, and check every filesystem in it (fsck)"
    ))
}
