//! The results for programs. The format is described in docs/bench.md.

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use quarry_proto::csi::v1::volume_capability::AccessType;
use serde::Serialize;

use super::milliseconds;
use crate::{LeftOut, Plan, Ratio, Results, Retries, Series, ratios};

/// The version of the format. A new field does not change it.
const VERSION: u32 = 1;

#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    run: &'a str,
    started_unix_seconds: u64,
    driver: Driver<'a>,
    settings: Settings<'a>,
    phases: Vec<&'static str>,
    left_out: Vec<Out<'a>>,
    floor_left_out: Vec<Out<'a>>,
    results: Vec<Row<'a>>,
    ratios: Vec<Quotient>,
    left_behind: &'a [String],
    interrupted: bool,
}

#[derive(Serialize)]
struct Driver<'a> {
    name: &'a str,
    version: &'a str,
}

#[derive(Serialize)]
struct Settings<'a> {
    controller: &'a str,
    node: &'a str,
    volumes: usize,
    concurrency: &'a [usize],
    rounds: usize,
    warm_up: bool,
    background: usize,
    size_bytes: i64,
    expand_to_bytes: i64,
    access_type: &'static str,
    fs_type: &'a str,
    mount_flags: &'a [String],
    access_mode: &'static str,
    parameters: &'a BTreeMap<String, String>,
    snapshot_parameters: &'a BTreeMap<String, String>,
    /// Never their values.
    secrets: Vec<&'a str>,
    segments: &'a BTreeMap<String, String>,
    timeout_seconds: f64,
    patience_seconds: f64,
    retry_interval_seconds: f64,
    settle_seconds: f64,
    floor: Option<Floor<'a>>,
}

#[derive(Serialize)]
struct Floor<'a> {
    kind: &'static str,
    volume_group: &'a str,
    thin_pool: Option<&'a str>,
    lvcreate_options: &'a [String],
}

#[derive(Serialize)]
struct Out<'a> {
    phase: &'static str,
    reason: &'a str,
}

#[derive(Serialize)]
struct Row<'a> {
    system: &'static str,
    concurrency: usize,
    phase: &'static str,
    latency_ms: Option<Milliseconds>,
    seconds: f64,
    per_second: Option<f64>,
    retries: &'a Retries,
    errors: BTreeMap<&'a str, Errors<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    samples: Vec<[f64; 2]>,
}

#[derive(Serialize)]
struct Milliseconds {
    count: u64,
    min: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    max: f64,
}

#[derive(Serialize)]
struct Errors<'a> {
    count: u64,
    first: &'a str,
}

#[derive(Serialize)]
struct Quotient {
    concurrency: usize,
    phase: &'static str,
    p50: f64,
    per_second: Option<f64>,
    per_second_in_a_row: Option<f64>,
}

/// The results as one JSON document, which ends with a newline. `samples` adds every single time.
///
/// # Errors
/// Not with results of a run: every field can be written.
pub fn json(results: &Results, samples: bool) -> serde_json::Result<String> {
    let document = Document {
        version: VERSION,
        run: &results.run,
        started_unix_seconds: results.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        driver: Driver { name: &results.driver.name, version: &results.driver.version },
        settings: settings(&results.plan),
        phases: results.steps.iter().map(|phase| phase.name()).collect(),
        left_out: results.left_out.iter().map(out).collect(),
        floor_left_out: results.floor_left_out.iter().map(out).collect(),
        results: results.series.iter().map(|series| row(series, samples)).collect(),
        ratios: ratios(&results.series).iter().map(quotient).collect(),
        left_behind: &results.left_behind,
        interrupted: results.interrupted,
    };
    Ok(format!("{}\n", serde_json::to_string_pretty(&document)?))
}

fn settings(plan: &Plan) -> Settings<'_> {
    let (access_type, fs_type, mount_flags) = match &plan.capability.access_type {
        Some(AccessType::Mount(mount)) => ("mount", mount.fs_type.as_str(), mount.mount_flags.as_slice()),
        Some(AccessType::Block(_)) => ("block", "", [].as_slice()),
        None => ("unknown", "", [].as_slice()),
    };
    Settings {
        controller: &plan.controller,
        node: &plan.node,
        volumes: plan.volumes,
        concurrency: &plan.concurrency,
        rounds: plan.rounds,
        warm_up: plan.warm_up,
        background: plan.background,
        size_bytes: plan.size,
        expand_to_bytes: plan.expand_to,
        access_type,
        fs_type,
        mount_flags,
        access_mode: plan.capability.access_mode.unwrap_or_default().mode().as_str_name(),
        parameters: &plan.parameters,
        snapshot_parameters: &plan.snapshot_parameters,
        secrets: plan.secrets.keys().map(String::as_str).collect(),
        segments: &plan.segments,
        timeout_seconds: plan.timeout.as_secs_f64(),
        patience_seconds: plan.patience.as_secs_f64(),
        retry_interval_seconds: plan.retry_interval.as_secs_f64(),
        settle_seconds: plan.settle.as_secs_f64(),
        floor: plan.floor.as_ref().map(|floor| Floor {
            kind: "lvm",
            volume_group: &floor.volume_group,
            thin_pool: floor.thin_pool.as_deref(),
            lvcreate_options: &floor.lvcreate_options,
        }),
    }
}

fn out(left_out: &LeftOut) -> Out<'_> {
    Out { phase: left_out.phase.name(), reason: &left_out.reason }
}

fn row(series: &Series, samples: bool) -> Row<'_> {
    let times = series.samples.iter().filter(|_| samples);
    Row {
        system: series.kind.name(),
        concurrency: series.concurrency,
        phase: series.what.name(),
        latency_ms: series.latency().map(|latency| Milliseconds {
            count: latency.count,
            min: milliseconds(latency.min),
            p50: milliseconds(latency.p50),
            p90: milliseconds(latency.p90),
            p99: milliseconds(latency.p99),
            max: milliseconds(latency.max),
        }),
        seconds: milliseconds(series.wall) / 1e3,
        per_second: series.throughput().map(thousandths),
        retries: &series.retries,
        errors: series
            .errors
            .iter()
            .map(|(code, errors)| (code.as_str(), Errors { count: errors.count, first: &errors.first }))
            .collect(),
        samples: times.map(|sample| [milliseconds(sample.at), milliseconds(sample.took)]).collect(),
    }
}

fn quotient(ratio: &Ratio) -> Quotient {
    Quotient {
        concurrency: ratio.concurrency,
        phase: ratio.what.name(),
        p50: thousandths(ratio.p50),
        per_second: ratio.throughput.map(thousandths),
        per_second_in_a_row: ratio.throughput_in_a_row.map(thousandths),
    }
}

fn thousandths(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}
