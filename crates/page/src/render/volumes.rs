//! Volumes in tables, and the page of the volumes of all nodes.

use maud::{Markup, html};
use quarry_volume::{Condition, Filesystem, Layout, Volume, show_size};
use quarry_wire::view::ListedVolume;

use super::{Part, UNKNOWN, form, frame, or, pages, range, select, text};
use crate::source::Volumes;
use crate::url::{Query, Which, node_path, volume_path};

/// The page of the volumes of all nodes.
pub(crate) fn volumes(of: &Volumes, query: &Query) -> Markup {
    let Volumes { volumes, paging } = of;
    frame(
        "Volumes",
        Part::Volumes,
        &html! {
            (form("/volumes", query, "Text in the name, the identifier or the pool", &select("show", "Show", query.which, words)))
            p role="status" { (range(*paging, volumes.len(), "volume")) }
            @if !volumes.is_empty() { (table(volumes.iter(), true)) }
            (pages("/volumes", query, *paging, "volumes"))
        },
    )
}

fn words(which: Which) -> &'static str {
    match which {
        Which::All => "all",
        Which::Problems => "with a problem",
        Which::Orphans => "orphans: no PersistentVolume names them",
    }
}

/// Volumes; with their nodes, unless all are on one.
pub(super) fn table<'a>(volumes: impl Iterator<Item = &'a ListedVolume>, with_node: bool) -> Markup {
    html! {
        div.wide tabindex="0" role="region" aria-label="Volumes" {
            table {
                caption { "Volumes, by identifier" }
                thead {
                    tr {
                        th scope="col" { "Name" }
                        @if with_node { th scope="col" { "Node" } }
                        th scope="col" { "Pool" }
                        th.number scope="col" { "Size" }
                        th scope="col" { "Filesystem" }
                        th scope="col" { "Layout" }
                        th scope="col" { "State" }
                        th scope="col" { "Health" }
                        th scope="col" { "Orphan" }
                    }
                }
                tbody {
                    @for ListedVolume { volume, orphan, reachable } in volumes {
                        tr {
                            th scope="row" { a href=(volume_path(&volume.id.to_string())) { (or(&volume.name, "without a name")) } }
                            @if with_node { td { a href=(node_path(&volume.id.node)) { (text(&volume.id.node)) } } }
                            td { (or(&volume.pool, UNKNOWN)) }
                            td.number { (show_size(volume.size)) }
                            td { (volume.filesystem.map_or("none (block)", Filesystem::as_str)) }
                            td { (layout(volume.layout.as_ref())) }
                            td { (state(volume)) }
                            td {
                                (health(volume))
                                @if !reachable { br; span.why { "its node is down: last known state" } }
                            }
                            td { (orphan_words(*orphan)) }
                        }
                    }
                }
            }
        }
    }
}

/// A layout in few words: `raid1 x2`.
pub(super) fn layout(layout: Option<&Layout>) -> String {
    layout.map_or_else(|| UNKNOWN.to_owned(), Layout::summary)
}

/// A volume's state in words.
pub(super) fn state(volume: &Volume) -> String {
    match (volume.copying, volume.ready) {
        (Some(progress), _) => format!("being filled, {} %", progress.percent()),
        (None, true) => "ready".to_owned(),
        (None, false) => "new".to_owned(),
    }
}

/// A volume's health in words.
pub(super) fn health(volume: &Volume) -> Markup {
    let words = match volume.condition {
        Condition::Healthy => "healthy",
        Condition::Degraded => "degraded",
        Condition::DiskMissing => "disk missing",
        Condition::Unfinished => "not finished",
        Condition::RecordUnreadable => "record unreadable",
        Condition::FilesystemFailed => "filesystem failed",
        Condition::StorageUnreadable => "storage unreadable",
        Condition::Other => "problem",
    };
    html! {
        @if volume.condition == Condition::Healthy && volume.problem.is_empty() { (words) }
        @else {
            strong.down { (if volume.condition == Condition::Healthy { "problem" } else { words }) }
            @if !volume.problem.is_empty() { ": " (text(&volume.problem)) }
        }
    }
}

/// Whether no PersistentVolume, or no VolumeSnapshotContent, names it.
pub(super) fn orphan_words(orphan: Option<bool>) -> &'static str {
    match orphan {
        Some(true) => "orphan",
        Some(false) => "no",
        None => UNKNOWN,
    }
}
