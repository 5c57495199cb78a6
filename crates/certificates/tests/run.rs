//! The loop: certificates reach the process while it runs, whatever happens to the store.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use common::{DAY, START};
use quarry_certificates::testing::MemoryStore;
use quarry_certificates::{Authority, Data, Item, Phase, Requested, Settings, file};
use quarry_transport::tls::Pem;
use tokio::sync::watch;
use tokio::time::Instant;

/// An authority by tokio's paused clock.
fn authority(store: &MemoryStore) -> Authority {
    let begin = Instant::now();
    let clock = move || UNIX_EPOCH + Duration::from_secs(START) + begin.elapsed();
    let settings = Settings { leaf_life: Duration::from_secs(3 * DAY), ..Settings::default() };
    Authority::new(Arc::new(store.clone()), settings).unwrap().with_clock(Arc::new(clock))
}

fn stored(store: &MemoryStore) -> Pem {
    let data = store.peek(Item::Controller).unwrap();
    let text = |name: &str| String::from_utf8(data[name].clone()).unwrap();
    Pem { certificate: text(file::CERTIFICATE), key: text(file::KEY), authorities: text(file::AUTHORITIES) }
}

async fn changed(pem: &mut watch::Receiver<Option<Pem>>) -> Pem {
    pem.changed().await.unwrap();
    pem.borrow_and_update().clone().unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_first_certificate_and_every_later_one_reach_the_process() {
    let store = MemoryStore::default();
    let (sender, mut pem) = watch::channel(None);
    let authority = authority(&store);
    let running = tokio::spawn(quarry_certificates::run(authority.clone(), sender));
    let first = changed(&mut pem).await;
    assert_eq!(first, stored(&store));

    // Nothing changes until the renewal.
    let begin = Instant::now();
    let second = changed(&mut pem).await;
    assert_ne!(second.certificate, first.certificate);
    let after = begin.elapsed().as_secs();
    assert!((2 * DAY - 1260..2 * DAY).contains(&after), "{after}");

    // A rotation: old and new trusted, then a certificate of the new one, then the old one is not trusted any more.
    assert_eq!(authority.rotate().await.unwrap(), Requested::Begun);
    let mut trusted = Vec::new();
    for _ in 0..3 {
        trusted.push(common::certificates(changed(&mut pem).await.authorities.as_bytes()).len());
    }
    assert_eq!(trusted, [2, 2, 1]);
    assert_eq!(authority.step().await.unwrap().phase, Some(Phase::Steady));

    // It ends when there are no receivers.
    drop(pem);
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_failing_store_is_retried_with_back_off() {
    let store = MemoryStore::default();
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&attempts);
    let failing = store.hooked(Arc::new(move |event| {
        let fails = event.item == Item::Controller
            && event.operation == "read"
            && !event.after
            && counted.fetch_add(1, Ordering::SeqCst) < 40;
        Box::pin(async move { if fails { Err("connection refused".to_owned()) } else { Ok(()) } })
    }));
    let (sender, mut pem) = watch::channel(None);
    let begin = Instant::now();
    let running = tokio::spawn(quarry_certificates::run(authority(&failing), sender));
    assert_eq!(changed(&mut pem).await, stored(&store));
    // Each failure asks twice: for the step, and for what can be handed on without one. Twenty pauses: six that
    // double, and fourteen of a minute, each at least half as long as it may be.
    let took = begin.elapsed().as_secs();
    assert!((14 * 30..21 * 60).contains(&took), "{took}");
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn stored_certificates_are_used_even_while_the_authority_is_unusable() {
    let store = MemoryStore::default();
    authority(&store).step().await.unwrap();
    let broken = Data::from([(file::CERTIFICATE.to_owned(), b"damaged".to_vec())]);
    store.poke(Item::Authority, Some(broken.clone()));
    let (sender, mut pem) = watch::channel(None);
    let running = tokio::spawn(quarry_certificates::run(authority(&store), sender));
    assert_eq!(changed(&mut pem).await, stored(&store));
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(store.peek(Item::Authority), Some(broken));
    running.abort();
}
