//! Runs work on disks in a child process, for commands that must end even if a disk hangs.
//!
//! A thread that waits for a disk in the kernel cannot be killed, and neither can its process: a parent that
//! waits for it would also wait for the disk. So a child does the work, and the parent exits as soon as the
//! child has reported the result. The child itself exits when the disk answers or disappears.

use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{ForkResult, dup2_stderr, dup2_stdout, fork};

/// Does the work in a child and returns its exit code; the child has already printed any error. Call it
/// before this process starts a second thread.
///
/// # Errors
/// The child could not be started.
#[allow(unsafe_code)]
#[allow(clippy::disallowed_methods, reason = "it starts no program: the child continues this one")]
pub(crate) fn run(work: impl FnOnce() -> anyhow::Result<ExitCode>) -> anyhow::Result<ExitCode> {
    let (mut answer, report) = io::pipe().context("making a pipe")?;
    // SAFETY: this process has one thread, as the caller promises, so the child cannot miss a thread that
    // holds a lock.
    match unsafe { fork() }.context("starting a process that reads the disks")? {
        ForkResult::Child => {
            drop(answer);
            child(work, report)
        }
        ForkResult::Parent { .. } => {
            drop(report);
            let mut code = [1];
            // A child that died reports nothing: that is a failure.
            let _ = answer.read_exact(&mut code);
            let [code] = code;
            Ok(ExitCode::from(code))
        }
    }
}

fn child(work: impl FnOnce() -> anyhow::Result<ExitCode>, mut report: io::PipeWriter) -> ! {
    // This process is killed when its parent exits. If the kernel cannot do that, it exits by itself a little
    // later.
    let _ = prctl::set_pdeathsig(Signal::SIGKILL);
    let code = finish(work());
    let _ = io::stdout().flush();
    // A reader of our output waits until no process has the pipe open for writing.
    if let Ok(nothing) = std::fs::File::options().write(true).open("/dev/null") {
        let _ = dup2_stdout(&nothing);
        let _ = dup2_stderr(&nothing);
    }
    let _ = report.write_all(&[code]);
    std::process::exit(i32::from(code))
}

/// The exit code of the work as a byte, which the standard library does not tell. An error is printed.
fn finish(done: anyhow::Result<ExitCode>) -> u8 {
    match done {
        Ok(code) => (0..=u8::MAX).find(|byte| ExitCode::from(*byte) == code).unwrap_or(1),
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error:#}");
            1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exit_code_becomes_its_byte() {
        assert!((0..=u8::MAX).all(|code| finish(Ok(ExitCode::from(code))) == code));
        assert_eq!(finish(Err(anyhow::anyhow!("the disks cannot be read"))), 1);
    }
}
