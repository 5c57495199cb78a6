//! A listener's connections with their handshakes done, side by side: a slow or bad one holds up no other.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep};
use tokio_stream::Stream;

use super::{Acceptor, Reason, Refusal, ServerStream};

/// How long no connection is taken after the system refused to give one: it is short of something, and asking at once
/// would only burn a processor.
const PAUSE: Duration = Duration::from_secs(1);
/// How long such an error stays out of the log after it was logged.
const QUIET: Duration = Duration::from_secs(60);

/// How many handshakes may be under way. More connections wait in the listener's queue.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// In all.
    pub handshakes: usize,
    /// From one address: more are closed at once, so that one peer cannot fill all the places with silence.
    pub per_peer: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { handshakes: 256, per_peer: 64 }
    }
}

/// A stream of connections for tonic's `serve_with_incoming`. It yields no errors: a refused connection and one that the
/// system did not give are logged, and it goes on with the next. It ends with `listener`.
pub fn incoming<L, IO>(listener: L, acceptor: Acceptor, limits: Limits) -> Incoming<L, IO>
where
    L: Stream<Item = io::Result<(IO, String)>> + Unpin,
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    Incoming {
        listener: Some(listener),
        acceptor,
        limits,
        handshakes: JoinSet::new(),
        peers: Peers::default(),
        pause: None,
        logged: None,
    }
}

/// See [`incoming`].
#[derive(Debug)]
pub struct Incoming<L, IO> {
    /// Gives connections with the address they come from. `None` once it has ended.
    listener: Option<L>,
    acceptor: Acceptor,
    limits: Limits,
    handshakes: JoinSet<Option<ServerStream<IO>>>,
    peers: Peers,
    /// Until when the listener is left alone.
    pause: Option<Pin<Box<Sleep>>>,
    /// When an error of the listener was logged.
    logged: Option<Instant>,
}

impl<L, IO> Incoming<L, IO>
where
    L: Stream<Item = io::Result<(IO, String)>> + Unpin,
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// Begins a handshake.
    fn begin(&mut self, io: IO, peer: String) {
        let Some(place) = self.peers.take(&peer, self.limits.per_peer) else {
            let detail = format!("{} other handshakes of this peer are under way already", self.limits.per_peer);
            self.acceptor.refuse(&peer, &Refusal::new(Reason::Other, detail));
            return;
        };
        let acceptor = self.acceptor.clone();
        self.handshakes.spawn(async move {
            let _place = place;
            acceptor.accept(io, peer).await.ok()
        });
    }

    /// The listener could not give a connection.
    fn failed(&mut self, error: &io::Error) {
        use io::ErrorKind as K;
        // The client was gone before it was its turn: nothing is amiss here.
        if matches!(error.kind(), K::ConnectionAborted | K::ConnectionReset | K::Interrupted) {
            return;
        }
        self.pause = Some(Box::pin(sleep(PAUSE)));
        if self.logged.is_none_or(|at| at.elapsed() >= QUIET) {
            self.logged = Some(Instant::now());
            tracing::error!(%error, "cannot take connections from controllers now; trying again every second");
        }
    }
}

impl<L, IO> Stream for Incoming<L, IO>
where
    L: Stream<Item = io::Result<(IO, String)>> + Unpin,
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Item = io::Result<ServerStream<IO>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            match this.handshakes.poll_join_next(cx) {
                Poll::Ready(Some(Ok(Some(stream)))) => return Poll::Ready(Some(Ok(stream))),
                Poll::Ready(Some(Ok(None))) => continue,
                Poll::Ready(Some(Err(error))) => {
                    tracing::error!(%error, "a handshake's task failed");
                    continue;
                }
                Poll::Ready(None) if this.listener.is_none() => return Poll::Ready(None),
                Poll::Ready(None) | Poll::Pending => {}
            }
            if this.handshakes.len() >= this.limits.handshakes.max(1) {
                return Poll::Pending;
            }
            if let Some(pause) = &mut this.pause {
                std::task::ready!(pause.as_mut().poll(cx));
                this.pause = None;
            }
            let Some(listener) = &mut this.listener else { return Poll::Pending };
            match std::task::ready!(Pin::new(listener).poll_next(cx)) {
                Some(Ok((io, peer))) => this.begin(io, peer),
                Some(Err(error)) => this.failed(&error),
                None => this.listener = None,
            }
        }
    }
}

/// How many handshakes are under way with each address.
#[derive(Debug, Clone, Default)]
struct Peers(Arc<Mutex<HashMap<String, usize>>>);

/// One of a peer's places; it is free again when this is dropped.
#[derive(Debug)]
struct Place {
    peers: Peers,
    peer: String,
}

impl Peers {
    fn take(&self, peer: &str, limit: usize) -> Option<Place> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(peer.to_owned()).or_default();
        if *count >= limit.max(1) {
            return None;
        }
        *count += 1;
        Some(Place { peers: self.clone(), peer: peer.to_owned() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.peers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = counts.entry(std::mem::take(&mut self.peer)) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}
