//! Pools, as their nodes report them.

use quarry_proto::volume::v1;
use quarry_volume::{ExtentSize, Extents, PoolState, Space};

use crate::text::truncated;

/// The reason of a pool that was closed without one: an empty reason would open it.
const CLOSED: &str = "it takes no new volumes";

/// A pool, as reported by its node.
#[must_use]
pub fn write(pool: PoolState) -> v1::Pool {
    let PoolState { name, kind, on, storage, size, space, metadata_size, metadata_free, volumes, problems, hints } =
        pool;
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
    } = pool;
    PoolState {
        name,
        kind,
        on,
        storage: storage.parse().ok(),
        size: bytes,
        // A pool that reports no space counts as full.
        space: read_space(space.unwrap_or_default()),
        metadata_size: metadata_bytes,
        metadata_free: metadata_free_bytes,
        volumes,
        problems,
        hints,
    }
}

/// The free space of a pool.
#[must_use]
pub fn write_space(space: Space) -> v1::Space {
    let Space { extent, free, reserve, closed, whole } = space;
    v1::Space {
        extent_bytes: extent.0,
        free_extents: free.into_iter().map(|free| free.0).collect(),
        reserved_extents: reserve.0,
        closed: match closed {
            Some(reason) if reason.is_empty() => CLOSED.to_owned(),
            reason => truncated(reason.unwrap_or_default()),
        },
        whole,
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
        whole,
    }
}
