//! `quarry standalone`: controller and node in one process, on one unix socket, without Kubernetes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, bail};
use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use quarry_controller::{ControllerService, IdentityService, Readiness};
use quarry_node::{Host, NodeService};
use quarry_pool::{LvmPool, Pool, Uevents};
use quarry_proto::csi::v1::controller_server::ControllerServer;
use quarry_proto::csi::v1::identity_server::IdentityServer;
use quarry_proto::csi::v1::node_server::NodeServer;
use quarry_transport::metrics::{Metrics, Sample};
use quarry_transport::shutdown::{GRACE, Shutdown};
use quarry_transport::{http, unix};
use quarry_volume::{Layout, PoolState};

/// The programs that a node runs; each missing one is named at the start.
const TOOLS: [&str; 7] = ["lvm", "dmsetup", "blkid", "mkfs.ext4", "mkfs.xfs", "xfs_repair", "mkfs.btrfs"];

/// What `quarry standalone` is told.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The pools of this node (YAML, see docs/pools.md).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The unix socket on which CSI is served; its directory must exist.
    #[arg(long, default_value = "unix:///run/quarry/csi.sock", value_name = "ENDPOINT")]
    endpoint: String,
    /// This node's name; the host's name unless given.
    #[arg(long, env = "QUARRY_NODE", value_name = "NAME")]
    node: Option<String>,
    /// The driver's name, as StorageClasses give it.
    #[arg(long, default_value = "local.csi.quarry.dev", value_name = "NAME")]
    driver: String,
    /// Where /healthz, /readyz and /metrics are served; nowhere unless given.
    #[arg(long, value_name = "ADDRESS:PORT")]
    http: Option<SocketAddr>,
}

/// Serves until SIGTERM or SIGINT.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let node = node_name(args.node)?;
    let topology_key = format!("topology.{}/node", args.driver);
    let configured = quarry_pool::load(&args.config)?;
    let missing = quarry_exec::missing_tools(&TOOLS);
    if !missing.is_empty() {
        bail!(
            "these programs are missing from PATH: {}; install the packages lvm2, util-linux, e2fsprogs, xfsprogs and \
             btrfs-progs",
            missing.join(", ")
        );
    }
    let shutdown = Shutdown::on_signals().context("waiting for signals")?;
    let uevents = Uevents::listen();
    let mut pools: Vec<Arc<dyn Pool>> = Vec::new();
    for config in configured {
        pools.push(Arc::new(LvmPool::open(config, uevents.clone()).await));
    }
    let host = Host::new(node, pools);
    let metrics = Metrics::new();
    if let Some(address) = args.http {
        watch(&host, &metrics, address, &shutdown).await?;
    }

    let path = unix::path_of(&args.endpoint)?;
    let listener = unix::listen(&path)?;
    tracing::info!(node = host.node(), driver = args.driver, socket = %path.display(), "serving CSI");
    let agent = Arc::new(host.clone());
    let server = tonic::transport::Server::builder()
        .layer(metrics.layer())
        .add_service(IdentityServer::new(IdentityService::new(args.driver, readiness(&host))))
        .add_service(ControllerServer::new(ControllerService::new(agent, topology_key.clone())))
        .add_service(NodeServer::new(NodeService::new(host.clone(), topology_key)))
        .serve_with_incoming_shutdown(listener, shutdown.stopping().cancelled_owned());
    // After the signal, tasks that can stop between two steps do so, so that the calls that wait for them are answered;
    // the others get what is left of the time. Whatever is cut off then is found again by the next start, exactly as
    // after a power cut.
    let (tasks, stopping) = (host.tasks().clone(), shutdown.stopping());
    tokio::spawn(async move {
        stopping.cancelled().await;
        tasks.drain(GRACE).await;
    });
    shutdown.bound(server).await.transpose().context("serving CSI")?;
    // And those of the last calls that were taken.
    let left = shutdown.bound(host.tasks().drain(GRACE)).await;
    tracing::info!(tasks_left = left.unwrap_or_else(|| host.tasks().list().len()), "stopped");
    Ok(())
}

/// The node's name, checked: it becomes the value of a label and a part of every volume's identifier.
fn node_name(given: Option<String>) -> anyhow::Result<String> {
    let name = match given {
        Some(name) => name,
        None => {
            std::fs::read_to_string("/proc/sys/kernel/hostname").context("reading the host's name")?.trim().to_owned()
        }
    };
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    if bytes.len() > quarry_volume::MAX_NODE
        || !bytes.iter().copied().all(inner)
        || !edge(bytes.first())
        || !edge(bytes.last())
    {
        bail!(
            "{name:?} cannot be a node's name: up to {} letters, digits, '-', '_' and '.', as the value of a Kubernetes \
             label; give one with --node",
            quarry_volume::MAX_NODE
        );
    }
    Ok(name)
}

/// What keeps CSI calls from being served at all: every pool being away. One pool of several that is away shows in
/// `/readyz` and in the metrics, and the others go on.
fn readiness(host: &Host) -> Readiness {
    let host = host.clone();
    Arc::new(move || {
        let host = host.clone();
        Box::pin(async move {
            let mut problems = Vec::new();
            let mut storages: FuturesUnordered<_> = host.pools().iter().map(|pool| pool.storage()).collect();
            while let Some(storage) = storages.next().await {
                match storage {
                    Ok(_) => return Vec::new(),
                    Err(error) => problems.push(error.message),
                }
            }
            problems
        })
    })
}

/// Serves health and metrics.
async fn watch(host: &Host, metrics: &Metrics, address: SocketAddr, shutdown: &Shutdown) -> anyhow::Result<()> {
    let listener = http::bind(address).await?;
    let pools: Arc<Mutex<Vec<PoolState>>> = Arc::default();
    register(metrics, host, &pools);
    let refresh: http::Refresh = {
        let (host, pools) = (host.clone(), Arc::clone(&pools));
        Arc::new(move || {
            let (host, pools) = (host.clone(), Arc::clone(&pools));
            Box::pin(async move {
                let now = statuses(&host).await;
                *pools.lock().unwrap_or_else(PoisonError::into_inner) = now;
            })
        })
    };
    let problems = {
        let host = host.clone();
        move || {
            let host = host.clone();
            async move { problems(&host).await }
        }
    };
    let metrics = metrics.clone();
    let stop = shutdown.stopping();
    tokio::spawn(async move {
        if let Err(error) = http::serve(listener, metrics, refresh, problems, stop).await {
            tracing::error!(%error, "health and metrics are not served any more");
        }
    });
    Ok(())
}

async fn statuses(host: &Host) -> Vec<PoolState> {
    join_all(host.pools().iter().map(|pool| pool.status())).await
}

async fn problems(host: &Host) -> Vec<String> {
    // First what is known without asking: a command that hangs makes the questions hang too.
    let mut problems: Vec<String> = quarry_exec::running()
        .into_iter()
        .filter(|command| command.overdue)
        .map(|command| format!("`{}` has been running for {} s", command.command, command.age.as_secs()))
        .collect();
    if !problems.is_empty() {
        return problems;
    }
    for status in statuses(host).await {
        problems.extend(status.problems.into_iter().map(|problem| format!("pool {}: {problem}", status.name)));
    }
    problems
}

/// Registers what this process knows besides its calls.
fn register(metrics: &Metrics, host: &Host, pools: &Arc<Mutex<Vec<PoolState>>>) {
    let per_pool = |name: &'static str, help: &'static str, figure: fn(&PoolState) -> u64| {
        let pools = Arc::clone(pools);
        metrics.gauge(name, help, move || {
            let pools = pools.lock().unwrap_or_else(PoisonError::into_inner);
            pools.iter().map(|pool| Sample::count(figure(pool)).label("pool", pool.name.as_str())).collect()
        });
    };
    per_pool("pool_size_bytes", "All storage of the pool", |pool| pool.size);
    per_pool("pool_free_bytes", "What the pool can still give, its reserve taken off", |pool| pool.space.available());
    per_pool("pool_largest_free_bytes", "The largest linear volume the pool can make", |pool| {
        pool.space.largest(&Layout::Linear).bytes
    });
    per_pool("pool_metadata_size_bytes", "The pool's metadata area", |pool| pool.metadata_size);
    per_pool("pool_metadata_free_bytes", "What is left of the pool's metadata area", |pool| pool.metadata_free);
    per_pool("pool_volumes", "Volumes in the pool", |pool| pool.volumes);
    per_pool("pool_healthy", "Whether the pool takes new volumes", |pool| u64::from(pool.problems.is_empty()));
    metrics.counter("commands", "Programs started, by program", || {
        quarry_exec::started()
            .into_iter()
            .map(|(program, count)| Sample::count(count).label("program", program))
            .collect()
    });
    metrics.gauge("commands_overdue", "Programs that should have ended long ago", || {
        let overdue = quarry_exec::running().iter().filter(|command| command.overdue).count();
        vec![Sample::count(u64::try_from(overdue).unwrap_or(u64::MAX))]
    });
    let tasks = host.tasks().clone();
    metrics.gauge("task_age_seconds", "Operations on volumes under way, by their age", move || {
        let sample = |task: quarry_node::TaskStatus| {
            Sample::new(task.age.as_secs_f64()).label("operation", task.what).label("volume", task.volume)
        };
        tasks.list().into_iter().map(sample).collect()
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_name_is_a_label() {
        assert_eq!(node_name(Some("worker-1.example.org".into())).unwrap(), "worker-1.example.org");
        for bad in ["", "-a", "a-", "a b", "a:b", &"a".repeat(64)] {
            assert!(node_name(Some(bad.to_owned())).is_err(), "{bad:?}");
        }
    }
}
