//! Certificates for the processes, issued as controllers issue them.

use std::sync::Arc;

use quarry_certificates::testing::MemoryStore;
use quarry_certificates::{Authority, Item, Settings};

use crate::Setting;

/// Issues them, and writes them where the processes expect them.
pub(crate) async fn make(setting: &Setting) {
    let store = MemoryStore::default();
    let authority = Authority::new(Arc::new(store.clone()), Settings::default()).unwrap();
    while store.peek(Item::Controller).is_none() || store.peek(Item::Node).is_none() {
        authority.step().await.unwrap();
    }
    for (role, item) in [("controller", Item::Controller), ("node", Item::Node)] {
        let directory = setting.certificates(role);
        std::fs::create_dir(&directory).unwrap();
        for (name, contents) in store.peek(item).unwrap() {
            std::fs::write(directory.join(name), contents).unwrap();
        }
    }
}
