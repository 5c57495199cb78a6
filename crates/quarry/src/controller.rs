//! `quarry controller`: serves CSI Controller on a unix socket for the sidecars, and reaches the nodes over
//! mutual TLS.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use quarry_agent::TlsDial;
use quarry_controller::{
    AlwaysElected, Cluster, ControllerService, Election, FileElection, NoKubernetes, Parts, Timing, ViewService,
    follow_agents, release_lost,
};
use quarry_identity::{IdentityService, Readiness};
use quarry_page::LoopbackAddress;
use quarry_proto::csi::v1::controller_server::ControllerServer;
use quarry_proto::csi::v1::identity_server::IdentityServer;
use quarry_transport::metrics::Metrics;
use quarry_transport::shutdown::Shutdown;
use quarry_transport::{open_files, tls, unix};

use crate::{certificates, kubernetes, observe, page, view};

/// The options of `quarry controller`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The unix socket for CSI Controller; its directory must exist.
    #[arg(long, default_value = "unix:///run/quarry/csi.sock", value_name = "ENDPOINT")]
    endpoint: String,
    /// The driver's name, as in StorageClasses.
    #[arg(long, default_value = "local.csi.quarry.dev", value_name = "NAME")]
    driver: String,
    /// Without Kubernetes: the nodes and the addresses of their agents (YAML, see docs/controller.md).
    #[arg(long, value_name = "FILE")]
    agents: Option<PathBuf>,
    /// Without Kubernetes: a lock file that the controllers on this host share, if you run more than one. The
    /// controller that holds the lock is elected: it handles requests that can go to more than one node.
    #[arg(long, value_name = "FILE", requires = "agents")]
    chooser: Option<PathBuf>,
    #[command(flatten)]
    certificates: certificates::Args,
    #[command(flatten)]
    kubernetes: kubernetes::Args,
    /// The address for /healthz, /readyz and /metrics; not served by default.
    #[arg(long, value_name = "ADDRESS:PORT")]
    http: Option<SocketAddr>,
    /// The unix socket for `quarry nodes`, `pools`, `volumes` and `doctor`.
    #[arg(long, default_value = "/run/quarry/view.sock", value_name = "FILE")]
    view: PathBuf,
    /// A loopback address for the page in HTML (docs/page.md), such as 127.0.0.1:9814; not served by default. The page has
    /// no login: every process that can connect to this address can read it.
    #[arg(long, value_name = "ADDRESS:PORT")]
    page: Option<LoopbackAddress>,
}

/// A controller has a connection to each node, so with many nodes it needs more open files than the usual soft limit of
/// 1,024. The hard limit is usually much higher. Not for the other roles: they start programs of the host, which would
/// inherit the limit, and they have one connection for each controller.
fn raise_limit() {
    match open_files::raise_limit() {
        Ok(open_files::Limit { before, now }) => {
            tracing::info!(before, now, "the limit of open files, and so of nodes, is the hard limit");
        }
        Err(error) => tracing::warn!(%error, "cannot raise the limit of open files, which limits the number of nodes"),
    }
}

/// Serves until SIGTERM or SIGINT.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    raise_limit();
    let topology_key = format!("topology.{}/node", args.driver);
    let shutdown = Shutdown::on_signals().context("waiting for signals")?;
    let metrics = Metrics::new();
    let stop = shutdown.overdue();

    let dial = |source: &tls::Source| Arc::new(TlsDial::new(tls::Connector::new(source.clone())));
    let timing = Timing::default();
    let (certificates, roster, parts, kubernetes);
    match &args.agents {
        Some(file) => {
            certificates = args.certificates.without_kubernetes()?;
            roster = follow_agents(file, stop.clone())?;
            let election: Arc<dyn Election> = match &args.chooser {
                Some(file) => Arc::new(FileElection::new(file)),
                None => Arc::new(AlwaysElected),
            };
            let (nodes, claims) = (Arc::new(NoKubernetes), Arc::new(NoKubernetes));
            parts = Parts { dial: dial(&certificates.source), timing, nodes, election, claims, only: None };
            kubernetes = None;
        }
        None => {
            let api = kubernetes::connect(args.kubernetes, &args.driver).await?;
            certificates = args.certificates.in_kubernetes(api.store())?;
            roster = api.roster();
            parts = api.parts(dial(&certificates.source), timing);
            kubernetes = Some(api);
        }
    }
    let cluster = Cluster::follow(roster, parts, stop);
    if let Some(address) = args.http {
        cluster.register(&metrics);
        observe::register_certificate(&metrics, &certificates.source);
        let of = cluster.clone();
        let problems: observe::Problems = Arc::new(move || {
            let problems = of.problems();
            Box::pin(async move { problems })
        });
        observe::serve(address, &metrics, observe::nothing_to_refresh(), problems, &shutdown).await?;
    }

    let (source, authority) = (certificates.source, certificates.authority);
    let extras = move || view::extras::certificates(source.clone(), authority.clone());
    let service = ViewService::new(cluster.clone(), extras);
    if let Some(address) = args.page {
        page::serve(address, service.clone(), &shutdown).await?;
    }
    view::serve(&args.view, service, shutdown.stopping());

    let path = unix::path_of(&args.endpoint)?;
    let listener = unix::listen(&path)?;
    tracing::info!(driver = args.driver, socket = %path.display(), "serving CSI Controller");
    let of = cluster.clone();
    let ready: Readiness = Arc::new(move || {
        let problems = of.problems();
        Box::pin(async move { problems })
    });
    let loss = kubernetes.as_ref().and_then(kubernetes::Kubernetes::node_loss);
    let service = ControllerService::new(cluster, topology_key).releasing_claims(loss.is_some());
    if let Some(loss) = loss {
        tokio::spawn(release_lost(loss, shutdown.stopping()));
    }
    let server = tonic::transport::Server::builder()
        .layer(metrics.layer())
        .add_service(IdentityServer::new(IdentityService::new(args.driver, ready)))
        .add_service(ControllerServer::new(service))
        .serve_with_incoming_shutdown(listener, shutdown.stopping().cancelled_owned());
    shutdown.bound(server).await.transpose().context("serving CSI Controller")?;
    if let Some(api) = kubernetes {
        api.close().await;
    }
    tracing::info!("stopped");
    Ok(())
}
