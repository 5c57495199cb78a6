//! The host's tools: which are needed, which Debian packages provide them, and how to run them.
#![allow(clippy::disallowed_types)] // quarry-exec is part of what virtual nodes test; the harness stands on its own feet.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

/// A program, and the Debian or Ubuntu package that holds it.
const TOOLS: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("qemu-img", "qemu-utils"),
    ("mmdebstrap", "mmdebstrap"),
    ("mke2fs", "e2fsprogs"),
    ("cc", "gcc"),
];

/// What a non-root user needs in addition, to build a root file system whose files belong to root.
const USER_TOOLS: &[(&str, &str)] = &[("fakeroot", "fakeroot"), ("fakechroot", "fakechroot")];

/// Without Debian's keys nothing that is downloaded can be verified; Ubuntu does not carry them by itself.
const KEYRING: (&str, &str) = ("/usr/share/keyrings/debian-archive-keyring.gpg", "debian-archive-keyring");

/// Packages that a virtual node needs on the host and that are not there.
#[must_use]
pub fn missing_tools() -> Vec<&'static str> {
    let user: &[_] = if nix::unistd::geteuid().is_root() { &[] } else { USER_TOOLS };
    let mut missing: Vec<_> =
        TOOLS.iter().chain(user).filter(|(program, _)| !on_path(program)).map(|(_, package)| *package).collect();
    if !Path::new(KEYRING.0).exists() {
        missing.push(KEYRING.1);
    }
    missing
}

/// Searches PATH and the folders of system programs, which a plain user's PATH often lacks.
fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(program).is_file())
}

/// Fails with the command that installs what is missing.
pub(crate) fn require_tools() -> Result<()> {
    let missing = missing_tools();
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "virtual nodes need packages that this host does not have; install them with\n  \
         sudo apt-get install --no-install-recommends {}",
        missing.join(" ")
    )
}

/// Installs missing packages with apt-get if the caller is root.
///
/// # Errors
/// When the caller is not root (the message holds the command to run), or when apt-get fails.
pub async fn install_tools() -> Result<()> {
    let missing = missing_tools();
    if missing.is_empty() {
        return Ok(());
    }
    if !nix::unistd::geteuid().is_root() {
        return require_tools();
    }
    eprintln!("quarry-vm: installing {}", missing.join(" "));
    run("apt-get", ["update", "-qq"], Path::new("/"), Duration::from_secs(300)).await?;
    let arguments = ["install", "-y", "-qq", "--no-install-recommends"].iter().chain(&missing);
    run("apt-get", arguments, Path::new("/"), Duration::from_secs(900)).await?;
    Ok(())
}

/// The PATH for what we start: the caller's, and the folders of system programs.
pub(crate) fn path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

/// Runs a program to completion and returns its standard output.
///
/// # Errors
/// It cannot be started, runs past `deadline` (it is killed), or fails; the error quotes the end of its
/// output.
pub(crate) async fn run(
    program: &str,
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    folder: &Path,
    deadline: Duration,
) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder).env("PATH", path());
    run_command(command, deadline).await
}

/// As [`run`], for a command that is already described.
pub(crate) async fn run_command(mut command: Command, deadline: Duration) -> Result<String> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    let leash = Leash::new(child.id().with_context(|| format!("{program} exited at once"))?, Signal::SIGTERM)?;
    let output = tokio::time::timeout(deadline, child.wait_with_output())
        .await
        .with_context(|| format!("{program} did not end within {deadline:?}"))?
        .with_context(|| format!("cannot wait for {program}"))?;
    leash.release();
    if !output.status.success() {
        bail!("{program} failed with {}:\n{}", output.status, tail(&String::from_utf8_lossy(&output.stderr), 30));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Ends a process group when this value is dropped, and also when this whole process is killed.
///
/// A test that is killed runs no destructors. A small shell waits at the other end of a pipe; the pipe closes with us.
pub(crate) struct Leash {
    group: Pid,
    signal: Signal,
    held: bool,
    // Killed when dropped, before its pipe closes: it acts only if this process cannot.
    _shell: Child,
}

impl Leash {
    /// Holds the process group that `leader` leads.
    pub(crate) fn new(leader: u32, signal: Signal) -> Result<Self> {
        let script = format!("read -r _; kill -{} -{leader}", signal as i32);
        let shell = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            // A terminal's Ctrl-C reaches only this process.
            .process_group(0)
            .spawn()
            .context("cannot start sh")?;
        Ok(Self { group: Pid::from_raw(leader.cast_signed()), signal, held: true, _shell: shell })
    }

    /// The group's leader has exited; its number may soon belong to another process.
    pub(crate) fn release(mut self) {
        self.held = false;
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        if self.held {
            // It may have exited by itself.
            let _ = killpg(self.group, self.signal);
        }
    }
}

/// The last `lines` lines of `text`.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<_> = text.lines().collect();
    all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_keeps_the_end() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a", 2), "a");
    }

    #[tokio::test]
    async fn a_failure_quotes_what_the_program_said() {
        let error = run("sh", ["-c", "echo no such disk >&2; exit 3"], Path::new("/"), Duration::from_secs(5)).await;
        assert!(error.unwrap_err().to_string().contains("no such disk"));
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_ended_with_its_children() {
        let script = ["-c", "sleep 60.25 & wait"];
        let error = run("sh", script, Path::new("/"), Duration::from_millis(100)).await;
        assert!(error.unwrap_err().to_string().contains("did not end within"));
        let lives = || {
            let processes = std::fs::read_dir("/proc").unwrap().flatten();
            processes
                .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
                .any(|line| line == b"sleep\x0060.25\0")
        };
        for _ in 0..50 {
            if !lives() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the program's child lives on");
    }
}
