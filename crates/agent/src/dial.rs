//! How a controller comes by a connection to a node.

use std::net::SocketAddr;
use std::sync::Arc;

use quarry_transport::tls::{self, ConnectError};
use quarry_volume::{Agent, Error, Result, Unreachable};

use crate::{RemoteAgent, Tuning};

/// Makes connections to nodes.
#[async_trait::async_trait]
pub trait Dial: Send + Sync {
    /// Connects to the agent of `node` at `endpoint` (an address and port). Every call makes a connection of its own; that
    /// it is the right node turns out with the first call.
    ///
    /// # Errors
    /// `Unavailable` if nobody answers there, or not who should.
    async fn dial(&self, node: &str, endpoint: &str) -> Result<Arc<dyn Agent>>;
}

/// Over TCP and mutual TLS: what the product does.
#[derive(Clone, Debug)]
pub struct TlsDial {
    /// What we show and believe.
    pub connector: tls::Connector,
    /// How the connections are watched over.
    pub tuning: Tuning,
}

impl TlsDial {
    /// Shows and believes what `connector` does, with the usual times.
    #[must_use]
    pub fn new(connector: tls::Connector) -> Self {
        Self { connector, tuning: Tuning::default() }
    }
}

#[async_trait::async_trait]
impl Dial for TlsDial {
    async fn dial(&self, node: &str, endpoint: &str) -> Result<Arc<dyn Agent>> {
        let failed = |cause, why: &dyn std::fmt::Display| {
            Error::unreachable(cause, format!("node {node}: no connection to {endpoint}: {why}; it is tried again"))
        };
        let address: SocketAddr = endpoint
            .parse()
            .map_err(|_| failed(Unreachable::Other, &"that is not an IP address with a port, as in 10.0.0.7:9870"))?;
        let tcp = tls::dial(address).await.map_err(|error| failed(Unreachable::of_io(&error), &error))?;
        let tls = self.connector.connect(tcp).await.map_err(|error| failed(of_handshake(&error), &error))?;
        Ok(Arc::new(RemoteAgent::tuned(tls, node, &self.tuning).await?))
    }
}

/// Why a TLS connection was not made.
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
        | ConnectError::RefusedOurs(_) => Unreachable::Certificate,
        ConnectError::Other(_) => Unreachable::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_on_which_nothing_listens_refuses() {
        // Bound, and closed again.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let (_slot, source) = tls::slot();
        let dial = TlsDial::new(tls::Connector::new(source));
        let error = dial.dial("n", &address.to_string()).await.map(drop).unwrap_err();
        assert_eq!(error.unreachable, Some(Unreachable::ConnectionRefused), "{error}");
        let error = dial.dial("n", "no address").await.map(drop).unwrap_err();
        assert_eq!(error.unreachable, Some(Unreachable::Other), "{error}");
    }

    #[test]
    fn what_the_kernel_says_of_a_host_that_is_away_is_no_answer() {
        for code in [113, 101, 110] {
            // EHOSTUNREACH, ENETUNREACH, ETIMEDOUT
            let error = std::io::Error::from_raw_os_error(code);
            assert_eq!(Unreachable::of_io(&error), Unreachable::NoAnswer, "{error}");
        }
    }
}
