//! The transport between Quarry's services and their callers: listeners and clients, counting and logging of
//! calls, health, and shutdown.
//!
//! * [`unix`]: the CSI socket, both ends;
//! * [`changes`]: notifications of changed files;
//! * [`call`]: counts and logs the end of every call, however it ends;
//! * [`deadline`]: how long the caller waits;
//! * [`metrics`]: the registry behind `/metrics`;
//! * [`http`]: `/healthz`, `/readyz` and `/metrics` on one port;
//! * [`open_files`]: how many connections a process may have;
//! * [`shutdown`]: from a signal to the exit, in two phases;
//! * [`tls`]: mutual TLS between controller and node.

mod accept;
mod alive;
pub mod call;
pub mod changes;
pub mod deadline;
pub mod http;
pub mod metrics;
pub mod open_files;
mod room;
pub mod shutdown;
pub mod tls;
pub mod unix;
