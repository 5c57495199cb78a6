//! What a node gets once, before its state is saved: installed programs, unpacked images.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use anyhow::Result;

use crate::agent::Guest;

type Work = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// A step that changes a node's root file system, done once for all nodes that ask for it and kept in the cache.
#[derive(Clone)]
pub struct Preparation {
    /// A short description for progress messages.
    pub(crate) name: String,
    pub(crate) key: String,
    pub(crate) work: Arc<dyn Fn(Guest) -> Work + Send + Sync>,
}

impl Preparation {
    /// A step with this name. `key` is a hash of everything that it puts into the guest; it runs as the
    /// guest's root, and its changes on disk are in every node, while memory and processes are not kept.
    pub fn new<F, W>(name: impl Into<String>, key: impl Into<String>, work: F) -> Self
    where
        F: Fn(Guest) -> W + Send + Sync + 'static,
        W: Future<Output = Result<()>> + Send + 'static,
    {
        Self { name: name.into(), key: key.into(), work: Arc::new(move |guest| Box::pin(work(guest))) }
    }
}

impl fmt::Debug for Preparation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Preparation({}, {})", self.name, self.key)
    }
}
