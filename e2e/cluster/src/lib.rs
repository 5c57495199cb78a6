//! A real Kubernetes on virtual nodes: the control plane as plain processes on this machine, kubelet and containerd in
//! virtual machines with empty disks, Quarry installed by its chart.

pub mod binaries;
mod cluster;
pub mod conformance;
mod containerd;
mod control_plane;
mod egress;
pub mod images;
pub mod install;
mod kubeconfig;
mod kubectl;
pub mod objects;
mod pki;
mod previous;
pub mod scenarios;
mod space;
mod worker;

pub use cluster::{Cluster, Plan, fresh_folder};
pub use kubectl::Kubectl;
pub use space::Space;
pub use worker::Worker;
