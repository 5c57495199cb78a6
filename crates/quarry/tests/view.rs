//! The real binary as controller and as client: `quarry controller` reaches agents over mutual TLS with certificates that
//! it issues itself, and `quarry nodes`, `pools`, `volumes` and `doctor` ask it. The agents' storage is simulated.
#![allow(clippy::disallowed_types)] // quarry-exec is under test here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use quarry_agent::AgentService;
use quarry_node::Host;
use quarry_pool::{Pool, SimulatedPool};
use quarry_transport::metrics::Metrics;
use quarry_transport::tls;
use quarry_volume::{Agent as _, Filesystem, VolumeSpec};
use serde_json::Value;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

const QUARRY: &str = env!("CARGO_BIN_EXE_quarry");
const GIB: u64 = 1 << 30;
const EXTENT: u64 = 4 << 20;
/// The timeout of each step, generous for a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// A controller and its directory.
struct Controller {
    directory: TempDir,
    process: Child,
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Controller {
    /// Starts a controller with these agents.
    fn start(directory: TempDir, agents: &[(&str, SocketAddr)]) -> Self {
        let at = |name: &str| directory.path().join(name);
        let list: String =
            agents.iter().map(|(node, address)| format!("  - node: {node}\n    address: {address}\n")).collect();
        std::fs::write(at("agents.yaml"), format!("agents:\n{list}")).unwrap();
        let log = std::fs::File::create(at("log")).unwrap();
        let process = Command::new(QUARRY)
            .arg("controller")
            .arg("--agents")
            .arg(at("agents.yaml"))
            .arg("--certificates")
            .arg(at("certificates"))
            .arg("--endpoint")
            .arg(at("csi.sock"))
            .arg("--view")
            .arg(at("view.sock"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { directory, process }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("view.sock")
    }

    /// Runs `quarry LINE` against it. The commands time out by themselves, after at most half a minute.
    async fn ask(&self, line: &str) -> Output {
        let socket = self.socket();
        let line = line.to_owned();
        let run = move || Command::new(QUARRY).args(line.split(' ')).arg("--socket").arg(socket).output().unwrap();
        tokio::task::spawn_blocking(run).await.unwrap()
    }

    async fn table(&self, line: &str) -> String {
        let output = self.ask(line).await;
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    async fn json(&self, line: &str) -> Value {
        let output = self.ask(&format!("{line} -o json")).await;
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{line}: {error}: {output:?}"))
    }
}

/// An agent with two pools, and volumes in one of them.
async fn agent(name: &str, volumes: usize, certificates: &Path) -> SocketAddr {
    let pool = |pool: &str, gib: u64| -> Arc<dyn Pool> {
        let disks = vec![gib * GIB / EXTENT];
        Arc::new(SimulatedPool::new(pool, EXTENT, disks, Duration::ZERO).with_uuid(format!("{name}/{pool}")))
    };
    let host = Host::new(name, vec![pool("fast", 100), pool("slow", 1000)]);
    for number in 0..volumes {
        let spec = VolumeSpec::mount(format!("pvc-{number}"), 10 * GIB, Filesystem::Xfs).in_pool("fast");
        host.create(spec, None, LIMIT).await.unwrap();
    }
    let listener = tls::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = tls::Acceptor::new(tls::files::watch(certificates.join("node")), tls::Refusals::new());
    let incoming = tls::incoming(listener, acceptor, tls::Limits::default());
    tokio::spawn(async move {
        let service = AgentService::new(Arc::new(host));
        quarry_agent::serve(incoming, service, &Metrics::new(), CancellationToken::new()).await
    });
    address
}

/// An address without a listener.
fn unused_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Waits until `count` nodes are reachable.
async fn until_up(controller: &Controller, count: usize) {
    let began = Instant::now();
    loop {
        let output = controller.ask("nodes -o json").await;
        let nodes: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let up = nodes["nodes"].as_array().map(|nodes| nodes.iter().filter(|node| node["reachable"] == true).count());
        if up == Some(count) {
            return;
        }
        assert!(began.elapsed() < LIMIT, "{output:?}\n{}", controller.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_sees_the_cluster_through_the_real_binary() {
    let directory = tempfile::tempdir().unwrap();
    let certificates = directory.path().join("certificates");
    let one = agent("worker-1", 3, &certificates).await;
    let two = agent("worker-2", 9, &certificates).await;
    let controller =
        Controller::start(directory, &[("worker-1", one), ("worker-2", two), ("worker-3", unused_address())]);
    until_up(&controller, 2).await;
    assert_eq!(std::fs::metadata(controller.socket()).unwrap().permissions().mode() & 0o777, 0o600);

    let nodes = controller.json("nodes").await;
    let by_name = |name: &str| nodes["nodes"].as_array().unwrap().iter().find(|node| node["name"] == name).unwrap();
    assert_eq!((&by_name("worker-1")["volumes"], &by_name("worker-2")["volumes"]), (&3.into(), &9.into()));
    assert_eq!(by_name("worker-1")["bytes"], 1100 * GIB);
    assert!(by_name("worker-3")["why"].as_str().unwrap().contains("onnection refused"), "{nodes}");

    let pools = controller.table("pools --node worker-2").await;
    let rows: Vec<Vec<&str>> = pools.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows.len(), 3, "{pools}");
    assert_eq!((rows[1][1], rows[1][4], rows[1][5]), ("fast", "100Gi", "10Gi"), "{pools}");

    let volumes = controller.table("volumes --node worker-1 --pool fast").await;
    assert_eq!(volumes.lines().count(), 4, "{volumes}");
    assert!(volumes.lines().skip(1).all(|line| line.starts_with("worker-1") && line.contains("10Gi")), "{volumes}");
    let all = controller.json("volumes").await;
    assert_eq!(all["volumes"].as_array().unwrap().len(), 12);

    let orphans = controller.ask("volumes --orphans").await;
    assert_eq!(orphans.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&orphans.stderr).starts_with("FAILED_PRECONDITION: "), "{orphans:?}");

    let doctor = controller.ask("doctor").await;
    assert_eq!(doctor.status.code(), Some(1), "a node cannot be reached: {doctor:?}");
    let output = String::from_utf8(doctor.stdout).unwrap();
    assert!(output.contains("ERROR  ") && output.contains("node worker-3: unreachable for"), "{output}");
    let found = controller.json("doctor").await;
    let checks: Vec<_> = found["findings"].as_array().unwrap().iter().map(|finding| &finding["check"]).collect();
    // Both agents run on this kernel, and their storage differs: that is not a finding.
    assert_eq!(checks, ["node-unreachable", "claims-unknown"], "{found}");
    assert_eq!((&found["nodes"], &found["reachable_nodes"], &found["orphans"]), (&3.into(), &2.into(), &Value::Null));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_controller_the_error_says_where_to_run() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("view.sock");
    let output = Command::new(QUARRY).args(["pools", "--socket"]).arg(&socket).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("`kubectl quarry pools`") && error.contains(socket.to_str().unwrap()), "{error}");
}
