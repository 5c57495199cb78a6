//! One run of Quarry on the machine.

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use quarry_filesystem::Probe;
use tokio::sync::watch;

use super::{Machine, State};

/// What happens to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tests) enum Plan {
    /// Nothing.
    Lives,
    /// It is killed before its effect with that number.
    Killed { before: usize },
    /// Foreign data appears on the device before that effect.
    Foreign { before: usize },
    /// An mkfs that outlived an earlier process completes before this process's read of a device with that
    /// number.
    MkfsCompletes { before_read: usize },
    /// It pauses before its effect with that number, once.
    Pauses { before: usize },
}

/// Whether a process has paused as planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pause {
    NotYet,
    Now,
    Over,
}

/// How often a paused thread looks whether it can continue.
const PAUSE: Duration = Duration::from_millis(1);

/// The kernel as one process uses it. All clones are the same process.
#[derive(Clone)]
pub(in crate::tests) struct Process {
    pub(super) machine: Machine,
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    /// Identifies the process.
    pub(super) id: u64,
    plan: Plan,
    progress: Mutex<Progress>,
    alive: watch::Sender<bool>,
    pause: watch::Sender<Pause>,
}

#[derive(Default)]
struct Progress {
    effects: usize,
    /// How often it read a device.
    device_reads: usize,
    /// Whether foreign data appeared.
    foreign: bool,
    /// The last probe of each device.
    probed: BTreeMap<PathBuf, Probe>,
}

/// A killed process does not go on.
struct Killed;

impl Process {
    pub(in crate::tests) fn new(machine: &Machine, plan: Plan) -> Self {
        let id = machine.state().next();
        let (progress, alive, pause) = (Mutex::default(), watch::Sender::new(true), watch::Sender::new(Pause::NotYet));
        Self { machine: machine.clone(), inner: Arc::new(Inner { id, plan, progress, alive, pause }) }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.inner.progress.lock()
    }

    pub(in crate::tests) fn is_alive(&self) -> bool {
        *self.inner.alive.borrow()
    }

    /// The machine that it runs on.
    pub(in crate::tests) fn state(&self) -> MutexGuard<'_, State> {
        self.machine.state()
    }

    /// Whether foreign data appeared as planned.
    pub(in crate::tests) fn met_foreign_data(&self) -> bool {
        self.progress().foreign
    }

    /// Returns when the process was killed.
    pub(in crate::tests) async fn death(&self) {
        // The sender lives as long as `self`.
        let _ = self.inner.alive.subscribe().wait_for(|alive| !*alive).await;
    }

    /// Returns when the process has paused as planned.
    pub(in crate::tests) async fn paused(&self) {
        // The sender lives as long as `self`.
        let _ = self.inner.pause.subscribe().wait_for(|pause| *pause == Pause::Now).await;
    }

    /// Lets a paused process continue.
    pub(in crate::tests) fn resume(&self) {
        self.inner.pause.send_replace(Pause::Over);
    }

    /// Begins the planned pause, if it is due.
    fn begins_pause(&self) -> bool {
        let is_due = matches!(self.inner.plan, Plan::Pauses { before } if self.progress().effects == before);
        let begin = |pause: &mut Pause| {
            let begins = *pause == Pause::NotYet;
            if begins {
                *pause = Pause::Now;
            }
            begins
        };
        is_due && self.inner.pause.send_if_modified(begin)
    }

    /// Pauses before an effect, if that is planned.
    pub(in crate::tests) async fn pause(&self) {
        if self.begins_pause() {
            let _ = self.inner.pause.subscribe().wait_for(|pause| *pause == Pause::Over).await;
        }
    }

    /// Kills the process: the kernel closes what it has open. An mkfs that it started continues.
    fn kill(&self, state: &mut State) {
        self.inner.alive.send_replace(false);
        for disk in state.disks.values_mut() {
            disk.claim.take_if(|holder| *holder == self.inner.id);
            disk.lock.take_if(|holder| *holder == self.inner.id);
        }
    }

    /// Changes the machine. `None` if the process is dead.
    pub(in crate::tests) fn try_effect<T>(&self, what: &str, work: impl FnOnce(&mut State) -> T) -> Option<T> {
        let mut state = self.machine.state();
        if !self.is_alive() {
            return None;
        }
        let mut progress = self.progress();
        match self.inner.plan {
            Plan::Killed { before } if progress.effects == before => {
                self.kill(&mut state);
                return None;
            }
            Plan::Foreign { before } if progress.effects == before => progress.foreign = state.write_foreign(),
            _ => {}
        }
        progress.effects += 1;
        state.effects.push(what.to_owned());
        Some(work(&mut state))
    }

    /// Reads the machine. `None` if the process is dead.
    pub(in crate::tests) fn try_read<T>(&self, work: impl FnOnce(&State) -> T) -> Option<T> {
        let state = self.machine.state();
        self.is_alive().then(|| work(&state))
    }

    /// Like [`Self::try_effect`], for functions that block: a dead process does not return.
    pub(super) fn effect<T>(&self, what: &str, work: impl FnOnce(&mut State) -> T) -> T {
        if self.begins_pause() {
            while *self.inner.pause.borrow() != Pause::Over {
                std::thread::sleep(PAUSE);
            }
        }
        self.try_effect(what, work).unwrap_or_else(|| resume_unwind(Box::new(Killed)))
    }

    /// Like [`Self::try_read`], for functions that block: a dead process does not return.
    pub(super) fn read<T>(&self, work: impl FnOnce(&State) -> T) -> T {
        self.try_read(work).unwrap_or_else(|| resume_unwind(Box::new(Killed)))
    }

    /// The process is about to read a device.
    pub(super) fn before_device_read(&self) {
        let before_read = {
            let mut progress = self.progress();
            progress.device_reads += 1;
            progress.device_reads - 1
        };
        if self.inner.plan == (Plan::MkfsCompletes { before_read }) {
            self.machine.end_orphans(true);
        }
    }

    /// Remembers what the process saw on a device.
    pub(super) fn saw(&self, device: &Path, found: Probe) {
        self.progress().probed.insert(device.to_owned(), found);
    }

    /// What the process saw on the device last.
    pub(super) fn last_seen(&self, device: &Path) -> Option<Probe> {
        self.progress().probed.get(device).cloned()
    }
}
