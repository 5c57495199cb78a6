//! One run: the hosts, the events, and the wait until everything is stable.

mod act;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fastrand::Rng;
use quarry_controller::Timing;
use quarry_pool::SimulatedPool;
use quarry_volume::VolumeSpec;
use tokio::sync::watch;
use turmoil::{Builder, Sim};

use crate::copies::Story;
use crate::faults::{Action, Plan, plan};
use crate::hosts::{Common, agent, controller};
use crate::net::Closed;
use crate::world::{
    Claim, ECHO, Lease, Life, MIB, NODES, Node, REPLICAS, Seat, Shared, Storage, Trace, Where, World, replica_name,
    seat_name,
};
use crate::{certificates, check};

/// One step of the simulated time.
const TICK: Duration = Duration::from_millis(20);
/// The usual latency of a link, at most.
const LATENCY: Duration = Duration::from_millis(30);
/// How long everything may take to become stable after the last fault.
const STABLE_WITHIN: Duration = Duration::from_secs(200);

/// What came of a run.
pub(crate) struct Report {
    pub(crate) violations: Vec<String>,
    /// Volumes on nodes that were down for too long, which may keep them.
    pub(crate) orphans: usize,
    pub(crate) digest: u64,
    pub(crate) simulated: Duration,
    /// Claims by their result: with a volume, deleted, without space.
    pub(crate) ends: [usize; 3],
}

/// The run of that seed.
pub(crate) fn run(seed: u64, shown: bool) -> Report {
    let mut rng = Rng::with_seed(seed);
    // One in thirty has a machine that is down for very long: it takes long to simulate, too.
    let long = rng.u8(..30) == 0;
    let secure = rng.u8(..4) == 0;
    let plan = plan(&mut rng, long);
    let shared = Shared::new(world(&mut rng, &plan, shown));
    let mut builder = Builder::new();
    builder
        .rng_seed(rng.u64(..))
        .tick_duration(TICK)
        .tcp_capacity(1024)
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(LATENCY)
        .simulation_duration(Duration::MAX)
        .enable_random_order();
    let mut sim = builder.build();
    let timing = Timing { last_retry: Duration::from_secs(rng.u64(1..10)), ..Timing::default() };
    let certificates = secure.then(certificates::make);
    let common = Common { shared: shared.clone(), closed: Closed::default(), certificates, timing };
    for seat in 0..NODES {
        let common = common.clone();
        sim.host(seat_name(seat), move || agent(common.clone(), seat));
    }
    for replica in 0..REPLICAS {
        let common = common.clone();
        let roster = shared.lock().rosters[replica].subscribe();
        sim.host(replica_name(replica), move || controller(common.clone(), replica, roster.clone()));
    }
    let about = format!("seed {seed}: trouble for {:?}, TLS {secure}, a long outage {long}", plan.trouble);
    shared.lock().note(about);
    let mut script = Script {
        sim,
        shared: shared.clone(),
        rng,
        agenda: BTreeMap::new(),
        planned: 0,
        seats: [true; NODES],
        replicas: [true; REPLICAS],
    };
    for (at, action) in plan.actions {
        script.plan(at, action);
    }
    script.play(plan.trouble);
    script.heal();
    script.wait_until_stable();
    let orphans = check::storages(&shared);
    script.audit();
    let world = shared.lock();
    let ends = [
        world.claims.iter().filter(|claim| matches!(claim.life, Life::Bound(_))).count(),
        world.claims.iter().filter(|claim| matches!(claim.life, Life::Deleted(_))).count(),
        world.claims.iter().filter(|claim| claim.life == Life::Wanted).count(),
    ];
    Report { violations: world.violations.clone(), orphans, digest: world.trace.digest(), simulated: world.now, ends }
}

/// The world before anything happens.
fn world(rng: &mut Rng, plan: &Plan, shown: bool) -> World {
    let tight = rng.bool();
    let nodes = (0..NODES).map(|index| Node {
        name: format!("n{index}"),
        storage: storage(rng, &format!("disks-{index}"), tight, BTreeSet::new()),
        retired: Vec::new(),
        down: None,
        long_away: false,
        gone: false,
    });
    let mut world = World {
        now: Duration::ZERO,
        nodes: nodes.collect(),
        seats: (0..NODES).map(|node| Seat { node, pod: format!("pod-{node}-0") }).collect(),
        rosters: Vec::new(),
        lease: Lease { term: 1, holder: 0, beliefs: (0..REPLICAS).map(|it| (it == 0).then_some(1)).collect() },
        claims: Vec::new(),
        stories: Vec::new(),
        closed: false,
        auditing: false,
        audits: vec![None; REPLICAS],
        violations: Vec::new(),
        trace: Trace { lines: Vec::new(), shown },
    };
    world.rosters = (0..REPLICAS).map(|_| watch::Sender::new(Some(world.roster()))).collect();
    world.claims = (0..rng.usize(20..40)).map(|number| claim(rng, plan, number)).collect();
    for number in 0..rng.usize(2..6) {
        // Only what is used raw has contents without being staged.
        let claim = &mut world.claims[number];
        (claim.block, claim.dies) = (true, None);
        world.stories.push(Story::new(number, rng.bool(), rng.bool(), rng.u64(1..100)));
    }
    // One volume of each storage has the same name; one of them will be deleted.
    for (index, node) in world.nodes.iter_mut().enumerate() {
        node.storage.pool.fill(&spec("shared", 16), 2);
        node.storage.decoys.extend(["shared-0".to_owned(), "shared-1".to_owned()]);
        if index == 0 {
            node.storage.decoys.remove("shared-0");
        }
    }
    let ours = check::volumes(&world.nodes[0]).into_iter().find(|(_, name, _)| name == "shared-0");
    if let Some((id, name, _)) = ours {
        world.claims.push(Claim { name, mib: 16, life: Life::Bound(id), ..claim(rng, plan, 1000) });
    }
    world
}

/// New disks, with foreign volumes on them.
fn storage(rng: &mut Rng, uuid: &str, tight: bool, decoys: BTreeSet<String>) -> Storage {
    let most = if tight { 600 } else { 3000 };
    let disks: Vec<u64> = (0..rng.usize(1..4)).map(|_| rng.u64(most / 2..most)).collect();
    let size = disks.iter().sum();
    let delay = Duration::from_millis(rng.u64(20..400));
    let pool = SimulatedPool::new("fast", MIB, disks, delay).with_uuid(uuid);
    check::put(&pool, decoys.iter().map(|name| spec(name, 4)));
    Storage { uuid: uuid.to_owned(), pool, size, decoys }
}

fn spec(name: &str, mib: u64) -> VolumeSpec {
    VolumeSpec::block(name, mib * MIB)
}

fn claim(rng: &mut Rng, plan: &Plan, number: usize) -> Claim {
    let trouble = u64::try_from(plan.trouble.as_millis()).unwrap_or_default();
    let mut nodes: Vec<usize> = (0..NODES).collect();
    rng.shuffle(&mut nodes);
    let place = match rng.u8(..4) {
        0 => Where::One(nodes[0]),
        1 => Where::Some(nodes[..2].to_vec()),
        2 => Where::Some(nodes),
        _ => Where::Any,
    };
    let born = match rng.choice(&plan.crossings) {
        Some(crossing) if rng.bool() => *crossing - Duration::from_millis(rng.u64(..2000)),
        _ => Duration::from_millis(rng.u64(..trouble)),
    };
    let dies = rng.bool().then(|| born + Duration::from_millis(rng.u64(1000..60_000)));
    Claim {
        name: format!("pvc-{number}"),
        mib: rng.u64(16..300),
        block: rng.u8(..3) == 0,
        place,
        born,
        dies,
        owner: rng.usize(..REPLICAS),
        life: Life::Wanted,
        in_flight: 0,
        uncertain: None,
        refused: None,
    }
}

/// Advances the simulated time and executes planned events.
struct Script<'a> {
    sim: Sim<'a>,
    shared: Shared,
    rng: Rng,
    agenda: BTreeMap<(Duration, usize), Action>,
    planned: usize,
    /// Which addresses and controllers are up.
    seats: [bool; NODES],
    replicas: [bool; REPLICAS],
}

impl Script<'_> {
    fn plan(&mut self, at: Duration, action: Action) {
        self.planned += 1;
        self.agenda.insert((at, self.planned), action);
    }

    fn soon(&mut self, most: u64, action: Action) {
        let at = self.now() + Duration::from_millis(self.rng.u64(..=most));
        self.plan(at, action);
    }

    fn now(&self) -> Duration {
        self.sim.elapsed()
    }

    fn step(&mut self) {
        while let Some(entry) = self.agenda.first_entry().filter(|entry| entry.key().0 <= self.sim.elapsed()) {
            let action = entry.remove();
            self.act(action);
        }
        self.shared.lock().now = self.sim.elapsed();
        if let Err(error) = self.sim.step() {
            self.shared.lock().violated(format!("a host ended: {error}"));
        }
    }

    fn play(&mut self, until: Duration) {
        while self.now() < until {
            self.step();
        }
    }

    /// Ends all that goes wrong.
    fn heal(&mut self) {
        self.shared.lock().note("no more faults from here on");
        let rest = std::mem::take(&mut self.agenda);
        for (_, action) in rest {
            if matches!(action, Action::Return { .. }) {
                self.act(action);
            }
        }
        for seat in 0..NODES {
            for replica in 0..REPLICAS {
                self.act(Action::Repair { replica, seat });
            }
            self.act(Action::StartSeat { seat });
        }
        for replica in 0..REPLICAS {
            self.act(Action::StartReplica { replica });
            self.soon(3000, Action::Learn { replica });
        }
        let mut world = self.shared.lock();
        for node in &world.nodes {
            check::calm(&node.storage.pool);
        }
        let (holder, term) = (world.lease.holder, world.lease.term);
        for (replica, belief) in world.lease.beliefs.iter_mut().enumerate() {
            *belief = (replica == holder).then_some(term);
        }
        let owner = self.rng.usize(..REPLICAS);
        for claim in &mut world.claims {
            claim.owner = owner;
            // Choices are the holder's.
            if !matches!(claim.place, Where::One(_)) {
                claim.owner = holder;
            }
        }
    }

    /// Waits until every claim is done and no call is running.
    fn wait_until_stable(&mut self) {
        let limit = self.now() + STABLE_WITHIN;
        while self.now() < limit {
            self.play(self.now() + Duration::from_secs(1));
            if self.shared.lock().unfinished().is_empty() {
                self.shared.lock().closed = true;
            }
            if self.shared.lock().quiet() {
                return self.play(self.now() + Duration::from_secs(5));
            }
        }
        let mut world = self.shared.lock();
        for left in world.unfinished() {
            world.violated(format!("never completed: {left}"));
        }
    }

    /// Waits until both controllers report the true state.
    fn audit(&mut self) {
        self.shared.lock().auditing = true;
        let limit = self.now() + Duration::from_secs(100);
        loop {
            self.play(self.now() + Duration::from_secs(1));
            let wrong = check::audits(&self.shared);
            if wrong.is_empty() {
                return;
            }
            if self.now() > limit {
                let mut world = self.shared.lock();
                return wrong.into_iter().for_each(|wrong| world.violated(wrong));
            }
        }
    }
}

impl World {
    /// Whether nothing is requested any longer and no call is running.
    fn quiet(&self) -> bool {
        self.closed
            && self.claims.iter().all(|claim| claim.in_flight == 0)
            && self.stories.iter().all(|story| !story.in_flight)
    }

    /// What has not come to its end.
    fn unfinished(&self) -> Vec<String> {
        let under_way = |claim: &&Claim| match &claim.life {
            Life::Wanted => {
                !claim.refused.as_ref().is_some_and(|status| status.code() == tonic::Code::ResourceExhausted)
                    || claim.uncertain.is_some_and(|at| self.now < at + ECHO)
            }
            _ if claim.in_flight > 0 => true,
            Life::Bound(id) => claim.dies.is_some_and(|at| at < self.now + ECHO) && !self.unreachable(id),
            Life::Deleted(_) => false,
        };
        let describe = |claim: &Claim| format!("{} is {:?}: {:?}", claim.name, claim.life, claim.refused);
        self.claims.iter().filter(under_way).map(describe).chain(self.untold()).collect()
    }

    /// Whether a volume can never be deleted: its storage was removed, and its node still exists.
    fn unreachable(&self, id: &str) -> bool {
        let retired = |node: &Node| node.retired.iter().any(|storage| storage.holds(id, &node.name));
        self.nodes.iter().any(|node| !node.gone && retired(node))
    }
}
