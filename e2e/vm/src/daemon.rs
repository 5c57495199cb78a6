//! A host program that runs next to the guests for the lifetime of a value.
#![allow(clippy::disallowed_types)] // quarry-exec ends what it starts; this lives on between calls.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use tokio::process::{Child, Command};

use crate::host::{self, Leash};

/// A running program. It is killed when this value is dropped, and also when this whole process is.
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
    _leash: Leash,
}

impl Daemon {
    /// Starts a program with its output in `log`, which is truncated.
    ///
    /// # Errors
    /// The log cannot be created or the program cannot be started.
    pub fn start(
        program: &Path,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
        log: impl Into<PathBuf>,
    ) -> Result<Self> {
        let (name, log) = (program.file_name().unwrap_or_default().to_string_lossy().into_owned(), log.into());
        let output = File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
        let again = output.try_clone().with_context(|| format!("cannot open {} twice", log.display()))?;
        let child = Command::new(program)
            .args(arguments)
            .env("PATH", host::path())
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(again)
            .kill_on_drop(true)
            // A terminal's Ctrl-C must reach us, not it.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let leader = child.id().with_context(|| format!("{name} exited at once"))?;
        Ok(Self { name, child, log, _leash: Leash::new(leader, Signal::SIGKILL)? })
    }

    /// Fails, with the end of its log, if the program has exited.
    ///
    /// # Errors
    /// It has exited, or its state cannot be read.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait().with_context(|| format!("cannot look at {}", self.name))? {
            None => Ok(()),
            Some(status) => bail!("{} has ended with {status}:\n{}", self.name, self.log_tail()),
        }
    }

    /// Waits until the program ends, and returns whether it succeeded.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub async fn wait(mut self) -> Result<bool> {
        let status = self.child.wait().await.with_context(|| format!("cannot wait for {}", self.name))?;
        Ok(status.success())
    }

    /// The end of its output.
    fn log_tail(&self) -> String {
        host::tail(&String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()), 30)
    }
}

/// Runs a program of the host to completion and returns its standard output.
///
/// # Errors
/// It cannot be started, runs past `deadline` (it is killed), or fails; the error quotes the end of its
/// output.
pub async fn run(
    program: &Path,
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    deadline: Duration,
) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments).env("PATH", host::path());
    host::run_command(command, deadline).await
}
