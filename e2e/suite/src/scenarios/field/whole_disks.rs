//! Damage to the claims of whole disks, and names from a stale udev database.

use crate::runner::Scenario;

/// All of them.
pub fn all() -> Vec<Scenario> {
    vec![]
}
