//! The only way to run other programs.
//!
//! Quarry runs the host's tools (lvm, mkfs, blkid …) only through this crate, so that each command has the
//! same guarantees: an argument vector and never a shell, the C locale, `/dev/null` or a [`Secret`] as stdin, its own
//! process group, bounded output, a deadline, a tracing span with its duration, an entry in [`running`] while it
//! runs, and a fault point before and after it.
//!
//! There are two kinds of commands, and a deadline has a different effect on each. A *query* (a report, a
//! probe) changes nothing: after its deadline, its process group is terminated, then killed. Quarry never
//! kills a *mutation*, because an lvm that dies halfway can leave devices suspended: after its deadline it is
//! marked overdue, and Quarry keeps waiting for it. The caller can stop waiting by dropping the future; the
//! process is still waited for and stays in [`running`] until it has ended.
//!
//! Output goes to anonymous files in memory instead of pipes. A pipe would break in three ways: a mutation
//! that outlives a killed Quarry would get SIGPIPE at its next message, in the middle of its work; a daemon
//! started by the tool (dmeventd) would keep the pipe open forever; and a full pipe would stall the tool
//! whenever Quarry is slow to read.
//!
//! [`Attended`] is for the other kind of program: one that a person's command runs for that person, such as kubectl.

mod adopted;
mod attended;
mod command;
mod error;
mod orphan;
mod process;
mod registry;
mod secret;
mod tools;

pub use adopted::reap_adopted;
pub use attended::Attended;
pub use command::{Command, Output};
pub use error::Error;
pub use orphan::{Orphan, orphans};
pub use registry::{Running, refuse_mutations, running, spent, started};
pub use secret::Secret;
pub use tools::missing_tools;
