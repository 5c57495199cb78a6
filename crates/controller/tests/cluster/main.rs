//! The controller, with nodes in memory.

mod connections;
mod lists;
mod metrics;
mod nodes;
mod snapshots;
mod support;
mod unlimited;
