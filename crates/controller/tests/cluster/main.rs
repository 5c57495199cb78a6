//! The controller, with nodes in memory.

mod metrics;
mod nodes;
mod snapshots;
mod support;
mod unlimited;
