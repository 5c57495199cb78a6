//! The true state of one run: the nodes and their storages, the users' claims, and the elected controller.
//!
//! It stands in for the parts that Quarry depends on but the simulation does not run: the Kubernetes API with
//! its claims and lease, the machines, and the wall clock.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use quarry_controller::{Endpoint, Roster};
use quarry_pool::SimulatedPool;
use tokio::sync::watch;

use crate::copies::Story;

/// How many nodes there are.
pub(crate) const NODES: usize = 3;
/// The number of controllers that serve.
pub(crate) const REPLICAS: usize = 2;
/// Where agents listen.
pub(crate) const PORT: u16 = 9810;
/// The key of the topology.
pub(crate) const KEY: &str = "topology.simulated/node";
/// One extent.
pub(crate) const MIB: u64 = 1 << 20;
/// How long an abandoned attempt may still be on its way to a node: connections time out before.
pub(crate) const ECHO: Duration = Duration::from_secs(30);

/// The run as all its parts share it.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Mutex<World>>);

impl Shared {
    pub(crate) fn new(world: World) -> Self {
        Self(Arc::new(Mutex::new(world)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock()
    }
}

/// See the module.
pub(crate) struct World {
    pub(crate) now: Duration,
    pub(crate) nodes: Vec<Node>,
    /// Which node each address serves.
    pub(crate) seats: Vec<Seat>,
    pub(crate) rosters: Vec<watch::Sender<Option<Arc<Roster>>>>,
    pub(crate) lease: Lease,
    pub(crate) claims: Vec<Claim>,
    /// What is done with the volumes of some of them.
    pub(crate) stories: Vec<Story>,
    /// Whether nothing is requested any longer.
    pub(crate) closed: bool,
    /// What each controller says there is, once it is asked to.
    pub(crate) auditing: bool,
    pub(crate) audits: Vec<Option<Audit>>,
    pub(crate) violations: Vec<String>,
    pub(crate) trace: Trace,
}

/// One node.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) storage: Storage,
    /// What it had before it was replaced.
    pub(crate) retired: Vec<Storage>,
    /// Since when its machine is down.
    pub(crate) down: Option<Duration>,
    /// Whether it was down for more than five minutes.
    pub(crate) long_away: bool,
    /// Whether the node is permanently lost.
    pub(crate) gone: bool,
}

/// The disks of one node.
pub(crate) struct Storage {
    pub(crate) uuid: String,
    pub(crate) pool: SimulatedPool,
    /// Extents of all disks.
    pub(crate) size: u64,
    /// Earlier volumes, with names that others have as well: no claim requests their deletion.
    pub(crate) decoys: BTreeSet<String>,
}

/// An address at which an agent serves.
#[derive(Clone, Debug)]
pub(crate) struct Seat {
    pub(crate) node: usize,
    pub(crate) pod: String,
}

/// The state of the election.
pub(crate) struct Lease {
    pub(crate) term: u64,
    pub(crate) holder: usize,
    /// What each replica believes: its term, if it believes that it holds the lease.
    pub(crate) beliefs: Vec<Option<u64>>,
}

/// What nodes a claim admits.
#[derive(Clone, Debug)]
pub(crate) enum Where {
    One(usize),
    Some(Vec<usize>),
    Any,
}

/// How far a claim is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Wanted,
    Bound(String),
    Deleted(String),
}

/// A user's wish for a volume, from its birth to its end.
pub(crate) struct Claim {
    pub(crate) name: String,
    pub(crate) mib: u64,
    pub(crate) block: bool,
    pub(crate) place: Where,
    pub(crate) born: Duration,
    /// When to delete it.
    pub(crate) dies: Option<Duration>,
    /// Which replica's sidecar handles it.
    pub(crate) owner: usize,
    pub(crate) life: Life,
    /// Calls under way.
    pub(crate) in_flight: usize,
    /// When the last attempt with an unknown outcome ended.
    pub(crate) uncertain: Option<Duration>,
    /// The last error, with its code.
    pub(crate) refused: Option<tonic::Status>,
}

/// What a controller says there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Audit {
    /// All identifiers and sizes.
    pub(crate) volumes: Vec<(String, i64)>,
    /// The identifiers of all snapshots.
    pub(crate) snapshots: Vec<String>,
    /// Free bytes by node.
    pub(crate) capacities: Vec<i64>,
}

/// Everything that happened, in order, and a digest of it.
#[derive(Default)]
pub(crate) struct Trace {
    pub(crate) lines: Vec<String>,
    pub(crate) shown: bool,
}

impl Trace {
    /// Distinguishes two runs.
    pub(crate) fn digest(&self) -> u64 {
        let bytes = self.lines.iter().flat_map(|line| line.bytes());
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    }
}

impl World {
    /// Notes what happened.
    pub(crate) fn note(&mut self, what: impl std::fmt::Display) {
        let mut line = String::new();
        // Writing to a String cannot fail.
        let _ = write!(line, "{:9.3} {what}", self.now.as_secs_f64());
        if self.trace.shown {
            println!("{line}");
        }
        self.trace.lines.push(line);
    }

    /// Notes what must never happen.
    pub(crate) fn violated(&mut self, what: String) {
        self.note(format_args!("VIOLATION: {what}"));
        self.violations.push(what);
    }

    /// The roster as it is now.
    pub(crate) fn roster(&self) -> Arc<Roster> {
        let entry = |(index, seat): (usize, &Seat)| {
            let endpoint = Endpoint { address: seat_name(index), pod_uid: seat.pod.clone() };
            (self.nodes[seat.node].name.clone(), endpoint)
        };
        let there = |(_, seat): &(usize, &Seat)| !self.nodes[seat.node].gone;
        Arc::new(self.seats.iter().enumerate().filter(there).map(entry).collect())
    }

    /// Whether the storage of an identifier will not be seen again.
    pub(crate) fn lost(&self, id: &str) -> bool {
        !self.nodes.iter().any(|node| !node.gone && node.storage.holds(id, &node.name))
    }
}

impl Storage {
    /// Whether an identifier is of this storage.
    pub(crate) fn holds(&self, id: &str, node: &str) -> bool {
        let id: Option<quarry_volume::VolumeId> = id.parse().ok();
        id.is_some_and(|id| id.node == node && id.storage == quarry_volume::StorageId::of(&self.uuid))
    }
}

/// The name of an address.
pub(crate) fn seat_name(index: usize) -> String {
    format!("seat-{index}")
}

/// The name of a controller.
pub(crate) fn replica_name(index: usize) -> String {
    format!("controller-{index}")
}
