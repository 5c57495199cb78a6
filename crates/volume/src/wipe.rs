//! What becomes of the bytes of a deleted volume.

use std::fmt;
use std::str::FromStr;

/// What is done to the bytes of a deleted volume before its disk is free again. It comes on top of what is always done
/// before a volume is handed out, and stands in for nothing of that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wipe {
    /// Zeros are written, by the disk itself where it can.
    #[default]
    Zero,
    /// The disk is told that nobody needs them any more; what it then shows is its own affair. Zeros where it knows no
    /// discard.
    Discard,
    /// Nothing, but for the places where signatures lie.
    None,
}

impl Wipe {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Zero, Self::Discard, Self::None];

    /// The word for it in configurations, StorageClasses and records.
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

/// A word that stands for no way to wipe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no way to wipe a volume: use zero, discard or none")]
pub struct UnknownWipe(String);

impl FromStr for Wipe {
    type Err = UnknownWipe;

    fn from_str(word: &str) -> Result<Self, UnknownWipe> {
        Self::ALL.into_iter().find(|wipe| wipe.as_str() == word).ok_or_else(|| UnknownWipe(word.to_owned()))
    }
}
