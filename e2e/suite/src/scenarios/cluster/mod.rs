//! Scenarios on several virtual nodes with controllers apart from them, over mutual TLS.

pub mod away;
pub mod certificates;
pub mod controllers;
pub mod placement;
pub mod replaced;
mod view;
mod wire;
