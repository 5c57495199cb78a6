//! The calls of the driver.

use quarry_proto::csi::v1::controller_server::Controller;
use quarry_proto::csi::v1::identity_server::Identity;
use quarry_proto::csi::v1::node_server::Node;
use quarry_proto::csi::v1::volume_content_source::Type as Source;
use quarry_proto::csi::v1::{self as csi};
use tonic::{Request, Response, Status};

use super::{Double, VolumeState, make_target, remove_target};

/// A service of [`Double`]: some calls, and UNIMPLEMENTED for the others.
macro_rules! serve {
    ($service:ident { $($calls:tt)* } others: $($call:ident($request:ident) -> $response:ident,)*) => {
        #[tonic::async_trait]
        impl $service for Double {
            $($calls)*

            $(async fn $call(&self, _: Request<csi::$request>) -> Result<Response<csi::$response>, Status> {
                Err(Status::unimplemented("not in this test"))
            })*
        }
    };
}

serve! {
    Identity {
        async fn get_plugin_info(
            &self,
            _: Request<csi::GetPluginInfoRequest>,
        ) -> Result<Response<csi::GetPluginInfoResponse>, Status> {
            Ok(Response::new(csi::GetPluginInfoResponse {
                name: self.name.to_owned(),
                vendor_version: "0.0.1".to_owned(),
                ..Default::default()
            }))
        }

        async fn get_plugin_capabilities(
            &self,
            _: Request<csi::GetPluginCapabilitiesRequest>,
        ) -> Result<Response<csi::GetPluginCapabilitiesResponse>, Status> {
            let capability = |kind: &csi::plugin_capability::Type| csi::PluginCapability { r#type: Some(*kind) };
            let capabilities = self.plugin.iter().map(capability).collect();
            Ok(Response::new(csi::GetPluginCapabilitiesResponse { capabilities }))
        }
    }
    others:
        probe(ProbeRequest) -> ProbeResponse,
}

serve! {
    Controller {
        async fn controller_get_capabilities(
            &self,
            _: Request<csi::ControllerGetCapabilitiesRequest>,
        ) -> Result<Response<csi::ControllerGetCapabilitiesResponse>, Status> {
            use csi::controller_service_capability::{Rpc, Type};
            let capabilities = self.controller.iter().map(|kind| csi::ControllerServiceCapability {
                r#type: Some(Type::Rpc(Rpc { r#type: (*kind).into() })),
            });
            Ok(Response::new(csi::ControllerGetCapabilitiesResponse { capabilities: capabilities.collect() }))
        }

        async fn list_volumes(
            &self,
            request: Request<csi::ListVolumesRequest>,
        ) -> Result<Response<csi::ListVolumesResponse>, Status> {
            let next_token = (self.next_token)(&request.into_inner().starting_token);
            let state = self.state();
            let entry = |id: &String| csi::list_volumes_response::Entry {
                volume: Some(csi::Volume { volume_id: id.clone(), ..Default::default() }),
                status: None,
            };
            let entries = state.volumes.keys().map(entry).collect();
            Ok(Response::new(csi::ListVolumesResponse { entries, next_token }))
        }

        async fn create_volume(
            &self,
            request: Request<csi::CreateVolumeRequest>,
        ) -> Result<Response<csi::CreateVolumeResponse>, Status> {
            let request = request.into_inner();
            let name = request.name.clone();
            self.call("create_volume", &name, |state| {
                let id = match self.answers {
                    Some(answer) => answer.to_owned(),
                    None if self.numbered => state.number(&name),
                    None => format!("id-{name}"),
                };
                let size = request.capacity_range.unwrap_or_default().required_bytes;
                if let Some(Source::Snapshot(source)) =
                    request.volume_content_source.clone().and_then(|source| source.r#type)
                    && !state.snapshots.contains_key(&source.snapshot_id)
                {
                    return Err(Status::not_found("no such snapshot"));
                }
                let made = || VolumeState { name: name.clone(), size, ..Default::default() };
                state.volumes.entry(id.clone()).or_insert_with(made);
                let volume = csi::Volume { volume_id: id, capacity_bytes: size, ..Default::default() };
                Ok(Response::new(csi::CreateVolumeResponse { volume: Some(volume) }))
            })
            .await
        }

        async fn delete_volume(
            &self,
            request: Request<csi::DeleteVolumeRequest>,
        ) -> Result<Response<csi::DeleteVolumeResponse>, Status> {
            let id = request.into_inner().volume_id;
            self.call("delete_volume", &id, |state| {
                if state.volume(&id).is_ok_and(|volume| volume.attached || volume.staged || volume.published) {
                    return Err(state.reject(format!("{id} is deleted and still in use")));
                }
                if state.snapshots.contains_key(&format!("{id}-snapshot").replacen("id-", "snap-", 1)) {
                    return Err(state.reject(format!("{id} is deleted and has a snapshot")));
                }
                state.volumes.remove(&id);
                Ok(Response::new(csi::DeleteVolumeResponse {}))
            })
            .await
        }

        async fn controller_publish_volume(
            &self,
            request: Request<csi::ControllerPublishVolumeRequest>,
        ) -> Result<Response<csi::ControllerPublishVolumeResponse>, Status> {
            let request = request.into_inner();
            self.call("controller_publish_volume", &request.volume_id, |state| {
                if request.node_id != "node-1" {
                    return Err(state.reject(format!("attached to {:?}", request.node_id)));
                }
                state.volume(&request.volume_id)?.attached = true;
                let publish_context = [("path".to_owned(), request.volume_id.clone())].into();
                Ok(Response::new(csi::ControllerPublishVolumeResponse { publish_context }))
            })
            .await
        }

        async fn controller_unpublish_volume(
            &self,
            request: Request<csi::ControllerUnpublishVolumeRequest>,
        ) -> Result<Response<csi::ControllerUnpublishVolumeResponse>, Status> {
            let id = request.into_inner().volume_id;
            self.call("controller_unpublish_volume", &id, |state| {
                if state.volume(&id)?.staged {
                    return Err(state.reject(format!("{id} is detached and still staged")));
                }
                state.volume(&id)?.attached = false;
                Ok(Response::new(csi::ControllerUnpublishVolumeResponse {}))
            })
            .await
        }

        async fn create_snapshot(
            &self,
            request: Request<csi::CreateSnapshotRequest>,
        ) -> Result<Response<csi::CreateSnapshotResponse>, Status> {
            let request = request.into_inner();
            self.call("create_snapshot", &request.name, |state| {
                state.volume(&request.source_volume_id)?;
                let id = match self.numbered {
                    true => request.source_volume_id,
                    false => format!("snap-{}", request.name),
                };
                let unready = state.snapshots.entry(id.clone()).or_insert(self.unready);
                let ready_to_use = *unready == 0;
                *unready = unready.saturating_sub(1);
                let snapshot = csi::Snapshot { snapshot_id: id, ready_to_use, ..Default::default() };
                Ok(Response::new(csi::CreateSnapshotResponse { snapshot: Some(snapshot) }))
            })
            .await
        }

        async fn delete_snapshot(
            &self,
            request: Request<csi::DeleteSnapshotRequest>,
        ) -> Result<Response<csi::DeleteSnapshotResponse>, Status> {
            let id = request.into_inner().snapshot_id;
            self.call("delete_snapshot", &id, |state| {
                state.snapshots.remove(&id);
                Ok(Response::new(csi::DeleteSnapshotResponse {}))
            })
            .await
        }

        async fn controller_expand_volume(
            &self,
            request: Request<csi::ControllerExpandVolumeRequest>,
        ) -> Result<Response<csi::ControllerExpandVolumeResponse>, Status> {
            let request = request.into_inner();
            self.call("controller_expand_volume", &request.volume_id, |state| {
                let capacity_bytes = request.capacity_range.unwrap_or_default().required_bytes;
                state.volume(&request.volume_id)?.size = capacity_bytes;
                let node_expansion_required = true;
                Ok(Response::new(csi::ControllerExpandVolumeResponse { capacity_bytes, node_expansion_required }))
            })
            .await
        }
    }
    others:
        validate_volume_capabilities(ValidateVolumeCapabilitiesRequest) -> ValidateVolumeCapabilitiesResponse,
        controller_list_volume_health(ControllerListVolumeHealthRequest) -> ControllerListVolumeHealthResponse,
        controller_get_volume_health(ControllerGetVolumeHealthRequest) -> ControllerGetVolumeHealthResponse,
        get_capacity(GetCapacityRequest) -> GetCapacityResponse,
        get_snapshot(GetSnapshotRequest) -> GetSnapshotResponse,
        list_snapshots(ListSnapshotsRequest) -> ListSnapshotsResponse,
        controller_get_volume(ControllerGetVolumeRequest) -> ControllerGetVolumeResponse,
        controller_modify_volume(ControllerModifyVolumeRequest) -> ControllerModifyVolumeResponse,
}

serve! {
    Node {
        async fn node_get_capabilities(
            &self,
            _: Request<csi::NodeGetCapabilitiesRequest>,
        ) -> Result<Response<csi::NodeGetCapabilitiesResponse>, Status> {
            use csi::node_service_capability::{Rpc, Type};
            let capabilities = self.node.iter().map(|kind| csi::NodeServiceCapability {
                r#type: Some(Type::Rpc(Rpc { r#type: (*kind).into() })),
            });
            Ok(Response::new(csi::NodeGetCapabilitiesResponse { capabilities: capabilities.collect() }))
        }

        async fn node_get_info(
            &self,
            _: Request<csi::NodeGetInfoRequest>,
        ) -> Result<Response<csi::NodeGetInfoResponse>, Status> {
            Ok(Response::new(csi::NodeGetInfoResponse { node_id: "node-1".to_owned(), ..Default::default() }))
        }

        async fn node_stage_volume(
            &self,
            request: Request<csi::NodeStageVolumeRequest>,
        ) -> Result<Response<csi::NodeStageVolumeResponse>, Status> {
            let request = request.into_inner();
            self.call("node_stage_volume", &request.volume_id, |state| {
                if !std::path::Path::new(&request.staging_target_path).is_dir() {
                    return Err(state.reject(format!("{} is not a directory", request.staging_target_path)));
                }
                let attached = state.volume(&request.volume_id)?.attached;
                if attached != (request.publish_context.get("path") == Some(&request.volume_id)) {
                    return Err(state.reject("the publish context is not the one of the attach".to_owned()));
                }
                state.volume(&request.volume_id)?.staged = true;
                Ok(Response::new(csi::NodeStageVolumeResponse {}))
            })
            .await
        }

        async fn node_unstage_volume(
            &self,
            request: Request<csi::NodeUnstageVolumeRequest>,
        ) -> Result<Response<csi::NodeUnstageVolumeResponse>, Status> {
            let request = request.into_inner();
            let id = request.volume_id;
            self.call("node_unstage_volume", &id, |state| {
                // Some drivers remove the directory, and the caller makes it again.
                remove_target(&request.staging_target_path);
                if state.volume(&id)?.published {
                    return Err(state.reject(format!("{id} is unstaged and still published")));
                }
                state.volume(&id)?.staged = false;
                Ok(Response::new(csi::NodeUnstageVolumeResponse {}))
            })
            .await
        }

        async fn node_publish_volume(
            &self,
            request: Request<csi::NodePublishVolumeRequest>,
        ) -> Result<Response<csi::NodePublishVolumeResponse>, Status> {
            let request = request.into_inner();
            self.call("node_publish_volume", &request.volume_id, |state| {
                let staged = state.volume(&request.volume_id)?.staged;
                if staged == request.staging_target_path.is_empty() {
                    return Err(state.reject(format!("staged: {staged}, path {:?}", request.staging_target_path)));
                }
                make_target(&request.target_path)?;
                state.volume(&request.volume_id)?.published = true;
                Ok(Response::new(csi::NodePublishVolumeResponse {}))
            })
            .await
        }

        async fn node_unpublish_volume(
            &self,
            request: Request<csi::NodeUnpublishVolumeRequest>,
        ) -> Result<Response<csi::NodeUnpublishVolumeResponse>, Status> {
            let request = request.into_inner();
            self.call("node_unpublish_volume", &request.volume_id, |state| {
                remove_target(&request.target_path);
                state.volume(&request.volume_id)?.published = false;
                Ok(Response::new(csi::NodeUnpublishVolumeResponse {}))
            })
            .await
        }

        async fn node_get_volume_stats(
            &self,
            request: Request<csi::NodeGetVolumeStatsRequest>,
        ) -> Result<Response<csi::NodeGetVolumeStatsResponse>, Status> {
            let request = request.into_inner();
            self.call("node_get_volume_stats", &request.volume_id, |state| {
                if !std::path::Path::new(&request.volume_path).exists() {
                    return Err(state.reject(format!("{} does not exist", request.volume_path)));
                }
                Ok(Response::new(csi::NodeGetVolumeStatsResponse::default()))
            })
            .await
        }

        async fn node_expand_volume(
            &self,
            request: Request<csi::NodeExpandVolumeRequest>,
        ) -> Result<Response<csi::NodeExpandVolumeResponse>, Status> {
            let request = request.into_inner();
            self.call("node_expand_volume", &request.volume_id, |state| {
                if !state.volume(&request.volume_id)?.published {
                    return Err(state.reject(format!("{} is not published", request.volume_id)));
                }
                Ok(Response::new(csi::NodeExpandVolumeResponse::default()))
            })
            .await
        }
    }
    others:
        node_get_volume_health(NodeGetVolumeHealthRequest) -> NodeGetVolumeHealthResponse,
        node_get_storage_health(NodeGetStorageHealthRequest) -> NodeGetStorageHealthResponse,
}
