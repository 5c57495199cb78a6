//! The page of all nodes.

use std::cmp::Ordering;
use std::time::Duration;

use maud::{Markup, html};
use quarry_proto::view::v2;
use quarry_volume::{human_duration, plural, show_size};

use super::findings::{self, Counts};
use super::{NOTHING, Part, UNKNOWN, bars, form, frame, or, pages, range, select, sentence, text};
use crate::source::Fleet;
use crate::url::{Column, Fill, Paging, Query, Show, node_path};

/// The page of all nodes: first what is wrong, then how full they are, then a page of them.
pub(crate) fn fleet(fleet: &Fleet, query: &Query) -> Markup {
    let Fleet { nodes, diagnosis } = fleet;
    frame(
        "Fleet",
        Part::Fleet,
        &html! {
            section aria-labelledby="findings" {
                h2 id="findings" { "Findings" }
                (findings::first(diagnosis))
            }
            @match nodes {
                Err(why) => { p.notice role="status" { (sentence(why)) } }
                Ok(nodes) => {
                    section aria-labelledby="summary" {
                        h2 id="summary" { "Summary" }
                        (totals(diagnosis.totals.unwrap_or_default()))
                        (levels(nodes))
                    }
                    section aria-labelledby="nodes" {
                        h2 id="nodes" { "Nodes" }
                        (list(nodes, diagnosis, query))
                    }
                }
            }
        },
    )
}

fn totals(totals: v2::Totals) -> Markup {
    let orphans = if totals.orphans_known { totals.orphans.to_string() } else { "an unknown number of".to_owned() };
    html! {
        p {
            (totals.reachable_nodes) " of " (plural(totals.nodes, "node")) " up, " (plural(totals.pools, "pool")) ", "
            a href="/volumes" { (plural(totals.volumes, "volume")) } ", " (plural(orphans, "orphan")) ", "
            (plural(totals.snapshots, "snapshot")) "."
        }
    }
}

/// The share of a node's storage that is not free for new volumes, in percent; `None` if it is not known.
pub(super) fn percent(node: &v2::Node) -> Option<u64> {
    let used = node.bytes.saturating_sub(node.free_bytes);
    let percent = u128::from(used) * 100 / u128::from(node.bytes.max(1));
    (node.reported && node.bytes > 0).then(|| u64::try_from(percent).unwrap_or(100))
}

fn level(node: &v2::Node) -> Fill {
    match percent(node) {
        None => Fill::Unknown,
        Some(0..50) => Fill::Low,
        Some(50..80) => Fill::Half,
        Some(80..90) => Fill::High,
        Some(_) => Fill::Full,
    }
}

fn level_words(level: Fill) -> &'static str {
    match level {
        Fill::Any => "any",
        Fill::Full => "90 % or more",
        Fill::High => "80 to 89 %",
        Fill::Half => "50 to 79 %",
        Fill::Low => "less than 50 %",
        Fill::Unknown => "not known",
    }
}

fn show_words(show: Show) -> &'static str {
    match show {
        Show::All => "any",
        Show::Up => "up",
        Show::Down => "down",
        Show::Findings => "with an error or a warning",
    }
}

/// How many nodes are how full, and in which state.
fn levels(nodes: &[v2::Node]) -> Markup {
    html! {
        div.wide tabindex="0" role="region" aria-label="Nodes by fill level" { table.levels {
            caption { "Nodes by fill level and state. The fill level is the share of a node's storage that is not free for new volumes." }
            thead { tr { th scope="col" { "Fill level" } th.number scope="col" { "Up" } th.number scope="col" { "Down" } th scope="col" { "Share of all nodes" } } }
            tbody {
                @for fill in [Fill::Full, Fill::High, Fill::Half, Fill::Low, Fill::Unknown] {
                    @let count = |up| nodes.iter().filter(|node| node.reachable == up && level(node) == fill).count();
                    @let (up, down) = (count(true), count(false));
                    @let share = 100 * (up + down) / nodes.len().max(1);
                    tr {
                        th scope="row" { (level_words(fill)) }
                        td.number { (counted(up, Show::Up, fill)) }
                        td.number { (counted(down, Show::Down, fill)) }
                        td { (bars::fill(u64::try_from(share).unwrap_or(100))) " " (share) " %" }
                    }
                }
            }
        } }
    }
}

/// A number of nodes, with a link to them.
fn counted(count: usize, show: Show, fill: Fill) -> Markup {
    let query = Query { show, fill, page: 1, ..Query::default() };
    html! { @if count == 0 { "0" } @else { a href={ "/" (query) "#nodes" } { (count) } } }
}

fn list(nodes: &[v2::Node], diagnosis: &v2::DiagnoseResponse, query: &Query) -> Markup {
    let counts = findings::by_node(diagnosis);
    let search = query.search.to_lowercase();
    let mut found: Vec<&v2::Node> = nodes
        .iter()
        .filter(|node| Query::finds(&search, &node.name))
        .filter(|node| match query.show {
            Show::All => true,
            Show::Up => node.reachable,
            Show::Down => !node.reachable,
            Show::Findings => counts.contains_key(node.name.as_str()),
        })
        .filter(|node| query.fill == Fill::Any || level(node) == query.fill)
        .collect();
    // They are sorted by name already, and stay so where they are equal.
    found.sort_by(|one, other| {
        let order = order(query.sort, one, other);
        if query.descending { order.reverse() } else { order }
    });
    let paging = Paging::new(query.page, found.len());
    let shown = paging.of(&found);
    html! {
        (form("/", query, "Text in the name", &html! {
            (select("state", "State", query.show, show_words))
            (select("fill", "Fill level", query.fill, level_words))
        }))
        p role="status" { (range(paging, shown.len(), "node")) }
        @if !shown.is_empty() { (table(shown, &counts, query)) }
        (pages("/", query, paging, "nodes"))
    }
}

fn order(column: Column, one: &v2::Node, other: &v2::Node) -> Ordering {
    // What is not known is smaller than everything.
    let known = |node: &v2::Node, value: u64| node.reported.then_some(value);
    let by = |value: fn(&v2::Node) -> u64| known(one, value(one)).cmp(&known(other, value(other)));
    match column {
        Column::Name => one.name.cmp(&other.name),
        Column::State => (one.reachable, one.since_seconds).cmp(&(other.reachable, other.since_seconds)),
        Column::Pools => by(|node| node.pools),
        Column::Volumes => by(|node| node.volumes),
        Column::Size => by(|node| node.bytes),
        Column::Free => by(|node| node.free_bytes),
        Column::Fill => percent(one).cmp(&percent(other)),
    }
}

/// A node's state in words.
pub(super) fn state(node: &v2::Node) -> Markup {
    let since = human_duration(Duration::from_secs(node.since_seconds));
    html! {
        @if node.reachable { span.up { "up" } } @else { strong.down { "down" } }
        " for " (since)
        @if !node.reported { ", has not reported yet" }
    }
}

/// How full a node is, in words and as a bar.
pub(super) fn fill_cell(node: &v2::Node) -> Markup {
    html! {
        @match percent(node) {
            None => (UNKNOWN),
            Some(percent) => { (bars::fill(percent)) " " (percent) " %" }
        }
    }
}

fn table(nodes: &[&v2::Node], counts: &std::collections::BTreeMap<&str, Counts>, query: &Query) -> Markup {
    let head = |column: Column, name: &str, number: bool| {
        let sorted = query.sort == column;
        let order = match (sorted, query.descending) {
            (false, _) => None,
            (true, false) => Some("ascending"),
            (true, true) => Some("descending"),
        };
        html! {
            th scope="col" class=[number.then_some("number")] aria-sort=[order] {
                a href={ "/" (query.sorted_by(column)) "#nodes" } { (name) }
                @match order {
                    Some("ascending") => { span aria-hidden="true" { " ▲" } }
                    Some(_) => { span aria-hidden="true" { " ▼" } }
                    None => {}
                }
            }
        }
    };
    html! {
        div.wide tabindex="0" role="region" aria-label="Nodes" {
            table.nodes {
                caption { "Nodes. Free is the space for new volumes: 0 while the pools of a node take none." }
                thead {
                    tr {
                        (head(Column::Name, "Node", false))
                        (head(Column::State, "State", false))
                        (head(Column::Pools, "Pools", true))
                        (head(Column::Volumes, "Volumes", true))
                        (head(Column::Size, "Size", true))
                        (head(Column::Free, "Free", true))
                        (head(Column::Fill, "Fill level", false))
                        th scope="col" { "Findings" }
                    }
                }
                tbody { @for node in nodes { (row(node, counts.get(node.name.as_str()).copied())) } }
            }
        }
    }
}

fn row(node: &v2::Node, counts: Option<Counts>) -> Markup {
    // A node that never reported has not reported its pools, not even an empty list.
    let known = |text: String| if node.reported { text } else { UNKNOWN.to_owned() };
    html! {
        tr {
            th scope="row" { a href=(node_path(&node.name)) { (text(&node.name)) } }
            td {
                (state(node))
                @if !node.why.is_empty() { br; span.why { (or(&node.why, NOTHING)) } }
            }
            td.number { (known(node.pools.to_string())) }
            td.number { (known(node.volumes.to_string())) }
            td.number { (known(show_size(node.bytes))) }
            td.number { (known(show_size(node.free_bytes))) }
            td.bar { (fill_cell(node)) }
            td { @if let Some(counts) = counts { (counted_findings(counts)) } @else { (NOTHING) } }
        }
    }
}

fn counted_findings(Counts { errors, warnings }: Counts) -> Markup {
    html! {
        @if errors > 0 { strong.down { (plural(errors, "error")) } }
        @if errors > 0 && warnings > 0 { ", " }
        @if warnings > 0 { (plural(warnings, "warning")) }
    }
}
