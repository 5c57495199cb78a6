//! The host's LVM settings, and tenants whose bytes look like the host's own storage.

use crate::runner::Scenario;

/// All of them.
pub fn all() -> Vec<Scenario> {
    vec![]
}
