//! The connections of a listener after their handshakes, which run in parallel: a slow or bad one delays no
//! other.
//!
//! Any client that reaches the port can connect and send nothing, as often as it likes. A controller sends
//! its first message immediately and finishes within milliseconds, so if there are too many handshakes, the
//! oldest unfinished one is closed for the newest connection. Connections that send nothing then only close
//! one another.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio_stream::Stream;

use super::{Acceptor, Reason, Refusal, ServerStream};
use crate::accept::Pauses;
use crate::room::Room;

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
        handshakes: JoinSet::new(),
        under_way: Room::new(limits.handshakes, limits.per_peer),
        pauses: Pauses::new("controllers"),
    }
}

/// See [`incoming`].
#[derive(Debug)]
pub struct Incoming<L, IO> {
    /// Yields connections with their peer addresses. `None` once it has ended.
    listener: Option<L>,
    acceptor: Acceptor,
    handshakes: JoinSet<Option<ServerStream<IO>>>,
    under_way: Room,
    pauses: Pauses,
}

impl<L, IO> Incoming<L, IO>
where
    L: Stream<Item = io::Result<(IO, String)>> + Unpin,
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// Starts a handshake; closes an older one if there are too many.
    fn begin(&mut self, io: IO, peer: String) {
        if let Some(closed) = self.under_way.make_for(&peer) {
            let detail =
                "closed as the oldest unfinished handshake, to make room for newer ones; a controller finishes sooner";
            self.acceptor.refuse(&closed, &Refusal::new(Reason::Displaced, detail));
        }
        let acceptor = self.acceptor.clone();
        let from = peer.clone();
        let handshake = self.handshakes.spawn(async move { acceptor.accept(io, from).await.ok() });
        self.under_way.add(peer, handshake);
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
