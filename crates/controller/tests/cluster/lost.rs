//! Nodes that cannot be reached, and nodes that are gone for good.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use quarry_controller::{Abandoned, Fate};
use quarry_volume::{StorageId, VolumeId};
use tonic::Code;

use crate::support::{self, World, create, delete, node_of, until};

#[tokio::test]
async fn calls_to_an_unreachable_node_fail_immediately_until_it_returns() {
    let world = World::new(&[("a", 100), ("b", 100)]);
    let (_, service) = world.controller().await;
    let volume = create(&service, "v", 10, &["a"], &["a"]).await.unwrap();
    let node = Arc::clone(&world.nodes["a"]);
    node.cut();
    let began = Instant::now();
    until("the loss is noticed", || {
        futures::executor::block_on(delete(&service, &volume.volume_id))
            .is_err_and(|error| error.message().contains("has been unreachable"))
    })
    .await;
    let asked = Instant::now();
    let error = create(&service, "w", 10, &["a"], &["a"]).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert!(asked.elapsed() < Duration::from_millis(200), "{:?} after {:?}", asked.elapsed(), began.elapsed());
    // The other nodes keep working, and the volumes of this one are still listed.
    create(&service, "x", 10, &["b"], &["b"]).await.unwrap();
    node.reachable.store(true, SeqCst);
    until("it is back", || futures::executor::block_on(delete(&service, &volume.volume_id)).is_ok()).await;
    assert!(world.holders("v").is_empty());
}

#[tokio::test]
async fn selection_waits_for_a_node_that_may_hold_the_name() {
    let world = World::new(&[("a", 100), ("b", 100)]);
    world.nodes["a"].put("v", 10 * support::MIB);
    world.nodes["a"].cut();
    let (_, service) = world.controller().await;
    for fate in [Fate::Ready, Fate::NotReady(Duration::from_secs(200)), Fate::Unknown] {
        world.fates.lock().unwrap().insert("a".into(), fate);
        let error = create(&service, "v", 10, &["a", "b"], &["b"]).await.unwrap_err();
        assert_eq!(error.code(), Code::Unavailable, "{fate:?}");
        assert!(error.message().contains("node a"), "{error}");
    }
    assert_eq!(world.holders("v"), ["a"]);
    // Unreachable for a long time: the volume that it holds is an orphan when it returns.
    world.fates.lock().unwrap().insert("a".into(), Fate::NotReady(Duration::from_secs(301)));
    assert_eq!(node_of(&create(&service, "v", 10, &["a", "b"], &["b"]).await.unwrap()), "b");
}

#[tokio::test]
async fn a_node_that_is_permanently_gone_blocks_nothing() {
    let world = World::new(&[("a", 100), ("b", 100)]);
    let (_, service) = world.controller().await;
    let volume = create(&service, "v", 10, &["a"], &["a"]).await.unwrap();
    world.nodes["a"].cut();
    world.roster.send_replace(Some(Arc::new([("b".to_owned(), support::endpoint("b"))].into())));
    until("the loss is noticed", || {
        let answer = futures::executor::block_on(delete(&service, &volume.volume_id));
        answer.is_err_and(|error| error.message().contains("has been unreachable"))
    })
    .await;
    assert_eq!(delete(&service, &volume.volume_id).await.unwrap_err().code(), Code::Unavailable);
    world.fates.lock().unwrap().insert("a".into(), Fate::Gone);
    assert_eq!(create(&service, "w", 10, &["a"], &["a"]).await.unwrap_err().code(), Code::ResourceExhausted);
    delete(&service, &volume.volume_id).await.unwrap();
    assert_eq!(world.given_up.lock().unwrap()[0].1, Abandoned::NodeGone);
    assert_eq!(node_of(&create(&service, "v", 10, &["a", "b"], &["a"]).await.unwrap()), "b");
}

/// A host returns under its name with other disks. Only an operator can know that the old ones do not come back.
#[tokio::test]
async fn a_volume_on_storage_that_is_gone_is_deleted_once_an_operator_confirms_that() {
    let world = World::new(&[("a", 100)]);
    let (_, service) = world.controller().await;
    let volume = create(&service, "v", 10, &["a"], &["a"]).await.unwrap().volume_id;
    let id: VolumeId = volume.parse().unwrap();
    world.nodes["a"].has_other_storage.store(true, SeqCst);
    assert_eq!(delete(&service, &volume).await.unwrap_err().code(), Code::Unavailable);
    // Another storage is gone.
    world.storage_gone.lock().unwrap().push(StorageId::of("another"));
    assert_eq!(delete(&service, &volume).await.unwrap_err().code(), Code::Unavailable);
    world.storage_gone.lock().unwrap().push(id.storage.clone());
    delete(&service, &volume).await.unwrap();
    assert_eq!(*world.given_up.lock().unwrap(), [(id, Abandoned::StorageGone)]);
    // The node does not know that it does not have it.
    world.nodes["a"].has_other_storage.store(false, SeqCst);
    world.nodes["a"].unreadable.store(true, SeqCst);
    assert_eq!(delete(&service, &volume).await.unwrap_err().code(), Code::Unavailable);
    // The storage is there after all: the volume is really deleted.
    world.nodes["a"].unreadable.store(false, SeqCst);
    delete(&service, &volume).await.unwrap();
    assert!(world.nodes["a"].volumes.lock().unwrap().is_empty());
    assert_eq!(world.given_up.lock().unwrap().len(), 1);
}

/// Only without Kubernetes does the time without a connection count.
#[tokio::test(start_paused = true)]
async fn a_node_whose_state_kubernetes_cannot_tell_is_waited_for() {
    for (fate, code) in [(Fate::Unknown, Some(Code::Unavailable)), (Fate::NoSource, None)] {
        let world = World::new(&[("a", 100), ("b", 100)]);
        world.nodes["a"].put("v", 10 * support::MIB);
        world.nodes["a"].cut();
        let (_, service) = world.controller().await;
        world.fates.lock().unwrap().insert("a".into(), fate);
        let error = create(&service, "v", 10, &["a", "b"], &["b"]).await.unwrap_err();
        assert_eq!(error.code(), Code::Unavailable, "{fate:?}");
        tokio::time::sleep(Duration::from_secs(301)).await;
        let answer = create(&service, "v", 10, &["a", "b"], &["b"]).await;
        assert_eq!(answer.err().map(|error| error.code()), code, "{fate:?}");
    }
}

/// The node may have the volume from an earlier attempt.
#[tokio::test]
async fn no_error_of_a_look_up_is_final() {
    let world = World::new(&[("a", 100), ("b", 100)]);
    let (_, service) = world.controller().await;
    world.nodes["a"].unreadable.store(true, SeqCst);
    let error = create(&service, "v", 10, &["a", "b"], &["b"]).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error}");
    assert!(error.message().contains("its record cannot be written"), "{error}");
    assert_eq!(world.holders("v"), [""; 0]);
}

/// After a downgrade of the controller.
#[tokio::test]
async fn an_identifier_of_a_later_version_is_not_deleted() {
    let world = World::new(&[("a", 100)]);
    let (_, service) = world.controller().await;
    assert_eq!(delete(&service, "v2:a:b:c").await.unwrap_err().code(), Code::Unavailable);
    delete(&service, "of-another-driver").await.unwrap();
}

/// The state of one dead node does not delay the roster.
#[tokio::test(start_paused = true)]
async fn nodes_are_followed_while_others_are_asked_for() {
    let world = World::new(&[("a", 100), ("b", 100)]);
    let (_, service) = world.controller().await;
    // `a` leaves, and its state takes long to find out.
    world.slow_fates.store(true, SeqCst);
    world.roster.send_replace(Some(Arc::new([("b".to_owned(), support::endpoint("b"))].into())));
    tokio::time::sleep(Duration::from_secs(61)).await;
    world.roster.send_replace(Some(Arc::new(["a", "b"].map(|name| (name.to_owned(), support::endpoint(name))).into())));
    tokio::time::sleep(Duration::from_secs(5)).await;
    create(&service, "v", 10, &["a"], &["a"]).await.unwrap();
    // It is not forgotten afterwards, although the answer from before says that it is gone.
    world.fates.lock().unwrap().insert("a".into(), Fate::Gone);
    tokio::time::sleep(Duration::from_secs(600)).await;
    create(&service, "w", 10, &["a"], &["a"]).await.unwrap();
}
