//! A small CSI driver in this process, whose volumes are entries of a map. It answers late, or with an error,
//! as a test wants.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
#![allow(dead_code, reason = "not every test uses everything")]

mod services;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use quarry_proto::csi::v1 as csi;
use quarry_proto::csi::v1::controller_server::ControllerServer;
use quarry_proto::csi::v1::controller_service_capability::rpc::Type as ControllerRpc;
use quarry_proto::csi::v1::identity_server::IdentityServer;
use quarry_proto::csi::v1::node_server::NodeServer;
use quarry_proto::csi::v1::node_service_capability::rpc::Type as NodeRpc;
use quarry_transport::unix;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Code, Status};

/// What a call does besides its work.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    /// The call, such as `create_volume`.
    pub(crate) call: &'static str,
    /// Only for volumes whose name or ID contains this.
    pub(crate) of: String,
    /// How many calls are affected.
    pub(crate) times: usize,
    pub(crate) effect: Effect,
}

#[derive(Clone, Debug)]
pub(crate) enum Effect {
    /// Nothing is done.
    Fails(Code),
    /// The work is done, and the answer is this error.
    FailsAfterwards(Code),
    /// It takes longer.
    Late(Duration),
    /// Never answers.
    Hangs,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct VolumeState {
    pub(crate) name: String,
    pub(crate) attached: bool,
    pub(crate) staged: bool,
    pub(crate) published: bool,
    pub(crate) size: i64,
}

/// The state of the driver.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) volumes: BTreeMap<String, VolumeState>,
    /// Snapshots by name; how many more times each is not ready.
    pub(crate) snapshots: BTreeMap<String, usize>,
    pub(crate) faults: Vec<Fault>,
    /// How often each call was made.
    pub(crate) calls: BTreeMap<&'static str, usize>,
    /// The calls that are in progress, and the most at once.
    pub(crate) in_progress: BTreeMap<&'static str, usize>,
    pub(crate) most: BTreeMap<&'static str, usize>,
    /// The IDs of volumes that any call but CreateVolume named.
    pub(crate) touched: BTreeSet<String>,
    /// What no client may ask for.
    pub(crate) wrong: Vec<String>,
}

/// The driver.
#[derive(Clone)]
pub(crate) struct Double {
    pub(crate) state: Arc<Mutex<State>>,
    pub(crate) name: &'static str,
    pub(crate) controller: Vec<ControllerRpc>,
    pub(crate) node: Vec<NodeRpc>,
    pub(crate) plugin: Vec<csi::plugin_capability::Type>,
    /// Every call takes at least this long.
    pub(crate) delay: Duration,
    /// How often a new snapshot is not ready.
    pub(crate) unready: usize,
    /// CreateVolume answers with this ID, if set.
    pub(crate) answers: Option<&'static str>,
    /// IDs are numbers, those of volumes that are gone are used again, and a snapshot has that of its volume.
    pub(crate) numbered: bool,
    /// The token of the page of ListVolumes after the one with this token. Every page has all volumes.
    pub(crate) next_token: fn(&str) -> String,
}

impl Default for Double {
    fn default() -> Self {
        Self {
            state: Arc::default(),
            name: "double.example.com",
            controller: vec![
                ControllerRpc::CreateDeleteVolume,
                ControllerRpc::PublishUnpublishVolume,
                ControllerRpc::CreateDeleteSnapshot,
                ControllerRpc::ExpandVolume,
                ControllerRpc::ListVolumes,
            ],
            node: vec![NodeRpc::StageUnstageVolume, NodeRpc::GetVolumeStats, NodeRpc::ExpandVolume],
            plugin: Vec::new(),
            delay: Duration::ZERO,
            unready: 0,
            answers: None,
            numbered: false,
            next_token: |_| String::new(),
        }
    }
}

/// A driver that is being served; it ends when this is dropped.
pub(crate) struct Served {
    pub(crate) directory: tempfile::TempDir,
    stop: CancellationToken,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Served {
    pub(crate) fn endpoint(&self) -> String {
        format!("unix://{}", self.directory.path().join("csi.sock").display())
    }

    pub(crate) fn work_dir(&self) -> PathBuf {
        self.directory.path().join("work")
    }

    /// The entries that a run left in its working directory.
    pub(crate) fn leftovers(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.work_dir()).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

impl Double {
    /// Serves on a socket in a new directory: identity, and the services that are asked for.
    pub(crate) fn serve(&self, controller: bool, node: bool) -> Served {
        let directory = tempfile::tempdir().unwrap();
        let listener = unix::listen(&directory.path().join("csi.sock")).unwrap();
        let stop = CancellationToken::new();
        let server = Server::builder()
            .add_service(IdentityServer::new(self.clone()))
            .add_optional_service(controller.then(|| ControllerServer::new(self.clone())))
            .add_optional_service(node.then(|| NodeServer::new(self.clone())))
            .serve_with_incoming_shutdown(listener, stop.clone().cancelled_owned());
        tokio::spawn(server);
        Served { directory, stop }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Injects a fault.
    pub(crate) fn fault(&self, call: &'static str, of: &str, times: usize, effect: Effect) {
        self.state().faults.push(Fault { call, of: of.to_owned(), times, effect });
    }

    /// Does a call's work, with the delays and faults that apply.
    pub(crate) async fn call<T>(
        &self,
        call: &'static str,
        of: &str,
        work: impl FnOnce(&mut State) -> Result<T, Status>,
    ) -> Result<T, Status> {
        let _place = InProgress::begin(self.state.clone(), call);
        let fault = self.take_fault(call, of);
        tokio::time::sleep(self.delay).await;
        let failed = |code| Err(Status::new(code, format!("{call} of {of} fails in this test")));
        match fault {
            Some(Effect::Fails(code)) => return failed(code),
            Some(Effect::Late(delay)) => tokio::time::sleep(delay).await,
            Some(Effect::Hangs) => std::future::pending().await,
            Some(Effect::FailsAfterwards(_)) | None => {}
        }
        let done = work(&mut self.state())?;
        match fault {
            Some(Effect::FailsAfterwards(code)) => failed(code),
            _ => Ok(done),
        }
    }

    fn take_fault(&self, call: &'static str, of: &str) -> Option<Effect> {
        let mut state = self.state();
        let found =
            state.faults.iter_mut().find(|fault| fault.call == call && fault.times > 0 && of.contains(&fault.of))?;
        found.times -= 1;
        Some(found.effect.clone())
    }
}

impl State {
    /// The volume with that ID, for a call that needs it.
    pub(crate) fn volume(&mut self, id: &str) -> Result<&mut VolumeState, Status> {
        self.touched.insert(id.to_owned());
        self.volumes.get_mut(id).ok_or_else(|| Status::not_found(format!("volume {id} does not exist")))
    }

    /// The number of the volume with that name, or the first one that is free.
    pub(crate) fn number(&self, name: &str) -> String {
        let known = self.volumes.iter().find(|(_, volume)| volume.name == name).map(|(id, _)| id.clone());
        let free = || (1..).map(|number: u32| number.to_string()).find(|number| !self.volumes.contains_key(number));
        known.or_else(free).unwrap()
    }

    /// Notes a request that is against CSI, and rejects it.
    pub(crate) fn reject(&mut self, what: String) -> Status {
        self.wrong.push(what.clone());
        Status::failed_precondition(what)
    }
}

/// Counts a call, and that it is in progress.
struct InProgress {
    state: Arc<Mutex<State>>,
    call: &'static str,
}

impl InProgress {
    fn begin(state: Arc<Mutex<State>>, call: &'static str) -> Self {
        let mut locked = state.lock().unwrap();
        *locked.calls.entry(call).or_default() += 1;
        let now = locked.in_progress.entry(call).or_default();
        *now += 1;
        let now = *now;
        let most = locked.most.entry(call).or_default();
        *most = now.max(*most);
        drop(locked);
        Self { state, call }
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        if let Some(now) = self.state.lock().unwrap().in_progress.get_mut(self.call) {
            *now -= 1;
        }
    }
}

/// Creates the target as a driver does.
pub(crate) fn make_target(path: &str) -> Result<(), Status> {
    std::fs::create_dir(path).map_err(|error| Status::internal(format!("{path}: {error}")))
}

pub(crate) fn remove_target(path: &str) {
    let _ = std::fs::remove_dir(Path::new(path));
}
