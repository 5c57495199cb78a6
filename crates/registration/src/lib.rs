//! Registers the node plugin with kubelet (`pluginregistration.v1`), so that no second container has to.
//!
//! kubelet watches its folder `plugins_registry`. For each socket that appears there it asks for the plugin's name and
//! CSI socket, calls NodeGetInfo, and writes the driver into the node's CSINode object. When the socket disappears, it
//! removes the driver again. When kubelet starts, it looks at all sockets that are there.
//!
//! * **The name of the socket ends in `@reg.sock`.** kubelet sends the percent-encoded path of the socket as HTTP/2's
//!   `:authority`. Servers in Rust reject a `%` there, except in user information, which is all before an `@`.
//! * **The socket's file stays when the plugin stops**, and the next one replaces it. So the driver is away from the
//!   CSINode for a moment, not for as long as the pod is replaced. While it is away, external-provisioner deletes the
//!   node's CSIStorageCapacity, and the scheduler places no pod with a new volume there.
//! * **If the file disappears, there is a new one**: some tools for nodes empty the folder.
//! * **The socket of a registrar is not left behind**: node-driver-registrar, which older versions of the chart have,
//!   calls it `<driver>-reg.sock`. When it disappears, kubelet removes the driver, no matter which program registered
//!   it. So a dead one is removed before the plugin registers, and the plugin registers again when a live one
//!   disappears.

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
/// The pause after a socket was removed, before a new one: kubelet compares once a second which sockets are there, and
/// must have removed the driver before it registers it again.
const PAUSE: Duration = Duration::from_secs(3);
/// The pause after a new socket was not possible.
const RETRY: Duration = Duration::from_secs(10);
/// How often the file is looked at if the kernel cannot notify of changes.
const WITHOUT_NOTIFICATIONS: Duration = Duration::from_secs(10);

/// Why the plugin cannot be registered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no socket.
    #[error("registering with kubelet: {0}")]
    Listen(#[from] unix::Error),
    /// A thread for it was not possible.
    #[error("registering with kubelet: {0}")]
    Task(String),
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
    /// It is not, and why.
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
    /// The socket that a registrar of this driver would have.
    registrar: PathBuf,
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
            registrar: folder.join(format!("{driver}-reg.sock")),
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
            State::Rejected(reason) => Some(reason.clone()),
        }
    }

    /// Serves until `stop`. Call it when the CSI socket accepts connections: kubelet connects to it at once.
    ///
    /// # Errors
    /// [`Error::Listen`] if another process serves a driver of this name, or the folder is missing, at the start. Later,
    /// after the socket was removed, this is a problem, and tried again.
    pub async fn serve(self, stop: CancellationToken) -> Result<(), Error> {
        self.remove_registrar(&stop).await;
        let mut next = Some(self.listen().await?);
        while let Some(listener) = next.take() {
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
            tracing::warn!(socket = %self.socket.display(), "a registration socket was removed: registering again");
            next = self.listen_again(&stop).await;
        }
        Ok(())
    }

    /// A new socket. It replaces a dead one.
    async fn listen(&self) -> Result<unix::Listener, Error> {
        let socket = self.socket.clone();
        // It may wait for another process that starts in the same folder.
        let listener = tokio::task::spawn_blocking(move || unix::listen(&socket)).await;
        Ok(listener.map_err(|error| Error::Task(error.to_string()))??.keep_file())
    }

    /// A new socket after one was removed; `None` when the plugin stops.
    async fn listen_again(&self, stop: &CancellationToken) -> Option<unix::Listener> {
        stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await?;
        loop {
            match self.listen().await {
                Ok(listener) => {
                    *self.state.lock() = State::Waiting;
                    return Some(listener);
                }
                Err(error) => {
                    tracing::error!(%error, "cannot register again");
                    let hint = "if the folder was replaced on the host, delete this pod";
                    *self.state.lock() = State::Rejected(format!("{error}; {hint}"));
                }
            }
            stop.run_until_cancelled(tokio::time::sleep(RETRY)).await?;
        }
    }

    /// Removes the socket of a registrar that was killed. A live one is left alone, and so is what is not a socket.
    async fn remove_registrar(&self, stop: &CancellationToken) {
        let socket = self.registrar.clone();
        let removed = tokio::task::spawn_blocking(move || unix::remove_dead(&socket)).await;
        if matches!(removed, Ok(Ok(true))) {
            let _ = stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
        }
    }

    /// Waits until the file is no longer in place, or a registrar's socket disappears.
    async fn removed(&self, file: &unix::SocketFile) {
        let folder = self.socket.parent().map(Path::to_owned);
        let mut registrar = false;
        loop {
            // The watch comes before the check, so that no change is missed.
            let changes = Changes::in_places(folder.clone());
            let before = std::mem::replace(&mut registrar, self.registrar.exists());
            if !file.is_in_place() || (before && !registrar) {
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
            State::Rejected(format!("kubelet rejects the driver: {}", status.error))
        };
        *self.state.lock() = state;
        Ok(Response::new(api::RegistrationStatusResponse {}))
    }
}

#[cfg(test)]
mod tests;
