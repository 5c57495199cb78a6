//! Clients that keep their connections to the port of health and metrics.

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quarry_transport::http;
use quarry_transport::metrics::Metrics;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Longer than a connection may send nothing.
const LONG: Duration = Duration::from_secs(10);

async fn serve(stop: CancellationToken) -> SocketAddr {
    let listener = http::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let refresh: http::Refresh = Arc::new(|| Box::pin(async {}));
    tokio::spawn(http::serve(listener, Metrics::new(), refresh, || async { Vec::new() }, stop));
    address
}

/// Whether the other side closes a connection within that time. What it sends before that is dropped.
async fn is_closed(stream: &mut TcpStream, within: Duration) -> bool {
    let mut answer = Vec::new();
    timeout(within, stream.read_to_end(&mut answer)).await.is_ok()
}

async fn health(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // Without `Connection: close`: the client would like to keep it.
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    timeout(Duration::from_secs(5), stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer
}

#[tokio::test]
async fn silent_connections_are_closed_and_prevent_no_answer() {
    let stop = CancellationToken::new();
    let address = serve(stop.clone()).await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    assert!(health(address).await.starts_with("HTTP/1.1 200"));
    let mut open = 0;
    for stream in &mut silent {
        open += usize::from(!is_closed(stream, Duration::from_millis(50)).await);
    }
    assert!(open <= 16, "{open} of 200 connections from one address are open");
    for stream in &mut silent {
        assert!(is_closed(stream, LONG).await, "a connection that sends nothing stays open");
    }
    stop.cancel();
}

#[tokio::test]
async fn a_connection_has_one_request() {
    let stop = CancellationToken::new();
    let address = serve(stop.clone()).await;
    let answer = health(address).await;
    assert!(answer.to_lowercase().contains("\r\nconnection: close\r\n") && answer.ends_with("ok\n"), "{answer}");
    stop.cancel();
}
