//! The certificates' store over Secrets.

use std::collections::BTreeMap;
use std::time::Duration;

use quarry_certificates::{Create, Data, Item, Store as _, Update};
use quarry_kubernetes::SecretStore;
use serde_json::json;

use crate::fake::{Fake, Fault, NAMESPACE};

fn path(item: Item) -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/secrets/quarry-tls-{}", item.name())
}

fn data(mark: &str) -> Data {
    [("tls.crt", mark), ("tls.key", "key"), ("ca.crt", "ca")]
        .into_iter()
        .map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn an_item_is_made_once_and_read_back() {
    let fake = Fake::new();
    let store = SecretStore::new(&fake.connection("quarry-0"), "quarry-tls");
    for item in Item::ALL {
        assert!(store.get(item).await.unwrap().is_none());
        assert_eq!(store.create(item, data("one")).await.unwrap(), Create::Created);
        assert_eq!(store.create(item, data("two")).await.unwrap(), Create::AlreadyThere);
        assert_eq!(store.get(item).await.unwrap().unwrap().data, data("one"));
        let secret = fake.get(&path(item)).unwrap();
        let type_ = if item == Item::Authority { "Opaque" } else { "kubernetes.io/tls" };
        assert_eq!(secret["type"], type_);
        assert_eq!(secret["metadata"]["labels"]["app.kubernetes.io/managed-by"], "quarry");
        assert_eq!(secret["data"]["tls.crt"], "b25l");
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_is_made_from_the_version_that_was_read_only() {
    let fake = Fake::new();
    let one = SecretStore::new(&fake.connection("quarry-0"), "quarry-tls");
    let two = SecretStore::new(&fake.connection("quarry-1"), "quarry-tls");
    assert_eq!(one.update(Item::Node, data("x"), "1").await.unwrap(), Update::Conflict, "it does not exist");
    one.create(Item::Node, data("first")).await.unwrap();
    let read = one.get(Item::Node).await.unwrap().unwrap();
    assert_eq!(two.update(Item::Node, data("second"), &read.version).await.unwrap(), Update::Updated);
    assert_eq!(one.update(Item::Node, data("third"), &read.version).await.unwrap(), Update::Conflict);
    assert_eq!(one.update(Item::Node, data("third"), "").await.unwrap(), Update::Conflict);
    assert_eq!(one.get(Item::Node).await.unwrap().unwrap().data, data("second"));
}

/// Another replica writes between the read and the write of an update.
#[tokio::test(start_paused = true)]
async fn two_updates_at_once_leave_one_winner() {
    let fake = Fake::new();
    let stores = [0, 1, 2].map(|n| SecretStore::new(&fake.connection(&format!("quarry-{n}")), "quarry-tls"));
    stores[0].create(Item::Controller, data("first")).await.unwrap();
    let version = stores[0].get(Item::Controller).await.unwrap().unwrap().version;
    fake.plan(|_| Fault { before: Duration::from_millis(50), after: Duration::from_millis(50), ..Fault::default() });
    let (a, b, c) = tokio::join!(
        stores[0].update(Item::Controller, data("a"), &version),
        stores[1].update(Item::Controller, data("b"), &version),
        stores[2].update(Item::Controller, data("c"), &version),
    );
    let ends = [a.unwrap(), b.unwrap(), c.unwrap()];
    assert_eq!(ends.iter().filter(|end| **end == Update::Updated).count(), 1, "{ends:?}");
    let puts = fake.count(|call| call.method == http::Method::PUT);
    assert_eq!(puts, 3, "all three had seen the same version");
}

/// A chart may make the Secrets in advance, so that no right to create is needed.
#[tokio::test(start_paused = true)]
async fn a_secret_made_in_advance_is_filled_and_keeps_foreign_keys() {
    let fake = Fake::new();
    let store = SecretStore::new(&fake.connection("quarry-0"), "quarry-tls");
    fake.put(
        &path(Item::Node),
        json!({
            "metadata": {"annotations": {"helm.sh/resource-policy": "keep"}},
            "type": "kubernetes.io/tls",
            "data": {"tls.crt": "", "tls.key": ""},
        }),
    );
    fake.put(&path(Item::Controller), json!({"metadata": {}, "type": "Opaque"}));
    for item in [Item::Node, Item::Controller] {
        let read = store.get(item).await.unwrap().unwrap();
        assert_eq!(read.data, BTreeMap::new());
        assert_eq!(store.update(item, data("new"), &read.version).await.unwrap(), Update::Updated);
        assert_eq!(store.get(item).await.unwrap().unwrap().data, data("new"));
    }
    assert_eq!(fake.get(&path(Item::Node)).unwrap()["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    assert_eq!(fake.get(&path(Item::Controller)).unwrap()["type"], "Opaque");
}

#[tokio::test(start_paused = true)]
async fn an_error_names_the_operation_and_the_cause() {
    let fake = Fake::new();
    let store = SecretStore::new(&fake.connection("quarry-0"), "quarry-tls");
    fake.plan(|_| Fault { refused: Some(403), ..Fault::default() });
    // The permission is in a Role, that of other requests in a ClusterRole.
    let error = store.get(Item::Authority).await.unwrap_err().to_string();
    assert!(error.contains("read") && error.contains("authority"), "{error}");
    assert!(error.contains("Role or ClusterRole"), "{error}");
    // The chart creates the Secrets, and does not permit the controllers to do so.
    let error = store.create(Item::Authority, data("x")).await.unwrap_err().to_string();
    assert!(error.contains("create") && error.contains("authority") && error.contains("as the test asked"), "{error}");
    assert!(error.contains("Secret quarry-tls-authority is missing"), "{error}");
    assert!(error.contains("`kubectl create secret generic quarry-tls-authority -n quarry`"), "{error}");
    fake.no_plan();
    fake.down();
    let error = store.get(Item::Authority).await.unwrap_err().to_string();
    assert!(error.contains("is unreachable") && error.contains("connection refused"), "{error}");
    fake.up();
    fake.plan(|_| Fault { after: Duration::from_secs(60), ..Fault::default() });
    let error = store.get(Item::Authority).await.unwrap_err().to_string();
    assert!(error.contains("did not answer within 4 s"), "{error}");
}
