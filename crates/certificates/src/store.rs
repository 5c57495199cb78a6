//! The storage of certificates: three items, each a map of file names to contents.

use std::collections::BTreeMap;

use async_trait::async_trait;

/// Names of the files in an item, as in a Secret of type `kubernetes.io/tls`.
pub mod file {
    /// The certificate, PEM.
    pub const CERTIFICATE: &str = "tls.crt";
    /// Its private key, PEM (PKCS #8).
    pub const KEY: &str = "tls.key";
    /// The trusted authorities, PEM. Only in leaf items.
    pub const AUTHORITIES: &str = "ca.crt";
}

/// The stored items, by role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Item {
    /// The authority's certificate and key, and the phase of its rotation. Only controllers may read it.
    Authority,
    /// The controller's certificate and key, and its trusted authorities.
    Controller,
    /// The certificate and key that all nodes share, and their trusted authorities.
    Node,
}

impl Item {
    /// All items.
    pub const ALL: [Item; 3] = [Item::Authority, Item::Controller, Item::Node];

    /// A short name, for a directory, a log line, or the end of a Secret's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Item::Authority => "authority",
            Item::Controller => "controller",
            Item::Node => "node",
        }
    }
}

impl std::fmt::Display for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Contents of an item: file name → bytes.
pub type Data = BTreeMap<String, Vec<u8>>;

/// An item that was read.
#[derive(Clone, PartialEq, Eq)]
pub struct Versioned {
    /// Its contents. Empty if an operator created the item in advance (so that no permission to create is
    /// needed): such an item counts as absent, but is filled by [`Store::update`].
    pub data: Data,
    /// Identifies this version of the item, opaque: a `resourceVersion`, a hash.
    pub version: String,
}

/// Keys never appear in a log.
impl std::fmt::Debug for Versioned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Versioned")
            .field("files", &self.data.keys().collect::<Vec<_>>())
            .field("version", &self.version)
            .finish()
    }
}

/// The result of [`Store::create`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Create {
    /// The item was absent and now holds the data.
    Created,
    /// The item already exists; it was not changed.
    AlreadyThere,
}

/// The result of [`Store::update`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Update {
    /// The item had the version and now holds the data.
    Updated,
    /// The item has another version, or was deleted; it was not changed.
    Conflict,
}

/// The store is unreachable or did not answer: whether a change took effect is unknown.
#[derive(Debug, thiserror::Error)]
#[error("cannot {attempted} the certificates of {item}: {source}")]
pub struct StoreError {
    /// What was attempted: `read`, `create`, `update`.
    pub attempted: &'static str,
    /// The item.
    pub item: Item,
    /// Why it failed.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// The store of the three items, shared by all controllers.
///
/// Every operation is atomic on its item, and `get` sees every change that had completed before it started
/// (in Kubernetes: a GET without a resource version, never an informer's cache). A failed operation may have
/// taken effect: callers read again. Operations may be dropped at any time.
#[async_trait]
pub trait Store: Send + Sync {
    /// Reads an item; `None` if it does not exist.
    async fn get(&self, item: Item) -> Result<Option<Versioned>, StoreError>;

    /// Creates an item, if it does not exist.
    async fn create(&self, item: Item, data: Data) -> Result<Create, StoreError>;

    /// Replaces the whole contents of an item, if it is still at `version`.
    async fn update(&self, item: Item, data: Data, version: &str) -> Result<Update, StoreError>;
}
