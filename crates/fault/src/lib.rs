//! Points at which a test may kill the process; nothing at all in an ordinary build.
//!
//! Crash safety is proven by killing the real binary right before and right after everything it does to the outside
//! world. The crates that run programs, mount, and write to devices call [`point`] there. Only a build with the
//! `enabled` feature reads the environment; in every other build both functions compile to nothing.
//!
//! With the feature, and `QUARRY_FAULT_DIR` naming a directory:
//! * every point appends its name, a line each, to `log` in that directory: this is how the points are enumerated;
//! * when a file `kill-at` holds the number N, the N-th point passed since that file appeared kills the process with
//!   SIGKILL, as a power cut or `kill -9` would;
//! * a file `disable-NAME` takes the safeguard NAME out, so that a test can show that it would have caught its loss.
//!
//! A simulation that runs in the test's own process takes safeguards out with `disable`, for its thread alone.

#[cfg(feature = "enabled")]
mod enabled;

#[cfg(feature = "enabled")]
pub use enabled::{Disabled, disable};

/// Marks one instant between this process and the outside world. `name` says what is about to happen or has just
/// happened, for example `exec:lvm lvcreate:before`.
#[inline]
pub fn point(name: impl FnOnce() -> String) {
    #[cfg(feature = "enabled")]
    enabled::point(&name());
    #[cfg(not(feature = "enabled"))]
    let _ = name;
}

/// Whether a test has taken the safeguard `name` out. Always false in an ordinary build.
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
