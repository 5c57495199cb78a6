//! The CSI calls.

mod snapshots;

use std::time::{Duration, Instant};

use quarry_proto::csi::v1::controller_client::ControllerClient;
use quarry_proto::csi::v1::identity_client::IdentityClient;
use quarry_proto::csi::v1::node_client::NodeClient;
use quarry_proto::csi::v1::{self as csi, CapacityRange, Topology, TopologyRequirement};
use quarry_transport::call::code_name;
use quarry_transport::unix;
use serde_json::{Value, json};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use super::{Call, Outcome, answer, map};

/// Large enough to list every volume of a node in one answer.
const LARGEST_ANSWER: usize = 64 << 20;

/// The clients of one socket's services.
pub(crate) struct Client {
    identity: IdentityClient<Channel>,
    controller: ControllerClient<Channel>,
    node: NodeClient<Channel>,
    timeout: Duration,
}

impl Client {
    pub(crate) async fn connect(endpoint: &str, timeout: Duration) -> anyhow::Result<Self> {
        let path = unix::path_of(endpoint)?;
        let channel = match tokio::time::timeout(timeout, unix::connect(&path)).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => anyhow::bail!("{}: {error}", code_name(Code::Unavailable)),
            Err(_) => anyhow::bail!("{}: nothing accepts connections on {endpoint}", code_name(Code::DeadlineExceeded)),
        };
        Ok(Self {
            identity: IdentityClient::new(channel.clone()),
            controller: ControllerClient::new(channel.clone()).max_decoding_message_size(LARGEST_ANSWER),
            node: NodeClient::new(channel),
            timeout,
        })
    }

    pub(crate) async fn call(&mut self, call: Call) -> anyhow::Result<Outcome> {
        let timeout = self.timeout;
        Ok(match call {
            Call::Identity => {
                let info = ask(timeout, csi::GetPluginInfoRequest {}, |r| self.identity.get_plugin_info(r)).await?;
                let probe = ask(timeout, csi::ProbeRequest {}, |r| self.identity.probe(r)).await?;
                Outcome::Answer(answer::identity(&info, &probe))
            }
            Call::Capabilities => Outcome::Answer(self.capabilities().await?),
            Call::Create { name, size, limit, parameters, segments, from_snapshot, from_volume, usage } => {
                let request = csi::CreateVolumeRequest {
                    name,
                    capacity_range: (size.is_some() || limit.is_some())
                        .then(|| CapacityRange { required_bytes: size.unwrap_or(0), limit_bytes: limit.unwrap_or(0) }),
                    volume_capabilities: usage.all(),
                    parameters: map(parameters),
                    accessibility_requirements: place(segments)
                        .map(|place| TopologyRequirement { requisite: vec![place.clone()], preferred: vec![place] }),
                    volume_content_source: snapshots::source(from_snapshot, from_volume),
                    ..Default::default()
                };
                let made = ask(timeout, request, |r| self.controller.create_volume(r)).await?;
                Outcome::Answer(answer::volume(made.volume.as_ref()))
            }
            Call::Delete { volume_id } => {
                let done = format!("deleted {volume_id}");
                let request = csi::DeleteVolumeRequest { volume_id, ..Default::default() };
                ask(timeout, request, |r| self.controller.delete_volume(r)).await?;
                Outcome::Done(done)
            }
            Call::Validate { volume_id, usage } => {
                let request = csi::ValidateVolumeCapabilitiesRequest {
                    volume_id,
                    volume_capabilities: usage.all(),
                    ..Default::default()
                };
                let reply = ask(timeout, request, |r| self.controller.validate_volume_capabilities(r)).await?;
                Outcome::Answer(answer::confirmed(&reply))
            }
            Call::List { page } => Outcome::Answer(self.list(page).await?),
            Call::Get { volume_id } => {
                let request = csi::ControllerGetVolumeRequest { volume_id };
                let reply = ask(timeout, request, |r| self.controller.controller_get_volume(r)).await?;
                Outcome::Answer(answer::volume(reply.volume.as_ref()))
            }
            Call::Capacity { parameters, segments } => {
                let request = csi::GetCapacityRequest {
                    parameters: map(parameters),
                    accessible_topology: place(segments),
                    ..Default::default()
                };
                Outcome::Answer(answer::capacity(&ask(timeout, request, |r| self.controller.get_capacity(r)).await?))
            }
            Call::Stage { volume_id, staging_path, context, usage } => {
                let done = format!("staged {volume_id} at {staging_path}");
                let request = csi::NodeStageVolumeRequest {
                    volume_id,
                    staging_target_path: staging_path,
                    volume_capability: Some(usage.one()?),
                    volume_context: map(context),
                    ..Default::default()
                };
                ask(timeout, request, |r| self.node.node_stage_volume(r)).await?;
                Outcome::Done(done)
            }
            Call::Unstage { volume_id, staging_path } => {
                let done = format!("unstaged {volume_id} from {staging_path}");
                let request = csi::NodeUnstageVolumeRequest { volume_id, staging_target_path: staging_path };
                ask(timeout, request, |r| self.node.node_unstage_volume(r)).await?;
                Outcome::Done(done)
            }
            Call::Publish { volume_id, target_path, staging_path, readonly, context, usage } => {
                let done = format!("published {volume_id} at {target_path}");
                let request = csi::NodePublishVolumeRequest {
                    volume_id,
                    staging_target_path: staging_path,
                    target_path,
                    volume_capability: Some(usage.one()?),
                    readonly,
                    volume_context: map(context),
                    ..Default::default()
                };
                ask(timeout, request, |r| self.node.node_publish_volume(r)).await?;
                Outcome::Done(done)
            }
            Call::Unpublish { volume_id, target_path } => {
                let done = format!("unpublished {volume_id} from {target_path}");
                let request = csi::NodeUnpublishVolumeRequest { volume_id, target_path };
                ask(timeout, request, |r| self.node.node_unpublish_volume(r)).await?;
                Outcome::Done(done)
            }
            Call::Stats { volume_id, path, staging_path } => {
                let request =
                    csi::NodeGetVolumeStatsRequest { volume_id, volume_path: path, staging_target_path: staging_path };
                Outcome::Answer(answer::stats(&ask(timeout, request, |r| self.node.node_get_volume_stats(r)).await?))
            }
            Call::Snapshot(call) => self.snapshot(call).await?,
            Call::NodeInfo => {
                let reply = ask(timeout, csi::NodeGetInfoRequest {}, |r| self.node.node_get_info(r)).await?;
                Outcome::Answer(answer::node_info(&reply))
            }
        })
    }

    /// A socket serves the controller, the node, or both; a service that is not served is null.
    async fn capabilities(&mut self) -> anyhow::Result<Value> {
        let timeout = self.timeout;
        let plugin = csi::GetPluginCapabilitiesRequest {};
        let plugin = ask(timeout, plugin, |r| self.identity.get_plugin_capabilities(r)).await?;
        let controller = csi::ControllerGetCapabilitiesRequest {};
        let controller = ask(timeout, controller, |r| self.controller.controller_get_capabilities(r)).await;
        let node = csi::NodeGetCapabilitiesRequest {};
        let node = ask(timeout, node, |r| self.node.node_get_capabilities(r)).await;
        Ok(json!({
            "plugin": answer::plugin_capabilities(&plugin),
            "controller": served(controller)?.as_ref().map(answer::controller_capabilities),
            "node": served(node)?.as_ref().map(answer::node_capabilities),
        }))
    }

    /// Lists all pages.
    async fn list(&mut self, page: i32) -> anyhow::Result<Value> {
        let mut rows = Vec::new();
        let mut starting_token = String::new();
        loop {
            let request = csi::ListVolumesRequest { max_entries: page, starting_token: starting_token.clone() };
            let reply = ask(self.timeout, request, |r| self.controller.list_volumes(r)).await?;
            for entry in &reply.entries {
                let mut row = answer::volume(entry.volume.as_ref());
                if let (Some(fields), Some(status)) = (row.as_object_mut(), &entry.status) {
                    fields.insert("published_node_ids".to_owned(), json!(status.published_node_ids));
                }
                rows.push(row);
            }
            // A driver that returns the same token again would cause an endless loop.
            if reply.next_token.is_empty() || reply.next_token == starting_token {
                return Ok(Value::Array(rows));
            }
            starting_token = reply.next_token;
        }
    }
}

/// A rejected call, as one line. The code is available to callers that act on it.
#[derive(Debug)]
struct Refused {
    code: Code,
    message: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", code_name(self.code), self.message)
    }
}

impl std::error::Error for Refused {}

/// Makes one call, and sends the driver our timeout.
async fn ask<Req, Res, F>(timeout: Duration, request: Req, call: impl FnOnce(Request<Req>) -> F) -> Result<Res, Refused>
where
    F: Future<Output = Result<Response<Res>, Status>>,
{
    let mut request = Request::new(request);
    request.set_timeout(timeout);
    let started = Instant::now();
    match call(request).await {
        Ok(response) => Ok(response.into_inner()),
        // tonic reports a call that times out as cancelled.
        Err(status) if status.code() == Code::Cancelled && started.elapsed() >= timeout => Err(Refused {
            code: Code::DeadlineExceeded,
            message: format!("no answer within {} s; the driver may still be working on it", timeout.as_secs_f64()),
        }),
        Err(status) => Err(Refused { code: status.code(), message: status.message().to_owned() }),
    }
}

/// `None` when the socket does not serve this service.
fn served<T>(answer: Result<T, Refused>) -> Result<Option<T>, Refused> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(refused) if refused.code == Code::Unimplemented => Ok(None),
        Err(refused) => Err(refused),
    }
}

fn place(segments: Vec<(String, String)>) -> Option<Topology> {
    (!segments.is_empty()).then(|| Topology { segments: map(segments) })
}
