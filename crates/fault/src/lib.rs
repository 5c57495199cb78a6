//! Fault points: places where a test can kill the process. Compiled to nothing in a normal build.
//!
//! The tests prove crash safety: they kill the real binary right before and right after every change it makes
//! to the outside world. The crates that run programs, mount, and write to devices call [`point`] there. Only
//! a build with the `enabled` feature reads the environment; in every other build all functions compile to
//! nothing.
//!
//! With the feature, and with `QUARRY_FAULT_DIR` set to a directory:
//! * every point appends its name as one line to `log` in that directory, so that a test can enumerate the
//!   points;
//! * if a file `kill-at` contains the number N, the N-th point passed since that file appeared kills the
//!   process with SIGKILL, as a power cut or `kill -9` would; just before that, it writes the point's name to a
//!   file `killed`. The log does not show that: background work may pass a point before the file appears;
//! * a file `disable-NAME` disables the safeguard NAME, so that a test can show that it would notice the
//!   missing safeguard.
//! * if a file `notes` exists there, [`note`] appends lines to it: the results of checks that only tests make.
//!
//! A simulation that runs in the test's own process disables safeguards with `disable`, for its own thread
//! only.

#[cfg(feature = "enabled")]
mod enabled;

#[cfg(feature = "enabled")]
pub use enabled::{Disabled, disable};

/// Marks a fault point. `name` describes what is about to happen or has just happened, for example `exec:lvm
/// lvcreate:before`.
#[inline]
pub fn point(name: impl FnOnce() -> String) {
    #[cfg(feature = "enabled")]
    enabled::point(&name());
    #[cfg(not(feature = "enabled"))]
    let _ = name;
}

/// Whether a test wants the results of checks that only tests make, see [`note`]. Always false in a normal build.
#[inline]
#[must_use]
pub fn takes_notes() -> bool {
    #[cfg(feature = "enabled")]
    return enabled::notes().is_some();
    #[cfg(not(feature = "enabled"))]
    false
}

/// Writes the result of a check to the test's notes, as one line. Does nothing in a normal build.
#[inline]
pub fn note(text: impl FnOnce() -> String) {
    #[cfg(feature = "enabled")]
    enabled::note(&text());
    #[cfg(not(feature = "enabled"))]
    let _ = text;
}

/// Whether a test has disabled the safeguard `name`. Always false in a normal build.
#[inline]
#[must_use]
pub fn disabled(name: &str) -> bool {
    #[cfg(feature = "enabled")]
    return enabled::disabled(name);
    #[cfg(not(feature = "enabled"))]
    {
        let _ = name;
        false
    }
}
