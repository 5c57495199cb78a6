//! A host with its pools, for the roles that have one: opens it, checks whether it is ready, and exports its
//! metrics.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use quarry_controller::Readiness;
use quarry_node::Host;
use quarry_pool::{Pool, Uevents, UnresponsiveDisk};
use quarry_transport::http;
use quarry_transport::metrics::{Metrics, Sample};
use quarry_transport::shutdown::{GRACE, Shutdown};
use quarry_volume::{Layout, PoolState, Space};

/// The programs that a node runs besides those of its filesystems, and their packages. Startup names each
/// missing one.
const TOOLS: [(&str, &str); 3] = [("lvm", "lvm2"), ("dmsetup", "dmsetup"), ("blkid", "util-linux")];

/// The options of a role with a host.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// The pools of this node (YAML, see docs/pools.md).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// This node's name; default: the hostname.
    #[arg(long, env = "QUARRY_NODE", value_name = "NAME")]
    node: Option<String>,
    /// The UID of this process' pod, so that a controller can distinguish it from an earlier pod with the
    /// same address.
    #[arg(long, env = "POD_UID", default_value = "", value_name = "UID")]
    pod_uid: String,
    /// The maximum number of this driver's volumes that the scheduler places on this node; default: no limit.
    #[arg(long, env = "QUARRY_MAX_VOLUMES", value_name = "NUMBER")]
    pub(crate) max_volumes: Option<NonZeroU32>,
}

/// Opens the host: looks for its tools and reads its pools.
pub(crate) async fn open(args: Args) -> anyhow::Result<Host> {
    let node = node_name(args.node)?;
    let configured = quarry_pool::load(&args.config)?;
    let tools: Vec<_> = TOOLS.into_iter().chain(quarry_filesystem::tools()).collect();
    let missing = quarry_exec::missing_tools(&tools.iter().map(|(tool, _)| *tool).collect::<Vec<_>>());
    if !missing.is_empty() {
        let packages: BTreeSet<&str> =
            tools.iter().filter(|(tool, _)| missing.contains(tool)).map(|(_, package)| *package).collect();
        bail!(
            "these programs are missing from PATH: {}; install the packages that hold them: {}",
            missing.join(", "),
            packages.into_iter().collect::<Vec<_>>().join(", ")
        );
    }
    let uevents = Uevents::listen();
    let pools = quarry_pool::open(configured, &uevents).await;
    Ok(Host::in_pod(node, pools, args.pod_uid))
}

/// The node's name, checked: it becomes the value of a label and a part of every volume's identifier.
fn node_name(name: Option<String>) -> anyhow::Result<String> {
    let name = match name {
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
            "{name:?} is not a valid node name: a node name has at most {} letters, digits, '-', '_' and '.', as the \
             value of a Kubernetes label; set one with --node",
            quarry_volume::MAX_NODE
        );
    }
    Ok(name)
}

/// How long a status request waits for one pool: shorter than the timeout of the whole answer.
const POOL_WAIT: Duration = Duration::from_secs(3);

/// The pool's answer, or an error after [`POOL_WAIT`] that names the disk it waits for, if known.
async fn soon<T>(pool: &dyn Pool, answer: impl Future<Output = T>) -> Result<T, String> {
    tokio::time::timeout(POOL_WAIT, answer).await.map_err(|_| match pool.unresponsive_disks().first() {
        Some(disk) => disk.to_string(),
        None => format!("it did not answer within {} s; see the log", POOL_WAIT.as_secs()),
    })
}

/// Why no CSI call can be served: every pool is unavailable. If only one of several pools is unavailable,
/// `/readyz` and the metrics show it, and the others keep working.
pub(crate) fn readiness(host: &Host) -> Readiness {
    let host = host.clone();
    Arc::new(move || {
        let host = host.clone();
        Box::pin(async move {
            let mut problems = Vec::new();
            let of = |pool: Arc<dyn Pool>| async move {
                let storage = soon(&*pool, pool.storage()).await;
                storage.map_err(|why| format!("pool {}: {why}", pool.name()))?.map_err(|error| error.message)
            };
            let mut storages: FuturesUnordered<_> = host.pools().iter().cloned().map(of).collect();
            while let Some(storage) = storages.next().await {
                match storage {
                    Ok(_) => return Vec::new(),
                    Err(why) => problems.push(why),
                }
            }
            problems
        })
    })
}

/// After the signal to stop, tasks stop between two steps if they can, so that the calls that wait for them
/// get an answer; the others get the rest of the time. The next start recovers from anything that is cut off,
/// exactly as after a power cut.
pub(crate) fn drain_on(shutdown: &Shutdown, host: &Host) {
    let (tasks, stopping) = (host.tasks().clone(), shutdown.stopping());
    tokio::spawn(async move {
        stopping.cancelled().await;
        tasks.drain(GRACE).await;
    });
}

/// Waits for the tasks of the last accepted calls.
pub(crate) async fn drained(shutdown: &Shutdown, host: &Host) {
    let left = shutdown.bound(host.tasks().drain(GRACE)).await;
    tracing::info!(tasks_left = left.unwrap_or_else(|| host.tasks().list().len()), "stopped");
}

/// The state of each pool. A pool that does not answer soon offers no storage, and its problem says so.
async fn states(host: &Host) -> Vec<PoolState> {
    let of = |pool: Arc<dyn Pool>| async move {
        let state = soon(&*pool, pool.status()).await;
        state.unwrap_or_else(|why| PoolState {
            name: pool.name().to_owned(),
            space: Space { closed: Some(why.clone()), ..Space::default() },
            problems: vec![why],
            ..PoolState::default()
        })
    };
    join_all(host.pools().iter().cloned().map(of)).await
}

/// The problems that keep this host from working, one per line.
pub(crate) async fn problems(host: &Host) -> Vec<String> {
    let mut problems = Vec::new();
    for state in states(host).await {
        let of_pool = format!("pool {}", state.name);
        let named = |problem: String| match problem.starts_with(&of_pool) {
            true => problem,
            false => format!("{of_pool}: {problem}"),
        };
        problems.extend(state.problems.into_iter().map(named));
    }
    for command in quarry_exec::running().into_iter().filter(|command| command.overdue) {
        // The problem of a pool that waits for this command already names it.
        if !problems.iter().any(|problem| problem.contains(&command.command)) {
            problems.push(format!("`{}` has been running for {} s", command.command, command.age.as_secs()));
        }
    }
    problems
}

/// Registers the host's metrics. The returned function refreshes the pools' figures.
pub(crate) fn register(metrics: &Metrics, host: &Host) -> http::Refresh {
    let pools: Arc<Mutex<Vec<PoolState>>> = Arc::default();
    let per_pool = |name: &'static str, help: &'static str, figure: fn(&PoolState) -> u64| {
        let pools = Arc::clone(&pools);
        metrics.gauge(name, help, move || {
            let pools = pools.lock().unwrap_or_else(PoisonError::into_inner);
            pools.iter().map(|pool| Sample::count(figure(pool)).label("pool", pool.name.as_str())).collect()
        });
    };
    per_pool("pool_size_bytes", "All storage of the pool", |pool| pool.size);
    per_pool("pool_free_bytes", "Free storage of the pool, without its reserve", |pool| pool.space.available());
    per_pool("pool_largest_free_bytes", "The largest linear volume that fits in the pool", |pool| {
        pool.space.largest(&Layout::Linear).bytes
    });
    per_pool("pool_metadata_size_bytes", "The pool's metadata area", |pool| pool.metadata_size);
    per_pool("pool_metadata_free_bytes", "Free space in the pool's metadata area", |pool| pool.metadata_free);
    per_pool("pool_volumes", "Volumes in the pool", |pool| pool.volumes);
    per_pool("pool_healthy", "Whether the pool accepts new volumes", |pool| u64::from(pool.problems.is_empty()));
    let wiped = host.clone();
    metrics.gauge("pool_wipe_remaining_bytes", "Bytes to wipe before a disk is free", move || {
        let of = |pool: &Arc<dyn Pool>| {
            let sample = |(disk, wiping): (String, quarry_pool::Wiping)| {
                let left = Sample::count(wiping.total.saturating_sub(wiping.done));
                left.label("pool", pool.name()).label("disk", disk)
            };
            pool.wiping().into_iter().map(sample).collect::<Vec<_>>()
        };
        wiped.pools().iter().flat_map(of).collect()
    });
    let asked = host.clone();
    metrics.gauge("disk_silent_seconds", "How long a disk has been unresponsive to a read or a flush", move || {
        let of = |pool: &Arc<dyn Pool>| {
            let sample = |silent: UnresponsiveDisk| {
                let seconds = Sample::new(silent.age.as_secs_f64());
                seconds.label("pool", pool.name()).label("disk", silent.disk).label("request", silent.request)
            };
            pool.unresponsive_disks().into_iter().map(sample).collect::<Vec<_>>()
        };
        asked.pools().iter().flat_map(of).collect()
    });
    metrics.counter("commands", "Programs started, by program", || {
        quarry_exec::started()
            .into_iter()
            .map(|(program, count)| Sample::count(count).label("program", program))
            .collect()
    });
    metrics.counter("command_seconds", "Total run time of finished programs, by program", || {
        quarry_exec::spent()
            .into_iter()
            .map(|(program, time)| Sample::new(time.as_secs_f64()).label("program", program))
            .collect()
    });
    metrics.gauge("commands_overdue", "Programs that run for much longer than expected", || {
        let overdue = quarry_exec::running().iter().filter(|command| command.overdue).count();
        vec![Sample::count(u64::try_from(overdue).unwrap_or(u64::MAX))]
    });
    let tasks = host.tasks().clone();
    metrics.gauge("task_age_seconds", "The age of each running operation on a volume", move || {
        let sample = |task: quarry_node::TaskStatus| {
            Sample::new(task.age.as_secs_f64()).label("operation", task.what).label("volume", task.volume)
        };
        tasks.list().into_iter().map(sample).collect()
    });
    let host = host.clone();
    Arc::new(move || {
        let (host, pools) = (host.clone(), Arc::clone(&pools));
        Box::pin(async move {
            let now = states(&host).await;
            *pools.lock().unwrap_or_else(PoisonError::into_inner) = now;
        })
    })
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
