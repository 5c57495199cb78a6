//! Registers the node plugin with kubelet (`pluginregistration.v1`), so that no second container has to.
//!
//! kubelet watches its folder `plugins_registry`. For each socket that appears there it asks for the plugin's name and
//! CSI socket, calls NodeGetInfo, and writes the driver into the node's CSINode object. When the socket disappears, it
//! removes the driver again. When kubelet starts, it looks at all sockets that are there.
//!
//! * **The name of the socket ends in `@reg.sock`.** kubelet sends the percent-encoded path of the socket as HTTP/2's
//!   `:authority`. Servers in Rust reject a `%` there, except in user information, which is all before an `@`.
//! * **The socket's file stays when the plugin stops**, and the next one replaces it. So kubelet keeps the driver
//!   registered while the pod is replaced: with the driver, external-provisioner would delete the node's
//!   CSIStorageCapacity, and the scheduler would place no pod with a new volume there.
//! * **If the file disappears, there is a new one**: some tools for nodes empty the folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quarry_proto::pluginregistration::v1 as api;
use quarry_transport::changes::Changes;
use quarry_transport::unix;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

/// The version of CSI that kubelet compares with its own.
const CSI_VERSION: &str = "1.0.0";
/// The pause before a new socket replaces one that was removed: whatever empties the folder may not be done yet.
const PAUSE: Duration = Duration::from_secs(1);
/// How often the file is looked at if the kernel cannot notify of changes.
const WITHOUT_NOTIFICATIONS: Duration = Duration::from_secs(10);

/// Why the plugin cannot be registered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no socket.
    #[error("registering with kubelet: {0}")]
    Listen(#[from] unix::Error),
    /// The server failed.
    #[error("registering with kubelet: serving on {}: {source}", socket.display())]
    Serve {
        /// The path of the socket.
        socket: PathBuf,
        /// Why it failed.
        source: tonic::transport::Error,
    },
}

/// What kubelet has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Nothing yet, since the socket is there.
    Waiting,
    /// The driver is registered.
    Registered,
    /// The reason.
    Rejected(String),
}

/// The registration of a driver with kubelet; all clones share one state.
#[derive(Clone, Debug)]
pub struct Registration {
    driver: String,
    /// The CSI socket, as kubelet sees it.
    csi_socket: String,
    /// The registration socket, as this process sees it.
    socket: PathBuf,
    state: Arc<Mutex<State>>,
}

impl Registration {
    /// The registration of `driver`, whose CSI socket is `csi_socket` on the host, in kubelet's folder
    /// `plugins_registry`, which this process sees as `folder`.
    #[must_use]
    pub fn new(driver: &str, csi_socket: &str, folder: &Path) -> Self {
        Self {
            driver: driver.to_owned(),
            csi_socket: csi_socket.to_owned(),
            socket: folder.join(format!("{driver}@reg.sock")),
            state: Arc::new(Mutex::new(State::Waiting)),
        }
    }

    /// Whether kubelet has registered the driver. It does not report when it ends a registration by itself.
    #[must_use]
    pub fn is_registered(&self) -> bool {
        *self.state.lock() == State::Registered
    }

    /// Why kubelet does not use the driver, if it does not.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        match &*self.state.lock() {
            State::Registered => None,
            State::Waiting => Some(format!(
                "kubelet has not registered the driver yet: it has not answered on {}; is the folder kubelet's \
                 plugins_registry?",
                self.socket.display()
            )),
            State::Rejected(reason) => Some(format!("kubelet rejects the driver: {reason}")),
        }
    }

    /// Serves until `stop`. Call it when the CSI socket accepts connections: kubelet connects to it at once.
    ///
    /// # Errors
    /// [`Error::Listen`] if another process serves a driver of this name, or the folder is missing, at the start or
    /// after the socket was removed.
    pub async fn serve(self, stop: CancellationToken) -> Result<(), Error> {
        loop {
            let listener = unix::listen(&self.socket)?.keep_file();
            let file = listener.file();
            let server = tonic::transport::Server::builder()
                .add_service(api::registration_server::RegistrationServer::new(self.clone()))
                .serve_with_incoming_shutdown(listener, stop.clone().cancelled_owned());
            tokio::select! {
                served = server => {
                    return served.map_err(|source| Error::Serve { socket: self.socket.clone(), source });
                }
                () = self.removed(&file) => {}
            }
            *self.state.lock() = State::Waiting;
            tracing::warn!(socket = %self.socket.display(), "the registration socket was removed: registering again");
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }

    /// Waits until the file is no longer in place.
    async fn removed(&self, file: &unix::SocketFile) {
        let folder = self.socket.parent().map(Path::to_owned);
        loop {
            // The watch comes before the check, so that no change is missed.
            let changes = Changes::in_places(folder.clone());
            if !file.is_in_place() {
                return;
            }
            match changes {
                Ok(changes) => changes.changed().await,
                Err(error) => {
                    tracing::debug!(%error, "no notifications about the registration socket: checking periodically");
                    tokio::time::sleep(WITHOUT_NOTIFICATIONS).await;
                }
            }
        }
    }
}

#[tonic::async_trait]
impl api::registration_server::Registration for Registration {
    async fn get_info(&self, _request: Request<api::InfoRequest>) -> Result<Response<api::PluginInfo>, Status> {
        Ok(Response::new(api::PluginInfo {
            r#type: "CSIPlugin".to_owned(),
            name: self.driver.clone(),
            endpoint: self.csi_socket.clone(),
            supported_versions: vec![CSI_VERSION.to_owned()],
        }))
    }

    /// kubelet tries again by itself after a rejection.
    async fn notify_registration_status(
        &self,
        request: Request<api::RegistrationStatus>,
    ) -> Result<Response<api::RegistrationStatusResponse>, Status> {
        let status = request.into_inner();
        let state = if status.plugin_registered {
            tracing::info!(driver = self.driver, "kubelet has registered the driver");
            State::Registered
        } else {
            tracing::error!(driver = self.driver, reason = status.error, "kubelet rejects the driver");
            State::Rejected(status.error)
        };
        *self.state.lock() = state;
        Ok(Response::new(api::RegistrationStatusResponse {}))
    }
}

#[cfg(test)]
mod tests;
