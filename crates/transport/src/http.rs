//! One port for monitoring: `/healthz`, `/readyz` and `/metrics`.
//!
//! `/healthz` reports whether the process can work: see [`crate::alive`]. It stays OK while a disk hangs,
//! because a restart does not repair a disk. `/readyz` reports what keeps the node from working, one problem
//! per line. These endpoints change nothing and reveal no secrets, so they use plain HTTP; the operator
//! selects the listening address.
//!
//! Any pod may reach the port. So a connection has one request and a limited time, and there are few at once: a client
//! that opens many of them takes neither file descriptors nor processor time from the calls of CSI.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use ::http::{StatusCode, header};
use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::accept::Pauses;
use crate::alive::Alive;
use crate::metrics::Metrics;
use crate::room::Room;

/// How many connections may be open. A probe and a scrape need one each, for some milliseconds.
const CONNECTIONS: usize = 64;
/// How many of them from one address.
const PER_PEER: usize = 16;
/// How long a client may take to send its request.
const REQUEST: Duration = Duration::from_secs(5);
/// How long a connection may take as a whole: Prometheus waits for ten seconds by default.
const CONNECTION: Duration = Duration::from_secs(30);

/// The timeout of the check behind `/readyz`: a hung disk must be reported and must not hang the probe.
const READY_WAIT: Duration = Duration::from_secs(5);
/// The content type of OpenMetrics text.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Updates figures that are too slow to collect during a scrape: awaited before each scrape, with the same
/// timeout as the check behind `/readyz`.
pub type Refresh = Arc<dyn Fn() -> BoxFuture + Send + Sync>;
/// A future without a value.
pub type BoxFuture = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// The port cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for health and metrics: {source}; choose a free port")]
pub struct BindError {
    /// The address.
    address: SocketAddr,
    /// The cause.
    source: io::Error,
}

/// Binds the port. Separate from [`serve`], so that a port in use is detected at startup.
///
/// # Errors
/// When the address cannot be bound.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| BindError { address, source })
}

/// Serves until `stop` is cancelled, and the running requests have ended. Each `/readyz` calls `problems` for what keeps the node from working; an
/// empty list means ready. `refresh` is awaited before each scrape.
///
/// # Errors
/// When the listener fails.
pub async fn serve<F, R>(
    listener: TcpListener,
    metrics: Metrics,
    refresh: Refresh,
    problems: F,
    stop: CancellationToken,
) -> io::Result<()>
where
    F: Fn() -> R + Send + Sync + 'static,
    R: Future<Output = Vec<String>> + Send + 'static,
{
    let problems = Arc::new(problems);
    let ready = move || {
        let problems = Arc::clone(&problems);
        async move { readiness(timeout(READY_WAIT, problems()).await.ok()) }
    };
    // To encode the metrics of thousands of nodes keeps a thread of the runtime busy: only one at a time.
    let turn = Arc::new(Semaphore::new(1));
    let routes = Router::new()
        .route("/healthz", get(health).with_state(Alive::watch(stop.clone())))
        .route("/readyz", get(ready))
        .route("/metrics", get(scrape).with_state((metrics, refresh, turn)));
    let (mut connections, mut room) = (JoinSet::new(), Room::new(CONNECTIONS, PER_PEER));
    let mut pauses = Pauses::new("clients of health and metrics");
    let mut accept = async || {
        let poll = |context: &mut Context<'_>| pauses.poll(context, |context| listener.poll_accept(context).map(Some));
        std::future::poll_fn(poll).await
    };
    loop {
        tokio::select! {
            accepted = accept() => {
                let Some((stream, peer)) = accepted else { return Ok(()) };
                let peer = peer.ip().to_string();
                if let Some(closed) = room.make_for(&peer) {
                    tracing::debug!(peer = closed, "closed a connection to make room for a newer one");
                }
                let task = connections.spawn(converse(stream, routes.clone(), stop.clone()));
                room.add(peer, task);
            }
            Some(ended) = connections.join_next_with_id() => {
                room.ended(ended.map_or_else(|error| error.id(), |(id, ())| id));
            }
            () = stop.cancelled() => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
    Ok(())
}

/// Answers the one request of a connection.
async fn converse(stream: TcpStream, routes: Router, stop: CancellationToken) {
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(REQUEST).keep_alive(false);
    let mut connection = pin!(server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes)));
    let ended = async {
        tokio::select! {
            ended = connection.as_mut() => return ended,
            () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    };
    if let Ok(Err(error)) = timeout(CONNECTION, ended).await {
        tracing::debug!(%error, "a client of health or metrics got no answer");
    }
}

/// The answer of `/healthz`.
async fn health(State(alive): State<Alive>) -> Response {
    match alive.problem() {
        None => "ok\n".into_response(),
        Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")).into_response(),
    }
}

/// The answer of `/readyz`; `None` if the check itself did not finish.
fn readiness(problems: Option<Vec<String>>) -> Response {
    let problems = problems
        .unwrap_or_else(|| vec![format!("the readiness check did not finish within {} s", READY_WAIT.as_secs())]);
    if problems.is_empty() {
        return "ok\n".into_response();
    }
    let lines: String = problems.iter().map(|problem| format!("{}\n", problem.replace('\n', " "))).collect();
    (StatusCode::SERVICE_UNAVAILABLE, lines).into_response()
}

async fn scrape(State((metrics, refresh, turn)): State<(Metrics, Refresh, Arc<Semaphore>)>) -> Response {
    // Stale figures are better than none: hangs are reported elsewhere.
    let _ = timeout(READY_WAIT, refresh()).await;
    // It is never closed.
    let _turn = turn.acquire().await;
    match metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("cannot encode the metrics: {error}\n")).into_response()
        }
    }
}
