//! When a filesystem returns the space of deleted files to its storage.

use std::fmt;
use std::str::FromStr;

/// When the blocks that a mounted filesystem does not use are discarded. A thin pool gets their space back, and an SSD
/// needs to know of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discard {
    /// The filesystem discards blocks soon after files were deleted: it is mounted with the option `discard`.
    Online,
    /// The node discards all unused blocks at regular intervals, as fstrim does.
    Periodic,
    /// Quarry discards nothing.
    None,
}

impl Discard {
    /// All values.
    pub const ALL: [Self; 3] = [Self::Online, Self::Periodic, Self::None];

    /// The name in StorageClasses and records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Periodic => "periodic",
            Self::None => "none",
        }
    }
}

impl fmt::Display for Discard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name of no discard mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a discard mode: use online, periodic or none")]
pub struct UnknownDiscard(String);

impl FromStr for Discard {
    type Err = UnknownDiscard;

    fn from_str(word: &str) -> Result<Self, UnknownDiscard> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == word).ok_or_else(|| UnknownDiscard(word.to_owned()))
    }
}
