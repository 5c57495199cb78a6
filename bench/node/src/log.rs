//! Quarry's log at the level `debug`, read for times: when each call and each command ended, and how long it took.

/// Something that took time, in seconds of the guest's clock.
#[derive(Clone, Debug, PartialEq)]
pub struct Interval {
    /// A call such as `CreateVolume`, or a command such as `lvm lvcreate`.
    pub what: String,
    pub call: bool,
    pub began: f64,
    pub ended: f64,
}

/// The intervals of a log, in the order of their ends.
pub fn intervals(log: &str) -> Vec<Interval> {
    log.lines().filter_map(interval).collect()
}

fn interval(line: &str) -> Option<Interval> {
    let (time, rest) = line.split_once(' ')?;
    let ended = seconds_of_day(time)?;
    let (what, call, took) = if let Some((before, figures)) = rest.split_once(": call ended ") {
        let method = between(before, "call{method=", "}")?;
        let took: f64 = figures.split_once("seconds=")?.1.trim().parse().ok()?;
        (method.rsplit('/').next()?.to_owned(), true, took)
    } else {
        let (before, figures) = rest.split_once(": a command ended ")?;
        let took = duration(figures.rsplit_once("duration=")?.1)?;
        (between(before, "command{label=\"", "\"")?.to_owned(), false, took)
    };
    Some(Interval { what, call, began: ended - took, ended })
}

fn between<'a>(text: &'a str, left: &str, right: &str) -> Option<&'a str> {
    // The last one: spans that enclose it come first.
    let (_, rest) = text.rsplit_once(left)?;
    rest.split_once(right).map(|(found, _)| found)
}

/// The seconds since midnight of `2026-11-30T09:42:44.771141Z`.
fn seconds_of_day(time: &str) -> Option<f64> {
    let clock = time.split_once('T')?.1.strip_suffix('Z')?;
    let mut parts = clock.split(':');
    let mut next = || parts.next()?.parse::<f64>().ok();
    Some(next()? * 3600.0 + next()? * 60.0 + next()?)
}

/// A duration as Rust's `Debug` writes it: `130.07ms`, `1.5s`, `17µs`.
fn duration(text: &str) -> Option<f64> {
    let text = text.split_whitespace().next()?;
    let digits = text.trim_end_matches(|c: char| c.is_alphabetic());
    let factor = match text.get(digits.len()..)? {
        "s" => 1.0,
        "ms" => 1e-3,
        "µs" => 1e-6,
        "ns" => 1e-9,
        _ => return None,
    };
    Some(digits.parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
2026-11-30T09:42:45.909560Z DEBUG call{method=Node/NodeStageVolume}:task{what=\"stage\" volume=\"pvc-0\"}:command{label=\"mkfs.ext4\" command=\"mkfs.ext4 -q /dev/dm-0\"}: quarry_exec::process: a command ended command=\"mkfs.ext4 -q /dev/dm-0\" code=0 duration=130.5ms
2026-11-30T09:42:46.292838Z DEBUG call{method=Node/NodeStageVolume}: quarry_transport::call: call ended code=\"OK\" seconds=0.75
2026-11-30T09:42:46.300000Z  INFO quarry: something else
";

    #[test]
    fn calls_and_commands_are_read() {
        let found = intervals(LOG);
        let [mkfs, stage] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((mkfs.what.as_str(), mkfs.call), ("mkfs.ext4", false));
        assert!((mkfs.ended - mkfs.began - 0.1305).abs() < 1e-6);
        assert_eq!((stage.what.as_str(), stage.call), ("NodeStageVolume", true));
        assert!((stage.began - (9.0 * 3600.0 + 42.0 * 60.0 + 45.542_838)).abs() < 1e-6);
    }

    #[test]
    fn durations_have_units() {
        for (text, expected) in [("1.5s", 1.5), ("17µs", 17e-6), ("2ms more", 2e-3), ("9ns", 9e-9)] {
            assert!((duration(text).unwrap() - expected).abs() < 1e-12, "{text}");
        }
        assert!(duration("5 minutes").is_none());
        assert!(duration("").is_none());
    }
}
