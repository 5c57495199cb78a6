//! I/O limits: how fast the pods that use a volume may read from it and write to it.

use std::collections::BTreeMap;
use std::fmt;

use crate::{Error, Result, parse_size, show_size};

/// What a limit limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rate {
    /// The bytes read per second.
    ReadBytes,
    /// The bytes written per second.
    WriteBytes,
    /// The read operations per second.
    ReadIops,
    /// The write operations per second.
    WriteIops,
}

/// The value of a parameter that sets no limit, or removes it.
const NO_LIMIT: &str = "none";
/// The lowest limit of bytes per second. One operation can have a MiB, and would wait for minutes with a lower one.
const MIN_BYTES: u64 = 64 << 10;

impl Rate {
    /// All rates, in the order in which limits are written.
    pub const ALL: [Self; 4] = [Self::ReadBytes, Self::WriteBytes, Self::ReadIops, Self::WriteIops];

    /// The parameter of a StorageClass or VolumeAttributesClass that sets the limit.
    #[must_use]
    pub fn parameter(self) -> &'static str {
        match self {
            Self::ReadBytes => "readBytesPerSecond",
            Self::WriteBytes => "writeBytesPerSecond",
            Self::ReadIops => "readIops",
            Self::WriteIops => "writeIops",
        }
    }

    /// The key in the kernel's `io.max` (Documentation/admin-guide/cgroup-v2.rst).
    #[must_use]
    pub fn io_max_key(self) -> &'static str {
        match self {
            Self::ReadBytes => "rbps",
            Self::WriteBytes => "wbps",
            Self::ReadIops => "riops",
            Self::WriteIops => "wiops",
        }
    }

    /// The number that the kernel takes for no limit: it counts operations in 32 bits.
    #[must_use]
    pub fn max(self) -> u64 {
        if self.is_bytes() { u64::MAX } else { u64::from(u32::MAX) }
    }

    fn is_bytes(self) -> bool {
        matches!(self, Self::ReadBytes | Self::WriteBytes)
    }

    fn index(self) -> usize {
        self as usize
    }

    /// Parses the value of its parameter: a quantity, or `none` for no limit.
    fn parse(self, value: &str) -> Result<Option<u64>> {
        let wrong = |why: String| {
            let unit = if self.is_bytes() { "bytes" } else { "operations" };
            let parameter = self.parameter();
            Err(Error::invalid(format!("parameter {parameter:?}: {why}: use a number of {unit} per second, or none")))
        };
        if value == NO_LIMIT {
            return Ok(None);
        }
        match parse_size(value) {
            Err(_) => wrong(format!("{value:?} is not a quantity such as 500, 20k, 64Mi")),
            Ok(0) => wrong("0 would stop the volume".to_owned()),
            Ok(limit) if self.is_bytes() && limit < MIN_BYTES => {
                wrong(format!("{value:?} is less than {}, the lowest limit", show_size(MIN_BYTES)))
            }
            Ok(limit) if limit >= self.max() => wrong(format!("{value:?} is more than the kernel can limit")),
            Ok(limit) => Ok(Some(limit)),
        }
    }
}

/// The limits of one volume, per second. The default has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoLimits([Option<u64>; 4]);

impl IoLimits {
    /// The limits with these values, in the order of [`Rate::ALL`].
    #[must_use]
    pub const fn new(values: [Option<u64>; 4]) -> Self {
        Self(values)
    }

    /// The values, in the order of [`Rate::ALL`].
    #[must_use]
    pub fn values(&self) -> [Option<u64>; 4] {
        self.0
    }

    /// The limit of that rate, in bytes or operations per second.
    #[must_use]
    pub fn get(&self, rate: Rate) -> Option<u64> {
        self.0.get(rate.index()).copied().flatten()
    }

    /// Whether there is no limit.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// The limits with these changes.
    #[must_use]
    pub fn with(mut self, changes: &LimitChanges) -> Self {
        for (value, change) in self.0.iter_mut().zip(changes.0) {
            if let Some(change) = change {
                *value = change;
            }
        }
        self
    }
}

impl fmt::Display for IoLimits {
    /// As `readBytesPerSecond 64Mi, writeIops 500`, or `none`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_none() {
            return f.write_str(NO_LIMIT);
        }
        let limits = Rate::ALL.into_iter().filter_map(|rate| Some((rate, self.get(rate)?)));
        for (place, (rate, limit)) in limits.enumerate() {
            let separator = if place == 0 { "" } else { ", " };
            let value = if rate.is_bytes() { show_size(limit) } else { limit.to_string() };
            write!(f, "{separator}{} {value}", rate.parameter())?;
        }
        Ok(())
    }
}

/// Changes of limits: for each rate, whether it changes and to what. The default changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitChanges([Option<Option<u64>>; 4]);

impl LimitChanges {
    /// Parses the limits among the parameters of a StorageClass or VolumeAttributesClass. `value` returns that of a
    /// parameter. A limit that is not given stays; `none` removes one.
    ///
    /// # Errors
    /// `InvalidRequest` for an invalid value.
    pub(crate) fn read<'a>(value: impl Fn(&str) -> Option<&'a str>) -> Result<Self> {
        let mut changes = Self::default();
        for (rate, change) in Rate::ALL.into_iter().zip(&mut changes.0) {
            *change = value(rate.parameter()).map(|value| rate.parse(value)).transpose()?;
        }
        Ok(changes)
    }

    /// The same changes as parameters: [`LimitChanges::read`] yields them again.
    pub(crate) fn parameters(&self) -> BTreeMap<String, String> {
        let text = |limit: Option<u64>| limit.map_or_else(|| NO_LIMIT.to_owned(), |limit| limit.to_string());
        let given = Rate::ALL.into_iter().zip(self.0).filter_map(|(rate, change)| Some((rate, change?)));
        given.map(|(rate, limit)| (rate.parameter().to_owned(), text(limit))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Reason;
    use proptest::prelude::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<LimitChanges> {
        let pairs: BTreeMap<&str, &str> = pairs.iter().copied().collect();
        LimitChanges::read(|key| pairs.get(key).copied())
    }

    #[test]
    fn limits_are_quantities_and_only_the_given_ones_change() {
        let limits = IoLimits::default().with(&parse(&[("readBytesPerSecond", "64Mi"), ("writeIops", "2k")]).unwrap());
        assert_eq!(limits.values(), [Some(64 << 20), None, None, Some(2000)]);
        assert_eq!(limits.to_string(), "readBytesPerSecond 64Mi, writeIops 2000");
        let changed = limits.with(&parse(&[("writeIops", "none"), ("readIops", "7")]).unwrap());
        assert_eq!(changed.values(), [Some(64 << 20), None, Some(7), None]);
        let none = changed.with(&parse(&[("readBytesPerSecond", "none"), ("readIops", "none")]).unwrap());
        assert!(none.is_none());
        assert_eq!(none.to_string(), "none");
    }

    #[test]
    fn a_bad_limit_is_an_invalid_request_that_names_its_parameter() {
        for (key, value, why) in [
            ("readIops", "0", "would stop"),
            ("writeIops", "fast", "not a quantity"),
            ("writeIops", "4294967295", "more than the kernel can limit"),
            ("readBytesPerSecond", "-1", "not a quantity"),
            ("writeBytesPerSecond", "1000", "lowest limit"),
            ("writeBytesPerSecond", "", "not a quantity"),
        ] {
            let error = parse(&[(key, value), ("readIops", "5")][..if key == "readIops" { 1 } else { 2 }]).unwrap_err();
            assert_eq!(error.reason, Reason::InvalidRequest, "{key}={value}");
            assert!(error.message.contains(key) && error.message.contains(why), "{}", error.message);
        }
    }

    proptest! {
        #[test]
        fn changes_survive_as_parameters(values in prop::array::uniform4(prop::option::of(prop::option::of(MIN_BYTES..u64::from(u32::MAX))))) {
            let changes = LimitChanges(values);
            let parameters = changes.parameters();
            prop_assert_eq!(LimitChanges::read(|key| parameters.get(key).map(String::as_str)).unwrap(), changes);
        }
    }
}
