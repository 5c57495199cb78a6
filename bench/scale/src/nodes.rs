//! The process of the nodes: an agent for each, on storage in memory.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use quarry_agent::AgentService;
use quarry_node::Host;
use quarry_pool::{Pool, SimulatedPool};
use quarry_transport::metrics::Metrics;
use quarry_transport::tls;
use quarry_volume::{Filesystem, VolumeSpec};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio_util::sync::CancellationToken;

use crate::Setting;

/// One extent.
pub(crate) const EXTENT: u64 = 4 << 20;
/// Extents of each of a node's two disks.
pub(crate) const DISK: u64 = 50_000;
/// The size of each volume that is there from the beginning.
pub(crate) const VOLUME: u64 = 256 << 20;
/// Where agents listen, each at an address of its own.
const PORT: u16 = 9810;
/// Each of the first this many nodes has a second pool with one gigabyte left.
pub(crate) const NARROW: usize = 4;

/// The name of a node.
pub(crate) fn name(index: usize) -> String {
    format!("worker-{index:05}.example.org")
}

/// The address of its agent.
pub(crate) fn address(index: usize) -> SocketAddr {
    let [high, low] = u16::try_from(index).unwrap().to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(127, 77, high, low), PORT))
}

/// A request for a volume as most are.
pub(crate) fn spec(name: String, size: u64, pool: &str) -> VolumeSpec {
    VolumeSpec::mount(name, size, Filesystem::Ext4).in_pool(pool)
}

/// Serves until the end of the input. `restart` closes every listener and connection, and opens them again.
pub(crate) async fn run(setting: Setting) {
    let hosts: Vec<Host> = (0..setting.nodes).map(|index| host(index, setting.volumes)).collect();
    let source = tls::files::watch(setting.certificates("node"));
    let mut serving = serve(&hosts, &source).await;
    println!("ready");
    let mut commands = BufReader::new(tokio::io::stdin()).lines();
    while let Ok(Some(command)) = commands.next_line().await {
        match command.as_str() {
            "stop" => {
                serving.0.cancel();
                join_all(serving.1.drain(..)).await;
                println!("stopped");
            }
            "start" => {
                serving = serve(&hosts, &source).await;
                println!("started");
            }
            other => panic!("unknown command {other:?}"),
        }
    }
}

fn host(index: usize, volumes: usize) -> Host {
    let pool = SimulatedPool::new("fast", EXTENT, vec![DISK, DISK], Duration::ZERO).with_uuid(format!("disks-{index}"));
    let spec_name = format!("pvc-3f2b8c1e-7d4a-4b9c-a1f0-{index:012}");
    assert_eq!(pool.fill(&spec(spec_name, VOLUME, "fast"), volumes), volumes);
    let mut pools: Vec<Arc<dyn Pool>> = vec![Arc::new(pool)];
    if index < NARROW {
        let extents = (1 << 30) / EXTENT;
        let narrow = SimulatedPool::new("narrow", EXTENT, vec![extents], Duration::from_millis(20));
        pools.push(Arc::new(narrow.with_uuid(format!("narrow-{index}"))));
    }
    Host::new(name(index), pools)
}

async fn serve(hosts: &[Host], source: &tls::Source) -> (CancellationToken, Vec<tokio::task::JoinHandle<()>>) {
    let stop = CancellationToken::new();
    let mut tasks = Vec::new();
    for (index, host) in hosts.iter().enumerate() {
        let listener = tls::bind(address(index)).await.unwrap();
        let acceptor = tls::Acceptor::new(source.clone(), tls::Refusals::new());
        let incoming = tls::incoming(listener, acceptor, tls::Limits::default());
        let (service, stop) = (AgentService::new(Arc::new(host.clone())), stop.clone());
        tasks.push(tokio::spawn(async move {
            quarry_agent::serve(incoming, service, &Metrics::new(), stop).await.unwrap();
        }));
    }
    (stop, tasks)
}
