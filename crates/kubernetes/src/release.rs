//! Deletes the claims of volumes whose node is gone for good, if their class asks for it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, Resource as _};
use quarry_controller::{Released, Releases};
use quarry_volume::{Error, ON_NODE_LOSS, RELEASE, Result, VolumeId};

use crate::ask::{LIMIT, Unanswered, ask};
use crate::claims::{Index, VolumeClaims};
use crate::connect::Connection;
use crate::events::{EventReporter, Notice};
use crate::guard::Clock;

/// Deletes claims. Needs the right to get and delete PersistentVolumeClaims in all namespaces.
pub struct ClaimReleases {
    connection: Connection,
    index: Arc<Index>,
    driver: String,
    reporter: EventReporter,
    clock: Clock,
}

impl std::fmt::Debug for ClaimReleases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClaimReleases").finish_non_exhaustive()
    }
}

impl ClaimReleases {
    /// For the claims of the PersistentVolumes of `driver`.
    #[must_use]
    pub fn new(connection: &Connection, claims: &VolumeClaims, driver: &str, clock: Clock) -> Self {
        let reporter = EventReporter::new(connection, claims, driver);
        Self { connection: connection.clone(), index: claims.index(), driver: driver.to_owned(), reporter, clock }
    }

    /// Whether this is the volume, and its class releases claims.
    fn is_released(&self, volume: &PersistentVolume, id: &VolumeId) -> bool {
        let csi = volume.spec.as_ref().and_then(|spec| spec.csi.as_ref());
        let csi = csi.filter(|csi| csi.driver == self.driver && csi.volume_handle == id.to_string());
        let attributes = csi.and_then(|csi| csi.volume_attributes.as_ref());
        attributes.and_then(|attributes| attributes.get(ON_NODE_LOSS)).is_some_and(|value| value == RELEASE)
    }
}

/// The claim that a volume is bound to: its namespace, name and UID.
fn claim_of(volume: &PersistentVolume) -> Option<(String, String, String)> {
    let claim = volume.spec.as_ref()?.claim_ref.as_ref()?;
    Some((claim.namespace.clone()?, claim.name.clone()?, claim.uid.clone()?))
}

#[async_trait::async_trait]
impl Releases for ClaimReleases {
    async fn release(&self, id: &VolumeId) -> Result<Released> {
        let unanswered = |what: &str, error: Unanswered| Error::unavailable(format!("{what}: {error}"));
        let Some(volume_name) = self.index.volume_of(&id.to_string()) else { return Ok(Released::NoClaim) };
        let volumes = Api::<PersistentVolume>::all(self.connection.client.clone());
        let volume = ask(LIMIT, volumes.get_opt(&volume_name)).await;
        let volume = volume.map_err(|error| unanswered("reading its PersistentVolume", error))?;
        let Some(volume) = volume else { return Ok(Released::NoClaim) };
        if !self.is_released(&volume, id) {
            return Ok(Released::Never);
        }
        let Some((namespace, name, uid)) = claim_of(&volume) else { return Ok(Released::NoClaim) };
        let claims = Api::<PersistentVolumeClaim>::namespaced(self.connection.client.clone(), &namespace);
        let claim = ask(LIMIT, claims.get_opt(&name)).await;
        let claim = claim.map_err(|error| unanswered("reading its PersistentVolumeClaim", error))?;
        // Another claim may have the name by now. And this one may be bound to another volume, which would be deleted with it:
        // somebody bound it while this volume was being created, or edited one of the two references.
        let claim = claim.filter(|claim| {
            let bound_to = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_ref());
            claim.metadata.uid.as_ref() == Some(&uid) && bound_to == Some(&volume_name)
        });
        let Some(claim) = claim.filter(|claim| claim.metadata.deletion_timestamp.is_none()) else {
            return Ok(Released::NoClaim);
        };
        let this_one = Preconditions { uid: Some(uid), resource_version: None };
        let only = DeleteParams { preconditions: Some(this_one), ..DeleteParams::default() };
        match ask(LIMIT, claims.delete(&name, &only)).await {
            Ok(_) => {}
            Err(error) if error.is(404) || error.is(409) => return Ok(Released::NoClaim),
            Err(error) => return Err(unanswered("deleting its PersistentVolumeClaim", error)),
        }
        let note = format!(
            "deleted, because volume {id} is on node {}, which is gone for good (no Node object and no pod of the node \
             plugin for five minutes), and its class has {ON_NODE_LOSS}: {RELEASE}. A StatefulSet makes the claim again, \
             with an empty volume on another node",
            id.node
        );
        let regarding = claim.object_ref(&());
        let notice = Notice { regarding, reason: "ClaimReleased", action: "DeleteClaim", note, key: fastrand::u64(..) };
        self.reporter.write(notice, (self.clock)()).await;
        Ok(Released::Now)
    }
}
