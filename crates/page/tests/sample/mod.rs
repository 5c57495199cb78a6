//! A sample fleet: a real controller whose nodes live in memory, with what a page has to show. Names of volumes try to
//! break the page.
#![allow(clippy::unwrap_used, reason = "for tests and for the example")]

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use quarry_agent::Dial;
use quarry_controller::{AlwaysElected, Claims, Cluster, Endpoint, NoKubernetes, Parts, Roster, Timing, ViewService};
use quarry_volume::{
    AccessTypes, Agent, Change, Condition, ContentSource, CopyProgress, Error, ExtentSize, Extents, FencingToken,
    Greeting, Layout, MutableParameters, NameLookup, PoolCapabilities, PoolState, Result, SizeRange, Snapshot,
    SnapshotCondition, SnapshotId, SnapshotMethod, SnapshotSpec, Space, StorageId, ThinUse, Unreachable, Update,
    UpdateStream, Volume, VolumeId, VolumeSpec,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A name that would be a script.
pub(crate) const SCRIPT: &str = "\"><script>alert(1)</script>";
/// A name that would end an attribute and add another one.
pub(crate) const ATTRIBUTE: &str = "x' onmouseover='alert(2)' y=\"";

const GIB: u64 = 1 << 30;
const EXTENT: ExtentSize = ExtentSize(4 << 20);

/// What a node reports, or why it cannot be reached.
#[derive(Clone)]
enum Host {
    Here(Greeting, Box<Change>),
    Away(Unreachable, &'static str),
}

fn pool(node: &str, name: &str, size: u64, free: u64) -> PoolState {
    PoolState {
        name: name.into(),
        kind: "lvm".into(),
        on: format!("vg-{name}"),
        storage: Some(StorageId::of(&format!("{node}/{name}"))),
        size: size * GIB,
        space: Space { extent: EXTENT, free: vec![EXTENT.whole_in(free * GIB)], ..Space::default() },
        metadata_size: 1 << 20,
        metadata_free: 500 << 10,
        capabilities: PoolCapabilities { unique_storage: true, snapshots: true, ..PoolCapabilities::default() },
        enlarge: "add a disk to it (vgextend)".into(),
        ..PoolState::default()
    }
}

fn volume(node: &str, pool: &str, name: &str, gib: u64) -> Volume {
    let id = VolumeId { storage: StorageId::of(&format!("{node}/{pool}")), node: node.into(), volume: name.into() };
    Volume {
        size: gib * GIB,
        pool: pool.into(),
        access: Some(AccessTypes::Mount),
        filesystem: "xfs".parse().ok(),
        layout: Some(Layout::Linear),
        ready: true,
        ..Volume::new(id)
    }
}

fn snapshot(of: &Volume, name: &str, gib: u64) -> Snapshot {
    let id = SnapshotId { storage: of.id.storage.clone(), node: of.id.node.clone(), snapshot: name.into() };
    Snapshot {
        size: of.size,
        pool: of.pool.clone(),
        created: 1_795_000_000,
        ready: true,
        allocated: gib * GIB,
        ..Snapshot::new(id, of.id.clone())
    }
}

fn here(node: &str, pools: Vec<PoolState>, volumes: Vec<Volume>, snapshots: Vec<Snapshot>) -> Host {
    let greeting = Greeting {
        node: node.into(),
        instance: format!("run-{node}"),
        boot_id: format!("boot-{node}"),
        version: env!("CARGO_PKG_VERSION").into(),
        ..Greeting::default()
    };
    let mut pools = pools;
    for pool in &mut pools {
        pool.volumes = volumes.iter().filter(|volume| volume.pool == pool.name).count().try_into().unwrap_or(0);
    }
    Host::Here(greeting, Box::new(Change { generation: 1, pools, volumes, snapshots, ..Change::default() }))
}

/// The node with everything that a node can have.
fn full() -> Host {
    let node = "worker-01";
    let database = volume(node, "fast", "pvc-database", 400);
    let mut mirrored = volume(node, "fast", "pvc-mirrored", 100);
    mirrored.layout = Some(Layout::Raid1 { mirrors: 1 });
    mirrored.condition = Condition::Degraded;
    mirrored.problem = "one of its two copies is on a missing disk; the other one is used".into();
    let mut named = volume(node, "fast", "qxyz", 8);
    named.name = SCRIPT.into();
    let mut quoted = volume(node, "slow", "qabc", 16);
    quoted.name = ATTRIBUTE.into();
    let mut block = volume(node, "slow", "pvc-block", 2700);
    (block.access, block.filesystem, block.ready) = (Some(AccessTypes::Block), None, false);
    let mut clone = volume(node, "slow", "pvc-clone", 400);
    clone.source = Some(ContentSource::Volume(database.id.clone()));
    clone.copying = Some(CopyProgress { copied: 150 * GIB, total: 400 * GIB });
    clone.ready = false;
    let mut late = snapshot(&database, "snapshot-later", 30);
    (late.ready, late.created, late.method) = (false, 0, SnapshotMethod::Copy);
    late.copying = Some(CopyProgress { copied: 100 * GIB, total: 400 * GIB });
    let mut lost = snapshot(&mirrored, "snapshot-lost", 10);
    (lost.condition, lost.ready) = (SnapshotCondition::Invalid, false);
    lost.problem = "the space for overwritten blocks became full".into();
    let snapshots = vec![snapshot(&database, "snapshot-nightly", 80), late, lost];

    let mut fast = pool(node, "fast", 1800, 1040);
    fast.space.reserve = Extents(EXTENT.whole_in(100 * GIB).0);
    let mut slow = pool(node, "slow", 3600, 300);
    slow.on = "vg-<slow>".into();
    slow.hints = vec!["the disk /dev/sdc is 1Ti larger than its physical volume: `pvresize /dev/sdc`".into()];
    let mut thin = pool(node, "thin", 500, 650);
    thin.on = "vg-fast/thin".into();
    thin.thin = Some(ThinUse { data_percent: 42, metadata_percent: 7, virtual_size: 700 * GIB });
    let mut cache = volume(node, "thin", "pvc-cache", 700);
    cache.filesystem = "ext4".parse().ok();
    here(node, vec![fast, slow, thin], vec![database, mirrored, named, quoted, block, clone, cache], snapshots)
}

/// A node with one pool, full to that percentage, and some volumes.
fn plain(node: &str, percent: u64) -> Host {
    let volumes: Vec<_> = (0..percent / 10).map(|n| volume(node, "fast", &format!("pvc-{n:04}"), 100)).collect();
    here(node, vec![pool(node, "fast", 1000, 1000 - 10 * percent)], volumes, Vec::new())
}

/// The hosts by name: a dozen with all there is to see, and as many plain ones that there are `nodes` together.
fn hosts(nodes: usize) -> BTreeMap<String, Host> {
    let mut hosts = BTreeMap::from([("worker-01".to_owned(), full())]);
    for (number, percent) in [(2, 15), (3, 48), (4, 55), (5, 72), (6, 81), (7, 86), (8, 95), (9, 0)] {
        let name = format!("worker-{number:02}");
        hosts.insert(name.clone(), plain(&name, percent));
    }
    let mut closed = pool("worker-10", "fast", 1000, 400);
    closed.space.closed = Some("the volume group has a missing disk (see `vgs -o +pv_missing`)".into());
    let mut lost = volume("worker-10", "fast", "pvc-lost", 200);
    (lost.condition, lost.problem) = (Condition::DiskMissing, "a part of it is on a missing disk".into());
    hosts.insert("worker-10".into(), here("worker-10", vec![closed], vec![lost], Vec::new()));
    hosts.insert("worker-11".into(), here("worker-11", Vec::new(), Vec::new(), Vec::new()));
    let refused = "no connection to 192.0.2.12:9810: Connection refused (os error 111)";
    hosts.insert("worker-12".into(), Host::Away(Unreachable::ConnectionRefused, refused));
    for number in 13..=nodes {
        let name = format!("worker-{number:04}");
        hosts.insert(name.clone(), plain(&name, u64::try_from(number * 37 % 97).unwrap_or(0)));
    }
    hosts
}

struct InMemory(Host);

#[async_trait::async_trait]
impl Agent for InMemory {
    fn node(&self) -> &str {
        "sample"
    }

    async fn create(&self, _: VolumeSpec, _: Option<FencingToken>, _: Duration) -> Result<(Volume, Change)> {
        unreachable!("the page is read-only")
    }

    async fn delete(&self, _: &VolumeId, _: Duration) -> Result<Change> {
        unreachable!("the page is read-only")
    }

    async fn get(&self, _: &VolumeId, _: Duration) -> Result<Volume> {
        unreachable!("the page calls no node")
    }

    async fn find(&self, _: &str, _: u64, _: Duration) -> Result<NameLookup> {
        unreachable!("the page calls no node")
    }

    async fn expand(&self, _: &VolumeId, _: SizeRange, _: Duration) -> Result<(Volume, Change)> {
        unreachable!("the page is read-only")
    }

    async fn modify(&self, _: &VolumeId, _: MutableParameters, _: Duration) -> Result<(Volume, Change)> {
        unreachable!("the page is read-only")
    }

    async fn create_snapshot(&self, _: SnapshotSpec, _: Duration) -> Result<(Snapshot, Change)> {
        unreachable!("the page is read-only")
    }

    async fn delete_snapshot(&self, _: &SnapshotId, _: Duration) -> Result<Change> {
        unreachable!("the page is read-only")
    }

    async fn get_snapshot(&self, _: &SnapshotId, _: Duration) -> Result<Snapshot> {
        unreachable!("the page calls no node")
    }

    async fn watch(&self) -> Result<UpdateStream> {
        match self.0.clone() {
            Host::Away(cause, why) => Err(Error::unreachable(cause, why)),
            Host::Here(greeting, change) => {
                let updates = [Ok(Update::Greeting(greeting)), Ok(Update::FullState(*change))];
                Ok(futures::stream::iter(updates).chain(futures::stream::pending()).boxed())
            }
        }
    }
}

struct Hosts(BTreeMap<String, Host>);

#[async_trait::async_trait]
impl Dial for Hosts {
    async fn dial(&self, node: &str, _endpoint: &str) -> Result<Arc<dyn Agent>> {
        let host = self.0.get(node).cloned().ok_or_else(|| Error::unavailable("no such host"))?;
        Ok(Arc::new(InMemory(host)))
    }
}

/// All volumes are claimed.
struct AllClaimed(Arc<HashSet<String>>);

impl Claims for AllClaimed {
    fn handles(&self) -> Option<Arc<HashSet<String>>> {
        Some(Arc::clone(&self.0))
    }
}

/// The view of a controller that has heard of all `nodes`. Must be called within a tokio runtime.
pub(crate) async fn view(nodes: usize) -> ViewService {
    let hosts = hosts(nodes);
    let endpoint = |name: &str| Endpoint { address: name.to_owned(), pod_uid: String::new() };
    let roster: Roster = hosts.keys().map(|name| (name.clone(), endpoint(name))).collect();
    let up = hosts.values().filter(|host| matches!(host, Host::Here(..))).count();
    let claimed = hosts.values().flat_map(|host| match host {
        Host::Here(_, change) => change.volumes.iter().map(|volume| volume.id.to_string()).collect(),
        Host::Away(..) => Vec::new(),
    });
    let claims = AllClaimed(Arc::new(claimed.collect()));
    let (sender, source) = watch::channel(Some(Arc::new(roster)));
    let parts = Parts {
        dial: Arc::new(Hosts(hosts)),
        timing: Timing { age: Duration::from_secs(1 << 30), ..Timing::default() },
        nodes: Arc::new(NoKubernetes),
        election: Arc::new(AlwaysElected),
        claims: Arc::new(claims),
        only: None,
    };
    let cluster = Cluster::follow(source, parts, CancellationToken::new());
    // Keeping the sender alive keeps the roster unchanged.
    tokio::spawn(async move { sender.closed().await });
    let service = ViewService::new(cluster, || async { Vec::new() });
    until_reported(&service, up).await;
    service
}

/// Waits until `up` nodes have reported.
async fn until_reported(service: &ViewService, up: usize) {
    use quarry_proto::view::v2::{DiagnoseRequest, view_server::View as _};
    for _ in 0..1200 {
        let answer = service.diagnose(tonic::Request::new(DiagnoseRequest {})).await.unwrap().into_inner();
        if usize::try_from(answer.totals.unwrap_or_default().reachable_nodes) == Ok(up) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    unreachable!("not all nodes have reported within a minute");
}
