//! The controller, with nodes in memory.

mod connections;
mod lists;
mod lost;
mod metrics;
mod nodes;
mod snapshots;
mod support;
mod unlimited;
