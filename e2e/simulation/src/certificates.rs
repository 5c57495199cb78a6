//! Certificates for a run, issued as controllers issue them.

use std::sync::Arc;

use quarry_certificates::testing::MemoryStore;
use quarry_certificates::{Authority, Item, Settings, file};
use quarry_transport::tls::{Pem, Source, slot};

/// The certificates and the trusted authorities of the controllers, and those of the nodes.
pub(crate) fn make() -> (Source, Source) {
    let store = MemoryStore::default();
    let authority = Authority::new(Arc::new(store.clone()), Settings::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    while store.peek(Item::Controller).is_none() || store.peek(Item::Node).is_none() {
        runtime.block_on(authority.step()).unwrap();
    }
    (source(&store, Item::Controller), source(&store, Item::Node))
}

fn source(store: &MemoryStore, item: Item) -> Source {
    let data = store.peek(item).unwrap();
    let text = |name: &str| String::from_utf8(data[name].clone()).unwrap();
    let pem = Pem { certificate: text(file::CERTIFICATE), key: text(file::KEY), authorities: text(file::AUTHORITIES) };
    let (slot, source) = slot();
    slot.offer(&pem).unwrap();
    source
}
