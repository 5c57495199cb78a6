//! The connections of a listener after their handshakes, which run in parallel: a slow or bad one delays no
//! other.
//!
//! Any client that reaches the port can connect and send nothing, as often as it likes. A controller sends
//! its first message immediately and finishes within milliseconds, so if there are too many handshakes, the
//! oldest unfinished one is closed for the newest connection. Connections that send nothing then only close
//! one another.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio_stream::Stream;

use super::{Acceptor, Reason, Refusal, ServerStream};
use crate::accept::Pauses;

/// How many handshakes may run. For each further one, the oldest is closed.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// In total. If exceeded, a handshake from the address with the most handshakes is closed.
    pub handshakes: usize,
    /// From one address. If exceeded, the oldest one from that address is closed, so that no address can
    /// displace all the others.
    pub per_peer: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { handshakes: 256, per_peer: 64 }
    }
}

/// A stream of connections for tonic's `serve_with_incoming`. It yields no errors: rejected connections and
/// accept errors are logged, and the stream continues. It ends with `listener`.
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
        under_way: UnderWay::default(),
        pauses: Pauses::new("controllers"),
    }
}

/// See [`incoming`].
#[derive(Debug)]
pub struct Incoming<L, IO> {
    /// Yields connections with their peer addresses. `None` once it has ended.
    listener: Option<L>,
    acceptor: Acceptor,
    limits: Limits,
    handshakes: JoinSet<Option<ServerStream<IO>>>,
    under_way: UnderWay,
    pauses: Pauses,
}

impl<L, IO> Incoming<L, IO>
where
    L: Stream<Item = io::Result<(IO, String)>> + Unpin,
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// Starts a handshake; closes an older one if there are too many.
    fn begin(&mut self, io: IO, peer: String) {
        if let Some(closed) = self.under_way.make_room(&peer, self.limits) {
            let detail =
                "closed as the oldest unfinished handshake, to make room for newer ones; a controller finishes sooner";
            self.acceptor.refuse(&closed, &Refusal::new(Reason::Displaced, detail));
        }
        let acceptor = self.acceptor.clone();
        let from = peer.clone();
        let handshake = self.handshakes.spawn(async move { acceptor.accept(io, from).await.ok() });
        self.under_way.0.push(Handshake { peer, handle: handshake });
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
            match this.handshakes.poll_join_next_with_id(cx) {
                Poll::Ready(Some(Ok((id, stream)))) => {
                    this.under_way.ended(id);
                    match stream {
                        Some(stream) => return Poll::Ready(Some(Ok(stream))),
                        None => continue,
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    this.under_way.ended(error.id());
                    if !error.is_cancelled() {
                        tracing::error!(%error, "a handshake's task failed");
                    }
                    continue;
                }
                Poll::Ready(None) if this.listener.is_none() => return Poll::Ready(None),
                Poll::Ready(None) | Poll::Pending => {}
            }
            let Some(listener) = &mut this.listener else { return Poll::Pending };
            match std::task::ready!(this.pauses.poll(cx, |cx| Pin::new(&mut *listener).poll_next(cx))) {
                Some((io, peer)) => this.begin(io, peer),
                None => this.listener = None,
            }
        }
    }
}

/// A handshake that has not finished yet.
#[derive(Debug)]
struct Handshake {
    peer: String,
    handle: AbortHandle,
}

/// The running handshakes, oldest first.
#[derive(Debug, Default)]
struct UnderWay(Vec<Handshake>);

impl UnderWay {
    /// Closes a handshake for a new connection from `peer` if the limits require it. Returns the address of
    /// the closed one.
    fn make_room(&mut self, peer: &str, limits: Limits) -> Option<String> {
        let of_peer = self.0.iter().filter(|handshake| handshake.peer == peer).count();
        let loser = if of_peer >= limits.per_peer.max(1) {
            peer.to_owned()
        } else if self.0.len() >= limits.handshakes.max(1) {
            self.crowd()?
        } else {
            return None;
        };
        // A handshake that has finished meanwhile needs no closing.
        let oldest = self.0.iter().position(|handshake| handshake.peer == loser && !handshake.handle.is_finished())?;
        self.0.remove(oldest).handle.abort();
        Some(loser)
    }

    /// The address with the most handshakes; if there are several, the one with the oldest.
    fn crowd(&self) -> Option<String> {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for handshake in &self.0 {
            *counts.entry(&handshake.peer).or_default() += 1;
        }
        let most = counts.values().max().copied()?;
        let of_crowd = |handshake: &&Handshake| counts.get(handshake.peer.as_str()) == Some(&most);
        self.0.iter().find(of_crowd).map(|handshake| handshake.peer.clone())
    }

    fn ended(&mut self, id: Id) {
        self.0.retain(|handshake| handshake.handle.id() != id);
    }
}
