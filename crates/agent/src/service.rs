//! The node's end: serves the protocol's calls from an agent.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{StreamExt as _, stream};
use quarry_proto::agent::v1;
use quarry_transport::deadline;
use quarry_volume::{Agent, Error, MutableParameters, Reason, Result, SnapshotId, Unreachable, VolumeId};
use quarry_wire::agent::{read_id, read_token, write_change};
use quarry_wire::field::required;
use quarry_wire::snapshot;
use quarry_wire::status::{self, answer};
use quarry_wire::volume::{self, read_spec, requested_size};
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use crate::parts;

/// How long a call waits if its caller sets no deadline, and the maximum for any caller.
const MOST: Duration = Duration::from_secs(50);

/// The gRPC service of a node: `quarry.agent.v1.Agent` for an agent.
#[derive(Clone, Debug)]
pub struct AgentService {
    agent: Arc<dyn Agent>,
    stopping: CancellationToken,
}

impl AgentService {
    /// Serves `agent`.
    #[must_use]
    pub fn new(agent: Arc<dyn Agent>) -> Self {
        Self { agent, stopping: CancellationToken::new() }
    }

    /// The same service; its streams end when `stopping` is cancelled, because they would never end by
    /// themselves.
    #[must_use]
    pub fn until(self, stopping: CancellationToken) -> Self {
        Self { stopping, ..self }
    }

    /// Addresses are reused: a call for another node must not be answered with what exists, or does not
    /// exist, on this one.
    fn check_node(&self, node: &str) -> Result<()> {
        let this = self.agent.node();
        if node == this {
            return Ok(());
        }
        Err(Error::unreachable(
            Unreachable::OtherNode,
            format!("this is node {this}, not {}: another pod has the address now; retry", node.escape_debug()),
        ))
    }

    /// Parses the identifier of a volume on this node.
    fn own_volume(&self, id: &str) -> Result<VolumeId> {
        let id = read_id(id)?;
        self.own(&id.node, format_args!("volume {id}"))?;
        Ok(id)
    }

    /// Parses the identifier of a snapshot on this node.
    fn own_snapshot(&self, id: &str) -> Result<SnapshotId> {
        let id = snapshot::read_id(id)?;
        self.own(&id.node, format_args!("snapshot {id}"))?;
        Ok(id)
    }

    /// Checks that what is on `node` is on this node.
    fn own(&self, node: &str, what: fmt::Arguments<'_>) -> Result<()> {
        let this = self.agent.node();
        if node == this {
            return Ok(());
        }
        Err(Error::unavailable(format!(
            "{what} is on node {node}, but this is node {this}: send the call to that node"
        )))
    }
}

/// How long the agent may wait so that its own error reaches the caller, and how long this service waits for
/// the agent.
fn waits(metadata: &MetadataMap) -> (Duration, Duration) {
    let wait = deadline::wait(metadata, MOST);
    (deadline::wait_for(wait), wait)
}

/// Limits the wait for an agent that exceeds its own limit.
async fn bounded<T>(node: &str, wait: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(wait, work).await.unwrap_or_else(|_| {
        let message = format!("node {node} did not finish within {wait:.1?}; the operation continues; retry");
        Err(Error::new(Reason::TimedOut, message))
    })
}

#[tonic::async_trait]
impl v1::agent_server::Agent for AgentService {
    async fn create_volume(
        &self,
        request: Request<v1::CreateVolumeRequest>,
    ) -> Result<Response<v1::CreateVolumeResponse>, Status> {
        answer(async move {
            let (ask, wait) = waits(request.metadata());
            let request = request.into_inner();
            self.check_node(&request.node)?;
            let spec = read_spec(request.spec)?;
            if let Some(source) = &spec.source {
                self.own(source.node(), format_args!("the source {source} of volume {:?}", spec.name))?;
            }
            let token = request.token.map(read_token);
            let (volume, change) = bounded(self.agent.node(), wait, self.agent.create(spec, token, ask)).await?;
            Ok(v1::CreateVolumeResponse { volume: Some(volume::write(volume)), change: Some(write_change(change)) })
        })
        .await
    }

    async fn delete_volume(
        &self,
        request: Request<v1::DeleteVolumeRequest>,
    ) -> Result<Response<v1::DeleteVolumeResponse>, Status> {
        answer(async move {
            let (ask, wait) = waits(request.metadata());
            let request = request.into_inner();
            self.check_node(&request.node)?;
            let id = self.own_volume(&request.id)?;
            let change = bounded(self.agent.node(), wait, self.agent.delete(&id, ask)).await?;
            Ok(v1::DeleteVolumeResponse { change: Some(write_change(change)) })
        })
        .await
    }

    async fn get_volume(
        &self,
        request: Request<v1::GetVolumeRequest>,
    ) -> Result<Response<v1::GetVolumeResponse>, Status> {
        answer(async move {
            let (ask, wait) = waits(request.metadata());
            let request = request.into_inner();
            self.check_node(&request.node)?;
            let id = self.own_volume(&request.id)?;
            let volume = bounded(self.agent.node(), wait, self.agent.get(&id, ask)).await?;
            Ok(v1::GetVolumeResponse { volume: Some(volume::write(volume)) })
        })
        .await
    }

    async fn find_volume(
        &self,
        request: Request<v1::FindVolumeRequest>,
    ) -> Result<Response<v1::FindVolumeResponse>, Status> {
        answer(async move {
            let (ask, wait) = waits(request.metadata());
            let request = request.into_inner();
            self.check_node(&request.node)?;
            let name = required("name", &request.name)?;
            let found = bounded(self.agent.node(), wait, self.agent.find(name, request.fence, ask)).await?;
            Ok(v1::FindVolumeResponse { instance: found.instance, volume: found.volume.map(volume::write) })
        })
        .await
    }

    async fn expand_volume(
        &self,
        request: Request<v1::ExpandVolumeRequest>,
    ) -> Result<Response<v1::ExpandVolumeResponse>, Status> {
        answer(async move {
            let (ask, wait) = waits(request.metadata());
            let request = request.into_inner();
            self.check_node(&request.node)?;
            let id = self.own_volume(&request.id)?;
            let size = requested_size(request.required_bytes, request.limit_bytes)?;
            let (volume, change) = bounded(self.agent.node(), wait, self.agent.expand(&id, size, ask)).await?;
            Ok(v1::ExpandVolumeResponse { volume: Some(volume::write(volume)), change: Some(write_change(change)) })
        })
        .await
    }

    async fn modify_volume(
        &self,
        request: Request<v1::ModifyVolumeRequest>,
    ) -> Result<Response<v1::ModifyVolumeResponse>, Status> {
        answer(async move {
            let (ask, wait) = waits(request.metadata());
            let request = request.into_inner();
            self.check_node(&request.node)?;
            let id = self.own_volume(&request.id)?;
            let changes = MutableParameters::parse(&request.parameters)?;
            let (volume, change) = bounded(self.agent.node(), wait, self.agent.modify(&id, changes, ask)).await?;
            Ok(v1::ModifyVolumeResponse { volume: Some(volume::write(volume)), change: Some(write_change(change)) })
        })
        .await
    }

    async fn create_snapshot(
        &self,
        request: Request<v1::CreateSnapshotRequest>,
    ) -> Result<Response<v1::CreateSnapshotResponse>, Status> {
        answer(async move {
            let (ask, wait) = waits(request.metadata());
            let request = request.into_inner();
            self.check_node(&request.node)?;
            let spec = snapshot::read_spec(request.spec)?;
            self.own(&spec.source.node, format_args!("volume {}", spec.source))?;
            let (taken, change) = bounded(self.agent.node(), wait, self.agent.create_snapshot(spec, ask)).await?;
            let (snapshot, change) = (Some(snapshot::write(taken)), Some(write_change(change)));
            Ok(v1::CreateSnapshotResponse { snapshot, change })
        })
        .await
    }

    async fn delete_snapshot(
        &self,
        request: Request<v1::DeleteSnapshotRequest>,
    ) -> Result<Response<v1::DeleteSnapshotResponse>, Status> {
        answer(async move {
            let (ask, wait) = waits(request.metadata());
            let request = request.into_inner();
            self.check_node(&request.node)?;
            let id = self.own_snapshot(&request.id)?;
            let change = bounded(self.agent.node(), wait, self.agent.delete_snapshot(&id, ask)).await?;
            Ok(v1::DeleteSnapshotResponse { change: Some(write_change(change)) })
        })
        .await
    }

    async fn get_snapshot(
        &self,
        request: Request<v1::GetSnapshotRequest>,
    ) -> Result<Response<v1::GetSnapshotResponse>, Status> {
        answer(async move {
            let (ask, wait) = waits(request.metadata());
            let request = request.into_inner();
            self.check_node(&request.node)?;
            let id = self.own_snapshot(&request.id)?;
            let found = bounded(self.agent.node(), wait, self.agent.get_snapshot(&id, ask)).await?;
            Ok(v1::GetSnapshotResponse { snapshot: Some(snapshot::write(found)) })
        })
        .await
    }

    type WatchStream = BoxStream<'static, Result<v1::WatchResponse, Status>>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        answer(async move {
            self.check_node(&request.get_ref().node)?;
            let node = self.agent.node().to_owned();
            // Nothing is buffered ahead: a stalled reader blocks only its own stream.
            let messages = self.agent.watch().await?.flat_map(move |updates| match updates {
                Ok(updates) => stream::iter(parts::messages(&node, updates)).left_stream(),
                Err(error) => stream::iter([Err(error)]).right_stream(),
            });
            let messages = messages.map(|message| message.map_err(status::write));
            Ok(messages.take_until(self.stopping.clone().cancelled_owned()).boxed())
        })
        .await
    }
}
