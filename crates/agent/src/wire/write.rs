//! Converts Quarry's types to the protocol's messages.

use quarry_proto::agent::v1;
use quarry_volume::{
    AccessTypes, Change, Condition, FencingToken, Filesystem, Greeting, Layout, Parameters, PoolState, Space, Volume,
    VolumeSpec,
};

/// The maximum length of a text in a message, in bytes: longer texts belong in a log, and messages are
/// limited.
pub const MAX_TEXT: usize = 2048;

/// The reason of a pool that was closed without one: an empty reason would open it.
const CLOSED: &str = "it takes no new volumes";

/// A requested volume.
#[must_use]
pub fn spec(spec: VolumeSpec) -> v1::VolumeSpec {
    let Parameters { pool, layout, mkfs_options, wipe } = spec.class;
    v1::VolumeSpec {
        name: spec.name,
        required_bytes: spec.size.required,
        // A limit of 0 permits nothing, but 0 on the wire means no limit.
        limit_bytes: spec.size.limit.map_or(0, |limit| limit.max(1)),
        pool: pool.unwrap_or_default(),
        access: access(Some(spec.access)).into(),
        filesystem: filesystem(spec.filesystem),
        layout: layout.code(),
        mkfs_options,
        wipe: wipe.map_or_else(String::new, |wipe| wipe.to_string()),
    }
}

/// The fencing token of the controller that selected the node.
#[must_use]
pub fn token(token: FencingToken) -> v1::FencingToken {
    v1::FencingToken { fence: token.fence, instance: token.instance }
}

/// A volume, as reported by its node.
#[must_use]
pub fn volume(volume: Volume) -> v1::Volume {
    v1::Volume {
        id: volume.id.to_string(),
        name: volume.name,
        bytes: volume.size,
        pool: volume.pool,
        access: access(volume.access).into(),
        filesystem: filesystem(volume.filesystem),
        layout: volume.layout.as_ref().map_or_else(String::new, Layout::code),
        ready: volume.ready,
        problem: text(volume.problem),
        condition: condition(volume.condition).into(),
    }
}

/// The kind of a volume's problem.
fn condition(condition: Condition) -> v1::Condition {
    match condition {
        Condition::Healthy => v1::Condition::Unspecified,
        Condition::Degraded => v1::Condition::Degraded,
        Condition::DiskMissing => v1::Condition::DiskMissing,
        Condition::Unfinished => v1::Condition::Unfinished,
        Condition::RecordUnreadable => v1::Condition::RecordUnreadable,
        Condition::FilesystemFailed => v1::Condition::FilesystemFailed,
        Condition::StorageUnreadable => v1::Condition::StorageUnreadable,
        Condition::Other => v1::Condition::Other,
    }
}

/// A pool, as reported by its node.
#[must_use]
pub fn pool(pool: PoolState) -> v1::PoolState {
    v1::PoolState {
        name: pool.name,
        kind: pool.kind,
        on: pool.on,
        storage: pool.storage.map_or_else(String::new, |storage| storage.as_str().to_owned()),
        bytes: pool.size,
        space: Some(space(pool.space)),
        metadata_bytes: pool.metadata_size,
        metadata_free_bytes: pool.metadata_free,
        volumes: pool.volumes,
        problems: pool.problems.into_iter().map(text).collect(),
        hints: pool.hints.into_iter().map(text).collect(),
    }
}

/// The free space of a pool.
#[must_use]
pub fn space(space: Space) -> v1::Space {
    v1::Space {
        extent_bytes: space.extent,
        free_extents: space.free,
        reserved_extents: space.reserve,
        closed: match space.closed {
            Some(reason) if reason.is_empty() => CLOSED.to_owned(),
            reason => text(reason.unwrap_or_default()),
        },
        whole: space.whole,
    }
}

/// A change.
#[must_use]
pub fn change(change: Change) -> v1::Change {
    v1::Change {
        generation: change.generation,
        pools: change.pools.into_iter().map(pool).collect(),
        volumes: change.volumes.into_iter().map(volume).collect(),
        gone: change.gone.iter().map(ToString::to_string).collect(),
    }
}

/// The identity of a node.
#[must_use]
pub fn greeting(greeting: Greeting) -> v1::Greeting {
    v1::Greeting {
        node: greeting.node,
        instance: greeting.instance,
        pod_uid: greeting.pod_uid,
        boot_id: greeting.boot_id,
        version: greeting.version,
        capabilities: greeting.capabilities,
    }
}

fn access(access: Option<AccessTypes>) -> v1::AccessTypes {
    match access {
        None => v1::AccessTypes::Unknown,
        Some(AccessTypes::Mount) => v1::AccessTypes::Mount,
        Some(AccessTypes::Block) => v1::AccessTypes::Block,
        Some(AccessTypes::Both) => v1::AccessTypes::Both,
    }
}

fn filesystem(filesystem: Option<Filesystem>) -> String {
    filesystem.map_or("", Filesystem::as_str).to_owned()
}

/// Truncates a text for people to [`MAX_TEXT`].
fn text(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        let end = (0..=MAX_TEXT).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}
