//! `/healthz`, `/readyz` and `/metrics`, for every role.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use quarry_transport::http;
use quarry_transport::metrics::{Metrics, Sample};
use quarry_transport::shutdown::Shutdown;
use quarry_transport::tls;

/// Returns the problems that keep a role from working, one per line.
pub(crate) type Problems = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Vec<String>> + Send>> + Send + Sync>;

/// Serves at `address` until the process stops.
pub(crate) async fn serve(
    address: SocketAddr,
    metrics: &Metrics,
    refresh: http::Refresh,
    problems: Problems,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let listener = http::bind(address).await?;
    let (metrics, stop) = (metrics.clone(), shutdown.stopping());
    tokio::spawn(async move {
        if let Err(error) = http::serve(listener, metrics, refresh, move || problems(), stop).await {
            tracing::error!(%error, "health and metrics are no longer served");
        }
    });
    Ok(())
}

/// For roles whose metrics are always up to date.
pub(crate) fn nothing_to_refresh() -> http::Refresh {
    Arc::new(|| Box::pin(async {}))
}

/// Registers the expiry time of the certificate in use.
pub(crate) fn register_certificate(metrics: &Metrics, source: &tls::Source) {
    let source = source.clone();
    metrics.gauge(
        "certificate_expiry_timestamp_seconds",
        "When the certificate in use expires, as Unix time",
        move || {
            let expires = source.borrow().as_ref().map(|material| material.expires());
            let seconds = expires.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
            seconds.map(|seconds| Sample::count(seconds.as_secs())).into_iter().collect()
        },
    );
}
