//! Which addresses of agents are reported.

use std::time::Duration;

use quarry_controller::{Endpoint, RosterSource};
use quarry_kubernetes::Discovery;
use serde_json::json;

use crate::fake::{Fake, Fault};
use crate::objects::{PORT, SELECTOR, pod, pod_path, until};

fn endpoint(roster: &RosterSource, node: &str) -> Option<Endpoint> {
    roster.borrow().as_ref().and_then(|roster| roster.get(node).cloned())
}

fn address(roster: &RosterSource, node: &str) -> String {
    endpoint(roster, node).map(|endpoint| endpoint.address).unwrap_or_default()
}

async fn started(fake: &Fake) -> (Discovery, RosterSource) {
    let discovery = Discovery::start(&fake.connection("quarry-0"), SELECTOR, PORT);
    let roster = discovery.roster();
    until("the pods were read", || roster.borrow().is_some()).await;
    (discovery, roster)
}

#[tokio::test(start_paused = true)]
async fn nothing_is_known_until_the_list_is_complete() {
    let fake = Fake::new();
    for number in 0..600 {
        let name = format!("p{number}");
        fake.put(&pod_path(&name), pod(&name, &format!("n{number}"), "10.0.0.1", true, 0));
    }
    let mut foreign = pod("foreign", "n7000", "10.0.0.9", true, 0);
    foreign["metadata"]["labels"] = json!({"app": "other"});
    fake.put(&pod_path("foreign"), foreign);
    fake.plan(|call| Fault { after: Duration::from_secs(u64::from(call.is_list())), ..Fault::default() });
    let discovery = Discovery::start(&fake.connection("quarry-0"), SELECTOR, PORT);
    let roster = discovery.roster();
    // Three pages, a second each.
    tokio::time::sleep(Duration::from_millis(2_900)).await;
    assert!(roster.borrow().is_none());
    until("the pods were read", || roster.borrow().is_some()).await;
    assert_eq!(roster.borrow().as_ref().unwrap().len(), 600);
    assert_eq!(endpoint(&roster, "n599").unwrap().pod_uid, "uid-p599");
    assert_eq!(endpoint(&roster, "n7000"), None);
}

#[tokio::test(start_paused = true)]
async fn an_empty_cluster_is_known_to_be_empty() {
    let (_discovery, roster) = started(&Fake::new()).await;
    assert!(roster.borrow().as_ref().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn only_pods_that_can_be_reached_count() {
    let fake = Fake::new();
    let mut waiting = pod("waiting", "a", "", false, 0);
    waiting["status"] = json!({"phase": "Pending"});
    let mut finished = pod("finished", "b", "10.0.0.2", true, 0);
    finished["status"]["phase"] = json!("Failed");
    let mut unscheduled = pod("unscheduled", "", "10.0.0.3", true, 0);
    unscheduled["spec"] = json!({"containers": []});
    fake.put(&pod_path("waiting"), waiting);
    fake.put(&pod_path("finished"), finished);
    fake.put(&pod_path("unscheduled"), unscheduled);
    fake.put(&pod_path("good"), pod("good", "d", "fd00::7", false, 0));
    let (_discovery, roster) = started(&fake).await;
    let nodes: Vec<String> = roster.borrow().as_ref().unwrap().keys().cloned().collect();
    assert_eq!(nodes, ["d"]);
    assert_eq!(address(&roster, "d"), "[fd00::7]:9810");
    // What comes later counts as well, and what finishes no longer does.
    fake.put(&pod_path("waiting"), pod("waiting", "a", "10.0.0.1", false, 0));
    until("the pod got its address", || address(&roster, "a") == "10.0.0.1:9810").await;
    let mut done = pod("good", "d", "fd00::7", false, 0);
    done["status"]["phase"] = json!("Succeeded");
    fake.put(&pod_path("good"), done);
    until("the pod finished", || endpoint(&roster, "d").is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn in_a_rolling_update_the_newest_ready_pod_is_taken() {
    let fake = Fake::new();
    fake.put(&pod_path("old"), pod("old", "a", "10.0.0.1", true, 10));
    let (_discovery, roster) = started(&fake).await;
    assert_eq!(address(&roster, "a"), "10.0.0.1:9810");
    // A surge: the new one is not ready yet.
    fake.put(&pod_path("new"), pod("new", "a", "10.0.0.2", false, 20));
    fake.put(&pod_path("marker"), pod("marker", "m", "10.0.0.9", true, 20));
    until("the change arrived", || endpoint(&roster, "m").is_some()).await;
    assert_eq!(address(&roster, "a"), "10.0.0.1:9810");
    fake.put(&pod_path("new"), pod("new", "a", "10.0.0.2", true, 20));
    until("the new one is taken", || address(&roster, "a") == "10.0.0.2:9810").await;
    assert_eq!(endpoint(&roster, "a").unwrap().pod_uid, "uid-new");
    fake.delete(&pod_path("old"));
    fake.delete(&pod_path("marker"));
    until("the change arrived", || endpoint(&roster, "m").is_none()).await;
    assert_eq!(address(&roster, "a"), "10.0.0.2:9810");
    // None is ready: the newest.
    fake.put(&pod_path("new"), pod("new", "a", "10.0.0.2", false, 20));
    fake.put(&pod_path("newer"), pod("newer", "a", "10.0.0.3", false, 30));
    until("the newest is taken", || address(&roster, "a") == "10.0.0.3:9810").await;
    fake.delete(&pod_path("newer"));
    until("the one that is left is taken", || address(&roster, "a") == "10.0.0.2:9810").await;
    fake.delete(&pod_path("new"));
    until("no pod is left", || endpoint(&roster, "a").is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn a_new_address_is_reported_and_irrelevant_changes_are_not() {
    let fake = Fake::new();
    fake.put(&pod_path("p"), pod("p", "a", "10.0.0.1", true, 0));
    fake.put(&pod_path("q"), pod("q", "b", "10.0.0.2", true, 0));
    let (_discovery, mut roster) = started(&fake).await;
    fake.put(&pod_path("p"), pod("p", "a", "10.0.0.7", true, 0));
    until("the address changed", || address(&roster, "a") == "10.0.0.7:9810").await;
    roster.mark_unchanged();
    let mut annotated = pod("q", "b", "10.0.0.2", true, 0);
    annotated["metadata"]["annotations"] = json!({"seen": "yes"});
    fake.put(&pod_path("q"), annotated);
    // Longer than any delivery takes here, watches that end and are resumed included.
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert!(!roster.has_changed().unwrap());
    fake.put(&pod_path("q"), pod("q", "b", "10.0.0.8", true, 0));
    until("the watch continues", || address(&roster, "b") == "10.0.0.8:9810").await;
}

/// Watches end once a minute; changes in between are reported by the next one.
#[tokio::test(start_paused = true)]
async fn a_watch_that_ended_is_resumed_without_a_new_list() {
    let fake = Fake::new();
    fake.put(&pod_path("p"), pod("p", "a", "10.0.0.1", true, 0));
    let (_discovery, roster) = started(&fake).await;
    for round in 2..30 {
        tokio::time::sleep(Duration::from_secs(47)).await;
        fake.cut();
        fake.put(&pod_path("p"), pod("p", "a", &format!("10.0.0.{round}"), true, 0));
        let expected = format!("10.0.0.{round}:9810");
        until("the change arrived", || address(&roster, "a") == expected).await;
    }
    assert_eq!(fake.count(|call| call.is_list() && !call.watches()), 1);
}

#[tokio::test(start_paused = true)]
async fn missed_changes_are_read_again() {
    for gone_by_status in [false, true] {
        let fake = Fake::new();
        fake.put(&pod_path("stays"), pod("stays", "a", "10.0.0.1", true, 0));
        fake.put(&pod_path("moves"), pod("moves", "b", "10.0.0.2", true, 0));
        fake.put(&pod_path("goes"), pod("goes", "c", "10.0.0.3", true, 0));
        let (_discovery, roster) = started(&fake).await;
        fake.freeze_watches();
        fake.delete(&pod_path("goes"));
        fake.put(&pod_path("moves"), pod("moves", "b", "10.0.0.8", true, 0));
        fake.put(&pod_path("comes"), pod("comes", "d", "10.0.0.4", true, 0));
        fake.forget_history("", gone_by_status);
        until("the list was read again", || address(&roster, "d") == "10.0.0.4:9810").await;
        assert_eq!(address(&roster, "a"), "10.0.0.1:9810");
        assert_eq!(address(&roster, "b"), "10.0.0.8:9810");
        assert_eq!(endpoint(&roster, "c"), None);
        assert_eq!(fake.count(|call| call.is_list() && !call.watches()), 2, "one list before and one after");
        fake.put(&pod_path("comes"), pod("comes", "d", "10.0.0.5", true, 0));
        until("changes arrive again", || address(&roster, "d") == "10.0.0.5:9810").await;
    }
}
