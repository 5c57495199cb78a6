//! The server around the service: HTTP/2 with bounds that suit one controller or three per node.

use std::time::Duration;

use futures::Stream;
use quarry_proto::agent::v1::agent_server::AgentServer;
use quarry_transport::metrics::Metrics;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::Connected;

use crate::AgentService;
use crate::connection::{CONNECTION_WINDOW, HEADERS, STREAM_WINDOW};

/// How long a controller may be silent before it is asked for a sign of life, and how long it may take to give it: one
/// that went without a word must not keep its streams here.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// The most calls at once on one connection: five sidecars with a hundred workers each. More of them wait their turn.
const STREAMS: u32 = 512;

/// Serves `service` on every connection that `incoming` brings, until `shutdown` is cancelled and the calls under way
/// have ended; streams end at once. Bound the wait for that (`Shutdown::bound`).
///
/// # Errors
/// When `incoming` fails for good.
pub async fn serve<I, IO, E>(
    incoming: I,
    service: AgentService,
    metrics: &Metrics,
    shutdown: CancellationToken,
) -> Result<(), tonic::transport::Error>
where
    I: Stream<Item = Result<IO, E>>,
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_header_list_size(HEADERS)
        .layer(metrics.layer())
        .serve_with_incoming_shutdown(
            AgentServer::new(service.until(shutdown.clone())),
            incoming,
            shutdown.cancelled_owned(),
        )
        .await
}
