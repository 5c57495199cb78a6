//! A host with its pools, for the roles that have one: its options, its start and its end.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use quarry_identity::Readiness;
use quarry_node::Host;
use quarry_pool::Uevents;
use quarry_transport::shutdown::{GRACE, Shutdown};

/// The program that a node runs besides those of its pools and filesystems, and its package. Startup names each
/// missing one.
const BLKID: (&str, &str) = ("blkid", "util-linux");

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
    /// The unix socket for CSI; its directory must exist.
    #[arg(long, default_value = "unix:///run/quarry/csi.sock", value_name = "ENDPOINT")]
    pub(crate) endpoint: String,
    /// The folder for what the node must know after a boot, and no disk of a pool can tell: see docs/snapshots.md.
    /// Default: the folder of the unix socket.
    #[arg(long, env = "QUARRY_STATE", value_name = "FOLDER")]
    state: Option<PathBuf>,
    /// Where the cgroups (v2) of the host are, for the I/O limits of volumes.
    #[arg(long, env = "QUARRY_CGROUPS", default_value = "/sys/fs/cgroup", value_name = "FOLDER")]
    cgroups: PathBuf,
    /// kubelet's --cgroup-root.
    #[arg(long, env = "QUARRY_CGROUP_ROOT", default_value = "/", value_name = "CGROUP")]
    cgroup_root: String,
    /// The number of volumes in use that have metrics of their I/O; more of them are left out. Default: 0.
    #[arg(long, env = "QUARRY_VOLUME_METRICS", default_value_t = 0, value_name = "NUMBER")]
    volume_metrics: usize,
    /// The driver's name, as in StorageClasses.
    #[arg(long, default_value = "local.csi.quarry.dev", value_name = "NAME")]
    pub(crate) driver: String,
    /// The address for /healthz, /readyz and /metrics; not served by default.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) http: Option<SocketAddr>,
}

/// Opens the host: looks for its tools and reads its pools.
pub(crate) async fn open(args: &Args) -> anyhow::Result<Host> {
    let node = node_name(args.node.clone())?;
    let configured = quarry_pool::load(&args.config)?;
    let tools: Vec<_> = quarry_pool::tools(&configured).chain([BLKID]).chain(quarry_filesystem::tools()).collect();
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
    let rates: Vec<_> = configured.iter().filter_map(|pool| Some((pool.name.clone(), pool.copy_rate?))).collect();
    let intervals: Vec<_> =
        configured.iter().filter_map(|pool| Some((pool.name.clone(), pool.trim_interval?))).collect();
    let pools = quarry_pool::open(configured, &state_folder(args.state.as_ref(), &args.endpoint)?, &uevents).await;
    let host = Host::in_pod(node, pools, args.pod_uid.as_str());
    rates.iter().for_each(|(pool, rate)| host.limit_copies(pool, *rate));
    intervals.iter().for_each(|(pool, interval)| host.set_trim_interval(pool, *interval));
    host.set_cgroups(args.cgroups.clone(), &args.cgroup_root);
    host.measure_volumes(args.volume_metrics);
    Ok(host)
}

/// The folder of the notes about pools: the one in the arguments, or that of the socket.
fn state_folder(state: Option<&PathBuf>, endpoint: &str) -> anyhow::Result<PathBuf> {
    if let Some(folder) = state {
        return Ok(folder.clone());
    }
    let socket = quarry_transport::unix::path_of(endpoint)?;
    Ok(socket.parent().unwrap_or(Path::new("/")).to_owned())
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

/// Ready means that CSI calls can be served: see [`Host::unavailable`].
pub(crate) fn readiness(host: &Host) -> Readiness {
    let host = host.clone();
    Arc::new(move || {
        let host = host.clone();
        Box::pin(async move { host.unavailable().await })
    })
}

/// Does what no call requests, until the signal to stop: discards the unused space of volumes at their times, and keeps
/// their I/O limits in force.
pub(crate) fn work_until_stopped(shutdown: &Shutdown, host: &Host) {
    tokio::spawn(host.clone().trim_periodically(shutdown.stopping()));
    tokio::spawn(host.clone().keep_limits(shutdown.stopping()));
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

/// Waits for the tasks of the last accepted calls. `served`: how the role ended. After an error, this stops the process as
/// a signal does: other parts of the role may still have accepted calls.
///
/// # Errors
/// That of `served`.
pub(crate) async fn drained(shutdown: &Shutdown, host: &Host, served: anyhow::Result<()>) -> anyhow::Result<()> {
    if let Err(error) = &served {
        // It is printed only at the exit.
        tracing::error!(error = format!("{error:#}"), "stopping after an error");
        shutdown.begin();
    }
    let left = shutdown.bound(host.tasks().drain(GRACE)).await;
    tracing::info!(tasks_left = left.unwrap_or_else(|| host.tasks().list().len()), "stopped");
    served
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use quarry_volume::Result;

    use super::*;

    #[test]
    fn the_notes_are_beside_the_socket() {
        for endpoint in ["unix:///run/quarry/csi.sock", "unix:/run/quarry/csi.sock", "/run/quarry/csi.sock"] {
            assert_eq!(state_folder(None, endpoint).unwrap(), Path::new("/run/quarry"), "{endpoint}");
        }
        assert_eq!(state_folder(None, "/csi.sock").unwrap(), Path::new("/"));
        assert!(state_folder(None, "tcp://127.0.0.1:1").is_err());
        let given = PathBuf::from("/var/lib/quarry");
        assert_eq!(state_folder(Some(&given), "unix:///run/quarry/csi.sock").unwrap(), given);
    }

    #[tokio::test]
    async fn a_role_that_fails_first_waits_for_the_running_calls() {
        let (host, shutdown) = (Host::new("node-1", Vec::new()), Shutdown::new());
        let (sender, mut ended) = tokio::sync::oneshot::channel();
        let tasks = host.tasks().clone();
        let call = tokio::spawn(async move {
            let work = |_| async move {
                tokio::time::sleep(Duration::from_millis(300)).await;
                let _ = sender.send(());
                Result::Ok(())
            };
            tasks.run("v", "create", Duration::from_secs(600), work).await
        });
        tokio::task::yield_now().await;
        assert_eq!(host.tasks().list().len(), 1);
        let error = drained(&shutdown, &host, Err(anyhow::anyhow!("as configured"))).await.unwrap_err();
        assert_eq!(error.to_string(), "as configured");
        assert_eq!(ended.try_recv(), Ok(()), "the call was not waited for");
        assert!(shutdown.stopping().is_cancelled(), "new calls are accepted");
        call.await.unwrap().unwrap();
    }

    #[test]
    fn a_node_name_is_a_label() {
        assert_eq!(node_name(Some("worker-1.example.org".into())).unwrap(), "worker-1.example.org");
        for bad in ["", "-a", "a-", "a b", "a:b", &"a".repeat(64)] {
            assert!(node_name(Some(bad.to_owned())).is_err(), "{bad:?}");
        }
    }
}
