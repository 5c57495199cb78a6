//! The volumes that are still claimed: the handles of all PersistentVolumes of this driver.
//!
//! Kept as small as possible, because a cluster may have 100,000: the handles (which callers share without a
//! copy), and the name of each PersistentVolume, indexed by a hash of its handle.

use std::collections::{BTreeSet, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use k8s_openapi::api::core::v1::PersistentVolume;
use kube::Api;
use parking_lot::Mutex;
use quarry_controller::Claims;

use crate::connect::Connection;
use crate::follow::{Mirror, Selection, follow};
use crate::guard::Task;
use crate::snapshots::SnapshotClaims;

/// Follows the PersistentVolumes, and the VolumeSnapshotContents if requested, until it is dropped.
#[derive(Debug)]
pub struct VolumeClaims {
    index: Arc<Index>,
    /// `None`: snapshots are not followed.
    snapshots: Option<SnapshotClaims>,
    _task: Task,
}

impl VolumeClaims {
    /// Starts following the PersistentVolumes whose `spec.csi.driver` is `driver`.
    #[must_use]
    pub fn start(connection: &Connection, driver: &str) -> Self {
        let index = Arc::<Index>::default();
        let mirror = VolumeMirror { index: Arc::clone(&index), driver: driver.to_owned(), fresh: None };
        let api = Api::<PersistentVolume>::all(connection.client.clone());
        let task = follow(api, &Selection::default(), mirror, "the PersistentVolumes");
        Self { index, snapshots: None, _task: task }
    }

    /// Also follows the VolumeSnapshotContents whose `spec.driver` is `driver`. Their CRD must be installed.
    #[must_use]
    pub fn with_snapshots(self, connection: &Connection, driver: &str) -> Self {
        Self { snapshots: Some(SnapshotClaims::start(connection, driver)), ..self }
    }

    pub(crate) fn index(&self) -> Arc<Index> {
        Arc::clone(&self.index)
    }
}

impl Claims for VolumeClaims {
    /// Also `None` while no changes arrive: a volume created meanwhile would look unclaimed.
    fn handles(&self) -> Option<Arc<HashSet<String>>> {
        let state = self.index.state.lock();
        state.volumes.as_ref().filter(|_| state.current).map(|volumes| Arc::clone(&volumes.handles))
    }

    fn snapshot_handles(&self) -> Option<Arc<HashSet<String>>> {
        self.snapshots.as_ref()?.handles()
    }
}

/// The state of the watch.
#[derive(Default)]
pub(crate) struct Index {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// `None` until all have been read once.
    volumes: Option<Volumes>,
    /// Whether changes arrive.
    current: bool,
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index").finish_non_exhaustive()
    }
}

impl Index {
    /// The name of a PersistentVolume with this handle.
    pub(crate) fn volume_of(&self, handle: &str) -> Option<String> {
        self.state.lock().volumes.as_ref()?.name_of(handle).map(str::to_owned)
    }
}

/// PersistentVolumes by handle.
#[doc(hidden)]
#[derive(Default)]
pub struct Volumes {
    handles: Arc<HashSet<String>>,
    /// Hash of the handle, and name. A handle has several names while an operator moves a volume from one
    /// PersistentVolume to another.
    names: BTreeSet<(u64, Box<str>)>,
    hasher: RandomState,
}

impl Volumes {
    #[doc(hidden)]
    pub fn insert(&mut self, name: &str, handle: &str) {
        self.names.insert((self.hasher.hash_one(handle), name.into()));
        if !self.handles.contains(handle) {
            // Copies only while a caller still holds the previous set.
            Arc::make_mut(&mut self.handles).insert(handle.to_owned());
        }
    }

    fn remove(&mut self, name: &str, handle: &str) {
        self.names.remove(&(self.hasher.hash_one(handle), name.into()));
        if self.name_of(handle).is_none() {
            Arc::make_mut(&mut self.handles).remove(handle);
        }
    }

    fn name_of(&self, handle: &str) -> Option<&str> {
        let key = self.hasher.hash_one(handle);
        let (found, name) = self.names.range((key, Box::default())..).next()?;
        (*found == key).then_some(&**name)
    }
}

struct VolumeMirror {
    index: Arc<Index>,
    driver: String,
    /// The list that is being read.
    fresh: Option<Volumes>,
}

impl VolumeMirror {
    /// Name and handle, if the volume belongs to this driver.
    fn name_and_handle(&self, volume: PersistentVolume) -> Option<(String, String)> {
        let csi = volume.spec?.csi?;
        (csi.driver == self.driver).then_some((volume.metadata.name?, csi.volume_handle))
    }
}

impl Mirror<PersistentVolume> for VolumeMirror {
    fn begin(&mut self) {
        self.fresh = Some(Volumes::default());
    }

    fn listed(&mut self, volume: PersistentVolume) {
        if let Some((name, handle)) = self.name_and_handle(volume)
            && let Some(fresh) = &mut self.fresh
        {
            fresh.insert(&name, &handle);
        }
    }

    fn complete(&mut self) {
        if let Some(fresh) = self.fresh.take() {
            self.index.state.lock().volumes = Some(fresh);
        }
    }

    fn applied(&mut self, volume: PersistentVolume) {
        if let Some((name, handle)) = self.name_and_handle(volume)
            && let Some(volumes) = &mut self.index.state.lock().volumes
        {
            volumes.insert(&name, &handle);
        }
    }

    fn deleted(&mut self, volume: PersistentVolume) {
        if let Some((name, handle)) = self.name_and_handle(volume)
            && let Some(volumes) = &mut self.index.state.lock().volumes
        {
            volumes.remove(&name, &handle);
        }
    }

    fn current(&mut self, current: bool) {
        self.index.state.lock().current = current;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_stays_while_any_volume_has_it() {
        let mut volumes = Volumes::default();
        volumes.insert("old", "h");
        volumes.insert("new", "h");
        volumes.insert("other", "g");
        volumes.insert("new", "h");
        volumes.remove("old", "h");
        assert_eq!(volumes.name_of("h"), Some("new"));
        assert!(volumes.handles.contains("h"));
        volumes.remove("new", "h");
        assert_eq!(volumes.name_of("h"), None);
        assert_eq!(*volumes.handles, HashSet::from(["g".to_owned()]));
        volumes.remove("new", "h");
        assert_eq!(*volumes.handles, HashSet::from(["g".to_owned()]));
    }

    #[test]
    fn the_claims_that_a_caller_holds_do_not_change() {
        let mut volumes = Volumes::default();
        volumes.insert("a", "h");
        let held = Arc::clone(&volumes.handles);
        volumes.insert("b", "g");
        assert_eq!(held.len(), 1);
        assert_eq!(volumes.handles.len(), 2);
    }
}
