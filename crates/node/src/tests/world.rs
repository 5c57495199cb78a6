//! Calls on one volume of a machine. Each call is made to a new process, and each answer is compared with the
//! state of the machine.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use quarry_exec::Secret;
use quarry_pool::{Pool, SimulatedPool};
use quarry_volume::{
    AccessMode, AccessType, AccessTypes, Agent as _, Capability, Discard, Encryption, Error, Filesystem, IoLimits,
    MutableParameters, Reason, Result, SizeRange, VolumeId, VolumeSpec, safe_name,
};

use super::machine::{Content, Disk, KUBELET, Machine, Plan, Process, State, node};
use super::pool::MachinePool;
use crate::Host;
use crate::grow::Grow;
use crate::publish::Publish;
use crate::stage::Stage;

const LONG: Duration = Duration::from_secs(600);
const MIB: u64 = 1 << 20;
/// Zeroed in several steps.
pub(super) const SIZE: u64 = 1536 * MIB;
/// The size of an expanded volume. The new space is zeroed in several steps.
pub(super) const EXPANDED: u64 = SIZE + 2560 * MIB;
/// The size of the pool, in extents of 4 MiB.
const EXTENTS: u64 = 4096;
const VOLUME: &str = "v";

/// A call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Create,
    Stage,
    Publish,
    Unpublish,
    Unstage,
    Delete,
    /// ControllerExpandVolume, to [`EXPANDED`] bytes.
    Expand,
    /// NodeExpandVolume where it is staged, or where a raw block volume is published.
    Grow,
    /// ControllerModifyVolume, with [`World::changes`].
    Modify,
}

/// The calls in the life of a volume.
pub(super) const LIFE: [Call; 6] =
    [Call::Create, Call::Stage, Call::Publish, Call::Unpublish, Call::Unstage, Call::Delete];

/// How a volume is used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Use {
    pub(super) filesystem: Option<Filesystem>,
    /// Created for both access types.
    pub(super) both: bool,
    pub(super) access: AccessType,
    pub(super) read_only: bool,
    /// Whether sysfs shows which volume a device is.
    pub(super) sysfs: bool,
    pub(super) discard: Option<Discard>,
    pub(super) limits: IoLimits,
    pub(super) requires_limits: bool,
    pub(super) encryption: Option<Encryption>,
}

const EXT4: Use = Use {
    filesystem: Some(Filesystem::Ext4),
    both: false,
    access: AccessType::Mount,
    read_only: false,
    sysfs: true,
    discard: None,
    limits: IoLimits::new([None; 4]),
    requires_limits: false,
    encryption: None,
};
const BLOCK: Use = Use { filesystem: None, access: AccessType::Block, ..EXT4 };

impl Use {
    pub(super) const MOUNT: Self = EXT4;
    pub(super) const READ_ONLY_XFS: Self = Self { filesystem: Some(Filesystem::Xfs), read_only: true, ..EXT4 };
    pub(super) const BOTH: Self = Self { both: true, ..EXT4 };
    pub(super) const BLOCK: Self = BLOCK;
    pub(super) const READ_ONLY_BLOCK: Self = Self { read_only: true, sysfs: false, ..BLOCK };
    /// The ways of use that have different steps.
    pub(super) const ALL: [Self; 8] = [
        Self::MOUNT,
        Self { sysfs: false, ..EXT4 },
        Self::READ_ONLY_XFS,
        // Its mounts have anonymous device numbers.
        Self { filesystem: Some(Filesystem::Btrfs), ..EXT4 },
        Self::BOTH,
        Self::BLOCK,
        Self { both: true, filesystem: Some(Filesystem::Ext4), ..BLOCK },
        Self::READ_ONLY_BLOCK,
    ];

    pub(super) fn spec(&self) -> VolumeSpec {
        let spec = match self.filesystem {
            Some(kind) => VolumeSpec::mount(VOLUME, SIZE, kind),
            None => VolumeSpec::block(VOLUME, SIZE),
        };
        let access = if self.both { AccessTypes::Both } else { spec.access };
        let mut spec = VolumeSpec { access, ..spec.in_pool("p") };
        spec.class.discard = self.discard;
        spec.class.limits = self.limits;
        spec.class.requires_limits = self.requires_limits;
        spec.class.encryption = self.encryption;
        spec
    }
}

/// How a call ended.
#[derive(Debug)]
pub(super) enum Answer {
    Ok,
    Rejected(Error),
    Killed,
}

pub(super) struct World {
    pub(super) usage: Use,
    pub(super) machine: Machine,
    pub(super) pool: SimulatedPool,
    pub(super) id: VolumeId,
    /// Where it is published and unpublished.
    pub(super) target: PathBuf,
    /// The size that [`Call::Expand`] requests.
    pub(super) expanded: Cell<u64>,
    /// Whether the volumes of the pool can have snapshots.
    pub(super) snapshots: Cell<bool>,
    /// Whether the pool creates volumes that share the contents of their source, as a thin pool does.
    pub(super) shares: Cell<bool>,
    /// What [`Call::Modify`] changes.
    pub(super) changes: Cell<MutableParameters>,
    /// The mount options of its requests.
    pub(super) mount_flags: RefCell<Vec<String>>,
    /// Where its cgroups are: by default, there are none.
    pub(super) cgroups: PathBuf,
    /// Whether a pod has written files to the volume.
    wrote: Cell<bool>,
}

pub(super) fn staging() -> PathBuf {
    Path::new(KUBELET).join("staging")
}

pub(super) fn target() -> PathBuf {
    Path::new(KUBELET).join("target")
}

impl World {
    pub(super) fn new(usage: Use) -> Self {
        let pool = SimulatedPool::new("p", 4 * MIB, vec![EXTENTS], Duration::ZERO);
        let storage = pool.last_storage().unwrap();
        let id = VolumeId { storage, node: "node-1".to_owned(), volume: safe_name(VOLUME) };
        let (machine, expanded) = (Machine::new(usage.sysfs), Cell::new(EXPANDED));
        let (snapshots, shares, wrote) = (Cell::new(true), Cell::new(false), Cell::new(false));
        let (changes, mount_flags, cgroups) = (Cell::default(), RefCell::default(), PathBuf::from("/nothing"));
        let target = target();
        Self { usage, machine, pool, id, target, expanded, snapshots, shares, changes, mount_flags, cgroups, wrote }
    }

    /// A world in which these calls succeeded.
    pub(super) fn after(usage: Use, calls: &[Call]) -> Self {
        let world = Self::new(usage);
        calls.iter().for_each(|call| world.succeeds(*call));
        world
    }

    /// Makes a call that must succeed.
    pub(super) fn succeeds(&self, call: Call) {
        match self.call(call) {
            Answer::Ok => {}
            other => panic!("{call:?} of {:?} ended with {other:?} after {:?}", self.usage, self.effects()),
        }
    }

    /// Makes a call that must be rejected for that reason, and returns the message.
    pub(super) fn rejects(&self, call: Call, reason: Reason) -> String {
        match self.call(call) {
            Answer::Rejected(error) if error.reason == reason => error.message,
            other => panic!("{call:?} of {:?} ended with {other:?} after {:?}", self.usage, self.effects()),
        }
    }

    pub(super) fn call(&self, call: Call) -> Answer {
        self.call_as(&Process::new(&self.machine, Plan::Lives), call)
    }

    pub(super) fn effects(&self) -> Vec<String> {
        self.machine.state().effects.clone()
    }

    pub(super) fn disk(&self) -> Disk {
        self.machine.state().disks[&node(&self.id.volume)].clone()
    }

    /// The text of the volume's record.
    pub(super) fn record(&self) -> String {
        self.pool.record_of(&self.id.volume).unwrap()
    }

    /// Replaces the record outside Quarry.
    pub(super) fn set_record(&self, record: &str) {
        assert!(self.pool.set_record_by_hand(&self.id.volume, record));
    }

    /// Makes a call to a new process that lives only for this call, and checks the answer.
    pub(super) fn call_as(&self, process: &Process, call: Call) -> Answer {
        let published = self.machine.state().exists(&self.target);
        let answer = self.run(process, call);
        self.check(call, &answer, published);
        answer
    }

    /// The same without checking the answer.
    pub(super) fn run(&self, process: &Process, call: Call) -> Answer {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let answer = runtime.block_on(async {
            let host = self.host(process);
            tokio::select! {
                biased;
                () = process.death() => Answer::Killed,
                result = self.send(&host, call) => match result {
                    Ok(()) => Answer::Ok,
                    Err(error) => Answer::Rejected(error),
                },
            }
        });
        // A process that was killed may still have been about to answer.
        let answer = if process.is_alive() { answer } else { Answer::Killed };
        drop(runtime);
        answer
    }

    /// Deactivates the volume, as after an unstage that began now.
    pub(super) fn deactivate(&self) {
        let process = Process::new(&self.machine, Plan::Lives);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(self.host(&process).deactivate_now(&self.id, Instant::now()));
    }

    /// The host as one process serves it.
    pub(super) fn host(&self, process: &Process) -> Host {
        let (snapshots, shares) = (self.snapshots.get(), self.shares.get());
        let pool = MachinePool { simulated: self.pool.clone(), process: process.clone(), snapshots, shares };
        let host = Host::on_kernel("node-1", vec![Arc::new(pool)], "", Arc::new(process.clone()));
        host.set_cgroups(self.cgroups.clone(), "/");
        host
    }

    /// Stages the volume on that host.
    pub(super) async fn stage_on(&self, host: &Host) -> Result<()> {
        self.send(host, Call::Stage).await
    }

    /// Makes a call to that host.
    pub(super) async fn send(&self, host: &Host, call: Call) -> Result<()> {
        let id = self.id.clone();
        let capability = Capability {
            access: self.usage.access,
            filesystem: self.usage.filesystem.filter(|_| self.usage.access == AccessType::Mount),
            mount_flags: self.mount_flags.borrow().clone(),
            mode: AccessMode::SingleWriter,
        };
        match call {
            Call::Create => host.create(self.usage.spec(), None, LONG).await.map(drop),
            Call::Stage => {
                let passphrase = self.usage.encryption.map(|_| Secret::new(b"secret".to_vec()));
                let stage = Stage { id, staging: staging(), capability, mkfs_options: String::new(), passphrase };
                host.stage(stage, LONG).await
            }
            Call::Publish => {
                let (target, read_only) = (self.target.clone(), self.usage.read_only);
                let publish = Publish { id, staging: staging(), target, capability, read_only };
                host.publish(publish, LONG).await
            }
            Call::Unpublish => host.unpublish(&id.to_string(), self.target.clone(), LONG).await,
            Call::Unstage => host.unstage(&id.to_string(), staging(), LONG).await,
            Call::Delete => host.delete(&id, LONG).await.map(drop),
            Call::Modify => host.modify(&id, self.changes.get(), LONG).await.map(drop),
            Call::Expand => host.expand(&id, self.expanded_size(), LONG).await.map(drop),
            Call::Grow => {
                let path = if self.usage.access == AccessType::Mount { staging() } else { self.target.clone() };
                let grown = host.grow_filesystem(Grow { id, path, size: SizeRange::default() }, LONG).await?;
                assert_eq!(grown, self.disk().size);
                Ok(())
            }
        }
    }

    pub(super) fn expanded_size(&self) -> SizeRange {
        SizeRange { required: self.expanded.get(), limit: None }
    }

    /// Checks that the answer is true, and that nothing was done that must never be done.
    fn check(&self, call: Call, answer: &Answer, published: bool) {
        let is_mount = self.usage.access == AccessType::Mount;
        {
            let state = self.machine.state();
            let context = || format!("{call:?} of {:?}: {answer:?} after {:?}", self.usage, state.effects);
            assert_eq!(state.violations, [""; 0], "{}", context());
            let disk = state.disks.get(&node(&self.id.volume));
            if let (true, Some(disk)) = (self.wrote.get(), disk) {
                assert!(disk.holds_files(), "files were lost: {}", context());
            }
            let (staged, shown) = (state.at(&staging()), state.at(&self.target));
            assert!(staged.len() <= 1 && shown.len() <= 1, "mounted twice: {}", context());
            match (answer, call) {
                (Answer::Killed, _) => {}
                (Answer::Rejected(_), _) => {
                    assert!(published || !state.exists(&self.target), "left at the target: {}", context());
                }
                (Answer::Ok, Call::Create) => self.check_created(disk.expect("a device"), context),
                (Answer::Ok, Call::Stage) => {
                    let disk = disk.expect("a device");
                    assert!(disk.ready && disk.bytes == disk.durable, "not ready: {}", context());
                    assert!(!state.is_stale(&self.id.volume), "not refreshed: {}", context());
                    if is_mount {
                        assert!(disk.is_complete(), "{:?}: {}", disk.bytes, context());
                        let is_own = staged.first().is_some_and(|entry| state.is_of(entry, disk.number));
                        assert!(is_own, "not staged: {}", context());
                        assert_eq!(disk.bytes.filesystem, disk.size, "not grown: {}", context());
                    } else {
                        assert_eq!(disk.bytes.zeroed, disk.size, "not zeroed: {}", context());
                    }
                }
                (Answer::Ok, Call::Publish) => {
                    let disk = disk.expect("a device");
                    let entry = shown.first().unwrap_or_else(|| panic!("nothing is published: {}", context()));
                    let ok = match (self.usage.access, self.usage.read_only) {
                        (AccessType::Mount, read_only) => {
                            state.is_of(entry, disk.number) && entry.read_only() == read_only && !staged.is_empty()
                        }
                        (AccessType::Block, false) => state.node_device(entry) == Some(disk.number),
                        (AccessType::Block, true) => {
                            state.node_device(entry).is_some_and(|number| state.mapped(number) == Some(disk.number))
                        }
                    };
                    assert!(ok, "{entry:?}: {}", context());
                }
                (Answer::Ok, Call::Unpublish) => {
                    assert!(!state.exists(&self.target) && !state.has_mappings(), "still published: {}", context());
                }
                (Answer::Ok, Call::Unstage) => assert!(staged.is_empty(), "still staged: {}", context()),
                (Answer::Ok, Call::Modify) => {}
                (Answer::Ok, Call::Expand) => {
                    assert!(
                        state.volume_size(&self.id.volume, SIZE) >= self.expanded.get(),
                        "too small: {}",
                        context()
                    );
                    assert!(!state.is_stale(&self.id.volume), "not refreshed: {}", context());
                    assert!(state.reserved.is_empty(), "still reserved: {}", context());
                }
                (Answer::Ok, Call::Grow) => {
                    let disk = disk.expect("a device");
                    assert!(!state.is_stale(&self.id.volume), "not refreshed: {}", context());
                    if is_mount {
                        assert_eq!(disk.bytes.filesystem, disk.size, "not grown: {}", context());
                    } else {
                        assert_eq!(disk.bytes.zeroed, disk.size, "not zeroed: {}", context());
                    }
                }
                (Answer::Ok, Call::Delete) => {
                    let gone = disk.is_none() && self.pool.names().is_empty() && state.reserved.is_empty();
                    // Only an unpublish finds a mapping without a table.
                    assert!(gone && state.mounts.is_empty() && !state.is_mapped(), "not gone: {}", context());
                }
            }
        }
        match (answer, call) {
            (Answer::Ok, Call::Publish) if is_mount && !self.usage.read_only => {
                self.machine.write_files(&self.id.volume);
                self.wrote.set(true);
            }
            (Answer::Ok | Answer::Killed, Call::Delete) if self.pool.names().is_empty() => self.wrote.set(false),
            _ => {}
        }
    }

    fn check_created(&self, disk: &Disk, context: impl Fn() -> String) {
        assert_eq!(self.pool.names(), [VOLUME], "{}", context());
        if disk.ready && self.usage.access == AccessType::Mount {
            // It was used, so it is not prepared again, whatever it contains.
            return;
        }
        // The filesystem of an interrupted stage is not wiped.
        let stage_began = disk.is_complete() || disk.is_unfinished() || disk.is_damaged();
        let wiped = disk.bytes.content == Content::Blank && disk.bytes == disk.durable;
        assert!(stage_began || wiped, "not wiped: {}", context());
        if self.usage.both || self.usage.access == AccessType::Block {
            assert_eq!(disk.bytes.zeroed, disk.size, "not zeroed: {}", context());
        }
    }

    /// Checks that the machine is as before the volume existed, except for the directory at the staging path,
    /// which kubelet removes.
    pub(super) fn is_clean(&self) {
        let state = self.machine.state();
        assert!(state.disks.is_empty() && state.reserved.is_empty(), "{:?}", state.effects);
        assert!(state.mounts.is_empty() && !state.has_mappings(), "{:?}", state.effects);
        assert!(!state.exists(&self.target), "{:?}", state.effects);
        assert_eq!((self.pool.names(), self.pool.free()), (Vec::new(), vec![EXTENTS]));
    }
}

impl State {
    /// Whether anything is at a path: a mount, a directory or a file.
    pub(super) fn exists(&self, path: &Path) -> bool {
        self.paths.contains_key(path) || !self.at(path).is_empty()
    }
}

impl Disk {
    /// Whether it contains a filesystem with a user's files.
    fn holds_files(&self) -> bool {
        matches!(self.bytes.content, Content::Filesystem { data: true, .. })
    }

    /// Whether it contains a filesystem of Quarry that lost a part in a power cut.
    fn is_damaged(&self) -> bool {
        matches!(self.bytes.content, Content::Damaged { .. })
    }

    /// Whether it contains a complete filesystem of Quarry.
    fn is_complete(&self) -> bool {
        matches!(self.bytes.content, Content::Filesystem { in_progress: false, .. })
    }

    /// Whether it contains the filesystem of an interrupted mkfs of Quarry.
    fn is_unfinished(&self) -> bool {
        matches!(self.bytes.content, Content::Filesystem { in_progress: true, .. })
    }
}
