//! The only door to other programs.
//!
//! Everything Quarry asks of the host's tools (lvm, mkfs, blkid …) passes through here, so that each call has the same
//! guarantees: an argument vector and never a shell, the C locale, a closed stdin, a process group of its own, bounded
//! output, a deadline, a tracing span with its duration, a place in [`running`] while it lasts, and a fault point
//! before and after it.
//!
//! Two kinds of command differ in what a deadline means. A *query* (a report, a probe) changes nothing: past its
//! deadline its process group is terminated, then killed. A *mutation* is never killed by us, because an lvm that dies
//! half-way may leave devices suspended: past its deadline it is marked overdue and the wait goes on. Whoever asked may
//! stop waiting by dropping the future; the process is still waited for and stays in [`running`] until it has ended.
//!
//! Output goes to anonymous files in memory instead of pipes. A pipe would break in three ways: a mutation that
//! outlives a killed Quarry would get SIGPIPE at its next message, in the middle of its work; a daemon started by the
//! tool (dmeventd) would hold the pipe open for ever; and a full pipe would stall the tool whenever we are slow.

mod adopted;
mod command;
mod error;
mod orphan;
mod process;
mod registry;
mod tools;

pub use adopted::reap_adopted;
pub use command::{Command, Output};
pub use error::Error;
pub use orphan::{Orphan, orphans};
pub use registry::{Running, running, spent, started};
pub use tools::missing_tools;
