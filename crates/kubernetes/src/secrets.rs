//! Stores the certificates in Secrets: the store of `quarry-certificates`.
//!
//! `<prefix>-authority` contains the authority's key and is only for controllers; `<prefix>-controller` and
//! `<prefix>-node` are mounted into the pods of their roles. A change names the `resourceVersion` that it is
//! based on, so two controllers never overwrite each other. Reads always go to the API, never to a cache.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::PostParams;
use quarry_certificates::{Create, Data, Item, Store, StoreError, Update, Versioned};

use crate::ask::{LIMIT, Unanswered, ask};
use crate::connect::Connection;

/// Marks each Secret as managed by Quarry.
const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "quarry");

/// The three Secrets.
#[derive(Clone, Debug)]
pub struct SecretStore {
    api: Api<Secret>,
    namespace: String,
    prefix: String,
}

/// A Secret is missing, and the API rejects its creation: the Helm chart creates the Secrets, empty, and does not permit
/// the controllers to create any.
#[derive(Debug, thiserror::Error)]
#[error(
    "the Secret {name} is missing, and the Kubernetes API rejected its creation ({why}): create it empty (`kubectl create \
     secret generic {name} -n {namespace}`), or with the Helm chart run `helm upgrade`"
)]
struct Missing {
    name: String,
    namespace: String,
    why: String,
}

impl SecretStore {
    /// Secrets in Quarry's namespace whose names begin with `prefix`.
    #[must_use]
    pub fn new(connection: &Connection, prefix: &str) -> Self {
        let namespace = connection.namespace.clone();
        Self { api: Api::namespaced(connection.client.clone(), &namespace), namespace, prefix: prefix.to_owned() }
    }

    /// The name of the Secret for this item.
    #[must_use]
    pub fn name(&self, item: Item) -> String {
        format!("{}-{}", self.prefix, item.name())
    }

    fn fresh(&self, item: Item, data: Data) -> Secret {
        // The API requires tls.crt and tls.key in a Secret of type kubernetes.io/tls; the authority's may
        // hold other files.
        let type_ = match item {
            Item::Authority => "Opaque",
            Item::Controller | Item::Node => "kubernetes.io/tls",
        };
        let labels = BTreeMap::from([(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned())]);
        Secret {
            metadata: ObjectMeta { name: Some(self.name(item)), labels: Some(labels), ..ObjectMeta::default() },
            type_: Some(type_.to_owned()),
            data: Some(wrapped(data)),
            ..Secret::default()
        }
    }

    async fn read(&self, item: Item) -> Result<Option<Secret>, Unanswered> {
        ask(LIMIT, self.api.get_opt(&self.name(item))).await
    }
}

fn wrapped(data: Data) -> BTreeMap<String, ByteString> {
    data.into_iter().map(|(name, bytes)| (name, ByteString(bytes))).collect()
}

fn failed(attempted: &'static str, item: Item) -> impl FnOnce(Unanswered) -> StoreError {
    move |source| StoreError { attempted, item, source: Box::new(source) }
}

#[async_trait::async_trait]
impl Store for SecretStore {
    /// Empty files are omitted: a Secret of type `kubernetes.io/tls` that was created in advance must have
    /// them.
    async fn get(&self, item: Item) -> Result<Option<Versioned>, StoreError> {
        let Some(secret) = self.read(item).await.map_err(failed("read", item))? else { return Ok(None) };
        let data = secret.data.unwrap_or_default();
        let data =
            data.into_iter().map(|(name, bytes)| (name, bytes.0)).filter(|(_, bytes)| !bytes.is_empty()).collect();
        Ok(Some(Versioned { data, version: secret.metadata.resource_version.unwrap_or_default() }))
    }

    async fn create(&self, item: Item, data: Data) -> Result<Create, StoreError> {
        match ask(LIMIT, self.api.create(&PostParams::default(), &self.fresh(item, data))).await {
            Ok(_) => Ok(Create::Created),
            Err(error) if error.is(409) => Ok(Create::AlreadyThere),
            Err(Unanswered::Failed(kube::Error::Api(status))) if status.code == 403 => {
                let why = status.message;
                let missing = Missing { name: self.name(item), namespace: self.namespace.clone(), why };
                Err(StoreError { attempted: "create", item, source: Box::new(missing) })
            }
            Err(error) => Err(failed("create", item)(error)),
        }
    }

    /// Reads first, because a Secret's type cannot be changed and its labels and annotations may belong to
    /// others.
    async fn update(&self, item: Item, data: Data, version: &str) -> Result<Update, StoreError> {
        let Some(mut secret) = self.read(item).await.map_err(failed("update", item))? else {
            return Ok(Update::Conflict);
        };
        // Without a version the API would overwrite whatever is there.
        if version.is_empty() || secret.metadata.resource_version.as_deref() != Some(version) {
            return Ok(Update::Conflict);
        }
        secret.data = Some(wrapped(data));
        secret.string_data = None;
        secret.metadata.managed_fields = None;
        match ask(LIMIT, self.api.replace(&self.name(item), &PostParams::default(), &secret)).await {
            Ok(_) => Ok(Update::Updated),
            Err(error) if error.is(409) || error.is(404) => Ok(Update::Conflict),
            Err(error) => Err(failed("update", item)(error)),
        }
    }
}
