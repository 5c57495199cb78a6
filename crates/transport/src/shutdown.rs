//! From a signal to the exit, in two phases.
//!
//! After the first SIGTERM or SIGINT, the process takes no new calls and finishes those in progress. After
//! [`GRACE`], or on a second signal, the process abandons whatever is still in progress: the next start then
//! recovers exactly as after a `kill -9`, so there is no separate roll-back that could be wrong.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long work in progress may continue after the first signal.
pub const GRACE: Duration = Duration::from_secs(20);

/// The two phases, as tokens that every part of the process can wait for.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    stopping: CancellationToken,
    overdue: CancellationToken,
}

impl Shutdown {
    /// Started only by [`Shutdown::begin`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Started by SIGTERM and SIGINT. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the signal handlers cannot be installed.
    pub fn on_signals() -> io::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = Self::new();
        let watched = shutdown.clone();
        tokio::spawn(async move {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            tracing::info!(signal = name, grace_seconds = GRACE.as_secs(), "stopping: no new calls are accepted");
            watched.begin();
            tokio::select! {
                () = watched.overdue.cancelled() => {}
                _ = terminate.recv() => watched.overdue.cancel(),
                _ = interrupt.recv() => watched.overdue.cancel(),
            }
        });
        Ok(shutdown)
    }

    /// Starts the first phase now, and the second one [`GRACE`] later. Further calls change nothing. Must be
    /// called within a tokio runtime.
    pub fn begin(&self) {
        if self.stopping.is_cancelled() {
            return;
        }
        self.stopping.cancel();
        let overdue = self.overdue.clone();
        tokio::spawn(async move {
            tokio::time::sleep(GRACE).await;
            overdue.cancel();
        });
    }

    /// Cancelled when the first phase starts: accept nothing new, finish what is in progress.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.stopping.clone()
    }

    /// Cancelled when the time is over: exit.
    #[must_use]
    pub fn overdue(&self) -> CancellationToken {
        self.overdue.clone()
    }

    /// Waits for `work` to finish until the time is over. `None` if the time was over; `work` is then
    /// dropped.
    pub async fn bound<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.overdue.cancelled() => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::time::Instant;

    use nix::sys::signal::{Signal, raise};

    use super::*;

    #[tokio::test]
    async fn a_signal_stops_and_a_second_one_ends_the_grace_period() {
        let shutdown = Shutdown::on_signals().unwrap();
        assert!(!shutdown.stopping().is_cancelled());
        raise(Signal::SIGTERM).unwrap();
        shutdown.stopping().cancelled().await;
        assert!(!shutdown.overdue().is_cancelled());
        assert_eq!(shutdown.bound(async { 7 }).await, Some(7));

        let before = Instant::now();
        raise(Signal::SIGTERM).unwrap();
        assert_eq!(shutdown.bound(pending::<()>()).await, None);
        assert!(before.elapsed() < GRACE / 2);
    }
}
