//! How many files a process may open, connections included.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The soft limit of open files, before and after [`raise_limit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What it was.
    pub before: u64,
    /// What it is now: the hard limit.
    pub now: u64,
}

/// Raises the soft limit of open files (`RLIMIT_NOFILE`) to the hard limit. Only for a process that starts no other
/// programs: they would inherit it, and some close every descriptor up to the limit, or use `select`, which cannot
/// handle descriptors above 1,023.
///
/// # Errors
/// If a system call fails. The limit is unchanged then.
pub fn raise_limit() -> io::Result<Limit> {
    let (before, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(Limit { before, now: hard })
}
