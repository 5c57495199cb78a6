//! Both ends of `quarry.agent.v1`, the protocol between controller and node.
//!
//! * [`AgentService`] and [`serve`]: the node's end, for any [`quarry_volume::Agent`];
//! * [`RemoteAgent`]: the controller's end, again a [`quarry_volume::Agent`], over one connection;
//! * [`Dial`]: how a controller connects to a node.
//!
//! `quarry_wire` converts between the messages and the types of [`quarry_volume`].
//!
//! `docs/agent-protocol.md` describes what each call guarantees and how a caller handles each error.

mod connection;
mod dial;
mod failure;
mod follow;
mod parts;
mod remote;
mod serve;
mod service;

pub use connection::Tuning;
pub use dial::{Dial, TlsDial};
pub use remote::RemoteAgent;
pub use serve::serve;
pub use service::AgentService;
