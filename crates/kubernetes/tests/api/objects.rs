//! Objects as a cluster would have them, and how to wait for what becomes of them.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quarry_kubernetes::Clock;
use serde_json::{Value, json};

use crate::fake::NAMESPACE;

/// The label by which the plugin's pods are found.
pub(crate) const SELECTOR: &str = "app=quarry-node";
pub(crate) const PORT: u16 = 9810;
pub(crate) const DRIVER: &str = "local.csi.quarry.dev";

pub(crate) fn pod_path(name: &str) -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/pods/{name}")
}

pub(crate) fn node_path(name: &str) -> String {
    format!("/api/v1/nodes/{name}")
}

pub(crate) fn volume_path(name: &str) -> String {
    format!("/api/v1/persistentvolumes/{name}")
}

/// A time of day in the form of the API, `seconds` after the beginning of 2026.
pub(crate) fn time(seconds: u64) -> String {
    format!("2026-01-01T{:02}:{:02}:{:02}Z", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// A clock that says the same always: `seconds` after the beginning of 2026.
pub(crate) fn clock_at(seconds: u64) -> Clock {
    Arc::new(move || UNIX_EPOCH + Duration::from_secs(1_767_225_600 + seconds))
}

/// A clock that goes with tokio's.
pub(crate) fn going_clock() -> Clock {
    let (begin, wall): (_, SystemTime) = (tokio::time::Instant::now(), clock_at(0)());
    Arc::new(move || wall + begin.elapsed())
}

/// A running pod of the plugin: its UID is `uid-<name>`.
pub(crate) fn pod(name: &str, node: &str, address: &str, ready: bool, created: u64) -> Value {
    let ready = if ready { "True" } else { "False" };
    json!({
        "metadata": {
            "namespace": NAMESPACE, "uid": format!("uid-{name}"), "labels": {"app": "quarry-node"},
            "creationTimestamp": time(created),
        },
        "spec": {"nodeName": node, "containers": []},
        "status": {"phase": "Running", "podIP": address, "conditions": [{"type": "Ready", "status": ready}]},
    })
}

/// A Node whose condition Ready is `status` since `since`.
pub(crate) fn node(status: &str, since: u64) -> Value {
    json!({
        "metadata": {"creationTimestamp": time(0)},
        "status": {"conditions": [
            {"type": "DiskPressure", "status": "True", "lastTransitionTime": time(0)},
            {"type": "Ready", "status": status, "lastTransitionTime": time(since)},
        ]},
    })
}

pub(crate) fn volume(driver: &str, handle: &str) -> Value {
    json!({"metadata": {"uid": format!("uid-{handle}")}, "spec": {"csi": {"driver": driver, "volumeHandle": handle}}})
}

/// Lets the (virtual) time go on until something holds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..60_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("still not true after ten minutes: {what}");
}

pub(crate) async fn seconds(count: u64) {
    tokio::time::sleep(Duration::from_secs(count)).await;
}
