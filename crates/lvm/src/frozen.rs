//! How long snapshots freeze their sources.
//!
//! lvm suspends the device of the source while it takes a snapshot. First the kernel freezes the filesystem on it: writes
//! of pods wait from then on, while the kernel writes what is in memory to the disk, which can take seconds on a slow
//! disk. Then the device is suspended, until lvm resumes it. The kernel says whether a device is suspended, but not
//! whether it is being suspended. So the time that lvm is in the system call for it counts as well. lvm makes the same
//! call for the device of the snapshot, which takes a moment.
//!
//! If the host lets no process look at another one's system calls (`kernel.yama.ptrace_scope=3`), only the time of the
//! suspension counts.

use std::collections::BTreeMap;
use std::fs;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;
use parking_lot::Mutex;

use crate::dm;

/// How often the kernel is asked while a snapshot is taken.
const LOOK: Duration = Duration::from_millis(2);
/// When lvm takes long, it is asked less often: the pause is this part of the time since the beginning.
const PAUSE: u32 = 100;

/// The snapshots that were taken of the active volumes of a volume group since this process began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Frozen {
    /// How many there are. A snapshot of a volume that is not active freezes nothing, and does not count.
    pub snapshots: u64,
    /// How long the sources were frozen, altogether. Each time is measured to a few milliseconds, or to one per cent.
    pub time: Duration,
}

static FROZEN: Mutex<BTreeMap<String, Frozen>> = Mutex::new(BTreeMap::new());

/// How many snapshots of active volumes were taken since this process began, and how long the volumes were frozen, by the
/// names of the volume groups. A clone of a volume counts, because it is made from a snapshot.
#[must_use]
pub fn frozen() -> BTreeMap<String, Frozen> {
    FROZEN.lock().clone()
}

/// Measures how long the source of a snapshot is frozen, on a thread of its own.
pub(crate) struct Watch {
    ended: Sender<()>,
    thread: Option<thread::JoinHandle<Option<Duration>>>,
}

impl Watch {
    /// Begins to look at the device with that UUID, and at the processes whose IDs are sent to the returned sender.
    pub(crate) fn begin(device: String) -> (Self, Sender<u32>) {
        let (pids, started) = channel();
        let (ended, end) = channel();
        let look = move || watch(&device, &started, &end);
        // Without a thread, the snapshot is taken nevertheless.
        let thread = thread::Builder::new().name("frozen".to_owned()).spawn(look).ok();
        (Self { ended, thread }, pids)
    }

    /// Counts the time until now for a volume group, and the snapshot if it was taken.
    pub(crate) async fn end(self, group: &str, taken: bool) {
        drop(self.ended);
        let Some(thread) = self.thread else { return };
        // The thread only asks device-mapper and reads a file in /proc, so it ends at once.
        let Ok(Ok(Some(time))) = tokio::task::spawn_blocking(|| thread.join()).await else { return };
        tracing::debug!(vg = group, ?time, taken, "the source of a snapshot was frozen");
        let mut all = FROZEN.lock();
        let frozen = all.entry(group.to_owned()).or_default();
        frozen.snapshots += u64::from(taken);
        frozen.time += time;
    }
}

/// How long the device was frozen; `None` if it is not active.
fn watch(device: &str, started: &Receiver<u32>, end: &Receiver<()>) -> Option<Duration> {
    dm::device_number(device).ok()??;
    let began = Instant::now();
    let (mut clock, mut pid) = (Clock::default(), None);
    loop {
        pid = started.try_iter().last().or(pid);
        let now = Instant::now();
        // In this order: the device is suspended when the call ends.
        clock.look(now, pid.is_some_and(is_suspending) || dm::is_suspended(device));
        if end.recv_timeout(LOOK.max(began.elapsed() / PAUSE)) != Err(RecvTimeoutError::Timeout) {
            return Some(clock.end(Instant::now()));
        }
    }
}

/// Whether a process is in the system call that suspends or resumes a device.
fn is_suspending(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/syscall")).is_ok_and(|call| suspends(&call))
}

/// The kernel shows the number of the system call, and its arguments: `16 0x5 0xc138fd06 0x5581…`.
fn suspends(call: &str) -> bool {
    let mut words = call.split_ascii_whitespace();
    words.next().is_some_and(|number| number.parse() == Ok(libc::SYS_ioctl))
        && words.nth(1) == Some(&format!("{:#x}", dm::SUSPEND))
}

/// Adds up the time in which a device is frozen.
#[derive(Debug, Default)]
struct Clock {
    since: Option<Instant>,
    total: Duration,
}

impl Clock {
    fn look(&mut self, now: Instant, frozen: bool) {
        match (self.since, frozen) {
            (None, true) => self.since = Some(now),
            (Some(since), false) => {
                self.total += now.duration_since(since);
                self.since = None;
            }
            (None, false) | (Some(_), true) => {}
        }
    }

    fn end(mut self, now: Instant) -> Duration {
        self.look(now, false);
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_the_freeze_counts() {
        let start = Instant::now();
        let total = |looks: &[(u64, bool)]| {
            let mut clock = Clock::default();
            looks.iter().for_each(|(at, frozen)| clock.look(start + Duration::from_millis(*at), *frozen));
            clock.end(start + Duration::from_millis(100)).as_millis()
        };
        assert_eq!(total(&[]), 0);
        assert_eq!(total(&[(10, false), (20, true), (50, true), (60, false)]), 40);
        // Twice, and the second time to the end.
        assert_eq!(total(&[(10, true), (20, false), (70, true), (80, true)]), 40);
    }

    #[test]
    fn the_call_is_recognized() {
        let line = |number: libc::c_long, request: &str| {
            format!("{number} 0x3 {request} 0x55d5c5c7a2a0 0x0 0x1 0x0 0x7ffd4a3d2a48 0x7f35a7b2b9bb\n")
        };
        assert!(suspends(&line(libc::SYS_ioctl, "0xc138fd06")));
        assert!(!suspends(&line(libc::SYS_ioctl, "0xc138fd07")));
        assert!(!suspends(&line(libc::SYS_read, "0xc138fd06")));
        for other in ["running\n", "-1 0x7ffd4a3d2a48 0x7f35a7b2b9bb\n", ""] {
            assert!(!suspends(other), "{other}");
        }
        // Of this process, which is in another call.
        assert!(!is_suspending(std::process::id()));
    }
}
