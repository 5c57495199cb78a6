//! TCP settings for both ends: small messages are sent immediately, and a vanished peer is detected.

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

/// How long a connection may be idle before it is probed, and the time between probes.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// After how many unanswered probes the connection is closed.
const PROBES: u32 = 3;

/// A listening port: a stream of connections with their peer addresses, for [`super::incoming`].
#[derive(Debug)]
pub struct Listener(TcpListener);

/// Listens on `address`. No peer is served before [`super::incoming`] has verified its certificate.
///
/// # Errors
/// If the system rejects the address; the error names the address.
pub async fn bind(address: SocketAddr) -> io::Result<Listener> {
    TcpListener::bind(address).await.map(Listener).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot listen on {address} for controllers: {error}; choose a free port"))
    })
}

/// Connects to `address`, within [`HANDSHAKE_WAIT`]; for [`super::Connector::connect`].
///
/// # Errors
/// If the connection fails or times out; the error names the address.
pub async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let failed = |error: io::Error| io::Error::new(error.kind(), format!("cannot connect to {address}: {error}"));
    let stream = match timeout(HANDSHAKE_WAIT, TcpStream::connect(address)).await {
        Ok(connected) => connected.map_err(failed)?,
        Err(_) => return Err(failed(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"))),
    };
    tune(&stream).map_err(failed)?;
    // After a connection has been given up, none of its data may reach the node: otherwise the kernel would
    // keep sending what an interrupted link has delayed, and a call would run long after its caller got an
    // error.
    stream.set_zero_linger().map_err(failed)?;
    Ok(stream)
}

impl Listener {
    /// The address in use, with the port that the system assigned if none was requested.
    ///
    /// # Errors
    /// If the system call fails.
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
                    tracing::debug!(%error, peer = %address, "cannot set the TCP options of a connection");
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
