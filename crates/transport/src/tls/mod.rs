//! Mutual TLS between controller and node.

mod pem;

pub use pem::{CONTROLLER_NAME, NODE_NAME, Pem};
