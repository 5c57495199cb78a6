//! Answers as rows of tables, and as text.

mod snapshots;

use anstyle::Style;
use quarry_pool::DiskReport;
use quarry_proto::view::v2;
use quarry_volume::{
    AccessTypes, ContentSource, CopyProgress, Encryption, Filesystem, IoLimits, Layout, Volume, plural, printable,
    show_size,
};
use quarry_wire::view::{ListedPool, ListedVolume, UnknownVolume};

pub(super) use self::snapshots::{age, snapshot, snapshots};
use crate::table::{BAD, Column, NOTABLE, NOTHING, lines, paint_start, wrapped};
use crate::terminal::Terminal;

/// An unknown value.
const UNKNOWN: &str = "?";
/// The width at which text is wrapped, unless the terminal is narrower.
const WIDTH: u16 = 120;
/// The least width of its text, in a terminal that is too narrow.
const LEAST: u16 = 20;
/// The number of spaces between the level of a finding and its text.
const GAP: usize = 2;
/// The least width of a wrapped name of a node.
const NODE: u16 = 16;
/// The least width of a wrapped name of a pool.
const POOL: u16 = 12;
/// The least width of a problem in its row.
const SENTENCES: u16 = 32;
/// The length of the names of volumes and snapshots that the sidecars choose, which are never wrapped: pvc- or snapshot-
/// and a UUID.
const CHOSEN: u16 = 45;

pub(super) const NODES: [Column; 9] = [
    Column::words("NODE").name(NODE),
    Column::words("STATE").painted(state),
    Column::figures("SINCE").left_out(2),
    Column::words("VERSION").left_out(4),
    Column::figures("POOLS").left_out(3),
    Column::figures("VOLUMES").left_out(1),
    Column::figures("SIZE"),
    Column::figures("FREE"),
    Column::words("PROBLEM").text(SENTENCES).painted(trouble),
];

pub(super) const POOLS: [Column; 11] = [
    Column::words("NODE").name(NODE),
    Column::words("POOL").name(POOL),
    Column::words("KIND").left_out(4),
    Column::words("ON").left_out(5),
    Column::figures("SIZE"),
    Column::figures("FREE"),
    Column::figures("LARGEST").left_out(3),
    Column::figures("VOLUMES").left_out(1),
    Column::figures("METADATA").left_out(2),
    Column::words("STATE").painted(state),
    Column::words("PROBLEM").text(SENTENCES).painted(trouble),
];

/// The columns of volumes. `orphans`: the user wants identifiers, which contain the node and the name. `wide`: also what is
/// too wide for most terminals.
pub(super) fn volumes(orphans: bool, wide: bool) -> Vec<Column> {
    let [node, pool, id, name] = identity(orphans);
    let mut columns = vec![
        node,
        pool,
        id,
        name,
        Column::figures("SIZE").left_out(0),
        Column::words("ACCESS").left_out(4),
        Column::words("FS").left_out(3),
        Column::words("LAYOUT").left_out(5),
        Column::words("STATE").painted(state).left_out(1),
        Column::words("ORPHAN").painted(state).left_out(2),
        Column::words("SOURCE").left_out(7),
        Column::words("PROBLEM").text(SENTENCES).painted(trouble),
    ];
    if wide {
        columns.insert(columns.len() - 1, Column::words("LIMITS"));
    }
    columns
}

/// The columns NODE, POOL, ID and NAME of volumes and snapshots. Identifiers are long: only who is to copy them sees them
/// in a narrow terminal, and then in full.
fn identity(copied: bool) -> [Column; 4] {
    let [node, pool] = [Column::words("NODE"), Column::words("POOL")];
    let [id, name] = [Column::words("ID"), Column::words("NAME")];
    match copied {
        true => [node.left_out(8), pool.left_out(2), id, name.left_out(9)],
        false => [node.name(NODE), pool.name(POOL), id.left_out(6), name.name(CHOSEN)],
    }
}

pub(super) const DISKS: [Column; 9] = [
    Column::words("DISK"),
    Column::figures("SIZE"),
    Column::words("TRANSPORT").left_out(2),
    Column::words("ROTATES").left_out(3),
    Column::words("MODEL").left_out(1),
    Column::words("SERIAL").left_out(0),
    Column::words("POOL").name(POOL),
    Column::words("STATE").painted(state),
    Column::words("REASON").text(SENTENCES),
];

/// The style of a state.
fn state(cell: &str) -> Style {
    match cell {
        "down" | "problem" | "invalid" | "lost" => BAD,
        "ORPHAN" | "unknown" | UNKNOWN => NOTABLE,
        _ => Style::new(),
    }
}

/// The style of a problem.
fn trouble(cell: &str) -> Style {
    match cell {
        NOTHING => Style::new(),
        STALE => NOTABLE,
        _ => BAD,
    }
}

/// Marks the last reported state of a node that is now down.
const STALE: &str = "its node is down: last known state";

pub(super) fn node(node: &v2::Node) -> Vec<String> {
    // A node that never reported has not reported its pools, not even an empty list.
    let if_known = |text: String| if node.reported { text } else { UNKNOWN.to_owned() };
    vec![
        node.name.clone(),
        if node.reachable { "up" } else { "down" }.to_owned(),
        length(node.since_seconds),
        if_known(or(&node.version, UNKNOWN)),
        if_known(node.pools.to_string()),
        if_known(node.volumes.to_string()),
        if_known(show_size(node.bytes)),
        if_known(show_size(node.free_bytes)),
        or(&node.why, NOTHING),
    ]
}

pub(super) fn pool(listed: &ListedPool) -> Vec<String> {
    let ListedPool { node, pool, reachable } = listed;
    let problems = pool.all_problems();
    let state = match (reachable, problems.is_empty()) {
        (false, _) => UNKNOWN,
        (true, true) => "ok",
        (true, false) => "problem",
    };
    vec![
        node.clone(),
        pool.name.clone(),
        or(&pool.kind, UNKNOWN),
        or(&pool.on, UNKNOWN),
        show_size(pool.size),
        show_size(pool.free()),
        show_size(pool.space.largest(&Layout::Linear).bytes),
        pool.volumes.to_string(),
        match pool.thin {
            Some(thin) => format!("{}%", thin.metadata_percent),
            None => used(pool.usable_metadata(), pool.metadata_free),
        },
        state.to_owned(),
        problem(&problems.join("; "), *reachable),
    ]
}

/// The problem of a volume whose identifier cannot be parsed.
const UNKNOWN_ID: &str = "this version cannot parse its identifier: use the `quarry` of the controller's own version";

/// A volume as it is shown.
pub(super) struct VolumeRow {
    /// `None`: this version cannot parse the identifier.
    pub(super) node: Option<String>,
    pub(super) pool: String,
    pub(super) id: String,
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) access: Option<AccessTypes>,
    pub(super) filesystem: Option<Filesystem>,
    pub(super) layout: Option<Layout>,
    pub(super) ready: bool,
    pub(super) problem: String,
    pub(super) orphan: Option<bool>,
    pub(super) reachable: bool,
    pub(super) source: Option<ContentSource>,
    pub(super) copying: Option<CopyProgress>,
    pub(super) limits: IoLimits,
    pub(super) limits_problem: String,
    pub(super) encryption: Option<Encryption>,
}

impl VolumeRow {
    pub(super) fn of(listed: ListedVolume) -> Self {
        let ListedVolume { volume, orphan, reachable } = listed;
        let Volume {
            id,
            name,
            size,
            pool,
            access,
            filesystem,
            layout,
            ready,
            problem,
            condition: _,
            source,
            copying,
            limits,
            limits_problem,
            encryption,
        } = volume;
        Self {
            node: Some(id.node.clone()),
            pool,
            id: id.to_string(),
            name,
            size,
            access,
            filesystem,
            layout,
            ready,
            problem,
            orphan,
            reachable,
            source,
            copying,
            limits,
            limits_problem,
            encryption,
        }
    }

    pub(super) fn unknown(volume: UnknownVolume) -> Self {
        let UnknownVolume { id, name, size, pool, access, filesystem, layout, ready, problem, orphan, reachable } =
            volume;
        let problem = match problem.as_str() {
            "" => UNKNOWN_ID.to_owned(),
            problem => format!("{problem}; {UNKNOWN_ID}"),
        };
        Self {
            node: None,
            pool,
            id,
            name,
            size,
            access,
            filesystem,
            layout,
            ready,
            problem,
            orphan,
            reachable,
            source: None,
            copying: None,
            limits: IoLimits::default(),
            limits_problem: String::new(),
            encryption: None,
        }
    }
}

/// The row of a volume; see [`volumes`].
pub(super) fn volume(volume: &VolumeRow, wide: bool) -> Vec<String> {
    let mut cells = vec![
        volume.node.clone().unwrap_or_else(|| UNKNOWN.to_owned()),
        volume.pool.clone(),
        volume.id.clone(),
        volume.name.clone(),
        show_size(volume.size),
        volume.access.map_or(UNKNOWN, access).to_owned(),
        volume.filesystem.map_or(NOTHING, Filesystem::as_str).to_owned(),
        match (volume.layout.as_ref().map(Layout::summary), volume.encryption) {
            (Some(layout), Some(encryption)) => format!("{layout}, {encryption}"),
            (Some(layout), None) => layout,
            (None, _) => UNKNOWN.to_owned(),
        },
        match (volume.copying, volume.ready) {
            (Some(progress), _) => format!("copying {}%", progress.percent()),
            (None, true) => "ready".to_owned(),
            (None, false) => "new".to_owned(),
        },
        is_orphan(volume.orphan).to_owned(),
        volume.source.as_ref().map_or_else(|| NOTHING.to_owned(), ToString::to_string),
        problem(&volume.problem, volume.reachable),
    ];
    if wide {
        let limits = match (volume.limits.is_none(), volume.limits_problem.is_empty()) {
            (true, _) => NOTHING.to_owned(),
            (false, true) => volume.limits.to_string(),
            (false, false) => format!("{} (not in force)", volume.limits),
        };
        cells.insert(cells.len() - 1, limits);
    }
    cells
}

/// Whether nothing references a volume or a snapshot.
fn is_orphan(orphan: Option<bool>) -> &'static str {
    match orphan {
        Some(true) => "ORPHAN",
        Some(false) => NOTHING,
        None => UNKNOWN,
    }
}

/// The name of the access types.
pub(super) fn access(access: AccessTypes) -> &'static str {
    match access {
        AccessTypes::Mount => "mount",
        AccessTypes::Block => "block",
        AccessTypes::Both => "both",
    }
}

pub(super) fn disk(report: &DiskReport) -> Vec<String> {
    let disk = &report.disk;
    let given = |text: &Option<String>| or(text.as_deref().unwrap_or_default(), NOTHING);
    vec![
        disk.name.clone(),
        show_size(disk.size),
        disk.transport.to_string(),
        if disk.rotational { "yes" } else { "no" }.to_owned(),
        given(&disk.model),
        given(&disk.serial),
        or(report.owner.as_ref().and_then(|owner| owner.pool()).unwrap_or_default(), NOTHING),
        report.state_name().to_owned(),
        given(&report.reason()),
    ]
}

/// The text of `quarry doctor`: the findings, and what was checked. A command is on one line, even if the terminal has to
/// break that.
pub(super) fn diagnosis(answer: &v2::DiagnoseResponse, terminal: Terminal) -> String {
    let levels: Vec<String> = answer.findings.iter().map(|finding| level(finding.level()).to_uppercase()).collect();
    let column = levels.iter().map(String::len).max().unwrap_or_default().saturating_add(GAP);
    let left = u16::try_from(column).unwrap_or(u16::MAX);
    let width = terminal.width.map(|width| width.min(WIDTH).saturating_sub(left).max(LEAST));
    let mut text = String::new();
    for (finding, level) in answer.findings.iter().zip(levels) {
        let problem = format!("{}: {}", printable(&finding.subject), printable(&finding.problem));
        let advice = format!("-> {}", printable(&finding.advice));
        let all = lines(&problem, width).into_iter().chain(lines(&advice, width));
        for (number, line) in all.enumerate() {
            let first = if number == 0 { level.as_str() } else { "" };
            // The level is at the start of a finding's first line.
            let style = match first {
                "ERROR" if terminal.colors => BAD,
                "WARNING" if terminal.colors => NOTABLE,
                _ => Style::new(),
            };
            text.push_str(&paint_start(format!("{first:column$}{line}").trim_end(), style));
            text.push('\n');
        }
    }
    if !text.is_empty() {
        text.push('\n');
    }
    text + &wrapped(&format!("{}; {}", count_findings(answer), checked(answer)), terminal)
}

fn count_findings(answer: &v2::DiagnoseResponse) -> String {
    let count = |of: v2::Level| answer.findings.iter().filter(|finding| finding.level() == of).count();
    let (errors, warnings) = (count(v2::Level::Error), count(v2::Level::Warning));
    match (errors, warnings) {
        (0, 0) => "No problem found".to_owned(),
        _ => format!("{}, {}", plural(errors, "error"), plural(warnings, "warning")),
    }
}

fn checked(answer: &v2::DiagnoseResponse) -> String {
    let totals = answer.totals.unwrap_or_default();
    let orphans = match totals.orphans_known {
        true => totals.orphans.to_string(),
        false => UNKNOWN.to_owned(),
    };
    format!(
        "{} of {} up, {}, {}, {}, {}; controller {}",
        totals.reachable_nodes,
        plural(totals.nodes, "node"),
        plural(totals.pools, "pool"),
        plural(totals.volumes, "volume"),
        plural(orphans, "orphan"),
        plural(totals.snapshots, "snapshot"),
        printable(&answer.version)
    )
}

/// A level's name.
pub(super) fn level(level: v2::Level) -> &'static str {
    match level {
        v2::Level::Error => "error",
        v2::Level::Warning => "warning",
        v2::Level::Note => "note",
        v2::Level::Unknown => "unknown",
    }
}

fn or(text: &str, otherwise: &str) -> String {
    if text.is_empty() { otherwise.to_owned() } else { text.to_owned() }
}

fn problem(problem: &str, reachable: bool) -> String {
    match (problem, reachable) {
        ("", true) => NOTHING.to_owned(),
        ("", false) => STALE.to_owned(),
        (problem, true) => problem.to_owned(),
        (problem, false) => format!("{problem} ({STALE})"),
    }
}

/// The used share, in percent.
fn used(room: u64, free: u64) -> String {
    match room {
        0 => NOTHING.to_owned(),
        _ => format!("{}%", percent(room.saturating_sub(free), room)),
    }
}

/// The share of the whole, in percent, rounded down.
fn percent(part: u64, whole: u64) -> u128 {
    u128::from(part) * 100 / u128::from(whole.max(1))
}

/// A duration as kubectl shows it: `42s`, `5m`, `3h`, `12d`.
pub(super) fn length(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}
