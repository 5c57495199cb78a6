//! A controller in Kubernetes: what it reads from the API, wired together.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use quarry_agent::Dial;
use quarry_certificates::Store;
use quarry_controller::{Parts, RosterSource, Timing};
use quarry_kubernetes::{
    ClusterNodes, Connection, Discovery, ElectionSettings, LeaseElection, Options, SecretStore, VolumeClaims,
    system_clock,
};

/// What a controller in Kubernetes is told.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// A kubeconfig file; the pod's service account unless given.
    #[arg(long, value_name = "FILE", conflicts_with = "agents")]
    kubeconfig: Option<PathBuf>,
    /// The namespace of the node plugin, of our Lease and of our Secrets; our own unless given.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME")]
    namespace: Option<String>,
    /// The labels by which the node plugin's pods are known.
    #[arg(
        long,
        default_value = "app.kubernetes.io/name=quarry,app.kubernetes.io/component=node",
        value_name = "SELECTOR"
    )]
    node_pods: String,
    /// The port on which the agents of the node plugin listen.
    #[arg(long, default_value_t = 9810, value_name = "PORT")]
    agent_port: u16,
    /// The Lease of the controller that decides on requests that leave a choice of node.
    #[arg(long, default_value = "quarry-chooser", value_name = "NAME")]
    lease: String,
    /// What the names of the three Secrets with certificates begin with.
    #[arg(long, default_value = "quarry", value_name = "PREFIX")]
    secrets: String,
}

/// What is followed in the API, for as long as this lives.
pub(crate) struct Kubernetes {
    connection: Connection,
    secrets: String,
    discovery: Discovery,
    claims: Arc<VolumeClaims>,
    nodes: Arc<ClusterNodes>,
    election: Arc<LeaseElection>,
}

/// Connects, and begins to follow what a controller has to know.
pub(crate) async fn connect(args: Args, driver: &str) -> anyhow::Result<Kubernetes> {
    let variables = Options::from_variables(|name| std::env::var(name).ok());
    let options =
        Options { kubeconfig: args.kubeconfig, namespace: args.namespace.or(variables.namespace), ..variables };
    let connection =
        quarry_kubernetes::connect(options).await.context("without Kubernetes, name the nodes with --agents FILE")?;
    let discovery = Discovery::start(&connection, &args.node_pods, args.agent_port);
    let claims = Arc::new(VolumeClaims::start(&connection, driver));
    let nodes = Arc::new(ClusterNodes::start(&connection, &discovery, &claims, driver, system_clock()));
    let settings = ElectionSettings { name: args.lease, ..ElectionSettings::default() };
    let election = Arc::new(LeaseElection::new(&connection, settings, system_clock()));
    Ok(Kubernetes { connection, secrets: args.secrets, discovery, claims, nodes, election })
}

/// Where the certificates are kept, for those who want nothing else of Kubernetes.
pub(crate) async fn store(
    kubeconfig: Option<PathBuf>,
    namespace: Option<String>,
    secrets: &str,
) -> anyhow::Result<Arc<dyn Store>> {
    let variables = Options::from_variables(|name| std::env::var(name).ok());
    let options = Options { kubeconfig, namespace: namespace.or(variables.namespace), pod: variables.pod };
    let connection = quarry_kubernetes::connect(options)
        .await
        .context("without Kubernetes, name the directory with --certificates DIR")?;
    Ok(Arc::new(SecretStore::new(&connection, secrets)))
}

impl Kubernetes {
    /// Where the certificates are kept.
    pub(crate) fn store(&self) -> Arc<dyn Store> {
        Arc::new(SecretStore::new(&self.connection, &self.secrets))
    }

    /// The nodes that have a pod of the plugin.
    pub(crate) fn roster(&self) -> RosterSource {
        self.discovery.roster()
    }

    /// What the cluster of nodes consists of.
    pub(crate) fn parts(&self, dial: Arc<dyn Dial>, timing: Timing) -> Parts {
        Parts {
            dial,
            timing,
            nodes: self.nodes.clone(),
            election: self.election.clone(),
            claims: self.claims.clone(),
            only: None,
        }
    }

    /// Gives back what others wait for.
    pub(crate) async fn close(&self) {
        self.election.close().await;
    }
}
