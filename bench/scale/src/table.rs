//! The results for all sizes, side by side, and their limits.

use std::time::Duration;

/// What was measured with one number of nodes.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) nodes: usize,
    pub(crate) volumes: usize,
    /// The controller's memory with all nodes, and without any, in KiB.
    pub(crate) memory: u64,
    pub(crate) empty: u64,
    /// From the list of nodes to all their full state.
    pub(crate) start: f64,
    /// The time after all agents restarted at once, until all were connected again.
    pub(crate) back: f64,
    pub(crate) capacity: Spread,
    /// CreateVolume through the controller, and of the agent itself.
    pub(crate) routed: Spread,
    pub(crate) direct: Spread,
}

/// The middle and the far end of many times, in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

impl Spread {
    pub(crate) fn of(mut times: Vec<Duration>) -> Self {
        times.sort();
        let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e6;
        Self { p50: at(50), p99: at(99) }
    }
}

impl Row {
    /// KiB of the controller for each node.
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    pub(crate) fn per_node(&self) -> f64 {
        (self.memory - self.empty) as f64 / self.nodes as f64
    }
}

/// Prints the table in the format of `docs/scale.md`.
#[allow(clippy::cast_precision_loss, reason = "for people")]
pub(crate) fn print(rows: &[Row]) {
    let line = |what: &str, cell: &dyn Fn(&Row) -> String| {
        println!("| {what} | {} |", rows.iter().map(cell).collect::<Vec<_>>().join(" | "));
    };
    line("nodes", &|row| row.nodes.to_string());
    println!("|---{}|", "|---:".repeat(rows.len()));
    line("volumes", &|row| row.volumes.to_string());
    line("memory of the controller, MiB", &|row| format!("{:.1}", row.memory as f64 / 1024.0));
    line("of that without nodes, MiB", &|row| format!("{:.1}", row.empty as f64 / 1024.0));
    line("memory per node, KiB", &|row| format!("{:.1}", row.per_node()));
    line("from start to the full state, s", &|row| format!("{:.2}", row.start));
    line("all agents restarted: all connected again, s", &|row| format!("{:.2}", row.back));
    line("GetCapacity p50 / p99, µs", &|row| both(row.capacity));
    line("CreateVolume through the controller p50 / p99, µs", &|row| both(row.routed));
    line("the same of the agent itself p50 / p99, µs", &|row| both(row.direct));
    line("routing: difference of p50, µs (ratio)", &|row| {
        format!("{:.0} ({:.2})", row.routed.p50 - row.direct.p50, row.routed.p50 / row.direct.p50)
    });
}

fn both(spread: Spread) -> String {
    format!("{:.0} / {:.0}", spread.p50, spread.p99)
}

/// What grows with the number of nodes and should not: from the smallest to the largest.
pub(crate) fn judge(rows: &[Row]) -> Vec<String> {
    let [first, .., last] = rows else { return Vec::new() };
    let mut wrong = Vec::new();
    if last.per_node() > 1.2 * first.per_node() {
        wrong.push(format!(
            "memory per node: {:.1} KiB with {} nodes, {:.1} KiB with {}: more than 1.2 times as much",
            first.per_node(),
            first.nodes,
            last.per_node(),
            last.nodes
        ));
    }
    if last.capacity.p99 > 2.0 * first.capacity.p99 {
        wrong.push(format!(
            "GetCapacity p99: {:.0} µs with {} nodes, {:.0} µs with {}: more than twice as long",
            first.capacity.p99, first.nodes, last.capacity.p99, last.nodes
        ));
    }
    wrong
}
