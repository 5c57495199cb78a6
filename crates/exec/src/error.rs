//! Errors of commands.

use std::time::Duration;

/// Why a command could not be run, or did not exit normally.
///
/// A non-zero exit code is an error only for [`crate::Output::require_success`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program is not on the search path.
    #[error(
        "cannot run `{command}`: `{program}` was not found on the search path; install the package that provides it"
    )]
    ToolMissing {
        /// The missing program.
        program: &'static str,
        /// The whole command line.
        command: String,
    },
    /// The kernel refused to start the program.
    #[error("cannot start `{command}`: {source}")]
    Spawn {
        /// The whole command line.
        command: String,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// It would change the host, and this process is about to exit: see [`crate::refuse_mutations`].
    #[error("`{command}` was not started: Quarry is stopping; the next start continues")]
    Stopping {
        /// The whole command line.
        command: String,
    },
    /// A query exceeded its deadline and was killed.
    #[error(
        "`{command}` did not finish within {deadline:?} and was killed; \
         check for a disk that does not respond or a lock that is held"
    )]
    Deadline {
        /// The whole command line.
        command: String,
        /// Its deadline.
        deadline: Duration,
    },
    /// The program was terminated by a signal.
    #[error("`{command}` was terminated by signal {signal}: {stderr}")]
    Signalled {
        /// The whole command line.
        command: String,
        /// The signal's number.
        signal: i32,
        /// Its standard error, trimmed.
        stderr: String,
    },
    /// The program wrote more output than any report can have.
    #[error(
        "`{command}` wrote more than {limit} bytes to its standard output, more than any of its reports should contain"
    )]
    OutputTooLarge {
        /// The whole command line.
        command: String,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The program exited with a non-zero code, and the caller required success.
    #[error("`{command}` failed with exit code {code}: {stderr}")]
    Failed {
        /// The whole command line.
        command: String,
        /// Its exit code.
        code: i32,
        /// Its standard error, trimmed.
        stderr: String,
    },
}
