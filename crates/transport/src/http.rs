//! One port for monitoring: `/healthz`, `/readyz` and `/metrics`.
//!
//! `/healthz` reports whether the process can work: see [`crate::alive`]. It stays OK while a disk hangs,
//! because a restart does not repair a disk. `/readyz` reports what keeps the node from working, one problem
//! per line. These endpoints change nothing and reveal no secrets, so they use plain HTTP; the operator
//! selects the listening address.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::http::{StatusCode, header};
use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::alive::Alive;
use crate::metrics::Metrics;

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

/// Serves until `stop` is cancelled. Each `/readyz` calls `problems` for what keeps the node from working; an
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
        async move { readiness(tokio::time::timeout(READY_WAIT, problems()).await.ok()) }
    };
    let routes = Router::new()
        .route("/healthz", get(health).with_state(Alive::watch(stop.clone())))
        .route("/readyz", get(ready))
        .route("/metrics", get(scrape).with_state((metrics, refresh)));
    axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned()).await
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

async fn scrape(State((metrics, refresh)): State<(Metrics, Refresh)>) -> Response {
    // Stale figures are better than none: hangs are reported elsewhere.
    let _ = tokio::time::timeout(READY_WAIT, refresh()).await;
    match metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("cannot encode the metrics: {error}\n")).into_response()
        }
    }
}
