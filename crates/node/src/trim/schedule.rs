//! When the unused space of a volume is discarded.
//!
//! Time is divided into periods of one interval, counted from 1970. In each period, a volume has one time, which a hash of
//! its identifier and of the period selects. So nothing has to be stored, volumes do not begin at the same time, and no
//! volume is left out for long: a node that is off every night, or for a whole period, misses only the times that fall
//! into it, and the next one is at another time of the day.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quarry_volume::VolumeId;

/// Whether a time of the volume is after `since` and not after `now`. If the clock was set back, none is.
pub(super) fn is_due(id: &VolumeId, interval: Duration, since: SystemTime, now: SystemTime) -> bool {
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    next(&id.to_string(), interval.as_secs(), seconds(since)) <= seconds(now)
}

/// The first time after `after`, in seconds since 1970, as all numbers here. At most two intervals later.
fn next(id: &str, interval: u64, after: u64) -> u64 {
    let interval = interval.max(1);
    let period = after.checked_div(interval).unwrap_or_default();
    match time_in(id, interval, period) {
        time if time > after => time,
        _ => time_in(id, interval, period.saturating_add(1)),
    }
}

/// The time in that period.
fn time_in(id: &str, interval: u64, period: u64) -> u64 {
    let hash = blake3::hash(format!("quarry trim v1\n{id}\n{period}").as_bytes());
    let number = hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    period.saturating_mul(interval).saturating_add(number.checked_rem(interval).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WEEK: u64 = 7 * 24 * 3600;
    const NOW: u64 = 1_800_000_000;

    #[test]
    fn a_volume_has_one_time_in_each_period() {
        for interval in [1, 20, 3600, WEEK] {
            let mut time = NOW;
            for period in NOW / interval + 1..NOW / interval + 50 {
                // From anywhere in the gap, the next time is the same.
                let (start, before) = (period * interval, time);
                time = next("v", interval, start - 1);
                assert!((start..start + interval).contains(&time), "{interval}: {time}");
                assert!(time > before && time - before < 2 * interval);
                assert_eq!(next("v", interval, time - 1), time);
                assert!(next("v", interval, time) > time);
            }
        }
    }

    #[test]
    fn volumes_are_spread_over_the_interval_and_over_the_day() {
        let times: Vec<u64> = (0..700).map(|number| next(&format!("v-{number}"), WEEK, NOW / WEEK * WEEK)).collect();
        let in_day = |day: u64| times.iter().filter(|time| **time % WEEK / (24 * 3600) == day).count();
        assert!((0..7).all(|day| (50..150).contains(&in_day(day))), "{:?}", (0..7).map(in_day).collect::<Vec<_>>());
        // One volume: a node that is off in one half of every day misses about half of its times.
        let in_day_half = (1..=100).filter(|week| next("v", WEEK, (NOW / WEEK + week) * WEEK - 1) % 86_400 < 43_200);
        assert!((25..75).contains(&in_day_half.count()));
    }

    /// Golden: a newer version must not begin again with all volumes at once.
    #[test]
    fn times_do_not_change_with_the_version() {
        let times = [next("v1:abcdefghij:node-1:pvc-1", WEEK, NOW), next("v1:abcdefghij:node-1:pvc-2", WEEK, NOW)];
        assert_eq!(times, [1_800_072_902, 1_800_318_517]);
    }

    #[test]
    fn a_time_is_due_once() {
        let id: VolumeId = "v1:abcdefghij:node-1:pvc-1".parse().unwrap();
        let interval = Duration::from_secs(60);
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let time = next(&id.to_string(), 60, NOW);
        let due = |since, now| is_due(&id, interval, at(since), at(now));
        assert!(due(NOW, time) && due(time - 1, time) && due(NOW, time + 1000));
        assert!(!due(NOW, time - 1) && !due(time, time));
        // The clock was set back.
        assert!(!due(time + 1000, NOW) && !due(time, time - 1));
    }

    proptest! {
        #[test]
        fn any_numbers_have_an_answer(interval: u64, after: u64) {
            let time = next("v", interval, after);
            prop_assert!(time > after || time == u64::MAX || after > u64::MAX / 2);
        }
    }
}
