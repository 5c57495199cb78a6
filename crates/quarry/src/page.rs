//! The page in HTML (docs/page.md).

use std::sync::Arc;

use quarry_controller::ViewService;
use quarry_page::LoopbackAddress;
use quarry_transport::shutdown::Shutdown;

/// Serves the page at `address` until the process stops.
///
/// # Errors
/// When the address cannot be bound.
pub(crate) async fn serve(address: LoopbackAddress, service: ViewService, shutdown: &Shutdown) -> anyhow::Result<()> {
    let listener = quarry_page::bind(address).await?;
    tracing::info!(%address, "serving the page");
    let stop = shutdown.stopping();
    tokio::spawn(async move {
        if let Err(error) = quarry_page::serve(listener, Arc::new(service), stop).await {
            tracing::error!(%error, "the page is no longer served");
        }
    });
    Ok(())
}
