//! What Quarry reads from and keeps in the Kubernetes API. The controller alone uses it; nodes need no access.
//!
//! | what | how |
//! |---|---|
//! | [`Discovery`] | watches the node plugin's pods: where each node's agent can be reached |
//! | [`ClusterNodes`] | watches the Nodes: well, not well, gone for good |
//! | [`VolumeClaims`] | watches the PersistentVolumes: which volumes somebody still wants |
//! | [`LeaseElection`] | a Lease: who decides where a volume goes if a request leaves a choice |
//! | [`SecretStore`] | three Secrets: the certificates of controller and nodes |
//!
//! Nothing about a volume is kept here: the disks are the database.
//!
//! # Rights
//!
//! In Quarry's own namespace (a Role):
//!
//! | group | resource | verbs | why |
//! |---|---|---|---|
//! | | `pods` | get, list, watch | discovery; own pod for events |
//! | | `secrets` named `<prefix>-authority`, `-controller`, `-node` | get, update | certificates |
//! | | `secrets` | create | RBAC cannot restrict create to names; not needed where the three are made in advance |
//! | `coordination.k8s.io` | `leases` named as the Lease is | get, update | the election |
//! | `coordination.k8s.io` | `leases` | create | as for Secrets |
//! | `events.k8s.io` | `events` | create | events on our own pod |
//!
//! In the whole cluster (a ClusterRole):
//!
//! | group | resource | verbs | why |
//! |---|---|---|---|
//! | | `nodes` | get, list, watch | what has become of a node |
//! | | `persistentvolumes` | get, list, watch | which volumes are wanted; events on them |
//!
//! In the namespace `default` (a Role), where events on PersistentVolumes are kept: `events.k8s.io` `events` create.

mod absence;
mod ask;
mod claims;
mod connect;
mod discovery;
mod election;
mod events;
mod follow;
mod guard;
mod nodes;
mod secrets;

pub use claims::VolumeClaims;
#[doc(hidden)]
pub use claims::Volumes;
pub use connect::{ConnectError, Connection, Options, connect};
pub use discovery::Discovery;
pub use election::{LeaseElection, Settings as ElectionSettings};
pub use guard::{Clock, system_clock};
pub use nodes::{ClusterNodes, PATIENCE};
pub use secrets::SecretStore;
