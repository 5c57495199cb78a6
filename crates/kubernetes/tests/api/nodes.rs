//! Which state of nodes is reported, and when.

use std::sync::Arc;
use std::time::Duration;

use quarry_controller::{Abandoned, Fate, Nodes as _};
use quarry_kubernetes::{Clock, ClusterNodes, Discovery, VolumeClaims};
use quarry_volume::{StorageId, VolumeId};

use crate::fake::{Fake, Fault, NAMESPACE};
use crate::objects::{
    DRIVER, PORT, SELECTOR, clock_at, node, node_path, pod, pod_path, seconds, until, volume, volume_path,
};

/// Everything that must run to know the state of nodes.
pub(crate) struct Watching {
    pub(crate) nodes: ClusterNodes,
    _discovery: Discovery,
    _claims: VolumeClaims,
}

impl Watching {
    /// Started, and everything was read.
    pub(crate) async fn started(fake: &Fake, clock: Clock) -> Self {
        let watching = Self::starting(fake, clock);
        let watches = || fake.count(crate::request::Call::watches);
        let before = watches();
        until("all three watches began", || watches() >= before + 3).await;
        watching
    }

    pub(crate) fn starting(fake: &Fake, clock: Clock) -> Self {
        let connection = fake.connection("quarry-0");
        let discovery = Discovery::start(&connection, SELECTOR, PORT);
        let claims = VolumeClaims::start(&connection, DRIVER);
        let nodes = ClusterNodes::start(&connection, &discovery, &claims, DRIVER, clock);
        Self { nodes, _discovery: discovery, _claims: claims }
    }

    pub(crate) async fn fate(&self, node: &str) -> Fate {
        self.nodes.fate(node).await
    }

    /// Waits until the node's fate is this.
    pub(crate) async fn becomes(&self, node: &str, fate: Fate) {
        for _ in 0..1_000 {
            if self.fate(node).await == fate {
                return;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        panic!("{node} has not become {fate:?}");
    }

    /// Waits until a new outage of the node is seen.
    async fn begins_an_outage(&self, node: &str) {
        for _ in 0..1_000 {
            if matches!(self.fate(node).await, Fate::NotReady(long) if long < Duration::from_secs(1)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{node} has not become unready");
    }
}

/// How long it has been unready, within a second (a change takes a moment to arrive).
fn assert_not_ready(fate: Fate, seconds: u64) {
    let Fate::NotReady(long) = fate else { panic!("{fate:?}") };
    assert!((seconds..=seconds + 1).contains(&long.as_secs()), "{long:?} rather than {seconds} s");
}

#[tokio::test(start_paused = true)]
async fn at_the_start_the_age_of_an_outage_is_taken_from_the_api() {
    let fake = Fake::new();
    fake.put(&node_path("well"), node("True", 100));
    fake.put(&node_path("unwell"), node("Unknown", 100));
    fake.put(&node_path("ahead"), node("False", 9_000));
    let watching = Watching::started(&fake, clock_at(220)).await;
    assert_eq!(watching.fate("well").await, Fate::Ready);
    assert_not_ready(watching.fate("unwell").await, 120);
    assert_not_ready(watching.fate("ahead").await, 0);
    seconds(60).await;
    assert_not_ready(watching.fate("unwell").await, 180);
    assert_eq!(fake.count(|call| call.path == node_path("unwell")), 0, "memory was enough");
}

/// Two hosts' clocks may differ by anything; five minutes must be five minutes.
#[tokio::test(start_paused = true)]
async fn an_outage_that_was_seen_to_begin_is_measured_by_our_own_clock() {
    let fake = Fake::new();
    fake.put(&node_path("a"), node("True", 0));
    let watching = Watching::started(&fake, clock_at(50_000)).await;
    fake.put(&node_path("a"), node("Unknown", 100));
    watching.begins_an_outage("a").await;
    seconds(100).await;
    // Heartbeats and the like change the object, not the transition.
    fake.put(&node_path("a"), node("Unknown", 100));
    seconds(100).await;
    assert_not_ready(watching.fate("a").await, 200);
    // Well for an instant that no watch has seen: a new outage.
    fake.put(&node_path("a"), node("Unknown", 150));
    watching.begins_an_outage("a").await;
    // A node that registers while we run.
    fake.put(&node_path("b"), node("False", 100));
    watching.begins_an_outage("b").await;
    fake.put(&node_path("b"), node("True", 101));
    watching.becomes("b", Fate::Ready).await;
}

#[tokio::test(start_paused = true)]
async fn a_long_outage_is_confirmed_by_the_api() {
    let fake = Fake::new();
    fake.put(&node_path("a"), node("Unknown", 0));
    let watching = Watching::started(&fake, clock_at(400)).await;
    assert_not_ready(watching.fate("a").await, 400);
    assert_eq!(fake.count(|call| call.path == node_path("a")), 1);
    // Many requests at once need one answer.
    assert_not_ready(watching.fate("a").await, 400);
    assert_eq!(fake.count(|call| call.path == node_path("a")), 1);
    // The watch does not know yet that it is well again.
    fake.freeze_watches();
    fake.put(&node_path("a"), node("True", 401));
    seconds(3).await;
    assert_eq!(watching.fate("a").await, Fate::Ready);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_known_before_the_first_list() {
    let fake = Fake::new();
    fake.put(&node_path("a"), node("True", 0));
    fake.plan(|call| Fault { after: Duration::from_secs(20 * u64::from(call.is_list())), ..Fault::default() });
    let watching = Watching::starting(&fake, clock_at(0));
    seconds(10).await;
    assert_eq!(watching.fate("a").await, Fate::Unknown);
    assert_eq!(watching.fate("b").await, Fate::Unknown);
    watching.becomes("a", Fate::Ready).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_is_gone_five_minutes_after_the_first_query() {
    let fake = Fake::new();
    fake.put(&node_path("other"), node("True", 0));
    let watching = Watching::started(&fake, clock_at(0)).await;
    assert_eq!(watching.fate("a").await, Fate::Unknown);
    seconds(299).await;
    assert_eq!(watching.fate("a").await, Fate::Unknown);
    seconds(3).await;
    assert_eq!(watching.fate("a").await, Fate::Gone);
    // Another controller, or this one after a restart, must wait itself.
    let restarted = Watching::started(&fake, clock_at(0)).await;
    assert_eq!(restarted.fate("a").await, Fate::Unknown);
    seconds(302).await;
    assert_eq!(restarted.fate("a").await, Fate::Gone);
}

/// Everything that shows the node restarts the five minutes.
#[tokio::test(start_paused = true)]
async fn every_sign_of_the_node_restarts_the_wait() {
    type Show = fn(&Fake);
    let shows: [(&str, Show); 6] = [
        ("a Node that came and went", |fake| {
            fake.put(&node_path("a"), node("False", 0));
            fake.delete(&node_path("a"));
        }),
        ("a Node that came and went between two watches", |fake| {
            fake.cut();
            fake.put(&node_path("a"), node("False", 0));
            fake.delete(&node_path("a"));
        }),
        ("a pod that came and went", |fake| {
            fake.put(&pod_path("p"), pod("p", "a", "10.0.0.1", false, 0));
            fake.delete(&pod_path("p"));
        }),
        ("a pod without an address", |fake| {
            let mut waiting = pod("p", "a", "", false, 0);
            waiting["status"] = serde_json::json!({"phase": "Pending"});
            fake.put(&pod_path("p"), waiting);
            fake.delete(&pod_path("p"));
        }),
        ("changes of nodes that may have been missed", |fake| fake.forget_history("/nodes", false)),
        ("changes of pods that may have been missed", |fake| fake.forget_history("/pods", true)),
    ];
    for (what, show) in shows {
        let fake = Fake::new();
        let watching = Watching::started(&fake, clock_at(0)).await;
        assert_eq!(watching.fate("a").await, Fate::Unknown);
        seconds(200).await;
        show(&fake);
        seconds(200).await;
        assert_eq!(watching.fate("a").await, Fate::Unknown, "{what}");
        seconds(302).await;
        assert_eq!(watching.fate("a").await, Fate::Gone, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_with_a_pod_of_the_plugin_is_not_gone() {
    let fake = Fake::new();
    let mut failed = pod("p", "a", "10.0.0.1", false, 0);
    failed["status"]["phase"] = serde_json::json!("Failed");
    fake.put(&pod_path("p"), failed);
    let watching = Watching::started(&fake, clock_at(0)).await;
    for _ in 0..10 {
        assert_eq!(watching.fate("a").await, Fate::Unknown);
        seconds(100).await;
    }
    fake.delete(&pod_path("p"));
    seconds(5).await;
    assert_eq!(watching.fate("a").await, Fate::Unknown);
    seconds(302).await;
    assert_eq!(watching.fate("a").await, Fate::Gone);
}

/// It comes and goes while the last question is on its way.
#[tokio::test(start_paused = true)]
async fn a_sign_of_the_node_during_the_last_query_counts_too() {
    let fake = Fake::new();
    let watching = Watching::started(&fake, clock_at(0)).await;
    assert_eq!(watching.fate("a").await, Fate::Unknown);
    seconds(302).await;
    fake.plan(|call| Fault {
        after: Duration::from_secs(2 * u64::from(call.path.ends_with("/pods") && !call.watches())),
        ..Fault::default()
    });
    let meanwhile = async {
        seconds(1).await;
        fake.put(&node_path("a"), node("True", 0));
        fake.delete(&node_path("a"));
    };
    let (fate, ()) = tokio::join!(watching.fate("a"), meanwhile);
    assert_eq!(fate, Fate::Unknown);
}

/// The watches are behind, and only a query shows the current state.
#[tokio::test(start_paused = true)]
async fn a_live_query_is_authoritative() {
    for path in [node_path("a"), pod_path("p")] {
        let fake = Fake::new();
        let watching = Watching::started(&fake, clock_at(0)).await;
        assert_eq!(watching.fate("a").await, Fate::Unknown);
        seconds(299).await;
        fake.freeze_watches();
        let object = if path == node_path("a") { node("True", 0) } else { pod("p", "a", "10.0.0.1", true, 0) };
        fake.put(&path, object);
        seconds(3).await;
        assert_ne!(watching.fate("a").await, Fate::Gone, "{path}");
        fake.delete(&path);
        seconds(100).await;
        assert_ne!(watching.fate("a").await, Fate::Gone, "{path}: the wait restarts");
    }
}

/// Deleted while we watch: five minutes from the question, and never while the list still shows it.
#[tokio::test(start_paused = true)]
async fn a_node_that_is_removed_is_gone_after_five_minutes() {
    let fake = Fake::new();
    fake.put(&node_path("a"), node("Unknown", 0));
    fake.put(&pod_path("p"), pod("p", "a", "10.0.0.1", false, 0));
    let watching = Watching::started(&fake, clock_at(1_000)).await;
    assert_not_ready(watching.fate("a").await, 1_000);
    fake.delete(&node_path("a"));
    fake.delete(&pod_path("p"));
    seconds(5).await;
    assert_eq!(watching.fate("a").await, Fate::Unknown);
    seconds(290).await;
    assert_eq!(watching.fate("a").await, Fate::Unknown);
    seconds(12).await;
    assert_eq!(watching.fate("a").await, Fate::Gone);
    // It comes back after all.
    fake.put(&node_path("a"), node("True", 0));
    watching.becomes("a", Fate::Ready).await;
}

fn volume_of(node: &str, name: &str) -> VolumeId {
    VolumeId { storage: StorageId::of("vg"), node: node.to_owned(), volume: name.to_owned() }
}

#[tokio::test(start_paused = true)]
async fn storage_is_gone_if_the_persistent_volume_says_so() {
    let fake = Fake::new();
    let one = volume_of("a", "one");
    let annotated = |key: &str, value: &str| {
        let mut volume = volume(DRIVER, &one.to_string());
        volume["metadata"]["annotations"] = serde_json::json!({ key: value });
        volume
    };
    let key = format!("{DRIVER}/storage-gone");
    let storage = one.storage.as_str().to_owned();
    fake.put(&volume_path("pvc-1"), volume(DRIVER, &one.to_string()));
    let watching = Watching::started(&fake, clock_at(60)).await;
    let nodes: Arc<dyn quarry_controller::Nodes> = Arc::new(watching.nodes);
    assert!(!nodes.is_storage_gone(&one).await);
    assert!(!nodes.is_storage_gone(&volume_of("a", "stray")).await);
    for (key, value) in [(&*key, "true"), (&key, ""), (&key, &*one.to_string()), ("other/storage-gone", &storage)] {
        fake.put(&volume_path("pvc-1"), annotated(key, value));
        assert!(!nodes.is_storage_gone(&one).await, "{key}: {value}");
    }
    fake.put(&volume_path("pvc-1"), annotated(&key, &storage));
    assert!(nodes.is_storage_gone(&one).await);
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_volume_is_reported_on_its_persistent_volume() {
    let fake = Fake::new();
    let (one, two, stray) = (volume_of("a", "one"), volume_of("a", "two"), volume_of("a", "stray"));
    fake.put(&volume_path("pvc-1"), volume(DRIVER, &one.to_string()));
    fake.put(&volume_path("pvc-2"), volume(DRIVER, &two.to_string()));
    fake.put(&pod_path("quarry-0"), pod("quarry-0", "m", "10.0.0.1", true, 0));
    let watching = Watching::started(&fake, clock_at(60)).await;
    let nodes: Arc<dyn quarry_controller::Nodes> = Arc::new(watching.nodes);
    nodes.report_abandoned(&one, Abandoned::NodeGone).await;
    nodes.report_abandoned(&two, Abandoned::StorageGone).await;
    nodes.report_abandoned(&stray, Abandoned::NodeGone).await;
    let on_volumes = fake.all("/apis/events.k8s.io/v1/namespaces/default/events/");
    let mut regarding: Vec<_> = on_volumes.iter().map(|event| event["regarding"]["name"].as_str().unwrap()).collect();
    regarding.sort_unstable();
    assert_eq!(regarding, ["pvc-1", "pvc-2"]);
    let event = &on_volumes[0];
    assert_eq!(event["regarding"]["kind"], "PersistentVolume");
    assert!(event["regarding"]["uid"].as_str().unwrap().starts_with("uid-v1:"));
    assert_eq!(event["reportingController"], DRIVER);
    assert_eq!(event["reportingInstance"], "quarry-0");
    assert_eq!(event["type"], "Warning");
    assert_eq!(event["reason"], "VolumeGivenUp");
    assert!(event["note"].as_str().unwrap().len() <= 1024);
    assert!(event["eventTime"].as_str().unwrap().starts_with("2026-01-01T00:01:00"));
    let on_pod = fake.all(&format!("/apis/events.k8s.io/v1/namespaces/{NAMESPACE}/events/"));
    assert_eq!(on_pod.len(), 1);
    assert_eq!(on_pod[0]["regarding"]["uid"], "uid-quarry-0");
    assert!(on_pod[0]["note"].as_str().unwrap().contains(&stray.to_string()));
}

#[tokio::test(start_paused = true)]
async fn limits_that_are_not_in_force_are_an_event_on_the_claim_once() {
    const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/shop/events/";
    let id = |name: &str| VolumeId { storage: StorageId::of("vg"), node: "a".to_owned(), volume: name.to_owned() };
    let fake = Fake::new();
    let mut bound = volume(DRIVER, &id("pvc-1").to_string());
    bound["spec"]["claimRef"] = serde_json::json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": "shop", "name": "data", "uid": "uid-claim",
        "resourceVersion": "7",
    });
    fake.put(&volume_path("pvc-1"), bound);
    fake.put(&volume_path("pvc-2"), volume(DRIVER, &id("pvc-2").to_string()));
    let watching = Watching::started(&fake, clock_at(60)).await;
    let nodes = &watching.nodes;
    fake.plan(|_| Fault { refused: Some(403), ..Fault::default() });
    assert!(!nodes.report_unlimited(&id("pvc-1"), "no cgroup").await);
    fake.plan(|_| Fault::default());
    assert!(!nodes.report_unlimited(&id("stray"), "no cgroup").await, "its PersistentVolume does not exist yet");
    // Another controller reports the same.
    let other = Watching::started(&fake, clock_at(61)).await;
    for nodes in [nodes, &other.nodes] {
        assert!(nodes.report_unlimited(&id("pvc-1"), "no cgroup").await);
    }
    let events = fake.all(EVENTS);
    assert_eq!(events.len(), 1, "{events:?}");
    let (event, regarding) = (&events[0], &events[0]["regarding"]);
    assert_eq!((&event["type"], &event["reason"]), (&"Warning".into(), &"LimitsNotInForce".into()));
    assert_eq!((&regarding["kind"], &regarding["uid"]), (&"PersistentVolumeClaim".into(), &"uid-claim".into()));
    let note = event["note"].as_str().unwrap();
    assert!(note.ends_with(":pvc-1 are not in force: no cgroup"), "{note}");
    assert!(nodes.report_unlimited(&id("pvc-1"), "no io.max").await);
    assert_eq!(fake.all(EVENTS).len(), 2, "another reason");
    // Without a claim, it is on the PersistentVolume.
    assert!(nodes.report_unlimited(&id("pvc-2"), "no cgroup").await);
    assert_eq!(fake.all("/apis/events.k8s.io/v1/namespaces/default/events/").len(), 1);
}
