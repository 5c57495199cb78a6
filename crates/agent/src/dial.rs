//! How a controller comes by a connection to a node.

use std::sync::Arc;

use quarry_volume::{Agent, Result};

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
