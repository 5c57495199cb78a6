//! Finds mutations that outlived the process that started them.
//!
//! A mutation is never killed with Quarry, so after a crash it may still be running or waiting for a lock,
//! and could take effect after a newer change to the same subject. Each mutation carries a mark in its
//! environment, by which the next Quarry finds it.

use std::path::{Path, PathBuf};

/// The environment variable that contains the subject of a mutation.
pub(crate) const MARK: &str = "QUARRY_MUTATION_ON";
/// The environment variable that contains the command line of a mutation as messages show it: the arguments themselves
/// can be longer than a message may be.
pub(crate) const LINE: &str = "QUARRY_COMMAND";

/// A running mutation that another process started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// Its process id.
    pub pid: u32,
    /// Its command line, for messages.
    pub command: String,
    /// The mark in its environment.
    mark: Vec<u8>,
    folder: PathBuf,
}

impl Orphan {
    /// Whether it is still running. Starts no program; only reads `/proc`.
    #[must_use]
    pub fn is_running(&self) -> bool {
        carries(&self.folder, &self.mark)
    }
}

/// The mutations on `subject` (see [`crate::Command::on`]) that are running now, no matter which process
/// started them. Call this before this process starts its first mutation: then all of them are orphans.
#[must_use]
pub fn orphans(subject: &str) -> Vec<Orphan> {
    let mark = format!("{MARK}={subject}").into_bytes();
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    processes
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let folder = entry.path();
            carries(&folder, &mark).then(|| Orphan { pid, command: command(&folder), mark: mark.clone(), folder })
        })
        .collect()
}

/// Whether a process has the mark in its environment. An ended process has no environment.
fn carries(folder: &Path, mark: &[u8]) -> bool {
    find_variable(folder, |variable| (variable == mark).then_some(())).is_some()
}

/// The command line of a process. An earlier version of Quarry started it without the variable.
fn command(folder: &Path) -> String {
    let named = format!("{LINE}=").into_bytes();
    let line = find_variable(folder, |variable| variable.strip_prefix(named.as_slice()).map(<[u8]>::to_vec));
    let line = line.unwrap_or_else(|| std::fs::read(folder.join("cmdline")).unwrap_or_default());
    String::from_utf8_lossy(&line).replace('\0', " ").trim().to_owned()
}

/// What `find` returns for the first variable in the environment of a process for which it returns anything.
fn find_variable<T>(folder: &Path, find: impl FnMut(&[u8]) -> Option<T>) -> Option<T> {
    std::fs::read(folder.join("environ")).ok()?.split(|byte| *byte == 0).find_map(find)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Command;
    use std::time::Duration;

    #[tokio::test]
    async fn a_mutation_is_found_by_its_subject_until_it_ends() {
        let subject = format!("group-{}", std::process::id());
        let long = "x".repeat(100);
        let script =
            Command::mutation("sh").hidden_args(["-c", "exec sleep 0.5", &long]).arg("shown").on(subject.clone());
        let task = tokio::spawn(script.run());
        let found = loop {
            let found = orphans(&subject);
            if !found.is_empty() {
                break found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].command, "sh shown");
        assert!(found[0].is_running());
        assert!(orphans(&format!("{subject}0")).is_empty(), "another subject");
        task.await.unwrap().unwrap();
        assert!(!found[0].is_running());
        assert!(orphans(&subject).is_empty());
    }

    #[tokio::test]
    async fn a_query_is_not_an_orphan() {
        let subject = format!("query-{}", std::process::id());
        // The process ID in the argument distinguishes it from those of other tests.
        let seconds = format!("0.{}", std::process::id());
        let query = || Command::query("sleep").arg(seconds.clone()).on(subject.clone());
        let line = format!("sleep\0{seconds}\0");
        let runs = || {
            let lines = std::fs::read_dir("/proc").unwrap().flatten();
            lines
                .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
                .any(|found| found == line.as_bytes())
        };
        // On a slow machine, the query can end before the test sees it: then start another one.
        'seen: loop {
            let task = tokio::spawn(query().run());
            while !task.is_finished() {
                if runs() {
                    let found = orphans(&subject);
                    if runs() {
                        assert_eq!(found, [], "it was running before and after");
                        break 'seen;
                    }
                }
                tokio::task::yield_now().await;
            }
        }
    }
}
