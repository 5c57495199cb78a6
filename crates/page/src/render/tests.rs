//! The pages as HTML, from made-up data.

use std::collections::BTreeMap;
use std::sync::Arc;

use quarry_proto::view::v2;
use quarry_volume::{Condition, PoolState, StorageId, Volume, VolumeId};
use quarry_wire::view::{ListedPool, ListedVolume};

use super::*;
use crate::source::{Fleet, Node, Volumes};
use crate::url::ROWS;

const GIB: u64 = 1 << 30;
/// Ends an element and begins a script.
const SCRIPT: &str = "\"><script>alert(1)</script>";
/// Ends an attribute and begins another one, and an element of SVG and of a style.
const ATTRIBUTE: &str = "x' onload='a' y=\" onload=\"b\"></svg></style>";

fn a_node(number: u64, up: bool) -> v2::Node {
    v2::Node {
        name: format!("n{number:04}"),
        reachable: up,
        since_seconds: 60,
        reported: number % 10 != 9,
        version: "0.1.0".into(),
        pools: 1,
        volumes: number,
        bytes: 100 * GIB,
        free_bytes: (100 - number % 100) * GIB,
        ..v2::Node::default()
    }
}

fn a_finding(level: v2::Level, subject: &str) -> v2::Finding {
    v2::Finding {
        level: level.into(),
        check: "check".into(),
        subject: subject.into(),
        problem: "has a problem".into(),
        advice: "run `quarry doctor`".into(),
    }
}

fn a_fleet(nodes: Vec<v2::Node>, findings: Vec<v2::Finding>) -> Fleet {
    let diagnosis = v2::DiagnoseResponse { findings, totals: None, version: "0.1.0".into() };
    Fleet { nodes: Ok(nodes), diagnosis: Arc::new(diagnosis) }
}

fn a_volume(name: &str) -> ListedVolume {
    let id = VolumeId { storage: StorageId::of("s"), node: "n".into(), volume: "v".into() };
    let volume = Volume { name: name.into(), pool: "p".into(), size: GIB, ..Volume::new(id) };
    ListedVolume { volume, orphan: None, reachable: true }
}

fn of_fleet(nodes: &Fleet, query: &str) -> String {
    fleet(nodes, &Query::parse(query)).into_string()
}

/// The nodes of a page, in their order.
fn rows(html: &str) -> Vec<&str> {
    let rows = html.split("<tr><th scope=\"row\"><a href=\"/nodes/").skip(1);
    rows.map(|row| row.split_once('"').unwrap().0).collect()
}

/// All pages, with names that try to break them in every place.
fn all_pages(name: &str) -> BTreeMap<&'static str, String> {
    let diagnosis = v2::DiagnoseResponse {
        findings: vec![
            v2::Finding {
                check: name.into(),
                problem: name.into(),
                advice: name.into(),
                ..a_finding(v2::Level::Error, name)
            },
            a_finding(v2::Level::Warning, "node n0001"),
        ],
        totals: Some(v2::Totals::default()),
        version: name.into(),
    };
    let diagnosis = Arc::new(diagnosis);
    let named = v2::Node {
        name: name.into(),
        why: name.into(),
        version: name.into(),
        boot_id: name.into(),
        ..a_node(1, false)
    };
    let pool = PoolState {
        name: name.into(),
        kind: name.into(),
        on: name.into(),
        size: GIB,
        problems: vec![name.into()],
        hints: vec![name.into()],
        ..PoolState::default()
    };
    let mut volume = a_volume(name);
    (volume.volume.pool, volume.volume.problem) = (name.into(), name.into());
    volume.volume.condition = Condition::Degraded;
    let listed = ListedPool { node: name.into(), pool, reachable: false };
    let of_node = Node {
        node: named.clone(),
        pools: vec![listed.clone()],
        volumes: vec![volume.clone()],
        snapshots: Vec::new(),
        diagnosis: Arc::clone(&diagnosis),
    };
    let mut taken = quarry_volume::Snapshot::new(
        quarry_volume::SnapshotId { storage: StorageId::of("s"), node: "n".into(), snapshot: "s".into() },
        volume.volume.id.clone(),
    );
    (taken.name, taken.problem) = (name.into(), name.into());
    let snapshots = vec![quarry_wire::view::ListedSnapshot { snapshot: taken, orphan: None, reachable: true }];
    let all = Volumes { volumes: vec![volume.clone()], paging: Paging::new(1, 201) };
    let query = Query { search: name.into(), page: 1, ..Query::default() };
    let any = Query { page: 1, ..Query::default() };
    let fleet_page = fleet(&Fleet { nodes: Ok(vec![named]), diagnosis: Arc::clone(&diagnosis) }, &query);
    BTreeMap::from([
        ("fleet", fleet_page),
        ("unlisted", fleet(&Fleet { nodes: Err(name.into()), diagnosis: Arc::clone(&diagnosis) }, &any)),
        ("findings", findings(&diagnosis, &query)),
        ("node", node(&of_node, &any)),
        ("volumes", volumes(&all, &query)),
        ("volume", super::volume(&crate::source::Volume { volume, pool: Some(listed), snapshots })),
        ("not found", not_found(name)),
        ("failed", failed(name)),
    ])
    .into_iter()
    .map(|(page, html)| (page, html.into_string()))
    .collect()
}

#[test]
fn names_stay_text() {
    let plain = all_pages("plain");
    for name in [SCRIPT, ATTRIBUTE, "</title><img src=x>", "&lt;b&gt;", "`<i>`"] {
        for (page, html) in all_pages(name) {
            assert!(!html.contains(name), "{page} contains {name}");
            // The same elements and attributes as with a plain name.
            let count = |html: &str, what: char| html.matches(what).count();
            let code = html.matches("<code>").count() - plain[page].matches("<code>").count();
            for (what, of_code) in [('<', 2), ('>', 2), ('"', 0)] {
                let expected = count(&plain[page], what) + of_code * code;
                assert_eq!(count(&html, what), expected, "{page}, {name}: {what}");
            }
        }
    }
    let html = &all_pages("a\u{1b}[2J\nb\u{0}")["node"];
    assert!(!html.contains(['\u{1b}', '\u{0}']) && html.contains("a\\u{1b}[2J\\nb\\u{0}"), "{html}");
}

#[test]
fn a_page_has_a_hundred_of_five_thousand_nodes() {
    let fleet = a_fleet((0..5000).map(|number| a_node(number, number % 7 != 0)).collect(), Vec::new());
    let html = of_fleet(&fleet, "page=3");
    let shown = rows(&html);
    assert_eq!((shown.len(), shown[0], shown[99]), (ROWS, "n0200", "n0299"));
    assert!(html.contains("201 to 300 of 5000 nodes") && html.contains("Page 3 of 50"), "{html}");
    assert!(html.len() < 128 << 10, "{} bytes", html.len());
    let links = ["href=\"/?page=2\"", "href=\"/?page=4\"", "href=\"/?page=50\""];
    assert!(links.iter().all(|link| html.contains(link)), "{html}");
    assert_eq!(rows(&of_fleet(&fleet, "page=1")).len(), ROWS);
    assert_eq!(rows(&of_fleet(&fleet, "page=51"))[99], "n4999");
}

#[test]
fn nodes_are_filtered_and_links_keep_the_filter() {
    let fleet = a_fleet(
        (0..500).map(|number| a_node(number, number % 7 != 0)).collect(),
        vec![
            a_finding(v2::Level::Error, "pool a on node n0042"),
            a_finding(v2::Level::Warning, "node n0043"),
            a_finding(v2::Level::Note, "node n0044"),
        ],
    );
    assert_eq!(rows(&of_fleet(&fleet, "q=N004&state=findings")), ["n0042", "n0043"]);
    assert_eq!(rows(&of_fleet(&fleet, "q=n004&state=down")), ["n0042", "n0049"]);
    assert_eq!(
        rows(&of_fleet(&fleet, "q=n009&fill=90")),
        ["n0090", "n0091", "n0092", "n0093", "n0094", "n0095", "n0096", "n0097", "n0098"]
    );
    assert_eq!(rows(&of_fleet(&fleet, "fill=unknown&q=n000")), ["n0009"]);
    let html = of_fleet(&fleet, "state=up&sort=-volumes&page=2");
    assert_eq!(rows(&html)[0], "n0368");
    for link in [
        "/?state=up&amp;sort=-volumes&amp;page=3",
        "/?state=up&amp;sort=volumes#nodes",
        "/?state=up&amp;sort=free#nodes",
    ] {
        assert!(html.contains(&format!("href=\"{link}\"")), "{link}: {html}");
    }
    assert!(
        html.contains("<option value=\"up\" selected>") && html.contains("name=\"sort\" value=\"-volumes\""),
        "{html}"
    );
    let none = of_fleet(&fleet, "q=nothing");
    assert!(rows(&none).is_empty() && none.contains("0 nodes"), "{none}");
}

#[test]
fn nodes_are_sorted_and_the_unknown_is_the_smallest() {
    let fleet = a_fleet((1..=9).map(|number| a_node(number, number != 4)).collect(), Vec::new());
    let first = |query: &str| rows(&of_fleet(&fleet, query))[0].to_owned();
    for (query, expected) in [
        ("sort=name", "n0001"),
        ("sort=-name", "n0009"),
        ("sort=volumes", "n0009"),
        ("sort=-volumes", "n0008"),
        ("sort=fill", "n0009"),
        ("sort=-fill", "n0008"),
        ("sort=-free", "n0001"),
        ("sort=state", "n0004"),
        ("sort=nonsense", "n0001"),
    ] {
        assert_eq!(first(query), expected, "{query}");
    }
    let html = of_fleet(&fleet, "sort=-fill");
    assert_eq!(html.matches("aria-sort").count(), 1);
    assert!(html.contains("aria-sort=\"descending\"><a href=\"/?sort=fill#nodes\">Fill level</a>"), "{html}");
}

#[test]
fn states_are_words() {
    let fleet = a_fleet(vec![a_node(1, true), a_node(9, false)], vec![a_finding(v2::Level::Error, "node n0009")]);
    let html = of_fleet(&fleet, "");
    for words in [
        ">up</span> for 60 s",
        ">down</strong> for 60 s, has not reported yet",
        "<strong class=\"level\">Error</strong>",
        " 1 %",
        ">1 error</strong>",
    ] {
        assert!(html.contains(words), "{words}: {html}");
    }
    assert!(html.contains("run <code>quarry doctor</code>"), "{html}");
}

#[test]
fn every_page_can_be_read_by_a_screen_reader() {
    for (page, html) in all_pages("plain") {
        assert!(html.starts_with("<!DOCTYPE html><html lang=\"en\">"), "{page}");
        assert_eq!(html.matches("<main id=\"main\"").count(), 1, "{page}");
        assert!(html.contains("href=\"#main\">Skip to the content"), "{page}");
        assert_eq!(html.matches("<table").count(), html.matches("<caption>").count(), "{page}");
        assert!(!html.contains("<th>"), "{page}: a heading of a table has a scope");
        let pictures = html.matches("<svg").count();
        let named =
            html.matches("role=\"img\" aria-label=\"").count() + html.matches("aria-hidden=\"true\" focusable").count();
        assert_eq!(pictures, named, "{page}");
        // Headings are in order, and begin with the only h1.
        let levels: Vec<u32> =
            html.match_indices("<h").filter_map(|(at, _)| html[at + 2..=at + 2].parse().ok()).collect();
        assert_eq!(levels.iter().filter(|level| **level == 1).count(), 1, "{page}: {levels:?}");
        assert!(levels[0] == 1 && levels.windows(2).all(|pair| pair[1] <= pair[0] + 1), "{page}: {levels:?}");
        // No script, no inline style, nothing from elsewhere.
        for forbidden in
            ["<script", " style=", " onclick", "src=", "http:", "https:", "<link rel=\"stylesheet", "@import"]
        {
            // The name of SVG in the icon is no address.
            let html = html.replace("http://www.w3.org/2000/svg", "");
            assert!(!html.contains(forbidden), "{page} contains {forbidden}");
        }
        // Each id is there once, and what refers to one finds it.
        let ids: Vec<&str> = html.split(" id=\"").skip(1).map(|rest| rest.split_once('"').unwrap().0).collect();
        let unique: std::collections::BTreeSet<&str> = ids.iter().copied().collect();
        assert_eq!(ids.len(), unique.len(), "{page}: {ids:?}");
        for label in html.split("aria-labelledby=\"").skip(1).map(|rest| rest.split_once('"').unwrap().0) {
            assert!(unique.contains(label), "{page}: {label}");
        }
    }
}

/// The colours of the stylesheet: first those of the light scheme, then those of the dark one.
fn colours() -> [BTreeMap<&'static str, [f64; 3]>; 2] {
    let (light, dark) = STYLE.split_once("@media (prefers-color-scheme: dark)").unwrap();
    let dark = dark.split_once("* {").unwrap().0;
    [light, dark].map(|scheme| {
        let lines =
            scheme.lines().filter_map(|line| line.trim().strip_prefix("--")?.strip_suffix(';')?.split_once(": #"));
        let part = |hex: &str, at: usize| f64::from(u8::from_str_radix(&hex[at..at + 2], 16).unwrap()) / 255.0;
        lines.map(|(name, hex)| (name, [part(hex, 0), part(hex, 2), part(hex, 4)])).collect()
    })
}

/// The contrast of two colours, as WCAG 2 defines it.
fn contrast(one: [f64; 3], other: [f64; 3]) -> f64 {
    let linear = |part: f64| if part <= 0.04045 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) };
    let luminance =
        |[red, green, blue]: [f64; 3]| 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue);
    let (one, other) = (luminance(one) + 0.05, luminance(other) + 0.05);
    one.max(other) / one.min(other)
}

#[test]
fn text_and_bars_stand_out_in_both_schemes() {
    assert!((contrast([1.0; 3], [0.0; 3]) - 21.0).abs() < 0.01);
    for colours in colours() {
        assert_eq!(colours.len(), 10, "{colours:?}");
        for paper in ["paper", "soft"] {
            for ink in ["ink", "quiet", "link", "bad", "warn", "good"] {
                let contrast = contrast(colours[ink], colours[paper]);
                assert!(contrast >= 4.5, "{ink} on {paper}: {contrast}");
            }
        }
        for drawn in ["bar", "line"] {
            let contrast = contrast(colours[drawn], colours["paper"]);
            assert!(contrast >= 3.0, "{drawn}: {contrast}");
        }
    }
}
