//! Volumes that were renamed, moved or copied by hand.

use crate::runner::Scenario;

/// All of them.
pub fn all() -> Vec<Scenario> {
    vec![]
}
