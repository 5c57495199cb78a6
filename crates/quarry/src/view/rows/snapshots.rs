//! Snapshots as rows of tables.

use std::time::{Duration, SystemTime};

use quarry_volume::show_size;
use quarry_wire::view::ListedSnapshot;

use super::{NOTHING, is_orphan, length, problem};
use crate::table::Column;

pub(in crate::view) const SNAPSHOTS: [Column; 12] = [
    Column::words("NODE"),
    Column::words("POOL"),
    Column::words("ID"),
    Column::words("NAME"),
    Column::words("SOURCE"),
    Column::words("METHOD"),
    Column::figures("SIZE"),
    Column::figures("USES"),
    Column::figures("AGE"),
    Column::words("STATE"),
    Column::words("ORPHAN"),
    Column::words("PROBLEM"),
];

/// A snapshot, at that time.
pub(in crate::view) fn snapshot(listed: &ListedSnapshot, now: SystemTime) -> Vec<String> {
    let ListedSnapshot { snapshot, orphan, reachable } = listed;
    let age = match snapshot.created {
        0 => NOTHING.to_owned(),
        created => {
            let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            length(now.saturating_sub(Duration::from_secs(created)).as_secs())
        }
    };
    vec![
        snapshot.id.node.clone(),
        snapshot.pool.clone(),
        snapshot.id.to_string(),
        snapshot.name.clone(),
        snapshot.source.to_string(),
        snapshot.method.to_string(),
        show_size(snapshot.size),
        show_size(snapshot.allocated),
        age,
        match snapshot.copying {
            Some(progress) => format!("copying {}%", progress.percent()),
            None => snapshot.state_name().to_owned(),
        },
        is_orphan(*orphan).to_owned(),
        problem(&snapshot.problem, *reachable),
    ]
}
