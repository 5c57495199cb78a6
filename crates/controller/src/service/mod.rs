//! The CSI Controller service: parses requests, validates what it can without the storage, and calls the
//! agent of the node that holds the disks, or answers from what the nodes have reported.

mod request;
mod snapshots;

use std::collections::BTreeMap;
use std::time::Duration;

use quarry_proto::csi::v1 as csi;
use quarry_transport::deadline;
use quarry_volume::{
    AccessType, AccessTypes, Error, MutableParameters, ON_NODE_LOSS, Parameters, RELEASE, Result, SizeRange,
    SnapshotId, Usage, Volume, VolumeId,
};
use quarry_wire::csi::{capabilities, capability};
use quarry_wire::field::{existing_snapshot, existing_volume, not_of_later_version, required, signed};
use quarry_wire::status::{self, answer, unsupported};
use tonic::{Request, Response, Status};

pub(crate) use self::request::content_source;
use self::request::{check_all_options, class, confirm, context, map, spec};
use crate::cluster::Cluster;
use crate::{health, paging, placement};

/// How long a call waits for the node if the caller set no deadline: less than the sidecars' usual minute.
const DEFAULT_WAIT: Duration = Duration::from_secs(50);

/// The CSI Controller service.
#[derive(Clone)]
pub struct ControllerService {
    cluster: Cluster,
    topology_key: String,
    releases_claims: bool,
}

impl ControllerService {
    /// The service in front of `cluster`; `topology_key` is the key of the topology segments that name nodes.
    #[must_use]
    pub fn new(cluster: Cluster, topology_key: impl Into<String>) -> Self {
        Self { cluster, topology_key: topology_key.into(), releases_claims: false }
    }

    /// Sets whether the claims of lost nodes are released: see [`crate::release_lost`]. Otherwise a class that asks for it
    /// is rejected.
    #[must_use]
    pub fn releasing_claims(self, releases_claims: bool) -> Self {
        Self { releases_claims, ..self }
    }

    fn describe(&self, volume: &Volume, context: BTreeMap<String, String>) -> csi::Volume {
        csi::Volume {
            volume_id: volume.id.to_string(),
            capacity_bytes: signed(volume.size),
            volume_context: context,
            accessible_topology: vec![csi::Topology {
                segments: BTreeMap::from([(self.topology_key.clone(), volume.id.node.clone())]),
            }],
            content_source: volume.source.as_ref().map(content_source),
        }
    }
}

#[tonic::async_trait]
impl csi::controller_server::Controller for ControllerService {
    async fn create_volume(
        &self,
        request: Request<csi::CreateVolumeRequest>,
    ) -> Result<Response<csi::CreateVolumeResponse>, Status> {
        answer(async move {
            let wait = deadline::wait(request.metadata(), DEFAULT_WAIT);
            let request = request.into_inner();
            let (spec, capabilities, usage) = spec(&request)?;
            check_all_options(&capabilities, usage, &spec.class)?;
            let candidates = placement::candidates(request.accessibility_requirements.as_ref(), &self.topology_key);
            if spec.class.release_on_node_loss && !self.releases_claims {
                return Err(Error::invalid(format!(
                    "StorageClass parameter {ON_NODE_LOSS:?} is {RELEASE:?}, but the controller runs without \
                     --release-on-node-loss (in the chart: controller.releaseOnNodeLoss)"
                )));
            }
            let context = context(&spec.class);
            let volume = placement::place(&self.cluster, spec, candidates, wait).await?;
            Ok(csi::CreateVolumeResponse { volume: Some(self.describe(&volume, context)) })
        })
        .await
    }

    async fn delete_volume(
        &self,
        request: Request<csi::DeleteVolumeRequest>,
    ) -> Result<Response<csi::DeleteVolumeResponse>, Status> {
        answer(async move {
            let wait = deadline::wait(request.metadata(), DEFAULT_WAIT);
            let request = request.into_inner();
            required("volume_id", &request.volume_id)?;
            // An ID in another format was never issued by Quarry: there is nothing to delete.
            match request.volume_id.parse::<VolumeId>() {
                Ok(id) => self.cluster.delete(&id, wait).await?,
                Err(_) => not_of_later_version('v', &request.volume_id)?,
            }
            Ok(csi::DeleteVolumeResponse {})
        })
        .await
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<csi::ValidateVolumeCapabilitiesRequest>,
    ) -> Result<Response<csi::ValidateVolumeCapabilitiesResponse>, Status> {
        answer(async move {
            let wait = deadline::wait(request.metadata(), DEFAULT_WAIT);
            let request = request.into_inner();
            required("volume_id", &request.volume_id)?;
            map("parameters", &request.parameters)?;
            if request.volume_capabilities.is_empty() {
                return Err(Error::invalid("volume_capabilities is empty: list the capabilities to validate"));
            }
            let volume = self.cluster.get(&existing_volume(&request.volume_id)?, wait).await?;
            let supported = || {
                let capabilities = capabilities(&request.volume_capabilities)?;
                confirm(&volume, &capabilities, &class(&request.parameters, &request.volume_context)?)
            };
            if let Err(error) = supported() {
                // Limited to the same length as any other message.
                let message = status::write(error).message().to_owned();
                return Ok(csi::ValidateVolumeCapabilitiesResponse { message, ..Default::default() });
            }
            Ok(csi::ValidateVolumeCapabilitiesResponse {
                confirmed: Some(csi::validate_volume_capabilities_response::Confirmed {
                    volume_context: request.volume_context,
                    volume_capabilities: request.volume_capabilities,
                    parameters: request.parameters,
                    ..Default::default()
                }),
                ..Default::default()
            })
        })
        .await
    }

    async fn list_volumes(
        &self,
        request: Request<csi::ListVolumesRequest>,
    ) -> Result<Response<csi::ListVolumesResponse>, Status> {
        answer(async move {
            let request = request.into_inner();
            let (after, most) = (paging::after(&request.starting_token)?, paging::most(request.max_entries)?);
            let (volumes, more) = self.cluster.volumes(after.as_ref(), most)?;
            let next_token = match volumes.last() {
                Some(last) if more => paging::token(&last.id),
                _ => String::new(),
            };
            let entry = |volume: &Volume| csi::list_volumes_response::Entry {
                volume: Some(self.describe(volume, BTreeMap::new())),
                status: None,
            };
            Ok(csi::ListVolumesResponse { entries: volumes.iter().map(entry).collect(), next_token })
        })
        .await
    }

    async fn controller_list_volume_health(
        &self,
        request: Request<csi::ControllerListVolumeHealthRequest>,
    ) -> Result<Response<csi::ControllerListVolumeHealthResponse>, Status> {
        answer(async move {
            let request = request.into_inner();
            health::list(&self.cluster, request.max_entries, &request.starting_token)
        })
        .await
    }

    async fn controller_get_volume_health(
        &self,
        request: Request<csi::ControllerGetVolumeHealthRequest>,
    ) -> Result<Response<csi::ControllerGetVolumeHealthResponse>, Status> {
        answer(async move {
            let wait = deadline::wait(request.metadata(), DEFAULT_WAIT);
            let request = request.into_inner();
            required("volume_id", &request.volume_id)?;
            let volume = self.cluster.get(&existing_volume(&request.volume_id)?, wait).await?;
            Ok(csi::ControllerGetVolumeHealthResponse { volume_health: Some(health::of(&volume)) })
        })
        .await
    }

    async fn get_capacity(
        &self,
        request: Request<csi::GetCapacityRequest>,
    ) -> Result<Response<csi::GetCapacityResponse>, Status> {
        answer(async move {
            let request = request.into_inner();
            map("parameters", &request.parameters)?;
            let capabilities = capabilities(&request.volume_capabilities)?;
            let parameters = Parameters::parse(&request.parameters)?;
            if !capabilities.is_empty() {
                check_all_options(&capabilities, Usage::of(&capabilities)?, &parameters)?;
            }
            // A segment without Quarry's key does not name a node.
            let node =
                request.accessible_topology.as_ref().and_then(|topology| topology.segments.get(&self.topology_key));
            let capacity = self.cluster.published_capacity(node.map(String::as_str), &parameters).await?;
            Ok(csi::GetCapacityResponse {
                available_capacity: signed(capacity.available),
                maximum_volume_size: Some(signed(capacity.largest)),
                minimum_volume_size: Some(signed(capacity.smallest)),
            })
        })
        .await
    }

    async fn controller_get_capabilities(
        &self,
        _request: Request<csi::ControllerGetCapabilitiesRequest>,
    ) -> Result<Response<csi::ControllerGetCapabilitiesResponse>, Status> {
        use csi::controller_service_capability::{Rpc, Type, rpc};

        let capability =
            |rpc: rpc::Type| csi::ControllerServiceCapability { r#type: Some(Type::Rpc(Rpc { r#type: rpc as i32 })) };
        let capabilities = [
            rpc::Type::CreateDeleteVolume,
            rpc::Type::ListVolumes,
            rpc::Type::GetCapacity,
            rpc::Type::GetVolume,
            rpc::Type::GetVolumeHealth,
            rpc::Type::ListVolumeHealth,
            rpc::Type::SingleNodeMultiWriter,
            rpc::Type::ExpandVolume,
            rpc::Type::ModifyVolume,
            rpc::Type::CloneVolume,
            rpc::Type::CreateDeleteSnapshot,
            rpc::Type::ListSnapshots,
            rpc::Type::GetSnapshot,
        ]
        .map(capability)
        .to_vec();
        Ok(Response::new(csi::ControllerGetCapabilitiesResponse { capabilities }))
    }

    async fn controller_get_volume(
        &self,
        request: Request<csi::ControllerGetVolumeRequest>,
    ) -> Result<Response<csi::ControllerGetVolumeResponse>, Status> {
        answer(async move {
            let wait = deadline::wait(request.metadata(), DEFAULT_WAIT);
            let request = request.into_inner();
            let volume = self.cluster.get(&existing_volume(&request.volume_id)?, wait).await?;
            Ok(csi::ControllerGetVolumeResponse {
                volume: Some(self.describe(&volume, BTreeMap::new())),
                status: Some(csi::controller_get_volume_response::VolumeStatus::default()),
            })
        })
        .await
    }

    async fn controller_expand_volume(
        &self,
        request: Request<csi::ControllerExpandVolumeRequest>,
    ) -> Result<Response<csi::ControllerExpandVolumeResponse>, Status> {
        answer(async move {
            let wait = deadline::wait(request.metadata(), DEFAULT_WAIT);
            let request = request.into_inner();
            required("volume_id", &request.volume_id)?;
            let range = request.capacity_range.ok_or_else(|| {
                Error::invalid("capacity_range is missing: it must give the size to expand the volume to")
            })?;
            let size = SizeRange::from_csi(range.required_bytes, range.limit_bytes)?;
            let used_as = request.volume_capability.as_ref().map(capability).transpose()?;
            let volume = self.cluster.expand(&existing_volume(&request.volume_id)?, size, wait).await?;
            let is_raw = match used_as {
                Some(capability) => capability.access == AccessType::Block,
                None => volume.access == Some(AccessTypes::Block),
            };
            // A raw block volume is larger now. A filesystem still has to grow.
            Ok(csi::ControllerExpandVolumeResponse {
                capacity_bytes: signed(volume.size),
                node_expansion_required: !is_raw,
            })
        })
        .await
    }

    async fn controller_modify_volume(
        &self,
        request: Request<csi::ControllerModifyVolumeRequest>,
    ) -> Result<Response<csi::ControllerModifyVolumeResponse>, Status> {
        answer(async move {
            let wait = deadline::wait(request.metadata(), DEFAULT_WAIT);
            let request = request.into_inner();
            required("volume_id", &request.volume_id)?;
            map("mutable_parameters", &request.mutable_parameters)?;
            let changes = MutableParameters::parse(&request.mutable_parameters)?;
            self.cluster.modify(&existing_volume(&request.volume_id)?, changes, wait).await?;
            Ok(csi::ControllerModifyVolumeResponse {})
        })
        .await
    }

    async fn create_snapshot(
        &self,
        request: Request<csi::CreateSnapshotRequest>,
    ) -> Result<Response<csi::CreateSnapshotResponse>, Status> {
        answer(async move {
            let wait = deadline::wait(request.metadata(), DEFAULT_WAIT);
            let spec = snapshots::spec(&request.into_inner())?;
            let snapshot = self.cluster.create_snapshot(spec, wait).await?;
            Ok(csi::CreateSnapshotResponse { snapshot: Some(snapshots::describe(&snapshot)) })
        })
        .await
    }

    async fn delete_snapshot(
        &self,
        request: Request<csi::DeleteSnapshotRequest>,
    ) -> Result<Response<csi::DeleteSnapshotResponse>, Status> {
        answer(async move {
            let wait = deadline::wait(request.metadata(), DEFAULT_WAIT);
            let request = request.into_inner();
            required("snapshot_id", &request.snapshot_id)?;
            // An ID in another format was never issued by Quarry: there is nothing to delete.
            match request.snapshot_id.parse::<SnapshotId>() {
                Ok(id) => self.cluster.delete_snapshot(&id, wait).await?,
                Err(_) => not_of_later_version('s', &request.snapshot_id)?,
            }
            Ok(csi::DeleteSnapshotResponse {})
        })
        .await
    }

    async fn list_snapshots(
        &self,
        request: Request<csi::ListSnapshotsRequest>,
    ) -> Result<Response<csi::ListSnapshotsResponse>, Status> {
        answer(async move { snapshots::list(&self.cluster, &request.into_inner()).await }).await
    }

    async fn get_snapshot(
        &self,
        request: Request<csi::GetSnapshotRequest>,
    ) -> Result<Response<csi::GetSnapshotResponse>, Status> {
        answer(async move {
            let wait = deadline::wait(request.metadata(), DEFAULT_WAIT);
            let id = existing_snapshot(&request.into_inner().snapshot_id)?;
            let snapshot = self.cluster.get_snapshot(&id, wait).await?;
            Ok(csi::GetSnapshotResponse { snapshot: Some(snapshots::describe(&snapshot)) })
        })
        .await
    }

    // Calls that are not supported. No capability advertises them.

    async fn controller_publish_volume(
        &self,
        _request: Request<csi::ControllerPublishVolumeRequest>,
    ) -> Result<Response<csi::ControllerPublishVolumeResponse>, Status> {
        unsupported("ControllerPublishVolume is not supported: a local volume does not need to be attached")
    }

    async fn controller_unpublish_volume(
        &self,
        _request: Request<csi::ControllerUnpublishVolumeRequest>,
    ) -> Result<Response<csi::ControllerUnpublishVolumeResponse>, Status> {
        unsupported("ControllerUnpublishVolume is not supported: a local volume does not need to be detached")
    }
}
