//! How the bytes of a deleted volume are wiped.

use std::fmt;
use std::str::FromStr;

/// What happens to the bytes of a deleted volume before its disk is free again. This is in addition to what
/// always happens before a volume is published, and does not replace any of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wipe {
    /// Zeros are written, by the disk itself if it supports that.
    #[default]
    Zero,
    /// The blocks are discarded; what the disk returns afterwards depends on the disk. Zeros are written if
    /// the disk does not support discard.
    Discard,
    /// Nothing is wiped except the places of signatures.
    None,
}

impl Wipe {
    /// All values.
    pub const ALL: [Self; 3] = [Self::Zero, Self::Discard, Self::None];

    /// The name in configurations, StorageClasses and records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Zero => "zero",
            Self::Discard => "discard",
            Self::None => "none",
        }
    }
}

impl fmt::Display for Wipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name of no wipe mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a wipe mode: use zero, discard or none")]
pub struct UnknownWipe(String);

impl FromStr for Wipe {
    type Err = UnknownWipe;

    fn from_str(word: &str) -> Result<Self, UnknownWipe> {
        Self::ALL.into_iter().find(|wipe| wipe.as_str() == word).ok_or_else(|| UnknownWipe(word.to_owned()))
    }
}
