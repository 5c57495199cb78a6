//! Reads what the pages show from the operator's view of this process.

use std::sync::Arc;
use std::time::Duration;

use quarry_proto::view::v2;
use quarry_proto::view::v2::view_server::View;
use quarry_volume::{Snapshot, VolumeId};
use quarry_wire::view::{ListedPool, ListedSnapshot, ListedVolume, read_pool, read_snapshot, read_volume};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tonic::{Request, Status};

use crate::url::{Paging, Query, ROWS, Which};

/// For how long a diagnosis is shown again. It also reads certificates from the Kubernetes API, which a page that is
/// reloaded all the time must not load.
pub(crate) const DIAGNOSIS_AGE: Duration = Duration::from_secs(5);
/// Entries per request to the view.
const BATCH: u32 = 2000;

/// The operator's view.
pub(crate) struct Source {
    view: Arc<dyn View>,
    /// The last diagnosis. The lock is held while a new one is made, so there is one at a time.
    diagnosis: Mutex<Option<(Instant, Arc<v2::DiagnoseResponse>)>>,
}

/// The nodes, and what is wrong.
pub(crate) struct Fleet {
    /// All nodes, by name; or why they are not known.
    pub(crate) nodes: Result<Vec<v2::Node>, String>,
    pub(crate) diagnosis: Arc<v2::DiagnoseResponse>,
}

/// A node with its storage.
pub(crate) struct Node {
    pub(crate) node: v2::Node,
    pub(crate) pools: Vec<ListedPool>,
    /// By identifier.
    pub(crate) volumes: Vec<ListedVolume>,
    pub(crate) snapshots: Vec<Snapshot>,
    pub(crate) diagnosis: Arc<v2::DiagnoseResponse>,
}

/// A volume with its surroundings.
pub(crate) struct Volume {
    pub(crate) volume: ListedVolume,
    /// `None` if its node does not report it.
    pub(crate) pool: Option<ListedPool>,
    /// Those that were taken from it.
    pub(crate) snapshots: Vec<ListedSnapshot>,
}

/// A page of the volumes of all nodes.
pub(crate) struct Volumes {
    /// By node and identifier.
    pub(crate) volumes: Vec<ListedVolume>,
    pub(crate) paging: Paging,
}

impl Source {
    pub(crate) fn new(view: Arc<dyn View>) -> Self {
        Self { view, diagnosis: Mutex::default() }
    }

    pub(crate) async fn diagnosis(&self) -> Result<Arc<v2::DiagnoseResponse>, Status> {
        let mut last = self.diagnosis.lock().await;
        if let Some((at, answer)) = last.as_ref()
            && at.elapsed() < DIAGNOSIS_AGE
        {
            return Ok(Arc::clone(answer));
        }
        let answer = Arc::new(self.view.diagnose(Request::new(v2::DiagnoseRequest {})).await?.into_inner());
        *last = Some((Instant::now(), Arc::clone(&answer)));
        Ok(answer)
    }

    pub(crate) async fn fleet(&self) -> Result<Fleet, Status> {
        let diagnosis = self.diagnosis().await?;
        let mut nodes = Vec::new();
        let listed = self.each_node(|node| {
            nodes.push(node);
            true
        });
        // Until the nodes are listed, the findings are the page.
        let nodes = listed.await.map(|()| nodes).map_err(|status| status.message().to_owned());
        Ok(Fleet { nodes, diagnosis })
    }

    /// The node with that name; `None` if it does not exist.
    pub(crate) async fn node(&self, name: &str) -> Result<Option<Node>, Status> {
        let mut found = None;
        self.each_node(|node| {
            if node.name == name {
                found = Some(node);
            }
            found.is_none()
        })
        .await?;
        let Some(node) = found else { return Ok(None) };
        let mut volumes = Vec::new();
        self.each_volume(of_node(name), |volume| {
            volumes.push(volume);
            true
        })
        .await?;
        let pools = self.pools(name).await?;
        let snapshots =
            self.snapshots(v2::ListSnapshotsRequest { node: name.to_owned(), ..Default::default() }).await?;
        let snapshots = snapshots.into_iter().map(|listed| listed.snapshot).collect();
        Ok(Some(Node { node, pools, volumes, snapshots, diagnosis: self.diagnosis().await? }))
    }

    /// The volume with that identifier; `None` if it does not exist.
    pub(crate) async fn volume(&self, id: &VolumeId) -> Result<Option<Volume>, Status> {
        let mut found = None;
        let listed = self.each_volume(of_node(&id.node), |volume| {
            if volume.volume.id == *id {
                found = Some(volume);
            }
            found.is_none()
        });
        match listed.await {
            Err(status) if status.code() == tonic::Code::NotFound => return Ok(None),
            listed => listed?,
        }
        let Some(volume) = found else { return Ok(None) };
        let pool = self.pools(&id.node).await?.into_iter().find(|listed| listed.pool.name == volume.volume.pool);
        let request = v2::ListSnapshotsRequest { node: id.node.clone(), source: id.to_string(), ..Default::default() };
        Ok(Some(Volume { volume, pool, snapshots: self.snapshots(request).await? }))
    }

    /// The page of volumes that `query` selects.
    pub(crate) async fn volumes(&self, query: &Query) -> Result<Volumes, Status> {
        let request = v2::ListVolumesRequest {
            problems_only: query.which == Which::Problems,
            orphans_only: query.which == Which::Orphans,
            ..Default::default()
        };
        let search = query.search.to_lowercase();
        let (mut volumes, mut last, mut total) = (Vec::new(), Vec::new(), 0);
        let first = (query.page.saturating_sub(1)).saturating_mul(ROWS);
        self.each_volume(request, |listed| {
            if finds(&search, &listed.volume) {
                if total >= first && volumes.len() < ROWS {
                    volumes.push(listed);
                } else if total < first {
                    // If there are fewer pages, the last one is shown.
                    if total % ROWS == 0 {
                        last.clear();
                    }
                    last.push(listed);
                }
                total += 1;
            }
            true
        })
        .await?;
        let volumes = if volumes.is_empty() { last } else { volumes };
        Ok(Volumes { volumes, paging: Paging::new(query.page, total) })
    }

    /// Calls `visit` with each node, by name, until it returns false.
    async fn each_node(&self, mut visit: impl FnMut(v2::Node) -> bool) -> Result<(), Status> {
        let mut page_token = String::new();
        loop {
            let request = v2::ListNodesRequest { page_size: BATCH, page_token };
            let page = self.view.list_nodes(Request::new(request)).await?.into_inner();
            if !page.nodes.into_iter().all(&mut visit) || page.next_page_token.is_empty() {
                return Ok(());
            }
            page_token = page.next_page_token;
        }
    }

    /// Calls `visit` with each volume, by node and identifier, until it returns false.
    async fn each_volume(
        &self,
        mut request: v2::ListVolumesRequest,
        mut visit: impl FnMut(ListedVolume) -> bool,
    ) -> Result<(), Status> {
        request.page_size = BATCH;
        loop {
            let page = self.view.list_volumes(Request::new(request.clone())).await?.into_inner();
            // The view is of the same version, so it has no volume with an identifier that is not known here.
            let mut volumes = page.volumes.into_iter().filter_map(|listed| read_volume(listed).ok());
            if !volumes.all(&mut visit) || page.next_page_token.is_empty() {
                return Ok(());
            }
            request.page_token = page.next_page_token;
            // Other tasks get their turn.
            tokio::task::yield_now().await;
        }
    }

    async fn pools(&self, node: &str) -> Result<Vec<ListedPool>, Status> {
        let mut pools = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = v2::ListPoolsRequest { node: node.to_owned(), page_size: BATCH, page_token };
            let page = self.view.list_pools(Request::new(request)).await?.into_inner();
            pools.extend(page.pools.into_iter().map(read_pool));
            if page.next_page_token.is_empty() {
                return Ok(pools);
            }
            page_token = page.next_page_token;
        }
    }

    async fn snapshots(&self, mut request: v2::ListSnapshotsRequest) -> Result<Vec<ListedSnapshot>, Status> {
        request.page_size = BATCH;
        let mut snapshots = Vec::new();
        loop {
            let page = self.view.list_snapshots(Request::new(request.clone())).await?.into_inner();
            snapshots.extend(page.snapshots.into_iter().filter_map(read_snapshot));
            if page.next_page_token.is_empty() {
                return Ok(snapshots);
            }
            request.page_token = page.next_page_token;
        }
    }
}

/// Whether a volume is searched for; `search` in lower case.
pub(crate) fn finds(search: &str, volume: &quarry_volume::Volume) -> bool {
    Query::finds(search, &volume.name)
        || Query::finds(search, &volume.pool)
        || Query::finds(search, &volume.id.to_string())
}

/// All volumes of a node.
fn of_node(name: &str) -> v2::ListVolumesRequest {
    v2::ListVolumesRequest { node: name.to_owned(), ..Default::default() }
}
