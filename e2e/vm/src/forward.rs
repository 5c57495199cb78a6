//! Forwards a port of the host to a TCP port in a guest, or beyond it.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use tokio::io::copy_bidirectional;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use crate::agent::Guest;

/// A port on the host's loopback interface whose connections continue from inside a guest; see
/// [`Guest::forward`]. When this value is dropped, the port and all its connections are closed.
#[derive(Debug)]
pub struct Forward {
    local: SocketAddr,
    task: JoinHandle<()>,
}

impl Forward {
    /// The address for programs of the host to connect to.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.local
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Guest {
    /// Opens a port of the host that leads to `address` as seen from this guest. The guest's own addresses
    /// are reachable whether or not its link is up, since the host does not use the network; another node's
    /// are reached through the network, so a guest that does nothing else connects the host's programs to it.
    /// A connection to an address without a listener is accepted and then closed.
    ///
    /// # Errors
    /// When the host has no free port.
    pub async fn forward(&self, address: SocketAddr) -> Result<Forward> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("no free port on the loopback interface")?;
        let local = listener.local_addr().context("no free port on the loopback interface")?;
        let guest = self.clone();
        let task = tokio::spawn(async move {
            // Ends with this task, and all connections with it.
            let mut connections = JoinSet::new();
            loop {
                let Ok((mut client, _)) = listener.accept().await else { continue };
                while connections.try_join_next().is_some() {}
                let guest = guest.clone();
                connections.spawn(async move {
                    let Ok(mut server) = guest.connect_tcp(address).await else { return };
                    // Either side may hang up whenever it likes.
                    let _ = client.set_nodelay(true);
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        Ok(Forward { local, task })
    }
}
