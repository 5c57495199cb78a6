//! The service for a cluster whose nodes live in memory.

mod doctor;
mod lists;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use quarry_agent::Dial;
use quarry_proto::view::v2;
use quarry_proto::view::v2::view_server::View as _;
use quarry_volume::{
    AccessTypes, Agent, Change, Error, ExtentSize, FencingToken, Greeting, Layout, MutableParameters, NameLookup,
    PoolCapabilities, PoolState, Result, SizeRange, Snapshot, SnapshotId, SnapshotSpec, Space, StorageId, Unreachable,
    Update, UpdateStream, Volume, VolumeId, VolumeSpec,
};
use quarry_wire::view::{ListedSnapshot, ListedVolume, read_pool, read_snapshot, read_volume};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

use super::{Finding, ViewService};
use crate::environment::{Abandoned, AlwaysElected, Claims, Endpoint, Fate, Nodes, Roster};
use crate::member::{Link, Timing};
use crate::{Cluster, Parts};

const GIB: u64 = 1 << 30;
const EXTENT: ExtentSize = ExtentSize(4 << 20);

/// What a node reports, or why it is unreachable.
#[derive(Clone, Debug)]
enum NodeFake {
    Here { greeting: Greeting, pools: Vec<PoolState>, volumes: Vec<Volume>, snapshots: Vec<Snapshot> },
    Away(Unreachable, String),
}

/// A node with one volume group.
fn here(node: &str, pools: Vec<PoolState>, volumes: Vec<Volume>) -> NodeFake {
    let greeting = Greeting {
        node: node.into(),
        instance: format!("run-{node}"),
        boot_id: format!("boot-{node}"),
        version: env!("CARGO_PKG_VERSION").into(),
        ..Greeting::default()
    };
    NodeFake::Here { greeting, pools, volumes, snapshots: Vec::new() }
}

/// The same node, with these snapshots.
fn with_snapshots(mut node: NodeFake, taken: Vec<Snapshot>) -> NodeFake {
    match &mut node {
        NodeFake::Here { snapshots, .. } => *snapshots = taken,
        NodeFake::Away(_, why) => panic!("away: {why}"),
    }
    node
}

/// A snapshot of a volume.
fn snapshot(source: &Volume, name: &str) -> Snapshot {
    let VolumeId { storage, node, .. } = source.id.clone();
    let id = SnapshotId { storage, node, snapshot: name.into() };
    Snapshot {
        size: source.size,
        pool: source.pool.clone(),
        created: 1_800_000_000,
        ready: true,
        allocated: GIB,
        ..Snapshot::new(id, source.id.clone())
    }
}

/// A pool of 100 GiB, of which `free` bytes are free.
fn pool(node: &str, name: &str, free: u64) -> PoolState {
    PoolState {
        name: name.into(),
        kind: "lvm".into(),
        on: format!("vg-{name}"),
        storage: Some(StorageId::of(&format!("{node}/{name}"))),
        size: 100 * GIB,
        space: Space { extent: EXTENT, free: vec![EXTENT.whole_in(free)], ..Space::default() },
        metadata_size: 1 << 20,
        metadata_free: 500 << 10,
        capabilities: PoolCapabilities { unique_storage: true, ..PoolCapabilities::default() },
        enlarge: "add a disk to it (vgextend)".into(),
        ..PoolState::default()
    }
}

fn volume(node: &str, pool: &str, name: &str) -> Volume {
    let id = VolumeId { storage: StorageId::of(&format!("{node}/{pool}")), node: node.into(), volume: name.into() };
    Volume {
        size: GIB,
        pool: pool.into(),
        access: Some(AccessTypes::Mount),
        filesystem: "xfs".parse().ok(),
        layout: Some(Layout::Linear),
        ready: true,
        ..Volume::new(id)
    }
}

fn greeting(fakes: &mut NodeFake, change: impl FnOnce(&mut Greeting)) {
    match fakes {
        NodeFake::Here { greeting, .. } => change(greeting),
        NodeFake::Away(_, why) => panic!("away: {why}"),
    }
}

struct TestAgent(NodeFake);

#[async_trait::async_trait]
impl Agent for TestAgent {
    fn node(&self) -> &str {
        "test"
    }

    async fn create(&self, _: VolumeSpec, _: Option<FencingToken>, _: Duration) -> Result<(Volume, Change)> {
        unreachable!("the view is read-only")
    }

    async fn delete(&self, _: &VolumeId, _: Duration) -> Result<Change> {
        unreachable!("the view is read-only")
    }

    async fn get(&self, _: &VolumeId, _: Duration) -> Result<Volume> {
        unreachable!("the view calls no node")
    }

    async fn find(&self, _: &str, _: u64, _: Duration) -> Result<NameLookup> {
        unreachable!("the view calls no node")
    }

    async fn expand(&self, _: &VolumeId, _: SizeRange, _: Duration) -> Result<(Volume, Change)> {
        unreachable!("the view is read-only")
    }

    async fn modify(&self, _: &VolumeId, _: MutableParameters, _: Duration) -> Result<(Volume, Change)> {
        unreachable!("the view is read-only")
    }

    async fn create_snapshot(&self, _: SnapshotSpec, _: Duration) -> Result<(Snapshot, Change)> {
        unreachable!("the view is read-only")
    }

    async fn delete_snapshot(&self, _: &SnapshotId, _: Duration) -> Result<Change> {
        unreachable!("the view is read-only")
    }

    async fn get_snapshot(&self, _: &SnapshotId, _: Duration) -> Result<Snapshot> {
        unreachable!("the view calls no node")
    }

    async fn watch(&self) -> Result<UpdateStream> {
        match self.0.clone() {
            NodeFake::Away(cause, why) => Err(Error::unreachable(cause, why)),
            NodeFake::Here { greeting, pools, volumes, snapshots } => {
                let full_state = Change { generation: 1, pools, volumes, snapshots, ..Change::default() };
                let updates = [Ok(Update::Greeting(greeting)), Ok(Update::FullState(full_state))];
                Ok(futures::stream::iter(updates).chain(futures::stream::pending()).boxed())
            }
        }
    }
}

struct TestDial(BTreeMap<String, NodeFake>);

#[async_trait::async_trait]
impl Dial for TestDial {
    async fn dial(&self, node: &str, _endpoint: &str) -> Result<Arc<dyn Agent>> {
        Ok(Arc::new(TestAgent(self.0[node].clone())))
    }
}

/// The part of Kubernetes that a view needs.
#[derive(Clone, Default)]
struct World {
    fates: BTreeMap<String, Fate>,
    handles: Option<Arc<HashSet<String>>>,
    snapshot_handles: Option<Arc<HashSet<String>>>,
}

#[async_trait::async_trait]
impl Nodes for World {
    async fn fate(&self, node: &str) -> Fate {
        self.fates.get(node).copied().unwrap_or(Fate::Unknown)
    }

    async fn report_abandoned(&self, _: &VolumeId, _: Abandoned) {
        unreachable!("the view is read-only")
    }
}

impl Claims for World {
    fn handles(&self) -> Option<Arc<HashSet<String>>> {
        self.handles.clone()
    }

    fn snapshot_handles(&self) -> Option<Arc<HashSet<String>>> {
        self.snapshot_handles.clone()
    }
}

/// A view of these nodes, once all are connected or known to be unreachable.
async fn view(nodes: Vec<(&str, NodeFake)>, world: World) -> ViewService {
    view_with(nodes, world, || async { Vec::new() }).await
}

async fn view_with<F>(
    nodes: Vec<(&str, NodeFake)>,
    world: World,
    extras: impl Fn() -> F + Send + Sync + 'static,
) -> ViewService
where
    F: Future<Output = Vec<Finding>> + Send + 'static,
{
    let fakes: BTreeMap<String, NodeFake> = nodes.into_iter().map(|(name, fakes)| (name.to_owned(), fakes)).collect();
    let endpoint = |name: &str| Endpoint { address: name.to_owned(), pod_uid: String::new() };
    let roster: Roster = fakes.keys().map(|name| (name.clone(), endpoint(name))).collect();
    let (sender, source) = watch::channel(Some(Arc::new(roster)));
    let parts = Parts {
        dial: Arc::new(TestDial(fakes.clone())),
        timing: Timing { age: Duration::from_secs(1 << 30), ..Timing::default() },
        nodes: Arc::new(world.clone()),
        election: Arc::new(AlwaysElected),
        claims: Arc::new(world),
        only: None,
    };
    let cluster = Cluster::follow(source, parts, CancellationToken::new());
    // Keeping the sender alive keeps the roster unchanged.
    tokio::spawn(async move { sender.closed().await });
    let reached = async {
        loop {
            let members = cluster.members();
            let reached = members.iter().all(|member| match (&fakes[&member.name], member.link()) {
                (NodeFake::Here { .. }, Link::Up { .. }) => true,
                (NodeFake::Away(_, why), Link::Down { why: found, .. }) => *why == found,
                _ => false,
            });
            if cluster.synced() && members.len() == fakes.len() && reached {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), reached).await.expect("all nodes reach their state");
    ViewService::new(cluster, extras)
}

/// A view of a cluster that has not listed its nodes yet.
fn unlisted() -> ViewService {
    let (sender, source) = watch::channel(None);
    let world = Arc::new(World::default());
    let parts = Parts {
        dial: Arc::new(TestDial(BTreeMap::new())),
        timing: Timing::default(),
        nodes: world.clone(),
        election: Arc::new(AlwaysElected),
        claims: world,
        only: None,
    };
    let cluster = Cluster::follow(source, parts, CancellationToken::new());
    tokio::spawn(async move { sender.closed().await });
    ViewService::new(cluster, || async { Vec::new() })
}

/// A page of volumes, and the token of the next one.
async fn volumes(view: &ViewService, request: v2::ListVolumesRequest) -> Result<(Vec<ListedVolume>, String), Status> {
    let page = view.list_volumes(Request::new(request)).await?.into_inner();
    Ok((page.volumes.into_iter().map(|listed| read_volume(listed).unwrap()).collect(), page.next_page_token))
}

/// A page of snapshots, and the token of the next one.
async fn snapshots(
    view: &ViewService,
    request: v2::ListSnapshotsRequest,
) -> Result<(Vec<ListedSnapshot>, String), Status> {
    let page = view.list_snapshots(Request::new(request)).await?.into_inner();
    Ok((page.snapshots.into_iter().map(|listed| read_snapshot(listed).unwrap()).collect(), page.next_page_token))
}

async fn doctor(view: &ViewService) -> v2::DiagnoseResponse {
    view.diagnose(Request::new(v2::DiagnoseRequest {})).await.unwrap().into_inner()
}
