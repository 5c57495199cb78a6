//! Without Kubernetes: the nodes come from a file, and a lock file elects one of the controllers on a host.

use std::fs::{File, Metadata};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::fcntl::{Flock, FlockArg};
use quarry_volume::{Error, MAX_NODE, Result};
use serde::Deserialize;
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use crate::environment::{Election, Endpoint, Roster, RosterSource};

/// How often the list of agents is checked for changes.
const READ_EVERY: Duration = Duration::from_secs(5);
/// 1 January 2025 in seconds since 1970.
const EPOCH: u64 = 1_735_689_600;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Agents {
    agents: Vec<Agent>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Agent {
    node: String,
    address: String,
}

/// Reads a list of agents:
///
/// ```yaml
/// agents:
///   - node: worker-1
///     address: 192.0.2.11:9810
/// ```
///
/// # Errors
/// `InvalidRequest`, naming the file and what is wrong with it.
pub fn read_agents(path: &Path) -> Result<Roster> {
    let wrong = |what: String| Error::invalid(format!("list of agents {}: {what}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(format!("cannot read it: {error}")))?;
    let options = serde_saphyr::options! { strict_booleans: true };
    let file: Agents = serde_saphyr::from_str_with_options(&text, options)
        .map_err(|error| wrong(error.without_snippet().to_string()))?;
    let mut roster = Roster::new();
    for Agent { node, address } in file.agents {
        if node.is_empty() || node.len() > MAX_NODE {
            return Err(wrong(format!("{node:?} is not a valid node name: use 1 to {MAX_NODE} bytes")));
        }
        if address.parse::<SocketAddr>().is_err() {
            return Err(wrong(format!(
                "node {node} has the invalid address {address:?}: use an IP address with a port"
            )));
        }
        if roster.insert(node.clone(), Endpoint { address, pod_uid: String::new() }).is_some() {
            return Err(wrong(format!("node {node} is listed twice")));
        }
    }
    Ok(roster)
}

/// The roster from a file, read again whenever the file changes, until `stop`. If the changed file is
/// invalid, the error is logged and the roster stays unchanged.
///
/// # Errors
/// Like [`read_agents`], for the first read.
pub fn follow_agents(path: &Path, stop: CancellationToken) -> Result<RosterSource> {
    let first = read_agents(path)?;
    let (sender, source) = watch::channel(Some(Arc::new(first)));
    let path = path.to_owned();
    let mut last = std::fs::read(&path).ok();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(READ_EVERY) => {}
            }
            let (read_path, before) = (path.clone(), last.clone());
            // The file may be on a disk that does not respond.
            let reading = tokio::task::spawn_blocking(move || changed(&read_path, before));
            let Ok(Some((now, read))) = reading.await else { continue };
            last = now;
            match read {
                Ok(roster) => drop(sender.send_replace(Some(Arc::new(roster)))),
                Err(error) => tracing::error!(%error, "invalid list of agents; the nodes stay unchanged"),
            }
        }
    });
    Ok(source)
}

/// The content of the list of agents and the roster parsed from it, if the content differs from `before`.
fn changed(path: &Path, before: Option<Vec<u8>>) -> Option<(Option<Vec<u8>>, Result<Roster>)> {
    let now = std::fs::read(path).ok();
    (now != before).then(|| (now, read_agents(path)))
}

/// An election between the controllers on one host: the process that locks the file is elected until it
/// exits, or the file is removed or replaced. The file contains the number of the term.
#[derive(Debug)]
pub struct FileElection {
    path: PathBuf,
    held: Mutex<Option<Held>>,
}

impl FileElection {
    /// An election with the lock file at `path`, which is created if it is missing.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), held: Mutex::default() }
    }

    /// Locks the file and increments the term in it. A new file begins with the clock: nodes reject terms below those that
    /// they have seen, and the terms in a file that was removed lasted longer than a second on average.
    fn take(path: &Path) -> Result<Held> {
        // Not final: an earlier attempt of the request may have made the volume.
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            Error::unavailable(format!("lock file {} cannot be {what}: {error}", path.display()))
        };
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.map_err(|error| failed("opened", &error))?;
        let mut lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            nix::errno::Errno::EWOULDBLOCK => Error::unavailable(
                "another controller on this host is elected to select nodes: call that one, or retry",
            ),
            errno => failed("locked", &errno),
        })?;
        let identity = lock.metadata().map(|file| Identity::of(&file)).map_err(|error| failed("read", &error))?;
        if !Identity::at(path).is_ok_and(|now| now == identity) {
            return Err(Error::unavailable(format!("lock file {} has just been replaced: retry", path.display())));
        }
        let mut text = String::new();
        lock.read_to_string(&mut text).map_err(|error| failed("read", &error))?;
        let before: u64 = match text.trim() {
            "" => first_term(SystemTime::now()),
            number => number.parse().map_err(|error| failed("understood", &error))?,
        };
        let term = before.saturating_add(1);
        lock.rewind()
            .and_then(|()| lock.write_all(format!("{term}\n").as_bytes()))
            .and_then(|()| lock.sync_all())
            .map_err(|error| failed("written", &error))?;
        Ok(Held { _lock: lock, identity, term })
    }
}

/// The seconds since 2025, with which the terms of a new lock file begin.
fn first_term(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().saturating_sub(EPOCH)
}

/// The lock of an elected process.
#[derive(Debug)]
struct Held {
    /// Locked as long as it is open.
    _lock: Flock<File>,
    identity: Identity,
    term: u64,
}

/// What tells a file from another one that takes its path: its filesystem and its inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity(u64, u64);

impl Identity {
    /// Of the file at that path.
    fn at(path: &Path) -> io::Result<Self> {
        std::fs::metadata(path).map(|found| Self::of(&found))
    }

    fn of(file: &Metadata) -> Self {
        Self(file.dev(), file.ino())
    }
}

#[async_trait::async_trait]
impl Election for FileElection {
    async fn fence(&self) -> Result<u64> {
        let mut held = self.held.lock().await;
        if let Some(Held { identity, term, .. }) = &*held {
            let (path, identity) = (self.path.clone(), *identity);
            let in_place = tokio::task::spawn_blocking(move || Identity::at(&path).is_ok_and(|now| now == identity));
            if in_place.await.unwrap_or(false) {
                return Ok(*term);
            }
            // Another controller may have locked a new file.
            *held = None;
        }
        let path = self.path.clone();
        // The term is flushed to a disk, which may take some time. If the caller gives up meanwhile, dropping
        // the result releases the lock.
        let taken = tokio::task::spawn_blocking(move || Self::take(&path)).await;
        let taken =
            taken.map_err(|error| Error::unavailable(format!("locking {}: {error}", self.path.display())))??;
        let term = taken.term;
        *held = Some(taken);
        Ok(term)
    }
}

#[cfg(test)]
mod tests {
    use quarry_volume::Reason;

    use super::*;

    #[test]
    fn valid_agents_are_read_and_errors_name_the_mistake() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agents.yaml");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read_agents(&path)
        };
        let roster = read("agents:\n  - {node: a, address: '10.0.0.1:9810'}\n").unwrap();
        assert_eq!(roster["a"].address, "10.0.0.1:9810");
        for (text, named) in [
            ("agents:\n  - {node: a, address: '10.0.0.1'}\n", "with a port"),
            ("agents:\n  - {node: a, address: '10.0.0.1:1'}\n  - {node: a, address: '10.0.0.2:1'}\n", "twice"),
            ("agents:\n  - {name: a}\n", "name"),
            ("agents:\n  - {node: '', address: '10.0.0.1:1'}\n", "node name"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(named) && error.contains("agents.yaml"), "{error}");
        }
    }

    #[tokio::test]
    async fn one_controller_is_elected_at_a_time_and_each_term_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chooser");
        let (one, two) = (FileElection::new(&path), FileElection::new(&path));
        let first = one.fence().await.unwrap();
        assert_eq!(one.fence().await.unwrap(), first);
        assert_eq!(two.fence().await.unwrap_err().reason, Reason::Unavailable);
        drop(one);
        assert_eq!(two.fence().await.unwrap(), first + 1);
    }

    /// As `systemd-tmpfiles` or an operator may do, or a restart of a host with the file in memory.
    #[tokio::test]
    async fn a_controller_whose_lock_file_is_gone_is_no_longer_elected() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chooser");
        let (one, two) = (FileElection::new(&path), FileElection::new(&path));
        std::fs::write(&path, "7").unwrap();
        assert_eq!(one.fence().await.unwrap(), 8);
        std::fs::remove_file(&path).unwrap();
        let second = two.fence().await.unwrap();
        assert!(second > 8, "{second}");
        assert_eq!(one.fence().await.unwrap_err().reason, Reason::Unavailable);
        drop(two);
        assert_eq!(one.fence().await.unwrap(), second + 1);
    }

    #[tokio::test]
    async fn a_damaged_lock_file_is_an_error_that_is_retried() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chooser");
        std::fs::write(&path, "garbage").unwrap();
        assert_eq!(FileElection::new(&path).fence().await.unwrap_err().reason, Reason::Unavailable);
    }
}
