//! Nodes in memory, with the same trait as real ones, to test the controller.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "a test fails by panicking"
)]

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt as _;
use quarry_agent::Dial;
use quarry_controller::{
    Abandoned, Claims, Cluster, ControllerService, Election, Endpoint, Fate, Nodes, Parts, Roster, Timing,
};
use quarry_proto::csi::v1 as csi;
use quarry_proto::csi::v1::controller_server::Controller as _;
use quarry_volume::{
    Agent, COPY, Change, ContentSource, DISCARD, EXPAND, Error, ExtentSize, FencingToken, Greeting, LIMITS, Layout,
    MODIFY_DISCARD, MutableParameters, NameLookup, PoolState, Reason, Result, SNAPSHOT, SizeRange, Snapshot,
    SnapshotId, SnapshotSpec, Space, StorageId, Unreachable, Update, UpdateStream, Volume, VolumeId, VolumeSpec,
};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

pub const KEY: &str = "topology/node";
pub const MIB: u64 = 1 << 20;

/// A node whose storage is a map.
pub struct FakeNode {
    pub name: String,
    pub size: u64,
    pub volumes: Mutex<BTreeMap<String, Volume>>,
    pub snapshots: Mutex<BTreeMap<String, Snapshot>>,
    pub reachable: AtomicBool,
    /// Its host does not answer at all.
    pub silent: AtomicBool,
    /// Called once, when a connection gets the full state. The connection is lost there if it returns false.
    pub at_full_state: Mutex<Option<Box<dyn FnOnce() -> bool + Send>>>,
    pub created: AtomicU64,
    pub fence: AtomicU64,
    /// It creates empty volumes, like a node that is older than [`COPY`].
    pub ignores_sources: AtomicBool,
    /// It creates volumes without encryption, like a node that is older than [`quarry_volume::ENCRYPTION`].
    pub ignores_encryption: AtomicBool,
    /// It answers every creation as if it had no room.
    pub rejects: AtomicBool,
    /// Its pool cannot be read.
    pub unreadable: AtomicBool,
    /// Its pool is on other storage than the volumes.
    pub has_other_storage: AtomicBool,
    /// What its agent can do beyond the first version of the protocol.
    pub capabilities: Mutex<Vec<String>>,
    /// The volumes that it was asked to create, and the changes that it made.
    pub specs: Mutex<Vec<VolumeSpec>>,
    pub modified: Mutex<Vec<MutableParameters>>,
    generation: AtomicU64,
    updates: broadcast::Sender<Update>,
}

impl FakeNode {
    pub fn new(name: &str, size: u64) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            size,
            volumes: Mutex::default(),
            snapshots: Mutex::default(),
            reachable: AtomicBool::new(true),
            silent: AtomicBool::new(false),
            at_full_state: Mutex::default(),
            created: AtomicU64::new(0),
            fence: AtomicU64::new(0),
            ignores_sources: AtomicBool::new(false),
            ignores_encryption: AtomicBool::new(false),
            rejects: AtomicBool::new(false),
            unreadable: AtomicBool::new(false),
            has_other_storage: AtomicBool::new(false),
            capabilities: Mutex::new(
                [EXPAND, SNAPSHOT, COPY, DISCARD, LIMITS, MODIFY_DISCARD].map(String::from).to_vec(),
            ),
            specs: Mutex::default(),
            modified: Mutex::default(),
            generation: AtomicU64::new(1),
            updates: broadcast::channel(64).0,
        })
    }

    fn pool(&self) -> PoolState {
        let used: u64 = self.volumes.lock().unwrap().values().map(|volume| volume.size).sum();
        let extent = ExtentSize(MIB);
        let free = extent.whole_in(self.size.saturating_sub(used));
        PoolState {
            name: "fast".into(),
            storage: Some(StorageId::of(&self.name)),
            size: self.size,
            space: Space { extent, free: vec![free], ..Space::default() },
            ..PoolState::default()
        }
    }

    fn change(&self, volumes: Vec<Volume>, gone: Vec<VolumeId>) -> Change {
        self.publish(Change { volumes, gone, ..Change::default() })
    }

    fn publish(&self, change: Change) -> Change {
        let generation = self.generation.fetch_add(1, SeqCst) + 1;
        let change = Change { generation, pools: vec![self.pool()], ..change };
        let _ = self.updates.send(Update::Change(change.clone()));
        change
    }

    /// A snapshot of that volume, complete.
    pub fn put_snapshot(&self, name: &str, source: &VolumeId, size: u64) -> (Snapshot, Change) {
        let id = SnapshotId { storage: source.storage.clone(), node: self.name.clone(), snapshot: name.into() };
        let taken = Snapshot { size, created: 1_800_000_000, ready: true, ..Snapshot::new(id, source.clone()) };
        self.snapshots.lock().unwrap().insert(name.into(), taken.clone());
        let change = self.publish(Change { snapshots: vec![taken.clone()], ..Change::default() });
        (taken, change)
    }

    /// Breaks its connections, and rejects new ones.
    pub fn cut(&self) {
        self.reachable.store(false, SeqCst);
        let _ = self.updates.send(Update::Greeting(Greeting::default()));
    }

    pub fn put(&self, name: &str, size: u64) -> VolumeId {
        let id = VolumeId { storage: StorageId::of(&self.name), node: self.name.clone(), volume: name.into() };
        let volume = Volume {
            size,
            pool: "fast".into(),
            access: Some(quarry_volume::AccessTypes::Mount),
            filesystem: Some(quarry_volume::Filesystem::Ext4),
            layout: Some(Layout::Linear),
            ..Volume::new(id.clone())
        };
        self.volumes.lock().unwrap().insert(name.into(), volume.clone());
        self.change(vec![volume], vec![]);
        id
    }

    /// Reports this state of a volume.
    pub fn report(&self, volume: &Volume) {
        self.change(vec![volume.clone()], vec![]);
    }

    /// Reports this state of a snapshot.
    pub fn report_snapshot(&self, snapshot: &Snapshot) {
        self.publish(Change { snapshots: vec![snapshot.clone()], ..Change::default() });
    }

    fn check(&self) -> Result<()> {
        match self.reachable.load(SeqCst) {
            true => Ok(()),
            false => Err(Error::unavailable("connection lost")),
        }
    }
}

/// A connection to a node.
struct Connected(Arc<FakeNode>);

#[async_trait::async_trait]
impl Agent for Connected {
    fn node(&self) -> &str {
        &self.0.name
    }

    async fn create(&self, spec: VolumeSpec, token: Option<FencingToken>, _wait: Duration) -> Result<(Volume, Change)> {
        self.0.check()?;
        if token.is_some_and(|token| token.fence < self.0.fence.load(SeqCst)) {
            return Err(Error::unavailable("another controller was elected"));
        }
        if self.0.rejects.load(SeqCst) {
            return Err(Error::new(Reason::NoSpace, "no pool of that name"));
        }
        let existing = self.0.volumes.lock().unwrap().get(&spec.name).cloned();
        if let Some(volume) = existing {
            if !spec.size.admits(volume.size) {
                return Err(Error::new(Reason::Exists, "with another size"));
            }
            return Ok((volume.clone(), self.0.change(vec![volume], vec![])));
        }
        self.0.specs.lock().unwrap().push(spec.clone());
        let of_source = match &spec.source {
            Some(ContentSource::Snapshot(id)) => self.get_snapshot(id, Duration::ZERO).await?.size,
            Some(ContentSource::Volume(id)) => self.get(id, Duration::ZERO).await?.size,
            None => 0,
        };
        let size = if spec.size.required == 0 { of_source } else { spec.size.required };
        if self.0.pool().space.largest(&spec.class.layout).bytes < size {
            return Err(Error::new(Reason::NoSpace, "full"));
        }
        self.0.created.fetch_add(1, SeqCst);
        self.0.put(&spec.name, size);
        let volume = {
            let mut volumes = self.0.volumes.lock().unwrap();
            let volume = volumes.get_mut(&spec.name).unwrap();
            volume.limits = spec.class.limits;
            volume.encryption = spec.class.encryption.filter(|_| !self.0.ignores_encryption.load(SeqCst));
            volume.source = spec.source.filter(|_| !self.0.ignores_sources.load(SeqCst));
            volume.clone()
        };
        Ok((volume.clone(), self.0.change(vec![volume], vec![])))
    }

    async fn delete(&self, id: &VolumeId, _wait: Duration) -> Result<Change> {
        self.0.check()?;
        if self.0.has_other_storage.load(SeqCst) {
            return Err(Error::storage_absent("no pool of this node has the storage"));
        }
        if self.0.unreadable.load(SeqCst) {
            return Err(Error::unavailable("its pool cannot be read"));
        }
        self.0.volumes.lock().unwrap().remove(&id.volume);
        Ok(self.0.change(vec![], vec![id.clone()]))
    }

    async fn get(&self, id: &VolumeId, _wait: Duration) -> Result<Volume> {
        self.0.check()?;
        if self.0.unreadable.load(SeqCst) {
            return Err(Error::unavailable("its pool cannot be read"));
        }
        self.0.volumes.lock().unwrap().get(&id.volume).cloned().ok_or_else(|| Error::not_found("no such volume"))
    }

    async fn find(&self, name: &str, fence: u64, _wait: Duration) -> Result<NameLookup> {
        self.0.check()?;
        if self.0.unreadable.load(SeqCst) {
            return Err(Error::host("its record cannot be written"));
        }
        self.0.fence.fetch_max(fence, SeqCst);
        Ok(NameLookup { instance: "1".into(), volume: self.0.volumes.lock().unwrap().get(name).cloned() })
    }

    async fn expand(&self, id: &VolumeId, size: SizeRange, _wait: Duration) -> Result<(Volume, Change)> {
        self.0.check()?;
        let expanded = {
            let mut volumes = self.0.volumes.lock().unwrap();
            let volume = volumes.get_mut(&id.volume).ok_or_else(|| Error::not_found("no such volume"))?;
            volume.size = volume.size.max(size.required);
            volume.clone()
        };
        Ok((expanded.clone(), self.0.change(vec![expanded], vec![])))
    }

    async fn modify(&self, id: &VolumeId, changes: MutableParameters, _wait: Duration) -> Result<(Volume, Change)> {
        self.0.check()?;
        let modified = {
            let mut volumes = self.0.volumes.lock().unwrap();
            let volume = volumes.get_mut(&id.volume).ok_or_else(|| Error::not_found("no such volume"))?;
            volume.limits = volume.limits.with(&changes.limits);
            self.0.modified.lock().unwrap().push(changes);
            volume.clone()
        };
        Ok((modified.clone(), self.0.change(vec![modified], vec![])))
    }

    async fn create_snapshot(&self, spec: SnapshotSpec, _wait: Duration) -> Result<(Snapshot, Change)> {
        self.0.check()?;
        if self.0.has_other_storage.load(SeqCst) {
            return Err(Error::storage_absent("no pool of this node has the storage"));
        }
        let volume = self.get(&spec.source, Duration::ZERO).await?;
        if let Some(taken) = self.0.snapshots.lock().unwrap().get(&spec.name)
            && taken.source != spec.source
        {
            return Err(Error::new(Reason::Exists, "a snapshot of another volume"));
        }
        Ok(self.0.put_snapshot(&spec.name, &spec.source, volume.size))
    }

    async fn delete_snapshot(&self, id: &SnapshotId, _wait: Duration) -> Result<Change> {
        self.0.check()?;
        self.0.snapshots.lock().unwrap().remove(&id.snapshot);
        Ok(self.0.publish(Change { gone_snapshots: vec![id.clone()], ..Change::default() }))
    }

    async fn get_snapshot(&self, id: &SnapshotId, _wait: Duration) -> Result<Snapshot> {
        self.0.check()?;
        let found = self.0.snapshots.lock().unwrap().get(&id.snapshot).cloned();
        found.ok_or_else(|| Error::not_found("no such snapshot"))
    }

    async fn watch(&self) -> Result<UpdateStream> {
        self.0.check()?;
        let updates = self.0.updates.subscribe();
        let greeting = Greeting {
            node: self.0.name.clone(),
            instance: "1".into(),
            capabilities: self.0.capabilities.lock().unwrap().clone(),
            ..Greeting::default()
        };
        let full_state = Change {
            generation: self.0.generation.load(SeqCst),
            pools: vec![self.0.pool()],
            volumes: self.0.volumes.lock().unwrap().values().cloned().collect(),
            snapshots: self.0.snapshots.lock().unwrap().values().cloned().collect(),
            ..Change::default()
        };
        let first = futures::stream::iter([Update::Greeting(greeting), Update::FullState(full_state)]);
        let rest = futures::stream::unfold(updates, |mut updates| async {
            updates.recv().await.ok().map(|one| (one, updates))
        });
        let node = Arc::clone(&self.0);
        let updates = first.chain(rest).map(move |update| {
            let is_full_state = matches!(update, Update::FullState(_));
            let call = is_full_state.then(|| node.at_full_state.lock().unwrap().take()).flatten();
            match call.is_none_or(|call| call()) {
                true => Ok(update),
                false => Err(Error::unavailable("connection lost")),
            }
        });
        Ok(updates.boxed())
    }
}

/// The environment of the controllers in one test.
pub struct World {
    pub nodes: BTreeMap<String, Arc<FakeNode>>,
    pub roster: watch::Sender<Option<Arc<Roster>>>,
    pub fates: Mutex<HashMap<String, Fate>>,
    /// Finding out the state of a node takes five minutes.
    pub slow_fates: AtomicBool,
    pub given_up: Mutex<Vec<(VolumeId, Abandoned)>>,
    /// The volumes whose limits were reported as not in force, and why.
    pub unlimited: Mutex<Vec<(String, String)>>,
    /// The Kubernetes API rejects events.
    pub rejects_events: AtomicBool,
    /// The storage of which an operator has confirmed that it is gone.
    pub storage_gone: Mutex<Vec<StorageId>>,
    pub elected: AtomicBool,
    pub term: AtomicU64,
    pub handles: Mutex<Option<std::collections::HashSet<String>>>,
    pub snapshot_handles: Mutex<Option<std::collections::HashSet<String>>>,
    pub stop: CancellationToken,
}

#[async_trait::async_trait]
impl Dial for World {
    async fn dial(&self, _node: &str, endpoint: &str) -> Result<Arc<dyn Agent>> {
        let node = self.nodes.get(endpoint).ok_or_else(|| Error::unavailable("nothing listens there"))?;
        if node.silent.load(SeqCst) {
            // As long as TCP waits.
            tokio::time::sleep(Duration::from_secs(5)).await;
            return Err(Error::unreachable(Unreachable::NoAnswer, "no answer in time"));
        }
        node.check()?;
        Ok(Arc::new(Connected(Arc::clone(node))))
    }
}

#[async_trait::async_trait]
impl Nodes for World {
    async fn fate(&self, node: &str) -> Fate {
        if self.slow_fates.load(SeqCst) {
            tokio::time::sleep(Duration::from_secs(300)).await;
        }
        self.fates.lock().unwrap().get(node).copied().unwrap_or(Fate::Ready)
    }

    async fn is_storage_gone(&self, id: &VolumeId) -> bool {
        self.storage_gone.lock().unwrap().contains(&id.storage)
    }

    async fn report_abandoned(&self, id: &VolumeId, why: Abandoned) {
        self.given_up.lock().unwrap().push((id.clone(), why));
    }

    async fn report_unlimited(&self, id: &VolumeId, why: &str) -> bool {
        self.unlimited.lock().unwrap().push((id.volume.clone(), why.to_owned()));
        !self.rejects_events.load(SeqCst)
    }
}

#[async_trait::async_trait]
impl Election for World {
    async fn fence(&self) -> Result<u64> {
        match self.elected.load(SeqCst) {
            true => Ok(self.term.load(SeqCst)),
            false => Err(Error::unavailable("another controller is elected")),
        }
    }
}

impl Claims for World {
    fn handles(&self) -> Option<Arc<std::collections::HashSet<String>>> {
        self.handles.lock().unwrap().clone().map(Arc::new)
    }

    fn snapshot_handles(&self) -> Option<Arc<std::collections::HashSet<String>>> {
        self.snapshot_handles.lock().unwrap().clone().map(Arc::new)
    }
}

impl World {
    /// A world of nodes with these sizes, in MiB.
    pub fn new(nodes: &[(&str, u64)]) -> Arc<Self> {
        let nodes: BTreeMap<_, _> =
            nodes.iter().map(|(name, size)| ((*name).to_owned(), FakeNode::new(name, size * MIB))).collect();
        let roster: Roster = nodes.keys().map(|name| (name.clone(), endpoint(name))).collect();
        Arc::new(Self {
            nodes,
            roster: watch::channel(Some(Arc::new(roster))).0,
            fates: Mutex::default(),
            slow_fates: AtomicBool::new(false),
            given_up: Mutex::default(),
            unlimited: Mutex::default(),
            rejects_events: AtomicBool::new(false),
            storage_gone: Mutex::default(),
            elected: AtomicBool::new(true),
            term: AtomicU64::new(1),
            handles: Mutex::default(),
            snapshot_handles: Mutex::default(),
            stop: CancellationToken::new(),
        })
    }

    /// The parts of a controller in this world.
    pub fn parts(self: &Arc<Self>) -> Parts {
        Parts {
            dial: self.clone(),
            timing: Timing { first_retry: Duration::from_millis(20), ..Timing::default() },
            nodes: self.clone(),
            election: self.clone(),
            claims: self.clone(),
            only: None,
        }
    }

    /// A controller that has the full state of every reachable node.
    pub async fn controller(self: &Arc<Self>) -> (Cluster, ControllerService) {
        let cluster = Cluster::follow(self.roster.subscribe(), self.parts(), self.stop.clone());
        let reachable = self.nodes.values().all(|node| node.reachable.load(SeqCst));
        let wait = if reachable { Duration::from_secs(20) } else { Duration::from_millis(300) };
        assert!(cluster.all_reported(wait).await || !reachable);
        (cluster.clone(), ControllerService::new(cluster, KEY))
    }

    /// The nodes that hold a volume with this name.
    pub fn holders(&self, name: &str) -> Vec<&str> {
        let holds = |node: &&Arc<FakeNode>| node.volumes.lock().unwrap().contains_key(name);
        self.nodes.values().filter(holds).map(|node| node.name.as_str()).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub fn endpoint(name: &str) -> Endpoint {
    Endpoint { address: name.to_owned(), pod_uid: String::new() }
}

/// Waits for a condition that other tasks make true.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("timed out waiting until {what}");
}

fn topologies(nodes: &[&str]) -> Vec<csi::Topology> {
    let topology = |node: &&str| csi::Topology { segments: [(KEY.to_owned(), (*node).to_owned())].into() };
    nodes.iter().map(topology).collect()
}

/// Calls CreateVolume with this size in MiB.
pub async fn create(
    service: &ControllerService,
    name: &str,
    mib: u64,
    requisite: &[&str],
    preferred: &[&str],
) -> Result<csi::Volume, Status> {
    fill(service, name, mib, requisite, preferred, None).await
}

/// Like [`create`], filled from that source.
pub async fn fill(
    service: &ControllerService,
    name: &str,
    mib: u64,
    requisite: &[&str],
    preferred: &[&str],
    source: Option<csi::volume_content_source::Type>,
) -> Result<csi::Volume, Status> {
    let source = source.map(|source| csi::VolumeContentSource { r#type: Some(source) });
    let request =
        csi::CreateVolumeRequest { volume_content_source: source, ..request(name, mib, requisite, preferred) };
    service.create_volume(Request::new(request)).await.map(|answer| answer.into_inner().volume.unwrap())
}

/// A request for a volume of that size in MiB with a filesystem.
pub fn request(name: &str, mib: u64, requisite: &[&str], preferred: &[&str]) -> csi::CreateVolumeRequest {
    use csi::volume_capability::access_mode::Mode;
    use csi::volume_capability::{AccessMode, AccessType, MountVolume};

    let capability = csi::VolumeCapability {
        access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter as i32 }),
        access_type: Some(AccessType::Mount(MountVolume::default())),
    };
    csi::CreateVolumeRequest {
        name: name.into(),
        capacity_range: Some(csi::CapacityRange { required_bytes: i64::try_from(mib * MIB).unwrap(), limit_bytes: 0 }),
        volume_capabilities: vec![capability],
        accessibility_requirements: Some(csi::TopologyRequirement {
            requisite: topologies(requisite),
            preferred: topologies(preferred),
        }),
        ..Default::default()
    }
}

pub async fn delete(service: &ControllerService, id: &str) -> Result<(), Status> {
    let request = csi::DeleteVolumeRequest { volume_id: id.into(), ..Default::default() };
    service.delete_volume(Request::new(request)).await.map(drop)
}

/// GetCapacity of a segment (or of all), in MiB: the total, and the largest volume.
pub async fn capacity(service: &ControllerService, node: Option<&str>) -> Result<(i64, i64), Status> {
    let mib = i64::try_from(MIB).unwrap();
    let request = csi::GetCapacityRequest {
        accessible_topology: node.and_then(|node| topologies(&[node]).pop()),
        ..Default::default()
    };
    let answer = service.get_capacity(Request::new(request)).await?.into_inner();
    Ok((answer.available_capacity / mib, answer.maximum_volume_size.unwrap() / mib))
}

/// The node that a volume is on.
#[allow(clippy::indexing_slicing, reason = "a test fails by panicking")]
pub fn node_of(volume: &csi::Volume) -> &str {
    &volume.accessible_topology[0].segments[KEY]
}
