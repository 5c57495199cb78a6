//! `quarry node`: serves CSI Node on a unix socket, registers it with kubelet, and serves the agent for the controller
//! over mutual TLS.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use quarry_agent::AgentService;
use quarry_identity::IdentityService;
use quarry_node::{Host, NodeService};
use quarry_proto::csi::v1::identity_server::IdentityServer;
use quarry_proto::csi::v1::node_server::NodeServer;
use quarry_registration::Registration;
use quarry_transport::metrics::{Metrics, Sample};
use quarry_transport::shutdown::Shutdown;
use quarry_transport::{tls, unix};

use crate::{host, observe};

/// The options of `quarry node`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    host: host::Args,
    /// The address on which the agent listens for the controller.
    #[arg(long, default_value = "0.0.0.0:9810", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// The directory with this node's certificate: tls.crt, tls.key, ca.crt. It may appear later; changes are
    /// picked up.
    #[arg(long, default_value = "/etc/quarry/tls", value_name = "DIR")]
    tls: PathBuf,
    /// The CSI socket as kubelet sees it, on the host: registers the driver with kubelet. Without it, another program
    /// must register the driver.
    #[arg(long, value_name = "PATH")]
    kubelet_registration_path: Option<String>,
    /// kubelet's folder plugins_registry, for --kubelet-registration-path.
    #[arg(long, default_value = "/registration", value_name = "FOLDER")]
    plugin_registration_path: PathBuf,
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
    let registration = registration(&args)?;
    let source = tls::files::watch(&args.tls);
    let refusals = tls::Refusals::new();

    let listener = tls::bind(args.listen).await.with_context(|| format!("listening on {}", args.listen))?;
    let acceptor = tls::Acceptor::new(source.clone(), refusals.clone());
    let incoming = tls::incoming(listener, acceptor, tls::Limits::default());
    let path = unix::path_of(&args.host.endpoint)?;
    let socket = unix::listen(&path)?;
    if let Some(address) = args.host.http {
        let refresh = host.register(&metrics);
        observe::register_certificate(&metrics, &source);
        metrics.counter("refused_connections", "Connections that the agent rejected, by reason", move || {
            let counts = refusals.counts().into_iter();
            counts.map(|(reason, count)| Sample::count(count).label("reason", reason)).collect()
        });
        if let Some(registration) = registration.clone() {
            metrics.gauge(
                "kubelet_registered",
                "Whether kubelet has registered this driver (1) or not (0)",
                move || vec![Sample::count(u64::from(registration.is_registered()))],
            );
        }
        let (of, source, directory) = (host.clone(), source.clone(), args.tls.clone());
        let registration = registration.clone();
        let problems: observe::Problems = Arc::new(move || {
            let host = of.clone();
            let certificate = certificate_problem(&source, &directory);
            let registration = registration.as_ref().and_then(Registration::problem);
            Box::pin(async move {
                let mut problems = host.problems().await;
                problems.extend(certificate);
                problems.extend(registration);
                problems
            })
        });
        observe::serve(address, &metrics, refresh, problems, shutdown).await?;
    }

    tracing::info!(
        node = host.node(), driver = args.host.driver, socket = %path.display(), agent = %args.listen,
        "serving CSI Node and the agent"
    );
    let csi = tonic::transport::Server::builder()
        .layer(metrics.layer())
        .add_service(IdentityServer::new(IdentityService::new(args.host.driver, host::readiness(host))))
        .add_service(NodeServer::new(
            NodeService::new(host.clone(), topology_key).with_max_volumes(args.host.max_volumes),
        ))
        .serve_with_incoming_shutdown(socket, shutdown.stopping().cancelled_owned());
    let agent = quarry_agent::serve(incoming, AgentService::new(Arc::new(host.clone())), &metrics, shutdown.stopping());
    host::work_until_stopped(shutdown, host);
    host::drain_on(shutdown, host);
    let all = async {
        let csi = async { csi.await.context("serving CSI Node") };
        let agent = async { agent.await.context("serving the agent") };
        // The CSI socket accepts connections already.
        let registration = async {
            match registration {
                Some(registration) => Ok(registration.serve(shutdown.stopping()).await?),
                None => Ok(()),
            }
        };
        tokio::try_join!(csi, agent, registration)
    };
    shutdown.bound(all).await.transpose()?;
    Ok(())
}

/// The registration with kubelet, if this process is to do it.
fn registration(args: &Args) -> anyhow::Result<Option<Registration>> {
    let Some(endpoint) = &args.kubelet_registration_path else { return Ok(None) };
    let socket = unix::path_of(endpoint).context("--kubelet-registration-path")?;
    Ok(Some(Registration::new(&args.host.driver, &socket.to_string_lossy(), &args.plugin_registration_path)))
}

/// The problem with the certificate, if there is one.
fn certificate_problem(source: &tls::Source, directory: &std::path::Path) -> Option<String> {
    match &*source.borrow() {
        None => Some(format!(
            "there is no certificate in {} yet, so no controller can connect: is the Secret of the node plugin \
             mounted, and is a controller running?",
            directory.display()
        )),
        Some(material) if material.expires() < std::time::SystemTime::now() => {
            Some(format!("the certificate in {} has expired", directory.display()))
        }
        Some(_) => None,
    }
}
