//! Accepts connections, with pauses when the system cannot.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// How long accepting pauses after the system failed to accept a connection: it lacks a resource, and
/// retrying immediately would only waste CPU time.
const PAUSE: Duration = Duration::from_secs(1);
/// How long such an error is not logged again.
const QUIET: Duration = Duration::from_secs(60);

/// The pauses of one listener.
#[derive(Debug)]
pub(crate) struct Pauses {
    /// Who connects, for the log.
    peers: String,
    /// Until when accepting pauses.
    pause: Option<Pin<Box<Sleep>>>,
    /// When an accept error was last logged.
    logged: Option<Instant>,
}

impl Pauses {
    /// For a listener to which `peers` connect.
    pub(crate) fn new(peers: impl Into<String>) -> Self {
        Self { peers: peers.into(), pause: None, logged: None }
    }

    /// Polls `accept` for the next connection; `None` once there are no more. Errors are logged, and it is polled again
    /// after a pause.
    pub(crate) fn poll<T>(
        &mut self,
        context: &mut Context<'_>,
        mut accept: impl FnMut(&mut Context<'_>) -> Poll<Option<io::Result<T>>>,
    ) -> Poll<Option<T>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(context));
                self.pause = None;
            }
            match ready!(accept(context)) {
                Some(Ok(connection)) => return Poll::Ready(Some(connection)),
                Some(Err(error)) => self.failed(&error),
                None => return Poll::Ready(None),
            }
        }
    }

    /// Handles an accept error.
    fn failed(&mut self, error: &io::Error) {
        use io::ErrorKind as K;
        // The client disconnected before it was accepted: not an error here.
        if matches!(error.kind(), K::ConnectionAborted | K::ConnectionReset | K::Interrupted) {
            return;
        }
        self.pause = Some(Box::pin(sleep(PAUSE)));
        if self.logged.is_none_or(|at| at.elapsed() >= QUIET) {
            self.logged = Some(Instant::now());
            tracing::error!(%error, "cannot accept connections from {}; retrying every second", self.peers);
        }
    }
}
