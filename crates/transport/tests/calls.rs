//! A real server and client on a unix socket: every end of a call is counted once, with the right code.

// A helper that fails is a test that fails.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::future::pending;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quarry_proto::csi::v1::identity_client::IdentityClient;
use quarry_proto::csi::v1::identity_server::{Identity, IdentityServer};
use quarry_proto::csi::v1::{
    GetPluginCapabilitiesRequest, GetPluginInfoRequest, GetPluginInfoResponse, ProbeRequest, ProbeResponse,
};
use quarry_transport::metrics::{Metrics, Sample};
use quarry_transport::{http, unix};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status};

/// GetPluginInfo answers as requested in the metadata; Probe never answers.
struct Scripted;

#[tonic::async_trait]
impl Identity for Scripted {
    async fn get_plugin_info(
        &self,
        request: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        match request.metadata().get("fail") {
            Some(_) => Err(Status::failed_precondition("a reason")),
            None => Ok(Response::new(GetPluginInfoResponse { name: "n".into(), ..Default::default() })),
        }
    }

    async fn probe(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        pending().await
    }
}

async fn start(path: &Path, metrics: &Metrics) -> IdentityClient<tonic::transport::Channel> {
    let listener = unix::listen(path).unwrap();
    let server = Server::builder().layer(metrics.layer()).add_service(IdentityServer::new(Scripted));
    tokio::spawn(server.serve_with_incoming(listener));
    IdentityClient::new(unix::connect(path).await.unwrap())
}

/// Waits for a line of the metrics; a server notices a disconnected caller slightly later than the caller.
async fn expect_line(metrics: &Metrics, line: &str) {
    for _ in 0..200 {
        if metrics.encode().unwrap().lines().any(|have| have == line) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{line} is missing in\n{}", metrics.encode().unwrap());
}

#[tokio::test]
async fn every_end_of_a_call_is_counted_once_with_its_code() {
    let directory = tempfile::tempdir().unwrap();
    let metrics = Metrics::new();
    let mut client = start(&directory.path().join("csi.sock"), &metrics).await;

    // In the trailers, after a message.
    for _ in 0..2 {
        client.get_plugin_info(GetPluginInfoRequest {}).await.unwrap();
    }
    // In the headers.
    let mut failing = Request::new(GetPluginInfoRequest {});
    failing.metadata_mut().insert("fail", "1".parse().unwrap());
    assert_eq!(client.get_plugin_info(failing).await.unwrap_err().code(), Code::FailedPrecondition);
    // A call that the service does not implement.
    let unimplemented = client.get_plugin_capabilities(GetPluginCapabilitiesRequest {}).await.unwrap_err();
    assert_eq!(unimplemented.code(), Code::Unimplemented);
    // The caller disconnects, without and with a deadline.
    let mut other = client.clone();
    let waiting = tokio::spawn(async move { other.probe(ProbeRequest {}).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    waiting.abort();
    expect_line(&metrics, r#"quarry_csi_calls_total{method="Identity/Probe",code="CANCELLED"} 1"#).await;
    let mut hurried = Request::new(ProbeRequest {});
    hurried.set_timeout(Duration::from_millis(100));
    client.probe(hurried).await.unwrap_err();
    expect_line(&metrics, r#"quarry_csi_calls_total{method="Identity/Probe",code="DEADLINE_EXCEEDED"} 1"#).await;

    for line in [
        r#"quarry_csi_calls_total{method="Identity/GetPluginInfo",code="OK"} 2"#,
        r#"quarry_csi_calls_total{method="Identity/GetPluginInfo",code="FAILED_PRECONDITION"} 1"#,
        r#"quarry_csi_calls_total{method="other",code="UNIMPLEMENTED"} 1"#,
        r#"quarry_csi_call_seconds_count{method="Identity/GetPluginInfo"} 3"#,
        r#"quarry_csi_call_seconds_count{method="Identity/Probe"} 2"#,
    ] {
        expect_line(&metrics, line).await;
    }
    let text = metrics.encode().unwrap();
    assert_eq!(text.lines().filter(|line| line.starts_with("quarry_csi_calls_total{")).count(), 5, "{text}");
}

async fn get(address: std::net::SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn health_readiness_and_metrics_on_one_port() {
    let metrics = Metrics::new();
    let stop = CancellationToken::new();
    let (sender, receiver) = tokio::sync::watch::channel(Vec::<String>::new());
    let listener = http::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    assert!(http::bind(address).await.unwrap_err().to_string().contains(&address.to_string()));
    let problems = move || {
        let problems = receiver.borrow().clone();
        async move { problems }
    };
    let scrapes = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&scrapes);
    metrics
        .counter("scrapes", "Refreshed before each scrape", move || vec![Sample::count(seen.load(Ordering::SeqCst))]);
    let refresh: http::Refresh = Arc::new(move || {
        let scrapes = Arc::clone(&scrapes);
        Box::pin(async move {
            tokio::task::yield_now().await;
            scrapes.fetch_add(1, Ordering::SeqCst);
        })
    });
    let server = tokio::spawn(http::serve(listener, metrics, refresh, problems, stop.clone()));

    assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
    let ready = get(address, "/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 200") && ready.ends_with("\r\nok\n"), "{ready}");
    sender.send(vec!["pool a: no volume group\nvg0".into(), "lvcreate hangs for 90 s".into()]).unwrap();
    let unready = get(address, "/readyz").await;
    assert!(unready.starts_with("HTTP/1.1 503"), "{unready}");
    assert!(unready.ends_with("\r\npool a: no volume group vg0\nlvcreate hangs for 90 s\n"), "{unready}");
    assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"), "a problem is no reason to restart");
    let scrape = get(address, "/metrics").await;
    assert!(scrape.contains("application/openmetrics-text") && scrape.contains("# EOF\n"), "{scrape}");
    assert!(scrape.contains("\nquarry_scrapes_total 1.0\n"), "{scrape}");

    stop.cancel();
    server.await.unwrap().unwrap();
}
