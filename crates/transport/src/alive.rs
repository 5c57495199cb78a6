//! Whether this process can still work.
//!
//! Nearly all of this work (mounts, certificates, whole disks) runs on the runtime's threads for blocking
//! work, and their number is limited. If all of them wait for something that never comes, the process still
//! answers but does no work. Only a restart helps then, so the liveness probe checks this.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often blocking work is tried.
const PAUSE: Duration = Duration::from_secs(5);
/// How long blocking work may take before it is reported. Threads that zero large volumes are busy for a
/// while, and come back.
const PATIENCE: Duration = Duration::from_secs(60);

/// When blocking work last ran. Cheap to clone; all clones share one state.
#[derive(Clone, Debug)]
pub(crate) struct Alive {
    last: Arc<Mutex<Instant>>,
}

impl Alive {
    /// Starts watching, until `stop` is cancelled: one trivial task at a time, never a second one beside it.
    pub(crate) fn watch(stop: CancellationToken) -> Self {
        let alive = Self { last: Arc::new(Mutex::new(Instant::now())) };
        let watched = alive.clone();
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            loop {
                // It fails only when the runtime shuts down.
                if tokio::task::spawn_blocking(|| ()).await.is_err() {
                    return;
                }
                *watched.last.lock() = Instant::now();
                tokio::time::sleep(PAUSE).await;
            }
        }));
        alive
    }

    /// Why the process cannot work; `None` if it can.
    pub(crate) fn problem(&self) -> Option<String> {
        let age = self.last.lock().elapsed();
        (age > PATIENCE).then(|| {
            format!(
                "no blocking work has been done for {} s: all its threads are blocked (by a disk that hangs?); \
                 restart the process, and check its log and the kernel log",
                age.as_secs()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A runtime with two threads for blocking work, and a clock that the test moves.
    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(2).build().unwrap()
    }

    /// Advances the time in small steps, so that real threads get to run.
    async fn pass(time: Duration) {
        for _ in 0..time.as_secs() {
            tokio::time::advance(Duration::from_secs(1)).await;
            std::thread::sleep(Duration::from_millis(2));
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn one_stuck_thread_is_tolerated_and_all_stuck_threads_are_reported() {
        let runtime = runtime();
        let (release, stuck): (Vec<_>, Vec<_>) = (0..2).map(|_| mpsc::channel::<()>()).unzip();
        runtime.block_on(async {
            tokio::time::pause();
            let alive = Alive::watch(CancellationToken::new());
            let wait = |stuck: mpsc::Receiver<()>| tokio::task::spawn_blocking(move || stuck.recv().is_err());
            let mut stuck = stuck.into_iter().map(wait);
            let one = stuck.next();
            pass(Duration::from_secs(90)).await;
            assert_eq!(alive.problem(), None);
            let all = stuck.next();
            pass(Duration::from_secs(90)).await;
            let problem = alive.problem().expect("no thread is left");
            assert!(problem.contains("no blocking work has been done for"), "{problem}");
            drop(release);
            for work in one.into_iter().chain(all) {
                assert!(work.await.unwrap());
            }
            pass(Duration::from_secs(10)).await;
            assert_eq!(alive.problem(), None, "it works again");
        });
    }
}
