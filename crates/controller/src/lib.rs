//! CSI Controller: knows the nodes and what they have, and passes on to each what is its own.
//!
//! [`Cluster`] follows the nodes that a roster names: one [`member`] each, with its connection and a [`memory`] of its
//! pools and volumes. [`ControllerService`] speaks CSI: it reads and checks requests, finds the node ([`placement`]), and
//! asks its agent. Nothing is stored here: what is on the nodes' disks is all there is.

mod cluster;
mod files;
mod health;
mod identity;
mod member;
mod memory;
mod metrics;
mod orphans;
mod paging;
mod placement;
mod service;
mod surroundings;
mod view;

pub use cluster::{Cluster, Parts};
pub use files::{FileElection, follow_agents, read_agents};
pub use identity::{IdentityService, Readiness};
pub use member::Timing;
pub use service::ControllerService;
pub use surroundings::{Alone, Claims, Election, Endpoint, Fate, NoKubernetes, Nodes, Roster, RosterSource};
pub use view::{Finding, Level, ViewService};
