//! Reaps adopted processes: the kernel made them children of this process because it is a container's first
//! process.
//!
//! When a process ends, the first process of the container becomes the parent of its children. When such a
//! child ends, it stays as a zombie until the new parent waits for it. A killed query leaves such children,
//! and so does a mutation that outlived an earlier Quarry. Children that this crate started are different:
//! their own threads wait for them and need the exit status, so they must never be reaped here.

use std::collections::BTreeSet;

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use parking_lot::{Mutex, MutexGuard};

/// The children that this crate has started and has not waited for yet.
struct Own {
    /// How many starts are in progress: the processes may exist, but their process IDs are not known yet.
    starting: usize,
    started: BTreeSet<u32>,
}

static OWN: Mutex<Own> = Mutex::new(Own { starting: 0, started: BTreeSet::new() });

fn own() -> MutexGuard<'static, Own> {
    OWN.lock()
}

/// Runs `spawn`, which starts a child, and records the child's process ID, which `id` returns, as started by
/// this crate.
pub(crate) fn starting<T>(spawn: impl FnOnce() -> T, id: impl FnOnce(&T) -> Option<u32>) -> T {
    // The lock is not held during the spawn: a program on a disk that hangs must not block other starts.
    own().starting += 1;
    let spawned = spawn();
    let mut own = own();
    own.starting -= 1;
    own.started.extend(id(&spawned));
    spawned
}

/// Removes a child that this crate started from the list, after it was waited for.
pub(crate) fn waited_for(pid: u32) {
    own().started.remove(&pid);
}

/// Reaps the adopted children of this process that have ended, so that no zombies remain, and returns their
/// number. The first process of a container calls this from time to time. Does nothing while a program is
/// being started, because that program cannot be distinguished from an adopted one yet.
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

/// The children of this process that have ended and have not been waited for.
fn zombies() -> Vec<u32> {
    let parent = std::process::id();
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let numbers = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let stat = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    numbers.filter(|pid| is_zombie_of(parent, &stat(pid))).collect()
}

/// Whether a line of `/proc/PID/stat` describes a zombie with this parent. The process name in it can contain
/// any character.
fn is_zombie_of(parent: u32, stat: &str) -> bool {
    let Some((_, fields)) = stat.rsplit_once(')') else { return false };
    let mut fields = fields.split_ascii_whitespace();
    fields.next() == Some("Z") && fields.next().and_then(|field| field.parse().ok()) == Some(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zombie_is_recognized_by_state_and_parent() {
        assert!(is_zombie_of(1, "77 (sleep) Z 1 77 77 0 -1"));
        assert!(is_zombie_of(1, "77 (a) R 9 (b) Z 1 77 77 0 -1"));
        assert!(!is_zombie_of(1, "77 (sleep) S 1 77 77 0 -1"));
        assert!(!is_zombie_of(1, "77 (a Z 1) Z 12 77 77 0 -1"));
        assert!(!is_zombie_of(1, ""));
    }
}
