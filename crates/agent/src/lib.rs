//! Both ends of `quarry.agent.v1`, the protocol between controller and node.
//!
//! * [`AgentService`] and [`serve`]: the node's end, in front of any [`quarry_volume::Agent`];
//! * [`RemoteAgent`]: the controller's end, an [`quarry_volume::Agent`] again, over one connection;
//! * [`Dial`]: how a controller comes by a connection to a node;
//! * [`wire`]: what travels between them, to and from the words of [`quarry_volume`].
//!
//! What each call promises, and what a caller does on each error, is told in `docs/agent-protocol.md`.

mod connection;
mod dial;
mod follow;
mod parts;
mod remote;
mod serve;
mod service;
pub mod wire;

pub use connection::Tuning;
pub use dial::{Dial, TlsDial};
pub use remote::RemoteAgent;
pub use serve::serve;
pub use service::AgentService;
