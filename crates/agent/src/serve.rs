//! The server around the service: HTTP/2 with limits for one to three controllers per node.

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

/// How long a controller may be idle before it is pinged, and how long it may take to answer: a controller
/// that vanished must not keep its streams here.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// The most concurrent calls on one connection: five sidecars with a hundred workers each. Further calls
/// wait.
const STREAMS: u32 = 512;

/// Serves `service` on every connection from `incoming` until `shutdown` is cancelled and the calls in
/// progress have finished; streams end immediately. Limit the wait for that with `Shutdown::bound`.
///
/// # Errors
/// When `incoming` fails permanently.
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
