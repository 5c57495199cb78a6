//! The issued certificates in real handshakes between the real ends of Quarry's connections, in every state of a
//! rotation.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::Arc;
use std::time::Duration;

use quarry_certificates::testing::MemoryStore;
use quarry_certificates::{Authority, Data, Item, Phase, Settings, file};
use quarry_transport::tls::{Acceptor, Connector, Pem, Refusals, Slot, Source, slot};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn source(data: &Data) -> (Slot, Source) {
    let text = |name: &str| String::from_utf8(data[name].clone()).unwrap();
    let pem = Pem { certificate: text(file::CERTIFICATE), key: text(file::KEY), authorities: text(file::AUTHORITIES) };
    let (slot, source) = slot();
    slot.offer(&pem).unwrap();
    (slot, source)
}

/// Whether a controller and a node that hold these items come to talk.
async fn talk(controller: &Data, node: &Data) -> Result<(), String> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (_controller, controller) = source(controller);
    let (_node, node) = source(node);
    let server = async {
        let accepted = Acceptor::new(node, Refusals::new()).accept(far, "peer".to_owned()).await;
        let mut stream = accepted.map_err(|refusal| format!("{refusal:?}"))?;
        stream.write_all(b"hello").await.map_err(|why| why.to_string())?;
        stream.flush().await.map_err(|why| why.to_string())?;
        Ok::<_, String>(stream)
    };
    let client = async {
        let connected = Connector::new(controller).connect(near).await;
        let mut stream = connected.map_err(|why| why.to_string())?;
        let mut hello = [0; 5];
        stream.read_exact(&mut hello).await.map_err(|why| why.to_string())?;
        Ok::<_, String>(stream)
    };
    let (server, client) = tokio::join!(server, client);
    server.and(client).map(drop)
}

/// All that the two leaf items ever held, through a first issue and a rotation that waits for nothing.
async fn rotation() -> (Vec<Data>, Vec<Data>) {
    let store = MemoryStore::default();
    let settings = Settings { propagation: Duration::ZERO, clocks_apart: Duration::ZERO, ..Settings::default() };
    let authority = Authority::new(Arc::new(store.clone()), settings).unwrap();
    authority.step().await.unwrap();
    authority.rotate().await.unwrap();
    assert_eq!(authority.step().await.unwrap().phase, Some(Phase::Steady));
    let of = |item: Item| {
        store.history().into_iter().filter(|change| change.item == item).map(|change| change.data.unwrap()).collect()
    };
    (of(Item::Controller), of(Item::Node))
}

#[tokio::test]
async fn neighbouring_states_talk_and_others_do_not() {
    let (controllers, nodes) = rotation().await;
    assert_eq!((controllers.len(), nodes.len()), (4, 4), "steady, publish, switch, steady");
    for (one, controller) in controllers.iter().enumerate() {
        for (other, node) in nodes.iter().enumerate() {
            let result = talk(controller, node).await;
            assert_eq!(result.is_ok(), one.abs_diff(other) <= 1, "controller {one}, node {other}: {result:?}");
        }
    }
}

#[tokio::test]
async fn a_certificate_does_not_pass_in_the_other_role() {
    let (controllers, nodes) = rotation().await;
    let (controller, node) = (&controllers[0], &nodes[0]);
    talk(controller, node).await.unwrap();
    talk(node, node).await.unwrap_err();
    talk(controller, controller).await.unwrap_err();
}
