//! What lies between Quarry's services and those who call them: listeners and clients, how calls are counted and
//! logged, health, and how the process ends.
//!
//! * [`unix`]: the CSI socket, both ends of it;
//! * [`call`]: sees every call end, whatever way it ends, counts and logs it;
//! * [`deadline`]: how long the caller is going to wait;
//! * [`metrics`]: the registry behind `/metrics`;
//! * [`http`]: `/healthz`, `/readyz` and `/metrics` on one port;
//! * [`shutdown`]: from a signal to the end, in two phases;
//! * [`tls`]: mutual TLS between controller and node.

mod alive;
pub mod call;
pub mod deadline;
pub mod http;
pub mod metrics;
pub mod shutdown;
pub mod tls;
pub mod unix;
