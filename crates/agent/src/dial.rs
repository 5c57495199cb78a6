//! How a controller comes by a connection to a node.

use std::net::SocketAddr;
use std::sync::Arc;

use quarry_transport::tls;
use quarry_volume::{Agent, Error, Result};

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
        let failed = |why: &dyn std::fmt::Display| {
            Error::unavailable(format!("node {node}: no connection to {endpoint}: {why}; it is tried again"))
        };
        let address: SocketAddr =
            endpoint.parse().map_err(|_| failed(&"that is not an IP address with a port, as in 10.0.0.7:9870"))?;
        let tcp = tls::dial(address).await.map_err(|error| failed(&error))?;
        let tls = self.connector.connect(tcp).await.map_err(|error| failed(&error))?;
        Ok(Arc::new(RemoteAgent::tuned(tls, node, &self.tuning).await?))
    }
}
