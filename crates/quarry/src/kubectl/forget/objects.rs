//! The objects of Kubernetes that name volumes and snapshots, as far as `kubectl quarry forget` reads them.

use std::collections::BTreeMap;

use quarry_volume::{SnapshotId, StorageId, VolumeId};
use serde::Deserialize;

use crate::kubectl::cluster::Access;
use crate::table::NOTHING;

/// The storage of one node, and the driver whose volumes are on it.
pub(super) struct Storage<'a> {
    pub(super) driver: &'a str,
    pub(super) node: &'a str,
    pub(super) id: &'a StorageId,
}

impl Storage<'_> {
    /// The annotation that confirms that it is gone for good.
    pub(super) fn annotation(&self) -> String {
        format!("{}/storage-gone", self.driver)
    }

    /// Whether the volume with this handle is on it.
    fn has_volume(&self, handle: &str) -> bool {
        handle.parse().is_ok_and(|id: VolumeId| id.node == self.node && id.storage == *self.id)
    }

    /// Whether the snapshot with this handle is on it.
    fn has_snapshot(&self, handle: &str) -> bool {
        handle.parse().is_ok_and(|id: SnapshotId| id.node == self.node && id.storage == *self.id)
    }
}

#[derive(Deserialize)]
struct List<T> {
    items: Vec<T>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    name: String,
    uid: String,
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct PersistentVolume {
    metadata: Metadata,
    spec: VolumeSpec,
    #[serde(default)]
    status: VolumeStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VolumeSpec {
    csi: Option<Csi>,
    claim_ref: Option<ClaimRef>,
    #[serde(default)]
    capacity: BTreeMap<String, String>,
    #[serde(default)]
    persistent_volume_reclaim_policy: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Csi {
    driver: String,
    volume_handle: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ClaimRef {
    namespace: String,
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct VolumeStatus {
    phase: String,
}

/// A PersistentVolume on the storage.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Volume {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) handle: String,
    /// `NAMESPACE/NAME`.
    pub(super) claim: String,
    pub(super) size: String,
    pub(super) phase: String,
    pub(super) reclaim_policy: String,
    /// Whether it has the annotation already.
    pub(super) is_confirmed: bool,
}

/// The PersistentVolumes on the storage.
///
/// # Errors
/// kubectl cannot list the PersistentVolumes.
pub(super) fn volumes(access: &Access, storage: &Storage) -> anyhow::Result<Vec<Volume>> {
    let kubectl = access.kubectl().args(["get", "persistentvolumes", "--output=json"]);
    let all: List<PersistentVolume> = access.json(kubectl, "list the PersistentVolumes")?;
    Ok(all.items.into_iter().filter_map(|volume| on_storage(volume, storage)).collect())
}

fn on_storage(volume: PersistentVolume, storage: &Storage) -> Option<Volume> {
    let PersistentVolume { metadata, spec, status } = volume;
    let csi = spec.csi.filter(|csi| csi.driver == storage.driver && storage.has_volume(&csi.volume_handle))?;
    let or = |text: String| if text.is_empty() { NOTHING.to_owned() } else { text };
    Some(Volume {
        is_confirmed: metadata.annotations.get(&storage.annotation()).is_some_and(|value| value == storage.id.as_str()),
        name: metadata.name,
        uid: metadata.uid,
        handle: csi.volume_handle,
        claim: spec.claim_ref.map_or_else(|| NOTHING.to_owned(), |claim| format!("{}/{}", claim.namespace, claim.name)),
        size: or(spec.capacity.get("storage").cloned().unwrap_or_default()),
        phase: or(status.phase),
        reclaim_policy: or(spec.persistent_volume_reclaim_policy),
    })
}

#[derive(Deserialize)]
struct SnapshotContent {
    metadata: Metadata,
    spec: SnapshotSpec,
    #[serde(default)]
    status: Option<Handle>,
}

#[derive(Deserialize)]
struct SnapshotSpec {
    driver: String,
    #[serde(default)]
    source: Handle,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Handle {
    snapshot_handle: Option<String>,
}

/// The resource, as kubectl finds it even if another group has one of the same name.
const CONTENTS: &str = "volumesnapshotcontents.snapshot.storage.k8s.io";

/// The names of the VolumeSnapshotContents on the storage; none if the cluster has no such resource.
///
/// # Errors
/// kubectl cannot find that out.
pub(super) fn snapshot_contents(access: &Access, storage: &Storage) -> anyhow::Result<Vec<String>> {
    let resource = access.kubectl().args(["get", "customresourcedefinition", CONTENTS, "--ignore-not-found"]);
    if access
        .answer(resource.arg("--output=name"), "find out whether the cluster has VolumeSnapshotContents")?
        .is_empty()
    {
        return Ok(Vec::new());
    }
    let kubectl = access.kubectl().args(["get", CONTENTS, "--output=json"]);
    let all: List<SnapshotContent> = access.json(kubectl, "list the VolumeSnapshotContents")?;
    let is_on_storage = |content: &SnapshotContent| {
        let of_driver = content.status.as_ref().and_then(|status| status.snapshot_handle.as_ref());
        let handles = of_driver.into_iter().chain(&content.spec.source.snapshot_handle);
        content.spec.driver == storage.driver && handles.into_iter().any(|handle| storage.has_snapshot(handle))
    };
    Ok(all.items.into_iter().filter(is_on_storage).map(|content| content.metadata.name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(object: serde_json::Value) -> Option<Volume> {
        let id = "aaaaaaaaaa".parse().unwrap();
        let storage = Storage { driver: "x.example.org", node: "n1", id: &id };
        on_storage(serde_json::from_value(object).unwrap(), &storage)
    }

    fn object(driver: &str, handle: &str, annotation: &str) -> serde_json::Value {
        serde_json::json!({
            "metadata": {"name": "pv", "uid": "u", "annotations": {"x.example.org/storage-gone": annotation}},
            "spec": {
                "csi": {"driver": driver, "volumeHandle": handle}, "capacity": {"storage": "2Gi"},
                "claimRef": {"namespace": "ns", "name": "data"}, "persistentVolumeReclaimPolicy": "Delete",
            },
            "status": {"phase": "Released"},
        })
    }

    #[test]
    fn only_volumes_of_the_driver_on_the_storage_of_the_node_count() {
        let handle = "v1:aaaaaaaaaa:n1:pvc-a";
        let volume = read(object("x.example.org", handle, "aaaaaaaaaa")).unwrap();
        assert_eq!(
            (volume.name.as_str(), volume.claim.as_str(), volume.size.as_str(), volume.phase.as_str()),
            ("pv", "ns/data", "2Gi", "Released")
        );
        assert!(volume.is_confirmed && volume.reclaim_policy == "Delete");
        assert!(!read(object("x.example.org", handle, "bbbbbbbbbb")).unwrap().is_confirmed, "another storage");
        for (driver, handle) in [
            ("other.example.org", handle),
            ("x.example.org", "v1:bbbbbbbbbb:n1:pvc-a"),
            ("x.example.org", "v1:aaaaaaaaaa:n2:pvc-a"),
            ("x.example.org", "v1:aaaaaaaaaa:n1"),
            ("x.example.org", "s1:aaaaaaaaaa:n1:pvc-a"),
            ("x.example.org", "v2:aaaaaaaaaa:n1:pvc-a"),
        ] {
            assert_eq!(read(object(driver, handle, "")), None, "{driver} {handle}");
        }
        let nfs = serde_json::json!({"metadata": {"name": "pv"}, "spec": {"nfs": {"server": "s", "path": "/"}}});
        assert_eq!(read(nfs), None);
    }
}
