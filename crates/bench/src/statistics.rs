//! What was measured, and the figures that follow from it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::Phase;
use crate::system::{Failure, Kind, Retries};

/// What a series of samples is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum What {
    /// One phase.
    Phase(Phase),
    /// Several phases of the same volume, one after the other: the sum of their times.
    Sum(Sum),
}

/// Phases that belong together for a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sum {
    /// From nothing to a published volume.
    CreateToPublish,
    /// From an existing volume to a published one.
    RestageToRepublish,
}

impl Sum {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::CreateToPublish, Self::RestageToRepublish];

    /// The phases that are added, if a round has them.
    #[must_use]
    pub fn phases(self) -> &'static [Phase] {
        match self {
            Self::CreateToPublish => &[Phase::Create, Phase::Attach, Phase::Stage, Phase::Publish],
            Self::RestageToRepublish => &[Phase::Restage, Phase::Republish],
        }
    }
}

impl What {
    /// The name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Phase(phase) => phase.name(),
            Self::Sum(Sum::CreateToPublish) => "create-to-publish",
            Self::Sum(Sum::RestageToRepublish) => "restage-to-republish",
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One call that succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When it began, since the run began.
    pub at: Duration,
    /// How long it took, with its repetitions.
    pub took: Duration,
}

/// The failures with one code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors {
    /// How many volumes failed.
    pub count: u64,
    /// The message of the first one.
    pub first: String,
}

/// Everything that was measured about one phase with one number of volumes at once.
#[derive(Clone, Debug)]
pub struct Series {
    /// The driver, or the bare commands.
    pub kind: Kind,
    /// How many volumes were worked on at once.
    pub concurrency: usize,
    /// The phase.
    pub what: What,
    /// The calls that succeeded, in the order in which they ended.
    pub samples: Vec<Sample>,
    /// The time from the start of the first call to the end of the last one, summed over the rounds. Zero for
    /// sums of phases.
    pub wall: Duration,
    /// How often calls were repeated, by the reason.
    pub retries: Retries,
    /// The failures, by code.
    pub errors: BTreeMap<String, Errors>,
}

impl Series {
    pub(crate) fn new(kind: Kind, concurrency: usize, what: What) -> Self {
        Self {
            kind,
            concurrency,
            what,
            samples: Vec::new(),
            wall: Duration::ZERO,
            retries: Retries::new(),
            errors: BTreeMap::new(),
        }
    }

    pub(crate) fn fail(&mut self, failure: Failure) {
        let errors = self.errors.entry(failure.code).or_insert_with(|| Errors { count: 0, first: failure.message });
        errors.count += 1;
    }

    /// The distribution of the times; `None` if no call succeeded.
    #[must_use]
    pub fn latency(&self) -> Option<Latency> {
        Latency::of(self.samples.iter().map(|sample| sample.took))
    }

    /// Calls that succeeded per second; `None` for sums of phases.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "numbers of calls are small")]
    pub fn throughput(&self) -> Option<f64> {
        (!self.wall.is_zero() && !self.samples.is_empty()).then(|| self.samples.len() as f64 / self.wall.as_secs_f64())
    }
}

/// The distribution of times. The quantiles are exact to a thousandth of their value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// The number of samples.
    pub count: u64,
    /// The shortest time.
    pub min: Duration,
    /// The median.
    pub p50: Duration,
    /// Nine of ten were not slower.
    pub p90: Duration,
    /// Ninety-nine of a hundred were not slower.
    pub p99: Duration,
    /// The longest time.
    pub max: Duration,
}

impl Latency {
    /// The distribution of some times; `None` without any.
    pub fn of(times: impl IntoIterator<Item = Duration>) -> Option<Self> {
        let times: Vec<Duration> = times.into_iter().collect();
        let (min, max) = (times.iter().min().copied()?, times.iter().max().copied()?);
        // In nanoseconds; grows as needed.
        let mut histogram = Histogram::<u64>::new(3).ok()?;
        for time in times {
            histogram.record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 2)).ok()?;
        }
        let at = |quantile| Duration::from_nanos(histogram.value_at_quantile(quantile)).clamp(min, max);
        Some(Self { count: histogram.len(), min, p50: at(0.5), p90: at(0.9), p99: at(0.99), max })
    }
}

/// The driver's figures divided by those of the bare commands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// How many volumes were worked on at once.
    pub concurrency: usize,
    /// The phase.
    pub what: What,
    /// The median time over the floor's; below 1 the driver is faster.
    pub p50: f64,
    /// The throughput over the floor's with the same concurrency; above 1 the driver does more.
    pub throughput: Option<f64>,
    /// The throughput over the floor's with one volume at a time: commands in a row. `None` if that was not
    /// measured.
    pub throughput_in_a_row: Option<f64>,
}

/// Every ratio for which both sides were measured.
#[must_use]
pub fn ratios(series: &[Series]) -> Vec<Ratio> {
    let floor = |concurrency: usize, what: What| {
        series.iter().find(|one| (one.kind, one.concurrency, one.what) == (Kind::Floor, concurrency, what))
    };
    let of = |driver: &Series| -> Option<Ratio> {
        let same = floor(driver.concurrency, driver.what)?;
        let (ours, theirs) = (driver.latency()?.p50, same.latency()?.p50);
        let over = |floor: Option<&Series>| Some(driver.throughput()? / floor?.throughput()?);
        Some(Ratio {
            concurrency: driver.concurrency,
            what: driver.what,
            p50: (!theirs.is_zero()).then(|| ours.as_secs_f64() / theirs.as_secs_f64())?,
            throughput: over(Some(same)),
            throughput_in_a_row: over(floor(1, driver.what)),
        })
    };
    series.iter().filter(|one| one.kind == Kind::Driver).filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn series(kind: Kind, concurrency: usize, times: impl IntoIterator<Item = u32>, wall: u32) -> Series {
        let samples = times.into_iter().map(|time| Sample { at: Duration::ZERO, took: MS * time }).collect();
        Series { samples, wall: MS * wall, ..Series::new(kind, concurrency, What::Phase(Phase::Create)) }
    }

    fn near(time: Duration, milliseconds: f64) -> bool {
        (time.as_secs_f64() * 1000.0 / milliseconds - 1.0).abs() < 0.002
    }

    #[test]
    fn quantiles_of_a_hundred_times() {
        let latency = Latency::of((1..=100).map(|time| MS * time)).unwrap();
        assert_eq!(latency.count, 100);
        assert!(near(latency.min, 1.0), "{latency:?}");
        assert!(near(latency.p50, 50.0), "{latency:?}");
        assert!(near(latency.p90, 90.0), "{latency:?}");
        assert!(near(latency.p99, 99.0), "{latency:?}");
        assert!(near(latency.max, 100.0), "{latency:?}");
    }

    #[test]
    fn the_quantiles_of_one_time_are_that_time() {
        let one = Latency::of([MS * 7]).unwrap();
        for time in [one.min, one.p50, one.p90, one.p99, one.max] {
            assert!(near(time, 7.0), "{one:?}");
        }
        assert_eq!(Latency::of([]), None);
    }

    #[test]
    fn long_and_short_times_fit_into_one_distribution() {
        let wide = Latency::of([Duration::from_nanos(900), Duration::from_secs(86_400)]).unwrap();
        assert!(near(wide.max, 86_400_000.0) && wide.p50 < Duration::from_micros(1), "{wide:?}");
    }

    #[test]
    fn throughput_counts_what_succeeded() {
        assert_eq!(series(Kind::Driver, 1, [1, 2, 3, 4], 2000).throughput(), Some(2.0));
        assert_eq!(series(Kind::Driver, 1, [], 2000).throughput(), None);
        assert_eq!(series(Kind::Driver, 1, [1], 0).throughput(), None);
    }

    #[test]
    fn ratios_compare_the_same_phase_and_concurrency() {
        let all = [
            series(Kind::Driver, 1, [30, 30, 30], 90),
            series(Kind::Floor, 1, [20, 20, 20], 60),
            series(Kind::Driver, 3, [40, 40, 40], 40),
            series(Kind::Floor, 3, [50, 50, 50], 50),
            series(Kind::Driver, 5, [1], 1),
        ];
        let ratios = ratios(&all);
        let close = |ratio: Option<f64>, expected: f64| (ratio.unwrap() / expected - 1.0).abs() < 0.003;
        let [one, three] = ratios.as_slice() else { panic!("{ratios:?}") };
        assert_eq!((one.concurrency, three.concurrency), (1, 3));
        assert!(close(Some(one.p50), 1.5) && close(Some(three.p50), 0.8), "{ratios:?}");
        assert!(close(one.throughput, 2.0 / 3.0) && close(three.throughput, 1.25), "{ratios:?}");
        // Three in 40 ms, against three in a row in 60 ms.
        assert!(close(three.throughput_in_a_row, 1.5), "{ratios:?}");
    }

    #[test]
    fn the_first_message_of_each_code_is_kept() {
        let mut all = series(Kind::Driver, 1, [], 1);
        for (code, message) in [("INTERNAL", "a"), ("INTERNAL", "b"), ("NOT_FOUND", "c")] {
            all.fail(Failure { code: code.to_owned(), message: message.to_owned() });
        }
        assert_eq!(all.errors["INTERNAL"], Errors { count: 2, first: "a".to_owned() });
        assert_eq!(all.errors["NOT_FOUND"], Errors { count: 1, first: "c".to_owned() });
    }
}
