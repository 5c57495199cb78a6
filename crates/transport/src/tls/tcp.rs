//! TCP as both ends want it: small messages at once, and a peer that vanished without a word is noticed.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{KeepAlive, TcpKeepCount, TcpKeepIdle, TcpKeepInterval};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_stream::Stream;

use super::HANDSHAKE_WAIT;

/// How long a silent connection is left alone before it is probed, and how long between probes.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// After how many probes without an answer it is given up.
const PROBES: u32 = 3;

/// A listening port: a stream of connections and the addresses they come from, for [`super::incoming`].
#[derive(Debug)]
pub struct Listener(TcpListener);

/// Listens on `address`. Nobody is served before [`super::incoming`] has seen a certificate.
///
/// # Errors
/// When the system refuses; the error says for which address.
pub async fn bind(address: SocketAddr) -> io::Result<Listener> {
    TcpListener::bind(address).await.map(Listener).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot listen on {address} for controllers: {error}; choose a free port"))
    })
}

/// Connects to `address`, in [`HANDSHAKE_WAIT`] at most; for [`super::Connector::connect`].
///
/// # Errors
/// When nobody answers there, or not in time; the error says for which address.
pub async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let failed = |error: io::Error| io::Error::new(error.kind(), format!("cannot connect to {address}: {error}"));
    let stream = match timeout(HANDSHAKE_WAIT, TcpStream::connect(address)).await {
        Ok(connected) => connected.map_err(failed)?,
        Err(_) => return Err(failed(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"))),
    };
    tune(&stream).map_err(failed)?;
    // Once we have given up a connection, nothing of it may reach the node any more: the kernel would go on sending what a
    // cut link has held up, and a call would be done long after its caller had been told otherwise.
    stream.set_zero_linger().map_err(failed)?;
    Ok(stream)
}

impl Listener {
    /// The address in use, with the port that the system chose if it was asked to.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

impl Stream for Listener {
    type Item = io::Result<(TcpStream, String)>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_accept(cx).map(|accepted| {
            Some(accepted.map(|(stream, address)| {
                if let Err(error) = tune(&stream) {
                    tracing::debug!(%error, peer = %address, "a connection keeps the system's settings");
                }
                // An IPv4 client of an IPv6 listener is the same client.
                (stream, address.ip().to_canonical().to_string())
            }))
        })
    }
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let seconds = u32::try_from(KEEPALIVE.as_secs()).unwrap_or(u32::MAX);
    setsockopt(stream, KeepAlive, &true)?;
    setsockopt(stream, TcpKeepIdle, &seconds)?;
    setsockopt(stream, TcpKeepInterval, &seconds)?;
    setsockopt(stream, TcpKeepCount, &PROBES)?;
    Ok(())
}
