//! Mutations that outlived the process that started them.
//!
//! A mutation is never killed with Quarry, so after a crash one may still be at work, or still be waiting for its turn:
//! whoever changes the same subject meanwhile would have it come after them. Each carries a mark in its environment, by
//! which the next Quarry finds it.

use std::path::{Path, PathBuf};

/// The variable that names what a mutation works on.
pub(crate) const MARK: &str = "QUARRY_MUTATION_ON";

/// A mutation that somebody else started, seen while it lived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// Its process id.
    pub pid: u32,
    /// Its command line, for messages.
    pub command: String,
    /// The mark that it carries.
    mark: Vec<u8>,
    folder: PathBuf,
}

impl Orphan {
    /// Whether it is still there. Starts nothing and asks only the kernel.
    #[must_use]
    pub fn lives(&self) -> bool {
        carries(&self.folder, &self.mark)
    }
}

/// The mutations on `subject` (see [`crate::Command::on`]) that are at work now, whoever started them. To be asked
/// before this process starts any of its own: then all of them are orphans.
#[must_use]
pub fn orphans(subject: &str) -> Vec<Orphan> {
    let mark = format!("{MARK}={subject}").into_bytes();
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    processes
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let folder = entry.path();
            carries(&folder, &mark).then(|| {
                let command = std::fs::read(folder.join("cmdline")).unwrap_or_default();
                let command = String::from_utf8_lossy(&command).replace('\0', " ").trim().to_owned();
                Orphan { pid, command, mark: mark.clone(), folder }
            })
        })
        .collect()
}

/// Whether a process has the mark in its environment. One that has ended has no environment.
fn carries(folder: &Path, mark: &[u8]) -> bool {
    std::fs::read(folder.join("environ"))
        .is_ok_and(|environment| environment.split(|byte| *byte == 0).any(|variable| variable == mark))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Command;
    use std::time::Duration;

    #[tokio::test]
    async fn a_mutation_is_found_by_what_it_works_on_until_it_ends() {
        let subject = format!("group-{}", std::process::id());
        let task = tokio::spawn(Command::mutation("sleep").arg("0.5").on(subject.clone()).run());
        let found = loop {
            let found = orphans(&subject);
            if !found.is_empty() {
                break found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        assert_eq!(found.len(), 1);
        assert!(found[0].command.contains("sleep"), "{found:?}");
        assert!(found[0].lives());
        assert!(orphans(&format!("{subject}0")).is_empty(), "another subject");
        task.await.unwrap().unwrap();
        assert!(!found[0].lives());
        assert!(orphans(&subject).is_empty());
    }

    #[tokio::test]
    async fn a_query_is_no_orphan() {
        let subject = format!("query-{}", std::process::id());
        // Its own number makes it one that no other test started.
        let seconds = format!("0.{}", std::process::id());
        let query = || Command::query("sleep").arg(seconds.clone()).on(subject.clone());
        let line = format!("sleep\0{seconds}\0");
        let runs = || {
            let lines = std::fs::read_dir("/proc").unwrap().flatten();
            lines
                .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
                .any(|found| found == line.as_bytes())
        };
        // Where the machine is so slow that it ends before it is seen, another one is started.
        'seen: loop {
            let task = tokio::spawn(query().run());
            while !task.is_finished() {
                if runs() {
                    let found = orphans(&subject);
                    if runs() {
                        assert_eq!(found, [], "it was at work before and after");
                        break 'seen;
                    }
                }
                tokio::task::yield_now().await;
            }
        }
    }
}
