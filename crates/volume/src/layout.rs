//! How a volume is laid out on the disks of its pool.

use std::collections::BTreeMap;
use std::fmt;

use crate::parse_size;

/// The default stripe size, in bytes (lvm2's own default).
const DEFAULT_STRIPE_SIZE: u64 = 64 << 10;
/// The smallest stripe, in bytes: lvm2 accepts nothing below a page.
const MIN_STRIPE_SIZE: u64 = 4 << 10;
/// The largest stripe that the record and lvm2 accept with any extent size in use, in bytes.
const MAX_STRIPE_SIZE: u64 = 4 << 20;
/// The most stripes or copies: no host has more disks in one volume, and lvm2's limit is 128 stripes.
const MAX_WIDTH: u32 = 64;

/// How a logical volume is laid out over physical volumes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Layout {
    /// One range after another.
    #[default]
    Linear,
    /// Spread over several disks: faster, but lost with any one of them.
    Striped {
        /// The number of disks.
        stripes: u32,
        /// Bytes on one disk before the next is used.
        stripe_size: u64,
    },
    /// The same data on several disks.
    Raid1 {
        /// Copies besides the first.
        mirrors: u32,
    },
}

/// Why parameters do not form a layout.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LayoutError(String);

impl Layout {
    /// Parses `layout`, `stripes`, `stripeSize` and `mirrors` from a StorageClass.
    ///
    /// # Errors
    /// A sentence with the parameter, its value and the permitted values.
    pub fn parse(parameters: &BTreeMap<&str, &str>) -> Result<Self, LayoutError> {
        let kind = parameters.get("layout").copied().unwrap_or("linear");
        let refuse = |keys: &[&str]| match keys.iter().find(|key| parameters.contains_key(**key)) {
            Some(key) => Err(LayoutError(format!("parameter {key:?} is not used by layout {kind:?}: remove it"))),
            None => Ok(()),
        };
        let within = |key: &str, default: u32, least: u32, most: u32| match parameters.get(key) {
            None => Ok(default),
            Some(text) => match text.parse::<u32>() {
                Ok(number) if (least..=most).contains(&number) => Ok(number),
                _ => Err(LayoutError(format!(
                    "parameter {key:?} is {text:?}: use a whole number from {least} to {most}"
                ))),
            },
        };
        let number = |key: &str, default: u32, least: u32| within(key, default, least, MAX_WIDTH);
        // The first copy is not a mirror, and needs a disk as well.
        let mirrors = || within("mirrors", 1, 1, MAX_WIDTH - 1);
        let stripe_size = || match parameters.get("stripeSize") {
            None => Ok(DEFAULT_STRIPE_SIZE),
            Some(text) => match parse_size(text) {
                Ok(size) if size.is_power_of_two() && (MIN_STRIPE_SIZE..=MAX_STRIPE_SIZE).contains(&size) => Ok(size),
                _ => Err(LayoutError(format!(
                    "parameter \"stripeSize\" is {text:?}: use a power of two from 4Ki to 4Mi, such as 64Ki"
                ))),
            },
        };
        match kind {
            "linear" => {
                refuse(&["stripes", "stripeSize", "mirrors"])?;
                Ok(Self::Linear)
            }
            "striped" => {
                refuse(&["mirrors"])?;
                Ok(Self::Striped { stripes: number("stripes", 2, 2)?, stripe_size: stripe_size()? })
            }
            "raid1" => {
                refuse(&["stripes", "stripeSize"])?;
                Ok(Self::Raid1 { mirrors: mirrors()? })
            }
            other => Err(LayoutError(format!("parameter \"layout\" is {other:?}: use linear, striped or raid1"))),
        }
    }

    /// How many disks (physical volumes) a volume with this layout needs at least.
    #[must_use]
    pub fn width(&self) -> u32 {
        match *self {
            Self::Linear => 1,
            Self::Striped { stripes, .. } => stripes,
            Self::Raid1 { mirrors } => mirrors.saturating_add(1),
        }
    }

    /// The number of data stripes: a size must be a multiple of that many extents.
    #[must_use]
    pub fn stripes(&self) -> u32 {
        match *self {
            Self::Linear | Self::Raid1 { .. } => 1,
            Self::Striped { stripes, .. } => stripes,
        }
    }

    /// Its name, as in a StorageClass.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Striped { .. } => "striped",
            Self::Raid1 { .. } => "raid1",
        }
    }

    /// Its name and the number of disks, for people: `raid1 x2`.
    #[must_use]
    pub fn summary(&self) -> String {
        match self.width() {
            0 | 1 => self.kind().to_owned(),
            width => format!("{} x{width}", self.kind()),
        }
    }

    /// The short form for the record. Frozen.
    #[must_use]
    pub fn code(&self) -> String {
        match *self {
            Self::Linear => "l".to_owned(),
            Self::Striped { stripes, stripe_size } => format!("s{stripes}.{stripe_size}"),
            Self::Raid1 { mirrors } => format!("r1.{mirrors}"),
        }
    }

    /// Parses the short form; `None` if it is not one of Quarry's.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        let mut parts = code.split('.');
        let head = parts.next()?;
        let numbers: Vec<u64> = parts.map(str::parse).collect::<Result<_, _>>().ok()?;
        let small = |number: u64| u32::try_from(number).ok();
        let layout = match (head, numbers.as_slice()) {
            ("l", []) => Self::Linear,
            ("r1", &[mirrors]) => Self::Raid1 { mirrors: small(mirrors)? },
            (striped, &[stripe_size]) => {
                Self::Striped { stripes: striped.strip_prefix('s')?.parse().ok()?, stripe_size }
            }
            _ => return None,
        };
        Some(layout)
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Linear => f.write_str("linear"),
            Self::Striped { stripes, stripe_size } => write!(f, "striped over {stripes} disks by {stripe_size} bytes"),
            Self::Raid1 { mirrors } => write!(f, "raid1 with {mirrors} mirror(s)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(pairs: &[(&'static str, &'static str)]) -> Result<Layout, LayoutError> {
        Layout::parse(&pairs.iter().copied().collect())
    }

    #[test]
    fn parameters_are_parsed_into_a_layout() {
        assert_eq!(parse(&[]), Ok(Layout::Linear));
        assert_eq!(parse(&[("layout", "striped")]), Ok(Layout::Striped { stripes: 2, stripe_size: 65536 }));
        assert_eq!(
            parse(&[("layout", "striped"), ("stripes", "3"), ("stripeSize", "128Ki")]),
            Ok(Layout::Striped { stripes: 3, stripe_size: 131_072 })
        );
        assert_eq!(parse(&[("layout", "raid1"), ("mirrors", "2")]), Ok(Layout::Raid1 { mirrors: 2 }));
        assert_eq!(parse(&[("layout", "raid1"), ("mirrors", "63")]), Ok(Layout::Raid1 { mirrors: 63 }));
    }

    #[test]
    fn invalid_layouts_are_explained() {
        for (pairs, named) in [
            (&[("layout", "stripe")][..], "layout"),
            (&[("stripes", "2")], "stripes"),
            (&[("layout", "striped"), ("stripes", "1")], "stripes"),
            (&[("layout", "striped"), ("stripes", "-Z y")], "stripes"),
            (&[("layout", "striped"), ("stripes", "65")], "stripes"),
            (&[("layout", "striped"), ("stripeSize", "3Ki")], "stripeSize"),
            (&[("layout", "striped"), ("stripeSize", "1Gi")], "stripeSize"),
            (&[("layout", "striped"), ("mirrors", "1")], "mirrors"),
            (&[("layout", "raid1"), ("mirrors", "0")], "mirrors"),
            (&[("layout", "raid1"), ("mirrors", "64")], "from 1 to 63"),
            (&[("layout", "raid1"), ("stripeSize", "64Ki")], "stripeSize"),
        ] {
            let error = parse(pairs).unwrap_err().to_string();
            assert!(error.contains(named), "{pairs:?}: {error}");
        }
    }

    #[test]
    fn a_summary_has_the_number_of_disks() {
        let layouts =
            [Layout::Linear, Layout::Striped { stripes: 3, stripe_size: 65536 }, Layout::Raid1 { mirrors: 1 }];
        assert_eq!(layouts.map(|layout| layout.summary()), ["linear", "striped x3", "raid1 x2"]);
    }

    /// Golden: these codes are stored in records.
    #[test]
    fn codes_are_frozen() {
        for (layout, code) in [
            (Layout::Linear, "l"),
            (Layout::Striped { stripes: 4, stripe_size: 65536 }, "s4.65536"),
            (Layout::Raid1 { mirrors: 1 }, "r1.1"),
        ] {
            assert_eq!(layout.code(), code);
            assert_eq!(Layout::from_code(code), Some(layout));
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(code in ".{0,40}") {
            if let Some(layout) = Layout::from_code(&code) {
                prop_assert_eq!(Layout::from_code(&layout.code()), Some(layout));
            }
        }
    }
}
