//! CSI Controller: knows the nodes and their storage, and forwards each request to the right node.
//!
//! [`Cluster`] follows the nodes in a roster. Each node has a [`member`] with a connection and a [`memory`]
//! of its pools, volumes and snapshots. [`ControllerService`] serves CSI: it parses and validates requests, selects the
//! node ([`placement`]) and calls its agent. The controller stores nothing: the disks of the nodes hold the
//! whole state.

mod cluster;
mod environment;
mod files;
mod health;
mod member;
mod memory;
mod metrics;
mod node_loss;
mod orphans;
mod paging;
mod placement;
mod service;
mod snapshots;
mod unlimited;
mod view;

pub use cluster::{Cluster, Parts};
pub use environment::{
    Abandoned, AlwaysElected, Claims, Election, Endpoint, Fate, NoKubernetes, Nodes, Roster, RosterSource,
};
pub use files::{FileElection, follow_agents, read_agents};
pub use member::Timing;
pub use node_loss::{NodeLoss, Released, Releases, release_lost};
pub use service::ControllerService;
pub use view::{Finding, Level, ViewService};
