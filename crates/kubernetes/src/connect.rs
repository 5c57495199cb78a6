//! How this process connects to the Kubernetes API, and its identity there.

use std::path::PathBuf;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// The namespace of a pod's service account.
const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// A client, and the identity of this process in the cluster.
#[derive(Clone)]
pub struct Connection {
    /// The API client.
    pub client: Client,
    /// Quarry's namespace: its pods, Secrets and Lease are there.
    pub namespace: String,
    /// The name of this process's pod.
    pub pod: String,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("namespace", &self.namespace).field("pod", &self.pod).finish_non_exhaustive()
    }
}

/// The options of [`connect`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// A kubeconfig file. `None`: the service account of this pod, or else kubectl's default.
    pub kubeconfig: Option<PathBuf>,
    /// Quarry's namespace. `None`: that of the service account or of the kubeconfig's context.
    pub namespace: Option<String>,
    /// The name of this pod. `None`: the host name, which is the same in a pod without host network.
    pub pod: Option<String>,
}

impl Options {
    /// The values that the chart passes by the downward API (`POD_NAMESPACE`, `POD_NAME`); `variable` reads
    /// an environment variable.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let given = |name| variable(name).filter(|value| !value.is_empty());
        Self {
            kubeconfig: None,
            namespace: given("POD_NAMESPACE"),
            pod: given("POD_NAME").or_else(|| given("HOSTNAME")),
        }
    }
}

/// Why the Kubernetes API cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The given kubeconfig file cannot be used.
    #[error("cannot use the kubeconfig {path}: {source}", path = .path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<kube::config::KubeconfigError>,
    },
    /// The process runs in a pod, but its service account cannot be used.
    #[error(
        "cannot use this pod's service account: {0} (is automountServiceAccountToken switched off for the controller's \
         pod or service account?)"
    )]
    ServiceAccount(#[source] kube::config::InClusterError),
    /// Neither a pod nor a kubeconfig.
    #[error(
        "cannot find the Kubernetes API: not in a pod (KUBERNETES_SERVICE_HOST is not set), and no usable kubeconfig: \
         {0}; name one with --kubeconfig, or run `quarry standalone`, which needs no Kubernetes"
    )]
    Nowhere(#[source] Box<kube::config::KubeconfigError>),
    /// The client cannot be created from the configuration.
    #[error("cannot create a client for the Kubernetes API: {0}")]
    Client(#[source] Box<kube::Error>),
    /// The name of this pod is not known.
    #[error("the name of this pod is not known: set POD_NAME (in the pod template: fieldRef metadata.name)")]
    NoPodName,
}

/// Reads the configuration and creates the client. Nothing is sent yet.
///
/// # Errors
/// [`ConnectError`], which names what is missing.
pub async fn connect(options: Options) -> Result<Connection, ConnectError> {
    // kube uses the process's default provider; another part of the process may have installed the same one
    // already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let Some(pod) = options.pod else {
        return Err(ConnectError::NoPodName);
    };
    let in_pod = options.kubeconfig.is_none() && std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    let mut config = match options.kubeconfig {
        Some(path) => from_file(path).await?,
        None if in_pod => Config::incluster_env().map_err(ConnectError::ServiceAccount)?,
        None => Config::from_kubeconfig(&KubeConfigOptions::default())
            .await
            .map_err(|error| ConnectError::Nowhere(Box::new(error)))?,
    };
    // A list or watch on a silently dead connection would hang forever; every watch here ends, or receives
    // something, within a minute.
    config.connect_timeout = Some(Duration::from_secs(10));
    config.read_timeout = Some(Duration::from_secs(90));
    config.reset_reader_on_write = true;
    // Every caller has its own back-off or deadline; retries below it would only hide the time that they
    // take.
    config.default_retry = false;
    let namespace = match options.namespace {
        Some(namespace) => namespace,
        None if in_pod => namespace_of_service_account().await.unwrap_or_else(|| config.default_namespace.clone()),
        None => config.default_namespace.clone(),
    };
    let client = Client::try_from(config).map_err(|error| ConnectError::Client(Box::new(error)))?;
    Ok(Connection { client, namespace, pod })
}

async fn from_file(path: PathBuf) -> Result<Config, ConnectError> {
    let read = match Kubeconfig::read_from(&path) {
        Ok(kubeconfig) => Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await,
        Err(error) => Err(error),
    };
    read.map_err(|source| ConnectError::Kubeconfig { path, source: Box::new(source) })
}

async fn namespace_of_service_account() -> Option<String> {
    let text = tokio::fs::read_to_string(NAMESPACE_FILE).await.ok()?;
    let name = text.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(list: &'static [(&'static str, &'static str)]) -> impl Fn(&str) -> Option<String> {
        move |name| list.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    }

    #[test]
    fn the_downward_api_sets_namespace_and_pod() {
        let options = Options::from_variables(variables(&[("POD_NAMESPACE", "storage"), ("POD_NAME", "quarry-0")]));
        assert_eq!(options.namespace.as_deref(), Some("storage"));
        assert_eq!(options.pod.as_deref(), Some("quarry-0"));
        let options = Options::from_variables(variables(&[("POD_NAMESPACE", ""), ("HOSTNAME", "quarry-1")]));
        assert_eq!(options.namespace, None);
        assert_eq!(options.pod.as_deref(), Some("quarry-1"));
    }

    #[tokio::test]
    async fn a_missing_kubeconfig_is_named() {
        let options = Options {
            kubeconfig: Some("/nonexistent/kubeconfig".into()),
            namespace: None,
            pod: Some("quarry-0".to_owned()),
        };
        let error = connect(options).await.unwrap_err().to_string();
        assert!(error.contains("/nonexistent/kubeconfig"), "{error}");
    }

    #[tokio::test]
    async fn a_kubeconfig_gives_server_and_namespace() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kubeconfig");
        let text = "apiVersion: v1\nkind: Config\ncurrent-context: here\n\
                    clusters: [{name: c, cluster: {server: 'https://127.0.0.1:6443', insecure-skip-tls-verify: true}}]\n\
                    users: [{name: u, user: {token: t}}]\n\
                    contexts: [{name: here, context: {cluster: c, user: u, namespace: storage}}]\n";
        std::fs::write(&path, text).unwrap();
        let options = Options { kubeconfig: Some(path), namespace: None, pod: Some("quarry-0".to_owned()) };
        let connection = connect(options).await.unwrap();
        assert_eq!(connection.namespace, "storage");
        assert_eq!(connection.pod, "quarry-0");
    }

    #[tokio::test]
    async fn a_missing_pod_name_is_asked_for() {
        let error = connect(Options::default()).await.unwrap_err();
        assert!(error.to_string().contains("POD_NAME"), "{error}");
    }
}
