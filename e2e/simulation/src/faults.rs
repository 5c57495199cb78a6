//! The faults of a run and their times, derived from the seed before the run starts.

use std::time::Duration;

use fastrand::Rng;
use quarry_pool::{Failure, Operation};

use crate::world::{NODES, REPLICAS};

/// Something that happens to the hosts, the links between them, or the world around.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// Messages between a controller and an address take this long.
    Slow { replica: usize, seat: usize, latency: Duration },
    /// Now and then the link breaks and recovers a few messages later; the messages between are lost.
    Lossy { replica: usize, seat: usize },
    /// Messages wait, both ways.
    Hold { replica: usize, seat: usize },
    /// Messages are lost, both ways.
    Cut { replica: usize, seat: usize },
    /// Messages from the controller are lost.
    CutTo { replica: usize, seat: usize },
    /// Messages to the controller are lost.
    CutFrom { replica: usize, seat: usize },
    /// The link works; waiting messages are delivered.
    Repair { replica: usize, seat: usize },
    /// An agent dies, without a word where `silent`: its connections stay half open.
    CrashSeat { seat: usize, silent: bool },
    /// It is started again.
    StartSeat { seat: usize },
    /// A controller and its sidecars die.
    CrashReplica { replica: usize, silent: bool },
    /// They are started again.
    StartReplica { replica: usize },
    /// The node that an address serves is replaced by another machine of the same name.
    Replace { seat: usize },
    /// Two agents get new pods, each with the address that the other one had.
    Swap { one: usize, other: usize },
    /// A controller learns which agents there are.
    Learn { replica: usize },
    /// The other replica gets the lease; the previous holder learns that late.
    HandOver { late: Duration },
    /// A replica learns that it has lost the lease of that term.
    Disbelieve { replica: usize, term: u64 },
    /// A controller that held the lease before it was started again takes it for another term.
    Retake { replica: usize },
    /// From now on the other replica's sidecars handle the claims.
    Sidecars { to: Option<usize> },
    /// Operations on a node's storage take this long.
    SlowDisk { node: usize, operation: Operation, delay: Duration },
    /// The next operation of that kind fails.
    FailDisk { node: usize, operation: Operation, failure: Failure },
    /// A machine goes down.
    Depart { seat: usize, for_good: bool },
    /// It is back after more than five minutes.
    Return { seat: usize },
}

/// All that is planned, in no order.
pub(crate) struct Plan {
    pub(crate) actions: Vec<(Duration, Action)>,
    /// When a decision is about to change hands: claims that are born then are decided by two.
    pub(crate) crossings: Vec<Duration>,
    /// How long things go wrong.
    pub(crate) trouble: Duration,
}

/// So many seconds, in whole milliseconds.
fn seconds(rng: &mut Rng, from: f64, to: f64) -> Duration {
    let exact = Duration::from_secs_f64(from + (to - from) * rng.f64());
    Duration::from_millis(u64::try_from(exact.as_millis()).unwrap_or_default())
}

/// Plans a run. `long`: one machine is down for more than five minutes.
pub(crate) fn plan(rng: &mut Rng, long: bool) -> Plan {
    let trouble = seconds(rng, 30.0, 70.0);
    let mut plan = Plan { actions: Vec::new(), crossings: Vec::new(), trouble };
    for replica in 0..REPLICAS {
        for seat in 0..NODES {
            plan.link(rng, replica, seat);
        }
        plan.replica(rng, replica);
    }
    for seat in 0..NODES {
        plan.seat(rng, seat);
    }
    for node in 0..NODES {
        plan.disk(rng, node);
    }
    plan.lease(rng);
    if long {
        let (seat, at) = (rng.usize(..NODES), seconds(rng, 5.0, 30.0));
        let for_good = rng.bool();
        plan.actions.push((at, Action::Depart { seat, for_good }));
        plan.trouble += Duration::from_secs(330);
        if !for_good {
            plan.actions.push((at + seconds(rng, 305.0, 330.0), Action::Return { seat }));
        }
    }
    plan
}

impl Plan {
    /// Faults of one link, one after the other.
    fn link(&mut self, rng: &mut Rng, replica: usize, seat: usize) {
        let mut at = seconds(rng, 0.0, 20.0);
        while at < self.trouble {
            let latency = seconds(rng, 0.1, 2.0);
            let (action, lasts) = match rng.u8(..10) {
                0..3 => (Action::Slow { replica, seat, latency }, seconds(rng, 2.0, 15.0)),
                3 => (Action::Lossy { replica, seat }, seconds(rng, 2.0, 10.0)),
                4..7 => (Action::Hold { replica, seat }, seconds(rng, 0.3, 13.0)),
                7 => (Action::CutTo { replica, seat }, seconds(rng, 0.5, 25.0)),
                8 => (Action::CutFrom { replica, seat }, seconds(rng, 0.5, 25.0)),
                _ => (Action::Cut { replica, seat }, seconds(rng, 0.5, 25.0)),
            };
            self.actions.push((at, action));
            self.actions.push((at + lasts, Action::Repair { replica, seat }));
            at += lasts + seconds(rng, 3.0, 30.0);
        }
    }

    fn seat(&mut self, rng: &mut Rng, seat: usize) {
        let mut at = seconds(rng, 3.0, 50.0);
        while at < self.trouble {
            let silent = rng.bool();
            match rng.u8(..10) {
                0 => self.actions.push((at, Action::Replace { seat })),
                1 | 2 => {
                    let other = (seat + rng.usize(1..NODES)) % NODES;
                    self.actions.push((at, Action::Swap { one: seat, other }));
                }
                _ => {
                    self.actions.push((at, Action::CrashSeat { seat, silent }));
                    at += seconds(rng, 0.1, 12.0);
                    self.actions.push((at, Action::StartSeat { seat }));
                }
            }
            at += seconds(rng, 10.0, 50.0);
        }
    }

    fn replica(&mut self, rng: &mut Rng, replica: usize) {
        let mut at = seconds(rng, 5.0, 80.0);
        while at < self.trouble {
            self.actions.push((at, Action::CrashReplica { replica, silent: rng.bool() }));
            at += seconds(rng, 0.1, 10.0);
            self.actions.push((at, Action::StartReplica { replica }));
            at += seconds(rng, 15.0, 60.0);
        }
    }

    fn disk(&mut self, rng: &mut Rng, node: usize) {
        let mut at = seconds(rng, 0.0, 15.0);
        while at < self.trouble {
            let operation = match rng.u8(..12) {
                0..5 => Operation::Create,
                5 => Operation::Remove,
                6 => Operation::Write,
                7 => Operation::Read,
                8 => Operation::TakeSnapshot,
                9 => Operation::CreateCopy,
                10 => Operation::RemoveSnapshot,
                _ => Operation::Expand,
            };
            if rng.u8(..4) == 0 && operation != Operation::Read {
                let failure = if rng.bool() { Failure::Before } else { Failure::After };
                self.actions.push((at, Action::FailDisk { node, operation, failure }));
            } else {
                let delay = seconds(rng, 0.5, if operation == Operation::Read { 2.0 } else { 8.0 });
                self.actions.push((at, Action::SlowDisk { node, operation, delay }));
                at += seconds(rng, 3.0, 12.0);
                self.actions.push((at, Action::SlowDisk { node, operation, delay: Duration::ZERO }));
            }
            at += seconds(rng, 2.0, 20.0);
        }
    }

    /// The lease moves, often while the links of its previous holder are slow.
    fn lease(&mut self, rng: &mut Rng) {
        let mut at = seconds(rng, 3.0, 10.0);
        // As long as no controller crashes, they hold it by turns.
        let mut holder = 0;
        while at < self.trouble {
            self.crossings.push(at);
            if rng.u8(..3) > 0 {
                let (replica, seat, latency) = (holder, rng.usize(..NODES), seconds(rng, 0.3, 2.0));
                self.actions.push((at - Duration::from_secs(1), Action::Slow { replica, seat, latency }));
                self.actions.push((at + seconds(rng, 2.0, 8.0), Action::Repair { replica, seat }));
            }
            holder = (holder + 1) % REPLICAS;
            let late = seconds(rng, 0.0, 6.0);
            self.actions.push((at, Action::HandOver { late }));
            if rng.u8(..3) > 0 {
                self.actions.push((at + seconds(rng, 0.0, 1.5), Action::Sidecars { to: None }));
            }
            at += seconds(rng, 4.0, 15.0);
        }
        let mut at = seconds(rng, 5.0, 20.0);
        while at < self.trouble {
            self.actions.push((at, Action::Sidecars { to: Some(rng.usize(..REPLICAS)) }));
            at += seconds(rng, 5.0, 20.0);
        }
    }
}
