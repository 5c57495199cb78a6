//! The commands that are running now, and how often each was started: for health, metrics and tests.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::{Command, Error};
use parking_lot::{Mutex, MutexGuard};

/// A command that has not ended yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// The command line.
    pub command: String,
    /// What it works on, as set by [`Command::on`].
    pub subject: Option<String>,
    /// Whether it changes the host and is therefore never killed.
    pub mutation: bool,
    /// How long it has been running.
    pub age: Duration,
    /// Whether it exceeded its deadline.
    pub overdue: bool,
}

struct Entry {
    label: String,
    command: String,
    subject: Option<String>,
    mutation: bool,
    since: Instant,
    deadline: Duration,
}

struct Registry {
    next: u64,
    running: BTreeMap<u64, Entry>,
    started: BTreeMap<String, u64>,
    spent: BTreeMap<String, Duration>,
    /// No mutation is started any more.
    refuses_mutations: bool,
}

static REGISTRY: Mutex<Registry> = Mutex::new(Registry {
    next: 0,
    running: BTreeMap::new(),
    started: BTreeMap::new(),
    spent: BTreeMap::new(),
    refuses_mutations: false,
});

/// The registry is consistent between any two statements, so a panic with the lock held does no harm.
fn registry() -> MutexGuard<'static, Registry> {
    REGISTRY.lock()
}

/// The commands that have not ended yet, oldest first.
#[must_use]
pub fn running() -> Vec<Running> {
    registry().running()
}

/// From now on, no mutation is started: [`Error::Stopping`]. Returns those that are running. For a process that is about
/// to exit: if the result is empty, no mutation is running and none begins.
pub fn refuse_mutations() -> Vec<Running> {
    let mut registry = registry();
    registry.refuses_mutations = true;
    registry.running().into_iter().filter(|command| command.mutation).collect()
}

impl Registry {
    fn running(&self) -> Vec<Running> {
        let describe = |entry: &Entry| {
            let age = entry.since.elapsed();
            Running {
                command: entry.command.clone(),
                subject: entry.subject.clone(),
                mutation: entry.mutation,
                age,
                overdue: age > entry.deadline,
            }
        };
        self.running.values().map(describe).collect()
    }
}

/// How many processes were started since this process began, by label: the program, with its subcommand if it
/// has one (`lvm lvcreate`).
#[must_use]
pub fn started() -> BTreeMap<String, u64> {
    registry().started.clone()
}

/// The total run time of the processes that have ended, by label as in [`started`].
#[must_use]
pub fn spent() -> BTreeMap<String, Duration> {
    registry().spent.clone()
}

/// A command's entry in [`running`], which is removed when this is dropped.
pub(crate) struct Registration(u64);

impl Registration {
    /// Fails if the command is a mutation, and none is started any more.
    pub(crate) fn take(command: &Command, line: &str) -> Result<Self, Error> {
        let mut registry = registry();
        if command.mutation && registry.refuses_mutations {
            return Err(Error::Stopping { command: line.to_owned() });
        }
        let number = registry.next;
        registry.next += 1;
        let entry = Entry {
            label: command.label(),
            command: line.to_owned(),
            subject: command.subject.clone(),
            mutation: command.mutation,
            since: Instant::now(),
            deadline: command.deadline,
        };
        registry.running.insert(number, entry);
        Ok(Self(number))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut registry = registry();
        if let Some(entry) = registry.running.remove(&self.0) {
            *registry.spent.entry(entry.label).or_default() += entry.since.elapsed();
        }
    }
}

/// Counts one start.
pub(crate) fn count_start(label: &str) {
    *registry().started.entry(label.to_owned()).or_default() += 1;
}
