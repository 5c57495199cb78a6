//! The production setup: TCP on this host, mutual TLS, both ends.

use std::net::SocketAddr;
use std::sync::Arc;

use quarry_agent::{AgentService, Dial as _, TlsDial, serve};
use quarry_transport::metrics::Metrics;
use quarry_transport::tls::{Acceptor, CONTROLLER_NAME, Connector, Limits, NODE_NAME, Pem, Refusals, Source};
use quarry_transport::tls::{bind, incoming, slot};
use quarry_volume::Reason;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use tokio::net::TcpSocket;
use tokio_util::sync::CancellationToken;

use crate::common::{Fake, NODE, WAIT, id, volume};

/// The certificates and the trusted authorities of a node and a controller with one authority.
fn authority() -> (Source, Source) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().unwrap();
    let authorities = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let leaf = |name: &str, usage| {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2999, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap().pem();
        let (slot, source) = slot();
        slot.offer(&Pem { certificate, key: key.serialize_pem(), authorities: authorities.clone() }).unwrap();
        source
    };
    (leaf(NODE_NAME, ExtendedKeyUsagePurpose::ServerAuth), leaf(CONTROLLER_NAME, ExtendedKeyUsagePurpose::ClientAuth))
}

async fn listen(node: Source) -> SocketAddr {
    let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = incoming(listener, Acceptor::new(node, Refusals::new()), Limits::default());
    let service = AgentService::new(Arc::new(Fake::new()));
    tokio::spawn(async move { serve(connections, service, &Metrics::new(), CancellationToken::new()).await });
    address
}

#[tokio::test]
async fn a_controller_reaches_its_node() {
    let (node, controller) = authority();
    let address = listen(node).await;
    let agent = TlsDial::new(Connector::new(controller)).dial(NODE, &address.to_string()).await.unwrap();
    assert_eq!(agent.node(), NODE);
    assert_eq!(agent.get(&id("x"), WAIT).await.unwrap(), volume("a"));
}

#[tokio::test]
async fn an_unreachable_node_is_unavailable_and_the_error_names_the_endpoint() {
    let ((node, controller), (_, foreign)) = (authority(), authority());
    let address = listen(node).await.to_string();
    // A port that is in use, but on which nothing listens.
    let taken = TcpSocket::new_v4().unwrap();
    taken.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let closed = taken.local_addr().unwrap().to_string();
    for (source, endpoint, why) in [
        (&controller, closed.as_str(), "refused"),
        (&controller, "node-1:9870", "not an IP address"),
        (&foreign, address.as_str(), "authority"),
        (&slot().1, address.as_str(), "no certificate"),
    ] {
        let dial = TlsDial::new(Connector::new(source.clone()));
        let error = dial.dial(NODE, endpoint).await.map(drop).unwrap_err();
        assert_eq!(error.reason, Reason::Unavailable);
        assert!(error.message.starts_with(&format!("node n-1: no connection to {endpoint}: ")), "{error}");
        assert!(error.message.contains(why), "{error}");
    }
}
