//! Reports by Kubernetes Events what no caller waits for.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::SystemTime;

use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, Pod};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Resource as _, ResourceExt as _};
use quarry_controller::Abandoned;
use quarry_volume::VolumeId;

use crate::ask::{LIMIT, ask};
use crate::claims::{Index, VolumeClaims};
use crate::connect::Connection;
use crate::guard::timestamp;

/// Events on cluster-scoped objects are kept in this namespace, as `kubectl describe` expects.
const CLUSTER_EVENTS: &str = "default";

/// What an event says.
pub(crate) struct Notice {
    pub(crate) regarding: ObjectReference,
    pub(crate) reason: &'static str,
    pub(crate) action: &'static str,
    pub(crate) note: String,
    /// A part of its name. An event of the same name that the API still has, for an hour by default, is not written again.
    pub(crate) key: u64,
}

/// Writes events.
///
/// Not kube's `Recorder`: that merges events that differ only in their text, and one node that is gone for
/// good has many volumes.
#[derive(Clone, Debug)]
pub(crate) struct EventReporter {
    connection: Connection,
    index: Arc<Index>,
    driver: String,
}

impl EventReporter {
    pub(crate) fn new(connection: &Connection, claims: &VolumeClaims, driver: &str) -> Self {
        Self { connection: connection.clone(), index: claims.index(), driver: driver.to_owned() }
    }

    /// Whether the PersistentVolume of this volume has the annotation with which an operator confirms that its storage is
    /// gone for good: `DRIVER/storage-gone`, with the identifier of the storage.
    pub(crate) async fn is_storage_gone(&self, id: &VolumeId) -> bool {
        let Some(name) = self.index.volume_of(&id.to_string()) else { return false };
        let api = Api::<PersistentVolume>::all(self.connection.client.clone());
        match ask(LIMIT, api.get_opt(&name)).await {
            Ok(volume) => volume.is_some_and(|volume| {
                let is_it = volume
                    .spec
                    .as_ref()
                    .and_then(|spec| spec.csi.as_ref())
                    .is_some_and(|csi| csi.driver == self.driver && csi.volume_handle == id.to_string());
                let confirmed = volume.annotations().get(&format!("{}/storage-gone", self.driver));
                is_it && confirmed.is_some_and(|storage| storage == id.storage.as_str())
            }),
            Err(error) => {
                tracing::warn!(volume = %id, "cannot read whether its storage is gone for good: {error}");
                false
            }
        }
    }

    /// Reports on the PersistentVolume (or, if it does not exist, on this controller's pod) that a volume was
    /// abandoned. A failure to report is logged; it does not fail the deletion.
    pub(crate) async fn report_abandoned(&self, id: &VolumeId, why: Abandoned, now: SystemTime) {
        let (node, storage) = (&id.node, id.storage.as_str());
        let why = match why {
            Abandoned::NodeGone => format!(
                "its node {node} is gone for good (no Node object and no pod of the node plugin for five minutes), so \
                 nothing was deleted from its disks. If the host returns under this name"
            ),
            Abandoned::StorageGone => format!(
                "no pool of node {node} has storage {storage}, and an operator has confirmed that it is gone for good, so \
                 nothing was deleted. If the disks return"
            ),
        };
        let note = format!("volume {id} was abandoned: {why}, the volume still exists: `quarry orphans` lists it");
        tracing::warn!(volume = %id, node = id.node, "{note}");
        let regarding = match self.volume(&id.to_string()).await {
            Some(reference) => reference,
            None => self.own_pod().await,
        };
        let key = fastrand::u64(..);
        self.write(Notice { regarding, reason: "VolumeGivenUp", action: "DeleteVolume", note, key }, now).await;
    }

    /// Reports on the claim of a volume (or on its PersistentVolume, if it is not bound) that its I/O limits are not in
    /// force. Returns whether the event is there.
    pub(crate) async fn report_unlimited(&self, id: &VolumeId, why: &str, now: SystemTime) -> bool {
        let Some(name) = self.index.volume_of(&id.to_string()) else { return false };
        let api = Api::<PersistentVolume>::all(self.connection.client.clone());
        let Ok(Some(volume)) = ask(LIMIT, api.get_opt(&name)).await else { return false };
        let claim = volume.spec.as_ref().and_then(|spec| spec.claim_ref.clone());
        // The reference has the version of the PersistentVolume's field.
        let regarding =
            claim.map_or_else(|| volume.object_ref(&()), |claim| ObjectReference { field_path: None, ..claim });
        let note = format!("the I/O limits of volume {id} are not in force: {why}");
        // All controllers have the same key, so that only one of them writes the event.
        let mut key = DefaultHasher::new();
        note.hash(&mut key);
        let notice = Notice { regarding, reason: "LimitsNotInForce", action: "LimitIO", note, key: key.finish() };
        self.write(notice, now).await
    }

    /// Writes an event. A failure is logged. Returns whether the event is there.
    pub(crate) async fn write(&self, notice: Notice, now: SystemTime) -> bool {
        let event = self.event(notice, now);
        let namespace = event.metadata.namespace.as_deref().unwrap_or(CLUSTER_EVENTS);
        let api = Api::<Event>::namespaced(self.connection.client.clone(), namespace);
        match ask(LIMIT, api.create(&PostParams::default(), &event)).await {
            Ok(_) => true,
            Err(error) if error.is(409) => true,
            Err(error) => {
                let about = event.regarding.as_ref().and_then(|regarding| regarding.name.as_deref());
                tracing::warn!(about, reason = event.reason, "cannot write an Event: {error}");
                false
            }
        }
    }

    async fn volume(&self, handle: &str) -> Option<ObjectReference> {
        let name = self.index.volume_of(handle)?;
        let api = Api::<PersistentVolume>::all(self.connection.client.clone());
        let volume = ask(LIMIT, api.get_opt(&name)).await.ok()??;
        Some(volume.object_ref(&()))
    }

    async fn own_pod(&self) -> ObjectReference {
        let Connection { client, namespace, pod } = &self.connection;
        let api = Api::<Pod>::namespaced(client.clone(), namespace);
        match ask(LIMIT, api.get_opt(pod)).await {
            Ok(Some(pod)) => pod.object_ref(&()),
            _ => ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: Some(pod.clone()),
                namespace: Some(namespace.clone()),
                ..ObjectReference::default()
            },
        }
    }

    fn event(&self, notice: Notice, now: SystemTime) -> Event {
        let Notice { regarding, reason, action, mut note, key } = notice;
        // The API rejects longer notes and names.
        note.truncate(note.floor_char_boundary(1024));
        let mut about = regarding.name.clone().unwrap_or_default();
        about.truncate(about.floor_char_boundary(200));
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{about}.{key:016x}")),
                namespace: Some(regarding.namespace.clone().unwrap_or_else(|| CLUSTER_EVENTS.to_owned())),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(timestamp(now))),
            type_: Some("Warning".to_owned()),
            reason: Some(reason.to_owned()),
            action: Some(action.to_owned()),
            note: Some(note),
            regarding: Some(regarding),
            reporting_controller: Some(self.driver.clone()),
            reporting_instance: Some(self.connection.pod.clone()),
            ..Event::default()
        }
    }
}
