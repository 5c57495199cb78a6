//! The server's side: a handshake that only a controller passes, and connections with a maximum age.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::first::First;
use super::material::fingerprint;
use super::{HANDSHAKE_WAIT, PROTOCOL, Reason, Refusal, Refusals, Source};

/// The default maximum age of a connection: a replaced or expired certificate cannot be used for longer than
/// this.
pub const MAX_AGE: Duration = Duration::from_secs(3600);
/// How long pending answers may still be sent on an expired connection.
const DRAIN_TIME: Duration = Duration::from_secs(5);
/// Turns byte streams into connections from controllers. Clones share the counts of rejected connections.
#[derive(Debug, Clone)]
pub struct Acceptor {
    source: Source,
    refusals: Refusals,
    max_age: Duration,
}

impl Acceptor {
    /// Uses the newest material in `source`; counts and logs rejected connections in `refusals`.
    #[must_use]
    pub fn new(source: Source, refusals: Refusals) -> Self {
        Self { source, refusals, max_age: MAX_AGE }
    }

    /// Sets the maximum age of connections instead of [`MAX_AGE`], randomised by a tenth (so that they do not
    /// all end at once). A server that wants calls in progress to finish asks its clients to disconnect
    /// somewhat earlier (tonic's `max_connection_age`).
    #[must_use]
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = age;
        self
    }

    /// The handshake, within [`HANDSHAKE_WAIT`]. `peer` is the address for the log, without a port.
    ///
    /// # Errors
    /// [`Refusal`], already counted and logged.
    pub async fn accept<IO>(&self, io: IO, peer: String) -> Result<ServerStream<IO>, Refusal>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        match self.handshake(io).await {
            Ok(tls) => {
                let certificate = tls.get_ref().1.peer_certificates().and_then(<[_]>::first);
                let peer = Peer { address: peer, fingerprint: certificate.map(fingerprint).unwrap_or_default() };
                tracing::debug!(peer = peer.address, fingerprint = peer.fingerprint, "a controller has connected");
                let age = self.max_age.mul_f64(0.9 + 0.2 * fastrand::f64());
                Ok(ServerStream { tls, peer, age: Age::Young, until: Box::pin(sleep(age)) })
            }
            Err(refusal) => {
                self.refusals.note(&peer, &refusal);
                Err(refusal)
            }
        }
    }

    /// Rejects the connection without a handshake.
    pub(super) fn refuse(&self, peer: &str, refusal: &Refusal) {
        self.refusals.note(peer, refusal);
    }

    async fn handshake<IO>(&self, io: IO) -> Result<TlsStream<First<IO>>, Refusal>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let material = self.source.borrow().clone();
        let Some(material) = material else {
            let detail = "this node has no certificate yet; the controller, or the operator, provides it as a Secret";
            return Err(Refusal::new(Reason::NotReady, detail));
        };
        let handshake = TlsAcceptor::from(material.server()).accept(First::of_client(io));
        match timeout(HANDSHAKE_WAIT, handshake).await {
            Ok(Ok(tls)) if tls.get_ref().1.alpn_protocol() == Some(PROTOCOL) => Ok(tls),
            Ok(Ok(_)) => Err(Refusal::new(Reason::Other, "the client does not offer HTTP/2 (ALPN h2)")),
            // The alert with the reason has been sent to the client by now.
            Ok(Err(error)) => Err(Refusal::of(&error)),
            Err(_) => Err(Refusal::time_out()),
        }
    }
}

/// The peer of a [`ServerStream`]; tonic puts it into a request's extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The address given to [`Acceptor::accept`].
    pub address: String,
    /// SHA-256 of the peer's certificate, in hexadecimal.
    pub fingerprint: String,
}

/// The phase of a connection's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Age {
    /// In use.
    Young,
    /// Nothing is read any more; pending answers may still be sent.
    Old,
    /// Nothing is read or written.
    Over,
}

/// A connection to a controller. At its maximum age reading ends, and a little later writing fails.
#[derive(Debug)]
pub struct ServerStream<IO> {
    tls: TlsStream<First<IO>>,
    peer: Peer,
    age: Age,
    /// When the next phase starts.
    until: Pin<Box<Sleep>>,
}

impl<IO> ServerStream<IO> {
    /// The current phase; the task is woken when the next one starts.
    fn age(&mut self, cx: &mut Context<'_>) -> Age {
        while self.age != Age::Over && self.until.as_mut().poll(cx).is_ready() {
            self.age = match self.age {
                Age::Young => {
                    tracing::debug!(peer = self.peer.address, "a connection has reached its maximum age and ends");
                    self.until.as_mut().reset(Instant::now() + DRAIN_TIME);
                    Age::Old
                }
                Age::Old | Age::Over => Age::Over,
            };
        }
        self.age
    }

    /// Fails if nothing may be sent any more.
    fn may_send(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.age(cx) {
            Age::Young | Age::Old => Ok(()),
            Age::Over => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the connection has reached its maximum age; the client reconnects",
            )),
        }
    }
}

impl<IO> Connected for ServerStream<IO> {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for ServerStream<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.age(cx) {
            Age::Young => Pin::new(&mut self.tls).poll_read(cx, buf),
            Age::Old | Age::Over => Poll::Ready(Ok(())),
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ServerStream<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.may_send(cx)?;
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.may_send(cx)?;
        Pin::new(&mut self.tls).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.may_send(cx)?;
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.may_send(cx)?;
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}
