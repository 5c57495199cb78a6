//! Hosts with systemd as the first process.

use crate::runner::Scenario;

/// All of them.
pub fn all() -> Vec<Scenario> {
    vec![]
}
