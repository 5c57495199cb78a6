//! One port for those who watch: `/healthz`, `/readyz` and `/metrics`.
//!
//! `/healthz` says that the process can work: see [`crate::alive`]. It is well while a disk hangs, because a restart
//! heals no disk. `/readyz` says what keeps the node from doing its work, one problem a line. Nothing here changes anything or
//! tells a secret, so it is plain HTTP; the address to listen on is the operator's choice.

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

/// How long the check behind `/readyz` may take: a hung disk must show, not hang the probe too.
const READY_WAIT: Duration = Duration::from_secs(5);
/// What OpenMetrics text is called.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What brings figures up to date that a scrape cannot wait for: awaited before each scrape, at most as long as the
/// check behind `/readyz`.
pub type Refresh = Arc<dyn Fn() -> BoxFuture + Send + Sync>;
/// A future without a value.
pub type BoxFuture = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// The port could not be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for health and metrics: {source}; choose a free port")]
pub struct BindError {
    /// Where.
    address: SocketAddr,
    /// Why not.
    source: io::Error,
}

/// Takes the port. Apart from [`serve`], so that a port in use is known at the start.
///
/// # Errors
/// When the address cannot be bound.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| BindError { address, source })
}

/// Serves until `stop` is cancelled. `problems` is asked at each `/readyz` for what keeps the node from doing its work;
/// an empty list means ready; `refresh` is awaited before each scrape.
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

/// The answer of `/readyz`; `None`: the check itself did not answer.
fn readiness(problems: Option<Vec<String>>) -> Response {
    let problems = problems
        .unwrap_or_else(|| vec![format!("the readiness check did not answer within {} s", READY_WAIT.as_secs())]);
    if problems.is_empty() {
        return "ok\n".into_response();
    }
    let lines: String = problems.iter().map(|problem| format!("{}\n", problem.replace('\n', " "))).collect();
    (StatusCode::SERVICE_UNAVAILABLE, lines).into_response()
}

async fn scrape(State((metrics, refresh)): State<(Metrics, Refresh)>) -> Response {
    // Figures that are old are better than none: what hangs shows elsewhere.
    let _ = tokio::time::timeout(READY_WAIT, refresh()).await;
    match metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("cannot encode the metrics: {error}\n")).into_response()
        }
    }
}
