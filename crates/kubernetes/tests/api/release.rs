//! Which claims are deleted when a node is gone for good.

use std::time::Duration;

use quarry_controller::{Claims as _, Released, Releases as _};
use quarry_kubernetes::{ClaimReleases, VolumeClaims};
use quarry_volume::{Reason, StorageId, VolumeId};
use serde_json::{Value, json};

use crate::fake::{Fake, Fault};
use crate::objects::{DRIVER, clock_at, until, volume_path};

const CLAIM: &str = "/api/v1/namespaces/shop/persistentvolumeclaims/data-db-0";

fn id() -> VolumeId {
    VolumeId { storage: StorageId::of("vg"), node: "a".to_owned(), volume: "pvc-1".to_owned() }
}

fn bound(attributes: &Value) -> Value {
    json!({
        "metadata": {"uid": "uid-pv"},
        "spec": {
            "csi": {"driver": DRIVER, "volumeHandle": id().to_string(), "volumeAttributes": attributes},
            "claimRef": {"namespace": "shop", "name": "data-db-0", "uid": "uid-claim"},
        },
    })
}

fn claim(uid: &str) -> Value {
    json!({"metadata": {"uid": uid, "namespace": "shop"}, "spec": {"volumeName": "pvc-1"}})
}

async fn releasing(fake: &Fake) -> (VolumeClaims, ClaimReleases) {
    let connection = fake.connection("quarry-0");
    let claims = VolumeClaims::start(&connection, DRIVER);
    until("the volumes were read", || claims.handles().is_some()).await;
    let releases = ClaimReleases::new(&connection, &claims, DRIVER, clock_at(60));
    (claims, releases)
}

#[tokio::test(start_paused = true)]
async fn a_claim_is_deleted_with_an_event_that_says_why() {
    let fake = Fake::new();
    fake.put(&volume_path("pvc-1"), bound(&json!({"onNodeLoss": "release"})));
    fake.put(CLAIM, claim("uid-claim"));
    let (_claims, releases) = releasing(&fake).await;
    assert_eq!(releases.release(&id()).await.unwrap(), Released::Now);
    assert!(fake.all("/api/v1/namespaces/shop/persistentvolumeclaims/").is_empty());
    let events = fake.all("/apis/events.k8s.io/v1/namespaces/shop/events/");
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["reason"], "ClaimReleased");
    assert_eq!(events[0]["regarding"]["kind"], "PersistentVolumeClaim");
    assert_eq!(events[0]["regarding"]["uid"], "uid-claim");
    assert!(events[0]["note"].as_str().unwrap().contains("node a, which is gone for good"));
    // It is gone.
    assert_eq!(releases.release(&id()).await.unwrap(), Released::NoClaim);
}

#[tokio::test(start_paused = true)]
async fn what_the_class_does_not_release_stays() {
    let mut being_deleted = claim("uid-claim");
    being_deleted["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let mut unbound = bound(&json!({"onNodeLoss": "release"}));
    unbound["spec"]["claimRef"] = Value::Null;
    let mut foreign = bound(&json!({"onNodeLoss": "release"}));
    foreign["spec"]["csi"]["driver"] = json!("other.example.org");
    let mut elsewhere = claim("uid-claim");
    elsewhere["spec"]["volumeName"] = json!("pv-by-hand");
    let mut pending = claim("uid-claim");
    pending["spec"]["volumeName"] = Value::Null;
    let releasing_class = || bound(&json!({"onNodeLoss": "release"}));
    for (why, volume, claim, expected) in [
        ("its class says nothing", bound(&Value::Null), claim("uid-claim"), Released::Never),
        ("its class keeps it", bound(&json!({"onNodeLoss": "keep"})), claim("uid-claim"), Released::Never),
        ("another claim has its name", releasing_class(), claim("uid-another"), Released::NoClaim),
        ("the claim is bound to another volume", releasing_class(), elsewhere, Released::NoClaim),
        ("the claim is bound to no volume", releasing_class(), pending, Released::NoClaim),
        ("it is being deleted", releasing_class(), being_deleted, Released::NoClaim),
        ("the volume is not bound", unbound, claim("uid-claim"), Released::NoClaim),
        ("the volume is of another driver", foreign, claim("uid-claim"), Released::NoClaim),
    ] {
        let fake = Fake::new();
        fake.put(&volume_path("pvc-1"), volume);
        fake.put(CLAIM, claim);
        let (_claims, releases) = releasing(&fake).await;
        assert_eq!(releases.release(&id()).await.unwrap(), expected, "{why}");
        assert_eq!(fake.all("/api/v1/namespaces/shop/persistentvolumeclaims/").len(), 1, "{why}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_api_that_does_not_answer_is_asked_again() {
    let fake = Fake::new();
    fake.put(&volume_path("pvc-1"), bound(&json!({"onNodeLoss": "release"})));
    fake.put(CLAIM, claim("uid-claim"));
    let (_claims, releases) = releasing(&fake).await;
    fake.plan(|_| Fault { before: Duration::from_secs(60), ..Fault::default() });
    assert_eq!(releases.release(&id()).await.unwrap_err().reason, Reason::Unavailable);
    fake.plan(|_| Fault { refused: Some(403), ..Fault::default() });
    let error = releases.release(&id()).await.unwrap_err();
    assert!(error.message.contains("ClusterRole"), "{error}");
    fake.plan(|_| Fault::default());
    assert_eq!(releases.release(&id()).await.unwrap(), Released::Now);
}
