//! `quarry standalone`: controller and node in one process, on one unix socket, without Kubernetes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use quarry_agent::Dial;
use quarry_controller::{
    AlwaysElected, Cluster, ControllerService, Endpoint, NoKubernetes, Parts, Roster, Timing, ViewService,
};
use quarry_identity::IdentityService;
use quarry_node::{Host, NodeService};
use quarry_page::LoopbackAddress;
use quarry_proto::csi::v1::controller_server::ControllerServer;
use quarry_proto::csi::v1::identity_server::IdentityServer;
use quarry_proto::csi::v1::node_server::NodeServer;
use quarry_transport::metrics::Metrics;
use quarry_transport::shutdown::Shutdown;
use quarry_transport::unix;
use quarry_volume::{Agent, Result};

use crate::{host, observe, page, view};

/// How long startup waits for the host's first report of its pools. A hung disk must not block the socket
/// too.
const FIRST_STATE: Duration = Duration::from_secs(10);

/// A connection lifetime without a limit: there are no certificates whose changes it has to follow.
const NEVER: Duration = Duration::from_secs(u32::MAX as u64);

/// The options of `quarry standalone`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    host: host::Args,
    /// The unix socket for `quarry nodes`, `pools`, `volumes` and `doctor`; not served by default.
    #[arg(long, value_name = "FILE")]
    view: Option<PathBuf>,
    /// A loopback address for the page in HTML (docs/page.md), such as 127.0.0.1:9814; not served by default. The page has
    /// no login: every process that can connect to this address can read it.
    #[arg(long, value_name = "ADDRESS:PORT")]
    page: Option<LoopbackAddress>,
}

/// Controller and node are one process, so they need no connection.
struct InProcess(Host);

#[async_trait::async_trait]
impl Dial for InProcess {
    async fn dial(&self, _node: &str, _endpoint: &str) -> Result<Arc<dyn Agent>> {
        Ok(Arc::new(self.0.clone()))
    }
}

/// Serves until SIGTERM or SIGINT.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let shutdown = Shutdown::on_signals().context("waiting for signals")?;
    let host = host::open(&args.host).await?;
    // From here on, calls and lvm commands may be running, also when this fails.
    let served = serve(args, &shutdown, &host).await;
    host::drained(&shutdown, &host, served).await
}

async fn serve(args: Args, shutdown: &Shutdown, host: &Host) -> anyhow::Result<()> {
    let topology_key = format!("topology.{}/node", args.host.driver);
    let metrics = Metrics::new();

    let here = Endpoint { address: "in-process".to_owned(), pod_uid: String::new() };
    let roster = Roster::from([(host.node().to_owned(), here)]);
    let (_only, roster) = tokio::sync::watch::channel(Some(Arc::new(roster)));
    let parts = Parts {
        dial: Arc::new(InProcess(host.clone())),
        timing: Timing { age: NEVER, ..Timing::default() },
        nodes: Arc::new(NoKubernetes),
        election: Arc::new(AlwaysElected),
        claims: Arc::new(NoKubernetes),
        only: Some(host.node().to_owned()),
    };
    let cluster = Cluster::follow(roster, parts, shutdown.overdue());
    if let Some(address) = args.host.http {
        let refresh = host.register(&metrics);
        let of = host.clone();
        let problems: observe::Problems = Arc::new(move || {
            let host = of.clone();
            Box::pin(async move { host.problems().await })
        });
        observe::serve(address, &metrics, refresh, problems, shutdown).await?;
    }
    cluster.all_reported(FIRST_STATE).await;
    let service = ViewService::new(cluster.clone(), || async { view::extras::commands() });
    if let Some(address) = args.page {
        page::serve(address, service.clone(), shutdown).await?;
    }
    if let Some(path) = &args.view {
        view::serve(path, service, shutdown.stopping());
    }

    let path = unix::path_of(&args.host.endpoint)?;
    let listener = unix::listen(&path)?;
    tracing::info!(node = host.node(), driver = args.host.driver, socket = %path.display(), "serving CSI");
    let server = tonic::transport::Server::builder()
        .layer(metrics.layer())
        .add_service(IdentityServer::new(IdentityService::new(args.host.driver, host::readiness(host))))
        .add_service(ControllerServer::new(ControllerService::new(cluster, topology_key.clone())))
        .add_service(NodeServer::new(
            NodeService::new(host.clone(), topology_key).with_max_volumes(args.host.max_volumes),
        ))
        .serve_with_incoming_shutdown(listener, shutdown.stopping().cancelled_owned());
    host::work_until_stopped(shutdown, host);
    host::drain_on(shutdown, host);
    shutdown.bound(server).await.transpose().context("serving CSI")?;
    Ok(())
}
