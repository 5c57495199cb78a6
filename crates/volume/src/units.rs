//! Units of storage other than bytes.
//!
//! In all of Quarry, a plain integer that measures storage counts bytes. What counts extents, GiB or sectors
//! has a type of its own, so that it is never passed, added or compared as bytes.

use std::fmt;

/// The size of an extent in bytes: the unit in which a pool allocates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExtentSize(pub u64);

/// A number of extents, or the number of one extent on its disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Extents(pub u64);

/// A number of GiB. The record of a volume has its zeroing progress in this unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gib(pub u64);

impl ExtentSize {
    /// The size of that many extents in bytes, at most `u64::MAX`.
    #[must_use]
    pub fn bytes(self, extents: Extents) -> u64 {
        extents.0.saturating_mul(self.0)
    }

    /// The number of whole extents in that many bytes.
    #[must_use]
    pub fn whole_in(self, bytes: u64) -> Extents {
        Extents(bytes / self.0.max(1))
    }

    /// The number of extents that are needed for that many bytes.
    #[must_use]
    pub fn needed_for(self, bytes: u64) -> Extents {
        Extents(bytes.div_ceil(self.0.max(1)))
    }
}

impl Extents {
    /// No extents.
    pub const NONE: Self = Self(0);

    /// The sum, at most `u64::MAX`.
    #[must_use]
    pub fn and(self, more: Self) -> Self {
        Self(self.0.saturating_add(more.0))
    }

    /// The difference; [`Self::NONE`] if `others` is larger.
    #[must_use]
    pub fn without(self, others: Self) -> Self {
        Self(self.0.saturating_sub(others.0))
    }

    /// That many times as many, at most `u64::MAX`.
    #[must_use]
    pub fn times(self, factor: u64) -> Self {
        Self(self.0.saturating_mul(factor))
    }

    /// One of that many equal parts, rounded down.
    #[must_use]
    pub fn divided_by(self, parts: u64) -> Self {
        Self(self.0 / parts.max(1))
    }
}

impl fmt::Display for Extents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Gib {
    /// None.
    pub const NONE: Self = Self(0);
    const BYTES: u64 = 1 << 30;

    /// The same in bytes, at most `u64::MAX`.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.0.saturating_mul(Self::BYTES)
    }

    /// The number of whole GiB in that many bytes.
    #[must_use]
    pub fn whole_in(bytes: u64) -> Self {
        Self(bytes / Self::BYTES)
    }

    /// The number of GiB that contain that many bytes.
    #[must_use]
    pub fn needed_for(bytes: u64) -> Self {
        Self(bytes.div_ceil(Self::BYTES))
    }
}

impl fmt::Display for Gib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_converted_and_never_overflow() {
        let size = ExtentSize(4 << 20);
        assert_eq!(size.bytes(Extents(3)), 12 << 20);
        assert_eq!((size.whole_in((8 << 20) + 1), size.needed_for((8 << 20) + 1)), (Extents(2), Extents(3)));
        assert_eq!(size.bytes(Extents(u64::MAX)), u64::MAX);
        assert_eq!((ExtentSize(0).whole_in(7), ExtentSize(0).needed_for(7)), (Extents(7), Extents(7)));
        assert_eq!(
            (Extents(1).without(Extents(2)), Extents(u64::MAX).and(Extents(1))),
            (Extents::NONE, Extents(u64::MAX))
        );
        assert_eq!((Extents(7).divided_by(2), Extents(7).divided_by(0)), (Extents(3), Extents(7)));
    }

    #[test]
    fn gibibytes_are_converted_and_never_overflow() {
        assert_eq!((Gib::whole_in((2 << 30) - 1), Gib::needed_for((2 << 30) - 1)), (Gib(1), Gib(2)));
        assert_eq!((Gib(2).bytes(), Gib(u64::MAX).bytes()), (2 << 30, u64::MAX));
    }
}
