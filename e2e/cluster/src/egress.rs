//! The API server's connection to kubelets: they run in virtual machines, and the host has no route to them.
//! The API server sends each connection through a proxy (HTTP CONNECT on a unix socket, its "egress
//! selector"), and the proxy forwards it through the guest that has the address.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use parking_lot::Mutex;
use quarry_vm::{Guest, Network};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::task::JoinHandle;

/// The longest request that is read; the API server's has less than 200 bytes.
const LONGEST: u64 = 8 << 10;

/// The guests by their addresses.
pub(crate) type Guests = Arc<Mutex<BTreeMap<IpAddr, Guest>>>;

/// The proxy. It stops when this value is dropped.
pub(crate) struct Egress {
    guests: Guests,
    task: JoinHandle<()>,
}

impl Egress {
    /// Listens on a unix socket.
    pub(crate) fn listen(socket: &Path) -> Result<Self> {
        let listener = UnixListener::bind(socket).with_context(|| format!("cannot listen on {}", socket.display()))?;
        let guests = Guests::default();
        let known = guests.clone();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let known = known.clone();
                tokio::spawn(async move {
                    // The API server sees the closed connection and reports it to its client.
                    let _ = pass(client, &known).await;
                });
            }
        });
        Ok(Self { guests, task })
    }

    /// Makes a guest reachable at an address.
    pub(crate) fn add(&self, address: IpAddr, guest: Guest) {
        self.guests.lock().insert(address, guest);
    }
}

impl Drop for Egress {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(client: UnixStream, guests: &Guests) -> Result<()> {
    let mut client = BufReader::new(client);
    let server = match connect(&mut client, guests).await {
        Ok(server) => server,
        Err(error) => {
            let text = format!("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nX-Reason: {error}\r\n\r\n");
            client.write_all(text.as_bytes()).await?;
            return Ok(());
        }
    };
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
    let mut server = server;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

async fn connect(client: &mut BufReader<UnixStream>, guests: &Guests) -> Result<TcpStream> {
    let mut head = client.take(LONGEST);
    let mut request = String::new();
    head.read_line(&mut request).await?;
    let mut line = String::new();
    while head.read_line(&mut line).await? > 2 {
        line.clear();
    }
    let address = target(&request)?;
    let guest = guests.lock().get(&node_of(address.ip())).cloned();
    let guest = guest.with_context(|| format!("no node has the address {}, or pods of such", address.ip()))?;
    guest.connect_tcp(address).await
}

/// The address of the node that has this address, or whose pods have it: 10.244.N.x is on node N.
fn node_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(pod) if pod.octets()[..2] == [10, 244] => IpAddr::V4(Network::address(pod.octets()[2])),
        other => other,
    }
}

/// The address in a CONNECT request's first line.
fn target(request: &str) -> Result<SocketAddr> {
    let mut words = request.split_whitespace();
    match (words.next(), words.next()) {
        (Some("CONNECT"), Some(address)) => {
            address.parse().with_context(|| format!("{address:?} is not an address and port"))
        }
        _ => bail!("{request:?} is not a CONNECT request"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_reached_through_their_node() {
        let node = IpAddr::V4(Network::address(2));
        assert_eq!(node_of("10.244.2.7".parse().unwrap()), node);
        assert_eq!(node_of(node), node);
    }

    #[test]
    fn only_connect_to_an_address_is_understood() {
        assert_eq!(target("CONNECT 10.77.0.1:10250 HTTP/1.1\r\n").unwrap(), "10.77.0.1:10250".parse().unwrap());
        assert!(target("GET / HTTP/1.1\r\n").is_err());
        assert!(target("CONNECT node-1:10250 HTTP/1.1\r\n").is_err());
    }
}
