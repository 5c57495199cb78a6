//! Results as text and as JSON.

mod json;
#[cfg(test)]
pub(crate) mod tests;
mod text;

pub use json::json;
pub use text::text;

use crate::{LeftOut, Series};

/// Phases with the same reason, on one line each: `snapshot, restore: …`.
fn by_reason(left_out: &[LeftOut]) -> Vec<(String, String)> {
    let mut lines: Vec<(String, String)> = Vec::new();
    for LeftOut { phase, reason } in left_out {
        match lines.iter_mut().find(|(_, known)| known == reason) {
            Some((phases, _)) => *phases = format!("{phases}, {phase}"),
            None => lines.push((phase.to_string(), reason.clone())),
        }
    }
    lines
}

/// Milliseconds with three digits after the point.
fn milliseconds(time: std::time::Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// The number of failures.
fn failures(series: &Series) -> u64 {
    series.errors.values().map(|errors| errors.count).sum()
}
