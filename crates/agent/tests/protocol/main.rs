//! Both ends of the protocol over wires in memory.

// A helper that fails is a test that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod calls;
mod common;
mod dial;
mod idle;
mod skew;
mod watch;
