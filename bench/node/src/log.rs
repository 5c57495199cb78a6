//! Quarry's log at the level `debug`, read for times: when each call, each command and each reading of a volume group
//! ended, and how long it took.

/// What took time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A call such as `CreateVolume`.
    Call,
    /// A command such as `lvm lvcreate`.
    Command,
    /// Quarry read a volume group from its disks.
    Reading,
}

/// Something that took time, in seconds of the guest's clock.
#[derive(Clone, Debug, PartialEq)]
pub struct Interval {
    /// The call or the command; of a reading, the volume group.
    pub what: String,
    pub kind: Kind,
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
    let (what, kind, took) = if let Some((before, figures)) = rest.split_once(": call ended ") {
        let method = between(before, "call{method=", "}")?;
        let took: f64 = figures.split_once("seconds=")?.1.trim().parse().ok()?;
        (method.rsplit('/').next()?, Kind::Call, took)
    } else if let Some((_, figures)) = rest.split_once(": the volume group was read without lvm ") {
        let took = duration(figures.rsplit_once("duration=")?.1)?;
        (between(figures, "volume_group=\"", "\"")?, Kind::Reading, took)
    } else {
        let (before, figures) = rest.split_once(": a command ended ")?;
        let took = duration(figures.rsplit_once("duration=")?.1)?;
        (between(before, "command{label=\"", "\"")?, Kind::Command, took)
    };
    Some(Interval { what: what.to_owned(), kind, began: ended - took, ended })
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
2026-11-30T09:42:46.400000Z DEBUG quarry_pool::lvm::cache::read: the volume group was read without lvm volume_group=\"fast\" duration=25ms
";

    #[test]
    fn calls_commands_and_readings_are_read() {
        let found = intervals(LOG);
        let [mkfs, stage, reading] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((mkfs.what.as_str(), mkfs.kind), ("mkfs.ext4", Kind::Command));
        assert!((mkfs.ended - mkfs.began - 0.1305).abs() < 1e-6);
        assert_eq!((stage.what.as_str(), stage.kind), ("NodeStageVolume", Kind::Call));
        assert_eq!((reading.what.as_str(), reading.kind), ("fast", Kind::Reading));
        assert!((reading.ended - reading.began - 0.025).abs() < 1e-6);
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
