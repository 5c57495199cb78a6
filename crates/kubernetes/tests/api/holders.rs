//! Which objects name a volume or a snapshot, as the API has them now.

use quarry_kubernetes::{holders_of_snapshot, holders_of_volume};
use quarry_volume::{Reason, SnapshotId, VolumeId};
use serde_json::json;

use crate::fake::{Fake, Fault};
use crate::objects::{DRIVER, volume, volume_path};

fn id() -> VolumeId {
    "v1:aaaaaaaaaa:n1:pvc-a".parse().unwrap()
}

/// 501 PersistentVolumes, of which the last one is on a second page and names the volume.
fn two_pages() -> Fake {
    let fake = Fake::new();
    for number in 0..500 {
        fake.put(&volume_path(&format!("pv-{number:03}")), volume(DRIVER, &format!("v1:aaaaaaaaaa:n1:{number}")));
    }
    fake.put(&volume_path("rescued"), volume(DRIVER, &id().to_string()));
    fake
}

#[tokio::test(start_paused = true)]
async fn all_volumes_of_all_pages_and_drivers_count() {
    let fake = two_pages();
    let connection = fake.connection("quarry-0");
    assert_eq!(holders_of_volume(&connection, &id()).await.unwrap(), ["rescued"]);
    fake.put(&volume_path("a-copy"), volume("other.example.org", &id().to_string()));
    assert_eq!(holders_of_volume(&connection, &id()).await.unwrap(), ["a-copy", "rescued"]);
    // Each answer is that of the API, and not of a cache.
    fake.delete(&volume_path("a-copy"));
    fake.delete(&volume_path("rescued"));
    assert!(holders_of_volume(&connection, &id()).await.unwrap().is_empty());
    assert_eq!(fake.count(|call| !call.parameter("resourceVersion").is_empty()), 0);
}

#[tokio::test(start_paused = true)]
async fn an_incomplete_list_is_no_answer() {
    let fake = two_pages();
    fake.plan(|call| Fault { refused: (!call.parameter("continue").is_empty()).then_some(410), ..Fault::default() });
    let error = holders_of_volume(&fake.connection("quarry-0"), &id()).await.unwrap_err();
    assert_eq!(error.reason, Reason::Unavailable);
    assert!(error.to_string().contains("cannot list the PersistentVolumes"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_content_holds_its_snapshot_with_either_handle() {
    let fake = Fake::new();
    let path = |name: &str| format!("/apis/snapshot.storage.k8s.io/v1/volumesnapshotcontents/{name}");
    let id: SnapshotId = "s1:aaaaaaaaaa:n1:snap".parse().unwrap();
    let connection = fake.connection("quarry-0");
    assert!(holders_of_snapshot(&connection, &id).await.unwrap().is_empty());
    let handle = id.to_string();
    fake.put(&path("given"), json!({"spec": {"driver": "x", "source": {"snapshotHandle": handle}}}));
    fake.put(&path("taken"), json!({"spec": {"source": {"volumeHandle": "v"}}, "status": {"snapshotHandle": handle}}));
    fake.put(&path("other"), json!({"spec": {"source": {"volumeHandle": handle}}, "status": {"snapshotHandle": "s"}}));
    assert_eq!(holders_of_snapshot(&connection, &id).await.unwrap(), ["given", "taken"]);
    fake.down();
    assert_eq!(holders_of_snapshot(&connection, &id).await.unwrap_err().reason, Reason::Unavailable);
}
