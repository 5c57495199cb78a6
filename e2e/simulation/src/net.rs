//! Connections over turmoil's network, in the form that both ends need.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use parking_lot::Mutex;
use quarry_agent::{Dial, RemoteAgent, Tuning};
use quarry_transport::tls;
use quarry_volume::{Agent, Error, Result};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tonic::transport::server::Connected;
use turmoil::net::{TcpListener, TcpStream};

use crate::world::{PORT, Shared};

/// What was sent before its sender closed the connection may still arrive for this long.
const AFTERGLOW: Duration = Duration::from_secs(1);

/// When which connection was closed by its client: a kernel that closes a connection sends nothing more of it, however
/// long the network was cut before.
#[derive(Clone, Default)]
pub(crate) struct Closed(Arc<Mutex<HashMap<(SocketAddr, SocketAddr), Duration>>>);

/// One end of a connection.
pub(crate) struct Wire {
    stream: TcpStream,
    /// Client and server.
    pair: (SocketAddr, SocketAddr),
    client: bool,
    closed: Closed,
    shared: Shared,
}

impl Wire {
    fn new(stream: TcpStream, client: bool, closed: &Closed, shared: &Shared) -> io::Result<Self> {
        let (local, remote) = (stream.local_addr()?, stream.peer_addr()?);
        let pair = if client { (local, remote) } else { (remote, local) };
        Ok(Self { stream, pair, client, closed: closed.clone(), shared: shared.clone() })
    }

    fn dead(&self) -> bool {
        let closed = self.closed.0.lock();
        let now = self.shared.lock().now;
        closed.get(&self.pair).is_some_and(|at| now > *at + AFTERGLOW)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.client {
            let now = self.shared.lock().now;
            self.closed.0.lock().insert(self.pair, now);
        }
    }
}

impl Connected for Wire {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let before = buf.filled().len();
            let read = Pin::new(&mut self.stream).poll_read(cx, buf);
            let arrived = matches!(read, Poll::Ready(Ok(()))) && buf.filled().len() > before;
            if !arrived || self.client || !self.dead() {
                return read;
            }
            buf.set_filled(before);
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// How one controller reaches nodes.
pub(crate) struct SimulatedDial {
    pub(crate) shared: Shared,
    pub(crate) closed: Closed,
    /// Mutual TLS in some runs, nothing in the others.
    pub(crate) connector: Option<tls::Connector>,
}

#[async_trait::async_trait]
impl Dial for SimulatedDial {
    async fn dial(&self, node: &str, endpoint: &str) -> Result<Arc<dyn Agent>> {
        let failed = |why: &dyn std::fmt::Display| {
            Error::unavailable(format!("node {node}: no connection to {endpoint}: {why}; the controller retries"))
        };
        // As the product bounds it.
        let stream = tokio::time::timeout(tls::HANDSHAKE_WAIT, TcpStream::connect((endpoint, PORT))).await;
        let stream = stream.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
        let wire = Wire::new(stream, true, &self.closed, &self.shared).map_err(|error| failed(&error))?;
        let tuning = Tuning::default();
        Ok(Arc::new(match &self.connector {
            Some(connector) => {
                let tls = connector.connect(wire).await.map_err(|error| failed(&error))?;
                RemoteAgent::tuned(tls, node, &tuning).await?
            }
            None => RemoteAgent::tuned(wire, node, &tuning).await?,
        }))
    }
}

/// The connections to this host's agent.
pub(crate) async fn accept(closed: Closed, shared: Shared) -> io::Result<impl Stream<Item = io::Result<Wire>>> {
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    Ok(futures::stream::unfold((listener, closed, shared), |(listener, closed, shared)| async move {
        let wire = match listener.accept().await {
            Ok((stream, _)) => Wire::new(stream, false, &closed, &shared),
            Err(error) => Err(error),
        };
        Some((wire, (listener, closed, shared)))
    }))
}

/// The same behind mutual TLS. Handshakes run side by side.
pub(crate) fn secured(
    wires: impl Stream<Item = io::Result<Wire>> + Send + 'static,
    acceptor: tls::Acceptor,
) -> impl Stream<Item = io::Result<tls::ServerStream<Wire>>> {
    use futures::StreamExt as _;

    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(async move {
        let mut wires = std::pin::pin!(wires);
        while let Some(wire) = wires.next().await {
            let Ok(wire) = wire else { continue };
            let (acceptor, sender) = (acceptor.clone(), sender.clone());
            tokio::spawn(async move {
                if let Ok(secured) = acceptor.accept(wire, "10.0.0.1".to_owned()).await {
                    // Nothing listens any longer when the host stops.
                    let _ = sender.send(Ok(secured)).await;
                }
            });
        }
    });
    futures::stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) })
}
