//! The CSI Controller service: parses requests, validates what it can without the storage, and calls the
//! agent of the node that holds the disks, or answers from what the nodes have reported.

use std::collections::BTreeMap;
use std::time::Duration;

use quarry_proto::csi::v1 as csi;
use quarry_transport::deadline;
use quarry_volume::{
    AccessType, AccessTypes, Capability, Error, MKFS_OPTIONS, Parameters, Result, SizeRange, Usage, Volume, VolumeId,
    VolumeSpec, check_options,
};
use quarry_wire::csi::{capabilities, capability};
use quarry_wire::field::{existing_volume, required, signed};
use quarry_wire::status::{self, answer, unsupported};
use tonic::{Request, Response, Status};

use crate::cluster::Cluster;
use crate::{health, paging, placement};

/// How long a call waits for the node if the caller set no deadline: less than the sidecars' usual minute.
const DEFAULT_WAIT: Duration = Duration::from_secs(50);
/// The maximum size of a string map, in bytes (CSI, "Size Limits").
const MAX_MAP: usize = 4096;

/// The CSI Controller service.
#[derive(Clone)]
pub struct ControllerService {
    cluster: Cluster,
    topology_key: String,
}

impl ControllerService {
    /// The service in front of `cluster`; `topology_key` is the key of the topology segments that name nodes.
    #[must_use]
    pub fn new(cluster: Cluster, topology_key: impl Into<String>) -> Self {
        Self { cluster, topology_key: topology_key.into() }
    }

    fn describe(&self, volume: &Volume, context: BTreeMap<String, String>) -> csi::Volume {
        csi::Volume {
            volume_id: volume.id.to_string(),
            capacity_bytes: signed(volume.size),
            volume_context: context,
            accessible_topology: vec![csi::Topology {
                segments: BTreeMap::from([(self.topology_key.clone(), volume.id.node.clone())]),
            }],
            ..Default::default()
        }
    }
}

fn check_all_options(capabilities: &[Capability], usage: Usage, mkfs_options: &str) -> Result<()> {
    let Some(filesystem) = usage.filesystem else {
        return if mkfs_options.is_empty() {
            Ok(())
        } else {
            Err(Error::invalid("mkfsOptions cannot be used for a raw block volume: it has no filesystem"))
        };
    };
    for capability in capabilities {
        check_options(filesystem, &capability.mount_flags, mkfs_options)?;
    }
    Ok(())
}

fn map(field: &str, map: &BTreeMap<String, String>) -> Result<()> {
    let length: usize = map.iter().map(|(key, value)| key.len() + value.len()).sum();
    if length > MAX_MAP {
        return Err(Error::invalid(format!("{field} has {length} bytes in total; CSI allows {MAX_MAP}")));
    }
    Ok(())
}

fn spec(request: &csi::CreateVolumeRequest) -> Result<(VolumeSpec, Vec<Capability>, Usage)> {
    required("name", &request.name)?;
    if request.volume_content_source.is_some() {
        return Err(Error::invalid(
            "volume_content_source is not supported: this driver has neither snapshots nor clones",
        ));
    }
    if !request.mutable_parameters.is_empty() {
        return Err(Error::invalid("mutable_parameters are not supported: this driver does not have MODIFY_VOLUME"));
    }
    map("parameters", &request.parameters)?;
    let capabilities = capabilities(&request.volume_capabilities)?;
    let usage = Usage::of(&capabilities)?;
    let size = match &request.capacity_range {
        Some(range) => SizeRange::from_csi(range.required_bytes, range.limit_bytes)?,
        None => SizeRange::default(),
    };
    let spec = VolumeSpec {
        name: request.name.clone(),
        size,
        access: usage.access,
        filesystem: usage.filesystem,
        class: Parameters::parse(&request.parameters)?,
    };
    Ok((spec, capabilities, usage))
}

fn context(mkfs_options: &str) -> BTreeMap<String, String> {
    if mkfs_options.is_empty() {
        BTreeMap::new()
    } else {
        BTreeMap::from([(MKFS_OPTIONS.to_owned(), mkfs_options.to_owned())])
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
            check_all_options(&capabilities, usage, &spec.class.mkfs_options)?;
            let candidates = placement::candidates(request.accessibility_requirements.as_ref(), &self.topology_key);
            let context = context(&spec.class.mkfs_options);
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
            if let Ok(id) = request.volume_id.parse::<VolumeId>() {
                self.cluster.delete(&id, wait).await?;
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
            let refused = |error: Error| {
                // Limited to the same length as any other message.
                let message = status::write(error).message().to_owned();
                Ok(csi::ValidateVolumeCapabilitiesResponse { message, ..Default::default() })
            };
            let capabilities = match capabilities(&request.volume_capabilities) {
                Ok(capabilities) => capabilities,
                Err(error) => return refused(error),
            };
            if let Err(error) = confirm(&volume, &capabilities) {
                return refused(error);
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
                check_all_options(&capabilities, Usage::of(&capabilities)?, &parameters.mkfs_options)?;
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

    async fn create_snapshot(
        &self,
        _request: Request<csi::CreateSnapshotRequest>,
    ) -> Result<Response<csi::CreateSnapshotResponse>, Status> {
        unsupported("CreateSnapshot is not supported: this driver does not support snapshots")
    }

    async fn delete_snapshot(
        &self,
        _request: Request<csi::DeleteSnapshotRequest>,
    ) -> Result<Response<csi::DeleteSnapshotResponse>, Status> {
        unsupported("DeleteSnapshot is not supported: this driver does not support snapshots")
    }

    async fn list_snapshots(
        &self,
        _request: Request<csi::ListSnapshotsRequest>,
    ) -> Result<Response<csi::ListSnapshotsResponse>, Status> {
        unsupported("ListSnapshots is not supported: this driver does not support snapshots")
    }

    async fn get_snapshot(
        &self,
        _request: Request<csi::GetSnapshotRequest>,
    ) -> Result<Response<csi::GetSnapshotResponse>, Status> {
        unsupported("GetSnapshot is not supported: this driver does not support snapshots")
    }

    async fn controller_modify_volume(
        &self,
        _request: Request<csi::ControllerModifyVolumeRequest>,
    ) -> Result<Response<csi::ControllerModifyVolumeResponse>, Status> {
        unsupported("ControllerModifyVolume is not supported: the parameters of a volume are fixed when it is created")
    }
}

/// Checks that the volume supports all the capabilities.
fn confirm(volume: &Volume, capabilities: &[Capability]) -> Result<()> {
    let made = volume.access.ok_or_else(|| Error::precondition("the volume's record was written by a newer Quarry"))?;
    for capability in capabilities {
        if !made.includes(capability.access) {
            return Err(Error::invalid(format!(
                "the volume was created for use as {made}, not as {}",
                capability.access
            )));
        }
        if let (Some(asked), Some(carried)) = (capability.filesystem, volume.filesystem)
            && asked != carried
        {
            return Err(Error::invalid(format!("the volume has the filesystem {carried}, not {asked}")));
        }
        if let Some(filesystem) = volume.filesystem {
            check_options(filesystem, &capability.mount_flags, "")?;
        }
    }
    Ok(())
}
