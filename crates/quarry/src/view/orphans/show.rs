//! What is known about an orphan, for the person who decides whether to delete it.

use std::time::SystemTime;

use quarry_volume::{Filesystem, Layout, printable, show_size, some_of};
use quarry_wire::view::ListedSnapshot;

use super::rows::{self, VolumeRow};
use crate::table::NOTHING;

/// A volume or a snapshot that may be an orphan.
pub(super) enum Orphan {
    /// The volume, and its snapshots.
    Volume(Box<VolumeRow>, Vec<ListedSnapshot>),
    Snapshot(Box<ListedSnapshot>),
}

impl Orphan {
    /// Whether nothing names it; `None` if the controller does not know that.
    pub(super) fn orphan(&self) -> Option<bool> {
        match self {
            Self::Volume(volume, _) => volume.orphan,
            Self::Snapshot(listed) => listed.orphan,
        }
    }

    /// Whether the controller knows that nothing names it.
    pub(super) fn is_orphan(&self) -> bool {
        self.orphan() == Some(true)
    }

    /// Whether its node is reachable.
    pub(super) fn is_reachable(&self) -> bool {
        match self {
            Self::Volume(volume, _) => volume.reachable,
            Self::Snapshot(listed) => listed.reachable,
        }
    }
}

/// What follows for every orphan. Its lines fit a narrow terminal.
const WARNING: &str = "\
No object of this cluster names it. It may be the only copy of its data, or it
may belong to another cluster that uses the same disks. If it is mounted or
open, its node rejects the deletion. A deletion cannot be undone.
";

/// The facts, one a line, and what they mean.
pub(super) fn text(orphan: &Orphan) -> String {
    let (title, facts) = match orphan {
        Orphan::Volume(volume, snapshots) => (format!("volume {}", volume.id), of_volume(volume, snapshots)),
        Orphan::Snapshot(listed) => (format!("snapshot {}", listed.snapshot.id), of_snapshot(listed)),
    };
    let mut text = format!("{}\n", printable(&title));
    for (name, value) in facts {
        text.push_str(&format!("  {:12}{}\n", format!("{name}:"), printable(&value)));
    }
    text + WARNING
}

fn or(text: &str) -> String {
    if text.is_empty() { NOTHING } else { text }.to_owned()
}

fn of_volume(volume: &VolumeRow, snapshots: &[ListedSnapshot]) -> Vec<(&'static str, String)> {
    let state = match (volume.copying, volume.ready) {
        (Some(progress), _) => format!("copying {}%; a claim that is Pending may still get it", progress.percent()),
        (None, true) => "ready: it may contain data".to_owned(),
        (None, false) => "new: it was never staged; a claim that is Pending may still get it".to_owned(),
    };
    let taken = match snapshots.is_empty() {
        true => NOTHING.to_owned(),
        false => some_of(snapshots.iter().map(|listed| listed.snapshot.id.to_string())),
    };
    vec![
        ("node", volume.node.clone().unwrap_or_default()),
        ("pool", volume.pool.clone()),
        ("name", volume.name.clone()),
        ("size", show_size(volume.size)),
        ("access", volume.access.map_or("?", rows::access).to_owned()),
        ("filesystem", volume.filesystem.map_or(NOTHING, Filesystem::as_str).to_owned()),
        ("layout", volume.layout.as_ref().map_or_else(|| "?".to_owned(), Layout::summary)),
        ("encryption", volume.encryption.map_or(NOTHING, |encryption| encryption.as_str()).to_owned()),
        ("state", state),
        ("filled from", volume.source.as_ref().map_or_else(|| NOTHING.to_owned(), ToString::to_string)),
        ("snapshots", taken),
        ("problem", or(&volume.problem)),
    ]
}

fn of_snapshot(listed: &ListedSnapshot) -> Vec<(&'static str, String)> {
    let snapshot = &listed.snapshot;
    vec![
        ("node", snapshot.id.node.clone()),
        ("pool", snapshot.pool.clone()),
        ("name", snapshot.name.clone()),
        ("source", snapshot.source.to_string()),
        ("method", snapshot.method.to_string()),
        ("size", show_size(snapshot.size)),
        ("uses", show_size(snapshot.allocated)),
        ("age", rows::age(snapshot.created, SystemTime::now())),
        ("state", snapshot.state_name().to_owned()),
        ("problem", or(&snapshot.problem)),
    ]
}
