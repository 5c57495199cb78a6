//! The controller's view socket.

use std::path::Path;

use quarry_controller::ViewService;
use quarry_proto::view::v2::view_server::ViewServer;
use quarry_transport::unix;
use tokio_util::sync::CancellationToken;

/// Serves the view on a unix socket at `path`, for its owner only, until `stop`. Call it within a tokio
/// runtime.
///
/// If it cannot listen there, it logs an error, and the controller keeps working.
pub(crate) fn serve(path: &Path, service: ViewService, stop: CancellationToken) {
    let listener = match unix::listen(path) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "`quarry nodes`, `pools`, `volumes` and `doctor` are not served; see --view");
            return;
        }
    };
    tracing::info!(socket = %path.display(), "serving `quarry nodes`, `pools`, `volumes` and `doctor`");
    let server = tonic::transport::Server::builder()
        .add_service(ViewServer::new(service))
        .serve_with_incoming_shutdown(listener, stop.cancelled_owned());
    tokio::spawn(async move {
        if let Err(error) = server.await {
            tracing::error!(%error, "`quarry nodes`, `pools`, `volumes` and `doctor` are no longer served");
        }
    });
}
