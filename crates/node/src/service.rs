//! The CSI Node service: reads requests, calls the [`Host`], writes responses.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use quarry_exec::Secret;
use quarry_proto::csi::v1 as csi;
use quarry_transport::deadline;
use quarry_volume::{Capability, Error, MKFS_OPTIONS, Result, SizeRange, VolumeId};
use quarry_wire::csi as wire_csi;
use quarry_wire::field::{existing_volume, required, signed};
use quarry_wire::status::answer;
use tonic::{Request, Response, Status};

use crate::encrypted::PASSPHRASE;
use crate::grow::Grow;
use crate::host::Host;
use crate::publish::Publish;
use crate::stage::Stage;
use crate::stats::Stats;

/// How long a call waits for its task if the caller set no deadline: less than kubelet's own two minutes.
const DEFAULT_WAIT: Duration = Duration::from_secs(100);
/// The longest path that the kernel accepts, in bytes.
const MAX_PATH: usize = 4096;
/// The longest name of a file or directory on any Linux filesystem, in bytes.
const MAX_PART: usize = 255;

/// The CSI Node service of one host.
#[derive(Clone)]
pub struct NodeService {
    host: Host,
    topology_key: String,
    /// How many volumes the scheduler may place here; 0: no limit.
    max_volumes: i64,
}

impl NodeService {
    /// Creates the service of `host`. `topology_key` is the label key by which the scheduler identifies the
    /// node.
    #[must_use]
    pub fn new(host: Host, topology_key: impl Into<String>) -> Self {
        Self { host, topology_key: topology_key.into(), max_volumes: 0 }
    }

    /// Sets the maximum number of volumes that is reported to the scheduler. `None`: no limit, because Quarry
    /// itself has none; GetCapacity reports the free space.
    #[must_use]
    pub fn with_max_volumes(self, max_volumes: Option<NonZeroU32>) -> Self {
        Self { max_volumes: max_volumes.map_or(0, |most| i64::from(most.get())), ..self }
    }
}

fn path(field: &str, value: &str) -> Result<PathBuf> {
    let wrong = |why: &str| Err(Error::invalid(format!("{field} {why}")));
    match value {
        "" => wrong("is missing"),
        _ if value.len() > MAX_PATH => wrong("is longer than the longest possible path"),
        _ if value.contains('\0') => wrong("contains a NUL byte"),
        _ if !value.starts_with('/') => wrong("is not absolute"),
        _ if value.split('/').any(|part| part == "..") => wrong("contains \"..\""),
        _ if value.split('/').any(|part| part.len() > MAX_PART) => {
            wrong("has a component that is longer than the longest possible name")
        }
        _ if value.chars().all(|c| c == '/') => wrong("is the root directory"),
        _ => Ok(PathBuf::from(value)),
    }
}

/// Checks that the request has a volume path. (CSI's limit on the length of a string is not meant for paths: kubelet's
/// own are longer.)
fn given(volume_path: &str) -> Result<()> {
    if volume_path.is_empty() { Err(Error::invalid("volume_path is missing")) } else { Ok(()) }
}

/// Where a volume should be. An invalid path gets the same response as a path without this volume.
fn path_of(id: &VolumeId, value: &str) -> Result<PathBuf> {
    path("volume_path", value).map_err(|error| Error::not_found(format!("volume {id} is not at this path: {error}")))
}

fn capability(value: Option<&csi::VolumeCapability>) -> Result<Capability> {
    wire_csi::capability(value.ok_or_else(|| Error::invalid("volume_capability is missing"))?)
}

fn mkfs_options(context: &BTreeMap<String, String>) -> String {
    context.get(MKFS_OPTIONS).cloned().unwrap_or_default()
}

/// The passphrase among the secrets of a call. A Secret of a volume that is not encrypted may have any keys.
fn passphrase(secrets: BTreeMap<String, String>) -> Option<Secret> {
    // The other values are overwritten, too.
    let secrets = secrets.into_iter().map(|(key, value)| (key, Secret::new(value.into_bytes())));
    secrets.fold(None, |found, (key, secret)| if key == PASSPHRASE { Some(secret) } else { found })
}

#[tonic::async_trait]
impl csi::node_server::Node for NodeService {
    async fn node_stage_volume(
        &self,
        request: Request<csi::NodeStageVolumeRequest>,
    ) -> Result<Response<csi::NodeStageVolumeResponse>, Status> {
        answer(async move {
            let wait = deadline::wait(request.metadata(), DEFAULT_WAIT);
            let mut request = request.into_inner();
            // First, so that they are overwritten in any case.
            let passphrase = passphrase(std::mem::take(&mut request.secrets));
            required("volume_id", &request.volume_id)?;
            let stage = Stage {
                staging: path("staging_target_path", &request.staging_target_path)?,
                capability: capability(request.volume_capability.as_ref())?,
                id: existing_volume(&request.volume_id)?,
                mkfs_options: mkfs_options(&request.volume_context),
                passphrase,
            };
            self.host.stage(stage, wait).await?;
            Ok(csi::NodeStageVolumeResponse {})
        })
        .await
    }

    async fn node_unstage_volume(
        &self,
        request: Request<csi::NodeUnstageVolumeRequest>,
    ) -> Result<Response<csi::NodeUnstageVolumeResponse>, Status> {
        answer(async move {
            let wait = deadline::wait(request.metadata(), DEFAULT_WAIT);
            let request = request.into_inner();
            let id = required("volume_id", &request.volume_id)?;
            let began = Instant::now();
            self.host.unstage(id, path("staging_target_path", &request.staging_target_path)?, wait).await?;
            self.host.deactivate_later(id, began);
            Ok(csi::NodeUnstageVolumeResponse {})
        })
        .await
    }

    async fn node_publish_volume(
        &self,
        request: Request<csi::NodePublishVolumeRequest>,
    ) -> Result<Response<csi::NodePublishVolumeResponse>, Status> {
        answer(async move {
            let wait = deadline::wait(request.metadata(), DEFAULT_WAIT);
            let request = request.into_inner();
            required("volume_id", &request.volume_id)?;
            let target = path("target_path", &request.target_path)?;
            let capability = capability(request.volume_capability.as_ref())?;
            let id = existing_volume(&request.volume_id)?;
            if request.staging_target_path.is_empty() {
                return Err(Error::precondition("staging_target_path is missing: stage the volume first"));
            }
            let publish = Publish {
                id,
                staging: path("staging_target_path", &request.staging_target_path)?,
                target,
                capability,
                read_only: request.readonly,
            };
            self.host.publish(publish, wait).await?;
            Ok(csi::NodePublishVolumeResponse {})
        })
        .await
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<csi::NodeUnpublishVolumeRequest>,
    ) -> Result<Response<csi::NodeUnpublishVolumeResponse>, Status> {
        answer(async move {
            let wait = deadline::wait(request.metadata(), DEFAULT_WAIT);
            let request = request.into_inner();
            let id = required("volume_id", &request.volume_id)?;
            self.host.unpublish(id, path("target_path", &request.target_path)?, wait).await?;
            Ok(csi::NodeUnpublishVolumeResponse {})
        })
        .await
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<csi::NodeGetVolumeStatsRequest>,
    ) -> Result<Response<csi::NodeGetVolumeStatsResponse>, Status> {
        answer(async move {
            use csi::volume_usage::Unit;

            let request = request.into_inner();
            required("volume_id", &request.volume_id)?;
            given(&request.volume_path)?;
            let id = existing_volume(&request.volume_id)?;
            let path = path_of(&id, &request.volume_path)?;
            let usage = |unit: Unit, total: u64, used: u64, available: u64| csi::VolumeUsage {
                unit: unit as i32,
                total: signed(total),
                used: signed(used),
                available: signed(available),
            };
            let usage = match self.host.stats(&id, &path).await? {
                Stats::Block { size } => vec![usage(Unit::Bytes, size, 0, 0)],
                Stats::Filesystem(stats) => vec![
                    usage(Unit::Bytes, stats.total, stats.used, stats.available),
                    usage(Unit::Inodes, stats.inodes, stats.inodes_used, stats.inodes_free),
                ],
            };
            Ok(csi::NodeGetVolumeStatsResponse { usage })
        })
        .await
    }

    async fn node_expand_volume(
        &self,
        request: Request<csi::NodeExpandVolumeRequest>,
    ) -> Result<Response<csi::NodeExpandVolumeResponse>, Status> {
        answer(async move {
            let wait = deadline::wait(request.metadata(), DEFAULT_WAIT);
            let request = request.into_inner();
            required("volume_id", &request.volume_id)?;
            given(&request.volume_path)?;
            let range = request.capacity_range.unwrap_or_default();
            let size = SizeRange::from_csi(range.required_bytes, range.limit_bytes)?;
            let id = existing_volume(&request.volume_id)?;
            let path = path_of(&id, &request.volume_path)?;
            let bytes = self.host.grow_filesystem(Grow { id, path, size }, wait).await?;
            Ok(csi::NodeExpandVolumeResponse { capacity_bytes: signed(bytes) })
        })
        .await
    }

    async fn node_get_volume_health(
        &self,
        request: Request<csi::NodeGetVolumeHealthRequest>,
    ) -> Result<Response<csi::NodeGetVolumeHealthResponse>, Status> {
        answer(async move {
            let wait = deadline::wait(request.metadata(), DEFAULT_WAIT);
            let request = request.into_inner();
            required("volume_id", &request.volume_id)?;
            let id = existing_volume(&request.volume_id)?;
            let given =
                [&request.volume_publish_path, &request.staging_target_path].into_iter().find(|path| !path.is_empty());
            let mounted = given.map(|given| path("volume_publish_path or staging_target_path", given)).transpose()?;
            let health = self.host.volume_health(&id, mounted.as_deref(), wait).await?;
            Ok(csi::NodeGetVolumeHealthResponse { volume_health: Some(health) })
        })
        .await
    }

    async fn node_get_storage_health(
        &self,
        _request: Request<csi::NodeGetStorageHealthRequest>,
    ) -> Result<Response<csi::NodeGetStorageHealthResponse>, Status> {
        let backend_health = self.host.storage_health().await;
        Ok(Response::new(csi::NodeGetStorageHealthResponse { backend_health }))
    }

    async fn node_get_capabilities(
        &self,
        _request: Request<csi::NodeGetCapabilitiesRequest>,
    ) -> Result<Response<csi::NodeGetCapabilitiesResponse>, Status> {
        use csi::node_service_capability::{Rpc, Type, rpc};

        let capability =
            |rpc: rpc::Type| csi::NodeServiceCapability { r#type: Some(Type::Rpc(Rpc { r#type: rpc as i32 })) };
        let capabilities = [
            rpc::Type::StageUnstageVolume,
            rpc::Type::GetVolumeStats,
            rpc::Type::ExpandVolume,
            rpc::Type::SingleNodeMultiWriter,
            rpc::Type::GetVolumeHealth,
            rpc::Type::GetStorageHealth,
        ]
        .map(capability)
        .to_vec();
        Ok(Response::new(csi::NodeGetCapabilitiesResponse { capabilities }))
    }

    async fn node_get_info(
        &self,
        _request: Request<csi::NodeGetInfoRequest>,
    ) -> Result<Response<csi::NodeGetInfoResponse>, Status> {
        let node = self.host.node().to_owned();
        Ok(Response::new(csi::NodeGetInfoResponse {
            node_id: node.clone(),
            max_volumes_per_node: self.max_volumes,
            accessible_topology: Some(csi::Topology { segments: BTreeMap::from([(self.topology_key.clone(), node)]) }),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_passphrase_is_taken_from_the_secrets() {
        let secrets = |pairs: &[(&str, &str)]| {
            passphrase(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
        };
        assert_eq!(secrets(&[]), None);
        assert_eq!(secrets(&[("passphrase", "a b\n"), ("x", "y")]), Some(Secret::new(b"a b\n".to_vec())));
        assert_eq!(secrets(&[("Passphrase", "hunter2")]), None);
    }

    #[test]
    fn an_invalid_path_is_rejected_before_anything_is_done() {
        let (long_part, long_path) = (format!("/a/{}", "b".repeat(256)), "/a".repeat(2049));
        for bad in ["", "a", "..", "/", "//", "/a/../b", "/a\0b", &long_part, &long_path] {
            assert_eq!(path("target_path", bad).unwrap_err().reason, quarry_volume::Reason::InvalidRequest, "{bad:?}");
        }
        for good in ["/a", "/a b/..c/ü\n", &format!("/{}", "b".repeat(255))] {
            assert_eq!(path("target_path", good).unwrap(), PathBuf::from(good));
        }
    }
}
