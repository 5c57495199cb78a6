//! The processes of a measurement: starts them, sends them commands line by line, and reads their answers.
#![allow(clippy::disallowed_types)] // quarry-exec waits for the end of what it starts; these live until they are ended explicitly.

use std::process::Stdio;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::Setting;

/// How long any step may take: this says that something hangs, not that it is slow.
const PATIENCE: Duration = Duration::from_secs(600);
/// Descriptors besides those of the nodes.
const BESIDES: u64 = 200;

/// Fails early, with a clear error, if this many nodes are not possible: a node needs a listener, and a
/// connection for each controller and for the measurement itself, in one process.
pub(crate) fn check_limit(nodes: usize, controllers: usize) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let needed = u64::try_from(nodes * (1 + controllers)).unwrap() + BESIDES;
    assert!(
        hard >= needed,
        "{nodes} nodes need {needed} open files in one process, and the hard limit is {hard}: raise it (ulimit -Hn, as \
         root), or ask for fewer nodes"
    );
}

/// A child process; killed when dropped.
pub(crate) struct Process {
    child: Child,
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts a role, with arguments before those of the setting.
    pub(crate) fn start(role: &[&str], setting: &Setting) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(role)
            .args(setting.arguments())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (commands, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, commands, answers: BufReader::new(answers).lines() }
    }

    /// Waits for the next line.
    pub(crate) async fn answer(&mut self) -> String {
        let line = tokio::time::timeout(PATIENCE, self.answers.next_line()).await;
        line.expect("a process hangs").unwrap().expect("a process has ended")
    }

    /// Says a line, and waits for the answer.
    pub(crate) async fn ask(&mut self, command: &str) -> String {
        self.commands.write_all(format!("{command}\n").as_bytes()).await.unwrap();
        self.answer().await
    }

    /// What it keeps in memory, in KiB.
    pub(crate) fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id().unwrap())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}
