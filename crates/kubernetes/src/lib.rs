//! What Quarry reads from and stores in the Kubernetes API. Only the controller uses it; nodes need no
//! access.
//!
//! | what | how |
//! |---|---|
//! | [`Discovery`] | watches the node plugin's pods: the address of each node's agent |
//! | [`ClusterNodes`] | watches the Nodes: ready, not ready, gone for good |
//! | [`VolumeClaims`] | watches the PersistentVolumes, and the VolumeSnapshotContents if requested: which volumes and snapshots are wanted |
//! | [`LeaseElection`] | a Lease: elects the controller that selects nodes |
//! | [`ClaimReleases`] | deletes the claims of volumes on lost nodes, if the controller may |
//! | [`holders_of_volume`], [`holders_of_snapshot`] | list the PersistentVolumes and the VolumeSnapshotContents once, before an orphan is deleted |
//! | [`SecretStore`] | three Secrets: the certificates of controller and nodes |
//!
//! Nothing about a volume is stored here: the disks are the database.
//!
//! # Rights
//!
//! In Quarry's own namespace (a Role):
//!
//! | group | resource | verbs | why |
//! |---|---|---|---|
//! | | `pods` | get, list, watch | discovery; own pod for events |
//! | | `secrets` named `<prefix>-authority`, `-controller`, `-node` | get, update | certificates |
//! | | `secrets` | create | RBAC cannot restrict create to names; not needed if the three are created in advance |
//! | `coordination.k8s.io` | `leases` with the name of the Lease | get, update | the election |
//! | `coordination.k8s.io` | `leases` | create | as for Secrets |
//! | `events.k8s.io` | `events` | create | events on the controller's pod |
//!
//! In the whole cluster (a ClusterRole):
//!
//! | group | resource | verbs | why |
//! |---|---|---|---|
//! | | `nodes` | get, list, watch | the state of a node |
//! | | `persistentvolumes` | get, list, watch | which volumes are claimed; events on them |
//! | `events.k8s.io` | `events` | create | events on claims, in their namespaces |
//! | `snapshot.storage.k8s.io` | `volumesnapshotcontents` | list, watch | which snapshots are wanted, if requested |
//!
//! With `--release-on-node-loss` also `persistentvolumeclaims` get, delete.
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
mod holders;
mod nodes;
mod release;
mod secrets;
mod snapshots;

pub use claims::VolumeClaims;
#[doc(hidden)]
pub use claims::Volumes;
pub use connect::{ConnectError, Connection, Options, connect};
pub use discovery::Discovery;
pub use election::{LeaseElection, Settings as ElectionSettings};
pub use guard::{Clock, system_clock};
pub use holders::{holders_of_snapshot, holders_of_volume};
pub use nodes::{ClusterNodes, PATIENCE};
pub use release::ClaimReleases;
pub use secrets::SecretStore;
