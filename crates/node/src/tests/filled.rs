//! Volumes that are filled from snapshots and from other volumes: killed between any two effects, with sources that
//! change or vanish, and while the copy runs.

use std::time::Duration;

use quarry_volume::{
    AccessType, Agent as _, ContentSource, Error, Reason, Result, SizeRange, SnapshotId, SnapshotParameters,
    SnapshotSpec, VolumeId, VolumeSpec, safe_name,
};

use super::killed::test_all;
use super::machine::{Content, Disk, Plan, Process, node, snapshot_node};
use super::world::{Answer, Call, SIZE, Use, World};
use crate::Host;

const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_millis(100);
const MIB: u64 = 1 << 20;
const COPY: &str = "copy";
const SNAPSHOT: &str = "snap";

/// From what a volume is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    Snapshot,
    /// A volume of a pool with snapshots.
    Volume,
    /// A volume of a pool without.
    Offline,
}

/// The state of the source when its copy is requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    NeverUsed,
    Staged,
    Unstaged,
}

/// A source, and the copy of it.
struct Filled {
    world: World,
    from: From,
    /// The requested size of the copy.
    size: u64,
}

impl Filled {
    /// A source in that state. If the copy is made of a snapshot, that was taken, and then the source was changed.
    fn new(usage: Use, from: From, source: Source) -> Self {
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
        if from == From::Snapshot {
            filled.on_host(async |host| host.create_snapshot(filled.snapshot(), LONG).await.map(drop)).unwrap();
            filled.write();
        }
        filled
    }

    fn unstage(&self) {
        self.world.succeeds(Call::Unpublish);
        self.world.succeeds(Call::Unstage);
    }

    /// A pod writes to the source, if that contains a filesystem.
    fn write(&self) {
        if matches!(self.world.disk().bytes.content, Content::Filesystem { .. }) {
            self.world.machine.write_files(&self.world.id.volume);
        }
    }

    fn snapshot(&self) -> SnapshotSpec {
        let class = SnapshotParameters::default();
        SnapshotSpec { name: SNAPSHOT.to_owned(), source: self.world.id.clone(), class }
    }

    fn snapshot_id(&self) -> SnapshotId {
        let VolumeId { storage, node, .. } = self.world.id.clone();
        SnapshotId { storage, node, snapshot: SNAPSHOT.to_owned() }
    }

    fn source(&self) -> ContentSource {
        match self.from {
            From::Snapshot => ContentSource::Snapshot(self.snapshot_id()),
            From::Volume | From::Offline => ContentSource::Volume(self.world.id.clone()),
        }
    }

    fn spec(&self) -> VolumeSpec {
        let size = SizeRange { required: self.size, limit: None };
        VolumeSpec { name: COPY.to_owned(), size, ..self.world.usage.spec() }.filled_from(self.source())
    }

    fn id(&self) -> VolumeId {
        VolumeId { volume: safe_name(COPY), ..self.world.id.clone() }
    }

    /// Runs work on a host.
    fn on_host<T>(&self, work: impl AsyncFnOnce(Host) -> T) -> T {
        let process = Process::new(&self.world.machine, Plan::Lives);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let result = runtime.block_on(async { work(self.world.host(&process)).await });
        self.check();
        result
    }

    /// Makes a call in a process with that plan.
    fn call(&self, plan: Plan, call: impl AsyncFnOnce(Host) -> Result<()>) -> Answer {
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

    /// Creates the copy.
    fn create(&self, plan: Plan) -> Answer {
        let answer = self.call(plan, async |host| host.create(self.spec(), None, LONG).await.map(drop));
        if matches!(answer, Answer::Ok) {
            self.is_complete();
        }
        answer
    }

    fn created(&self) {
        match self.create(Plan::Lives) {
            Answer::Ok => {}
            other => panic!("{:?} from {:?}: {other:?} after {:?}", self.world.usage, self.from, self.world.effects()),
        }
    }

    fn rejected(&self, reason: Reason) -> Error {
        match self.create(Plan::Lives) {
            Answer::Rejected(error) if error.reason == reason => error,
            other => panic!("{other:?} after {:?}", self.world.effects()),
        }
    }

    /// Deletes the copy.
    fn delete(&self) {
        self.on_host(async |host| host.delete(&self.id(), LONG).await).unwrap();
    }

    fn copy(&self) -> Option<Disk> {
        self.world.machine.state().disks.get(&node(&self.id().volume)).cloned()
    }

    /// The record of the copy.
    fn record(&self) -> String {
        self.world.pool.record_of(&self.id().volume).unwrap_or_default()
    }

    fn check(&self) {
        let state = self.world.machine.state();
        assert_eq!(state.violations, [""; 0], "{:?} from {:?}: {:?}", self.world.usage, self.from, state.effects);
    }

    /// Checks that the copy is complete, with the contents of one instant, and that nothing else is left of it.
    fn is_complete(&self) {
        let context = || format!("{:?} from {:?}: {:?}", self.world.usage, self.from, self.world.effects());
        assert_eq!(self.world.pool.names().iter().filter(|name| *name == COPY).count(), 1, "{}", context());
        assert!(self.for_clone().is_none(), "{}", context());
        assert!(!self.record().starts_with("quarry2/"), "{}: {}", self.record(), context());
        let (copy, source) = (self.copy().expect("a device"), self.world.disk());
        assert_eq!(copy.bytes, copy.durable, "{}", context());
        assert_eq!(copy.bytes.signatures, [0; 0], "{}", context());
        match (&copy.bytes.content, &source.bytes.content) {
            (Content::Filesystem { kind, uuid, in_progress: false, .. }, Content::Filesystem { kind: of, uuid: old, .. }) => {
                assert!(kind == of && uuid != old && copy.ready, "{}", context());
                assert!(!copy.bytes.is_dirty, "{}", context());
            }
            (Content::Blank, Content::Blank | Content::Remnants) => {
                if self.world.usage.access == AccessType::Block || self.world.usage.both {
                    assert_eq!(copy.bytes.zeroed, copy.size, "{}", context());
                }
            }
            other => panic!("{other:?}: {}", context()),
        }
    }

    /// The node of the snapshot that serves the clone, if it exists.
    fn for_clone(&self) -> Option<String> {
        let nodes = self.world.machine.state().disks.keys().cloned().collect::<Vec<_>>();
        let name = format!("for clone {COPY}");
        assert_eq!(nodes.contains(&snapshot_node(&name)), self.world.pool.record_of_snapshot(&name).is_some());
        self.world.pool.record_of_snapshot(&name)
    }

    /// The copy can be used, and everything can be deleted.
    fn live_on(self) {
        self.delete();
        if self.from == From::Snapshot {
            self.on_host(async |host| host.delete_snapshot(&self.snapshot_id(), LONG).await).unwrap();
        }
        for call in [Call::Unpublish, Call::Unstage, Call::Delete] {
            self.world.succeeds(call);
        }
        self.world.is_clean();
    }
}

/// All sources that can be copied.
fn sources() -> impl Iterator<Item = (Use, From, Source)> {
    let from = [
        (From::Snapshot, Source::NeverUsed),
        (From::Snapshot, Source::Staged),
        (From::Snapshot, Source::Unstaged),
        (From::Volume, Source::NeverUsed),
        (From::Volume, Source::Staged),
        (From::Volume, Source::Unstaged),
        (From::Offline, Source::NeverUsed),
        (From::Offline, Source::Unstaged),
    ];
    Use::ALL.into_iter().flat_map(move |usage| from.map(|(from, source)| (usage, from, source)))
}

#[test]
fn a_copy_is_complete_and_has_a_uuid_of_its_own() {
    test_all(sources(), |(usage, from, source)| {
        for size in [SIZE, SIZE + 700 * MIB] {
            let mut filled = Filled::new(usage, from, source);
            filled.size = size;
            filled.created();
            assert_eq!(filled.copy().unwrap().size, size);
            // A retry finds it.
            let effects = filled.world.effects().len();
            filled.created();
            let repeated = filled.world.effects().len() - effects;
            assert!(repeated == 0 || source == Source::NeverUsed, "{:?}", filled.world.effects());
            filled.live_on();
        }
    });
}

/// What happens after a kill, before the creation is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Retry,
    PowerCut,
    LatePowerCut,
    /// A pod writes to the source.
    SourceIsUsed,
}

/// The worlds in which the creation of the copy was killed before each of its effects.
fn killed(usage: Use, from: From, source: Source, size: u64) -> impl Iterator<Item = Filled> {
    (0..).map_while(move |before| {
        let mut filled = Filled::new(usage, from, source);
        filled.size = size;
        match filled.create(Plan::Killed { before }) {
            Answer::Killed => Some(filled),
            Answer::Ok => None,
            Answer::Rejected(error) => panic!("{usage:?} from {from:?}, killed before effect {before}: {error}"),
        }
    })
}

#[test]
fn a_retry_completes_a_killed_copy() {
    let then = [Then::Retry, Then::PowerCut, Then::LatePowerCut, Then::SourceIsUsed];
    test_all(sources().flat_map(|source| then.map(|then| (source, then))), |((usage, from, source), then)| {
        let mut worlds = 0;
        for filled in killed(usage, from, source, SIZE + 700 * MIB) {
            match then {
                Then::Retry => {}
                Then::PowerCut => filled.world.machine.cut_power(false),
                Then::LatePowerCut => filled.world.machine.cut_power(true),
                Then::SourceIsUsed => filled.write(),
            }
            filled.created();
            filled.live_on();
            worlds += 1;
        }
        assert!(worlds >= 3, "{usage:?} from {from:?} was killed {worlds} times");
    });
}

#[test]
fn a_killed_copy_is_deleted_with_the_snapshot_that_serves_it() {
    test_all(sources(), |(usage, from, source)| {
        let mut served = 0;
        for filled in killed(usage, from, source, SIZE) {
            served += usize::from(filled.for_clone().is_some());
            filled.live_on();
        }
        let expected = from == From::Volume && source != Source::NeverUsed;
        assert_eq!(served > 3, expected, "{usage:?} from {from:?}: {served}");
    });
}
