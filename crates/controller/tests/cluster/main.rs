//! The controller, with nodes in memory.

mod lost;
mod metrics;
mod nodes;
mod snapshots;
mod support;
