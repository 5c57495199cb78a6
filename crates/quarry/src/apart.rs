//! Work on disks in a process of its own, for a command that must end whatever a disk does.
//!
//! A thread that waits for a disk in the kernel cannot be ended, nor can its process: the parent that waits for it would
//! wait for the disk. So a child does the work, and its parent ends as soon as the child has said how it went. What is
//! left of the child ends when the disk answers or goes.

use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{ForkResult, dup2_stderr, dup2_stdout, fork};

/// Does the work in a child, and returns how it ended; its error has been printed then. To be called before this process
/// has a second thread.
///
/// # Errors
/// There is no child.
#[allow(unsafe_code)]
#[allow(clippy::disallowed_methods, reason = "it starts no program: the child goes on with this one")]
pub(crate) fn run(work: impl FnOnce() -> anyhow::Result<ExitCode>) -> anyhow::Result<ExitCode> {
    let (mut answer, tell) = io::pipe().context("making a pipe")?;
    // SAFETY: this process has one thread, as the caller promises: no lock is held by a thread that the child lacks.
    match unsafe { fork() }.context("starting a process that looks at the disks")? {
        ForkResult::Child => {
            drop(answer);
            child(work, tell)
        }
        ForkResult::Parent { .. } => {
            drop(tell);
            let mut code = [1];
            // A child that died says nothing: that is a failure.
            let _ = answer.read_exact(&mut code);
            let [code] = code;
            Ok(ExitCode::from(code))
        }
    }
}

fn child(work: impl FnOnce() -> anyhow::Result<ExitCode>, mut tell: io::PipeWriter) -> ! {
    // This process ends with its parent. If the kernel cannot do that, it ends by itself a little later.
    let _ = prctl::set_pdeathsig(Signal::SIGKILL);
    let code = match work() {
        Ok(_) => 0,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error:#}");
            1
        }
    };
    let _ = io::stdout().flush();
    // A reader of our output waits until no process has the pipe open for writing.
    if let Ok(nothing) = std::fs::File::options().write(true).open("/dev/null") {
        let _ = dup2_stdout(&nothing);
        let _ = dup2_stderr(&nothing);
    }
    let _ = tell.write_all(&[code]);
    std::process::exit(i32::from(code))
}
