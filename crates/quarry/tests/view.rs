//! The real binary as controller and as client: `quarry controller` reaches agents over mutual TLS with certificates that
//! it issues itself, and `quarry nodes`, `pools`, `volumes` and `doctor` ask it. The agents' storage is simulated.
#![allow(clippy::disallowed_types)] // quarry-exec is under test here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod controller;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use controller::{Controller, GIB, QUARRY, agent, until_up};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// An address without a listener.
fn unused_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
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

    // Without Kubernetes, nothing is known to be an orphan, so nothing is deleted.
    let id = all["volumes"][0]["id"].as_str().unwrap();
    let csi = format!("unix://{}", controller.directory.path().join("csi.sock").display());
    let refused = controller.ask(&format!("orphans delete {id} --yes --endpoint {csi}")).await;
    assert_eq!(refused.status.code(), Some(1));
    let error = String::from_utf8_lossy(&refused.stderr);
    assert!(error.contains(&format!("FAILED_PRECONDITION: it is not known whether volume {id}")), "{error}");
    assert_eq!(controller.json("volumes").await["volumes"].as_array().unwrap().len(), 12);

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

/// containerd's containers have a soft limit of 1,024 open files, and a much higher hard limit. A controller has a
/// connection to each node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_may_open_as_many_files_as_the_hard_limit_permits() {
    let mut limited = Command::new("bash");
    limited.args(["-c", "ulimit -Sn 64; exec \"$0\" \"$@\"", QUARRY]);
    let controller = Controller::start_by(limited, tempfile::tempdir().unwrap(), &[], &[]);
    until_up(&controller, 0).await;
    let limits = controller.proc("limits");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let [soft, hard, _] = line.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{line}") };
    assert_ne!(hard, "64");
    assert_eq!(soft, hard);
    let log = controller.log();
    assert!(log.contains(&format!("before=64 now={hard}")), "{log}");
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_shows_the_cluster() {
    let directory = tempfile::tempdir().unwrap();
    let one = agent("worker-1", 3, &directory.path().join("certificates")).await;
    let address = unused_address().to_string();
    let controller = Controller::start_with(directory, &[("worker-1", one)], &["--page", &address]);
    until_up(&controller, 1).await;
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let request = format!("GET /nodes/worker-1 HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    assert!(
        page.starts_with("HTTP/1.1 200 OK") && page.contains("content-security-policy: default-src 'none'"),
        "{page}"
    );
    assert!(page.contains("Pool fast, 100Gi: volumes 30Gi") && page.contains(">pvc-2</a>"), "{page}");
}
