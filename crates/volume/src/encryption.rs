//! How a volume is encrypted.

use std::fmt;
use std::str::FromStr;

/// How the bytes of a volume are encrypted on its storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// With a LUKS2 header at the beginning of the storage.
    Luks2,
}

impl Encryption {
    /// All values.
    pub const ALL: [Self; 1] = [Self::Luks2];

    /// The name in StorageClasses and records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Luks2 => "luks2",
        }
    }

    /// How many bytes of its storage a volume cannot use. They are added to the size that is requested.
    #[must_use]
    pub const fn overhead(self) -> u64 {
        match self {
            Self::Luks2 => 16 << 20,
        }
    }
}

impl fmt::Display for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name of no encryption.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an encryption: use luks2, or leave the parameter out")]
pub struct UnknownEncryption(String);

impl FromStr for Encryption {
    type Err = UnknownEncryption;

    fn from_str(word: &str) -> Result<Self, UnknownEncryption> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word).ok_or_else(|| UnknownEncryption(word.to_owned()))
    }
}
