//! Where the certificates lie: three items, each a map of file names to contents.

use std::collections::BTreeMap;

use async_trait::async_trait;

/// Names of the files in an item, as in a Secret of type `kubernetes.io/tls`.
pub mod file {
    /// The certificate, PEM.
    pub const CERTIFICATE: &str = "tls.crt";
    /// Its private key, PEM (PKCS #8).
    pub const KEY: &str = "tls.key";
    /// The authorities that are believed, PEM. In leaf items only.
    pub const AUTHORITIES: &str = "ca.crt";
}

/// What is kept, by the role it plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Item {
    /// The authority's certificate and key, and how far its rotation is. Only controllers may read it.
    Authority,
    /// The controller's certificate and key, and the authorities it believes.
    Controller,
    /// The certificate and key that all nodes share, and the authorities they believe.
    Node,
}

impl Item {
    /// All items.
    pub const ALL: [Item; 3] = [Item::Authority, Item::Controller, Item::Node];

    /// A short name, fit for a directory, a log line, or the end of a Secret's name.
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

/// An item as it was read.
#[derive(Clone, PartialEq, Eq)]
pub struct Versioned {
    /// Its contents. Empty if somebody made the item in advance (so that a role needs no permission to create): such an
    /// item counts as absent, but is filled by [`Store::update`].
    pub data: Data,
    /// Names this state of the item, opaque: a `resourceVersion`, a hash.
    pub version: String,
}

/// Keys never show in a log.
impl std::fmt::Debug for Versioned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Versioned")
            .field("files", &self.data.keys().collect::<Vec<_>>())
            .field("version", &self.version)
            .finish()
    }
}

/// How [`Store::create`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Create {
    /// The item was absent and now holds the data.
    Created,
    /// The item exists already; it was not touched.
    AlreadyThere,
}

/// How [`Store::update`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Update {
    /// The item had the version and now holds the data.
    Updated,
    /// The item has another version, or is gone; it was not touched.
    Conflict,
}

/// The store could not be asked, or did not answer: whether a change took effect is not known.
#[derive(Debug, thiserror::Error)]
#[error("cannot {attempted} the certificates of {item}: {source}")]
pub struct StoreError {
    /// What was attempted: `read`, `create`, `update`.
    pub attempted: &'static str,
    /// On which item.
    pub item: Item,
    /// Why it failed.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// A place for the three items, shared by all controllers.
///
/// Every operation is atomic on its item, and `get` sees every change that had ended before it began (in Kubernetes: a
/// GET without a resource version, never an informer's cache). An operation that fails may have taken effect: callers
/// read again. Operations may be dropped at any time.
#[async_trait]
pub trait Store: Send + Sync {
    /// Reads an item; `None` if there is none.
    async fn get(&self, item: Item) -> Result<Option<Versioned>, StoreError>;

    /// Makes an item, if there is none.
    async fn create(&self, item: Item, data: Data) -> Result<Create, StoreError>;

    /// Replaces the whole contents of an item, if it still is at `version`.
    async fn update(&self, item: Item, data: Data, version: &str) -> Result<Update, StoreError>;
}
