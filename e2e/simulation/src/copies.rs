//! What a user does with one volume besides creating and deleting it: takes a snapshot of it, restores that, clones it,
//! and lets it grow; with the retries of the sidecars.
//!
//! The steps of one story come one after the other, whichever replica's sidecar makes them. A user writes to the volume
//! between them, so it is known which contents each copy must have.

use std::time::Duration;

use quarry_controller::ControllerService;
use quarry_proto::csi::v1 as csi;
use quarry_proto::csi::v1::controller_server::Controller as _;
use quarry_proto::csi::v1::volume_content_source::{SnapshotSource, Type, VolumeSource};
use quarry_volume::VolumeId;
use tonic::{Code, Request, Status};

use crate::client::block;
use crate::world::{ECHO, KEY, Life, MIB, Shared, World};

/// The next step of a story.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Waits until the volume exists, and writes to it.
    Begin,
    Snapshot,
    Restore,
    /// Only if it was refused: an abandoned attempt may have begun it.
    DeleteRestored,
    Clone,
    DeleteClone,
    DeleteSnapshot,
    Grow,
    /// Nothing is left to do.
    Done,
}

/// What is done with the volume of one claim.
#[derive(Clone, Debug)]
pub(crate) struct Story {
    /// The number of the claim, which never dies.
    pub(crate) claim: usize,
    /// Whether the snapshot is a full copy.
    pub(crate) full: bool,
    /// Whether that is kept to the end.
    pub(crate) keeps: bool,
    /// How much larger the volume becomes.
    pub(crate) more: u64,
    pub(crate) step: Step,
    /// What the user has written last, and before the snapshot was taken.
    pub(crate) written: u64,
    pub(crate) snapped: u64,
    /// Which of the copies were answered OK.
    pub(crate) has_snapshot: bool,
    pub(crate) is_restored: bool,
    pub(crate) has_grown: bool,
    /// Whether the growth may have been made.
    pub(crate) may_have_grown: bool,
    pub(crate) in_flight: bool,
    /// When the last attempt with an unknown outcome ended.
    pub(crate) uncertain: Option<Duration>,
    pub(crate) refused: Option<Status>,
}

/// One call.
enum Call {
    Snapshot(csi::CreateSnapshotRequest),
    Create(csi::CreateVolumeRequest),
    Delete(csi::DeleteVolumeRequest),
    DeleteSnapshot(csi::DeleteSnapshotRequest),
    Grow(csi::ControllerExpandVolumeRequest),
}

/// What a call was answered.
enum Said {
    Snapshot(csi::Snapshot),
    Volume(csi::Volume),
    Size(i64),
    Done,
}

impl Story {
    pub(crate) fn new(claim: usize, full: bool, keeps: bool, more: u64) -> Self {
        let (step, written, snapped) = (Step::Begin, 0, 0);
        let (has_snapshot, is_restored, has_grown, may_have_grown, in_flight) = Default::default();
        let (uncertain, refused) = (None, None);
        Self {
            claim,
            full,
            keeps,
            more,
            step,
            written,
            snapped,
            has_snapshot,
            is_restored,
            has_grown,
            may_have_grown,
            in_flight,
            uncertain,
            refused,
        }
    }

    /// The names of the snapshot, the restored volume and the clone.
    pub(crate) fn snapshot(&self) -> String {
        format!("snap-{}", self.claim)
    }

    pub(crate) fn restored(&self) -> String {
        format!("restored-{}", self.claim)
    }

    pub(crate) fn clone_name(&self) -> String {
        format!("clone-{}", self.claim)
    }

    /// Whether the snapshot stays when the story is done.
    pub(crate) fn keeps_snapshot(&self) -> bool {
        self.full && self.keeps && self.has_snapshot
    }

    fn next(&self) -> Step {
        match self.step {
            Step::Begin => Step::Snapshot,
            Step::Snapshot if self.has_snapshot => Step::Restore,
            Step::Restore if !self.is_restored => Step::DeleteRestored,
            Step::Snapshot | Step::Restore | Step::DeleteRestored => Step::Clone,
            Step::Clone => Step::DeleteClone,
            Step::DeleteClone if self.keeps_snapshot() => Step::Grow,
            Step::DeleteClone => Step::DeleteSnapshot,
            Step::DeleteSnapshot => Step::Grow,
            Step::Grow | Step::Done => Step::Done,
        }
    }
}

/// Goes on with the story whenever this replica's sidecars are the ones to do it.
pub(crate) async fn tell(shared: Shared, service: ControllerService, replica: usize, story: usize) {
    loop {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(100..600))).await;
        let Some(call) = shared.lock().next_call(replica, story) else { continue };
        let attempt = Attempt { shared: shared.clone(), story, known: false };
        let wait = Duration::from_millis(*fastrand::choice(&[1000, 2000, 5000, 10_000]).unwrap_or(&2000));
        let answer = tokio::time::timeout(wait, make(&service, call, wait)).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("the caller gave up")));
        attempt.ended(replica, answer);
    }
}

async fn make(service: &ControllerService, call: Call, wait: Duration) -> Result<Said, Status> {
    fn timed<T>(message: T, wait: Duration) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(wait);
        request
    }
    Ok(match call {
        Call::Snapshot(message) => {
            let answer = service.create_snapshot(timed(message, wait)).await?.into_inner();
            Said::Snapshot(answer.snapshot.unwrap_or_default())
        }
        Call::Create(message) => {
            let answer = service.create_volume(timed(message, wait)).await?.into_inner();
            Said::Volume(answer.volume.unwrap_or_default())
        }
        Call::Delete(message) => service.delete_volume(timed(message, wait)).await.map(|_| Said::Done)?,
        Call::DeleteSnapshot(message) => service.delete_snapshot(timed(message, wait)).await.map(|_| Said::Done)?,
        Call::Grow(message) => {
            let answer = service.controller_expand_volume(timed(message, wait)).await?.into_inner();
            Said::Size(answer.capacity_bytes)
        }
    })
}

/// A running call; if it is dropped before its end, its outcome is unknown.
struct Attempt {
    shared: Shared,
    story: usize,
    known: bool,
}

impl Attempt {
    fn ended(mut self, replica: usize, answer: Result<Said, Status>) {
        let mut world = self.shared.lock();
        let step = world.stories[self.story].step;
        let name = world.claims[world.stories[self.story].claim].name.clone();
        self.known = match &answer {
            Ok(_) => true,
            Err(status) => {
                !matches!(status.code(), Code::Aborted | Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled)
            }
        };
        match answer {
            Ok(said) => {
                world.note(format_args!("{replica}: {name}: {step:?} is done"));
                world.said(self.story, said);
            }
            Err(status) => {
                world.note(format_args!("{replica}: {name}: {step:?}: {:?} {}", status.code(), status.message()));
                world.denied(self.story, status);
            }
        }
        drop(world);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let mut world = self.shared.lock();
        let now = world.now;
        let story = &mut world.stories[self.story];
        story.in_flight = false;
        if !self.known {
            story.uncertain = Some(now);
        }
    }
}

impl World {
    /// The volume of a story, if it exists.
    pub(crate) fn source(&self, story: &Story) -> Option<VolumeId> {
        match &self.claims[story.claim].life {
            Life::Bound(id) if !self.lost(id) => id.parse().ok(),
            _ => None,
        }
    }

    /// The next call of a story, if it is this replica's turn.
    fn next_call(&mut self, replica: usize, index: usize) -> Option<Call> {
        let story = self.stories[index].clone();
        let claim = &self.claims[story.claim];
        if self.closed || story.in_flight || story.step == Step::Done || claim.owner != replica {
            return None;
        }
        let Some(source) = self.source(&story) else {
            if matches!(claim.life, Life::Bound(_)) || self.cannot_exist(story.claim) {
                // Its storage is gone.
                self.stories[index].step = Step::Done;
            }
            return None;
        };
        // An abandoned attempt may still arrive. A deletion must not come before it.
        let echo = story.uncertain.is_some_and(|at| self.now < at + ECHO);
        let deletes = matches!(story.step, Step::DeleteRestored | Step::DeleteClone | Step::DeleteSnapshot);
        if deletes && echo {
            return None;
        }
        let (node, size) = (source.node.clone(), claim.mib * MIB);
        let snapshot = source.to_string().replace("v1:", "s1:").replace(&claim.name, &story.snapshot());
        let filled = |name: String, source: Type| csi::CreateVolumeRequest {
            volume_content_source: Some(csi::VolumeContentSource { r#type: Some(source) }),
            accessibility_requirements: Some(csi::TopologyRequirement {
                requisite: vec![csi::Topology { segments: [(KEY.to_owned(), node.clone())].into() }],
                ..Default::default()
            }),
            ..block(name, size)
        };
        let call = match story.step {
            Step::Begin => {
                self.write(index, &source);
                self.advance(index);
                return None;
            }
            Step::Snapshot => {
                let method = if story.full { "copy" } else { "cow" };
                Call::Snapshot(csi::CreateSnapshotRequest {
                    source_volume_id: source.to_string(),
                    name: story.snapshot(),
                    parameters: [("method".to_owned(), method.to_owned())].into(),
                    ..Default::default()
                })
            }
            Step::Restore => {
                let snapshot = SnapshotSource { snapshot_id: snapshot };
                Call::Create(filled(story.restored(), Type::Snapshot(snapshot)))
            }
            Step::Clone => {
                let volume = VolumeSource { volume_id: source.to_string() };
                Call::Create(filled(story.clone_name(), Type::Volume(volume)))
            }
            Step::DeleteRestored | Step::DeleteClone => {
                let name = if story.step == Step::DeleteClone { story.clone_name() } else { story.restored() };
                let volume_id = VolumeId { volume: name, ..source }.to_string();
                Call::Delete(csi::DeleteVolumeRequest { volume_id, ..Default::default() })
            }
            Step::DeleteSnapshot => {
                Call::DeleteSnapshot(csi::DeleteSnapshotRequest { snapshot_id: snapshot, ..Default::default() })
            }
            Step::Grow => {
                let required = i64::try_from(size + story.more * MIB).unwrap_or_default();
                let range = csi::CapacityRange { required_bytes: required, limit_bytes: 0 };
                self.stories[index].may_have_grown = true;
                Call::Grow(csi::ControllerExpandVolumeRequest {
                    volume_id: source.to_string(),
                    capacity_range: Some(range),
                    ..Default::default()
                })
            }
            Step::Done => return None,
        };
        self.stories[index].in_flight = true;
        Some(call)
    }

    /// The user writes to the volume.
    fn write(&mut self, index: usize, source: &VolumeId) {
        let written = u64::try_from(index).unwrap_or_default() * 1000 + self.stories[index].written % 1000 + 1;
        self.stories[index].written = written;
        let node = self.nodes.iter().find(|node| node.name == source.node);
        if let Some(node) = node {
            node.storage.pool.write_by_hand(&source.volume, written);
        }
    }

    /// Whether a claim was refused for good.
    fn cannot_exist(&self, claim: usize) -> bool {
        let refused = &self.claims[claim].refused;
        self.claims[claim].life == Life::Wanted
            && refused.as_ref().is_some_and(|status| status.code() == Code::ResourceExhausted)
    }

    fn advance(&mut self, index: usize) {
        let story = &mut self.stories[index];
        story.step = story.next();
        story.refused = None;
    }

    /// A call was answered OK.
    fn said(&mut self, index: usize, said: Said) {
        let story = self.stories[index].clone();
        let claim = &self.claims[story.claim];
        let (name, size) = (claim.name.clone(), i64::try_from(claim.mib * MIB).unwrap_or_default());
        let source = self.source(&story);
        let mut wrong = None;
        match said {
            Said::Snapshot(snapshot) => {
                if snapshot.size_bytes != size || snapshot.creation_time.is_none() {
                    wrong = Some(format!("the snapshot of {name} is {snapshot:?}"));
                }
                let taken = !self.stories[index].has_snapshot;
                self.stories[index].has_snapshot = true;
                if taken {
                    // From now on, the snapshot has the contents of its instant.
                    self.stories[index].snapped = story.written;
                    if let Some(source) = &source {
                        self.write(index, source);
                    }
                }
                if snapshot.ready_to_use {
                    self.advance(index);
                }
            }
            Said::Volume(volume) => {
                if volume.capacity_bytes != size {
                    wrong = Some(format!("a copy of {name} has {} bytes", volume.capacity_bytes));
                }
                let expected = match story.step {
                    Step::Restore => story.snapped,
                    _ => story.written,
                };
                let id: Option<VolumeId> = volume.volume_id.parse().ok();
                let found = id.as_ref().and_then(|id| self.contents(id));
                if found.is_some_and(|found| found != expected) {
                    wrong = Some(format!("{:?} has the contents {found:?}, not {expected}", volume.volume_id));
                }
                self.stories[index].is_restored |= story.step == Step::Restore;
                self.advance(index);
            }
            Said::Size(bytes) => {
                let larger = i64::try_from((claim.mib + story.more) * MIB).unwrap_or_default();
                if bytes != larger {
                    wrong = Some(format!("{name} was made {bytes} bytes large, not {larger}"));
                }
                self.stories[index].has_grown = true;
                self.advance(index);
            }
            Said::Done => self.advance(index),
        }
        if let Some(wrong) = wrong {
            self.violated(wrong);
        }
    }

    /// What stands for the contents of a volume that is there.
    fn contents(&self, id: &VolumeId) -> Option<u64> {
        let holds = |node: &&crate::world::Node| node.storage.holds(&id.to_string(), &node.name);
        let node = self.nodes.iter().filter(|node| !node.gone).find(holds)?;
        node.storage.pool.contents_of(&id.volume).map(|(contents, _)| contents)
    }

    /// A call failed.
    fn denied(&mut self, index: usize, status: Status) {
        let step = self.stories[index].step;
        let passing = matches!(status.code(), Code::Aborted | Code::Unavailable | Code::DeadlineExceeded);
        // A pool with an injected failure reports it.
        let planned = status.code() == Code::Internal && status.message().contains("fails as configured");
        let full = match step {
            Step::Snapshot | Step::Restore | Step::Clone => status.code() == Code::ResourceExhausted,
            Step::Grow => status.code() == Code::OutOfRange,
            _ => false,
        };
        if full {
            // What an abandoned attempt may still make is deleted with the rest.
            return self.advance(index);
        }
        if !passing && !planned {
            let name = self.claims[self.stories[index].claim].name.clone();
            self.violated(format!("{name}: {step:?}: an unexpected answer: {:?} {}", status.code(), status.message()));
        }
        self.stories[index].refused = Some(status);
    }

    /// The stories that have not come to their ends.
    pub(crate) fn untold(&self) -> Vec<String> {
        let open = self.stories.iter().filter(|story| story.step != Step::Done || story.in_flight);
        // Without its volume, a story never begins.
        let open = open.filter(|story| !self.cannot_exist(story.claim));
        open.map(|story| format!("{} is at {:?}: {:?}", self.claims[story.claim].name, story.step, story.refused))
            .collect()
    }
}
