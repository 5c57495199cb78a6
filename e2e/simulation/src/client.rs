//! The sidecars of one controller, as far as they matter: external-provisioner with its retries.
//!
//! They call the service in the controller's own process. A call that takes too long is dropped, as tonic does.

use std::collections::BTreeMap;
use std::time::Duration;

use quarry_controller::ControllerService;
use quarry_proto::csi::v1 as csi;
use quarry_proto::csi::v1::controller_server::Controller as _;
use quarry_volume::VolumeId;
use tonic::{Code, Request, Status};

use crate::world::{Audit, Claim, ECHO, KEY, Life, MIB, NODES, Shared, Where, World};

/// The interval of the auditor's checks.
const AUDIT: Duration = Duration::from_millis(500);

/// The next step for a claim.
enum Next {
    Create(csi::CreateVolumeRequest),
    Delete(String),
}

/// Brings the claim nearer to its end whenever this replica's sidecar is the one to do it.
pub(crate) async fn look_after(shared: Shared, service: ControllerService, replica: usize, claim: usize) {
    loop {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(100..600))).await;
        let Some(next) = shared.lock().next(replica, claim) else { continue };
        let call = Call::begin(&shared, claim, matches!(next, Next::Create(_)));
        let wait = Duration::from_millis(*fastrand::choice(&[1000, 2000, 5000, 10_000]).unwrap_or(&2000));
        let what = match next {
            Next::Create(request) => {
                let mut request = Request::new(request);
                request.set_timeout(wait);
                let answer = tokio::time::timeout(wait, service.create_volume(request)).await.unwrap_or_else(late);
                call.created(replica, answer.map(|answer| answer.into_inner().volume.unwrap_or_default()))
            }
            Next::Delete(id) => {
                let message = csi::DeleteVolumeRequest { volume_id: id.clone(), ..Default::default() };
                let mut request = Request::new(message);
                request.set_timeout(wait);
                let answer = tokio::time::timeout(wait, service.delete_volume(request)).await.unwrap_or_else(late);
                call.deleted(replica, id, answer.map(drop))
            }
        };
        shared.lock().note(what);
    }
}

fn late<T>(_: tokio::time::error::Elapsed) -> Result<T, Status> {
    Err(Status::deadline_exceeded("the caller gave up"))
}

/// A running call; if it is dropped before its end, its outcome is unknown.
struct Call {
    shared: Shared,
    claim: usize,
    create: bool,
    known: bool,
}

impl Call {
    fn begin(shared: &Shared, claim: usize, create: bool) -> Self {
        shared.lock().claims[claim].in_flight += 1;
        Self { shared: shared.clone(), claim, create, known: false }
    }

    fn created(mut self, replica: usize, answer: Result<csi::Volume, Status>) -> String {
        let mut world = self.shared.lock();
        let index = self.claim;
        let name = world.claims[index].name.clone();
        let said = match answer {
            Ok(volume) => {
                self.known = true;
                world.answered(index, &volume);
                format!("{replica}: {name} is {}", volume.volume_id)
            }
            Err(status) => {
                self.known = known(status.code());
                let said = format!("{replica}: {name}: {:?} {}", status.code(), status.message());
                world.refused(index, status);
                said
            }
        };
        drop(world);
        said
    }

    fn deleted(self, replica: usize, id: String, answer: Result<(), Status>) -> String {
        let mut world = self.shared.lock();
        let index = self.claim;
        let said = match answer {
            Ok(()) => {
                let on: Option<VolumeId> = id.parse().ok();
                let gone =
                    world.nodes.iter().any(|node| node.gone && on.as_ref().is_some_and(|id| id.node == node.name));
                if world.lost(&id) && !gone {
                    world.violated(format!("{id} was said to be deleted, and its storage is not there"));
                }
                let said = format!("{replica}: {id} is deleted");
                world.claims[index].life = Life::Deleted(id);
                said
            }
            Err(status) => {
                let said = format!("{replica}: deleting {id}: {:?} {}", status.code(), status.message());
                world.refused(index, status);
                said
            }
        };
        drop(world);
        said
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut world = self.shared.lock();
        let now = world.now;
        let claim = &mut world.claims[self.claim];
        claim.in_flight -= 1;
        if self.create && !self.known {
            claim.uncertain = Some(now);
        }
    }
}

/// Whether a call that ended with this code has certainly stopped.
fn known(code: Code) -> bool {
    !matches!(code, Code::Aborted | Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled)
}

impl World {
    fn next(&self, replica: usize, index: usize) -> Option<Next> {
        let claim = &self.claims[index];
        if self.closed || claim.owner != replica || claim.born > self.now {
            return None;
        }
        let echo = claim.uncertain.is_some_and(|at| self.now < at + ECHO);
        match &claim.life {
            Life::Wanted => Some(Next::Create(claim.request(&self.names()))),
            Life::Bound(id) if claim.dies.is_some_and(|at| at <= self.now) && claim.in_flight == 0 && !echo => {
                Some(Next::Delete(id.clone()))
            }
            _ => None,
        }
    }

    fn names(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.name.clone()).collect()
    }

    /// A creation was answered with a volume.
    fn answered(&mut self, index: usize, volume: &csi::Volume) {
        let id = volume.volume_id.clone();
        let claim = &self.claims[index];
        let name = &claim.name;
        let size = u64::try_from(volume.capacity_bytes).unwrap_or_default();
        let wrong = match &claim.life {
            Life::Bound(other) if *other != id && !self.lost(other) => {
                Some(format!("{name} was answered with {other}, and then with {id}"))
            }
            Life::Deleted(other) => Some(format!("{name} was answered with {id} after {other} was deleted")),
            // A repeated call may be answered after the volume has grown.
            _ if !self.sizes_since_creation(index).contains(&size) => Some(format!(
                "{name} was answered with {} bytes, not {:?}",
                volume.capacity_bytes,
                self.sizes_since_creation(index)
            )),
            _ => None,
        };
        if let Some(wrong) = wrong {
            self.violated(wrong);
        }
        let claim = &mut self.claims[index];
        claim.refused = None;
        claim.life = Life::Bound(id);
    }

    fn refused(&mut self, index: usize, status: Status) {
        let expected = matches!(
            status.code(),
            Code::Aborted | Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted
        );
        // A pool with an injected failure reports it.
        let planned = status.code() == Code::Internal && status.message().contains("fails as configured");
        if !expected && !planned {
            let name = self.claims[index].name.clone();
            self.violated(format!("{name}: an unexpected answer: {:?} {}", status.code(), status.message()));
        }
        self.claims[index].refused = Some(status);
    }
}

/// The request for a volume of that size on any node.
fn volume(name: String, bytes: u64, is_block: bool) -> csi::CreateVolumeRequest {
    use csi::volume_capability::access_mode::Mode;
    use csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};

    let access_type = match is_block {
        true => AccessType::Block(BlockVolume {}),
        false => AccessType::Mount(MountVolume::default()),
    };
    csi::CreateVolumeRequest {
        name,
        capacity_range: Some(csi::CapacityRange {
            required_bytes: i64::try_from(bytes).unwrap_or_default(),
            limit_bytes: 0,
        }),
        volume_capabilities: vec![csi::VolumeCapability {
            access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter as i32 }),
            access_type: Some(access_type),
        }],
        ..Default::default()
    }
}

/// The request for a raw block volume of that size on any node.
pub(crate) fn block(name: String, bytes: u64) -> csi::CreateVolumeRequest {
    volume(name, bytes, true)
}

impl Claim {
    fn request(&self, nodes: &[String]) -> csi::CreateVolumeRequest {
        let topology = |index: &usize| csi::Topology { segments: [(KEY.to_owned(), nodes[*index].clone())].into() };
        // A retry may come from a scheduler that has changed its mind.
        let mut preferred = match &self.place {
            Where::One(node) => vec![*node],
            Where::Some(nodes) => nodes.clone(),
            Where::Any => (0..NODES).collect(),
        };
        fastrand::shuffle(&mut preferred);
        let preferred: Vec<_> = preferred.iter().map(topology).collect();
        let requisite = if matches!(self.place, Where::Any) { Vec::new() } else { preferred.clone() };
        csi::CreateVolumeRequest {
            accessibility_requirements: match self.place {
                Where::Any => None,
                _ => Some(csi::TopologyRequirement { requisite, preferred }),
            },
            ..volume(self.name.clone(), self.mib * MIB, self.block)
        }
    }
}

/// Reports, on request, what this controller lists. Never ends.
pub(crate) async fn audit(shared: Shared, service: ControllerService, replica: usize) {
    loop {
        tokio::time::sleep(AUDIT).await;
        if !shared.lock().auditing {
            // Listed anyway, as sidecars do.
            if fastrand::u8(..) < 16 {
                let _ = list(&service).await;
            }
            continue;
        }
        let names = shared.lock().names();
        let audit = look(&service, &names).await.ok();
        shared.lock().audits[replica] = audit;
    }
}

async fn look(service: &ControllerService, names: &[String]) -> Result<Audit, Status> {
    let (volumes, snapshots) = (list(service).await?, list_snapshots(service).await?);
    let mut audit = Audit { volumes, snapshots, capacities: Vec::new() };
    for name in names {
        let segments = BTreeMap::from([(KEY.to_owned(), name.clone())]);
        let request =
            csi::GetCapacityRequest { accessible_topology: Some(csi::Topology { segments }), ..Default::default() };
        audit.capacities.push(service.get_capacity(Request::new(request)).await?.into_inner().available_capacity);
    }
    Ok(audit)
}

/// All snapshots, page by page.
async fn list_snapshots(service: &ControllerService) -> Result<Vec<String>, Status> {
    let mut all = Vec::new();
    let mut starting_token = String::new();
    loop {
        let request = csi::ListSnapshotsRequest { max_entries: 2, starting_token, ..Default::default() };
        let page = service.list_snapshots(Request::new(request)).await?.into_inner();
        all.extend(page.entries.into_iter().filter_map(|entry| entry.snapshot).map(|one| one.snapshot_id));
        if page.next_token.is_empty() {
            return Ok(all);
        }
        starting_token = page.next_token;
    }
}

/// All volumes, page by page.
async fn list(service: &ControllerService) -> Result<Vec<(String, i64)>, Status> {
    let mut all = Vec::new();
    let mut starting_token = String::new();
    loop {
        let request = csi::ListVolumesRequest { max_entries: 7, starting_token };
        let page = service.list_volumes(Request::new(request)).await?.into_inner();
        all.extend(
            page.entries.into_iter().filter_map(|entry| entry.volume).map(|one| (one.volume_id, one.capacity_bytes)),
        );
        if page.next_token.is_empty() {
            return Ok(all);
        }
        starting_token = page.next_token;
    }
}
