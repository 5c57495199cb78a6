//! How far the data of a deleted volume is wiped: pools of whole disks report it.

use std::fmt;

/// The progress of wiping a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wiping {
    /// Bytes that are wiped.
    pub done: u64,
    /// Bytes to wipe in total; 0 if nothing is left to wipe, or if that is not known yet.
    pub total: u64,
    /// Why wiping has stopped. It will be retried.
    pub failed: Option<String>,
}

impl fmt::Display for Wiping {
    /// As text: "being wiped, 37%".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("being wiped")?;
        if self.done > 0 && self.total > 0 {
            write!(f, ", {}%", u128::from(self.done.min(self.total)) * 100 / u128::from(self.total))?;
        }
        self.failed.as_ref().map_or(Ok(()), |why| write!(f, ", and stopped: {why}"))
    }
}
