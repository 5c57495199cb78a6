//! Scenarios with several virtual nodes and separate controllers, over mutual TLS.

pub mod away;
pub mod certificates;
pub mod controllers;
pub mod placement;
pub mod replaced;
mod view;
mod wire;
