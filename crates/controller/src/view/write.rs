//! Converts Quarry's types to the messages of `quarry.view.v1`.

use quarry_proto::view::v1;
use quarry_volume::{AccessTypes, Layout, PoolState, Volume};

use super::unreachable::short;
use crate::member::{Link, Member};

/// A length, as an integer in a message.
pub(super) fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// A node, from memory.
pub(super) fn node(member: &Member) -> v1::Node {
    let (reachable, since, why) = match member.link() {
        Link::Up { since, .. } => (true, since, String::new()),
        Link::Down { why, since, .. } => (false, since, short(&member.name, &why)),
    };
    let memory = member.memory();
    let greeting = memory.greeting();
    let known = greeting.cloned().unwrap_or_default();
    v1::Node {
        name: member.name.clone(),
        reachable,
        since_seconds: since.elapsed().as_secs(),
        why,
        heard: greeting.is_some(),
        version: known.version,
        boot_id: known.boot_id,
        pod_uid: known.pod_uid,
        instance: known.instance,
        pools: count(memory.pools().count()),
        volumes: count(memory.count()),
        bytes: memory.pools().fold(0, |sum, pool| sum.saturating_add(pool.size)),
        free_bytes: memory.pools().fold(0, |sum, pool| sum.saturating_add(free(pool))),
    }
}

/// The free space of a pool: 0 while it takes no new volumes.
pub(super) fn free(pool: &PoolState) -> u64 {
    if pool.space.closed.is_some() { 0 } else { pool.space.available() }
}

/// The part of a pool's metadata area that volumes can use. LVM writes a new copy beside the old one, so only
/// half of the area is usable.
pub(super) fn metadata_room(pool: &PoolState) -> u64 {
    pool.metadata_size / 2
}

/// Why a pool takes no new volumes, each reason once.
pub(super) fn problems(pool: &PoolState) -> Vec<String> {
    let mut problems = pool.problems.clone();
    if let Some(closed) = &pool.space.closed
        && !problems.contains(closed)
    {
        problems.push(closed.clone());
    }
    problems
}

pub(super) fn pool(node: &str, pool: &PoolState, reachable: bool) -> v1::Pool {
    let room = metadata_room(pool);
    v1::Pool {
        node: node.to_owned(),
        name: pool.name.clone(),
        kind: pool.kind.clone(),
        on: pool.on.clone(),
        storage: pool.storage.as_ref().map(|storage| storage.as_str().to_owned()).unwrap_or_default(),
        bytes: pool.size,
        free_bytes: free(pool),
        largest_bytes: pool.space.largest(&Layout::Linear).bytes,
        metadata_bytes: room,
        metadata_free_bytes: pool.metadata_free.min(room),
        volumes: pool.volumes,
        problems: problems(pool),
        reachable,
    }
}

pub(super) fn volume(volume: &Volume, orphan: v1::Orphan, reachable: bool) -> v1::Volume {
    let access = match volume.access {
        None => v1::Access::Unknown,
        Some(AccessTypes::Mount) => v1::Access::Mount,
        Some(AccessTypes::Block) => v1::Access::Block,
        Some(AccessTypes::Both) => v1::Access::Both,
    };
    v1::Volume {
        id: volume.id.to_string(),
        name: volume.name.clone(),
        node: volume.id.node.clone(),
        pool: volume.pool.clone(),
        bytes: volume.size,
        access: access.into(),
        filesystem: volume.filesystem.map(|filesystem| filesystem.to_string()).unwrap_or_default(),
        layout: volume.layout.as_ref().map(|layout| kind(layout).to_owned()).unwrap_or_default(),
        disks: volume.layout.as_ref().map(Layout::width).unwrap_or_default(),
        ready: volume.ready,
        problem: volume.problem.clone(),
        orphan: orphan.into(),
        reachable,
    }
}

/// A layout's name, as in a StorageClass.
fn kind(layout: &Layout) -> &'static str {
    match layout {
        Layout::Linear => "linear",
        Layout::Striped { .. } => "striped",
        Layout::Raid1 { .. } => "raid1",
    }
}
