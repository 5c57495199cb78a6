//! Sizes: what a caller requests and what it gets, in bytes.

use crate::{Error, Reason, Result};

/// The default size of a volume.
pub const DEFAULT_SIZE: u64 = 1 << 30;

/// The sizes that a caller accepts (CSI `CapacityRange`), in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SizeRange {
    /// The minimum size; 0 for no minimum.
    pub required: u64,
    /// The maximum size.
    pub limit: Option<u64>,
}

impl SizeRange {
    /// The range of volumes that have so many more bytes.
    #[must_use]
    pub fn larger_by(self, bytes: u64) -> Self {
        match bytes {
            0 => self,
            // Every volume has at least one byte.
            _ => Self {
                required: self.required.max(1).saturating_add(bytes),
                limit: self.limit.map(|limit| limit.saturating_add(bytes)),
            },
        }
    }

    /// The same range. If it has no minimum, its minimum is the default size, or less if the limit is smaller.
    #[must_use]
    pub fn with_default(self) -> Self {
        /// More than the extents of any layout, so that rounding up does not exceed the limit.
        const STEP: u64 = 64 << 20;
        match self.required {
            0 => Self {
                required: self.limit.map_or(DEFAULT_SIZE, |limit| DEFAULT_SIZE.min(limit / STEP * STEP)).max(1),
                ..self
            },
            _ => self,
        }
    }

    /// Parses the two fields of a CSI `CapacityRange`, where 0 means "not set".
    ///
    /// # Errors
    /// `InvalidRequest` for negative numbers; `SizeOutOfRange` if the limit is below the required size.
    pub fn from_csi(required: i64, limit: i64) -> Result<Self> {
        let field = |name: &str, value: i64| {
            u64::try_from(value)
                .map_err(|_| Error::invalid(format!("capacity_range.{name} is {value}: a size must not be negative")))
        };
        let required = field("required_bytes", required)?;
        let limit = Some(field("limit_bytes", limit)?).filter(|limit| *limit > 0);
        if let Some(limit) = limit
            && limit < required
        {
            return Err(Error::new(
                Reason::SizeOutOfRange,
                format!(
                    "capacity_range requires at least {required} and at most {limit} bytes: no size satisfies both"
                ),
            ));
        }
        Ok(Self { required, limit })
    }

    /// The size to create on storage that allocates multiples of `unit` bytes: the required size (or the
    /// default) rounded up, within the limit.
    ///
    /// # Errors
    /// `SizeOutOfRange` if no multiple of `unit` is in the range.
    pub fn choose(&self, unit: u64) -> Result<u64> {
        let unit = unit.max(1);
        let wanted = if self.required > 0 {
            self.required
        } else {
            // No required size: the default, or less if the limit requires it, but never 0.
            self.limit.map_or(DEFAULT_SIZE, |limit| DEFAULT_SIZE.min(limit / unit * unit)).max(1)
        };
        let rounded = wanted.checked_next_multiple_of(unit).filter(|size| i64::try_from(*size).is_ok());
        match rounded {
            Some(size) if self.limit.is_none_or(|limit| size <= limit) => Ok(size),
            Some(size) => Err(Error::new(
                Reason::SizeOutOfRange,
                format!(
                    "volumes of this layout come in multiples of {unit} bytes here; {wanted} rounds up to {size}, \
                     above the limit of {} bytes",
                    self.limit.unwrap_or_default()
                ),
            )),
            None => Err(Error::new(Reason::SizeOutOfRange, format!("{wanted} bytes is more than any volume can have"))),
        }
    }

    /// Whether a volume of `size` bytes satisfies this range.
    #[must_use]
    pub fn admits(&self, size: u64) -> bool {
        size >= self.required && self.limit.is_none_or(|limit| size <= limit)
    }
}

/// Parses a size such as `10Gi`, `500M` or `4096`: bytes, or with one of the suffixes of a Kubernetes
/// quantity.
///
/// # Errors
/// A sentence about what is wrong with the text.
pub fn parse_size(text: &str) -> std::result::Result<u64, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, suffix) = text.split_at(split);
    let factor: u64 = match suffix {
        "" => 1,
        "k" => 1000,
        "M" => 1000_u64.pow(2),
        "G" => 1000_u64.pow(3),
        "T" => 1000_u64.pow(4),
        "P" => 1000_u64.pow(5),
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "Pi" => 1 << 50,
        _ => {
            return Err(format!(
                "{text:?} is not a size: use a whole number of bytes, or a number with Ki, Mi, Gi, Ti, Pi, k, M, G, T, P"
            ));
        }
    };
    let number: u64 =
        digits.parse().map_err(|_| format!("{text:?} is not a size: it must begin with a whole number"))?;
    number.checked_mul(factor).ok_or_else(|| format!("{text:?} is larger than any disk"))
}

/// A size for people, as a Kubernetes quantity: `10Gi`, `1.5Gi`, `0`. Truncated, never rounded up.
#[must_use]
pub fn show_size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 5] =
        [("Pi", 1 << 50), ("Ti", 1 << 40), ("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];
    let Some((unit, factor)) = UNITS.into_iter().find(|(_, factor)| bytes >= *factor) else { return bytes.to_string() };
    let (whole, tenths) = (bytes / factor, u128::from(bytes % factor) * 10 / u128::from(factor));
    if tenths == 0 { format!("{whole}{unit}") } else { format!("{whole}.{tenths}{unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_size_is_shown_as_a_kubernetes_quantity() {
        for (bytes, text) in [
            (0, "0"),
            (1023, "1023"),
            (1024, "1Ki"),
            (10 << 30, "10Gi"),
            (3 << 29, "1.5Gi"),
            ((10 << 30) - 1, "9.9Gi"),
            ((1 << 40) + 1, "1Ti"),
            (u64::MAX, "16383.9Pi"),
        ] {
            assert_eq!(show_size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn a_size_is_rounded_up_to_whole_extents_within_the_limit() {
        let range = |required, limit| SizeRange { required, limit };
        assert_eq!(range(1, None).choose(4 * MIB).unwrap(), 4 * MIB);
        assert_eq!(range(4 * MIB, None).choose(4 * MIB).unwrap(), 4 * MIB);
        assert_eq!(range(0, None).choose(4 * MIB).unwrap(), DEFAULT_SIZE);
        let larger = |limit| range(0, limit).with_default().larger_by(16 * MIB).choose(4 * MIB).unwrap();
        assert_eq!(larger(None), DEFAULT_SIZE + 16 * MIB);
        assert_eq!(larger(Some(501 * MIB)), (448 + 16) * MIB);
        assert_eq!(larger(Some(5 * MIB)), (4 + 16) * MIB);
        assert_eq!(range(0, Some(9 * MIB)).choose(4 * MIB).unwrap(), 8 * MIB);
        assert_eq!(range(5 * MIB, Some(7 * MIB)).choose(4 * MIB).unwrap_err().reason, Reason::SizeOutOfRange);
        assert_eq!(range(0, Some(MIB)).choose(4 * MIB).unwrap_err().reason, Reason::SizeOutOfRange);
        assert_eq!(range(u64::MAX, None).choose(4 * MIB).unwrap_err().reason, Reason::SizeOutOfRange);
    }

    #[test]
    fn sizes_are_parsed_with_their_suffix() {
        assert_eq!(parse_size("10Gi"), Ok(10 << 30));
        assert_eq!(parse_size("500M"), Ok(500_000_000));
        assert_eq!(parse_size("4096"), Ok(4096));
        for bad in ["", "Gi", "-1", "1.5Gi", "1gi", "1 Gi", "99999999999999999999", "99999999Pi"] {
            assert!(parse_size(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn the_chosen_size_is_a_multiple_and_in_the_range(required in 0_u64..1 << 50, slack in proptest::option::of(0_u64..1 << 40), unit in 1_u64..1 << 30) {
            let range = SizeRange { required, limit: slack.map(|slack| required.saturating_add(slack)).filter(|l| *l > 0) };
            if let Ok(size) = range.choose(unit) {
                prop_assert!(size > 0 && size % unit == 0 && range.admits(size));
            }
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,40}") {
            let _ = parse_size(&text);
        }
    }
}
