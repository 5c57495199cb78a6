//! The controller, with nodes in memory.

mod nodes;
mod snapshots;
mod support;
