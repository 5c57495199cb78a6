//! The CSI Controller service: reads requests, checks them as far as this can be done without the storage, and asks the
//! [`Agent`] of the node that holds the disks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use quarry_proto::csi::v1 as csi;
use quarry_transport::deadline;
use quarry_volume::wire::{existing_volume, required, signed};
use quarry_volume::{
    Agent, Capability, Error, MKFS_OPTIONS, Parameters, Reason, Result, SizeRange, Usage, Volume, VolumeId, VolumeSpec,
    capabilities,
};
use tonic::{Request, Response, Status};

use crate::paging;

/// How long a call waits for the node where the caller gave no deadline: less than the sidecars' usual minute.
const DEFAULT_WAIT: Duration = Duration::from_secs(50);
/// The most that a map of strings may hold, in bytes (CSI, "Size Limits").
const MAX_MAP: usize = 4096;

/// The CSI Controller service.
#[derive(Clone)]
pub struct ControllerService {
    agent: Arc<dyn Agent>,
    topology_key: String,
}

impl ControllerService {
    /// The service in front of `agent`; `topology_key` is the key of the topology segments that name nodes.
    #[must_use]
    pub fn new(agent: Arc<dyn Agent>, topology_key: impl Into<String>) -> Self {
        Self { agent, topology_key: topology_key.into() }
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

    /// Whether our node is in one of these segments; a segment without our key says nothing about it.
    fn admits(&self, segments: &BTreeMap<String, String>) -> bool {
        segments.get(&self.topology_key).is_none_or(|node| node == self.agent.node())
    }

    fn check_topology(&self, requirement: Option<&csi::TopologyRequirement>) -> Result<()> {
        let Some(requirement) = requirement else { return Ok(()) };
        // Preferred is a part of requisite where both are given (CSI, `TopologyRequirement`).
        let allowed = if requirement.requisite.is_empty() { &requirement.preferred } else { &requirement.requisite };
        if allowed.is_empty() || allowed.iter().any(|topology| self.admits(&topology.segments)) {
            return Ok(());
        }
        Err(Error::new(
            Reason::NoSpace,
            format!("none of the asked topology segments is node {}, the only one here", self.agent.node()),
        ))
    }

    fn check_options(&self, capabilities: &[Capability], usage: Usage, mkfs_options: &str) -> Result<()> {
        let Some(filesystem) = usage.filesystem else {
            return if mkfs_options.is_empty() {
                Ok(())
            } else {
                Err(Error::invalid("mkfsOptions are given for a raw block volume, which has no filesystem"))
            };
        };
        for capability in capabilities {
            self.agent.check_options(filesystem, &capability.mount_flags, mkfs_options)?;
        }
        Ok(())
    }
}

fn map(field: &str, map: &BTreeMap<String, String>) -> Result<()> {
    let length: usize = map.iter().map(|(key, value)| key.len() + value.len()).sum();
    if length > MAX_MAP {
        return Err(Error::invalid(format!("{field} has {length} bytes in all; CSI admits {MAX_MAP}")));
    }
    Ok(())
}

fn spec(request: &csi::CreateVolumeRequest) -> Result<(VolumeSpec, Vec<Capability>, Usage)> {
    required("name", &request.name)?;
    if request.volume_content_source.is_some() {
        return Err(Error::invalid("volume_content_source is given, and neither snapshots nor clones are offered"));
    }
    if !request.mutable_parameters.is_empty() {
        return Err(Error::invalid("mutable_parameters are given, and MODIFY_VOLUME is not offered"));
    }
    map("parameters", &request.parameters)?;
    let capabilities = capabilities(&request.volume_capabilities)?;
    let usage = Usage::of(&capabilities)?;
    let size = match &request.capacity_range {
        Some(range) => SizeRange::from_csi(range.required_bytes, range.limit_bytes)?,
        None => SizeRange::default(),
    };
    let parameters = Parameters::parse(&request.parameters)?;
    let spec = VolumeSpec {
        name: request.name.clone(),
        size,
        pool: parameters.pool,
        access: usage.access,
        filesystem: usage.filesystem,
        layout: parameters.layout,
        mkfs_options: parameters.mkfs_options,
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
        let wait = deadline::wait(request.metadata(), DEFAULT_WAIT);
        let request = request.into_inner();
        let (spec, capabilities, usage) = spec(&request)?;
        self.check_options(&capabilities, usage, &spec.mkfs_options)?;
        self.check_topology(request.accessibility_requirements.as_ref())?;
        let context = context(&spec.mkfs_options);
        let volume = self.agent.create(spec, wait).await?;
        Ok(Response::new(csi::CreateVolumeResponse { volume: Some(self.describe(&volume, context)) }))
    }

    async fn delete_volume(
        &self,
        request: Request<csi::DeleteVolumeRequest>,
    ) -> Result<Response<csi::DeleteVolumeResponse>, Status> {
        let wait = deadline::wait(request.metadata(), DEFAULT_WAIT);
        let request = request.into_inner();
        required("volume_id", &request.volume_id)?;
        // What is no identifier of ours was never made by us: there is nothing to delete.
        if let Ok(id) = request.volume_id.parse::<VolumeId>() {
            self.agent.delete(&id, wait).await?;
        }
        Ok(Response::new(csi::DeleteVolumeResponse {}))
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<csi::ValidateVolumeCapabilitiesRequest>,
    ) -> Result<Response<csi::ValidateVolumeCapabilitiesResponse>, Status> {
        let request = request.into_inner();
        required("volume_id", &request.volume_id)?;
        map("parameters", &request.parameters)?;
        if request.volume_capabilities.is_empty() {
            return Err(Error::invalid("volume_capabilities is empty: say what is to be validated").into());
        }
        let volume = self.agent.get(&existing_volume(&request.volume_id)?).await?;
        let refused = |error: Error| {
            // As long as any other message may be.
            let message = Status::from(error).message().to_owned();
            Ok(Response::new(csi::ValidateVolumeCapabilitiesResponse { message, ..Default::default() }))
        };
        let capabilities = match capabilities(&request.volume_capabilities) {
            Ok(capabilities) => capabilities,
            Err(error) => return refused(error),
        };
        if let Err(error) = confirm(&volume, &capabilities, &*self.agent) {
            return refused(error);
        }
        Ok(Response::new(csi::ValidateVolumeCapabilitiesResponse {
            confirmed: Some(csi::validate_volume_capabilities_response::Confirmed {
                volume_context: request.volume_context,
                volume_capabilities: request.volume_capabilities,
                parameters: request.parameters,
                ..Default::default()
            }),
            ..Default::default()
        }))
    }

    async fn list_volumes(
        &self,
        request: Request<csi::ListVolumesRequest>,
    ) -> Result<Response<csi::ListVolumesResponse>, Status> {
        let request = request.into_inner();
        let volumes = self.agent.list().await?;
        let page = paging::page(volumes, &request.starting_token, request.max_entries)?;
        let entry = |volume: &Volume| csi::list_volumes_response::Entry {
            volume: Some(self.describe(volume, BTreeMap::new())),
            status: None,
        };
        Ok(Response::new(csi::ListVolumesResponse {
            entries: page.volumes.iter().map(entry).collect(),
            next_token: page.next_token,
        }))
    }

    async fn get_capacity(
        &self,
        request: Request<csi::GetCapacityRequest>,
    ) -> Result<Response<csi::GetCapacityResponse>, Status> {
        let request = request.into_inner();
        map("parameters", &request.parameters)?;
        let capabilities = capabilities(&request.volume_capabilities)?;
        let parameters = Parameters::parse(&request.parameters)?;
        if !capabilities.is_empty() {
            self.check_options(&capabilities, Usage::of(&capabilities)?, &parameters.mkfs_options)?;
        }
        let here = request.accessible_topology.as_ref().is_none_or(|topology| self.admits(&topology.segments));
        let capacity = if here {
            self.agent.capacity(parameters.pool.as_deref(), &parameters.layout).await?
        } else {
            quarry_volume::Capacity::default()
        };
        Ok(Response::new(csi::GetCapacityResponse {
            available_capacity: signed(capacity.available),
            maximum_volume_size: Some(signed(capacity.largest)),
            minimum_volume_size: Some(signed(capacity.smallest)),
        }))
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
            rpc::Type::SingleNodeMultiWriter,
        ]
        .map(capability)
        .to_vec();
        Ok(Response::new(csi::ControllerGetCapabilitiesResponse { capabilities }))
    }

    async fn controller_get_volume(
        &self,
        request: Request<csi::ControllerGetVolumeRequest>,
    ) -> Result<Response<csi::ControllerGetVolumeResponse>, Status> {
        let request = request.into_inner();
        let volume = self.agent.get(&existing_volume(&request.volume_id)?).await?;
        Ok(Response::new(csi::ControllerGetVolumeResponse {
            volume: Some(self.describe(&volume, BTreeMap::new())),
            status: Some(csi::controller_get_volume_response::VolumeStatus::default()),
        }))
    }
}

/// Whether the volume satisfies all the capabilities.
fn confirm(volume: &Volume, capabilities: &[Capability], agent: &dyn Agent) -> Result<()> {
    let made = volume.access.ok_or_else(|| Error::precondition("the volume's record was written by a newer Quarry"))?;
    for capability in capabilities {
        if !made.includes(capability.access) {
            return Err(Error::invalid(format!("the volume was made for use as {made}, not as {}", capability.access)));
        }
        if let (Some(asked), Some(carried)) = (capability.filesystem, volume.filesystem)
            && asked != carried
        {
            return Err(Error::invalid(format!("the volume carries {carried}, not {asked}")));
        }
        if let Some(filesystem) = volume.filesystem {
            agent.check_options(filesystem, &capability.mount_flags, "")?;
        }
    }
    Ok(())
}
