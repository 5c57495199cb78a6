//! The calls of each phase.

use std::collections::BTreeMap;
use std::path::Path;

use quarry_proto::csi::v1 as csi;
use quarry_proto::csi::v1::volume_content_source::{SnapshotSource, Type as Source};

use super::{Attempts, Driver, Made, NOT_READY, ask};
use crate::Phase;
use crate::system::{Failure, Place};

/// A volume or a snapshot that the driver was asked to make.
#[derive(Debug, Default)]
pub(crate) struct Thing {
    /// Its ID, from the answer.
    pub(super) id: Option<String>,
    /// A call to make it failed, and may have made it nevertheless. Only an answer with success ends this.
    pub(super) uncertain: bool,
}

/// One volume of a round, and what was or may have been done with it.
#[derive(Debug)]
pub(crate) struct Volume {
    pub(super) place: Place,
    pub(super) volume: Thing,
    pub(super) snapshot: Thing,
    pub(super) restored: Thing,
    context: BTreeMap<String, String>,
    publish_context: BTreeMap<String, String>,
    /// Where it is accessible, as the driver said.
    accessible: Vec<csi::Topology>,
    /// Its size in bytes, as the driver said.
    size: i64,
    /// These are set before the call that does it, and cleared after the call that undoes it.
    pub(super) attached: bool,
    pub(super) staged: bool,
    pub(super) published: bool,
}

impl Volume {
    pub(super) fn new(place: Place) -> Self {
        Self {
            place,
            volume: Thing::default(),
            snapshot: Thing::default(),
            restored: Thing::default(),
            context: BTreeMap::new(),
            publish_context: BTreeMap::new(),
            accessible: Vec::new(),
            size: 0,
            attached: false,
            staged: false,
            published: false,
        }
    }

    fn id(&self) -> Result<String, Failure> {
        known(&self.volume, "volume")
    }

    /// The staging path for calls that want none if the volume is not staged.
    fn staging(&self) -> String {
        if self.staged { text(&self.place.staging()) } else { String::new() }
    }

    fn target(&self) -> String {
        text(&self.place.target())
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn known(thing: &Thing, what: &str) -> Result<String, Failure> {
    let missing = || Failure { code: "NO_ID".to_owned(), message: format!("the {what} does not exist") };
    thing.id.clone().ok_or_else(missing)
}

impl Driver {
    pub(super) async fn perform_with(
        &self,
        phase: Phase,
        volume: &mut Volume,
        attempts: &mut Attempts<'_>,
    ) -> Result<(), Failure> {
        match phase {
            Phase::Create => self.create(volume, attempts).await,
            Phase::Attach => self.attach(volume, attempts).await,
            Phase::Stage | Phase::Restage => self.stage(volume, attempts).await,
            Phase::Publish | Phase::Republish => self.publish(volume, attempts).await,
            Phase::Stats => self.stats(volume, attempts).await,
            Phase::Expand => self.expand(volume, attempts).await,
            Phase::Snapshot => self.snapshot(volume, true, attempts).await,
            Phase::Restore => self.restore(volume, attempts).await,
            Phase::DeleteRestored => self.delete(&mut volume.restored, attempts).await,
            Phase::DeleteSnapshot => self.delete_snapshot(&mut volume.snapshot, attempts).await,
            Phase::Unpublish => self.unpublish(volume, attempts).await,
            Phase::Unstage => self.unstage(volume, attempts).await,
            Phase::Detach => self.detach(volume, attempts).await,
            Phase::Delete => self.delete(&mut volume.volume, attempts).await,
        }
    }

    /// Asks for a volume, and takes over the one in the answer.
    async fn make(
        &self,
        thing: &mut Thing,
        request: csi::CreateVolumeRequest,
        attempts: &mut Attempts<'_>,
    ) -> Result<csi::Volume, Failure> {
        // Even if this future is dropped, the clean-up knows that there may be a volume.
        let before = std::mem::replace(&mut thing.uncertain, true);
        let name = request.name.clone();
        match ask!(self.controller, create_volume, request, attempts) {
            Ok(answer) => {
                let made = answer.volume.unwrap_or_default();
                self.accept(thing, made.volume_id.clone(), Made::Volume, &name)?;
                Ok(made)
            }
            Err(refused) => {
                thing.uncertain = before || refused.may_have_worked();
                Err(refused.into())
            }
        }
    }

    fn request(&self, name: String, size: i64, place: Vec<csi::Topology>) -> csi::CreateVolumeRequest {
        let requirement = || csi::TopologyRequirement { requisite: place.clone(), preferred: place.clone() };
        csi::CreateVolumeRequest {
            name,
            capacity_range: Some(csi::CapacityRange { required_bytes: size, limit_bytes: 0 }),
            volume_capabilities: vec![self.plan.capability.clone()],
            parameters: self.plan.parameters.clone(),
            secrets: self.plan.secrets.clone(),
            accessibility_requirements: (!place.is_empty()).then(requirement),
            ..Default::default()
        }
    }

    pub(super) async fn create(&self, volume: &mut Volume, attempts: &mut Attempts<'_>) -> Result<(), Failure> {
        let place = self.topology.iter().cloned().collect();
        let request = self.request(volume.place.name.clone(), self.plan.size, place);
        let made = self.make(&mut volume.volume, request, attempts).await?;
        volume.context = made.volume_context;
        volume.accessible = made.accessible_topology;
        volume.size = made.capacity_bytes.max(self.plan.size);
        Ok(())
    }

    pub(super) async fn restore(&self, volume: &mut Volume, attempts: &mut Attempts<'_>) -> Result<(), Failure> {
        let snapshot_id = known(&volume.snapshot, "snapshot")?;
        let place = match volume.accessible.is_empty() {
            true => self.topology.iter().cloned().collect(),
            false => volume.accessible.clone(),
        };
        let mut request = self.request(format!("{}-restored", volume.place.name), volume.size, place);
        let source = Source::Snapshot(SnapshotSource { snapshot_id });
        request.volume_content_source = Some(csi::VolumeContentSource { r#type: Some(source) });
        self.make(&mut volume.restored, request, attempts).await.map(drop)
    }

    async fn attach(&self, volume: &mut Volume, attempts: &mut Attempts<'_>) -> Result<(), Failure> {
        let request = csi::ControllerPublishVolumeRequest {
            volume_id: volume.id()?,
            node_id: self.node_id.clone(),
            volume_capability: Some(self.plan.capability.clone()),
            readonly: false,
            secrets: self.plan.secrets.clone(),
            volume_context: volume.context.clone(),
        };
        volume.attached = true;
        let answer = ask!(self.controller, controller_publish_volume, request, attempts)?;
        volume.publish_context = answer.publish_context;
        Ok(())
    }

    async fn stage(&self, volume: &mut Volume, attempts: &mut Attempts<'_>) -> Result<(), Failure> {
        // The caller makes it, and some drivers remove it when they unstage.
        let staging = volume.place.staging();
        std::fs::create_dir_all(&staging).map_err(|error| Failure {
            code: "DIRECTORY".to_owned(),
            message: format!("creating {}: {error}", staging.display()),
        })?;
        volume.staged = true;
        let request = csi::NodeStageVolumeRequest {
            volume_id: volume.id()?,
            publish_context: volume.publish_context.clone(),
            staging_target_path: text(&staging),
            volume_capability: Some(self.plan.capability.clone()),
            secrets: self.plan.secrets.clone(),
            volume_context: volume.context.clone(),
        };
        ask!(self.node, node_stage_volume, request, attempts)?;
        Ok(())
    }

    async fn publish(&self, volume: &mut Volume, attempts: &mut Attempts<'_>) -> Result<(), Failure> {
        volume.published = true;
        let request = csi::NodePublishVolumeRequest {
            volume_id: volume.id()?,
            publish_context: volume.publish_context.clone(),
            staging_target_path: volume.staging(),
            target_path: volume.target(),
            volume_capability: Some(self.plan.capability.clone()),
            readonly: false,
            secrets: self.plan.secrets.clone(),
            volume_context: volume.context.clone(),
        };
        ask!(self.node, node_publish_volume, request, attempts)?;
        Ok(())
    }

    async fn stats(&self, volume: &mut Volume, attempts: &mut Attempts<'_>) -> Result<(), Failure> {
        let request = csi::NodeGetVolumeStatsRequest {
            volume_id: volume.id()?,
            volume_path: volume.target(),
            staging_target_path: volume.staging(),
        };
        ask!(self.node, node_get_volume_stats, request, attempts)?;
        Ok(())
    }

    async fn expand(&self, volume: &mut Volume, attempts: &mut Attempts<'_>) -> Result<(), Failure> {
        let (volume_id, secrets) = (volume.id()?, self.plan.secrets.clone());
        let range = csi::CapacityRange { required_bytes: self.plan.expand_to, limit_bytes: 0 };
        let request = csi::ControllerExpandVolumeRequest {
            volume_id: volume_id.clone(),
            capacity_range: Some(range),
            secrets: secrets.clone(),
            volume_capability: Some(self.plan.capability.clone()),
        };
        let answer = ask!(self.controller, controller_expand_volume, request, attempts)?;
        volume.size = answer.capacity_bytes.max(volume.size);
        if answer.node_expansion_required && volume.published && self.abilities.node_expand {
            let request = csi::NodeExpandVolumeRequest {
                volume_id,
                volume_path: volume.target(),
                capacity_range: Some(range),
                staging_target_path: volume.staging(),
                volume_capability: Some(self.plan.capability.clone()),
                secrets,
            };
            ask!(self.node, node_expand_volume, request, attempts)?;
        }
        Ok(())
    }

    /// Asks for a snapshot, and on request waits until it is ready to use.
    pub(super) async fn snapshot(
        &self,
        volume: &mut Volume,
        wait: bool,
        attempts: &mut Attempts<'_>,
    ) -> Result<(), Failure> {
        let request = csi::CreateSnapshotRequest {
            source_volume_id: volume.id()?,
            name: format!("{}-snapshot", volume.place.name),
            secrets: self.plan.secrets.clone(),
            parameters: self.plan.snapshot_parameters.clone(),
            ..Default::default()
        };
        let before = volume.snapshot.uncertain;
        loop {
            let thing = &mut volume.snapshot;
            thing.uncertain = thing.id.is_none();
            let snapshot = match ask!(self.controller, create_snapshot, request.clone(), attempts) {
                Ok(answer) => answer.snapshot.unwrap_or_default(),
                Err(refused) => {
                    thing.uncertain = thing.id.is_none() && (before || refused.may_have_worked());
                    return Err(refused.into());
                }
            };
            if thing.id.is_none() {
                self.accept(thing, snapshot.snapshot_id, Made::Snapshot, &request.name)?;
            }
            volume.size = volume.size.max(snapshot.size_bytes);
            if snapshot.ready_to_use || !wait {
                return Ok(());
            }
            if !attempts.pause(NOT_READY).await {
                return Err(attempts.gave_up("the snapshot did not become ready to use"));
            }
        }
    }

    pub(super) async fn unpublish(&self, volume: &mut Volume, attempts: &mut Attempts<'_>) -> Result<(), Failure> {
        let request = csi::NodeUnpublishVolumeRequest { volume_id: volume.id()?, target_path: volume.target() };
        ask!(self.node, node_unpublish_volume, request, attempts)?;
        volume.published = false;
        Ok(())
    }

    pub(super) async fn unstage(&self, volume: &mut Volume, attempts: &mut Attempts<'_>) -> Result<(), Failure> {
        let staging_target_path = text(&volume.place.staging());
        let request = csi::NodeUnstageVolumeRequest { volume_id: volume.id()?, staging_target_path };
        ask!(self.node, node_unstage_volume, request, attempts)?;
        volume.staged = false;
        Ok(())
    }

    pub(super) async fn detach(&self, volume: &mut Volume, attempts: &mut Attempts<'_>) -> Result<(), Failure> {
        let request = csi::ControllerUnpublishVolumeRequest {
            volume_id: volume.id()?,
            node_id: self.node_id.clone(),
            secrets: self.plan.secrets.clone(),
        };
        ask!(self.controller, controller_unpublish_volume, request, attempts)?;
        volume.attached = false;
        Ok(())
    }

    pub(super) async fn delete(&self, thing: &mut Thing, attempts: &mut Attempts<'_>) -> Result<(), Failure> {
        let volume_id = known(thing, "volume")?;
        let request = csi::DeleteVolumeRequest { volume_id: volume_id.clone(), secrets: self.plan.secrets.clone() };
        ask!(self.controller, delete_volume, request, attempts)?;
        self.forget(Made::Volume, &volume_id);
        *thing = Thing::default();
        Ok(())
    }

    pub(super) async fn delete_snapshot(&self, thing: &mut Thing, attempts: &mut Attempts<'_>) -> Result<(), Failure> {
        let snapshot_id = known(thing, "snapshot")?;
        let secrets = self.plan.secrets.clone();
        let request = csi::DeleteSnapshotRequest { snapshot_id: snapshot_id.clone(), secrets };
        ask!(self.controller, delete_snapshot, request, attempts)?;
        self.forget(Made::Snapshot, &snapshot_id);
        *thing = Thing::default();
        Ok(())
    }
}
