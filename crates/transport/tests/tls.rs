//! Handshakes between real ends: which peers may connect, and which errors the others get.

// A helper that fails is a test that fails.
#![allow(clippy::unwrap_used, clippy::panic)]

mod tls_support;

use std::sync::Arc;
use std::time::Duration;

use quarry_transport::tls::{Acceptor, Connector, HANDSHAKE_WAIT, NODE_NAME, Pem, Reason, Refusals};
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::TLS13;
use rustls::{AlertDescription, ClientConfig, HandshakeKind, RootCertStore};
use tls_support::{
    Authority, ClientAuth, GREETING, Leaf, ServerAuth, empty, fixed, greeted, kind, meet, meet_with, talk,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tonic::transport::server::Connected as _;

/// What a client sends that speaks HTTP/2 without TLS.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[tokio::test]
async fn a_controller_and_a_node_meet() {
    let authority = Authority::new("a");
    let acceptor = Acceptor::new(fixed(&authority.pem(&Leaf::node())), Refusals::new());
    let client = authority.pem(&Leaf::controller());
    let (server, client_end) = meet(&acceptor, &Connector::new(fixed(&client))).await;
    let (mut server, mut client_end) = (server.unwrap(), client_end.unwrap());
    greeted(&mut client_end).await;
    talk(&mut server, &mut client_end).await.unwrap();
    assert_eq!(server.connect_info().address, "10.0.0.9");
    let shown = quarry_transport::tls::Material::parse(&client).unwrap();
    assert_eq!(server.connect_info().fingerprint, shown.fingerprint());
}

#[tokio::test]
async fn only_a_controller_is_accepted_as_client() {
    let ours = Authority::new("ours");
    let other = Authority::new("other");
    let namesake = Authority::new("ours");
    let good = Leaf::controller();
    let node = ours.pem(&Leaf::node());
    let cases = [
        ("a node's", ours.issue(&Leaf::node()), Reason::WrongRole, "not a controller's"),
        (
            "a server's, with our name",
            ours.issue(&good.clone().used_for(&[ServerAuth])),
            Reason::WrongRole,
            "clientAuth",
        ),
        ("without usage", ours.issue(&good.clone().used_for(&[])), Reason::WrongRole, "clientAuth"),
        (
            "a client's, with a node's name",
            ours.issue(&good.clone().named(&[NODE_NAME])),
            Reason::WrongRole,
            "DNS name",
        ),
        ("a wildcard", ours.issue(&good.clone().named(&["*.quarry"])), Reason::WrongRole, "DNS name"),
        ("without a name", ours.issue(&good.clone().named(&[])), Reason::WrongRole, "DNS name"),
        ("expired", ours.issue(&good.clone().expired()), Reason::Expired, "expired"),
        ("not yet valid", ours.issue(&good.clone().not_yet_valid()), Reason::Expired, "clock"),
        ("of another authority", other.issue(&good), Reason::UnknownAuthority, "authority"),
        ("of an authority's namesake", namesake.issue(&good), Reason::UnknownAuthority, "authority"),
        ("self-signed", good.self_signed(), Reason::UnknownAuthority, "authority"),
    ];
    for (what, issued, reason, part) in cases {
        let refusals = Refusals::new();
        let acceptor = Acceptor::new(fixed(&node), refusals.clone());
        let (server, client) = meet(&acceptor, &Connector::new(fixed(&issued.trusting(&[&ours])))).await;
        let refusal = server.unwrap_err();
        assert_eq!(refusal.reason, reason, "{what}: {refusal}");
        let error = client.unwrap_err();
        assert_eq!(kind(&error), "rejected", "{what}: {error}");
        assert!(error.to_string().contains(part), "{what}: {error}");
        for (name, count) in refusals.counts() {
            assert_eq!(count, u64::from(name == reason.as_str()), "{what}: {name}");
        }
    }
}

#[tokio::test]
async fn only_a_node_is_accepted_as_server() {
    let ours = Authority::new("ours");
    let other = Authority::new("other");
    let namesake = Authority::new("ours");
    let good = Leaf::node();
    let controller = ours.pem(&Leaf::controller());
    let cases = [
        ("a controller's", ours.issue(&Leaf::controller()), "wrong_role", "serverAuth"),
        ("a client's, with our name", ours.issue(&good.clone().used_for(&[ClientAuth])), "wrong_role", "serverAuth"),
        ("without usage", ours.issue(&good.clone().used_for(&[])), "wrong_role", "serverAuth"),
        ("another server's", ours.issue(&good.clone().named(&["web.example"])), "wrong_role", "web.example"),
        ("a wildcard", ours.issue(&good.clone().named(&["*.quarry"])), "wrong_role", "*.quarry"),
        ("expired", ours.issue(&good.clone().expired()), "expired", "expired"),
        ("not yet valid", ours.issue(&good.clone().not_yet_valid()), "not_yet_valid", "clocks"),
        ("of another authority", other.issue(&good), "unknown_authority", "ca.crt"),
        ("of an authority's namesake", namesake.issue(&good), "unknown_authority", "ca.crt"),
        ("self-signed", good.self_signed(), "unknown_authority", "ca.crt"),
    ];
    for (what, issued, wanted, part) in cases {
        let (server, client) = meet_with(&issued.trusting(&[&ours]), &controller).await;
        let error = client.unwrap_err();
        assert_eq!(kind(&error), wanted, "{what}: {error}");
        assert!(error.to_string().contains(part), "{what}: {error}");
        let refusal = server.unwrap_err();
        assert_eq!(refusal.reason, Reason::Other, "{what}: {refusal}");
        assert!(refusal.detail.contains("client rejected"), "{what}: {refusal}");
    }
}

#[tokio::test]
async fn a_bundle_of_two_authorities_and_a_chain_are_trusted() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let node = new.issue(&Leaf::node()).trusting(&[&old, &new]);
    for authority in [&old, &new] {
        let controller = authority.issue(&Leaf::controller()).trusting(&[&old, &new]);
        let (server, client) = meet_with(&node, &controller).await;
        server.unwrap();
        client.unwrap();
    }

    let middle = new.below("middle");
    let mut issued = middle.issue(&Leaf::controller());
    let (server, _) = meet_with(&node, &issued.clone().trusting(&[&new])).await;
    assert_eq!(server.unwrap_err().reason, Reason::UnknownAuthority, "a gap in the chain");
    issued.certificate.push_str(&middle.pem);
    let (server, client) = meet_with(&node, &issued.trusting(&[&new])).await;
    server.unwrap();
    client.unwrap();
}

#[tokio::test]
async fn a_side_without_certificate_is_not_ready() {
    let authority = Authority::new("a");
    let refusals = Refusals::new();
    let connector = Connector::new(fixed(&authority.pem(&Leaf::controller())));
    let (server, client) = meet(&Acceptor::new(empty(), refusals.clone()), &connector).await;
    assert_eq!(server.unwrap_err().reason, Reason::NotReady);
    let error = client.unwrap_err();
    assert!(kind(&error) == "closed" && error.to_string().contains("may have no certificate yet"), "{error}");
    assert!(refusals.counts().contains(&("not_ready", 1)));

    let acceptor = Acceptor::new(fixed(&authority.pem(&Leaf::node())), Refusals::new());
    let (server, client) = meet(&acceptor, &Connector::new(empty())).await;
    assert_eq!(kind(&client.unwrap_err()), "not_ready");
    assert_eq!(server.unwrap_err().reason, Reason::Other);
}

/// The rejection of a client that sends these bytes, and the server's answer.
async fn refused_for(bytes: &[u8], and_then: AndThen) -> (Reason, Vec<u8>) {
    let acceptor = Acceptor::new(fixed(&Authority::new("a").pem(&Leaf::node())), Refusals::new());
    let (ours, mut theirs) = duplex(64 * 1024);
    let client = async {
        theirs.write_all(bytes).await.unwrap();
        if let AndThen::Close = and_then {
            theirs.shutdown().await.unwrap();
        }
        let mut answer = Vec::new();
        theirs.read_to_end(&mut answer).await.unwrap();
        answer
    };
    let (refusal, answer) = tokio::join!(acceptor.accept(ours, "10.0.0.9".into()), client);
    (refusal.unwrap_err().reason, answer)
}

enum AndThen {
    Wait,
    Close,
}

#[tokio::test(start_paused = true)]
async fn other_protocols_are_rejected_immediately() {
    for bytes in [HTTP2_PREFACE, b"G", b"GET / HTTP/1.1\r\n\r\n", &[0], b"\x15\x03\x03\x00\x02\x02\x28"] {
        let before = Instant::now();
        let (reason, answer) = refused_for(bytes, AndThen::Wait).await;
        assert_eq!(reason, Reason::PlainText, "{bytes:?}");
        assert!(answer.is_empty(), "{answer:?}");
        assert_eq!(before.elapsed(), Duration::ZERO, "no wait for more");
    }
}

#[tokio::test(start_paused = true)]
async fn garbage_and_silence_are_rejected() {
    let garbage = [&[0x16, 3, 1, 0, 64], [0xAA; 64].as_slice()].concat();
    assert_eq!(refused_for(&garbage, AndThen::Wait).await.0, Reason::Other);

    for start in [b"".as_slice(), b"\x16", b"\x16\x03\x01\x01\x00\x01"] {
        let before = Instant::now();
        assert_eq!(refused_for(start, AndThen::Wait).await.0, Reason::TimeOut, "{start:?}");
        assert_eq!(before.elapsed(), HANDSHAKE_WAIT);
        assert_eq!(refused_for(start, AndThen::Close).await.0, Reason::Other, "{start:?}");
    }
}

/// The connector's error for a server that sends these bytes.
async fn connect_to(bytes: &[u8], and_then: AndThen) -> String {
    let connector = Connector::new(fixed(&Authority::new("a").pem(&Leaf::controller())));
    let (ours, mut theirs) = duplex(64 * 1024);
    let server = async {
        theirs.write_all(bytes).await.unwrap();
        let mut rest = Vec::new();
        match and_then {
            AndThen::Wait => drop(theirs.read_to_end(&mut rest).await),
            AndThen::Close => theirs.shutdown().await.unwrap(),
        }
    };
    let (client, ()) = tokio::join!(connector.connect(ours), server);
    kind(&client.unwrap_err()).to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_foreign_server_is_recognised() {
    let http2_settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    assert_eq!(connect_to(&http2_settings, AndThen::Wait).await, "plain_text");
    assert_eq!(connect_to(b"HTTP/1.1 400 Bad Request\r\n\r\n", AndThen::Close).await, "plain_text");
    assert_eq!(connect_to(b"", AndThen::Close).await, "closed");
    assert_eq!(connect_to(b"\x15\x03\x03\x00\x02\x02\x46", AndThen::Wait).await, "other", "an alert, protocol_version");
    let before = Instant::now();
    assert_eq!(connect_to(b"", AndThen::Wait).await, "time_out");
    assert_eq!(before.elapsed(), HANDSHAKE_WAIT);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_confirm_times_out() {
    let authority = Authority::new("a");
    let acceptor = Acceptor::new(fixed(&authority.pem(&Leaf::node())), Refusals::new());
    let connector = Connector::new(fixed(&authority.pem(&Leaf::controller())));
    let (ours, theirs) = duplex(64 * 1024);
    let (server, client) = tokio::join!(acceptor.accept(ours, "p".into()), connector.connect(theirs));
    server.unwrap();
    assert_eq!(kind(&client.unwrap_err()), "time_out");
}

/// A client from other software.
fn other_client(authority: &Authority, shown: Option<&Pem>, protocols: &[&[u8]]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match shown {
        None => config.with_no_client_auth(),
        Some(pem) => config
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(pem.certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(pem.key.as_bytes()).unwrap(),
            )
            .unwrap(),
    };
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    config.resumption = Resumption::in_memory_sessions(8);
    TlsConnector::from(Arc::new(config))
}

fn node_name() -> ServerName<'static> {
    ServerName::try_from(NODE_NAME).unwrap()
}

/// The alert in an error of a read.
fn alert_of(error: &std::io::Error) -> Option<AlertDescription> {
    match error.get_ref()?.downcast_ref()? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_is_rejected() {
    let authority = Authority::new("a");
    let acceptor = Acceptor::new(fixed(&authority.pem(&Leaf::node())), Refusals::new());
    let (ours, theirs) = duplex(64 * 1024);
    let client = async {
        let mut stream = other_client(&authority, None, &[b"h2"]).connect(node_name(), theirs).await.unwrap();
        stream.read_u8().await.unwrap_err()
    };
    let (server, error) = tokio::join!(acceptor.accept(ours, "p".into()), client);
    assert_eq!(server.unwrap_err().reason, Reason::NoCertificate);
    assert_eq!(alert_of(&error), Some(AlertDescription::CertificateRequired));
}

#[tokio::test]
async fn another_protocol_or_none_is_rejected() {
    let authority = Authority::new("a");
    let controller = authority.pem(&Leaf::controller());
    let protocols: [&[&[u8]]; 2] = [&[], &[b"http/1.1"]];
    for protocols in protocols {
        let acceptor = Acceptor::new(fixed(&authority.pem(&Leaf::node())), Refusals::new());
        let (ours, theirs) = duplex(64 * 1024);
        let client = async {
            let client = other_client(&authority, Some(&controller), protocols);
            if let Ok(mut stream) = client.connect(node_name(), theirs).await {
                assert!(!matches!(stream.read(&mut [0]).await, Ok(1..)), "closed");
            }
        };
        let (server, ()) = tokio::join!(acceptor.accept(ours, "p".into()), client);
        let refusal = server.unwrap_err();
        assert_eq!(refusal.reason, Reason::Other, "{refusal}");
    }
}

#[tokio::test]
async fn no_connection_is_resumed() {
    let authority = Authority::new("a");
    let acceptor = Acceptor::new(fixed(&authority.pem(&Leaf::node())), Refusals::new());
    let client = other_client(&authority, Some(&authority.pem(&Leaf::controller())), &[b"h2"]);
    for _ in 0..3 {
        let (ours, theirs) = duplex(64 * 1024);
        let server = async {
            let mut stream = acceptor.accept(ours, "p".into()).await.unwrap();
            stream.write_all(GREETING).await.unwrap();
            stream.flush().await.unwrap();
            stream
        };
        let (_server, stream) = tokio::join!(server, client.connect(node_name(), theirs));
        let mut stream = stream.unwrap();
        // Tickets, if there were any, come before this.
        greeted(&mut stream).await;
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
    }
}

#[tokio::test]
async fn a_rejected_client_that_continues_reads_the_reason() {
    use tokio_stream::StreamExt as _;
    let authority = Authority::new("a");
    let acceptor = Acceptor::new(fixed(&authority.pem(&Leaf::node())), Refusals::new());
    let client = other_client(&authority, Some(&authority.pem(&Leaf::node())), &[b"h2"]);
    let mut listener = quarry_transport::tls::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    for _ in 0..20 {
        let server = async {
            let (stream, peer) = listener.next().await.unwrap().unwrap();
            assert_eq!(peer, "127.0.0.1");
            acceptor.accept(stream, peer).await.unwrap_err()
        };
        let talking = async {
            let stream = quarry_transport::tls::dial(address).await.unwrap();
            let mut stream = client.connect(node_name(), stream).await.unwrap();
            stream.write_all(&[7; 48 * 1024]).await.unwrap();
            stream.flush().await.unwrap();
            stream.read_u8().await.unwrap_err()
        };
        let (refusal, error) = tokio::join!(server, talking);
        assert_eq!(refusal.reason, Reason::WrongRole);
        assert_eq!(alert_of(&error), Some(AlertDescription::UnsupportedCertificate), "{error}");
    }
}
