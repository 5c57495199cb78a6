//! Many connections at once: slow or bad ones delay no others; with a real service behind them.

// A helper that fails is a test that fails.
#![allow(clippy::unwrap_used, clippy::panic)]

mod tls_support;

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use quarry_proto::csi::v1::identity_client::IdentityClient;
use quarry_proto::csi::v1::identity_server::{Identity, IdentityServer};
use quarry_proto::csi::v1::{GetPluginInfoRequest, GetPluginInfoResponse};
use quarry_transport::tls::{
    Acceptor, Connector, HANDSHAKE_WAIT, Limits, Peer, Refusals, ServerStream, bind, dial, incoming,
};
use tls_support::{Authority, GREETING, Leaf, Log, fixed, greeted};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status};
use tower::service_fn;

type Arrival = io::Result<(DuplexStream, String)>;

/// A listener in memory, its connections with their handshakes done, and a node's connector.
fn listening(
    limits: Limits,
) -> (mpsc::UnboundedSender<Arrival>, impl Stream<Item = ServerStream<DuplexStream>>, Connector, Refusals) {
    let authority = Authority::new("a");
    let (arrivals, listener) = mpsc::unbounded_channel();
    let refusals = Refusals::new();
    let acceptor = Acceptor::new(fixed(&authority.pem(&Leaf::node())), refusals.clone());
    let connections = incoming(UnboundedReceiverStream::new(listener), acceptor, limits);
    let connector = Connector::new(fixed(&authority.pem(&Leaf::controller())));
    (arrivals, connections.map(Result::unwrap), connector, refusals)
}

fn arrive(arrivals: &mpsc::UnboundedSender<Arrival>, peer: &str) -> DuplexStream {
    let (ours, theirs) = duplex(64 * 1024);
    arrivals.send(Ok((ours, peer.to_owned()))).unwrap();
    theirs
}

/// Serves every connection with the greeting, until there are no more.
async fn greet(mut connections: impl Stream<Item = ServerStream<DuplexStream>> + Unpin) -> usize {
    let mut held = Vec::new();
    while let Some(mut connection) = connections.next().await {
        connection.write_all(GREETING).await.unwrap();
        connection.flush().await.unwrap();
        held.push(connection);
    }
    held.len()
}

fn count(refusals: &Refusals, reason: &str) -> u64 {
    refusals.counts().into_iter().find(|(name, _)| *name == reason).unwrap().1
}

// The clock stands still while any task is runnable: if no time has passed, nothing was waited for.
#[tokio::test(start_paused = true)]
async fn idle_and_bad_connections_do_not_delay_fifty_good_ones() {
    let (arrivals, connections, connector, refusals) = listening(Limits::default());
    let before = Instant::now();
    let _silent = arrive(&arrivals, "10.0.0.1");
    let mut bad = arrive(&arrivals, "10.0.0.1");
    bad.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut clients = JoinSet::new();
    for _ in 0..50 {
        let io = arrive(&arrivals, "10.0.0.1");
        let connector = connector.clone();
        clients.spawn(async move {
            let mut client = connector.connect(io).await.unwrap();
            greeted(&mut client).await;
        });
    }
    drop(arrivals);
    let serving = tokio::spawn(greet(Box::pin(connections)));
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    assert_eq!(before.elapsed(), Duration::ZERO);
    assert_eq!(count(&refusals, "plain_text"), 1);
    assert_eq!(count(&refusals, "time_out"), 0);
    // The stream ends with the last handshake, though the listener ended long before.
    assert_eq!(serving.await.unwrap(), 50);
    assert_eq!(before.elapsed(), HANDSHAKE_WAIT);
    assert_eq!(count(&refusals, "time_out"), 1);
}

#[tokio::test(start_paused = true)]
async fn the_oldest_of_too_many_handshakes_is_displaced() {
    let (arrivals, connections, connector, refusals) = listening(Limits { handshakes: 2, per_peer: 2 });
    let serving = tokio::spawn(greet(Box::pin(connections)));
    let before = Instant::now();
    let mut silent = arrive(&arrivals, "10.0.0.1");
    let mut other = arrive(&arrivals, "10.0.0.2");
    let mut client = connector.connect(arrive(&arrivals, "10.0.0.3")).await.unwrap();
    greeted(&mut client).await;
    assert_eq!(before.elapsed(), Duration::ZERO, "it did not wait for the idle ones");
    assert_eq!(count(&refusals, "displaced"), 1);
    // The older one was closed. The other one still has its full time.
    assert_eq!(silent.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(before.elapsed(), Duration::ZERO);
    let _ = other.read(&mut [0; 1]).await;
    assert_eq!(before.elapsed(), HANDSHAKE_WAIT);
    assert_eq!((count(&refusals, "time_out"), count(&refusals, "displaced")), (1, 1));
    drop(arrivals);
    assert_eq!(serving.await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn foreign_clients_displace_one_another_and_no_other_addresses() {
    let (arrivals, connections, connector, refusals) = listening(Limits { handshakes: 8, per_peer: 3 });
    let serving = tokio::spawn(greet(Box::pin(connections)));
    let before = Instant::now();
    // A slow client: it has sent nothing yet when the others arrive.
    let slow = arrive(&arrivals, "10.0.0.9");
    let silent: Vec<_> = (0..20).map(|_| arrive(&arrivals, "10.0.0.1")).collect();
    for _ in 0..3 {
        connector.connect(arrive(&arrivals, "10.0.0.1")).await.unwrap();
    }
    assert_eq!(before.elapsed(), Duration::ZERO, "also from their own address it got through");
    assert_eq!(count(&refusals, "displaced"), 18, "the first of them needed room");
    connector.connect(slow).await.unwrap();
    assert_eq!(before.elapsed(), Duration::ZERO);
    // With many addresses, the one with the most handshakes is displaced.
    let crowd: Vec<_> = (0..3).map(|_| arrive(&arrivals, "10.0.0.2")).collect();
    let many: Vec<_> = (10..30).map(|number| arrive(&arrivals, &format!("10.0.0.{number}"))).collect();
    connector.connect(arrive(&arrivals, "10.0.0.3")).await.unwrap();
    assert_eq!(before.elapsed(), Duration::ZERO);
    drop((arrivals, silent, crowd, many));
    assert_eq!(serving.await.unwrap(), 5);
}

#[tokio::test(start_paused = true)]
async fn the_stream_continues_after_an_error_of_the_listener() {
    let log = Log::capture();
    let (arrivals, connections, connector, _) = listening(Limits::default());
    let serving = tokio::spawn(greet(Box::pin(connections)));
    let before = Instant::now();
    // EMFILE: no file descriptors.
    for _ in 0..3 {
        arrivals.send(Err(io::Error::from_raw_os_error(24))).unwrap();
    }
    connector.connect(arrive(&arrivals, "10.0.0.1")).await.unwrap();
    assert_eq!(before.elapsed(), Duration::from_secs(3), "a pause after each, no busy loop");
    assert_eq!(log.count("cannot accept connections"), 1, "{}", log.text());
    arrivals.send(Err(io::ErrorKind::ConnectionAborted.into())).unwrap();
    connector.connect(arrive(&arrivals, "10.0.0.1")).await.unwrap();
    assert_eq!(before.elapsed(), Duration::from_secs(3), "no pause for a client that went away");
    drop(arrivals);
    assert_eq!(serving.await.unwrap(), 2);
}

/// Answers with the fingerprint of the caller.
struct WhoAmI;

#[tonic::async_trait]
impl Identity for WhoAmI {
    async fn get_plugin_info(
        &self,
        request: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        let peer = request.extensions().get::<Peer>().unwrap();
        Ok(Response::new(GetPluginInfoResponse {
            name: peer.address.clone(),
            vendor_version: peer.fingerprint.clone(),
            ..Default::default()
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<quarry_proto::csi::v1::GetPluginCapabilitiesRequest>,
    ) -> Result<Response<quarry_proto::csi::v1::GetPluginCapabilitiesResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn probe(
        &self,
        _: Request<quarry_proto::csi::v1::ProbeRequest>,
    ) -> Result<Response<quarry_proto::csi::v1::ProbeResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }
}

/// A tonic channel over Quarry's connector.
fn channel(address: std::net::SocketAddr, connector: Connector, connects: Arc<Mutex<u32>>) -> Channel {
    Endpoint::from_static("http://node.quarry").connect_with_connector_lazy(service_fn(move |_| {
        let (connector, connects) = (connector.clone(), Arc::clone(&connects));
        async move {
            *connects.lock().unwrap() += 1;
            let stream = dial(address).await?;
            connector.connect(stream).await.map(TokioIo::new).map_err(io::Error::other)
        }
    }))
}

#[tokio::test]
async fn a_service_is_served_and_identifies_its_caller() {
    let authority = Authority::new("a");
    let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let refusals = Refusals::new();
    let acceptor =
        Acceptor::new(fixed(&authority.pem(&Leaf::node())), refusals.clone()).max_age(Duration::from_millis(1500));
    let connections = incoming(listener, acceptor, Limits::default());
    tokio::spawn(Server::builder().add_service(IdentityServer::new(WhoAmI)).serve_with_incoming(connections));

    let controller = authority.pem(&Leaf::controller());
    let shown = quarry_transport::tls::Material::parse(&controller).unwrap().fingerprint().to_owned();
    let connects = Arc::new(Mutex::new(0));
    let mut client = IdentityClient::new(channel(address, Connector::new(fixed(&controller)), Arc::clone(&connects)));
    let answer = client.get_plugin_info(GetPluginInfoRequest {}).await.unwrap().into_inner();
    assert_eq!((answer.name.as_str(), answer.vendor_version), ("127.0.0.1", shown));

    // At its maximum age the connection ends, and the next call uses a new one. A call may coincide with the
    // end.
    let give_up = Instant::now() + Duration::from_secs(120);
    loop {
        assert!(Instant::now() < give_up, "no connection ended");
        let answered = client.get_plugin_info(GetPluginInfoRequest {}).await.is_ok();
        if answered && *connects.lock().unwrap() >= 3 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(refusals.counts().iter().all(|(_, count)| *count == 0), "{:?}", refusals.counts());

    // A call with a node's certificate fails, and the caller reads the reason.
    let wrong = Connector::new(fixed(&authority.pem(&Leaf::node())));
    let mut client = IdentityClient::new(channel(address, wrong, Arc::default()));
    let status = client.get_plugin_info(GetPluginInfoRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let mut causes = Vec::new();
    let mut cause: Option<&dyn std::error::Error> = Some(&status);
    while let Some(error) = cause {
        causes.push(error.to_string());
        cause = error.source();
    }
    assert!(causes.iter().any(|text| text.contains("rejected the controller's certificate")), "{causes:?}");
    assert_eq!(count(&refusals, "wrong_role"), 1);
}

/// The open files of this process, and its resident memory in KiB.
fn held() -> (usize, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let resident = resident.trim().trim_end_matches(" kB").parse().unwrap();
    (std::fs::read_dir("/proc/self/fd").unwrap().count(), resident)
}

// Over TCP, from one address: behind a masquerade, for example, all connections seem to come from one host.
#[tokio::test]
async fn a_controller_gets_through_two_hundred_idle_foreign_clients_that_reconnect() {
    const FOREIGN: usize = 200;
    let authority = Authority::new("a");
    let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let refusals = Refusals::new();
    let connections =
        incoming(listener, Acceptor::new(fixed(&authority.pem(&Leaf::node())), refusals.clone()), Limits::default());
    tokio::spawn(Server::builder().add_service(IdentityServer::new(WhoAmI)).serve_with_incoming(connections));
    let controller = fixed(&authority.pem(&Leaf::controller()));
    let (open_before, _) = held();
    let mut resident_first = 0;
    for round in 0..10 {
        let mut foreign = Vec::new();
        for _ in 0..FOREIGN {
            foreign.push(dial(address).await.unwrap());
        }
        // The first connection of a controller that has just started.
        let began = Instant::now();
        let mut client = IdentityClient::new(channel(address, Connector::new(controller.clone()), Arc::default()));
        client.get_plugin_info(GetPluginInfoRequest {}).await.unwrap();
        assert!(began.elapsed() < HANDSHAKE_WAIT, "it waited for the foreign clients' timeout");
        let (open, resident) = held();
        // The foreign clients' ends, the node's ends of those that may wait, and the controller's
        // connections.
        assert!(open <= open_before + FOREIGN + 64 + 16, "round {round}: {open} files are open, {open_before} before");
        if round == 1 {
            resident_first = resident;
        }
        assert!(round < 1 || resident < resident_first + 8 * 1024, "round {round}: {resident_first} to {resident} KiB");
    }
    assert!(count(&refusals, "displaced") >= 10 * (FOREIGN as u64 - 64), "{:?}", refusals.counts());
}
