//! The results for people.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use quarry_volume::{printable, show_size};

use super::{by_reason, failures, milliseconds};
use crate::{Latency, Results, Series, ratios};

/// The results as text: what was measured, the figures, the ratios, what was left out, and what went wrong.
#[must_use]
pub fn text(results: &Results) -> String {
    let mut text = heading(results);
    let _ = write!(text, "\n{}", figures(&results.series));
    let ratios = quotients(results);
    if !ratios.is_empty() {
        let _ = write!(text, "\nDriver / floor:\n\n{ratios}");
    }
    for (title, left_out) in [("Left out", &results.left_out), ("Left out of the floor", &results.floor_left_out)] {
        if !left_out.is_empty() {
            let _ = write!(text, "\n{title}:\n");
        }
        for (phases, reason) in by_reason(left_out) {
            let _ = writeln!(text, "  {phases}: {reason}");
        }
    }
    text.push_str(&wrong(results));
    text
}

fn heading(results: &Results) -> String {
    let plan = &results.plan;
    let count = |number: usize, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
    let mut text = format!(
        "{} {}: {} of {} per round, {} for each concurrency",
        printable(&results.driver.name),
        printable(&results.driver.version),
        count(plan.volumes, "volume"),
        show_size(u64::try_from(plan.size).unwrap_or_default()),
        count(plan.rounds, "round"),
    );
    if plan.background > 0 {
        let _ = write!(text, ", beside {}", count(plan.background, "other volume"));
    }
    if let Some(floor) = &plan.floor {
        let _ = write!(text, "; the floor: commands on the volume group {}", floor.volume_group);
    }
    text.push('\n');
    text
}

fn figures(series: &[Series]) -> String {
    const TITLES: [&str; 11] = [
        "AT ONCE",
        "PHASE",
        "SYSTEM",
        "COUNT",
        "P50 ms",
        "P90 ms",
        "P99 ms",
        "MAX ms",
        "PER SECOND",
        "RETRIES",
        "ERRORS",
    ];
    let rows = series.iter().map(|series| {
        let latency = series.latency();
        let time = |of: fn(&Latency) -> std::time::Duration| {
            latency.as_ref().map_or_else(dash, |latency| digits(milliseconds(of(latency))))
        };
        vec![
            series.concurrency.to_string(),
            series.what.to_string(),
            series.kind.to_string(),
            series.samples.len().to_string(),
            time(|latency| latency.p50),
            time(|latency| latency.p90),
            time(|latency| latency.p99),
            time(|latency| latency.max),
            series.throughput().map_or_else(dash, digits),
            series.retries.values().sum::<u64>().to_string(),
            failures(series).to_string(),
        ]
    });
    table(&TITLES, rows)
}

fn quotients(results: &Results) -> String {
    const TITLES: [&str; 5] = ["AT ONCE", "PHASE", "P50", "PER SECOND", "PER SECOND / FLOOR IN A ROW"];
    let ratios = ratios(&results.series);
    if ratios.is_empty() {
        return String::new();
    }
    let rows = ratios.iter().map(|ratio| {
        let number = |number: Option<f64>| number.map_or_else(dash, |number| format!("{number:.2}"));
        vec![
            ratio.concurrency.to_string(),
            ratio.what.to_string(),
            number(Some(ratio.p50)),
            number(ratio.throughput),
            number(ratio.throughput_in_a_row),
        ]
    });
    table(&TITLES, rows)
}

/// Retries, errors, what is left behind.
fn wrong(results: &Results) -> String {
    let mut text = String::new();
    let mut section = |title: &str, lines: Vec<String>| {
        if !lines.is_empty() {
            let _ = write!(text, "\n{title}:\n");
        }
        for line in lines {
            let _ = writeln!(text, "  {}", printable(&line));
        }
    };
    let of = |series: &Series| format!("{} at once, {}, {}", series.concurrency, series.kind, series.what);
    let retries = results.series.iter().filter(|series| !series.retries.is_empty()).map(|series| {
        let each: Vec<String> = series.retries.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        format!("{}: {}", of(series), each.join(", "))
    });
    section("Retries", retries.collect());
    let errors = results.series.iter().flat_map(|series| {
        let line = |(code, errors): (&String, &crate::Errors)| {
            format!("{}: {code} {}; the first: {}", of(series), errors.count, errors.first)
        };
        series.errors.iter().map(line).collect::<Vec<_>>()
    });
    section("Errors", errors.collect());
    section("Left behind", results.left_behind.clone());
    if results.interrupted {
        text.push_str("\nInterrupted: the figures are about what was done until then.\n");
    }
    text
}

fn dash() -> String {
    "-".to_owned()
}

/// Three digits, or as many as there are before the point.
fn digits(number: f64) -> String {
    match number {
        _ if number >= 100.0 => format!("{number:.0}"),
        _ if number >= 10.0 => format!("{number:.1}"),
        _ => format!("{number:.2}"),
    }
}

/// Aligned columns without borders; all but the names are aligned right.
fn table(titles: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.add_row(titles);
    table.add_rows(rows);
    align(&mut table, titles);
    format!("{}\n", table.trim_fmt())
}

fn align(table: &mut Table, titles: &[&str]) {
    for (index, title) in titles.iter().enumerate() {
        let Some(column) = table.column_mut(index) else { continue };
        column.set_padding((0, 2));
        if !matches!(*title, "PHASE" | "SYSTEM") {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}
