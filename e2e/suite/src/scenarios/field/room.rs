//! Room that cannot be used, raid legs, and volumes that are inactive while unstaged.

use crate::runner::Scenario;

/// All of them.
pub fn all() -> Vec<Scenario> {
    vec![]
}
