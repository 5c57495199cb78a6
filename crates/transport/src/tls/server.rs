//! The server's side: a handshake that only a controller passes, and connections that end at a certain age.

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

/// How old a connection gets unless told otherwise: a certificate that was replaced or has expired is of no use for
/// longer than this.
pub const MAX_AGE: Duration = Duration::from_secs(3600);
/// How long what was being answered may still be sent once a connection is too old.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Makes connections out of streams of bytes, for controllers only. Clones share the refusals.
#[derive(Debug, Clone)]
pub struct Acceptor {
    source: Source,
    refusals: Refusals,
    max_age: Duration,
}

impl Acceptor {
    /// Shows and believes what is newest in `source`; counts and logs refusals in `refusals`.
    #[must_use]
    pub fn new(source: Source, refusals: Refusals) -> Self {
        Self { source, refusals, max_age: MAX_AGE }
    }

    /// Ends connections at this age, give or take a tenth (so that they do not all end at once), instead of
    /// [`MAX_AGE`]. A server that wants calls under way to finish asks its clients to leave somewhat earlier (tonic's
    /// `max_connection_age`).
    #[must_use]
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = age;
        self
    }

    /// The handshake, in [`HANDSHAKE_WAIT`] at most. `peer` is the address for the log, without a port.
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
                tracing::debug!(peer = peer.address, fingerprint = peer.fingerprint, "a controller is connected");
                let age = self.max_age.mul_f64(0.9 + 0.2 * fastrand::f64());
                Ok(ServerStream { tls, peer, age: Age::Young, until: Box::pin(sleep(age)) })
            }
            Err(refusal) => {
                self.refusals.note(&peer, &refusal);
                Err(refusal)
            }
        }
    }

    /// Refuses without a handshake.
    pub(super) fn refuse(&self, peer: &str, refusal: &Refusal) {
        self.refusals.note(peer, refusal);
    }

    async fn handshake<IO>(&self, io: IO) -> Result<TlsStream<First<IO>>, Refusal>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let material = self.source.borrow().clone();
        let Some(material) = material else {
            let detail =
                "we have no certificate of our own yet; the controller, or the operator, provides it as a Secret";
            return Err(Refusal::new(Reason::NotReady, detail));
        };
        let handshake = TlsAcceptor::from(material.server()).accept(First::of_client(io));
        match timeout(HANDSHAKE_WAIT, handshake).await {
            Ok(Ok(tls)) if tls.get_ref().1.alpn_protocol() == Some(PROTOCOL) => Ok(tls),
            Ok(Ok(_)) => Err(Refusal::new(Reason::Other, "the client does not offer HTTP/2 (ALPN h2)")),
            // The alert that says why to the client has been sent by now.
            Ok(Err(error)) => Err(Refusal::of(&error)),
            Err(_) => Err(Refusal::time_out()),
        }
    }
}

/// Who is on the other end of a [`ServerStream`]; tonic puts it in a request's extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The address that was handed to [`Acceptor::accept`].
    pub address: String,
    /// SHA-256 of the certificate it showed, in hexadecimal.
    pub fingerprint: String,
}

/// How far a connection's life has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Age {
    /// In use.
    Young,
    /// Nothing is read any more; what was being answered may still be sent.
    Old,
    /// Nothing goes through.
    Over,
}

/// A connection to a controller. At its age's end reading comes to an end, and a little later writing fails.
#[derive(Debug)]
pub struct ServerStream<IO> {
    tls: TlsStream<First<IO>>,
    peer: Peer,
    age: Age,
    /// When the next age begins.
    until: Pin<Box<Sleep>>,
}

impl<IO> ServerStream<IO> {
    /// Who is on the other end.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The age now; the task is woken when the next one begins.
    fn age(&mut self, cx: &mut Context<'_>) -> Age {
        while self.age != Age::Over && self.until.as_mut().poll(cx).is_ready() {
            self.age = match self.age {
                Age::Young => {
                    tracing::debug!(peer = self.peer.address, "a connection has reached its age and ends");
                    self.until.as_mut().reset(Instant::now() + LAST_WORDS);
                    Age::Old
                }
                Age::Old | Age::Over => Age::Over,
            };
        }
        self.age
    }

    /// Fails when nothing may be sent any more.
    fn may_send(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.age(cx) {
            Age::Young | Age::Old => Ok(()),
            Age::Over => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the connection has reached its age; the client connects anew",
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
