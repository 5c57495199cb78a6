//! The messages that only `quarry.view.v2` has: pools and volumes in an operator's lists, with what the
//! controller adds.

use quarry_proto::view::v2;
use quarry_volume::{PoolState, Volume};

use crate::{pool, volume};

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
    let orphan = match orphan {
        None => v2::Orphan::Unknown,
        Some(false) => v2::Orphan::No,
        Some(true) => v2::Orphan::Yes,
    };
    v2::ListedVolume { volume: Some(volume::write(volume)), orphan: orphan.into(), reachable }
}

/// A volume in a list; `None` if its identifier cannot be parsed.
#[must_use]
pub fn read_volume(listed: v2::ListedVolume) -> Option<ListedVolume> {
    let orphan = match listed.orphan() {
        v2::Orphan::Unknown => None,
        v2::Orphan::No => Some(false),
        v2::Orphan::Yes => Some(true),
    };
    let v2::ListedVolume { volume, orphan: _, reachable } = listed;
    Some(ListedVolume { volume: volume::read(volume?)?, orphan, reachable })
}
