//! Which objects name a volume or a snapshot at this moment, read from the API. For a decision that cannot be undone,
//! what a watch knows may be too old.

use k8s_openapi::api::core::v1::PersistentVolume;
use kube::api::ListParams;
use kube::core::{DynamicObject, ObjectList};
use kube::{Api, ResourceExt as _};
use quarry_volume::{Error, Result, SnapshotId, VolumeId};

use crate::ask::{LIMIT, ask};
use crate::connect::Connection;
use crate::snapshots::{contents, handles_of};

/// The number of objects in a page of a list.
const PAGE: u32 = 500;

/// The names of all PersistentVolumes that have this volume's identifier as their handle, whatever driver they name.
///
/// # Errors
/// `Unavailable` if the PersistentVolumes cannot be read completely.
pub async fn holders_of_volume(connection: &Connection, id: &VolumeId) -> Result<Vec<String>> {
    let api = Api::<PersistentVolume>::all(connection.client.clone());
    let handle = id.to_string();
    let holds = |volume: &PersistentVolume| {
        let csi = volume.spec.as_ref().and_then(|spec| spec.csi.as_ref());
        csi.is_some_and(|csi| csi.volume_handle == handle)
    };
    names("PersistentVolumes", async |page: &ListParams| ask(LIMIT, api.list(page)).await, holds).await
}

/// The names of all VolumeSnapshotContents that have this snapshot's identifier as a handle, whatever driver they name.
///
/// # Errors
/// `Unavailable` if the VolumeSnapshotContents cannot be read completely.
pub async fn holders_of_snapshot(connection: &Connection, id: &SnapshotId) -> Result<Vec<String>> {
    let api = contents(&connection.client);
    let handle = id.to_string();
    let holds = |content: &DynamicObject| handles_of(content).any(|held| held == handle);
    names("VolumeSnapshotContents", async |page: &ListParams| ask(LIMIT, api.list(page)).await, holds).await
}

/// The names of those objects that hold, of all pages.
async fn names<K, E>(
    what: &str,
    read: impl AsyncFn(&ListParams) -> std::result::Result<ObjectList<K>, E>,
    holds: impl Fn(&K) -> bool,
) -> Result<Vec<String>>
where
    K: kube::Resource + Clone,
    E: std::fmt::Display,
{
    let mut names = Vec::new();
    // Without a resource version, the API reads each page from its storage, and not from a cache.
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list =
            read(&page).await.map_err(|error| Error::unavailable(format!("cannot list the {what}: {error}: retry")))?;
        names.extend(list.items.iter().filter(|object| holds(object)).map(|object| object.name_any()));
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(names),
        }
    }
}
