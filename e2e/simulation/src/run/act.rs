//! Executes one planned event.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{LATENCY, Script, storage};
use crate::faults::Action;
use crate::world::{ECHO, Life, NODES, REPLICAS, Where, World, replica_name, seat_name};

/// How often a lossy link breaks, and how often a broken one is repaired, for each message.
const LOSS: (f64, f64) = (0.03, 0.3);

impl Script<'_> {
    pub(super) fn act(&mut self, action: Action) {
        self.shared.lock().note(format_args!("-- {action:?}"));
        match action {
            Action::Slow { replica, seat, latency } => {
                self.sim.set_link_max_message_latency(replica_name(replica), seat_name(seat), latency * 3);
            }
            Action::Lossy { replica, seat } => {
                self.sim.set_link_fail_rate(replica_name(replica), seat_name(seat), LOSS.0);
            }
            Action::Hold { replica, seat } => self.sim.hold(replica_name(replica), seat_name(seat)),
            Action::Cut { replica, seat } => self.sim.partition(replica_name(replica), seat_name(seat)),
            Action::CutTo { replica, seat } => self.sim.partition_oneway(replica_name(replica), seat_name(seat)),
            Action::CutFrom { replica, seat } => self.sim.partition_oneway(seat_name(seat), replica_name(replica)),
            Action::Repair { replica, seat } => self.repair_link(replica, seat),
            Action::CrashSeat { seat, silent } => self.crash_seat(seat, silent),
            Action::StartSeat { seat } => self.start_seat(seat),
            Action::CrashReplica { replica, silent } => self.crash_replica(replica, silent),
            Action::StartReplica { replica } => self.start_replica(replica),
            Action::Replace { seat } => self.replace(seat),
            Action::Swap { one, other } => self.swap(one, other),
            Action::Learn { replica } => {
                let world = self.shared.lock();
                let roster = world.roster();
                world.rosters[replica].send_if_modified(|known| {
                    let other = known.as_ref() != Some(&roster);
                    *known = Some(roster);
                    other
                });
            }
            Action::HandOver { late } => self.hand_over(late),
            Action::Disbelieve { replica, term } => {
                let belief = &mut self.shared.lock().lease.beliefs[replica];
                if *belief == Some(term) {
                    *belief = None;
                }
            }
            Action::Retake { replica } => {
                let lease = &mut self.shared.lock().lease;
                if self.replicas[replica] && lease.holder == replica && lease.beliefs[replica].is_none() {
                    lease.term += 1;
                    lease.beliefs[replica] = Some(lease.term);
                }
            }
            Action::Sidecars { to } => {
                let mut world = self.shared.lock();
                let holder = world.lease.holder;
                let to = to.unwrap_or(holder);
                world.claims.iter_mut().for_each(|claim| claim.owner = to);
            }
            Action::SlowDisk { node, operation, delay } => {
                self.shared.lock().nodes[node].storage.pool.set_delay(operation, delay);
            }
            Action::FailDisk { node, operation, failure } => {
                self.shared.lock().nodes[node].storage.pool.fail_next(operation, failure);
            }
            Action::Depart { seat, for_good } => self.depart(seat, for_good),
            Action::Return { seat } => {
                let now = self.now();
                let mut world = self.shared.lock();
                let node = world.seats[seat].node;
                let node = &mut world.nodes[node];
                if let Some(since) = node.down.take() {
                    node.long_away |= now - since > Duration::from_secs(300);
                }
                drop(world);
                self.start_seat(seat);
            }
        }
    }

    fn repair_link(&mut self, replica: usize, seat: usize) {
        let (replica, seat) = (replica_name(replica), seat_name(seat));
        self.sim.set_link_fail_rate(replica.as_str(), seat.as_str(), 0.0);
        self.sim.set_link_max_message_latency(replica.as_str(), seat.as_str(), LATENCY);
        self.sim.release(replica.as_str(), seat.as_str());
    }

    /// In half of the crashes no peer notices: the machine is cut off first.
    fn crash_seat(&mut self, seat: usize, silent: bool) {
        if !std::mem::replace(&mut self.seats[seat], false) {
            return;
        }
        if silent {
            (0..REPLICAS).for_each(|replica| self.sim.partition(replica_name(replica), seat_name(seat)));
        }
        self.sim.crash(seat_name(seat));
        if silent {
            (0..REPLICAS).for_each(|replica| self.sim.repair(replica_name(replica), seat_name(seat)));
        }
    }

    fn start_seat(&mut self, seat: usize) {
        let node = self.shared.lock().seats[seat].node;
        let down = {
            let world = self.shared.lock();
            world.nodes[node].gone || world.nodes[node].down.is_some()
        };
        if !down && !std::mem::replace(&mut self.seats[seat], true) {
            self.sim.bounce(seat_name(seat));
        }
    }

    fn crash_replica(&mut self, replica: usize, silent: bool) {
        if !std::mem::replace(&mut self.replicas[replica], false) {
            return;
        }
        if silent {
            (0..NODES).for_each(|seat| self.sim.partition(replica_name(replica), seat_name(seat)));
        }
        self.sim.crash(replica_name(replica));
        if silent {
            (0..NODES).for_each(|seat| self.sim.repair(replica_name(replica), seat_name(seat)));
        }
        // The sidecars of the other one take over, sooner or later.
        self.soon(3000, Action::Sidecars { to: Some((replica + 1) % REPLICAS) });
        self.shared.lock().lease.beliefs[replica] = None;
    }

    fn start_replica(&mut self, replica: usize) {
        if !std::mem::replace(&mut self.replicas[replica], true) {
            self.sim.bounce(replica_name(replica));
            self.soon(3000, Action::Retake { replica });
        }
    }

    fn hand_over(&mut self, late: Duration) {
        let mut world = self.shared.lock();
        let lease = &mut world.lease;
        let (from, to) = (lease.holder, (lease.holder + 1) % REPLICAS);
        if !self.replicas[to] {
            return;
        }
        let lost = lease.beliefs[from];
        lease.term += 1;
        lease.holder = to;
        lease.beliefs[to] = Some(lease.term);
        drop(world);
        if let Some(term) = lost {
            self.plan(self.now() + late, Action::Disbelieve { replica: from, term });
        }
    }

    /// Another machine with the same name: its disks hold foreign volumes with the same names.
    fn replace(&mut self, seat: usize) {
        if !self.seats[seat] {
            return;
        }
        self.crash_seat(seat, true);
        let now = self.now();
        let mut world = self.shared.lock();
        let index = world.seats[seat].node;
        let node = &world.nodes[index];
        let uuid = format!("disks-{index}-{}", node.retired.len() + 1);
        let decoys: BTreeSet<String> = world.bound_for_sure(now, index);
        let storage = storage(&mut self.rng, &uuid, false, decoys);
        let node = &mut world.nodes[index];
        let old = std::mem::replace(&mut node.storage, storage);
        node.retired.push(old);
        drop(world);
        self.new_pod(seat);
        self.soon(5000, Action::StartSeat { seat });
    }

    fn swap(&mut self, one: usize, other: usize) {
        if !self.seats[one] || !self.seats[other] {
            return;
        }
        self.crash_seat(one, true);
        self.crash_seat(other, false);
        {
            let mut world = self.shared.lock();
            world.seats.swap(one, other);
        }
        for seat in [one, other] {
            self.new_pod(seat);
            self.soon(4000, Action::StartSeat { seat });
        }
    }

    /// The agent of this address runs in another pod from now on; controllers learn that later.
    fn new_pod(&mut self, seat: usize) {
        let number = self.rng.u32(..);
        self.shared.lock().seats[seat].pod = format!("pod-{number}");
        for replica in 0..REPLICAS {
            self.soon(5000, Action::Learn { replica });
        }
    }

    fn depart(&mut self, seat: usize, for_good: bool) {
        self.seats[seat] = true;
        self.crash_seat(seat, true);
        let now = self.now();
        let mut world = self.shared.lock();
        let node = world.seats[seat].node;
        world.nodes[node].down = Some(now);
        world.nodes[node].gone = for_good;
        drop(world);
        if for_good {
            (0..REPLICAS).for_each(|replica| self.soon(60_000, Action::Learn { replica }));
        }
    }
}

impl World {
    /// The names of volumes on this node that no claim requests any longer.
    fn bound_for_sure(&self, now: Duration, node: usize) -> BTreeSet<String> {
        let node = &self.nodes[node];
        let here = |life: &Life| matches!(life, Life::Bound(id) if node.storage.holds(id, &node.name));
        let quiet = |claim: &&crate::world::Claim| {
            here(&claim.life) && claim.in_flight == 0 && claim.uncertain.is_none_or(|at| now > at + ECHO)
        };
        let decided = |claim: &&crate::world::Claim| !matches!(claim.place, Where::Any) || claim.in_flight == 0;
        self.claims.iter().filter(quiet).filter(decided).map(|claim| claim.name.clone()).collect()
    }
}
