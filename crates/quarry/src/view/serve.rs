//! The controller's end: its socket for questions.

use std::path::Path;

use quarry_controller::ViewService;
use quarry_proto::view::v1::view_server::ViewServer;
use quarry_transport::unix;
use tokio_util::sync::CancellationToken;

/// Answers questions on a unix socket at `path`, for its owner alone, until `stop`. Must be called within a tokio runtime.
///
/// Where nobody can listen there, that is logged, and the controller goes on with its work.
pub(crate) fn serve(path: &Path, service: ViewService, stop: CancellationToken) {
    let listener = match unix::listen(path) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "`quarry nodes`, `pools`, `volumes` and `doctor` are not answered; see --view");
            return;
        }
    };
    tracing::info!(socket = %path.display(), "answering `quarry nodes`, `pools`, `volumes` and `doctor`");
    let server = tonic::transport::Server::builder()
        .add_service(ViewServer::new(service))
        .serve_with_incoming_shutdown(listener, stop.cancelled_owned());
    tokio::spawn(async move {
        if let Err(error) = server.await {
            tracing::error!(%error, "`quarry nodes`, `pools`, `volumes` and `doctor` are not answered any more");
        }
    });
}
