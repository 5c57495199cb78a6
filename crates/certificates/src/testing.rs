//! A store in memory whose operations a test can delay, fail and watch.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::{Mutex, MutexGuard};

use crate::store::{Create, Data, Item, Store, StoreError, Update, Versioned};

/// An event in an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// `read`, `create` or `update`.
    pub operation: &'static str,
    /// On which item.
    pub item: Item,
    /// Before the operation took effect, or after.
    pub after: bool,
}

/// Called at every [`Event`]; may wait, and may fail the operation with a reason. After the effect, the
/// failure hides it.
pub type Hook = Arc<dyn Fn(Event) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> + Send + Sync>;

/// A change of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which item.
    pub item: Item,
    /// What it holds from now on; `None` if it was removed.
    pub data: Option<Data>,
}

#[derive(Default)]
struct Inner {
    items: BTreeMap<Item, (Data, u64)>,
    version: u64,
    history: Vec<Change>,
}

/// A store in memory. Clones and [`MemoryStore::hooked`] views share the contents.
#[derive(Clone, Default)]
pub struct MemoryStore {
    inner: Arc<Mutex<Inner>>,
    hook: Option<Hook>,
}

impl MemoryStore {
    /// The same contents, accessed through a hook: one replica's access.
    #[must_use]
    pub fn hooked(&self, hook: Hook) -> Self {
        Self { inner: Arc::clone(&self.inner), hook: Some(hook) }
    }

    /// The contents of an item.
    #[must_use]
    pub fn peek(&self, item: Item) -> Option<Data> {
        self.lock().items.get(&item).map(|(data, _)| data.clone())
    }

    /// Sets or deletes an item from outside, like an operator.
    pub fn poke(&self, item: Item, data: Option<Data>) {
        self.lock().set(item, data);
    }

    /// All changes since the start.
    #[must_use]
    pub fn history(&self) -> Vec<Change> {
        self.lock().history.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    async fn event(&self, operation: &'static str, item: Item, after: bool) -> Result<(), StoreError> {
        let Some(hook) = &self.hook else { return Ok(()) };
        hook(Event { operation, item, after }).await.map_err(|why| StoreError {
            attempted: operation,
            item,
            source: why.into(),
        })
    }
}

impl Inner {
    fn set(&mut self, item: Item, data: Option<Data>) {
        self.version += 1;
        match &data {
            Some(data) => self.items.insert(item, (data.clone(), self.version)),
            None => self.items.remove(&item),
        };
        self.history.push(Change { item, data });
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, item: Item) -> Result<Option<Versioned>, StoreError> {
        self.event("read", item, false).await?;
        let found = self
            .lock()
            .items
            .get(&item)
            .map(|(data, version)| Versioned { data: data.clone(), version: version.to_string() });
        self.event("read", item, true).await?;
        Ok(found)
    }

    async fn create(&self, item: Item, data: Data) -> Result<Create, StoreError> {
        self.event("create", item, false).await?;
        let created = {
            let mut inner = self.lock();
            if inner.items.contains_key(&item) {
                Create::AlreadyThere
            } else {
                inner.set(item, Some(data));
                Create::Created
            }
        };
        self.event("create", item, true).await?;
        Ok(created)
    }

    async fn update(&self, item: Item, data: Data, version: &str) -> Result<Update, StoreError> {
        self.event("update", item, false).await?;
        let updated = {
            let mut inner = self.lock();
            if inner.items.get(&item).is_some_and(|(_, present)| present.to_string() == version) {
                inner.set(item, Some(data));
                Update::Updated
            } else {
                Update::Conflict
            }
        };
        self.event("update", item, true).await?;
        Ok(updated)
    }
}
