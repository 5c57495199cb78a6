//! Filesystems: signatures in file data, filesystems that are shut down or read-only, stuck calls.

use crate::runner::Scenario;

/// All of them.
pub fn all() -> Vec<Scenario> {
    vec![]
}
