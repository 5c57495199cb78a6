//! What Quarry reads from and keeps in Kubernetes, against an API server in memory on a paused clock.

// A helper that fails is a test that fails.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod answer;
mod claims;
mod discovery;
mod election;
mod fake;
mod holders;
mod nodes;
mod objects;
mod outage;
mod release;
mod replicas;
mod request;
mod secrets;
