//! A controller in Kubernetes: connects to the API and wires up what it reads.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use quarry_agent::Dial;
use quarry_certificates::Store;
use quarry_controller::{NodeLoss, Parts, RosterSource, Timing};
use quarry_kubernetes::{
    ClaimReleases, ClusterNodes, Connection, Discovery, ElectionSettings, LeaseElection, Options, SecretStore,
    VolumeClaims, system_clock,
};

/// The options of a controller in Kubernetes.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// A kubeconfig file; default: the pod's service account.
    #[arg(long, value_name = "FILE", conflicts_with = "agents")]
    kubeconfig: Option<PathBuf>,
    /// The namespace of the node plugin, the Lease and the Secrets; default: the pod's own.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME")]
    namespace: Option<String>,
    /// The labels that select the pods of the node plugin.
    #[arg(
        long,
        default_value = "app.kubernetes.io/name=quarry,app.kubernetes.io/component=node",
        value_name = "SELECTOR"
    )]
    node_pods: String,
    /// The port of the agents in the node plugin.
    #[arg(long, default_value_t = 9810, value_name = "PORT")]
    agent_port: u16,
    /// The Lease of the elected controller, which handles requests that can go to more than one node. The Lease
    /// `NAME-node-loss` is that of the controller that deletes claims.
    #[arg(long, default_value = "quarry-chooser", value_name = "NAME")]
    lease: String,
    /// Follow the VolumeSnapshotContents, so that `quarry doctor` reports snapshots that none references. Their CRD must be
    /// installed.
    #[arg(long)]
    snapshot_contents: bool,
    /// Delete the claims of volumes whose node is gone for good, if their class has `onNodeLoss: release`
    /// (docs/operating.md).
    #[arg(long)]
    release_on_node_loss: bool,
    /// The prefix of the names of the three Secrets with certificates.
    #[arg(long, env = "QUARRY_SECRETS", default_value = "quarry", value_name = "PREFIX")]
    secrets: String,
}

/// What the controller follows in the API, for the lifetime of this value.
pub(crate) struct Kubernetes {
    connection: Connection,
    secrets: String,
    discovery: Discovery,
    claims: Arc<VolumeClaims>,
    nodes: Arc<ClusterNodes>,
    election: Arc<LeaseElection>,
    /// Deletes the claims of lost nodes, and elects the controller that does.
    releases: Option<(Arc<ClaimReleases>, Arc<LeaseElection>)>,
}

/// Connects, and starts to follow the objects that a controller needs.
pub(crate) async fn connect(args: Args, driver: &str) -> anyhow::Result<Kubernetes> {
    let variables = Options::from_variables(|name| std::env::var(name).ok());
    let options =
        Options { kubeconfig: args.kubeconfig, namespace: args.namespace.or(variables.namespace), ..variables };
    let connection = quarry_kubernetes::connect(options)
        .await
        .context("to run without Kubernetes, list the nodes with --agents FILE")?;
    let discovery = Discovery::start(&connection, &args.node_pods, args.agent_port);
    let claims = VolumeClaims::start(&connection, driver);
    let claims = match args.snapshot_contents {
        true => claims.with_snapshots(&connection, driver),
        false => claims,
    };
    let claims = Arc::new(claims);
    let nodes = Arc::new(ClusterNodes::start(&connection, &discovery, &claims, driver, system_clock()));
    let elected = |name: String| {
        let settings = ElectionSettings { name, ..ElectionSettings::default() };
        Arc::new(LeaseElection::new(&connection, settings, system_clock()))
    };
    let releases = args.release_on_node_loss.then(|| {
        let releases = ClaimReleases::new(&connection, &claims, driver, system_clock());
        (Arc::new(releases), elected(format!("{}-node-loss", args.lease)))
    });
    let election = elected(args.lease);
    Ok(Kubernetes { connection, secrets: args.secrets, discovery, claims, nodes, election, releases })
}

/// The store of the certificates, for commands that need nothing else of Kubernetes.
pub(crate) async fn store(
    kubeconfig: Option<PathBuf>,
    namespace: Option<String>,
    secrets: &str,
) -> anyhow::Result<Arc<dyn Store>> {
    let variables = Options::from_variables(|name| std::env::var(name).ok());
    let options = Options { kubeconfig, namespace: namespace.or(variables.namespace), pod: variables.pod };
    let connection = quarry_kubernetes::connect(options)
        .await
        .context("to run without Kubernetes, set the directory with --certificates DIR")?;
    Ok(Arc::new(SecretStore::new(&connection, secrets)))
}

impl Kubernetes {
    /// The store of the certificates.
    pub(crate) fn store(&self) -> Arc<dyn Store> {
        Arc::new(SecretStore::new(&self.connection, &self.secrets))
    }

    /// The nodes that run a pod of the plugin.
    pub(crate) fn roster(&self) -> RosterSource {
        self.discovery.roster()
    }

    /// The parts that a cluster of nodes is built from.
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

    /// What is needed to delete the claims of volumes on lost nodes; `None` if they are kept.
    pub(crate) fn node_loss(&self) -> Option<NodeLoss> {
        let (releases, election) = self.releases.clone()?;
        Some(NodeLoss { nodes: self.nodes.clone(), claims: self.claims.clone(), election, releases })
    }

    /// Releases what other controllers wait for.
    pub(crate) async fn close(&self) {
        self.election.close().await;
        if let Some((_, election)) = &self.releases {
            election.close().await;
        }
    }
}
