//! Why a command gave no result.

use std::time::Duration;

/// Why a command could not be run, or ended in no regular way.
///
/// A non-zero exit code is not among them unless [`crate::Output::require_success`] asked for it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program is not on the search path.
    #[error("cannot run `{command}`: no program `{program}` on the search path; install the package that holds it")]
    ToolMissing {
        /// The program looked for.
        program: &'static str,
        /// The whole command line.
        command: String,
    },
    /// The kernel refused to start the program.
    #[error("cannot start `{command}`: {source}")]
    Spawn {
        /// The whole command line.
        command: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A query did not end in time and was killed.
    #[error(
        "`{command}` gave no answer within {deadline:?} and was killed; \
         look for a disk that does not answer or a lock that is held"
    )]
    Deadline {
        /// The whole command line.
        command: String,
        /// The time it was given.
        deadline: Duration,
    },
    /// The program died by a signal.
    #[error("`{command}` died by signal {signal}: {stderr}")]
    Signalled {
        /// The whole command line.
        command: String,
        /// The signal's number.
        signal: i32,
        /// What it had written to its standard error, trimmed.
        stderr: String,
    },
    /// The program wrote more than a report can be.
    #[error("`{command}` wrote more than {limit} bytes, which is more than any report of it should hold")]
    OutputTooLarge {
        /// The whole command line.
        command: String,
        /// The bound, in bytes.
        limit: u64,
    },
    /// The program ended with a non-zero exit code where only success will do.
    #[error("`{command}` failed with exit code {code}: {stderr}")]
    Failed {
        /// The whole command line.
        command: String,
        /// Its exit code.
        code: i32,
        /// What it had written to its standard error, trimmed.
        stderr: String,
    },
}
