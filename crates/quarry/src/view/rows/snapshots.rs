//! Snapshots as rows of tables.

use std::time::{Duration, SystemTime};

use quarry_volume::show_size;
use quarry_wire::view::ListedSnapshot;

use super::{NOTHING, SENTENCES, identity, is_orphan, length, problem, state, trouble};
use crate::table::Column;

/// The columns of snapshots. `orphans`: the user wants identifiers, which contain the node and the name.
pub(in crate::view) fn snapshots(orphans: bool) -> [Column; 12] {
    let [node, pool, id, name] = identity(orphans);
    [
        node,
        pool,
        id,
        name,
        Column::words("SOURCE").left_out(7),
        Column::words("METHOD").left_out(5),
        Column::figures("SIZE").left_out(4),
        Column::figures("USES").left_out(0),
        Column::figures("AGE").left_out(3),
        Column::words("STATE").painted(state).left_out(1),
        Column::words("ORPHAN").painted(state).left_out(2),
        Column::words("PROBLEM").text(SENTENCES).painted(trouble),
    ]
}

/// A snapshot, at that time.
pub(in crate::view) fn snapshot(listed: &ListedSnapshot, now: SystemTime) -> Vec<String> {
    let ListedSnapshot { snapshot, orphan, reachable } = listed;
    vec![
        snapshot.id.node.clone(),
        snapshot.pool.clone(),
        snapshot.id.to_string(),
        snapshot.name.clone(),
        snapshot.source.to_string(),
        snapshot.method.to_string(),
        show_size(snapshot.size),
        show_size(snapshot.allocated),
        age(snapshot.created, now),
        match snapshot.copying {
            Some(progress) => format!("copying {}%", progress.percent()),
            None => snapshot.state_name().to_owned(),
        },
        is_orphan(*orphan).to_owned(),
        problem(&snapshot.problem, *reachable),
    ]
}

/// The age of a snapshot that was taken at that time, in seconds since 1970; 0 if it was not taken completely.
pub(in crate::view) fn age(created: u64, now: SystemTime) -> String {
    match created {
        0 => NOTHING.to_owned(),
        created => {
            let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            length(now.saturating_sub(Duration::from_secs(created)).as_secs())
        }
    }
}
