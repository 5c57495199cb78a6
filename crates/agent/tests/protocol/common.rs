//! An agent in memory, and wires to it that can be cut.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{StreamExt as _, stream};
use quarry_agent::{AgentService, RemoteAgent, serve};
use quarry_transport::metrics::Metrics;
use quarry_volume::{
    AccessTypes, Agent, Change, Condition, ContentSource, CopyProgress, CowSize, Discard, Encryption, Error,
    ExtentSize, Extents, FencingToken, Filesystem, Greeting, IoLimits, Layout, MutableParameters, NameLookup,
    Parameters, PoolCapabilities, PoolState, Reason, Result, SizeRange, Snapshot, SnapshotCondition, SnapshotId,
    SnapshotMethod, SnapshotParameters, SnapshotSpec, Space, StorageId, ThinUse, Update, UpdateStream, Volume,
    VolumeId, VolumeSpec, Wipe,
};
use tokio::io::DuplexStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const NODE: &str = "n-1";
pub(crate) const WAIT: Duration = Duration::from_secs(40);

/// What was asked of the agent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Asked {
    Create(VolumeSpec, Option<FencingToken>),
    Delete(VolumeId),
    Get(VolumeId),
    Find(String, u64),
    Expand(VolumeId, SizeRange),
    Modify(VolumeId, MutableParameters),
    CreateSnapshot(SnapshotSpec),
    DeleteSnapshot(SnapshotId),
    GetSnapshot(SnapshotId),
    Watch,
}

type Watch = Box<dyn Fn() -> Result<UpdateStream> + Send + Sync>;

/// Answers everything with [`volume`] and [`change`], unless it is to fail.
pub(crate) struct Fake {
    pub(crate) asked: Mutex<Vec<Asked>>,
    /// How long the agent was asked to wait, last.
    pub(crate) wait: Mutex<Option<Duration>>,
    pub(crate) fail: Mutex<Option<Error>>,
    pub(crate) watch: Mutex<Watch>,
    /// A permit for each creation that began.
    pub(crate) begun: Semaphore,
    /// Creation takes one of these to be done.
    pub(crate) release: Arc<Semaphore>,
    /// A permit for each creation that is done.
    pub(crate) done: Arc<Semaphore>,
    /// Whether the agent bounds its waits as it should.
    pub(crate) patient: bool,
}

impl Fake {
    pub(crate) fn new() -> Self {
        Self {
            asked: Mutex::default(),
            wait: Mutex::default(),
            fail: Mutex::default(),
            watch: Mutex::new(Box::new(|| Ok(stream::iter(story()).boxed()))),
            begun: Semaphore::new(0),
            release: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            done: Arc::new(Semaphore::new(0)),
            patient: false,
        }
    }

    /// Creation does not end before it is released.
    pub(crate) fn slow() -> Self {
        Self { release: Arc::new(Semaphore::new(0)), ..Self::new() }
    }

    pub(crate) fn watched(watch: impl Fn() -> Result<UpdateStream> + Send + Sync + 'static) -> Self {
        Self { watch: Mutex::new(Box::new(watch)), ..Self::new() }
    }

    fn ask(&self, asked: Asked) -> Result<()> {
        self.asked.lock().unwrap().push(asked);
        self.fail.lock().unwrap().clone().map_or(Ok(()), Err)
    }
}

#[async_trait::async_trait]
impl Agent for Fake {
    fn node(&self) -> &str {
        NODE
    }

    async fn create(&self, spec: VolumeSpec, token: Option<FencingToken>, wait: Duration) -> Result<(Volume, Change)> {
        *self.wait.lock().unwrap() = Some(wait);
        self.ask(Asked::Create(spec, token))?;
        let (finished, result) = oneshot::channel();
        let (release, done) = (Arc::clone(&self.release), Arc::clone(&self.done));
        // The work continues, whether or not the caller waits.
        tokio::spawn(async move {
            release.acquire().await.unwrap().forget();
            done.add_permits(1);
            let _ = finished.send(());
        });
        self.begun.add_permits(1);
        let wait = if self.patient { Duration::from_secs(1 << 20) } else { wait };
        match tokio::time::timeout(wait, result).await {
            Ok(_) => Ok((volume("a"), change())),
            Err(_) => Err(Error::new(Reason::TimedOut, "the agent's own words")),
        }
    }

    async fn delete(&self, id: &VolumeId, _: Duration) -> Result<Change> {
        self.ask(Asked::Delete(id.clone()))?;
        Ok(change())
    }

    async fn get(&self, id: &VolumeId, _: Duration) -> Result<Volume> {
        self.ask(Asked::Get(id.clone()))?;
        Ok(volume("a"))
    }

    async fn find(&self, name: &str, fence: u64, _: Duration) -> Result<NameLookup> {
        self.ask(Asked::Find(name.to_owned(), fence))?;
        let volume = Some(volume("a")).filter(|_| name != "nothing");
        Ok(NameLookup { instance: "run-1".into(), volume })
    }

    async fn expand(&self, id: &VolumeId, size: SizeRange, _: Duration) -> Result<(Volume, Change)> {
        self.ask(Asked::Expand(id.clone(), size))?;
        Ok((volume("a"), change()))
    }

    async fn modify(&self, id: &VolumeId, changes: MutableParameters, _: Duration) -> Result<(Volume, Change)> {
        self.ask(Asked::Modify(id.clone(), changes))?;
        Ok((volume("a"), change()))
    }

    async fn create_snapshot(&self, spec: SnapshotSpec, _: Duration) -> Result<(Snapshot, Change)> {
        self.ask(Asked::CreateSnapshot(spec))?;
        Ok((snapshot("s"), change()))
    }

    async fn delete_snapshot(&self, id: &SnapshotId, _: Duration) -> Result<Change> {
        self.ask(Asked::DeleteSnapshot(id.clone()))?;
        Ok(change())
    }

    async fn get_snapshot(&self, id: &SnapshotId, _: Duration) -> Result<Snapshot> {
        self.ask(Asked::GetSnapshot(id.clone()))?;
        Ok(snapshot("s"))
    }

    async fn watch(&self) -> Result<UpdateStream> {
        self.ask(Asked::Watch)?;
        (self.watch.lock().unwrap())()
    }
}

pub(crate) fn id(name: &str) -> VolumeId {
    VolumeId { storage: StorageId::of("vg"), node: NODE.into(), volume: name.into() }
}

pub(crate) fn snapshot_id(name: &str) -> SnapshotId {
    SnapshotId { storage: StorageId::of("vg"), node: NODE.into(), snapshot: name.into() }
}

pub(crate) fn snapshot(name: &str) -> Snapshot {
    Snapshot {
        id: snapshot_id(name),
        name: format!("asked-{name}"),
        source: id("a"),
        size: 1 << 30,
        pool: "fast".into(),
        method: SnapshotMethod::Copy,
        created: 100,
        ready: true,
        allocated: 1 << 30,
        problem: "it became full".into(),
        condition: SnapshotCondition::Invalid,
        copying: Some(CopyProgress { copied: 3, total: 4 }),
    }
}

pub(crate) fn snapshot_spec(name: &str) -> SnapshotSpec {
    SnapshotSpec {
        name: name.into(),
        source: id("a"),
        class: SnapshotParameters { cow_size: CowSize::Percent(20), ..SnapshotParameters::default() },
    }
}

pub(crate) fn volume(name: &str) -> Volume {
    Volume {
        id: id(name),
        name: format!("asked-{name}"),
        size: 1 << 30,
        pool: "fast".into(),
        access: Some(AccessTypes::Both),
        filesystem: Some(Filesystem::Xfs),
        layout: Some(Layout::Raid1 { mirrors: 1 }),
        ready: true,
        problem: "a disk is missing".into(),
        condition: Condition::DiskMissing,
        source: Some(ContentSource::Snapshot(snapshot_id("t"))),
        copying: Some(CopyProgress { copied: 3, total: 4 }),
        limits: IoLimits::new([Some(1 << 20), None, Some(3), None]),
        limits_problem: "no".into(),
        encryption: Some(Encryption::Luks2),
    }
}

pub(crate) fn pool() -> PoolState {
    PoolState {
        name: "fast".into(),
        kind: "lvm".into(),
        on: "vg0".into(),
        storage: Some(StorageId::of("vg")),
        size: 100 << 30,
        space: Space {
            extent: ExtentSize(4 << 20),
            free: vec![Extents(7), Extents(5)],
            reserve: Extents(1),
            closed: Some("why".into()),
            ..Space::default()
        },
        capabilities: PoolCapabilities { wipe: true, snapshots: true, unique_storage: false },
        metadata_size: 1 << 20,
        metadata_free: 1 << 19,
        volumes: 3,
        problems: vec!["one".into(), "two".into()],
        hints: vec!["three".into()],
        enlarge: "four".into(),
        repair: vec!["five".into(), "six".into()],
        thin: Some(ThinUse { data_percent: 12, metadata_percent: 3, virtual_size: 7 << 30 }),
    }
}

pub(crate) fn change() -> Change {
    Change {
        generation: 8,
        pools: vec![pool()],
        volumes: vec![volume("b")],
        gone: vec![id("c")],
        snapshots: vec![snapshot("d")],
        gone_snapshots: vec![snapshot_id("e")],
    }
}

pub(crate) fn greeting() -> Greeting {
    Greeting {
        node: NODE.into(),
        instance: "run-1".into(),
        pod_uid: "pod".into(),
        boot_id: "boot".into(),
        version: "0.1.0".into(),
        capabilities: vec!["grow".into()],
    }
}

pub(crate) fn full_state(volumes: usize) -> Change {
    let snapshots = (0..volumes).map(|number| snapshot(&format!("s{number}"))).collect();
    let volumes = (0..volumes).map(|number| volume(&format!("v{number}"))).collect();
    Change { generation: 7, pools: vec![pool()], volumes, snapshots, ..Change::default() }
}

/// A whole stream of updates, which ends.
pub(crate) fn story() -> Vec<Result<Update>> {
    vec![Ok(Update::Greeting(greeting())), Ok(Update::FullState(full_state(2))), Ok(Update::Change(change()))]
}

pub(crate) fn spec(name: &str) -> VolumeSpec {
    VolumeSpec {
        name: name.into(),
        size: SizeRange { required: 1 << 30, limit: Some(2 << 30) },
        access: AccessTypes::Mount,
        filesystem: Some(Filesystem::Ext4),
        class: Parameters {
            pool: Some("fast".into()),
            layout: Layout::Striped { stripes: 2, stripe_size: 65536 },
            mkfs_options: "-m 0".into(),
            wipe: Some(Wipe::Discard),
            discard: Some(Discard::Periodic),
            limits: IoLimits::new([None, Some(1 << 20), None, Some(500)]),
            requires_limits: true,
            encryption: Some(Encryption::Luks2),
            ..Parameters::default()
        },
        source: Some(ContentSource::Volume(id("a"))),
    }
}

/// A node that serves on one wire.
pub(crate) struct Node {
    pub(crate) fake: Arc<Fake>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) server: JoinHandle<std::result::Result<(), tonic::transport::Error>>,
}

/// Serves `fake` on `io`.
pub(crate) fn node(fake: Fake, io: DuplexStream) -> Node {
    let (fake, shutdown) = (Arc::new(fake), CancellationToken::new());
    let incoming = stream::iter([Ok::<_, io::Error>(io)]).chain(stream::pending());
    let service = AgentService::new(Arc::clone(&fake) as Arc<dyn Agent>);
    let stop = shutdown.clone();
    let server = tokio::spawn(async move { serve(incoming, service, &Metrics::new(), stop).await });
    Node { fake, shutdown, server }
}

/// A wire: both its ends.
pub(crate) fn wire() -> (DuplexStream, DuplexStream) {
    tokio::io::duplex(16 << 10)
}

/// A node and its controller's end.
pub(crate) async fn connected(fake: Fake) -> (Node, RemoteAgent) {
    let (here, there) = wire();
    (node(fake, there), RemoteAgent::over(here, NODE).await.unwrap())
}

/// What becomes of a wire.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fate {
    /// Both sides see its end.
    Cut,
    /// Nothing passes any more, and neither side is notified.
    Frozen,
}

/// A node and its controller's end, with something between them that can be brought to an end.
pub(crate) async fn connected_through(fake: Fake) -> (Node, RemoteAgent, oneshot::Sender<Fate>) {
    let ((here, mut left), (mut right, there)) = (wire(), wire());
    let (end, ended) = oneshot::channel();
    tokio::spawn(async move {
        let fate = tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut left, &mut right) => Fate::Cut,
            fate = ended => fate.unwrap_or(Fate::Cut),
        };
        if matches!(fate, Fate::Frozen) {
            std::future::pending::<()>().await;
        }
    });
    (node(fake, there), RemoteAgent::over(here, NODE).await.unwrap(), end)
}
