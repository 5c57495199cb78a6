//! Changes while the process runs: new certificates without a restart, and the maximum age of connections.

// A helper that fails is a test that fails.
#![allow(clippy::unwrap_used, clippy::panic)]

mod tls_support;

use std::time::{Duration, SystemTime};

use quarry_transport::tls::{Acceptor, Connector, Material, MaterialError, Reason, Refusals, slot};
use tls_support::{Authority, Leaf, Log, fixed, greeted, kind, meet, talk};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep};

#[tokio::test]
async fn an_authority_is_replaced_without_a_restart() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let (server_slot, server_source) = slot();
    let (client_slot, client_source) = slot();
    let acceptor = Acceptor::new(server_source, Refusals::new());
    let connector = Connector::new(client_source);
    assert!(server_slot.offer(&old.pem(&Leaf::node())).unwrap());
    assert!(client_slot.offer(&old.pem(&Leaf::controller())).unwrap());
    let (server, client) = meet(&acceptor, &connector).await;
    let (mut old_server, mut old_client) = (server.unwrap(), client.unwrap());
    greeted(&mut old_client).await;

    // The node uses the new authority, the controller does not.
    server_slot.offer(&new.issue(&Leaf::node()).trusting(&[&new])).unwrap();
    let (server, client) = meet(&acceptor, &connector).await;
    assert_eq!(kind(&client.unwrap_err()), "unknown_authority");
    server.unwrap_err();

    // The controller trusts the new authority, and still presents the old one's certificate.
    client_slot.offer(&old.issue(&Leaf::controller()).trusting(&[&old, &new])).unwrap();
    let (server, client) = meet(&acceptor, &connector).await;
    assert_eq!(server.unwrap_err().reason, Reason::UnknownAuthority);
    assert_eq!(kind(&client.unwrap_err()), "rejected");

    client_slot.offer(&new.pem(&Leaf::controller())).unwrap();
    let (server, client) = meet(&acceptor, &connector).await;
    server.unwrap();
    client.unwrap();

    // Existing connections continue until their maximum age.
    talk(&mut old_server, &mut old_client).await.unwrap();
}

#[tokio::test]
async fn material_that_is_added_later_is_used() {
    let authority = Authority::new("a");
    let (slot, source) = slot();
    let acceptor = Acceptor::new(source, Refusals::new());
    let connector = Connector::new(fixed(&authority.pem(&Leaf::controller())));
    let (server, _) = meet(&acceptor, &connector).await;
    assert_eq!(server.unwrap_err().reason, Reason::NotReady);
    slot.offer(&authority.pem(&Leaf::node())).unwrap();
    let (server, client) = meet(&acceptor, &connector).await;
    server.unwrap();
    client.unwrap();
}

#[tokio::test]
async fn bad_material_is_rejected_and_logged_once_and_the_old_one_stays() {
    let log = Log::capture();
    let authority = Authority::new("a");
    let good = authority.pem(&Leaf::node());
    let (slot, source) = slot();
    assert!(slot.offer(&good).unwrap());
    assert!(!slot.offer(&good).unwrap(), "nothing new");
    let mut bad = good.clone();
    bad.key = authority.issue(&Leaf::node()).key;
    for _ in 0..3 {
        assert_eq!(slot.offer(&bad).unwrap_err(), MaterialError::Mismatch);
    }
    assert_eq!(log.count("new certificates are rejected"), 1, "{}", log.text());
    assert!(!log.text().contains("PRIVATE"), "{}", log.text());
    let (server, client) =
        meet(&Acceptor::new(source, Refusals::new()), &Connector::new(fixed(&authority.pem(&Leaf::controller()))))
            .await;
    server.unwrap();
    client.unwrap();
    // After a success, the same error is logged again.
    assert!(!slot.offer(&good).unwrap());
    slot.offer(&bad).unwrap_err();
    assert_eq!(log.count("new certificates are rejected"), 2, "{}", log.text());
}

#[test]
fn an_error_names_the_part_that_is_bad() {
    let authority = Authority::new("a");
    let good = authority.pem(&Leaf::node());
    let broken = "-----BEGIN CERTIFICATE-----\nbm90IGEgY2VydGlmaWNhdGU=\n-----END CERTIFICATE-----\n";
    let with = |change: &dyn Fn(&mut quarry_transport::tls::Pem)| {
        let mut pem = good.clone();
        change(&mut pem);
        Material::parse(&pem).unwrap_err().to_string()
    };
    for text in ["", "hello", broken, "-----BEGIN CERTIFICATE-----\n"] {
        assert!(with(&|pem| pem.certificate = text.into()).contains("tls.crt"), "{text}");
        assert!(with(&|pem| pem.authorities = text.into()).contains("ca.crt"), "{text}");
        assert!(with(&|pem| pem.key = text.into()).contains("tls.key"), "{text}");
    }
    assert!(with(&|pem| pem.authorities.push_str(broken)).contains("certificate 2"));
    let other = authority.issue(&Leaf::node()).key;
    assert!(with(&|pem| pem.key.clone_from(&other)).contains("replace both together"));
}

#[test]
fn material_reports_its_expiry_and_hides_its_key() {
    let authority = Authority::new("a");
    let pem = authority.pem(&Leaf { years: (2020, 2030), ..Leaf::node() });
    let material = Material::parse(&pem).unwrap();
    let first_of_2030 = SystemTime::UNIX_EPOCH + Duration::from_secs(1_893_456_000);
    assert_eq!(material.expires(), first_of_2030);
    assert_eq!(material.fingerprint().len(), 64);
    assert_eq!(material.authorities().len(), 1);
    assert_eq!(material.authorities(), Material::parse(&authority.pem(&Leaf::controller())).unwrap().authorities());
    let shown = format!("{material:?}");
    assert!(shown.contains(material.fingerprint()) && !shown.contains("PRIVATE"), "{shown}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_ends_at_its_age() {
    let authority = Authority::new("a");
    let acceptor =
        Acceptor::new(fixed(&authority.pem(&Leaf::node())), Refusals::new()).max_age(Duration::from_secs(1000));
    let connector = Connector::new(fixed(&authority.pem(&Leaf::controller())));
    let mut ages = Vec::new();
    for _ in 0..20 {
        let (server, client) = meet(&acceptor, &connector).await;
        let (mut server, mut client) = (server.unwrap(), client.unwrap());
        let born = Instant::now();
        greeted(&mut client).await;
        sleep(Duration::from_secs(899)).await;
        talk(&mut server, &mut client).await.unwrap();

        // The server reads the end although the client has not closed.
        assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
        ages.push(born.elapsed());
        // The pending answer still arrives, and then nothing does.
        server.write_all(b"last").await.unwrap();
        server.flush().await.unwrap();
        let mut last = [0; 4];
        client.read_exact(&mut last).await.unwrap();
        sleep(Duration::from_secs(6)).await;
        let error = server.write_all(b"more").await.unwrap_err();
        assert!(error.to_string().contains("age"), "{error}");
        drop(server);
        assert!(client.read(&mut [0]).await.is_err(), "no end that looks like one of the service's own");
    }
    let (youngest, oldest) = (ages.iter().min().unwrap(), ages.iter().max().unwrap());
    assert!(*youngest >= Duration::from_secs(900) && *oldest <= Duration::from_secs(1101), "{ages:?}");
    assert!(*oldest - *youngest > Duration::from_secs(20), "they do not end all at once: {ages:?}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_whose_client_does_not_read_ends_too() {
    let authority = Authority::new("a");
    let acceptor =
        Acceptor::new(fixed(&authority.pem(&Leaf::node())), Refusals::new()).max_age(Duration::from_secs(1000));
    let (server, client) = meet(&acceptor, &Connector::new(fixed(&authority.pem(&Leaf::controller())))).await;
    let (mut server, _client) = (server.unwrap(), client.unwrap());
    let born = Instant::now();
    let chunk = [0; 4096];
    let error = loop {
        if let Err(error) = server.write_all(&chunk).await {
            break error;
        }
    };
    assert!(error.to_string().contains("age"), "{error}");
    assert!(born.elapsed() <= Duration::from_secs(1106), "{:?}", born.elapsed());
    assert!(server.shutdown().await.is_err(), "closing does not hang either");
}

#[tokio::test]
async fn rejections_of_one_peer_and_reason_are_one_log_line() {
    let log = Log::capture();
    let authority = Authority::new("a");
    let refusals = Refusals::new();
    let acceptor = Acceptor::new(fixed(&authority.pem(&Leaf::node())), refusals.clone());
    let wrong = Connector::new(fixed(&authority.pem(&Leaf::node())));
    let expired = Connector::new(fixed(&authority.pem(&Leaf::controller().expired())));
    for _ in 0..5 {
        meet(&acceptor, &wrong).await.0.unwrap_err();
        meet(&acceptor, &expired).await.0.unwrap_err();
    }
    assert_eq!(log.count("rejected a connection"), 2, "{}", log.text());
    assert_eq!(log.count("wrong_role"), 1, "{}", log.text());
    assert!(log.text().contains("10.0.0.9"), "{}", log.text());
    let counts = refusals.counts();
    assert!(counts.contains(&("wrong_role", 5)) && counts.contains(&("expired", 5)), "{counts:?}");
}
