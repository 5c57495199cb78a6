//! The process of one controller, wired up as in the binary.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quarry_agent::TlsDial;
use quarry_controller::{AlwaysElected, Cluster, ControllerService, Endpoint, NoKubernetes, Parts, Roster, Timing};
use quarry_proto::csi::v1::controller_server::ControllerServer;
use quarry_transport::metrics::Metrics;
use quarry_transport::{tls, unix};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{Setting, nodes};

/// The key of the topology.
pub(crate) const KEY: &str = "topology.scale/node";
/// How long to wait for all nodes before this counts as a failure.
const PATIENCE: Duration = Duration::from_secs(500);

/// Serves until the end of the input. `go` passes the nodes to it, and is answered when all have reported
/// their state; `lost` and `back` are answered when no node, and every node, is connected.
pub(crate) async fn run(number: &str, setting: Setting) {
    let source = tls::files::watch(setting.certificates("controller"));
    let (roster, known) = watch::channel(None);
    let parts = Parts {
        dial: Arc::new(TlsDial::new(tls::Connector::new(source))),
        timing: Timing::default(),
        nodes: Arc::new(NoKubernetes),
        election: Arc::new(AlwaysElected),
        claims: Arc::new(NoKubernetes),
        only: None,
    };
    let cluster = Cluster::follow(known, parts, CancellationToken::new());
    let metrics = Metrics::new();
    cluster.register(&metrics);
    let socket = unix::listen(&setting.socket(number)).unwrap();
    let service = ControllerService::new(cluster.clone(), KEY);
    tokio::spawn(async move {
        let server = tonic::transport::Server::builder().add_service(ControllerServer::new(service));
        server.serve_with_incoming(socket).await.unwrap();
    });
    println!("ready");
    let mut commands = BufReader::new(tokio::io::stdin()).lines();
    while let Ok(Some(command)) = commands.next_line().await {
        let began = Instant::now();
        match command.as_str() {
            "go" => {
                roster.send_replace(Some(Arc::new(all(setting.nodes))));
                assert!(cluster.all_reported(PATIENCE).await, "not all nodes have reported");
            }
            "lost" => connected(&metrics, 0).await,
            "back" => connected(&metrics, setting.nodes).await,
            other => panic!("unknown command {other:?}"),
        }
        println!("{}", began.elapsed().as_secs_f64());
    }
}

fn all(nodes: usize) -> Roster {
    let entry = |index: usize| {
        let endpoint = Endpoint { address: nodes::address(index).to_string(), pod_uid: String::new() };
        (nodes::name(index), endpoint)
    };
    (0..nodes).map(entry).collect::<BTreeMap<_, _>>()
}

/// Waits until `count` nodes are connected, according to the metrics.
async fn connected(metrics: &Metrics, nodes: usize) {
    let until = Instant::now() + PATIENCE;
    let wanted = format!("{nodes}");
    loop {
        let text = metrics.encode().unwrap();
        let up = text.lines().find(|line| line.contains("nodes{") && line.contains("\"up\"")).unwrap();
        let number = up.rsplit(' ').next().unwrap();
        if number.trim_end_matches(".0") == wanted {
            return;
        }
        assert!(Instant::now() < until, "{up}, and there should be {nodes}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
