//! The messages that only `quarry.view.v2` has: pools, volumes and snapshots in an operator's lists, with what
//! the controller adds.

use quarry_proto::view::v2;
use quarry_volume::{AccessTypes, Filesystem, Layout, PoolState, Snapshot, Volume};

use crate::{pool, snapshot, volume};

/// A pool in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedPool {
    /// Its node.
    pub node: String,
    /// The pool, as its node last reported it.
    pub pool: PoolState,
    /// Whether its node is reachable.
    pub reachable: bool,
}

/// A volume in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedVolume {
    /// The volume, as its node last reported it.
    pub volume: Volume,
    /// Whether no PersistentVolume references it; `None` while they are not known.
    pub orphan: Option<bool>,
    /// Whether its node is reachable.
    pub reachable: bool,
}

/// A snapshot in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedSnapshot {
    /// The snapshot, as its node last reported it.
    pub snapshot: Snapshot,
    /// Whether no VolumeSnapshotContent references it; `None` while they are not known.
    pub orphan: Option<bool>,
    /// Whether its node is reachable.
    pub reachable: bool,
}

/// A pool in a list.
#[must_use]
pub fn write_pool(listed: ListedPool) -> v2::ListedPool {
    let ListedPool { node, pool, reachable } = listed;
    v2::ListedPool { node, pool: Some(pool::write(pool)), reachable }
}

/// A pool in a list.
#[must_use]
pub fn read_pool(listed: v2::ListedPool) -> ListedPool {
    let v2::ListedPool { node, pool, reachable } = listed;
    ListedPool { node, pool: pool::read(pool.unwrap_or_default()), reachable }
}

/// A volume in a list.
#[must_use]
pub fn write_volume(listed: ListedVolume) -> v2::ListedVolume {
    let ListedVolume { volume, orphan, reachable } = listed;
    v2::ListedVolume { volume: Some(volume::write(volume)), orphan: write_orphan(orphan).into(), reachable }
}

fn write_orphan(orphan: Option<bool>) -> v2::Orphan {
    match orphan {
        None => v2::Orphan::Unknown,
        Some(false) => v2::Orphan::No,
        Some(true) => v2::Orphan::Yes,
    }
}

fn read_orphan(orphan: v2::Orphan) -> Option<bool> {
    match orphan {
        v2::Orphan::Unknown => None,
        v2::Orphan::No => Some(false),
        v2::Orphan::Yes => Some(true),
    }
}

/// A volume in a list whose identifier this version cannot parse: only to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownVolume {
    /// The identifier, as it was sent.
    pub id: String,
    /// The name.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// The pool.
    pub pool: String,
    /// How it may be used, if this version knows that.
    pub access: Option<AccessTypes>,
    /// Its filesystem, if it has one and this version knows it.
    pub filesystem: Option<Filesystem>,
    /// Its layout, if this version knows it.
    pub layout: Option<Layout>,
    /// Whether it was used.
    pub ready: bool,
    /// The problem, if there is one.
    pub problem: String,
    /// Whether no PersistentVolume references it; `None` while they are not known.
    pub orphan: Option<bool>,
    /// Whether its node is reachable.
    pub reachable: bool,
}

/// A volume in a list.
///
/// # Errors
/// What can be shown of a volume whose identifier this version cannot parse.
pub fn read_volume(listed: v2::ListedVolume) -> Result<ListedVolume, Box<UnknownVolume>> {
    let orphan = read_orphan(listed.orphan());
    let v2::ListedVolume { volume, orphan: _, reachable } = listed;
    let message = volume.unwrap_or_default();
    match volume::read(message.clone()) {
        Some(volume) => Ok(ListedVolume { volume, orphan, reachable }),
        None => Err(Box::new(UnknownVolume {
            access: volume::read_access(message.access),
            filesystem: message.filesystem.parse().ok(),
            layout: Layout::from_code(&message.layout),
            id: message.id,
            name: message.name,
            size: message.bytes,
            pool: message.pool,
            ready: message.ready,
            problem: message.problem,
            orphan,
            reachable,
        })),
    }
}

/// A snapshot in a list.
#[must_use]
pub fn write_snapshot(listed: ListedSnapshot) -> v2::ListedSnapshot {
    let ListedSnapshot { snapshot, orphan, reachable } = listed;
    v2::ListedSnapshot { snapshot: Some(snapshot::write(snapshot)), reachable, orphan: write_orphan(orphan).into() }
}

/// A snapshot in a list; `None` if this version cannot parse its identifier.
#[must_use]
pub fn read_snapshot(listed: v2::ListedSnapshot) -> Option<ListedSnapshot> {
    let orphan = read_orphan(listed.orphan());
    let v2::ListedSnapshot { snapshot, reachable, orphan: _ } = listed;
    Some(ListedSnapshot { snapshot: snapshot::read(snapshot.unwrap_or_default())?, orphan, reachable })
}
