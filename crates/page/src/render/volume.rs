//! The page of a volume.

use jiff::Timestamp;
use maud::{Markup, html};
use quarry_volume::{AccessTypes, ContentSource, Filesystem, Snapshot, is_plain_name, show_size};
use quarry_wire::view::ListedSnapshot;

use super::volumes::{health, layout, orphan_words, state};
use super::{NOTHING, Part, UNKNOWN, bars, fact, frame, or, text};
use crate::source::Volume;
use crate::url::{ROWS, node_path, volume_path};

/// The page of a volume: where it is, how it is, and its snapshots.
pub(crate) fn volume(of: &Volume) -> Markup {
    let Volume { volume: listed, pool, snapshots } = of;
    let volume = &listed.volume;
    let pool = pool.as_ref().map(|listed| &listed.pool);
    frame(
        &format!("Volume {}", or(&volume.name, "without a name")),
        Part::None,
        &html! {
            @if !listed.reachable { p.notice { "Its node is down. Below is what the node reported last." } }
            section aria-labelledby="state" {
                h2 id="state" { "State" }
                dl {
                    (fact("Health", &health(volume)))
                    (fact("State", &html! {
                        (state(volume))
                        @match (volume.copying, volume.ready) {
                            (Some(copied), _) => { ": " (copied.to_string()) " " (bars::fill(copied.percent())) }
                            (None, true) => ": it may contain data"
                            (None, false) => ": it was never used"
                        }
                    }))
                    (fact("Orphan", &html! {
                        (orphan_words(listed.orphan))
                        @match listed.orphan {
                            Some(true) => ": no PersistentVolume names it"
                            Some(false) => ": a PersistentVolume names it, or it is younger than five minutes"
                            None => ": the controller does not know the PersistentVolumes"
                        }
                    }))
                }
            }
            section aria-labelledby="place" {
                h2 id="place" { "Where it is" }
                dl {
                    (fact("Node", &html! { a href=(node_path(&volume.id.node)) { (text(&volume.id.node)) } }))
                    (fact("Pool", &html! { (or(&volume.pool, UNKNOWN)) }))
                    (fact("On", &html! {
                        @match pool { None => (UNKNOWN), Some(pool) => { (or(&pool.on, UNKNOWN)) " (" (or(&pool.kind, UNKNOWN)) ")" } }
                    }))
                    (fact("Layout", &html! { (layout(volume.layout.as_ref())) }))
                    (fact("Storage ID", &html! { code { (volume.id.storage.as_str()) } }))
                }
            }
            section aria-labelledby="what" {
                h2 id="what" { "What it is" }
                dl {
                    (fact("Identifier", &html! { code { (volume.id.to_string()) } }))
                    (fact("Size", &html! { (show_size(volume.size)) " (" (volume.size) " bytes)" }))
                    (fact("Access", &html! { (volume.access.map_or_else(|| UNKNOWN.to_owned(), |access: AccessTypes| access.to_string())) }))
                    (fact("Filesystem", &html! { (volume.filesystem.map_or(NOTHING, Filesystem::as_str)) }))
                    (fact("I/O limits per second", &html! { (volume.limits.to_string()) }))
                    (fact("Filled from", &source(volume.source.as_ref())))
                }
                p {
                    "Its events are in Kubernetes, not in the controller: "
                    code { "kubectl describe pv " (if is_plain_name(&volume.name) { &volume.name } else { "NAME" }) }
                }
            }
            section aria-labelledby="snapshots" {
                h2 id="snapshots" { "Snapshots" }
                @if snapshots.is_empty() { p { "None was taken from it." } } @else { (table(snapshots)) }
            }
        },
    )
}

/// What a volume was filled with, with a link if that is a volume.
fn source(source: Option<&ContentSource>) -> Markup {
    html! {
        @match source {
            Some(ContentSource::Volume(id)) => { "volume " a href=(volume_path(&id.to_string())) { (id.to_string()) } }
            Some(ContentSource::Snapshot(id)) => { "snapshot " code { (id.to_string()) } }
            None => (NOTHING)
        }
    }
}

fn table(snapshots: &[ListedSnapshot]) -> Markup {
    html! {
        @if snapshots.len() > ROWS {
            p { "The first " (ROWS) " of " (snapshots.len()) "; all: " code { "kubectl quarry snapshots --source IDENTIFIER" } }
        }
        div.wide tabindex="0" role="region" aria-label="Snapshots" {
            table {
                caption { "Snapshots of this volume" }
                thead {
                    tr {
                        th scope="col" { "Name" } th scope="col" { "Taken" } th scope="col" { "Method" }
                        th.number scope="col" { "Size" } th.number scope="col" { "Uses" }
                        th scope="col" { "State" } th scope="col" { "Orphan" }
                    }
                }
                tbody {
                    @for ListedSnapshot { snapshot, orphan, .. } in snapshots.iter().take(ROWS) {
                        tr {
                            th scope="row" { (or(&snapshot.name, "without a name")) }
                            td { (taken(snapshot.created)) }
                            td { (snapshot.method.as_str()) }
                            td.number { (show_size(snapshot.size)) }
                            td.number { (show_size(snapshot.allocated)) }
                            td { (snapshot_state(snapshot)) }
                            td { (orphan_words(*orphan)) }
                        }
                    }
                }
            }
        }
    }
}

/// A time in seconds since 1970, as text.
fn taken(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().filter(|seconds| *seconds > 0);
    let time = time.and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.map_or_else(|| "not yet".to_owned(), |time| time.to_string())
}

/// A snapshot's state in words.
fn snapshot_state(snapshot: &Snapshot) -> Markup {
    let name = snapshot.state_name();
    html! {
        @if snapshot.problem.is_empty() { (name) } @else { strong.down { (name) } ": " (text(&snapshot.problem)) }
        @if let Some(copied) = snapshot.copying { ", " (copied) }
    }
}
