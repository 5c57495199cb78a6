//! CSI Node, and the agent that creates and deletes volumes on its host.
//!
//! [`Host`] is one host with its pools. Everything that changes a disk or a mount happens in its operations,
//! and each operation runs as its own task (see [`Tasks`]). [`NodeService`] serves CSI to kubelet; the
//! [`quarry_volume::Agent`] implementation serves a controller.

mod agent;
mod bytes;
mod checks;
mod condition;
mod copies;
mod copy;
mod create;
mod deactivate;
mod device;
mod encrypted;
mod errors;
mod exclusive_use;
mod expand;
mod fill;
mod full_copy;
mod grow;
mod health;
mod host;
mod identity;
mod kernel;
mod limits;
mod metrics;
mod modify;
mod place;
mod prepare;
mod publish;
mod publisher;
mod read_only;
mod service;
mod snapshot;
mod sources;
mod stage;
mod stats;
mod status;
mod tasks;
#[cfg(test)]
mod tests;
mod trim;
mod unmount;
mod zero;

pub use host::Host;
pub use service::NodeService;
pub use tasks::{TaskStatus, Tasks};
