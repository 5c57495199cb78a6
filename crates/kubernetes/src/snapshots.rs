//! The snapshots that are still wanted: the handles of all VolumeSnapshotContents of this driver.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use parking_lot::Mutex;

use crate::connect::Connection;
use crate::follow::{Mirror, Selection, follow};
use crate::guard::Task;

/// The VolumeSnapshotContents.
pub(crate) fn contents(client: &Client) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("snapshot.storage.k8s.io", "v1", "VolumeSnapshotContent");
    Api::all_with(client.clone(), &ApiResource::from_gvk(&kind))
}

/// The handles in a VolumeSnapshotContent: first the one from the driver, then the one from the operator who has made the
/// object.
pub(crate) fn handles_of(content: &DynamicObject) -> impl Iterator<Item = &str> {
    ["/status/snapshotHandle", "/spec/source/snapshotHandle"]
        .into_iter()
        .filter_map(|pointer| content.data.pointer(pointer)?.as_str())
}

/// Follows the VolumeSnapshotContents until it is dropped.
#[derive(Debug)]
pub(crate) struct SnapshotClaims {
    state: Arc<Mutex<State>>,
    _task: Task,
}

#[derive(Debug, Default)]
struct State {
    /// By the name of the object; `None` until all have been read once.
    handles: Option<HashMap<String, String>>,
    /// Whether changes arrive.
    is_current: bool,
}

impl SnapshotClaims {
    /// Starts following the VolumeSnapshotContents whose `spec.driver` is `driver`.
    pub(crate) fn start(connection: &Connection, driver: &str) -> Self {
        let api = contents(&connection.client);
        let state = Arc::<Mutex<State>>::default();
        let mirror = SnapshotMirror { state: Arc::clone(&state), driver: driver.to_owned(), fresh: None };
        let task = follow(api, &Selection::default(), mirror, "the VolumeSnapshotContents");
        Self { state, _task: task }
    }

    /// The handles; `None` if they are not known, also while no changes arrive.
    pub(crate) fn handles(&self) -> Option<Arc<HashSet<String>>> {
        let state = self.state.lock();
        let handles = state.handles.as_ref().filter(|_| state.is_current)?;
        Some(Arc::new(handles.values().cloned().collect()))
    }
}

struct SnapshotMirror {
    state: Arc<Mutex<State>>,
    driver: String,
    /// The list that is being read.
    fresh: Option<HashMap<String, String>>,
}

impl SnapshotMirror {
    /// Name and handle, if the snapshot belongs to this driver and has a handle.
    fn name_and_handle(&self, content: &DynamicObject) -> Option<(String, String)> {
        let driver = content.data.pointer("/spec/driver")?.as_str()?;
        (driver == self.driver).then_some(())?;
        Some((content.metadata.name.clone()?, handles_of(content).next()?.to_owned()))
    }
}

impl Mirror<DynamicObject> for SnapshotMirror {
    fn begin(&mut self) {
        self.fresh = Some(HashMap::new());
    }

    fn listed(&mut self, content: DynamicObject) {
        if let (Some((name, handle)), Some(fresh)) = (self.name_and_handle(&content), &mut self.fresh) {
            fresh.insert(name, handle);
        }
    }

    fn complete(&mut self) {
        if let Some(fresh) = self.fresh.take() {
            self.state.lock().handles = Some(fresh);
        }
    }

    fn applied(&mut self, content: DynamicObject) {
        let found = self.name_and_handle(&content);
        let mut state = self.state.lock();
        match (found, &mut state.handles) {
            (Some((name, handle)), Some(handles)) => {
                handles.insert(name, handle);
            }
            // The snapshot was deleted, and the object will be.
            (None, Some(handles)) => {
                handles.remove(content.metadata.name.as_deref().unwrap_or_default());
            }
            (_, None) => {}
        }
    }

    fn deleted(&mut self, content: DynamicObject) {
        if let (Some(name), Some(handles)) = (&content.metadata.name, &mut self.state.lock().handles) {
            handles.remove(name);
        }
    }

    fn current(&mut self, current: bool) {
        self.state.lock().is_current = current;
    }
}
