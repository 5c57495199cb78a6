//! The page of a node: its pools to scale, and its volumes.

use std::borrow::Cow;

use maud::{Markup, html};
use quarry_volume::{PoolState, plural, show_size};
use quarry_wire::view::ListedVolume;

use super::bars::{self, Kind, Share};
use super::{NOTHING, Part, UNKNOWN, fact, findings, fleet, form, frame, or, pages, range, sentence, text, volumes};
use crate::source::{Node, finds};
use crate::url::{Paging, Query, node_path};

/// The page of a node.
pub(crate) fn node(of: &Node, query: &Query) -> Markup {
    let Node { node, pools, volumes, diagnosis, .. } = of;
    let mut found = findings::of_node(diagnosis, &node.name).peekable();
    frame(
        &format!("Node {}", node.name),
        Part::None,
        &html! {
            @if !node.reachable && node.reported {
                p.notice { "The node is down. Below is what it reported last." }
            }
            section aria-labelledby="findings" {
                h2 id="findings" { "Findings" }
                @if found.peek().is_none() { p { "None that names this node." } }
                (findings::list(found))
            }
            section aria-labelledby="about" {
                h2 id="about" { "State" }
                dl {
                    (fact("State", &fleet::state(node)))
                    @if !node.why.is_empty() { (fact("Reason", &sentence(&node.why))) }
                    (fact("Quarry", &html! { (or(&node.version, UNKNOWN)) }))
                    (fact("Fill level", &fleet::fill_cell(node)))
                    (fact("Boot ID", &html! { (or(&node.boot_id, UNKNOWN)) }))
                }
                p {
                    "The controller does not know the disks of a node. This lists them, and says of each why it is free or not: "
                    code { "kubectl quarry disks --node " (text(&node.name)) }
                }
            }
            section aria-labelledby="pools" {
                h2 id="pools" { "Pools" }
                @if pools.is_empty() {
                    p { @if node.reported { "The node has no pool." } @else { "The node has not reported its pools." } }
                } @else { (all_pools(of)) }
            }
            section aria-labelledby="volumes" {
                h2 id="volumes" { "Volumes" }
                (list(&node.name, volumes, query))
            }
        },
    )
}

fn all_pools(of: &Node) -> Markup {
    let largest = of.pools.iter().map(|listed| listed.pool.size).max().unwrap_or_default();
    html! {
        (bars::patterns())
        @if of.pools.len() > 1 { p { "All bars have the same scale." } }
        @for listed in &of.pools {
            @let pool = &listed.pool;
            @let volumes = of.volumes.iter().map(|listed| &listed.volume).filter(|volume| volume.pool == pool.name);
            @let snapshots = of.snapshots.iter().filter(|snapshot| snapshot.pool == pool.name);
            @let count = (volumes.clone().count(), snapshots.clone().count());
            (one_pool(pool, &bars::shares(pool, volumes, snapshots), count, largest))
        }
    }
}

/// A pool with so many volumes and snapshots, as a bar and as a table.
fn one_pool(pool: &PoolState, shares: &[Share], (volumes, snapshots): (usize, usize), largest: u64) -> Markup {
    let whole = shares.iter().fold(0, |sum: u64, share| sum.saturating_add(share.size)).max(1);
    let percent = |size: u64| u128::from(size) * 100 / u128::from(whole);
    let parts: Vec<String> =
        shares.iter().map(|share| format!("{} {}", kind(share.kind, pool), show_size(share.size))).collect();
    let problems = pool.all_problems();
    let name = text(&pool.name);
    html! {
        h3 { "Pool " (name) }
        p {
            (or(&pool.kind, UNKNOWN)) " on " (or(&pool.on, UNKNOWN)) ", " (show_size(pool.size)) ", "
            (plural(volumes, "volume")) ", " (plural(snapshots, "snapshot")) ". "
            @if problems.is_empty() { "State: ok." } @else { strong.down { "Problem: " } (sentence(&problems.join("; "))) }
        }
        @if let Some(thin) = pool.thin {
            p {
                "A thin pool: " (thin.data_percent) " % of its data and " (thin.metadata_percent) " % of its metadata are \
                 used. Its volumes and snapshots could grow to " (show_size(thin.virtual_size)) " together."
            }
        }
        (bars::pool(shares, largest.max(whole), &format!("Pool {name}, {}: {}", show_size(pool.size), parts.join(", "))))
        table.legend {
            caption { "Space in the pool " (name) }
            thead { tr { th scope="col" { "Use" } th.number scope="col" { "Size" } th.number scope="col" { "Share" } } }
            tbody {
                @for share in shares {
                    tr {
                        th scope="row" { (bars::sample(share.kind)) " " (kind(share.kind, pool)) }
                        td.number { (show_size(share.size)) }
                        td.number { (percent(share.size)) " %" }
                    }
                }
            }
        }
        @for hint in &pool.hints { p { "Note: " (sentence(hint)) } }
    }
}

/// A kind of space in words.
fn kind(kind: Kind, pool: &PoolState) -> Cow<'static, str> {
    match kind {
        Kind::Volumes if pool.thin.is_some() => "written by volumes and snapshots".into(),
        Kind::Volumes => "volumes".into(),
        Kind::Snapshots => "snapshots".into(),
        Kind::Other => "other (metadata, other users of the storage)".into(),
        Kind::Reserve => "reserve, never allocated".into(),
        Kind::Free if pool.thin.is_some() => "not written".into(),
        Kind::Free if pool.space.closed.is_some() => "free, but no new volumes now".into(),
        Kind::Free => "free".into(),
    }
}

fn list(node: &str, all: &[ListedVolume], query: &Query) -> Markup {
    let search = query.search.to_lowercase();
    let found: Vec<&ListedVolume> = all.iter().filter(|listed| finds(&search, &listed.volume)).collect();
    let paging = Paging::new(query.page, found.len());
    let shown = paging.of(&found);
    let path = node_path(node);
    html! {
        @if all.is_empty() { p { (NOTHING) } } @else {
            (form(&path, query, "Text in the name, the identifier or the pool", &html! {}))
            p role="status" { (range(paging, shown.len(), "volume")) }
            (volumes::table(shown.iter().copied(), false))
            (pages(&path, query, paging, "volumes"))
        }
    }
}
