//! How a controller connects to a node.

use std::net::SocketAddr;
use std::sync::Arc;

use quarry_transport::tls::{self, ConnectError};
use quarry_volume::{Agent, Error, Result, Unreachable};

use crate::{RemoteAgent, Tuning};

/// Opens connections to nodes.
#[async_trait::async_trait]
pub trait Dial: Send + Sync {
    /// Connects to the agent of `node` at `endpoint` (address and port). Every call opens a new connection;
    /// the first call on it checks that it is the right node.
    ///
    /// # Errors
    /// `Unavailable` if no node answers there, or another one.
    async fn dial(&self, node: &str, endpoint: &str) -> Result<Arc<dyn Agent>>;
}

/// Over TCP and mutual TLS: used in production.
#[derive(Clone, Debug)]
pub struct TlsDial {
    /// The certificates to use.
    pub connector: tls::Connector,
    /// Keep-alive settings of the connections.
    pub tuning: Tuning,
}

impl TlsDial {
    /// Uses the certificates of `connector` and the default timeouts.
    #[must_use]
    pub fn new(connector: tls::Connector) -> Self {
        Self { connector, tuning: Tuning::default() }
    }
}

#[async_trait::async_trait]
impl Dial for TlsDial {
    async fn dial(&self, node: &str, endpoint: &str) -> Result<Arc<dyn Agent>> {
        let failed = |cause, why: &dyn std::fmt::Display| {
            Error::unreachable(
                cause,
                format!("node {node}: no connection to {endpoint}: {why}; the controller retries"),
            )
        };
        let address: SocketAddr = endpoint
            .parse()
            .map_err(|_| failed(Unreachable::Other, &"not an IP address with a port, such as 10.0.0.7:9870"))?;
        let tcp = tls::dial(address).await.map_err(|error| failed(Unreachable::of_io(&error), &error))?;
        let tls = self.connector.connect(tcp).await.map_err(|error| failed(of_handshake(&error), &error))?;
        Ok(Arc::new(RemoteAgent::tuned(tls, node, &self.tuning).await?))
    }
}

/// Why a TLS connection failed.
fn of_handshake(error: &ConnectError) -> Unreachable {
    match error {
        ConnectError::NotReady => Unreachable::NoCertificate,
        ConnectError::TimedOut => Unreachable::NoAnswer,
        ConnectError::NotTls(_) | ConnectError::NotHttp2 => Unreachable::NotTls,
        ConnectError::Closed(_) => Unreachable::Ended,
        ConnectError::Expired(_)
        | ConnectError::NotYetValid(_)
        | ConnectError::OtherAuthority(_)
        | ConnectError::WrongRole(_)
        | ConnectError::Rejected(_) => Unreachable::Certificate,
        ConnectError::Other(_) => Unreachable::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_closed_port_is_reported_as_connection_refused() {
        // Bound, so that no other program gets it, and not listening.
        let closed = tokio::net::TcpSocket::new_v4().unwrap();
        closed.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = closed.local_addr().unwrap();
        let (_slot, source) = tls::slot();
        let dial = TlsDial::new(tls::Connector::new(source));
        let error = dial.dial("n", &address.to_string()).await.map(drop).unwrap_err();
        assert_eq!(error.unreachable, Some(Unreachable::ConnectionRefused), "{error}");
        let error = dial.dial("n", "no address").await.map(drop).unwrap_err();
        assert_eq!(error.unreachable, Some(Unreachable::Other), "{error}");
    }

    #[test]
    fn the_kernels_errors_for_an_unreachable_host_mean_no_answer() {
        for code in [113, 101, 110] {
            // EHOSTUNREACH, ENETUNREACH, ETIMEDOUT
            let error = std::io::Error::from_raw_os_error(code);
            assert_eq!(Unreachable::of_io(&error), Unreachable::NoAnswer, "{error}");
        }
    }
}
