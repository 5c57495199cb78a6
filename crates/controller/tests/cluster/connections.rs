//! How connections to nodes are opened, and what becomes of one that was given up meanwhile.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use quarry_controller::{Cluster, ControllerService};
use tonic::Code;

use crate::support::{self, World, capacity, create, until};

/// The two ends of a connection that waits where it gets the full state of node "a".
struct Held {
    reached: mpsc::Receiver<()>,
    go_on: mpsc::Sender<()>,
}

/// Holds the next connection to node "a", on its thread. After that, it is lost if `is_kept` is false.
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
fn hold(world: &World, is_kept: bool) -> Held {
    let ((at_call, reached), (go_on, called)) = (mpsc::channel(), mpsc::channel());
    *world.nodes["a"].at_full_state.lock().unwrap() = Some(Box::new(move || {
        at_call.send(()).unwrap();
        called.recv().unwrap();
        is_kept
    }));
    Held { reached, go_on }
}

/// The roster changes between two steps of a connection that is being opened, on another thread.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_that_leaves_while_its_full_state_arrives_is_unreachable() {
    let world = World::new(&[("a", 100)]);
    let held = hold(&world, true);
    let cluster = Cluster::follow(world.roster.subscribe(), world.parts(), world.stop.clone());
    let service = ControllerService::new(cluster.clone(), support::KEY);
    until("the full state arrives", || held.reached.try_recv().is_ok()).await;
    world.roster.send_replace(Some(Arc::default()));
    let created = || futures::executor::block_on(create(&service, "v", 10, &["a"], &["a"]));
    until("it has left", || created().is_err_and(|error| error.message().contains("no plugin pod"))).await;
    held.go_on.send(()).unwrap();
    assert!(!cluster.all_reported(Duration::from_millis(500)).await, "it was remembered as connected");
    let error = create(&service, "v", 10, &["a"], &["a"]).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert!(error.message().contains("no plugin pod"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_connection_to_the_address_of_before_says_nothing_about_the_new_one() {
    let mut world = World::new(&[("a", 100)]);
    let node = Arc::clone(&world.nodes["a"]);
    Arc::get_mut(&mut world).unwrap().nodes.insert("elsewhere".into(), node);
    let held = hold(&world, false);
    let cluster = Cluster::follow(world.roster.subscribe(), world.parts(), world.stop.clone());
    let service = ControllerService::new(cluster, support::KEY);
    until("the full state arrives", || held.reached.try_recv().is_ok()).await;
    world.roster.send_replace(Some(Arc::new([("a".to_owned(), support::endpoint("elsewhere"))].into())));
    let created = || futures::executor::block_on(create(&service, "v", 10, &["a"], &["a"]));
    until("it is connected there", || created().is_ok()).await;
    // Now the first connection is lost.
    held.go_on.send(()).unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    create(&service, "w", 10, &["a"], &["a"]).await.unwrap();
}

/// After a restart of the controller, in a cluster of which a third is gone.
#[tokio::test(start_paused = true)]
async fn hosts_that_do_not_answer_do_not_keep_the_others_waiting() {
    let numbered = |name: &'static str, most: usize| (0..most).map(move |number| format!("{name}-{number}"));
    // In the order in which they are connected.
    let names: Vec<String> = numbered("dead", 1700).chain(numbered("live", 100)).collect();
    let world = World::new(&names.iter().map(|name| (name.as_str(), 1)).collect::<Vec<_>>());
    for (name, node) in &world.nodes {
        node.silent.store(name.starts_with("dead"), SeqCst);
    }
    let cluster = Cluster::follow(world.roster.subscribe(), world.parts(), world.stop.clone());
    let service = ControllerService::new(cluster, support::KEY);
    tokio::time::sleep(Duration::from_secs(20)).await;
    for name in numbered("live", 100) {
        assert_eq!(capacity(&service, Some(&name)).await.unwrap(), (1, 1), "{name}");
    }
    // One that returns has not long to wait either: it is tried again every half minute.
    tokio::time::sleep(Duration::from_secs(200)).await;
    world.nodes["dead-0"].silent.store(false, SeqCst);
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert_eq!(capacity(&service, Some("dead-0")).await.unwrap(), (1, 1));
}
