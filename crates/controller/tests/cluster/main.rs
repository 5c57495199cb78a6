//! The controller, with nodes in memory.

mod lists;
mod metrics;
mod nodes;
mod snapshots;
mod support;
mod unlimited;
