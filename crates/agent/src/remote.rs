//! The controller's end: an agent at the other end of one connection.

use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use quarry_proto::agent::v1;
use quarry_proto::agent::v1::agent_client::AgentClient;
use quarry_proto::volume::v1 as volume_v1;
use quarry_transport::deadline;
use quarry_volume::{
    Agent, Change, Error, FencingToken, MutableParameters, NameLookup, Result, SizeRange, Snapshot, SnapshotId,
    SnapshotSpec, Unreachable, UpdateStream, Volume, VolumeId, VolumeSpec,
};
use quarry_wire::agent::{read_change, write_token};
use quarry_wire::snapshot;
use quarry_wire::volume::{self, write_limit, write_spec};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout};
use tonic::{Request, Response, Status};

use crate::connection::{Connection, Tuning};
use crate::{failure, follow};

/// The node plugin of one node, over one connection. A clone uses the same connection.
///
/// When the connection ends, every further call returns `Unavailable`: open another connection.
#[derive(Clone, Debug)]
pub struct RemoteAgent {
    node: Arc<str>,
    connection: Connection,
    /// The origin of every call's URI: HTTP/2 requires it, but it is not used.
    origin: Uri,
    watch_wait: Duration,
}

impl RemoteAgent {
    /// Connects to the agent of `node` over `io`, which is already authenticated. Does not wait for the other
    /// side: the first call checks that it is the right node. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// `Unavailable` if nothing can be written to `io`.
    pub async fn over<IO>(io: IO, node: &str) -> Result<Self>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        Self::tuned(io, node, &Tuning::default()).await
    }

    /// Like [`RemoteAgent::over`], with other timeouts.
    ///
    /// # Errors
    /// Like [`RemoteAgent::over`].
    pub async fn tuned<IO>(io: IO, node: &str, tuning: &Tuning) -> Result<Self>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let connection = Connection::over(io, tuning).await.map_err(|why| {
            Error::unreachable(Unreachable::Ended, format!("node {node}: no connection: {why}; retry"))
        })?;
        let origin = Uri::from_static("https://node.quarry");
        Ok(Self { node: node.into(), connection, origin, watch_wait: tuning.watch_wait })
    }

    fn client(&self) -> AgentClient<Connection> {
        AgentClient::with_origin(self.connection.clone(), self.origin.clone())
    }

    /// One call and its answer, within `wait` whatever the other side does.
    async fn call<Q, A, F>(
        &self,
        name: &str,
        message: Q,
        wait: Duration,
        send: impl FnOnce(AgentClient<Connection>, Request<Q>) -> F,
    ) -> Result<A>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let mut request = Request::new(message);
        request.set_timeout(wait);
        let began = Instant::now();
        match timeout(wait, send(self.client(), request)).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(self.failed(&status, name, began.elapsed() >= deadline::wait_for(wait))),
            Err(_) => Err(failure::late(&self.node, name)),
        }
    }

    fn failed(&self, status: &Status, call: &str, overdue: bool) -> Error {
        failure::error(status, &self.node, call, overdue, self.connection.cause())
    }

    /// The volume in an answer that must contain one.
    fn volume(&self, volume: Option<volume_v1::Volume>, call: &str) -> Result<Volume> {
        let own = volume.and_then(volume::read).filter(|volume| volume.id.node == *self.node);
        own.ok_or_else(|| self.incomplete(call, "volume"))
    }

    /// The snapshot in an answer that must contain one.
    fn snapshot(&self, snapshot: Option<volume_v1::Snapshot>, call: &str) -> Result<Snapshot> {
        let own = |snapshot: &Snapshot| snapshot.id.node == *self.node && snapshot.source.node == *self.node;
        snapshot.and_then(snapshot::read).filter(own).ok_or_else(|| self.incomplete(call, "snapshot"))
    }

    /// The call may have succeeded, so the error is not final.
    fn incomplete(&self, call: &str, what: &str) -> Error {
        Error::unavailable(format!(
            "node {} answered {call} without a valid {what} of this node; upgrade nodes and controller to the same \
             version",
            self.node
        ))
    }

    /// The change in the answer; a node that omits it sends the change on its stream.
    fn change(&self, change: Option<v1::Change>) -> Change {
        read_change(&self.node, change.unwrap_or_default())
    }
}

#[async_trait::async_trait]
impl Agent for RemoteAgent {
    fn node(&self) -> &str {
        &self.node
    }

    async fn create(&self, spec: VolumeSpec, token: Option<FencingToken>, wait: Duration) -> Result<(Volume, Change)> {
        let message = v1::CreateVolumeRequest {
            node: self.node.to_string(),
            spec: Some(write_spec(spec)),
            token: token.map(write_token),
        };
        let answer =
            self.call("CreateVolume", message, wait, |mut client, request| async move {
                client.create_volume(request).await
            })
            .await?;
        Ok((self.volume(answer.volume, "CreateVolume")?, self.change(answer.change)))
    }

    async fn delete(&self, id: &VolumeId, wait: Duration) -> Result<Change> {
        let message = v1::DeleteVolumeRequest { node: self.node.to_string(), id: id.to_string() };
        let answer =
            self.call("DeleteVolume", message, wait, |mut client, request| async move {
                client.delete_volume(request).await
            })
            .await?;
        Ok(self.change(answer.change))
    }

    async fn get(&self, id: &VolumeId, wait: Duration) -> Result<Volume> {
        let message = v1::GetVolumeRequest { node: self.node.to_string(), id: id.to_string() };
        let answer = self
            .call("GetVolume", message, wait, |mut client, request| async move { client.get_volume(request).await })
            .await?;
        self.volume(answer.volume, "GetVolume")
    }

    async fn find(&self, name: &str, fence: u64, wait: Duration) -> Result<NameLookup> {
        let message = v1::FindVolumeRequest { node: self.node.to_string(), name: name.to_owned(), fence };
        let answer = self
            .call("FindVolume", message, wait, |mut client, request| async move { client.find_volume(request).await })
            .await?;
        let volume = match answer.volume {
            None => None,
            // A volume that cannot be parsed is not "no volume": another volume would get the same name.
            some => Some(self.volume(some, "FindVolume")?),
        };
        Ok(NameLookup { instance: answer.instance, volume })
    }

    async fn expand(&self, id: &VolumeId, size: SizeRange, wait: Duration) -> Result<(Volume, Change)> {
        let message = v1::ExpandVolumeRequest {
            node: self.node.to_string(),
            id: id.to_string(),
            required_bytes: size.required,
            limit_bytes: write_limit(size.limit),
        };
        let answer =
            self.call("ExpandVolume", message, wait, |mut client, request| async move {
                client.expand_volume(request).await
            })
            .await?;
        Ok((self.volume(answer.volume, "ExpandVolume")?, self.change(answer.change)))
    }

    async fn modify(&self, id: &VolumeId, changes: MutableParameters, wait: Duration) -> Result<(Volume, Change)> {
        let message = v1::ModifyVolumeRequest {
            node: self.node.to_string(),
            id: id.to_string(),
            parameters: changes.parameters(),
        };
        let answer =
            self.call("ModifyVolume", message, wait, |mut client, request| async move {
                client.modify_volume(request).await
            })
            .await?;
        Ok((self.volume(answer.volume, "ModifyVolume")?, self.change(answer.change)))
    }

    async fn create_snapshot(&self, spec: SnapshotSpec, wait: Duration) -> Result<(Snapshot, Change)> {
        let message = v1::CreateSnapshotRequest { node: self.node.to_string(), spec: Some(snapshot::write_spec(spec)) };
        let answer = self
            .call("CreateSnapshot", message, wait, |mut client, request| async move {
                client.create_snapshot(request).await
            })
            .await?;
        Ok((self.snapshot(answer.snapshot, "CreateSnapshot")?, self.change(answer.change)))
    }

    async fn delete_snapshot(&self, id: &SnapshotId, wait: Duration) -> Result<Change> {
        let message = v1::DeleteSnapshotRequest { node: self.node.to_string(), id: id.to_string() };
        let answer = self
            .call("DeleteSnapshot", message, wait, |mut client, request| async move {
                client.delete_snapshot(request).await
            })
            .await?;
        Ok(self.change(answer.change))
    }

    async fn get_snapshot(&self, id: &SnapshotId, wait: Duration) -> Result<Snapshot> {
        let message = v1::GetSnapshotRequest { node: self.node.to_string(), id: id.to_string() };
        let answer = self
            .call("GetSnapshot", message, wait, |mut client, request| async move { client.get_snapshot(request).await })
            .await?;
        self.snapshot(answer.snapshot, "GetSnapshot")
    }

    async fn watch(&self) -> Result<UpdateStream> {
        let message = v1::WatchRequest { node: self.node.to_string() };
        let mut client = self.client();
        match timeout(self.watch_wait, client.watch(message)).await {
            Ok(Ok(answer)) => Ok(follow::updates(Arc::clone(&self.node), self.connection.clone(), answer.into_inner())),
            Ok(Err(status)) => Err(self.failed(&status, "Watch", false)),
            Err(_) => Err(failure::late(&self.node, "Watch")),
        }
    }
}
