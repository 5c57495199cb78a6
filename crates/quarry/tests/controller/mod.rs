//! The real `quarry controller`, with agents in this process whose storage is simulated.
#![allow(clippy::disallowed_types)] // quarry-exec is under test here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(dead_code, reason = "not every test uses everything")]

use std::net::SocketAddr;
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

pub(crate) const QUARRY: &str = env!("CARGO_BIN_EXE_quarry");
pub(crate) const GIB: u64 = 1 << 30;
const EXTENT: u64 = 4 << 20;
/// The timeout of each step, generous for a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// A controller and its directory.
pub(crate) struct Controller {
    pub(crate) directory: TempDir,
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
    pub(crate) fn start(directory: TempDir, agents: &[(&str, SocketAddr)]) -> Self {
        Self::start_with(directory, agents, &[])
    }

    /// The same with more options.
    pub(crate) fn start_with(directory: TempDir, agents: &[(&str, SocketAddr)], options: &[&str]) -> Self {
        Self::start_by(Command::new(QUARRY), directory, agents, options)
    }

    /// The same where `program` starts the binary, with all arguments.
    pub(crate) fn start_by(
        mut program: Command,
        directory: TempDir,
        agents: &[(&str, SocketAddr)],
        options: &[&str],
    ) -> Self {
        let at = |name: &str| directory.path().join(name);
        let list: String =
            agents.iter().map(|(node, address)| format!("  - node: {node}\n    address: {address}\n")).collect();
        std::fs::write(at("agents.yaml"), format!("agents:\n{list}")).unwrap();
        let log = std::fs::File::create(at("log")).unwrap();
        let process = program
            .arg("controller")
            .arg("--agents")
            .arg(at("agents.yaml"))
            .arg("--certificates")
            .arg(at("certificates"))
            .arg("--endpoint")
            .arg(at("csi.sock"))
            .arg("--view")
            .arg(at("view.sock"))
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { directory, process }
    }

    /// A file of its process in /proc.
    pub(crate) fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.process.id())).unwrap()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("view.sock")
    }

    /// Runs `quarry LINE` against it. The commands time out by themselves, after at most half a minute.
    pub(crate) async fn ask(&self, line: &str) -> Output {
        let socket = self.socket();
        let line = line.to_owned();
        let run = move || Command::new(QUARRY).args(line.split(' ')).arg("--socket").arg(socket).output().unwrap();
        tokio::task::spawn_blocking(run).await.unwrap()
    }

    pub(crate) async fn table(&self, line: &str) -> String {
        let output = self.ask(line).await;
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) async fn json(&self, line: &str) -> Value {
        let output = self.ask(&format!("{line} -o json")).await;
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{line}: {error}: {output:?}"))
    }
}

/// An agent with two pools, and volumes in one of them.
pub(crate) async fn agent(name: &str, volumes: usize, certificates: &Path) -> SocketAddr {
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

/// Waits until `count` nodes are reachable.
pub(crate) async fn until_up(controller: &Controller, count: usize) {
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
