//! Which volumes are reported as claimed.

use std::collections::HashSet;

use quarry_controller::Claims as _;
use quarry_kubernetes::VolumeClaims;

use crate::fake::Fake;
use crate::objects::{DRIVER, seconds, until, volume, volume_path};

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
