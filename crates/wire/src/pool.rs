//! Pools, as their nodes report them.

use quarry_proto::volume::v1;
use quarry_volume::{ExtentSize, Extents, Placement, PoolCapabilities, PoolState, Space, ThinUse};

use crate::text::truncated;

/// The reason of a pool that was closed without one: an empty reason would open it.
const CLOSED: &str = "it takes no new volumes";

/// A pool, as reported by its node.
#[must_use]
pub fn write(pool: PoolState) -> v1::Pool {
    let PoolState {
        name,
        kind,
        on,
        storage,
        size,
        space,
        capabilities,
        metadata_size,
        metadata_free,
        volumes,
        problems,
        hints,
        enlarge,
        repair,
        thin,
    } = pool;
    v1::Pool {
        name,
        kind,
        on,
        storage: storage.map_or_else(String::new, |storage| storage.as_str().to_owned()),
        bytes: size,
        space: Some(write_space(space)),
        metadata_bytes: metadata_size,
        metadata_free_bytes: metadata_free,
        volumes,
        problems: problems.into_iter().map(truncated).collect(),
        hints: hints.into_iter().map(truncated).collect(),
        capabilities: Some(write_capabilities(capabilities)),
        enlarge: truncated(enlarge),
        repair: repair.into_iter().map(truncated).collect(),
        thin: thin.map(write_thin),
    }
}

/// A pool, as reported by its node.
#[must_use]
pub fn read(pool: v1::Pool) -> PoolState {
    let v1::Pool {
        name,
        kind,
        on,
        storage,
        bytes,
        space,
        metadata_bytes,
        metadata_free_bytes,
        volumes,
        problems,
        hints,
        capabilities,
        enlarge,
        repair,
        thin,
    } = pool;
    // A pool that reports no space counts as full.
    let space = read_space(space.unwrap_or_default());
    PoolState {
        name,
        kind,
        on,
        storage: storage.parse().ok(),
        size: bytes,
        capabilities: read_capabilities(capabilities, &space),
        space,
        metadata_size: metadata_bytes,
        metadata_free: metadata_free_bytes,
        volumes,
        problems,
        hints,
        enlarge,
        repair,
        thin: thin.map(read_thin),
    }
}

fn write_thin(thin: ThinUse) -> v1::ThinUse {
    let ThinUse { data_percent, metadata_percent, virtual_size } = thin;
    v1::ThinUse {
        data_percent: data_percent.into(),
        metadata_percent: metadata_percent.into(),
        virtual_bytes: virtual_size,
    }
}

fn read_thin(thin: v1::ThinUse) -> ThinUse {
    let v1::ThinUse { data_percent, metadata_percent, virtual_bytes } = thin;
    let percent = |percent: u32| u8::try_from(percent).unwrap_or(u8::MAX);
    ThinUse {
        data_percent: percent(data_percent),
        metadata_percent: percent(metadata_percent),
        virtual_size: virtual_bytes,
    }
}

fn write_capabilities(capabilities: PoolCapabilities) -> v1::PoolCapabilities {
    let PoolCapabilities { wipe, snapshots, unique_storage } = capabilities;
    v1::PoolCapabilities { wipe, snapshots, unique_storage }
}

/// What a pool can do. An older node plugin does not report that, but it has only pools of logical volumes and
/// of whole disks, and `space` shows which of them this one is.
fn read_capabilities(capabilities: Option<v1::PoolCapabilities>, space: &Space) -> PoolCapabilities {
    match capabilities {
        Some(v1::PoolCapabilities { wipe, snapshots, unique_storage }) => {
            PoolCapabilities { wipe, snapshots, unique_storage }
        }
        None => {
            let disks = space.placement == Placement::WholeDisk;
            PoolCapabilities { wipe: disks, snapshots: false, unique_storage: !disks }
        }
    }
}

/// The free space of a pool.
#[must_use]
pub fn write_space(space: Space) -> v1::Space {
    let Space { extent, free, reserve, closed, placement } = space;
    v1::Space {
        extent_bytes: extent.0,
        free_extents: free.into_iter().map(|free| free.0).collect(),
        reserved_extents: reserve.0,
        closed: match closed {
            Some(reason) if reason.is_empty() => CLOSED.to_owned(),
            reason => truncated(reason.unwrap_or_default()),
        },
        whole: match placement {
            Placement::Extents => false,
            Placement::WholeDisk => true,
        },
    }
}

/// The free space of a pool.
#[must_use]
pub fn read_space(space: v1::Space) -> Space {
    let v1::Space { extent_bytes, free_extents, reserved_extents, closed, whole } = space;
    Space {
        extent: ExtentSize(extent_bytes),
        free: free_extents.into_iter().map(Extents).collect(),
        reserve: Extents(reserved_extents),
        closed: Some(closed).filter(|reason| !reason.is_empty()),
        placement: if whole { Placement::WholeDisk } else { Placement::Extents },
    }
}
