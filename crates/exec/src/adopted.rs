//! Processes that the kernel made children of this one, because it is a container's first process.
//!
//! When a process ends, its own children get the first process of the container as their parent. Each of them that ends
//! stays as a zombie until that parent waits for it. A query that is killed leaves such children, and so does a mutation
//! that outlived an earlier Quarry. The children that this crate started are waited for by their own threads, which need
//! the exit status: they must never be taken away from them.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// The children that this crate has started and not yet waited for.
struct Own {
    /// How many starts are under way: their processes exist, and their numbers are not known yet.
    starting: usize,
    started: BTreeSet<u32>,
}

static OWN: Mutex<Own> = Mutex::new(Own { starting: 0, started: BTreeSet::new() });

fn own() -> MutexGuard<'static, Own> {
    OWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `spawn`, which starts a child and gives its process id, and remembers the child as one of our own.
pub(crate) fn starting<T>(spawn: impl FnOnce() -> T, id: impl FnOnce(&T) -> Option<u32>) -> T {
    // The lock is not held meanwhile: a program on a disk that hangs must not keep others from being started.
    own().starting += 1;
    let spawned = spawn();
    let mut own = own();
    own.starting -= 1;
    own.started.extend(id(&spawned));
    spawned
}

/// Forgets a child of our own, once it was waited for.
pub(crate) fn waited_for(pid: u32) {
    own().started.remove(&pid);
}

/// Waits for the adopted children of this process that have ended, so that none stays as a zombie, and says how many they
/// were. To be called now and then by the first process of a container. While a program is being started nothing is done:
/// it cannot be told yet from the adopted ones.
pub fn reap_adopted() -> usize {
    let own = own();
    if own.starting > 0 {
        return 0;
    }
    let ended = |pid: &u32| {
        let pid = i32::try_from(*pid).ok().map(Pid::from_raw);
        let waited = pid.map(|pid| waitpid(pid, Some(WaitPidFlag::WNOHANG)));
        matches!(waited, Some(Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..))))
    };
    zombies().into_iter().filter(|pid| !own.started.contains(pid)).filter(ended).count()
}

/// The children of this process that have ended and were not waited for.
fn zombies() -> Vec<u32> {
    let parent = std::process::id();
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let numbers = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let stat = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    numbers.filter(|pid| is_zombie_of(parent, &stat(pid))).collect()
}

/// Whether a line of `/proc/PID/stat` is that of a zombie with this parent. The name in it may hold anything.
fn is_zombie_of(parent: u32, stat: &str) -> bool {
    let Some((_, fields)) = stat.rsplit_once(')') else { return false };
    let mut fields = fields.split_ascii_whitespace();
    fields.next() == Some("Z") && fields.next().and_then(|field| field.parse().ok()) == Some(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zombie_is_told_by_its_state_and_its_parent() {
        assert!(is_zombie_of(1, "77 (sleep) Z 1 77 77 0 -1"));
        assert!(is_zombie_of(1, "77 (a) R 9 (b) Z 1 77 77 0 -1"));
        assert!(!is_zombie_of(1, "77 (sleep) S 1 77 77 0 -1"));
        assert!(!is_zombie_of(1, "77 (a Z 1) Z 12 77 77 0 -1"));
        assert!(!is_zombie_of(1, ""));
    }
}
