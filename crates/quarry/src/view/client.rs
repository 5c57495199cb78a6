//! Calls to the controller.

use std::path::Path;
use std::time::Duration;

use quarry_proto::view::v2;
use quarry_proto::view::v2::view_client::ViewClient;
use quarry_transport::call::code_name;
use quarry_transport::unix;
use quarry_wire::view::{ListedPool, ListedSnapshot, read_pool, read_snapshot, read_volume};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use super::rows::VolumeRow;

/// The timeout of one answer, which comes from memory.
const WAIT: Duration = Duration::from_secs(30);
/// Large enough for the diagnosis of a cluster with problems everywhere.
const LARGEST_ANSWER: usize = 64 << 20;

pub(super) struct Client(ViewClient<Channel>);

impl Client {
    /// Connects. Errors quote `command`, which the operator typed.
    ///
    /// # Errors
    /// The connection failed; the error says where the command has to run.
    pub(super) async fn connect(socket: &Path, command: &str) -> anyhow::Result<Self> {
        match unix::connect(socket).await {
            Ok(channel) => Ok(Self(ViewClient::new(channel).max_decoding_message_size(LARGEST_ANSWER))),
            Err(error) => anyhow::bail!(
                "{}: {error}\nThe controller answers this on a unix socket, to root only, where it runs: in its pod \
                 (`kubectl quarry {command}`), or on the host of `quarry controller` or `quarry standalone --view PATH`; \
                 --socket names another path.",
                code_name(Code::Unavailable)
            ),
        }
    }

    /// A page of nodes, and the token of the next page.
    pub(super) async fn nodes(&mut self, request: v2::ListNodesRequest) -> anyhow::Result<(Vec<v2::Node>, String)> {
        let page = answer(self.0.list_nodes(asked(request)).await)?;
        Ok((page.nodes, page.next_page_token))
    }

    /// A page of pools, and the token of the next page.
    pub(super) async fn pools(&mut self, request: v2::ListPoolsRequest) -> anyhow::Result<(Vec<ListedPool>, String)> {
        let page = answer(self.0.list_pools(asked(request)).await)?;
        Ok((page.pools.into_iter().map(read_pool).collect(), page.next_page_token))
    }

    /// A page of volumes, and the token of the next page.
    pub(super) async fn volumes(
        &mut self,
        request: v2::ListVolumesRequest,
    ) -> anyhow::Result<(Vec<VolumeRow>, String)> {
        let page = answer(self.0.list_volumes(asked(request)).await)?;
        let row = |listed| read_volume(listed).map_or_else(|unknown| VolumeRow::unknown(*unknown), VolumeRow::of);
        Ok((page.volumes.into_iter().map(row).collect(), page.next_page_token))
    }

    /// A page of snapshots, and the token of the next page. A snapshot whose identifier this version cannot parse is
    /// left out.
    pub(super) async fn snapshots(
        &mut self,
        request: v2::ListSnapshotsRequest,
    ) -> anyhow::Result<(Vec<ListedSnapshot>, String)> {
        let page = answer(self.0.list_snapshots(asked(request)).await)?;
        Ok((page.snapshots.into_iter().filter_map(read_snapshot).collect(), page.next_page_token))
    }

    pub(super) async fn diagnose(&mut self) -> anyhow::Result<v2::DiagnoseResponse> {
        answer(self.0.diagnose(asked(v2::DiagnoseRequest {})).await)
    }
}

fn asked<T>(request: T) -> Request<T> {
    let mut request = Request::new(request);
    request.set_timeout(WAIT);
    request
}

fn answer<T>(answer: Result<Response<T>, Status>) -> anyhow::Result<T> {
    match answer {
        Ok(answer) => Ok(answer.into_inner()),
        Err(status) if status.code() == Code::Unimplemented => anyhow::bail!(
            "{}: the controller does not know this call; use the `quarry` of the controller's own version",
            code_name(status.code())
        ),
        Err(status) => anyhow::bail!("{}: {}", code_name(status.code()), status.message()),
    }
}

/// Moves on to the next page; returns false after the last page.
///
/// # Errors
/// The controller returned the same page twice.
pub(super) fn next_page(token: &mut String, next: String) -> anyhow::Result<bool> {
    if next.is_empty() {
        return Ok(false);
    }
    if next == *token {
        anyhow::bail!("{}: the controller returned the same page twice", code_name(Code::Internal));
    }
    *token = next;
    Ok(true)
}
