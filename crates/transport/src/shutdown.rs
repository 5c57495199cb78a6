//! From a signal to the end, in two phases.
//!
//! The first SIGTERM or SIGINT means: take no new calls, let what is under way finish. When [`GRACE`] is over, or on a
//! second signal, the process leaves whatever is still under way as it is: coming back after that is the same as after
//! a `kill -9`, and there is no roll-back of its own to get wrong.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long work under way may go on after the first signal.
pub const GRACE: Duration = Duration::from_secs(20);

/// The two phases, as tokens that every part of the process may wait for.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    stopping: CancellationToken,
    overdue: CancellationToken,
}

impl Shutdown {
    /// One that [`Shutdown::begin`] alone starts.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One that SIGTERM and SIGINT start. Must be called within a tokio runtime.
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
            tracing::info!(signal = name, grace_seconds = GRACE.as_secs(), "stopping: no new calls are taken");
            watched.begin();
            tokio::select! {
                () = watched.overdue.cancelled() => {}
                _ = terminate.recv() => watched.overdue.cancel(),
                _ = interrupt.recv() => watched.overdue.cancel(),
            }
        });
        Ok(shutdown)
    }

    /// Starts the first phase now, and the second one [`GRACE`] later. Again: nothing changes. Must be called within
    /// a tokio runtime.
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

    /// Cancelled when the first phase starts: take nothing new, finish what is under way.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.stopping.clone()
    }

    /// Cancelled when there is no more time: leave.
    #[must_use]
    pub fn overdue(&self) -> CancellationToken {
        self.overdue.clone()
    }

    /// Waits for `work` to finish, until there is no more time. `None`: there was none, and `work` is dropped.
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
    async fn a_signal_stops_and_a_second_one_ends_the_grace() {
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
