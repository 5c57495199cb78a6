//! CSI calls from the host into a guest, with the fields that tests care about.

mod expand;
mod modify;
mod snapshot;

use std::collections::BTreeMap;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use quarry_proto::csi::v1 as csi;
use quarry_proto::csi::v1::controller_client::ControllerClient;
use quarry_proto::csi::v1::identity_client::IdentityClient;
use quarry_proto::csi::v1::node_client::NodeClient;
use quarry_proto::csi::v1::volume_capability::access_mode::Mode;
use quarry_vm::Guest;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};

pub use self::expand::Expanded;
pub use self::snapshot::Source;

/// How long any call may take unless a test says otherwise.
const PATIENCE: Duration = Duration::from_secs(170);

/// How a volume is used.
#[derive(Clone, Debug)]
pub enum Use {
    /// As this filesystem; empty: the default one.
    Mount(&'static str),
    /// As a raw block device.
    Block,
}

/// What a volume should be. Small by default: emulated disks are slow.
#[derive(Clone, Debug)]
pub struct Ask {
    pub name: String,
    pub required: i64,
    pub limit: i64,
    pub usage: Use,
    pub mode: Mode,
    pub mount_flags: Vec<String>,
    pub parameters: BTreeMap<String, String>,
    /// The nodes that are admitted; none: all are.
    pub requisite: Vec<String>,
    /// The nodes in the order of preference.
    pub preferred: Vec<String>,
    /// What it is filled from, if anything.
    pub source: Option<Source>,
    /// The passphrase that is given to NodeStageVolume.
    pub passphrase: Option<String>,
}

/// The key of the topology segments that name nodes.
pub const TOPOLOGY: &str = "topology.local.csi.quarry.dev/node";

pub const MIB: i64 = 1 << 20;

/// A filesystem that volumes can have.
pub struct Filesystem {
    pub name: &'static str,
    /// The size of its volumes in the tests, in bytes.
    size: i64,
    /// The command that checks it and changes nothing, without the device.
    pub check: &'static str,
}

/// All of them.
pub const FILESYSTEMS: [Filesystem; 3] = [
    Filesystem { name: "ext4", size: 32 * MIB, check: "e2fsck -fn" },
    Filesystem { name: "xfs", size: 300 * MIB, check: "xfs_repair -n" },
    Filesystem { name: "btrfs", size: 128 * MIB, check: "btrfs check --readonly" },
];

impl Ask {
    /// A small volume with that filesystem.
    pub fn mount(name: &str, filesystem: &'static str) -> Self {
        Self {
            name: name.to_owned(),
            required: FILESYSTEMS.iter().find(|known| known.name == filesystem).map_or(32 * MIB, |known| known.size),
            limit: 0,
            usage: Use::Mount(filesystem),
            mode: Mode::SingleNodeMultiWriter,
            mount_flags: Vec::new(),
            parameters: BTreeMap::new(),
            requisite: Vec::new(),
            preferred: Vec::new(),
            source: None,
            passphrase: None,
        }
    }

    /// A volume with each filesystem, named after it.
    pub fn each_filesystem(prefix: &str) -> Vec<Self> {
        FILESYSTEMS.iter().map(|known| Self::mount(&format!("{prefix}{}", known.name), known.name)).collect()
    }

    /// A raw block volume.
    pub fn block(name: &str) -> Self {
        Self { usage: Use::Block, required: 32 * MIB, ..Self::mount(name, "ext4") }
    }

    /// The same with another size.
    pub fn size(self, required: i64) -> Self {
        Self { required, ..self }
    }

    /// The same with a StorageClass parameter.
    pub fn parameter(mut self, key: &str, value: &str) -> Self {
        self.parameters.insert(key.to_owned(), value.to_owned());
        self
    }

    /// The same, encrypted with that passphrase.
    pub fn encrypted(self, passphrase: &str) -> Self {
        Self { passphrase: Some(passphrase.to_owned()), ..self.parameter("encryption", "luks2") }
    }

    pub fn is_encrypted(&self) -> bool {
        self.parameters.contains_key("encryption")
    }

    /// How much larger than the volume its storage is.
    pub fn overhead(&self) -> i64 {
        if self.is_encrypted() { 16 * MIB } else { 0 }
    }

    /// The same with another access mode.
    pub fn mode(self, mode: Mode) -> Self {
        Self { mode, ..self }
    }

    /// The same only on this node, as for a pod that is already scheduled.
    pub fn on(self, node: &str) -> Self {
        Self { requisite: vec![node.to_owned()], preferred: vec![node.to_owned()], ..self }
    }

    /// The same on one of these nodes.
    pub fn among(self, nodes: &[&str]) -> Self {
        Self { requisite: nodes.iter().map(|node| (*node).to_owned()).collect(), ..self }
    }

    /// The same, in this order.
    pub fn preferring(self, nodes: &[&str]) -> Self {
        Self { preferred: nodes.iter().map(|node| (*node).to_owned()).collect(), ..self }
    }

    pub fn is_block(&self) -> bool {
        matches!(self.usage, Use::Block)
    }

    pub fn capability(&self) -> csi::VolumeCapability {
        use csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
        let access_type = match self.usage {
            Use::Block => AccessType::Block(BlockVolume {}),
            Use::Mount(filesystem) => AccessType::Mount(MountVolume {
                fs_type: filesystem.to_owned(),
                mount_flags: self.mount_flags.clone(),
                ..MountVolume::default()
            }),
        };
        csi::VolumeCapability {
            access_mode: Some(AccessMode { mode: self.mode as i32 }),
            access_type: Some(access_type),
        }
    }

    fn topology(&self) -> Option<csi::TopologyRequirement> {
        let segments = |nodes: &[String]| nodes.iter().map(|node| segment(node)).collect();
        let given = !self.requisite.is_empty() || !self.preferred.is_empty();
        given.then(|| csi::TopologyRequirement {
            requisite: segments(&self.requisite),
            preferred: segments(&self.preferred),
        })
    }

    pub fn request(&self) -> csi::CreateVolumeRequest {
        csi::CreateVolumeRequest {
            name: self.name.clone(),
            capacity_range: Some(csi::CapacityRange { required_bytes: self.required, limit_bytes: self.limit }),
            volume_capabilities: vec![self.capability()],
            parameters: self.parameters.clone(),
            accessibility_requirements: self.topology(),
            volume_content_source: self.source.as_ref().map(Source::content),
            ..csi::CreateVolumeRequest::default()
        }
    }
}

/// The segment of a node.
pub fn segment(node: &str) -> csi::Topology {
    csi::Topology { segments: BTreeMap::from([(TOPOLOGY.to_owned(), node.to_owned())]) }
}

/// A volume and everything needed to use it.
#[derive(Clone, Debug)]
pub struct Made {
    pub id: String,
    pub size: i64,
    pub context: BTreeMap<String, String>,
    pub ask: Ask,
    /// The node that holds it, as the answer says; empty if it does not.
    pub node: String,
}

impl Made {
    /// Where tests stage it; the form is kubelet's.
    pub fn staging(&self) -> String {
        let name = &self.ask.name;
        if self.ask.is_block() {
            format!("/var/lib/kubelet/plugins/kubernetes.io/csi/volumeDevices/staging/{name}")
        } else {
            format!("/var/lib/kubelet/plugins/kubernetes.io/csi/local.csi.quarry.dev/{name}/globalmount")
        }
    }

    /// Where tests publish it; the form is kubelet's.
    pub fn target(&self) -> String {
        self.target_in("pod-1")
    }

    /// Where tests publish it for another pod.
    pub fn target_in(&self, pod: &str) -> String {
        let name = &self.ask.name;
        if self.ask.is_block() {
            format!("/var/lib/kubelet/plugins/kubernetes.io/csi/volumeDevices/publish/{name}/{pod}")
        } else {
            format!("/var/lib/kubelet/pods/{pod}/volumes/kubernetes.io~csi/{name}/mount")
        }
    }
}

/// A client of the quarry in a guest. A broken connection is replaced by a new one.
#[derive(Clone)]
pub struct Csi {
    channel: Channel,
}

impl Csi {
    /// A client of the socket at `path` in the guest. Connects at the first call.
    pub fn new(guest: Guest, path: impl Into<String>) -> Self {
        let path = path.into();
        let channel =
            Endpoint::from_static("http://guest").connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
                let (guest, path) = (guest.clone(), path.clone());
                async move { guest.connect(&path).await.map(TokioIo::new).map_err(std::io::Error::other) }
            }));
        Self { channel }
    }

    pub fn identity(&self) -> IdentityClient<Channel> {
        IdentityClient::new(self.channel.clone())
    }

    pub fn controller(&self) -> ControllerClient<Channel> {
        ControllerClient::new(self.channel.clone())
    }

    pub fn node(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel.clone())
    }

    /// One CreateVolume.
    pub async fn create(&self, ask: &Ask) -> Result<Made, Status> {
        self.create_within(ask, PATIENCE).await
    }

    /// One CreateVolume with the timeout `patience`.
    pub async fn create_within(&self, ask: &Ask, patience: Duration) -> Result<Made, Status> {
        let answer = self.controller().create_volume(timed(ask.request(), patience)).await?;
        let volume = answer.into_inner().volume.ok_or_else(|| Status::internal("the answer has no volume"))?;
        // Without it, external-provisioner deletes the volume again.
        if volume.content_source != ask.source.as_ref().map(Source::content) {
            return Err(Status::internal(format!("the answer has the source {:?}", volume.content_source)));
        }
        let node = match volume.accessible_topology.as_slice() {
            [only] => only.segments.get(TOPOLOGY).cloned().unwrap_or_default(),
            _ => String::new(),
        };
        Ok(Made {
            id: volume.volume_id,
            size: volume.capacity_bytes,
            context: volume.volume_context,
            ask: ask.clone(),
            node,
        })
    }

    pub async fn delete(&self, id: &str) -> Result<(), Status> {
        let request = csi::DeleteVolumeRequest { volume_id: id.to_owned(), ..Default::default() };
        self.controller().delete_volume(timed(request, PATIENCE)).await.map(drop)
    }

    pub async fn stage(&self, made: &Made) -> Result<(), Status> {
        self.stage_at(made, &made.staging()).await
    }

    pub async fn stage_at(&self, made: &Made, staging: &str) -> Result<(), Status> {
        let request = csi::NodeStageVolumeRequest {
            volume_id: made.id.clone(),
            staging_target_path: staging.to_owned(),
            volume_capability: Some(made.ask.capability()),
            volume_context: made.context.clone(),
            secrets: made.ask.passphrase.iter().map(|value| ("passphrase".to_owned(), value.clone())).collect(),
            ..Default::default()
        };
        self.node().node_stage_volume(timed(request, PATIENCE)).await.map(drop)
    }

    pub async fn unstage(&self, made: &Made) -> Result<(), Status> {
        self.unstage_at(made, &made.staging()).await
    }

    pub async fn unstage_at(&self, made: &Made, staging: &str) -> Result<(), Status> {
        let staging_target_path = staging.to_owned();
        let request = csi::NodeUnstageVolumeRequest { volume_id: made.id.clone(), staging_target_path };
        self.node().node_unstage_volume(timed(request, PATIENCE)).await.map(drop)
    }

    pub async fn publish(&self, made: &Made) -> Result<(), Status> {
        self.publish_at(made, &made.target(), false).await
    }

    pub async fn publish_at(&self, made: &Made, target: &str, readonly: bool) -> Result<(), Status> {
        self.publish_from(made, &made.staging(), target, readonly).await
    }

    pub async fn publish_from(&self, made: &Made, staging: &str, target: &str, readonly: bool) -> Result<(), Status> {
        let request = csi::NodePublishVolumeRequest {
            volume_id: made.id.clone(),
            staging_target_path: staging.to_owned(),
            target_path: target.to_owned(),
            volume_capability: Some(made.ask.capability()),
            readonly,
            volume_context: made.context.clone(),
            ..Default::default()
        };
        self.node().node_publish_volume(timed(request, PATIENCE)).await.map(drop)
    }

    pub async fn unpublish(&self, made: &Made) -> Result<(), Status> {
        self.unpublish_at(made, &made.target()).await
    }

    pub async fn unpublish_at(&self, made: &Made, target: &str) -> Result<(), Status> {
        let request = csi::NodeUnpublishVolumeRequest { volume_id: made.id.clone(), target_path: target.to_owned() };
        self.node().node_unpublish_volume(timed(request, PATIENCE)).await.map(drop)
    }

    /// A volume's problems, as its node reports them; empty without problems.
    pub async fn health(&self, id: &str) -> Result<Vec<csi::volume_health::VolumeHealthEntry>, Status> {
        let request = csi::NodeGetVolumeHealthRequest { volume_id: id.to_owned(), ..Default::default() };
        let answer = self.node().node_get_volume_health(timed(request, PATIENCE)).await?.into_inner();
        Ok(answer.volume_health.map(|health| health.health_statuses).unwrap_or_default())
    }

    /// The problems of the node's storage; empty without problems.
    pub async fn storage_health(
        &self,
    ) -> Result<Vec<csi::node_get_storage_health_response::StorageBackendHealth>, Status> {
        let request = timed(csi::NodeGetStorageHealthRequest::default(), PATIENCE);
        Ok(self.node().node_get_storage_health(request).await?.into_inner().backend_health)
    }

    /// The volumes that the controller knows a problem of, in pages of one.
    pub async fn unhealthy(&self) -> Result<Vec<csi::VolumeHealth>, Status> {
        let (mut all, mut starting_token) = (Vec::new(), String::new());
        loop {
            let request =
                csi::ControllerListVolumeHealthRequest { max_entries: 1, starting_token, ..Default::default() };
            let answer = self.controller().controller_list_volume_health(timed(request, PATIENCE)).await?.into_inner();
            all.extend(answer.entries);
            starting_token = answer.next_token;
            if starting_token.is_empty() {
                return Ok(all);
            }
        }
    }

    /// The identifiers and sizes of all volumes.
    pub async fn list(&self) -> Result<Vec<csi::Volume>, Status> {
        let request = timed(csi::ListVolumesRequest::default(), PATIENCE);
        let answer = self.controller().list_volumes(request).await?.into_inner();
        Ok(answer.entries.into_iter().filter_map(|entry| entry.volume).collect())
    }

    /// Available bytes and the largest volume for a class.
    pub async fn capacity(&self, parameters: &BTreeMap<String, String>) -> Result<(i64, i64), Status> {
        self.capacity_of(None, parameters).await
    }

    /// The same on one node, or on all.
    pub async fn capacity_of(
        &self,
        node: Option<&str>,
        parameters: &BTreeMap<String, String>,
    ) -> Result<(i64, i64), Status> {
        let request = csi::GetCapacityRequest {
            parameters: parameters.clone(),
            accessible_topology: node.map(segment),
            ..Default::default()
        };
        let answer = self.controller().get_capacity(timed(request, PATIENCE)).await?.into_inner();
        Ok((answer.available_capacity, answer.maximum_volume_size.unwrap_or_default()))
    }
}

fn timed<T>(message: T, patience: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(patience);
    request
}

/// Whether the orchestrator would send the same call again.
pub fn is_passing(status: &Status) -> bool {
    matches!(status.code(), Code::Aborted | Code::DeadlineExceeded | Code::Unavailable | Code::Cancelled)
}

/// Repeats a call as an orchestrator does, until it succeeds or fails permanently.
pub async fn retry<T, F: Future<Output = Result<T, Status>>>(mut call: impl FnMut() -> F) -> Result<T, Status> {
    // Ten minutes at least: fifty changes of one volume group wait for each other, on an emulated processor.
    for _ in 0..1200 {
        match call().await {
            Err(status) if is_passing(&status) => tokio::time::sleep(Duration::from_millis(500)).await,
            other => return other,
        }
    }
    call().await
}

/// Fails unless the call was rejected with this code and a message that contains these words.
pub fn refused<T>(what: &str, result: Result<T, Status>, code: Code, words: &str) -> anyhow::Result<()> {
    match result {
        Err(status) if status.code() == code && status.message().contains(words) => Ok(()),
        Err(status) => {
            anyhow::bail!("{what}: expected {code:?} with {words:?}, got {:?}: {}", status.code(), status.message())
        }
        Ok(_) => anyhow::bail!("{what}: expected {code:?}, and it was done"),
    }
}
