//! Which volumes are reported as claimed.

use std::collections::HashSet;
use std::time::Duration;

use quarry_controller::Claims as _;
use quarry_kubernetes::VolumeClaims;

use crate::fake::{Fake, Fault};
use crate::objects::{DRIVER, seconds, until, volume, volume_path};
use crate::request::Call;

fn handles(claims: &VolumeClaims) -> Option<HashSet<String>> {
    claims.handles().map(|handles| (*handles).clone())
}

fn set(names: &[&str]) -> Option<HashSet<String>> {
    Some(names.iter().map(|name| (*name).to_owned()).collect())
}

#[tokio::test(start_paused = true)]
async fn the_handles_of_this_driver_are_known_and_no_others() {
    let fake = Fake::new();
    fake.put(&volume_path("pv-1"), volume(DRIVER, "h1"));
    fake.put(&volume_path("pv-2"), volume("other.example.org", "h2"));
    let mut nfs = volume(DRIVER, "h3");
    nfs["spec"] = serde_json::json!({"nfs": {"server": "s", "path": "/"}});
    fake.put(&volume_path("pv-3"), nfs);
    let claims = VolumeClaims::start(&fake.connection("quarry-0"), DRIVER);
    assert_eq!(handles(&claims), None);
    until("the volumes were read", || claims.handles().is_some()).await;
    assert_eq!(handles(&claims), set(&["h1"]));
    fake.put(&volume_path("pv-4"), volume(DRIVER, "h4"));
    until("the new one is there", || handles(&claims) == set(&["h1", "h4"])).await;
    // Moved to another PersistentVolume: wanted as long as either is there.
    fake.put(&volume_path("pv-1-moved"), volume(DRIVER, "h1"));
    fake.delete(&volume_path("pv-1"));
    fake.delete(&volume_path("pv-4"));
    until("the old one is gone", || handles(&claims) == set(&["h1"])).await;
    fake.delete(&volume_path("pv-1-moved"));
    until("both are gone", || handles(&claims) == set(&[])).await;
}

#[tokio::test(start_paused = true)]
async fn the_handles_of_snapshots_are_known_if_they_are_requested() {
    let fake = Fake::new();
    let path = |name: &str| format!("/apis/snapshot.storage.k8s.io/v1/volumesnapshotcontents/{name}");
    let content = |driver: &str, source: serde_json::Value, status: serde_json::Value| serde_json::json!({"metadata": {"uid": "u"}, "spec": {"driver": driver, "source": source}, "status": status});
    let taken = |driver: &str, handle: &str| {
        let status = serde_json::json!({"snapshotHandle": handle, "readyToUse": false});
        content(driver, serde_json::json!({"volumeHandle": "v"}), status)
    };
    fake.put(&path("taken"), taken(DRIVER, "s1"));
    fake.put(&path("other"), taken("other.example.org", "s2"));
    let given = serde_json::json!({"snapshotHandle": "s3"});
    fake.put(&path("given"), content(DRIVER, given, serde_json::Value::Null));
    // Its CreateSnapshot was not answered yet.
    let asked = serde_json::json!({"volumeHandle": "v"});
    fake.put(&path("asked"), content(DRIVER, asked, serde_json::Value::Null));
    let connection = fake.connection("quarry-0");
    let plain = VolumeClaims::start(&connection, DRIVER);
    let claims = VolumeClaims::start(&connection, DRIVER).with_snapshots(&connection, DRIVER);
    let handles = || claims.snapshot_handles().map(|handles| (*handles).clone());
    until("the contents were read", || handles() == set(&["s1", "s3"])).await;
    fake.put(&path("asked"), taken(DRIVER, "s4"));
    fake.delete(&path("taken"));
    until("the changes arrive", || handles() == set(&["s3", "s4"])).await;
    fake.down();
    until("the API is missed", || handles().is_none()).await;
    assert_eq!(plain.snapshot_handles(), None);
}

/// While changes do not arrive, a volume created meanwhile would look unclaimed.
#[tokio::test(start_paused = true)]
async fn claims_are_unknown_while_the_api_is_unreachable() {
    let fake = Fake::new();
    fake.put(&volume_path("pv-1"), volume(DRIVER, "h1"));
    let claims = VolumeClaims::start(&fake.connection("quarry-0"), DRIVER);
    until("the volumes were read", || claims.handles().is_some()).await;
    fake.down();
    until("the API is missed", || claims.handles().is_none()).await;
    seconds(120).await;
    assert_eq!(handles(&claims), None);
    fake.up();
    // Nothing changes, so the watch is idle: it is still known to be working.
    until("the API is back", || claims.handles().is_some()).await;
    assert_eq!(handles(&claims), set(&["h1"]));
    assert_eq!(fake.count(|call| call.is_list() && !call.watches() && call.parameter("limit") != "1"), 1);
}

/// The watch cannot be resumed after an outage, and the new list takes long: a volume created meanwhile is not in the old
/// state.
#[tokio::test(start_paused = true)]
async fn claims_are_unknown_after_an_outage_until_all_volumes_were_read_again() {
    let fake = Fake::new();
    // More than a page.
    for number in 100..400 {
        fake.put(&volume_path(&format!("pv-{number}")), volume(DRIVER, &format!("h{number}")));
    }
    let claims = VolumeClaims::start(&fake.connection("quarry-0"), DRIVER);
    until("the volumes were read", || claims.handles().is_some()).await;
    fake.down();
    until("the API is missed", || claims.handles().is_none()).await;
    fake.put(&volume_path("pv-new"), volume(DRIVER, "new"));
    fake.forget_history("", false);
    let second =
        |call: &Call| call.is_list() && call.parameter("limit") != "1" && !call.parameter("continue").is_empty();
    fake.plan(move |call| Fault { after: Duration::from_secs(if second(call) { 60 } else { 0 }), ..Fault::default() });
    let before = fake.count(second);
    fake.up();
    until("the second page is asked for", || fake.count(second) > before).await;
    until("the API is back", || claims.handles().is_some()).await;
    assert!(handles(&claims).unwrap().contains("new"), "known before they were read");
    assert_eq!(handles(&claims).unwrap().len(), 301);
}
