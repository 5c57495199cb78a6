//! A source on a machine, and the copy of it.

use std::time::Duration;

use quarry_volume::{
    AccessMode, AccessType, Agent as _, Capability, ContentSource, Error, Reason, Result, SizeRange, SnapshotId,
    SnapshotMethod, SnapshotParameters, SnapshotSpec, VolumeId, VolumeSpec, safe_name,
};

use super::super::machine::{Content, Disk, Plan, Process, node, snapshot_node};
use super::super::world::{Answer, Call, SIZE, Use, World, staging};
use crate::Host;
use crate::stage::Stage;

pub(super) const LONG: Duration = Duration::from_secs(600);
/// After this time, a call is waiting for another one.
const WAITS: Duration = Duration::from_secs(1);
pub(super) const COPY: &str = "copy";
pub(super) const SNAPSHOT: &str = "snap";

/// From what a volume is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    Snapshot,
    /// A snapshot that is a full copy.
    FullCopy,
    /// A volume of a pool with snapshots.
    Volume,
    /// A volume of a pool without.
    Offline,
}

/// The state of the source when its copy is requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    NeverUsed,
    Staged,
    Unstaged,
}

/// A source, and the copy of it.
pub(super) struct Filled {
    pub(super) world: World,
    pub(super) from: From,
    /// The requested size of the copy.
    pub(super) size: u64,
}

/// Waits until the host works on nothing.
pub(super) async fn idle(host: &Host) {
    while !host.tasks().list().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

impl Filled {
    /// A volume in that state, and no snapshot.
    pub(super) fn without_snapshot(usage: Use, from: From, source: Source) -> Self {
        Self { from, ..Self::new(usage, From::Volume, source) }
    }

    /// Stages the copy.
    pub(super) async fn stage_on(&self, host: &Host) -> Result<()> {
        let capability = Capability {
            access: self.world.usage.access,
            filesystem: self.world.usage.filesystem.filter(|_| self.world.usage.access == AccessType::Mount),
            mount_flags: Vec::new(),
            mode: AccessMode::SingleWriter,
        };
        let (id, staging) = (self.id(), staging().with_extension("copy"));
        host.stage(Stage { id, staging, capability, mkfs_options: String::new(), passphrase: None }, LONG).await
    }

    /// Unstages the copy.
    pub(super) async fn unstage_on(&self, host: &Host) -> Result<()> {
        host.unstage(&self.id().to_string(), staging().with_extension("copy"), LONG).await
    }

    /// A source in that state. If the copy is made of a snapshot, that was taken, and then the source was changed.
    pub(super) fn new(usage: Use, from: From, source: Source) -> Self {
        let world = World::new(usage);
        world.snapshots.set(from != From::Offline);
        world.succeeds(Call::Create);
        if source != Source::NeverUsed {
            world.succeeds(Call::Stage);
            world.succeeds(Call::Publish);
        }
        let filled = Self { world, from, size: SIZE };
        if source == Source::Unstaged {
            filled.unstage();
        }
        if matches!(from, From::Snapshot | From::FullCopy) {
            filled.take();
            filled.write();
        }
        filled
    }

    pub(super) fn unstage(&self) {
        self.world.succeeds(Call::Unpublish);
        self.world.succeeds(Call::Unstage);
    }

    /// A pod writes to the source, if that contains a filesystem.
    pub(super) fn write(&self) {
        if matches!(self.world.disk().bytes.content, Content::Filesystem { .. }) {
            self.world.machine.write_files(&self.world.id.volume);
        }
    }

    /// Takes the snapshot, and waits until it is ready, and nothing is left to do.
    pub(super) fn take(&self) {
        self.on_host(async |host| {
            while !host.create_snapshot(self.snapshot(), LONG).await.unwrap().0.ready {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            idle(&host).await;
        });
    }

    pub(super) fn snapshot(&self) -> SnapshotSpec {
        let method = if self.from == From::FullCopy { SnapshotMethod::Copy } else { SnapshotMethod::Cow };
        let class = SnapshotParameters { method, ..SnapshotParameters::default() };
        SnapshotSpec { name: SNAPSHOT.to_owned(), source: self.world.id.clone(), class }
    }

    pub(super) fn snapshot_id(&self) -> SnapshotId {
        let VolumeId { storage, node, .. } = self.world.id.clone();
        SnapshotId { storage, node, snapshot: SNAPSHOT.to_owned() }
    }

    pub(super) fn source(&self) -> ContentSource {
        match self.from {
            From::Snapshot | From::FullCopy => ContentSource::Snapshot(self.snapshot_id()),
            From::Volume | From::Offline => ContentSource::Volume(self.world.id.clone()),
        }
    }

    pub(super) fn spec(&self) -> VolumeSpec {
        let size = SizeRange { required: self.size, limit: None };
        VolumeSpec { name: COPY.to_owned(), size, ..self.world.usage.spec() }.filled_from(self.source())
    }

    pub(super) fn id(&self) -> VolumeId {
        VolumeId { volume: safe_name(COPY), ..self.world.id.clone() }
    }

    /// Runs work on a host.
    pub(super) fn on_host<T>(&self, work: impl AsyncFnOnce(Host) -> T) -> T {
        let process = Process::new(&self.world.machine, Plan::Lives);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let result = runtime.block_on(async { work(self.world.host(&process)).await });
        self.check();
        result
    }

    /// Makes a call in a process with that plan.
    pub(super) fn call(&self, plan: Plan, call: impl AsyncFnOnce(Host) -> Result<()>) -> Answer {
        let process = Process::new(&self.world.machine, plan);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let answer = runtime.block_on(async {
            tokio::select! {
                biased;
                () = process.death() => Answer::Killed,
                result = call(self.world.host(&process)) => match result {
                    Ok(()) => Answer::Ok,
                    Err(error) => Answer::Rejected(error),
                },
            }
        });
        self.check();
        if process.is_alive() { answer } else { Answer::Killed }
    }

    /// Creates the copy, and does something else before its effect with that number. `None` if it has fewer effects.
    pub(super) fn create_while<T>(
        &self,
        before: usize,
        other: impl AsyncFnOnce(&Host) -> T,
    ) -> Option<(T, Result<()>)> {
        self.call_while(before, async |host| host.create(self.spec(), None, LONG).await.map(drop), other)
    }

    /// Makes a call, and does something else before its effect with that number. What waits for the call goes on with it
    /// after a while. `None` if the call has fewer effects.
    pub(super) fn call_while<T, R>(
        &self,
        before: usize,
        call: impl AsyncFnOnce(&Host) -> R,
        other: impl AsyncFnOnce(&Host) -> T,
    ) -> Option<(T, R)> {
        let process = Process::new(&self.world.machine, Plan::Pauses { before });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let results = runtime.block_on(async {
            let host = self.world.host(&process);
            let mut call = std::pin::pin!(call(&host));
            tokio::select! {
                () = process.paused() => {}
                _ = &mut call => return None,
            }
            let mut other = std::pin::pin!(other(&host));
            let ended = tokio::time::timeout(WAITS, &mut other).await;
            process.resume();
            Some(match ended {
                Ok(other) => (other, call.await),
                Err(_) => tokio::join!(other, call),
            })
        });
        self.check();
        results
    }

    /// Creates the copy.
    pub(super) fn create(&self, plan: Plan) -> Answer {
        let answer = self.call(plan, async |host| host.create(self.spec(), None, LONG).await.map(drop));
        if matches!(answer, Answer::Ok) {
            self.is_complete();
        }
        answer
    }

    pub(super) fn created(&self) {
        match self.create(Plan::Lives) {
            Answer::Ok => {}
            other => panic!("{:?} from {:?}: {other:?} after {:?}", self.world.usage, self.from, self.world.effects()),
        }
    }

    pub(super) fn rejected(&self, reason: Reason) -> Error {
        match self.create(Plan::Lives) {
            Answer::Rejected(error) if error.reason == reason => error,
            other => panic!("{other:?} after {:?}", self.world.effects()),
        }
    }

    /// Deletes the copy.
    pub(super) fn delete(&self) {
        self.on_host(async |host| host.delete(&self.id(), LONG).await).unwrap();
    }

    pub(super) fn copy(&self) -> Option<Disk> {
        self.world.machine.state().disks.get(&node(&self.id().volume)).cloned()
    }

    /// The record of the copy.
    pub(super) fn record(&self) -> String {
        self.world.pool.record_of(&self.id().volume).unwrap_or_default()
    }

    pub(super) fn check(&self) {
        let state = self.world.machine.state();
        assert_eq!(state.violations, [""; 0], "{:?} from {:?}: {:?}", self.world.usage, self.from, state.effects);
    }

    /// Checks that the copy is complete, with the contents of one instant, and that nothing else is left of it.
    pub(super) fn is_complete(&self) {
        let context = || format!("{:?} from {:?}: {:?}", self.world.usage, self.from, self.world.effects());
        assert_eq!(self.world.pool.names().iter().filter(|name| *name == COPY).count(), 1, "{}", context());
        assert!(self.for_clone().is_none(), "{}", context());
        assert!(!self.record().starts_with("quarry2/"), "{}: {}", self.record(), context());
        let (copy, source) = (self.copy().expect("a device"), self.world.disk());
        assert_eq!(copy.bytes, copy.durable, "{}", context());
        assert_eq!(copy.bytes.signatures, [0; 0], "{}", context());
        match (&copy.bytes.content, &source.bytes.content) {
            (
                Content::Filesystem { kind, uuid, in_progress: false, .. },
                Content::Filesystem { kind: of, uuid: old, .. },
            ) => {
                assert!(kind == of && uuid != old && copy.ready, "{}", context());
                assert!(!copy.bytes.is_dirty, "{}", context());
            }
            (Content::Blank, Content::Blank | Content::Remnants) => {
                if self.world.usage.access == AccessType::Block || self.world.usage.both {
                    assert_eq!(copy.bytes.zeroed, copy.size, "not zeroed: {}", context());
                }
            }
            other => panic!("{other:?}: {}", context()),
        }
    }

    /// The node of the snapshot that serves the clone, if it exists.
    pub(super) fn for_clone(&self) -> Option<String> {
        let nodes = self.world.machine.state().disks.keys().cloned().collect::<Vec<_>>();
        let name = format!("for clone {COPY}");
        assert_eq!(nodes.contains(&snapshot_node(&name)), self.world.pool.record_of_snapshot(&name).is_some());
        self.world.pool.record_of_snapshot(&name)
    }

    /// The device of the snapshot.
    pub(super) fn snapshot_disk(&self) -> Option<Disk> {
        self.world.machine.state().disks.get(&snapshot_node(SNAPSHOT)).cloned()
    }

    /// The record of what serves the full copy, if it exists.
    pub(super) fn for_copy(&self) -> Option<String> {
        self.world.pool.record_of_snapshot(&format!("for snapshot {SNAPSHOT}"))
    }

    /// Everything can be deleted.
    pub(super) fn live_on(self) {
        self.delete();
        assert!(self.for_clone().is_none() && self.copy().is_none(), "{:?}", self.world.effects());
        if matches!(self.from, From::Snapshot | From::FullCopy) {
            self.on_host(async |host| host.delete_snapshot(&self.snapshot_id(), LONG).await).unwrap();
        }
        for call in [Call::Unpublish, Call::Unstage, Call::Delete] {
            self.world.succeeds(call);
        }
        self.world.is_clean();
    }
}
